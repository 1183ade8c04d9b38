//! The members: `GET /cluster/nodes` as the node that is asked sees them, and how to change them and their leader.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use quorate_core::NodeId;
use quorate_io::{MemberError, NewMember, Platform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::config::{NAME_RULE, is_name};
use crate::kv::read_body;
use crate::problem::{Kind, Outcome, Problem};
use crate::query::Query;
use crate::router::{Api, json};

/// Ids are 16 hexadecimal digits.
#[derive(Serialize)]
struct Nodes {
    cluster_id: String,
    /// The node that answers.
    node_id: String,
    term: u64,
    leader: Option<String>,
    nodes: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    id: String,
    name: String,
    status: &'static str,
    voter: bool,
    peer_addrs: Vec<String>,
    api_addrs: Vec<String>,
    /// Only of a member whose disk is known to be full: it takes no writes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disk_full: bool,
}

pub(crate) async fn nodes<P: Platform>(State(api): State<Api<P>>) -> Response {
    let cluster = api.node.cluster();
    let nodes = cluster.nodes.into_iter().map(|node| Entry {
        id: node.id.to_string(),
        disk_full: cluster.disk_full.contains(&node.id),
        name: node.member.name,
        status: node.status.as_str(),
        voter: node.voter,
        peer_addrs: node.member.peer_addrs,
        api_addrs: node.member.api_addrs,
    });
    json(&Nodes {
        cluster_id: cluster.cluster_id.to_string(),
        node_id: cluster.node_id.to_string(),
        term: cluster.term,
        leader: cluster.leader.map(|id| id.to_string()),
        nodes: nodes.collect(),
    })
}

/// Body of `POST /cluster/nodes`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    peer_addrs: Vec<String>,
    #[serde(default)]
    learner: bool,
}

/// Body of `POST /cluster/leader`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    #[serde(default)]
    to: Option<String>,
}

/// The member that was changed.
#[derive(Serialize)]
struct Changed {
    id: String,
}

fn changed(done: Result<NodeId, MemberError>) -> Result<Response, Problem> {
    Ok(json(&Changed { id: done?.to_string() }))
}

pub(crate) async fn add<P: Platform>(State(api): State<Api<P>>, body: Body) -> Result<Response, Problem> {
    let example = r#"{"name": "n4", "peer_addrs": ["10.0.0.4:2380"]}, and "learner": true if it shall never vote"#;
    let add: Add = parse(body, api.limits.value_bytes_max, example).await?;
    if !is_name(&add.name) || add.peer_addrs.is_empty() {
        return Err(invalid(format!("{NAME_RULE}, and there is at least one address; the body is {example}")));
    }
    let address = |text: &String| {
        let address: Address = text.parse().map_err(|error| invalid(format!("{text:?}: {error}")))?;
        match address.is_wildcard() || address.port() == 0 {
            true => {
                Err(invalid(format!("{text:?}: nobody can dial this; write the host and the port of its --peer-url")))
            }
            false => Ok(address.to_string()),
        }
    };
    let peer_addrs = add.peer_addrs.iter().map(address).collect::<Result<_, _>>()?;
    changed(api.node.add_member(NewMember { name: add.name, peer_addrs, learner: add.learner }).await)
}

pub(crate) async fn remove<P: Platform>(
    State(api): State<Api<P>>,
    who: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let force = Query::parse(&uri, &["force"]).and_then(|query| match query.get("force") {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(Problem::new(Kind::InvalidQuery, "force is true or false (the default)")),
    });
    let force = force.map_err(|problem| problem.with_outcome(Outcome::NotApplied))?;
    changed(api.node.remove_member(&name(who)?, force).await)
}

pub(crate) async fn promote<P: Platform>(
    State(api): State<Api<P>>,
    who: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    changed(api.node.promote_member(&name(who)?).await)
}

pub(crate) async fn transfer<P: Platform>(State(api): State<Api<P>>, body: Body) -> Result<Response, Problem> {
    let example = r#"{"to": "n2"}, or {} for whoever is furthest"#;
    let Transfer { to } = parse(body, api.limits.value_bytes_max, example).await?;
    changed(api.node.transfer_leadership(to.as_deref()).await)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Kind::InvalidRequest, detail).with_outcome(Outcome::NotApplied)
}

fn name(who: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    who.map(|Path(name)| name).map_err(|error| invalid(error.body_text()))
}

async fn parse<T: DeserializeOwned>(body: Body, bytes_max: usize, example: &str) -> Result<T, Problem> {
    let body = read_body(body, bytes_max).await.map_err(|problem| problem.with_outcome(Outcome::NotApplied))?;
    serde_json::from_slice(&body).map_err(|error| invalid(format!("{error}; the body is {example}")))
}

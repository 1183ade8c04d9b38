//! `quorate member …` and `quorate leader …`: what an operator asks of a running cluster, through any of its nodes.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use crate::address::Address;
use crate::client::{self, ClientError};
use crate::percent;

/// Which node is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Api {
    /// Address of the REST API of any node
    #[arg(long, env = "QUORATE_API", value_name = "ADDR", default_value = "http://127.0.0.1:8080")]
    pub(crate) api: Address,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MemberTask {
    /// Print every member: id, name, status, and where its peers and its clients reach it
    List {
        #[command(flatten)]
        api: Api,
    },
    /// Add a node that was started with --initial-cluster-state existing, or with --join
    Add {
        /// The name it was started with
        name: String,
        /// Where its peers reach it
        #[arg(value_name = "PEER_ADDR", required = true, value_delimiter = ',')]
        peer_addrs: Vec<Address>,
        /// It shall receive the log and never vote
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        api: Api,
    },
    /// Remove a member; it then stops by itself
    Remove {
        /// Its name or its id
        who: String,
        /// Also if the voters that can be reached would then be no quorum
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        api: Api,
    },
    /// Make a learner that has caught up a voter
    Promote {
        /// Its name or its id
        who: String,
        #[command(flatten)]
        api: Api,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LeaderTask {
    /// Hand leadership to another voter
    Transfer {
        /// Its name or its id [default: whoever is furthest]
        to: Option<String>,
        #[command(flatten)]
        api: Api,
    },
}

/// A request to a running cluster, as the command line gave it.
#[derive(Clone, Debug)]
pub struct Request {
    api: Address,
    method: Method,
    target: String,
    body: Option<Vec<u8>>,
    /// What is printed before the id that the answer has; nothing means that the answer is the list of members.
    done: Option<String>,
}

/// Why a cluster did not do what it was asked: one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AdminError(String);

impl From<MemberTask> for Request {
    fn from(task: MemberTask) -> Self {
        let member = |who: &str| format!("/cluster/nodes/{}", segment(who));
        match task {
            MemberTask::List { api } => {
                Self { api: api.api, method: Method::GET, target: "/cluster/nodes".into(), body: None, done: None }
            }
            MemberTask::Add { name, peer_addrs, learner, api } => {
                let peer_addrs: Vec<_> = peer_addrs.iter().map(Address::to_string).collect();
                let body = json!({ "name": &name, "peer_addrs": peer_addrs, "learner": learner });
                let body = Some(body.to_string().into_bytes());
                let done = Some(format!("added {name}"));
                Self { api: api.api, method: Method::POST, target: "/cluster/nodes".into(), body, done }
            }
            MemberTask::Remove { who, force, api } => {
                let target = member(&who) + if force { "?force=true" } else { "" };
                let done = Some(format!("removed {who}"));
                Self { api: api.api, method: Method::DELETE, target, body: None, done }
            }
            MemberTask::Promote { who, api } => {
                let target = member(&who) + "/promote";
                let done = Some(format!("promoted {who}"));
                Self { api: api.api, method: Method::POST, target, body: None, done }
            }
        }
    }
}

impl From<LeaderTask> for Request {
    fn from(LeaderTask::Transfer { to, api }: LeaderTask) -> Self {
        let body = Some(json!({ "to": to }).to_string().into_bytes());
        let done = Some("the leader is now".to_owned());
        Self { api: api.api, method: Method::POST, target: "/cluster/leader".into(), body, done }
    }
}

/// A name as one segment of a path.
fn segment(who: &str) -> String {
    percent::encode(who.as_bytes()).replace('/', "%2F")
}

impl Request {
    /// Asks, and returns what to print.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn run(self) -> Result<String, AdminError> {
        let changes = self.method != Method::GET;
        let answer =
            client::send(&self.api, self.method, &self.target, self.body).await.map_err(|error| match error {
                ClientError::Lost(..) | ClientError::Timeout(..) if changes => {
                    AdminError(format!("{error}; {PERHAPS_DONE}"))
                }
                _ => AdminError(format!("{error}; set --api to the API of a node that runs")),
            })?;
        if !answer.is_success() {
            let perhaps = if answer.is_unknown() { format!("; {PERHAPS_DONE}") } else { String::new() };
            return Err(AdminError(format!("{} ({}){perhaps}", answer.complaint(), answer.status)));
        }
        let strange = |error: serde_json::Error| {
            AdminError(format!("{} gave an answer that this version does not understand: {error}", self.api))
        };
        match self.done {
            Some(done) => {
                let Changed { id } = serde_json::from_slice(&answer.body).map_err(strange)?;
                Ok(format!("{done} ({id})\n"))
            }
            None => Ok(table(&serde_json::from_slice(&answer.body).map_err(strange)?)),
        }
    }
}

#[derive(Deserialize)]
struct Changed {
    id: String,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    id: String,
    name: String,
    status: String,
    peer_addrs: Vec<String>,
    api_addrs: Vec<String>,
}

/// Of a change that was not answered.
const PERHAPS_DONE: &str = "it may have been done, or may yet be: quorate member list shows it";

/// One member a line, in columns.
fn table(nodes: &Nodes) -> String {
    let head = ["ID", "NAME", "STATUS", "PEERS", "API"].map(str::to_owned);
    let row = |member: &Member| {
        let address = |addresses: &[String]| if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") };
        let Member { id, name, status, peer_addrs, api_addrs } = member;
        [id.clone(), name.clone(), status.clone(), address(peer_addrs), address(api_addrs)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(nodes.nodes.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(segment("a/b c?"), "a%2Fb%20c%3F");
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let nodes = r#"{"nodes": [
            {"id": "1", "name": "a", "status": "leader", "peer_addrs": ["h:1", "h:2"], "api_addrs": []},
            {"id": "22", "name": "longer", "status": "follower", "peer_addrs": ["h:3"], "api_addrs": ["h:4"]}]}"#;
        let table = table(&serde_json::from_str(nodes).expect("JSON"));
        let lines = [
            "ID  NAME    STATUS    PEERS    API",
            "1   a       leader    h:1,h:2  -",
            "22  longer  follower  h:3      h:4",
        ];
        assert_eq!(table, lines.map(|line| format!("{line}\n")).concat());
    }
}

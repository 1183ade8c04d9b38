//! hraftd: `/key` with strings, `POST /join`, `GET /status`; a node asks another one to be admitted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use clap::Parser;
use quorate_core::MemberStatus;
use quorate_io::{InitialState, Platform, Storage};
use serde_json::{Value, json};

use super::keys::{self, Values};
use super::{Dialect, Front, add_voter};
use crate::address::Address;
use crate::client;
use crate::config::{CommonArgs, ConfigError, NAME_RULE, Place, ServerConfig, bad, dialable, is_name};
use crate::kv::read_body;
use crate::problem::{Kind, Problem};
use crate::router::{Api, json};

/// Between two requests to be admitted.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A node with the flags and the REST interface of hraftd.
#[derive(Debug, Parser)]
#[command(name = "quorate --dialect hraftd", version, max_term_width = 120)]
pub(super) struct Args {
    /// Directory for everything durable
    raft_data_path: PathBuf,

    /// Name of this node [default: --raddr]
    #[arg(long)]
    id: Option<String>,

    /// Where clients are listened for
    #[arg(long, value_name = "ADDR", default_value = "localhost:11000")]
    haddr: Address,

    /// Where peers listen for and dial this node
    #[arg(long, value_name = "ADDR", default_value = "localhost:12000")]
    raddr: Address,

    /// The --haddr of a node of the cluster to join
    #[arg(long, value_name = "ADDR")]
    join: Option<Address>,

    /// Keep everything in memory
    #[arg(long)]
    inmem: bool,

    #[command(flatten)]
    common: CommonArgs,
}

impl Args {
    pub(super) fn config(self) -> Result<ServerConfig, ConfigError> {
        dialable("--raddr", &self.raddr)?;
        let name = self.id.unwrap_or_else(|| self.raddr.to_string());
        if !is_name(&name) {
            return Err(bad("--id", &name, NAME_RULE));
        }
        let request = json!({ "addr": self.raddr.to_string(), "id": name }).to_string();
        let place = Place {
            name,
            storage: if self.inmem { Storage::Memory } else { Storage::Dir(self.raft_data_path) },
            peer_listen: self.raddr.clone(),
            peer_advertise: self.raddr,
            initial_cluster: Vec::new(),
            initial_state: if self.join.is_some() { InitialState::Existing } else { InitialState::New },
            join: Vec::new(),
            force_new_cluster: false,
            front: Some(Front {
                dialect: Dialect::Hraftd,
                listen: self.haddr,
                join: self.join.map(|address| (address, request)),
            }),
        };
        self.common.at(place)
    }
}

pub(super) fn router<P: Platform>(api: Api<P>) -> Router {
    let cluster = Router::new().route("/join", post(join::<P>)).route("/status", get(status::<P>));
    keys::routes(api.clone(), Values::Strings).merge(cluster.with_state(api))
}

async fn join<P: Platform>(State(api): State<Api<P>>, body: Body) -> Result<(), Problem> {
    let invalid = |detail: String| Problem::new(Kind::InvalidRequest, detail);
    let body = read_body(body, api.limits.value_bytes_max).await?;
    let mut fields: BTreeMap<String, String> = serde_json::from_slice(&body).unwrap_or_default();
    let (Some(address), Some(id), true) = (fields.remove("addr"), fields.remove("id"), fields.is_empty()) else {
        return Err(invalid(r#"the body is {"addr": "host:port of the node's -raddr", "id": "its -id"}"#.to_owned()));
    };
    let address: Address = address.parse().map_err(|error| invalid(format!("{address:?}: {error}")))?;
    Ok(add_voter(&api.node, id, &address).await?)
}

async fn status<P: Platform>(State(api): State<Api<P>>) -> Response {
    let cluster = api.node.cluster();
    let node = |node: Option<&MemberStatus>| -> Value {
        let address = node.and_then(|node| node.member.peer_addrs.first());
        json!({ "id": node.map_or("", |node| &node.member.name), "address": address.map_or("", String::as_str) })
    };
    let by_id = |id| cluster.nodes.iter().find(|node| Some(node.id) == id);
    let others = cluster.nodes.iter().filter(|node| Some(node.id) != cluster.leader);
    json(&json!({
        "me": node(by_id(Some(cluster.node_id))),
        "leader": node(by_id(cluster.leader)),
        "followers": others.map(|other| node(Some(other))).collect::<Vec<_>>(),
    }))
}

/// Asks the node at `to` for admission until it agrees. hraftd asks once; but who joins may be up before whom it asks.
pub(crate) async fn ask_to_join(to: Address, request: String) {
    let mut last = String::new();
    loop {
        let why = match client::send(&to, Method::POST, "/join", Some(request.clone().into_bytes())).await {
            Ok(answer) if answer.is_success() => return tracing::info!(%to, "joined the cluster"),
            Ok(answer) => format!("{} ({})", answer.complaint(), answer.status),
            Err(error) => error.to_string(),
        };
        if why != last {
            tracing::warn!(%to, %why, "not admitted to the cluster yet; asking again");
            last = why;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

//! `GET /cluster/nodes`: the members, as the node that is asked sees them.

use axum::extract::State;
use axum::response::Response;
use quorate_io::Platform;
use serde::Serialize;

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

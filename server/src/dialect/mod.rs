//! The REST dialects of other systems over the same node and the same store, for their clients and their habits.
//!
//! A dialect is a set of flags and a router. The router stands beside the REST API, at an address of its own; the API is
//! there too if `--api-addr` asks for it. What a dialect's own system answers is answered alike, to status and body; what
//! goes wrong in ways that system does not know is a [`Problem`]. Where we differ, and why, is in
//! `server/docs/dialects.md`.

mod hraftd;
mod keys;
mod raftexample;
mod raftstarter;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clap::ValueEnum;
use quorate_core::kv::{self, Command, Limits};
use quorate_io::{Consistency, MemberError, NewMember, Node, Platform};

use crate::address::Address;
use crate::cli;
use crate::config::{ConfigError, ServerConfig};
use crate::kv::{readable, unexpected};
use crate::problem::Problem;
use crate::router::Api;

/// Another system whose flags and REST interface are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// raft-starter: settings as variables, `/key` with any JSON
    Raftstarter,
    /// etcd's example: raw values under any path
    Raftexample,
    /// hashicorp/raft's example: `/key`, `/join`, `/status`
    Hraftd,
}

impl Dialect {
    /// Its name, as `--dialect` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raftstarter => "raftstarter",
            Self::Raftexample => "raftexample",
            Self::Hraftd => "hraftd",
        }
    }

    /// The dialect that a command line asks for, or the environment if it does not, if it is one that there is.
    pub(crate) fn named_in(args: &[OsString], environment: Option<String>) -> Option<Self> {
        let words = || args.iter().map(|arg| arg.to_string_lossy());
        let after = words().skip_while(|arg| arg != "--dialect").nth(1).map(|name| name.into_owned());
        let joined = || words().find_map(|arg| arg.strip_prefix("--dialect=").map(str::to_owned));
        let name = after.or_else(joined).or(environment)?;
        Self::from_str(&name, false).ok()
    }

    /// Parses the flags of a node that speaks this dialect.
    pub(crate) fn parse(self, args: Vec<OsString>) -> Result<ServerConfig, ConfigError> {
        match self {
            Self::Raftstarter => cli::parse::<raftstarter::Args>(args)?.config(),
            Self::Raftexample => cli::parse::<raftexample::Args>(args)?.config(),
            Self::Hraftd => cli::parse::<hraftd::Args>(args)?.config(),
        }
    }
}

/// What a user sets to change where a node listens and where its data is, as messages name it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where clients are listened for.
    pub(crate) clients: &'static str,
    /// Where peers are.
    pub(crate) peers: &'static str,
    /// Everything durable.
    pub(crate) data: &'static str,
}

impl Settings {
    /// In a dialect, or without one.
    pub(crate) const fn of(dialect: Option<Dialect>) -> Self {
        let (clients, peers, data) = match dialect {
            None => ("--api-addr and --client-url", "--peer-url", "--data-dir"),
            Some(Dialect::Raftstarter) => ("HTTP_ADDR and HTTP_PORT", "RAFT_ADDR and RAFT_PORT", "STATE_DIR"),
            Some(Dialect::Raftexample) => ("--port", "--cluster", "the working directory"),
            Some(Dialect::Hraftd) => ("--haddr", "--raddr", "the data path"),
        };
        Self { clients, peers, data }
    }
}

/// The dialect that a node speaks, and where.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) dialect: Dialect,
    pub(crate) listen: Address,
    /// A node to ask for admission, once this one runs: its address, and the body of the request.
    pub(crate) join: Option<(Address, String)>,
}

/// A dialect's routes over `node`, whose state machine is [`quorate_core::kv::Kv`].
pub fn app<P: Platform>(dialect: Dialect, node: Node<P>, limits: Limits) -> Router {
    let api = Api::new(node, limits);
    match dialect {
        Dialect::Raftstarter => raftstarter::router(api),
        Dialect::Raftexample => raftexample::router(api),
        Dialect::Hraftd => hraftd::router(api),
    }
}

pub(crate) use hraftd::ask_to_join;

/// The document at `key`, linearizably.
async fn read<P: Platform>(node: &Node<P>, key: &[u8]) -> Result<Option<Bytes>, Problem> {
    let view = node.read(Consistency::Linearizable).await?;
    let found = kv::get(&view, key);
    readable(&view)?;
    Ok(found.map(|found| found.value))
}

/// Carries a command out; returns when it is committed and applied.
async fn write<P: Platform>(node: &Node<P>, command: &Command) -> Result<(), Problem> {
    match crate::kv::write(node, command).await?.outcome {
        kv::Outcome::Put { .. } | kv::Outcome::Delete { .. } => Ok(()),
        other @ kv::Outcome::Invalid { .. } => Err(unexpected(other)),
    }
}

/// Adds a voter, unless it is a member at this address already: these systems' clients ask again at every start.
async fn add_voter<P: Platform>(node: &Node<P>, name: String, address: &Address) -> Result<(), MemberError> {
    let address = address.to_string();
    if node.cluster().nodes.iter().any(|n| n.member.name == name && n.member.peer_addrs.contains(&address)) {
        return Ok(());
    }
    node.add_member(NewMember { name, peer_addrs: vec![address], learner: false }).await.map(drop)
}

/// A success with a JSON body.
fn document(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

//! raft-starter: settings come from the environment, peers are known in advance, values are any JSON.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use axum::Router;
use clap::{Parser, ValueEnum};
use quorate_io::{InitialState, Platform, Storage};

use super::keys::{self, Values};
use super::{Dialect, Front};
use crate::address::Address;
use crate::config::{CommonArgs, ConfigError, NAME_RULE, Place, ServerConfig, bad, dialable, initial_members, is_name};
use crate::router::Api;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvStore {
    Boltdb,
    Memory,
}

/// A node with the settings and the REST interface of raft-starter. Without any variable it is a cluster of one.
#[derive(Debug, Parser)]
#[command(name = "quorate --dialect raftstarter", version, max_term_width = 120)]
pub(super) struct Args {
    /// Name of this node on the list of peers [default: the host's name]
    #[arg(long, env = "NODE_ID", value_name = "NAME")]
    node_id: Option<String>,

    /// Directory for everything durable [default: /tmp/<NODE_ID>]
    #[arg(long, env = "STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// `boltdb` keeps everything on disk, `memory` nothing
    #[arg(long, env = "KV_STORE", default_value = "boltdb")]
    kv_store: KvStore,

    /// Where clients are listened for
    #[arg(long, env = "HTTP_ADDR", value_name = "HOST", default_value = "0.0.0.0")]
    http_addr: String,

    #[arg(long, env = "HTTP_PORT", value_name = "PORT", default_value_t = 11000, help = "Its port")]
    http_port: u16,

    /// Where peers are listened for
    #[arg(long, env = "RAFT_ADDR", value_name = "HOST", default_value = "0.0.0.0")]
    raft_addr: String,

    #[arg(long, env = "RAFT_PORT", value_name = "PORT", default_value_t = 12000, help = "Its port")]
    raft_port: u16,

    /// What peers dial [default: this node's entry in PEERS, else the IPv4 address of the host's name]
    #[arg(long, env = "RAFT_ADVERTISE_ADDR", value_name = "HOST")]
    raft_advertise_addr: Option<String>,

    /// Its port [default: that of this node's entry in PEERS, else RAFT_PORT]
    #[arg(long, env = "RAFT_ADVERTISE_PORT", value_name = "PORT")]
    raft_advertise_port: Option<u16>,

    /// Every node of the cluster: node1@10.1.1.1:12000,node2@10.1.1.2:12000,… [default: this node alone]
    #[arg(long, env = "PEERS", value_name = "NAME@ADDR,…")]
    peers: Option<String>,

    #[command(flatten)]
    common: CommonArgs,
}

impl Args {
    pub(super) fn config(self) -> Result<ServerConfig, ConfigError> {
        let name = match self.node_id.clone() {
            Some(name) => name,
            None => host_name()?,
        };
        if !is_name(&name) {
            return Err(bad("NODE_ID", &name, NAME_RULE));
        }
        let peers = self.peers.as_deref().map_or(Ok(Vec::new()), |list| initial_members("PEERS", list, '@'))?;
        let peer_advertise = self.advertised(&name, &peers)?;
        let place = Place {
            storage: match self.kv_store {
                KvStore::Boltdb => {
                    Storage::Dir(self.state_dir.unwrap_or_else(|| PathBuf::from("/tmp").join(name.replace('/', "_"))))
                }
                KvStore::Memory => Storage::Memory,
            },
            name,
            peer_listen: address("RAFT_ADDR", &self.raft_addr, self.raft_port)?,
            peer_advertise,
            initial_cluster: peers,
            initial_state: InitialState::New,
            join: Vec::new(),
            force_new_cluster: false,
            front: Some(Front {
                dialect: Dialect::Raftstarter,
                listen: address("HTTP_ADDR", &self.http_addr, self.http_port)?,
                join: None,
            }),
        };
        self.common.at(place)
    }

    /// What peers dial. A host that has no address of its own yet may still be on the list, so the list is asked first.
    fn advertised(&self, name: &str, peers: &[(String, Address)]) -> Result<Address, ConfigError> {
        let listed = peers.iter().find(|(peer, _)| peer == name).map(|(_, address)| address);
        if listed.is_none() && !peers.is_empty() {
            let why = format!("this node, {name:?}, is not in the list; add it, or set NODE_ID");
            return Err(bad("PEERS", self.peers.as_deref().unwrap_or_default(), &why));
        }
        let told = match (&self.raft_advertise_addr, listed) {
            (None, Some(listed)) => listed.with_port(self.raft_advertise_port.unwrap_or(listed.port())),
            (host, _) => {
                let host = host.clone().map_or_else(own_ip, Ok)?;
                address("RAFT_ADVERTISE_ADDR", &host, self.raft_advertise_port.unwrap_or(self.raft_port))?
            }
        };
        dialable("RAFT_ADVERTISE_ADDR", &told)?;
        match listed {
            Some(listed) if *listed != told => {
                let why = format!("PEERS lists {name} at {listed}; write the same address in both");
                Err(bad("RAFT_ADVERTISE_ADDR and RAFT_ADVERTISE_PORT", &told, &why))
            }
            _ => Ok(told),
        }
    }
}

fn address(variable: &str, host: &str, port: u16) -> Result<Address, ConfigError> {
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    let text = if is_bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    text.parse().map_err(|error| bad(variable, host, &format!("{error}")))
}

fn host_name() -> Result<String, ConfigError> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    let name =
        name.map_err(|error| ConfigError::Usage(format!("the host's name is not known ({error}); set NODE_ID")))?;
    Ok(name.trim().to_owned())
}

fn own_ip() -> Result<String, ConfigError> {
    let name = host_name()?;
    let found = (name.as_str(), 0).to_socket_addrs().map(|addresses| addresses.into_iter().find(SocketAddr::is_ipv4));
    match found {
        Ok(Some(address)) => Ok(address.ip().to_string()),
        _ => {
            Err(ConfigError::Usage(format!("the host's name, {name:?}, has no IPv4 address; set RAFT_ADVERTISE_ADDR")))
        }
    }
}

pub(super) fn router<P: Platform>(api: Api<P>) -> Router {
    keys::routes(api, Values::Any)
}

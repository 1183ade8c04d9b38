//! What a node is started with.

use std::path::PathBuf;
use std::time::Duration;

use quorate_core::config::Timing;
use quorate_core::founding::FoundingList;

use crate::log_store::LogConfig;
use crate::raft_config::CompactionConfig;
use crate::state_machine::StoreConfig;
use crate::transport::TransportConfig;

/// Where a node keeps what it must not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this directory, which is created if need be and belongs to this node alone.
    Dir(PathBuf),
    /// In memory. The node gets a new identity at every start: it is not the member that it was before.
    Memory,
}

/// Whether a node without history may found a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// It may, together with the peers on its list.
    New,
    /// It may not: it has lost its disk, or was never added.
    Existing,
}

/// Settings of a node. Start from [`NodeConfig::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name on the founding list; for people, not an identity.
    pub name: String,
    /// Where its data is.
    pub storage: Storage,
    /// `host:port` to listen at for peers.
    pub peer_listen: String,
    /// `host:port` addresses where peers reach this node.
    pub peer_addrs: Vec<String>,
    /// `host:port` addresses where clients reach this node's REST API, if it has one.
    pub api_addrs: Vec<String>,
    /// Who founds the cluster. Only asked when there is none yet.
    pub founding: FoundingList,
    /// Whether this node may found it.
    pub initial_state: InitialState,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// How long a write or a linearizable read may take, forwarding and elections included.
    pub request_timeout: Duration,
    /// A longer command is refused.
    pub command_bytes_max: usize,
    /// More writes under way at this node at once are refused as overload.
    pub writes_in_flight_max: usize,
    /// While more bytes than this wait for the log's disk, writes are refused as overload.
    pub unflushed_bytes_max: usize,
    /// Disk space that is set aside in the data directory, so that a full disk stops writes and not the node, in bytes.
    pub reserve_bytes: u64,
    /// The log store.
    pub log: LogConfig,
    /// The state machine's store.
    pub store: StoreConfig,
    /// Snapshots and purging.
    pub compaction: CompactionConfig,
    /// Connections to peers.
    pub transport: TransportConfig,
}

impl NodeConfig {
    /// A single node that founds a cluster of its own, with the defaults of everything.
    pub fn new(name: &str, storage: Storage, peer_listen: &str) -> Self {
        let founding = FoundingList {
            token: "quorate".to_owned(),
            members: [(name.to_owned(), vec![peer_listen.to_owned()])].into(),
        };
        Self {
            name: name.to_owned(),
            storage,
            peer_listen: peer_listen.to_owned(),
            peer_addrs: vec![peer_listen.to_owned()],
            api_addrs: Vec::new(),
            founding,
            initial_state: InitialState::New,
            timing: Timing::default(),
            request_timeout: Duration::from_secs(5),
            command_bytes_max: 4 << 20,
            writes_in_flight_max: 8192,
            unflushed_bytes_max: 128 << 20,
            reserve_bytes: 64 << 20,
            log: LogConfig::default(),
            store: StoreConfig::default(),
            compaction: CompactionConfig::default(),
            transport: TransportConfig::default(),
        }
    }
}

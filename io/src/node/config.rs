//! What a node is started with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_core::config::Timing;
use quorate_core::founding::FoundingList;

use super::StartError;
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

impl Storage {
    /// The directory; `None` in memory.
    pub(crate) fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir(dir) => Some(dir),
            Self::Memory => None,
        }
    }
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
    /// How long the nodes of the list wait for the whole of it before a part founds the cluster, from when they have last
    /// heard of one more. Who comes later joins; but a cluster of two of three tolerates no failure until then. So this is
    /// longer than it takes to start all that are to be started together. In memory all have to be there.
    pub founding_grace: Duration,
    /// Whether this node may found it.
    pub initial_state: InitialState,
    /// `host:port` peer addresses of members of a cluster to join instead of founding one; any one that answers will do.
    /// A node that belongs to a cluster already only uses them as further places to look for its peers.
    pub join: Vec<String>,
    /// For the survivor of a majority that is lost for ever: makes it the only member of a new cluster, which has the data
    /// that this node has, and refuses members of the old one. Writes that others had acknowledged without this node are
    /// lost. The node belongs to a cluster already, durably; its founding list and `join` do not matter.
    ///
    /// It is done once: as long as every start asks for it, nothing more happens, even when others have joined since. A
    /// start that does not ask makes it work again.
    pub force_new_cluster: bool,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// How long a write or a linearizable read may take, forwarding and elections included.
    pub request_timeout: Duration,
    /// A longer command is refused.
    pub command_bytes_max: usize,
    /// More writes under way at this node at once are refused as overload.
    pub writes_in_flight_max: usize,
    /// While more bytes than this are under way or wait for the log's disk, writes are refused as overload. The reserve
    /// sets a limit too: see [`in_flight_bytes_max`](Self::in_flight_bytes_max).
    pub unflushed_bytes_max: usize,
    /// Disk space that is set aside in the data directory, so that a full disk stops writes and not the node, in bytes.
    /// What is under way when the disk turns out to be full must fit it: on a leader the writes that openraft has been
    /// given, on a follower a window of appends. So it is at least the sum of
    /// - a log segment, which is what finds the disk full;
    /// - the larger of `command_bytes_max` and a window: `transport.stream_bytes_max` and one request more, of
    ///   `transport.append_bytes_max` or one command;
    /// - an eighth of it, which stays for votes, blank entries and restarts, at 64 KiB for six votes or one restart.
    ///
    /// With the defaults: at least 16 + (4 + 4) MiB are 7/8 of 28 MiB; 64 MiB have room for writes of 40 MiB.
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
            founding_grace: Duration::from_secs(10),
            initial_state: InitialState::New,
            join: Vec::new(),
            force_new_cluster: false,
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

    /// Where the others on the founding list are, one by one.
    pub(super) fn listed_peers(&self) -> impl Iterator<Item = Vec<String>> {
        self.founding.members.iter().filter(|(name, _)| **name != self.name).map(|(_, addrs)| addrs.clone())
    }

    /// Where it was told to ask for a cluster, one by one.
    pub(super) fn told_peers(&self) -> impl Iterator<Item = Vec<String>> {
        self.join.iter().map(|addr| vec![addr.clone()])
    }

    /// How many bytes of commands may be under way: all of them find room in the reserve if the disk is full.
    pub fn in_flight_bytes_max(&self) -> usize {
        match self.storage {
            Storage::Memory => self.unflushed_bytes_max,
            Storage::Dir(_) => {
                let kept = self.log.options.segment_bytes.saturating_add(self.reserve_bytes / 8);
                let room = self.reserve_bytes.saturating_sub(kept);
                self.unflushed_bytes_max.min(usize::try_from(room).unwrap_or(usize::MAX))
            }
        }
    }

    /// Whether the reserve is large enough for what `reserve_bytes` names.
    pub(super) fn check_reserve(&self) -> Result<(), StartError> {
        let transport = &self.transport;
        let window = transport.stream_bytes_max.saturating_add(transport.append_bytes_max.max(self.command_bytes_max));
        let needed = self.command_bytes_max.max(window);
        if matches!(self.storage, Storage::Memory) || self.in_flight_bytes_max() >= needed {
            return Ok(());
        }
        Err(StartError::Config(format!(
            "reserve_bytes is {} and unflushed_bytes_max {}: that leaves {} bytes for commands that are under way when \
             the disk is full, and there can be {needed}; raise them, or lower the log's segment_bytes ({}), \
             command_bytes_max or the transport's limits",
            self.reserve_bytes,
            self.unflushed_bytes_max,
            self.in_flight_bytes_max(),
            self.log.options.segment_bytes,
        )))
    }
}

//! The words of Raft as Quorate's own types: nothing here is an openraft struct, so nothing that is written to a disk
//! or a socket changes when openraft does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// The identity of one member: random, made once per data directory, never derived from a name or an address and
/// never used again. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// The identity of a cluster: a hash of the record that founded it ([`crate::founding`]). Zero is "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// A node that belongs to no cluster yet.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Identifies one log entry: the term of the leader that proposed it and its position (Raft §5.3). One term has at
/// most one leader, so the pair is unique.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Position in the log, from 0.
    pub index: u64,
}

impl LogId {
    /// A log id from its two parts.
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What a node has promised in the newest term it has seen: its `currentTerm` and `votedFor` (Raft §5.2). `committed`
/// says that a quorum granted the vote, that is, `node` leads `term`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate that was voted for.
    pub node: NodeId,
    /// Whether that candidate is known to have won.
    pub committed: bool,
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.committed { "leader" } else { "candidate" };
        write!(f, "term {} {kind} {}", self.term, self.node)
    }
}

/// What the membership records about one member: a name for people, and where to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The name from `--name`. Not an identity: a wiped node comes back under its name with another [`NodeId`].
    pub name: String,
    /// `host:port` addresses that peers may dial, in order of preference.
    pub peer_addrs: Vec<String>,
    /// `host:port` addresses of the REST API, in order of preference.
    pub api_addrs: Vec<String>,
    /// Whether it shall stay a learner, however far it has caught up.
    pub stays_learner: bool,
    /// Whether it keeps everything in memory: when its process ends it is lost, and another member may replace it.
    pub in_memory: bool,
    /// The member whose place it takes once it has caught up. Means nothing when that is no voter any more.
    pub replaces: Option<NodeId>,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.peer_addrs.join(","))
    }
}

/// A configuration (Raft §6): one set of voters, or two while the configuration is joint, and every member's record.
/// Members in no set are learners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voter sets; a decision needs a majority of each.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// Everyone, learners included.
    pub members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// Whether `id` votes in any of the configurations.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.configs.iter().any(|c| c.contains(&id))
    }

    /// Whether there are two configurations in force, because a change is not finished.
    pub fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// Whether the members that `counts` says yes to are a quorum: a majority of every configuration.
    pub fn has_quorum(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        self.configs.iter().all(|config| config.iter().filter(|id| counts(**id)).count() > config.len() / 2)
    }
}

/// A membership with the id of the log entry that carried it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMembership {
    /// The entry; `None` only before there is any.
    pub log_id: Option<LogId>,
    /// The configuration.
    pub membership: Membership,
}

/// What a log entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the entry with which a new leader commits what earlier terms left (Raft §5.4.2).
    Blank,
    /// A command for the state machine, encoded once by whoever proposed it.
    Command(Bytes),
    /// A new configuration.
    Membership(Membership),
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub log_id: LogId,
    /// Its content.
    pub payload: Payload,
}

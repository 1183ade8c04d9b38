//! What can go wrong with a request, in terms of what its sender may conclude.

use bytes::Bytes;
use quorate_core::LogId;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was acknowledged before the read began (read index, Raft §6.4).
    Linearizable,
    /// It sees some earlier state of this node. Needs no quorum and no leader.
    Stale,
}

impl Consistency {
    /// The word that the REST API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
        }
    }
}

/// A write that is committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry that carried the command.
    pub log_id: LogId,
    /// What the state machine answered.
    pub response: Bytes,
}

/// A write that is not known to be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not and will never be applied: trying again cannot apply it twice.
    #[error("not applied: {0}")]
    NotApplied(Reason),
    /// It may have been applied, or may yet be: trying again can apply it twice.
    #[error("outcome unknown: {0}")]
    Unknown(Reason),
}

impl WriteError {
    /// Why.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::NotApplied(reason) | Self::Unknown(reason) => reason,
        }
    }
}

/// A read that failed. It changed nothing: trying again is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read failed: {0}")]
pub struct ReadError(pub Reason);

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No leader is known: an election is under way, or there is no quorum.
    #[error("no leader is known")]
    NoLeader,
    /// The leader was replaced while the request was under way.
    #[error("the leader changed")]
    LeaderChanged,
    /// The deadline passed.
    #[error("the deadline passed")]
    Timeout,
    /// A bounded queue is full, or the disk does not keep up.
    #[error("the node is overloaded")]
    Overloaded,
    /// There is no space on the leader's disk, or on the disks of so many voters that the others are no quorum. It is
    /// taken again when there is space; reads go on meanwhile.
    #[error("the disk is full: free some space, writes are then taken again")]
    DiskFull,
    /// The command is too large.
    #[error("{bytes} bytes are more than the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The node is stopping or has stopped.
    #[error("the node is stopping")]
    Stopping,
    /// The leader, or a quorum, cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// This node's storage failed; the node stops.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The request makes no sense.
    #[error("invalid request: {0}")]
    Invalid(String),
}

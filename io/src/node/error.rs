//! Why a node does not start, and why it stopped.

use std::io;
use std::path::PathBuf;

use quorate_core::founding::{FoundingError, RecordDamage};
use quorate_core::{ClusterId, LogId};

use crate::log_store::OpenError;
use crate::store::StoreError;

/// Exit codes for a process that runs a node. 0 is a clean stop, 2 is bad usage (from the command line parser).
pub mod exit_code {
    /// Anything that is not listed.
    pub const FAILED: u8 = 1;
    /// Durable data is damaged: starting again will not help, see the message for what will.
    pub const DAMAGED: u8 = 3;
    /// The disk failed while the node ran or started: see to the disk, then start again.
    pub const DISK_FAILED: u8 = 4;
    /// The cluster does not know this node, or not as what it is: see the message.
    pub const NOT_A_MEMBER: u8 = 5;
    /// The state machine's store is damaged; log and vote are whole. Start the node again: it rebuilds its state.
    pub const STORE_DAMAGED: u8 = 6;
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The peer address cannot be listened at.
    #[error("cannot listen for peers at {addr}: {error}")]
    Listen {
        /// As configured.
        addr: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by another process; every node needs a data directory of its own", .0.display())]
    Locked(PathBuf),
    /// An I/O error.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state is lost, the log does not reach back to its beginning, and there is nobody to get it from.
    #[error(
        "{damage}. The log of this node has not all up to entry {}, and no other member is known that could have the \
         state. Nothing was changed. Restore {} from a copy, whole; or move it away, and found a new cluster with what \
         other copies of the data there are", snapshot.index, dir.display()
    )]
    StateLost {
        /// The data directory.
        dir: PathBuf,
        /// What is damaged.
        damage: Box<StoreError>,
        /// There was a snapshot up to here, and the log does not have all that was in it.
        snapshot: LogId,
    },
    /// The founding record, or that of the admission, is damaged.
    #[error("{}: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: RecordDamage,
    },
    /// The directory holds files of several nodes.
    #[error(
        "{}: the record of the cluster does not name the node that the log belongs to; files of different nodes are mixed, \
         or the log was removed. Move the directory away and join this node anew with an empty one", .0.display()
    )]
    MixedUp(PathBuf),
    /// There is no cluster to go on from.
    #[error(
        "--force-new-cluster: {} has no data of a cluster. It is for the survivor of a majority that is lost: start that \
         node, with its data directory; without the flag a node founds or joins a cluster", .0.display()
    )]
    NothingToForce(PathBuf),
    /// The founding list does not name this node.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// Consensus does not start on what was recovered, or what it reads as it starts is damaged.
    #[error(transparent)]
    Consensus(StopError),
}

impl StartError {
    /// The exit code for a process that cannot go on: see [`exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Log(OpenError::Damage { .. } | OpenError::Identity { .. }) | Self::Record { .. } => {
                exit_code::DAMAGED
            }
            Self::Store(StoreError::Damaged { .. }) | Self::StateLost { .. } | Self::MixedUp(_) => exit_code::DAMAGED,
            Self::Log(OpenError::Io { .. }) | Self::Store(StoreError::Io { .. }) | Self::Io { .. } => {
                exit_code::DISK_FAILED
            }
            Self::Founding(_) => exit_code::NOT_A_MEMBER,
            Self::Consensus(error) => error.exit_code(),
            Self::Listen { .. } | Self::Locked(_) | Self::Store(_) | Self::Config(_) | Self::NothingToForce(_) => {
                exit_code::FAILED
            }
        }
    }
}

/// Why a running node has stopped by itself. It answers nothing any more and votes for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Its storage failed. What it had acknowledged is safe; it must not go on with what it can no longer write.
    #[error("storage failed: {0}")]
    Storage(String),
    /// An entry of the log that had been durable is not what was written. It was not sent or applied.
    #[error(
        "{}: {what}. Do not start this node with this directory again: remove the node from the cluster, move the \
         directory away, and join it anew with an empty one", dir.display()
    )]
    LogDamaged {
        /// The data directory.
        dir: PathBuf,
        /// File, offset, and what is wrong there.
        what: String,
    },
    /// The state machine's store is damaged; log and vote are whole.
    #[error("{0}. The log is whole: start this node again, and it rebuilds its state under the same identity")]
    StoreDamaged(String),
    /// It can neither found nor enter a cluster.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// It was removed from its cluster, or replaced.
    #[error(
        "this node was removed from cluster {0}: it serves and votes no more. Its identity is never used again; to take \
         part once more, start it with an empty data directory and join"
    )]
    Removed(ClusterId),
    /// Consensus stopped.
    #[error("consensus stopped: {0}")]
    Raft(String),
}

impl StopError {
    /// The exit code for a process that cannot go on: see [`exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(_) => exit_code::DISK_FAILED,
            Self::LogDamaged { .. } => exit_code::DAMAGED,
            Self::StoreDamaged(_) => exit_code::STORE_DAMAGED,
            Self::Founding(_) | Self::Removed(_) => exit_code::NOT_A_MEMBER,
            Self::Raft(_) => exit_code::FAILED,
        }
    }
}

impl From<&StoreError> for StopError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Damaged { .. } => Self::StoreDamaged(error.to_string()),
            _ => Self::Storage(error.to_string()),
        }
    }
}

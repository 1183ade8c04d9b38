//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::snapshot::SnapshotError;

use crate::jobs::JobsStopped;
use crate::reserve::is_full;

/// Why the state machine store cannot go on. None of these is worth a retry by the same process.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed. What was being written may be there or not; the node has to stop, and its next start finds
    /// out.
    #[error("{}: {source}; the node stops, see to the disk and start it again", file.display())]
    Io {
        /// Where.
        file: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Data that was durable is not what was written.
    #[error("{} is damaged: {what}", file.display())]
    Damaged {
        /// Where.
        file: PathBuf,
        /// What gives it away.
        what: String,
    },
    /// Written by a program that is newer than this one.
    #[error("{} has format version {version}, which this program does not know; upgrade this node", file.display())]
    UnknownVersion {
        /// Where.
        file: PathBuf,
        /// What it says.
        version: u64,
    },
    /// What a peer sent is not a snapshot.
    #[error("not a snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// openraft asked for something that would break an invariant of the store.
    #[error("refused: {0}")]
    Refused(String),
    /// The disk worker or the log is gone: the node is stopping, or it has failed and says elsewhere why.
    #[error("the store's disk worker or the log has stopped")]
    Stopped,
}

impl StoreError {
    pub(crate) fn io(file: &Path, source: io::Error) -> Self {
        Self::Io { file: file.to_owned(), source: Arc::new(source) }
    }

    /// Whether there was no space.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }

    pub(crate) fn damaged(file: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), what: what.into() }
    }

    /// A part of `file` that does not decode.
    pub(crate) fn undecodable(file: &Path, error: SnapshotError) -> Self {
        match error {
            SnapshotError::UnknownVersion { version, .. } => {
                Self::UnknownVersion { file: file.to_owned(), version: version.into() }
            }
            other => Self::damaged(file, other.to_string()),
        }
    }
}

impl From<JobsStopped> for StoreError {
    fn from(_: JobsStopped) -> Self {
        Self::Stopped
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Io { source, .. } => source.kind(),
            StoreError::Damaged { .. } | StoreError::UnknownVersion { .. } | StoreError::Snapshot(_) => {
                io::ErrorKind::InvalidData
            }
            StoreError::Refused(_) => io::ErrorKind::InvalidInput,
            StoreError::Stopped => io::ErrorKind::Interrupted,
        };
        io::Error::new(kind, error)
    }
}

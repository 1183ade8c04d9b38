//! Requests and streams between peers, over the streams of [`crate::net`].
//!
//! ```text
//!   Peers ── slot per (peer, purpose) ── Connection ─┐        ┌─ Server ── task per connection ── PeerService
//!     call(request) → response           reader      │ frames │            reader
//!     open_append_stream(requests)       writer      ├────────┤            writer
//!     open_snapshot_stream()             keepalive   │        │            task per request, task per stream
//! ```
//!
//! A peer is dialled when somebody wants it, by one task, with exponential backoff; a failed dial fails everyone who
//! waits. All requests of a connection are in flight together and are matched with their responses by id. An id is
//! never used twice on a connection and nothing survives the connection it was sent on, so a late answer cannot be
//! credited to anything newer.
//!
//! What may have been applied: [`CallError::NotSent`] says that no byte of the request left the send queue's door, so
//! it was not applied. Once in a send queue, everything but a response is [`CallError::Unknown`].

mod append;
mod client;
mod config;
mod connection;
mod handshake;
mod queue;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;

use quorate_core::wire::{Refusal, RefusalCode};

pub use append::AppendStream;
pub(crate) use append::check_answer;
pub use client::{Peers, Target};
pub use config::TransportConfig;
pub use handshake::{Identity, LocalIdentity, PeerIdentity};
pub use server::{PeerService, Server};
pub use snapshot::{PullStream, SnapshotStream};

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request never entered a send queue: it was not applied.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// The request may have been applied, or may yet be.
    #[error("outcome unknown: {0}")]
    Unknown(Lost),
}

impl CallError {
    /// Whether the peer says that this node was removed from the cluster.
    pub fn is_removal(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == RefusalCode::Removed)
    }

    /// Why the peer does not talk to this node, if that is what it says.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotSent(NotSent::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The peer cannot be dialled, or the connection had just broken.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// The peer does not talk to this node.
    #[error(transparent)]
    Refused(Refusal),
    /// There was no connection within the request's deadline.
    #[error("timeout while connecting")]
    Timeout,
    /// The send queue is full.
    #[error("send queue full")]
    Overloaded,
    /// The request does not fit into a frame.
    #[error("request of {bytes} bytes where at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The transport was shut down.
    #[error("transport is shut down")]
    Stopped,
}

/// What became of a request that was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No response came in time.
    #[error("timeout")]
    Timeout,
    /// The connection broke first.
    #[error("disconnected: {0}")]
    Disconnected(String),
    /// The response makes no sense.
    #[error("malformed response: {0}")]
    Malformed(String),
}

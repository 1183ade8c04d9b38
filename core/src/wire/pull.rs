//! Pulling a snapshot: a node whose state is lost asks a peer for one, outside of consensus.
//!
//! The puller opens a stream with [`PullRequest::Begin`]. Each of its requests allows one part: the manifest, the
//! chunks, the trailer, as [`crate::snapshot`] encodes them; or a failure, which is the last part.

use bytes::Bytes;
use prost::Message;

use super::failure::Failure;
use crate::proto::{DecodeError, LogIdProto};
use crate::types::LogId;

/// What the side that pulls sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullRequest {
    /// Opens the stream, and asks for its first part.
    Begin {
        /// An older snapshot is of no use.
        at_least: LogId,
    },
    /// Asks for one more part.
    Next,
}

/// What the side that serves answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PulledPart {
    /// The first: an encoded manifest.
    Begin(Bytes),
    /// The next encoded chunk.
    Chunk(Bytes),
    /// The last: the encoded trailer.
    End(Bytes),
    /// The last: there is none that new, or it cannot be read.
    Failed(Failure),
}

impl PulledPart {
    /// Whether no other part follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::End(_) | Self::Failed(_))
    }
}

// Beyond those of the other streams, so that a peer of an older version takes it for none of them.
const BEGIN: u8 = 48;
const NEXT: u8 = 49;
const MANIFEST: u8 = 50;
const CHUNK: u8 = 51;
const END: u8 = 52;
const FAILED: u8 = 53;

impl PullRequest {
    /// Whether a stream whose first item has this `what` is one of these.
    pub fn opens(what: u8) -> bool {
        what == BEGIN
    }

    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Begin { at_least } => (BEGIN, vec![LogIdProto::from(*at_least).encode_to_vec().into()]),
            Self::Next => (NEXT, vec![]),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        match what {
            BEGIN => Ok(Self::Begin { at_least: LogIdProto::decode(payload)?.into() }),
            NEXT => Ok(Self::Next),
            _ => Err(unknown()),
        }
    }
}

impl PulledPart {
    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Begin(bytes) => (MANIFEST, vec![bytes.clone()]),
            Self::Chunk(bytes) => (CHUNK, vec![bytes.clone()]),
            Self::End(bytes) => (END, vec![bytes.clone()]),
            Self::Failed(failure) => (FAILED, failure.encode()),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        match what {
            MANIFEST => Ok(Self::Begin(payload)),
            CHUNK => Ok(Self::Chunk(payload)),
            END => Ok(Self::End(payload)),
            FAILED => Ok(Self::Failed(Failure::decode(payload)?)),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> DecodeError {
    DecodeError::Invalid { what: "part of a pulled snapshot", why: "this version does not know its kind" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::failure::Fault;
    use super::*;
    use crate::proto::tests::bytes;

    #[test]
    fn round_trips() {
        for request in [PullRequest::Begin { at_least: LogId::new(3, 70) }, PullRequest::Next] {
            let (what, payload) = request.encode();
            assert_eq!(PullRequest::opens(what), request != PullRequest::Next);
            assert_eq!(PullRequest::decode(what, payload.concat().into()), Ok(request));
        }
        let bytes = Bytes::from_static(b"bytes");
        let failure = Failure::not_applied(Fault::NotReady("no".to_owned()));
        for part in [
            PulledPart::Begin(bytes.clone()),
            PulledPart::Chunk(bytes.clone()),
            PulledPart::End(bytes),
            PulledPart::Failed(failure),
        ] {
            let (what, payload) = part.encode();
            assert_eq!(PulledPart::decode(what, payload.concat().into()), Ok(part));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(what in any::<u8>(), bytes in bytes()) {
            let _ = PullRequest::decode(what, bytes.clone());
            let _ = PulledPart::decode(what, bytes);
        }
    }
}

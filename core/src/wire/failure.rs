//! Requests that failed at the peer.

use bytes::Bytes;
use prost::Message;

use crate::proto::DecodeError;

/// What went wrong at the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader lost its leadership meanwhile.
    #[error("the leader changed")]
    LeaderChanged,
    /// The peer waited in vain.
    #[error("timeout")]
    Timeout,
    /// The peer has too much to do.
    #[error("overloaded")]
    Overloaded,
    /// The request is too large.
    #[error("{bytes} bytes where at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The peer is shutting down.
    #[error("the node is stopping")]
    Stopping,
    /// The peer is not ready for this request yet.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The peer could not reach somebody else.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The peer's storage failed.
    #[error("storage: {0}")]
    Storage(String),
    /// The request makes no sense to the peer, or it does not know it.
    #[error("invalid: {0}")]
    Invalid(String),
    /// There is no space on the disks: the peer's own, or those of too many voters.
    #[error("the disk is full")]
    DiskFull,
    /// A fault that this version does not know.
    #[error("{0}")]
    Other(String),
}

/// A request that failed at the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}{}", if *.unknown { " (it may still take effect)" } else { "" })]
pub struct Failure {
    /// Whether it may have taken effect, or may yet. If `false` it has not and will not.
    pub unknown: bool,
    /// What went wrong.
    pub fault: Fault,
}

impl Failure {
    /// The request had and will have no effect.
    pub fn not_applied(fault: Fault) -> Self {
        Self { unknown: false, fault }
    }

    /// The request may have had an effect.
    pub fn unknown(fault: Fault) -> Self {
        Self { unknown: true, fault }
    }
}

#[derive(Clone, PartialEq, Message)]
struct FailureProto {
    #[prost(bool, tag = "1")]
    not_applied: bool,
    #[prost(uint32, tag = "2")]
    code: u32,
    #[prost(string, tag = "3")]
    text: String,
    #[prost(uint64, tag = "4")]
    bytes: u64,
    #[prost(uint64, tag = "5")]
    bytes_max: u64,
}

impl Failure {
    pub(super) fn encode(&self) -> Vec<Bytes> {
        let mut proto = FailureProto { not_applied: !self.unknown, ..Default::default() };
        let (code, text) = match &self.fault {
            Fault::NoLeader => (1, ""),
            Fault::LeaderChanged => (2, ""),
            Fault::Timeout => (3, ""),
            Fault::Overloaded => (4, ""),
            Fault::TooLarge { bytes, bytes_max } => {
                (proto.bytes, proto.bytes_max) = (*bytes, *bytes_max);
                (5, "")
            }
            Fault::Stopping => (6, ""),
            Fault::NotReady(text) => (7, text.as_str()),
            Fault::Unreachable(text) => (8, text.as_str()),
            Fault::Storage(text) => (9, text.as_str()),
            Fault::Invalid(text) => (10, text.as_str()),
            Fault::Other(text) => (11, text.as_str()),
            Fault::DiskFull => (12, ""),
        };
        proto.code = code;
        proto.text = text.to_owned();
        vec![proto.encode_to_vec().into()]
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let FailureProto { not_applied, code, text, bytes, bytes_max } = FailureProto::decode(payload)?;
        let fault = match code {
            1 => Fault::NoLeader,
            2 => Fault::LeaderChanged,
            3 => Fault::Timeout,
            4 => Fault::Overloaded,
            5 => Fault::TooLarge { bytes, bytes_max },
            6 => Fault::Stopping,
            7 => Fault::NotReady(text),
            8 => Fault::Unreachable(text),
            9 => Fault::Storage(text),
            10 => Fault::Invalid(text),
            12 => Fault::DiskFull,
            _ => Fault::Other(text),
        };
        Ok(Self { unknown: !not_applied, fault })
    }
}

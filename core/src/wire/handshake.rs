//! The handshake: who dials whom, in which cluster, and why not.

use bytes::{Buf, Bytes};
use prost::Message;

use super::rope::Rope;
use crate::proto::{DecodeError, LogIdProto};
use crate::types::{ClusterId, LogId, NodeId};

/// The version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The most bytes that a frame of the handshake may have: all that a stranger can make us hold.
pub const HANDSHAKE_BYTES_MAX: usize = 4096;

/// The most bytes that a node's name may have in the handshake.
pub const NAME_BYTES_MAX: usize = 1024;

/// First bytes of the first frame in both directions.
const MAGIC: &[u8; 8] = b"quorate\0";

/// What a connection is for. Snapshots have one of their own, so that they never delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Requests, and append streams.
    Control,
    /// Snapshots.
    Bulk,
}

/// The first frame of the side that dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version it speaks.
    pub version_min: u32,
    /// The newest.
    pub version_max: u32,
    /// Its cluster, or [`ClusterId::NONE`].
    pub cluster_id: ClusterId,
    /// Who it is.
    pub node_id: NodeId,
    /// Counts its starts: a lower one than seen before comes from a copied or rolled back disk.
    pub boot_epoch: u64,
    /// Its name, for people.
    pub name: String,
    /// Whom it means to reach; `None` if it does not know yet.
    pub expect: Option<NodeId>,
    /// What the connection is for.
    pub purpose: Purpose,
    /// The newest committed membership that it knows of and that may be relied on: see
    /// [`Admission::at`](crate::admission::Admission::at). A peer that knows a later one without this node's name has
    /// seen it removed.
    pub membership: Option<LogId>,
}

/// The answer that admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version to speak.
    pub version: u32,
    /// The cluster of the accepting side, or [`ClusterId::NONE`].
    pub cluster_id: ClusterId,
    /// Who it is.
    pub node_id: NodeId,
    /// Counts its starts.
    pub boot_epoch: u64,
    /// Its name, for people.
    pub name: String,
}

/// Why a node does not talk to another. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusalCode {
    /// A reason that this version does not know; see the text.
    Other = 0,
    /// No protocol version in common.
    Version = 1,
    /// It belongs to another cluster.
    OtherCluster = 2,
    /// The dialled node is not the expected one: the address belongs to somebody else now.
    NotThisNode = 3,
    /// The dialling node was removed from the cluster.
    Removed = 4,
    /// The dialling node has been seen with a later boot epoch.
    StaleEpoch = 5,
    /// One of the two belongs to no cluster yet.
    NoCluster = 6,
    /// Too many connections, or not ready yet: try again.
    Busy = 7,
    /// The node is shutting down.
    Stopping = 8,
}

impl RefusalCode {
    fn from_number(number: u32) -> Self {
        const CODES: [RefusalCode; 8] = [
            RefusalCode::Version,
            RefusalCode::OtherCluster,
            RefusalCode::NotThisNode,
            RefusalCode::Removed,
            RefusalCode::StaleEpoch,
            RefusalCode::NoCluster,
            RefusalCode::Busy,
            RefusalCode::Stopping,
        ];
        CODES.into_iter().find(|code| *code as u32 == number).unwrap_or(Self::Other)
    }
}

/// A refusal and its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code:?}): {text}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct HelloProto {
    #[prost(uint32, tag = "1")]
    version_min: u32,
    #[prost(uint32, tag = "2")]
    version_max: u32,
    #[prost(uint64, tag = "3")]
    cluster_id: u64,
    #[prost(uint64, tag = "4")]
    node_id: u64,
    #[prost(uint64, tag = "5")]
    boot_epoch: u64,
    #[prost(string, tag = "6")]
    name: String,
    #[prost(uint64, optional, tag = "7")]
    expect: Option<u64>,
    #[prost(uint32, tag = "8")]
    purpose: u32,
    #[prost(message, optional, tag = "9")]
    membership: Option<LogIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct WelcomeProto {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
    #[prost(uint64, tag = "3")]
    node_id: u64,
    #[prost(uint64, tag = "4")]
    boot_epoch: u64,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct RefusalProto {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    text: String,
}

fn with_magic(message: &impl Message) -> Vec<Bytes> {
    let mut rope = Rope::default();
    rope.copy(MAGIC);
    rope.message(message);
    rope.finish()
}

fn without_magic<M: Message + Default>(mut payload: Bytes) -> Result<M, DecodeError> {
    if !payload.starts_with(MAGIC) {
        return Err(DecodeError::Missing("the magic number"));
    }
    payload.advance(MAGIC.len());
    Ok(M::decode(payload)?)
}

/// The longest prefix of at most `bytes_max` bytes.
fn shortened(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

impl Hello {
    /// The payload of a [`FrameKind::Hello`](super::FrameKind::Hello) frame. A name that is too long is cut.
    pub fn encode(&self) -> Vec<Bytes> {
        with_magic(&HelloProto {
            version_min: self.version_min,
            version_max: self.version_max,
            cluster_id: self.cluster_id.0,
            node_id: self.node_id.0,
            boot_epoch: self.boot_epoch,
            name: shortened(&self.name, NAME_BYTES_MAX),
            expect: self.expect.map(|id| id.0),
            purpose: self.purpose as u32,
            membership: self.membership.map(Into::into),
        })
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto: HelloProto = without_magic(payload)?;
        let invalid = |why| DecodeError::Invalid { what: "hello", why };
        if proto.version_min > proto.version_max {
            return Err(invalid("the oldest version is newer than the newest"));
        }
        let purpose = match proto.purpose {
            0 => Purpose::Control,
            1 => Purpose::Bulk,
            _ => return Err(invalid("unknown purpose")),
        };
        Ok(Self {
            version_min: proto.version_min,
            version_max: proto.version_max,
            cluster_id: ClusterId(proto.cluster_id),
            node_id: NodeId(proto.node_id),
            boot_epoch: proto.boot_epoch,
            name: proto.name,
            expect: proto.expect.map(NodeId),
            purpose,
            membership: proto.membership.map(Into::into),
        })
    }

    /// The version to speak with the sender of this hello.
    ///
    /// # Errors
    /// There is none.
    pub fn version(&self) -> Result<u32, Refusal> {
        if (self.version_min..=self.version_max).contains(&PROTOCOL_VERSION) {
            return Ok(PROTOCOL_VERSION);
        }
        let text = format!(
            "you speak protocol versions {} to {}, this node speaks {PROTOCOL_VERSION}",
            self.version_min, self.version_max
        );
        Err(Refusal::new(RefusalCode::Version, text))
    }
}

impl Welcome {
    /// The payload of a [`FrameKind::Welcome`](super::FrameKind::Welcome) frame. A name that is too long is cut.
    pub fn encode(&self) -> Vec<Bytes> {
        with_magic(&WelcomeProto {
            version: self.version,
            cluster_id: self.cluster_id.0,
            node_id: self.node_id.0,
            boot_epoch: self.boot_epoch,
            name: shortened(&self.name, NAME_BYTES_MAX),
        })
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is not one, or chose a version that this program does not speak.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto: WelcomeProto = without_magic(payload)?;
        if proto.version != PROTOCOL_VERSION {
            return Err(DecodeError::Invalid { what: "welcome", why: "unknown protocol version" });
        }
        Ok(Self {
            version: proto.version,
            cluster_id: ClusterId(proto.cluster_id),
            node_id: NodeId(proto.node_id),
            boot_epoch: proto.boot_epoch,
            name: proto.name,
        })
    }
}

impl Refusal {
    /// The payload of a [`FrameKind::Refused`](super::FrameKind::Refused) frame. A text that is too long is cut.
    pub fn encode(&self) -> Vec<Bytes> {
        with_magic(&RefusalProto { code: self.code as u32, text: shortened(&self.text, NAME_BYTES_MAX) })
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto: RefusalProto = without_magic(payload)?;
        Ok(Self { code: RefusalCode::from_number(proto.code), text: proto.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tests::{bytes, log_id};
    use proptest::prelude::*;

    fn join(parts: Vec<Bytes>) -> Bytes {
        parts.concat().into()
    }

    proptest! {
        #[test]
        fn round_trips(ids in any::<(u64, u64, u64, u32, u32)>(), name in ".{0,40}", expect in any::<Option<u64>>(), membership in proptest::option::of(log_id())) {
            let hello = Hello {
                version_min: ids.3.min(ids.4),
                version_max: ids.3.max(ids.4),
                cluster_id: ClusterId(ids.0),
                node_id: NodeId(ids.1),
                boot_epoch: ids.2,
                name: name.clone(),
                expect: expect.map(NodeId),
                purpose: if ids.0 % 2 == 0 { Purpose::Control } else { Purpose::Bulk },
                membership,
            };
            prop_assert_eq!(Hello::decode(join(hello.encode())), Ok(hello));
            let welcome = Welcome {
                version: PROTOCOL_VERSION,
                cluster_id: ClusterId(ids.0),
                node_id: NodeId(ids.1),
                boot_epoch: ids.2,
                name: name.clone(),
            };
            prop_assert_eq!(Welcome::decode(join(welcome.encode())), Ok(welcome));
            let refusal = Refusal::new(RefusalCode::from_number(ids.3 % 9), name);
            prop_assert_eq!(Refusal::decode(join(refusal.encode())), Ok(refusal));
        }

        #[test]
        fn garbage_never_panics(bytes in bytes()) {
            prop_assert!(Hello::decode(bytes.clone()).is_err());
            let with_magic = Bytes::from([&MAGIC[..], &bytes].concat());
            let _ = Hello::decode(with_magic.clone());
            let _ = Welcome::decode(with_magic.clone());
            let _ = Refusal::decode(with_magic);
        }
    }

    #[test]
    fn a_long_name_is_cut_so_that_the_frame_fits() {
        let refusal = Refusal::new(RefusalCode::Busy, "ä".repeat(5000));
        let payload = join(refusal.encode());
        assert!(payload.len() < HANDSHAKE_BYTES_MAX - super::super::FRAME_HEADER_BYTES);
        assert!(Refusal::decode(payload).is_ok());
    }

    #[test]
    fn versions_must_overlap() {
        let mut hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION + 3,
            cluster_id: ClusterId::NONE,
            node_id: NodeId(1),
            boot_epoch: 1,
            name: String::new(),
            expect: None,
            purpose: Purpose::Control,
            membership: None,
        };
        assert_eq!(hello.version(), Ok(PROTOCOL_VERSION));
        hello.version_min = PROTOCOL_VERSION + 1;
        assert_eq!(hello.version().unwrap_err().code, RefusalCode::Version);
    }
}

//! What a snapshot covers.
//!
//! ```text
//! 0        4         6      8          12       16
//! +--------+---------+------+----------+--------+-----------------+
//! | "QSNM" | version | 0    | body len | crc32c | body (protobuf) |
//! +--------+---------+------+----------+--------+-----------------+
//! crc32c   over bytes 0..12 and the body
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{FORMAT_VERSION, SnapshotError, check_magic, damaged, u32_at};
use crate::types::{LogId, Member, Membership, NodeId, StoredMembership};

const MAGIC: [u8; 4] = *b"QSNM";
const HEADER_BYTES: usize = 16;
const WHAT: &str = "snapshot manifest";

/// Which entries a state has in it, and the membership in force after the last of them. Stored beside the pairs of
/// a state machine store, and sent ahead of a snapshot's chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The last applied entry; `None` if there was none.
    pub applied: Option<LogId>,
    /// The last membership at or below it.
    pub membership: StoredMembership,
}

#[derive(Clone, PartialEq, Message)]
struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VotersMessage {
    #[prost(fixed64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberMessage {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_addrs: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    api_addrs: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ManifestMessage {
    #[prost(message, optional, tag = "1")]
    applied: Option<LogIdMessage>,
    #[prost(message, optional, tag = "2")]
    membership_log_id: Option<LogIdMessage>,
    #[prost(message, repeated, tag = "3")]
    configs: Vec<VotersMessage>,
    #[prost(message, repeated, tag = "4")]
    members: Vec<MemberMessage>,
}

fn log_id_to(id: LogId) -> LogIdMessage {
    LogIdMessage { term: id.term, index: id.index }
}

fn log_id_from(id: &LogIdMessage) -> LogId {
    LogId::new(id.term, id.index)
}

impl Manifest {
    /// The byte box in the module's documentation.
    pub fn encode(&self) -> Bytes {
        let membership = &self.membership.membership;
        let message = ManifestMessage {
            applied: self.applied.map(log_id_to),
            membership_log_id: self.membership.log_id.map(log_id_to),
            configs: membership
                .configs
                .iter()
                .map(|voters| VotersMessage { ids: voters.iter().map(|id| id.0).collect() })
                .collect(),
            members: membership
                .members
                .iter()
                .map(|(id, member)| MemberMessage {
                    id: id.0,
                    name: member.name.clone(),
                    peer_addrs: member.peer_addrs.clone(),
                    api_addrs: member.api_addrs.clone(),
                })
                .collect(),
        };
        let body = message.encode_to_vec();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(body.len()).expect("a membership is far below 4 GiB"));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
        out.put_u32_le(crc);
        out.put_slice(&body);
        out.freeze()
    }

    /// Reads what [`Manifest::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are damaged, of a version that is not known here, or name a voter that is no member.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        check_magic(WHAT, bytes, MAGIC)?;
        if bytes.len() < HEADER_BYTES || bytes.len() - HEADER_BYTES != u32_at(bytes, 8) as usize {
            return Err(damaged(WHAT, "wrong length"));
        }
        let body = &bytes[HEADER_BYTES..];
        if crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), body) != u32_at(bytes, 12) {
            return Err(damaged(WHAT, "checksum"));
        }
        let message = ManifestMessage::decode(body).map_err(|_| damaged(WHAT, "its fields do not decode"))?;
        let membership = Membership {
            configs: message.configs.iter().map(|v| v.ids.iter().map(|id| NodeId(*id)).collect()).collect(),
            members: message
                .members
                .into_iter()
                .map(|m| (NodeId(m.id), Member { name: m.name, peer_addrs: m.peer_addrs, api_addrs: m.api_addrs }))
                .collect(),
        };
        if membership.configs.iter().flatten().any(|id| !membership.members.contains_key(id)) {
            return Err(damaged(WHAT, "a voter is no member"));
        }
        Ok(Self {
            applied: message.applied.as_ref().map(log_id_from),
            membership: StoredMembership { log_id: message.membership_log_id.as_ref().map(log_id_from), membership },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = Manifest> {
        let log_id = || proptest::option::of((any::<u64>(), any::<u64>()).prop_map(|(t, i)| LogId::new(t, i)));
        let strings = || proptest::collection::vec(".{0,8}", 0..3);
        let member = (".{0,8}", strings(), strings()).prop_map(|(name, peer_addrs, api_addrs)| Member {
            name,
            peer_addrs,
            api_addrs,
        });
        let members = proptest::collection::btree_map(any::<u64>().prop_map(NodeId), member, 0..5);
        (log_id(), log_id(), members).prop_map(|(applied, at, members): (_, _, BTreeMap<NodeId, Member>)| {
            let configs = vec![members.keys().copied().collect::<BTreeSet<_>>()];
            let membership = Membership { configs, members };
            Manifest { applied, membership: StoredMembership { log_id: at, membership } }
        })
    }

    proptest! {
        #[test]
        fn decode_reads_what_encode_wrote(manifest in manifest(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = manifest.encode().to_vec();
            prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
            let offset = at.index(bytes.len());
            bytes[offset] ^= flip;
            prop_assert!(Manifest::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_voter_must_be_a_member() {
        let membership = Membership { configs: vec![BTreeSet::from([NodeId(1)])], members: BTreeMap::new() };
        let manifest = Manifest { applied: None, membership: StoredMembership { log_id: None, membership } };
        assert!(Manifest::decode(&manifest.encode()).is_err());
    }
}

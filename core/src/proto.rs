//! The bytes of the words of Raft, on the disk and on the wire: protocol buffers with explicit tags.
//!
//! A decoder here parses: what it returns keeps every promise of its type, and what breaks one is an error. It never
//! panics and allocates no more than a small multiple of its input, whatever the bytes. Command bytes are slices of
//! the input, not copies. Unknown fields are skipped, so that a later version may add some.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::types::{Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

/// The most bytes that an encoded membership may have. Some thousand members.
pub const MEMBERSHIP_BYTES_MAX: usize = 256 * 1024;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are not a protocol buffer of the expected message.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The fields are there, and make no sense together.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// What was decoded.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl From<prost::DecodeError> for DecodeError {
    fn from(e: prost::DecodeError) -> Self {
        Self::Malformed(e.to_string())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct LogIdProto {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

impl From<LogId> for LogIdProto {
    fn from(id: LogId) -> Self {
        Self { term: id.term, index: id.index }
    }
}

impl From<LogIdProto> for LogId {
    fn from(id: LogIdProto) -> Self {
        Self { term: id.term, index: id.index }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct VoteProto {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

impl From<&Vote> for VoteProto {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.term, node: vote.node.0, committed: vote.committed }
    }
}

impl From<VoteProto> for Vote {
    fn from(vote: VoteProto) -> Self {
        Self { term: vote.term, node: NodeId(vote.node), committed: vote.committed }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MemberProto {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_addrs: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    api_addrs: Vec<String>,
    #[prost(bool, tag = "5")]
    stays_learner: bool,
    #[prost(bool, tag = "6")]
    in_memory: bool,
    #[prost(uint64, optional, tag = "7")]
    replaces: Option<u64>,
}

impl MemberProto {
    pub(crate) fn new(id: NodeId, member: &Member) -> Self {
        let Member { name, peer_addrs, api_addrs, stays_learner, in_memory, replaces } = member.clone();
        Self { id: id.0, name, peer_addrs, api_addrs, stays_learner, in_memory, replaces: replaces.map(|id| id.0) }
    }

    pub(crate) fn into_parts(self) -> (NodeId, Member) {
        let Self { id, name, peer_addrs, api_addrs, stays_learner, in_memory, replaces } = self;
        let replaces = replaces.map(NodeId);
        (NodeId(id), Member { name, peer_addrs, api_addrs, stays_learner, in_memory, replaces })
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ConfigProto {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct MembershipProto {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<ConfigProto>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberProto>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StoredMembershipProto {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdProto>,
    /// A `MembershipProto`, checked for its size before it is taken apart.
    #[prost(bytes = "bytes", optional, tag = "2")]
    membership: Option<Bytes>,
}

const ENTRY_TERM_TAG: u32 = 1;
const ENTRY_INDEX_TAG: u32 = 2;
const ENTRY_BLANK_TAG: u32 = 3;
const ENTRY_MEMBERSHIP_TAG: u32 = 4;
const ENTRY_COMMAND_TAG: u32 = 5;

#[derive(Clone, PartialEq, Eq, Message)]
struct EntryProto {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(oneof = "PayloadProto", tags = "3, 4, 5")]
    payload: Option<PayloadProto>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
enum PayloadProto {
    #[prost(bool, tag = "3")]
    Blank(bool),
    /// A `MembershipProto`, checked for its size before it is taken apart.
    #[prost(bytes = "bytes", tag = "4")]
    Membership(Bytes),
    #[prost(bytes = "bytes", tag = "5")]
    Command(Bytes),
}

/// The encoded membership.
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let configs = membership.configs.iter().map(|c| ConfigProto { voters: c.iter().map(|id| id.0).collect() });
    let members = membership.members.iter().map(|(id, member)| MemberProto::new(*id, member));
    MembershipProto { configs: configs.collect(), members: members.collect() }.encode_to_vec()
}

/// The membership in `bytes`: one configuration or two (joint), none of them empty, and every voter a member.
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, DecodeError> {
    let invalid = |why| DecodeError::Invalid { what: "membership", why };
    if bytes.len() > MEMBERSHIP_BYTES_MAX {
        return Err(invalid("it is too large"));
    }
    let proto = MembershipProto::decode(bytes)?;
    if !(1..=2).contains(&proto.configs.len()) {
        return Err(invalid("it has neither one configuration nor two"));
    }
    let mut members = BTreeMap::new();
    for member in proto.members {
        let (id, member) = member.into_parts();
        if members.insert(id, member).is_some() {
            return Err(invalid("a member occurs twice"));
        }
    }
    let mut configs = Vec::with_capacity(proto.configs.len());
    for config in proto.configs {
        let count = config.voters.len();
        let voters: BTreeSet<_> = config.voters.into_iter().map(NodeId).collect();
        if voters.is_empty() {
            return Err(invalid("a configuration is empty"));
        }
        if voters.len() != count {
            return Err(invalid("a voter occurs twice"));
        }
        if !voters.iter().all(|id| members.contains_key(id)) {
            return Err(invalid("a voter is not a member"));
        }
        configs.push(voters);
    }
    Ok(Membership { configs, members })
}

/// The encoded stored membership. The one before there is any (no entry, no configuration) is encoded as nothing.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let membership = (!stored.membership.configs.is_empty()).then(|| encode_membership(&stored.membership).into());
    StoredMembershipProto { log_id: stored.log_id.map(Into::into), membership }.encode_to_vec()
}

/// The stored membership in `bytes`: as [`decode_membership`], or the empty one without an entry.
pub(crate) fn decode_stored_membership(bytes: Bytes) -> Result<StoredMembership, DecodeError> {
    let proto = StoredMembershipProto::decode(bytes)?;
    let log_id = proto.log_id.map(LogId::from);
    match (log_id, proto.membership) {
        (None, None) => Ok(StoredMembership::default()),
        (Some(_), None) => Err(DecodeError::Missing("membership")),
        (log_id, Some(bytes)) => Ok(StoredMembership { log_id, membership: decode_membership(&bytes)? }),
    }
}

/// Appends the encoded entry but for its command's bytes, which are returned: they come last, so that a writer that
/// can send slices need not copy them.
pub(crate) fn encode_entry_head<'a>(entry: &'a Entry, out: &mut Vec<u8>) -> Option<&'a Bytes> {
    for (tag, value) in [(ENTRY_TERM_TAG, entry.log_id.term), (ENTRY_INDEX_TAG, entry.log_id.index)] {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
    match &entry.payload {
        Payload::Blank => {
            encode_key(ENTRY_BLANK_TAG, WireType::Varint, out);
            encode_varint(1, out);
            None
        }
        Payload::Membership(membership) => {
            let bytes = encode_membership(membership);
            encode_key(ENTRY_MEMBERSHIP_TAG, WireType::LengthDelimited, out);
            encode_varint(bytes.len() as u64, out);
            out.extend_from_slice(&bytes);
            None
        }
        Payload::Command(command) => {
            encode_key(ENTRY_COMMAND_TAG, WireType::LengthDelimited, out);
            encode_varint(command.len() as u64, out);
            Some(command)
        }
    }
}

/// The entry in `bytes`. Its command is a slice of them.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, DecodeError> {
    let proto = EntryProto::decode(bytes)?;
    let payload = match proto.payload.ok_or(DecodeError::Missing("the entry's payload"))? {
        PayloadProto::Blank(_) => Payload::Blank,
        PayloadProto::Membership(bytes) => Payload::Membership(decode_membership(&bytes)?),
        PayloadProto::Command(bytes) => Payload::Command(bytes),
    };
    Ok(Entry { log_id: LogId { term: proto.term, index: proto.index }, payload })
}

/// An upper bound of what [`encode_entry_head`] puts before a command.
pub(crate) const ENTRY_OVERHEAD_MAX: usize = 40;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
        if let Some(command) = encode_entry_head(entry, out) {
            out.extend_from_slice(command);
        }
    }

    pub(crate) fn log_id() -> impl Strategy<Value = LogId> {
        prop_oneof![
            (0..5u64, 0..9u64).prop_map(|(t, i)| LogId::new(t, i)),
            (any::<u64>(), any::<u64>()).prop_map(|(t, i)| LogId::new(t, i)),
        ]
    }

    pub(crate) fn vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| Vote {
            term,
            node: NodeId(node),
            committed,
        })
    }

    pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    pub(crate) fn member() -> impl Strategy<Value = Member> {
        let addrs = || vec("[a-z]{1,6}:[0-9]{1,4}", 0..3);
        (".{0,8}", addrs(), addrs(), any::<(bool, bool, Option<u64>)>()).prop_map(
            |(name, peer_addrs, api_addrs, rest)| {
                let (stays_learner, in_memory, replaces) = rest;
                Member { name, peer_addrs, api_addrs, stays_learner, in_memory, replaces: replaces.map(NodeId) }
            },
        )
    }

    pub(crate) fn membership() -> impl Strategy<Value = Membership> {
        (btree_map(any::<u64>().prop_map(NodeId), member(), 1..6), any::<u8>(), option::of(any::<u8>())).prop_map(
            |(members, first, second)| {
                let pick = |mask: u8| -> BTreeSet<NodeId> {
                    let chosen: BTreeSet<_> =
                        members.keys().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, id)| *id).collect();
                    if chosen.is_empty() { members.keys().copied().collect() } else { chosen }
                };
                let configs = std::iter::once(first).chain(second).map(pick).collect();
                Membership { configs, members }
            },
        )
    }

    pub(crate) fn payload() -> impl Strategy<Value = Payload> {
        prop_oneof![
            Just(Payload::Blank),
            bytes().prop_map(Payload::Command),
            membership().prop_map(Payload::Membership)
        ]
    }

    pub(crate) fn entry() -> impl Strategy<Value = Entry> {
        (log_id(), payload()).prop_map(|(log_id, payload)| Entry { log_id, payload })
    }

    proptest! {
        #[test]
        fn round_trips(entry in entry(), stored in (option::of(log_id()), membership())) {
            let mut out = Vec::new();
            encode_entry(&entry, &mut out);
            if let Payload::Command(command) = &entry.payload {
                prop_assert!(out.len() <= command.len() + ENTRY_OVERHEAD_MAX);
            }
            prop_assert_eq!(decode_entry(out.into()), Ok(entry));
            let stored = StoredMembership { log_id: stored.0, membership: stored.1 };
            prop_assert_eq!(decode_stored_membership(encode_stored_membership(&stored).into()), Ok(stored));
        }

        #[test]
        fn a_truncated_entry_is_an_error(entry in entry(), cut in 1..64usize) {
            let mut out = Vec::new();
            encode_entry(&entry, &mut out);
            out.truncate(out.len().saturating_sub(cut));
            prop_assert!(decode_entry(out.into()).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in bytes()) {
            let _ = decode_entry(bytes.clone());
            let _ = decode_stored_membership(bytes);
        }

        #[test]
        fn a_voter_that_is_no_member_is_refused(mut membership in membership()) {
            let voter = *membership.configs[0].first().unwrap();
            membership.members.remove(&voter);
            prop_assert!(decode_membership(&encode_membership(&membership)).is_err());
        }
    }

    #[test]
    fn a_membership_without_voters_is_refused() {
        let members = BTreeMap::from([(NodeId(1), Member::default())]);
        for configs in [vec![], vec![BTreeSet::new()], vec![BTreeSet::from([NodeId(1)]), BTreeSet::new()]] {
            let membership = Membership { configs, members: members.clone() };
            assert!(decode_membership(&encode_membership(&membership)).is_err());
        }
    }

    #[test]
    fn the_stored_membership_of_a_new_node_round_trips() {
        let none = StoredMembership::default();
        assert_eq!(decode_stored_membership(encode_stored_membership(&none).into()), Ok(none));
    }

    #[test]
    fn a_decoded_command_is_a_slice_of_the_input() {
        let entry = Entry { log_id: LogId::new(1, 2), payload: Payload::Command(Bytes::from(vec![7; 4096])) };
        let mut out = Vec::new();
        encode_entry(&entry, &mut out);
        let input = Bytes::from(out);
        let range = input.as_ptr_range();
        let Payload::Command(command) = decode_entry(input).unwrap().payload else { panic!("a command") };
        assert!(range.contains(&command.as_ptr()));
    }
}

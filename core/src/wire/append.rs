//! AppendEntries (Raft §5.3) on the wire.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::rope::{Rope, field_len};
use crate::proto::{DecodeError, LogIdProto, VoteProto, decode_entry, encode_entry_head};
use crate::types::{Entry, LogId, Payload, Vote};

/// The most entries one request may carry: a decoder then allocates little more than it was sent.
pub const ENTRIES_MAX: usize = 16 * 1024;

/// What a leader sends to a follower. The gate is [`AppendRequest::decode`], which establishes:
/// 1. `entries` have consecutive indexes, beginning after `prev` (at 0 if there is none);
/// 2. their terms do not fall, are at least `prev`'s and at most `vote`'s;
/// 3. `vote` is a leader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The leader's term.
    pub vote: Vote,
    /// The entry before the first of `entries`.
    pub prev: Option<LogId>,
    /// The last committed entry that the leader knows of.
    pub leader_commit: Option<LogId>,
    /// Entries to append; none in a heartbeat.
    pub entries: Vec<Entry>,
}

/// What a follower answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResponse {
    /// Its log matches the leader's up to here, and is durable up to here.
    Success(Option<LogId>),
    /// It has no such entry: the request's `prev`.
    Conflict(LogId),
    /// It has promised this greater vote.
    HigherVote(Vote),
    /// Its disk is full: it takes no commands, and nothing behind one. Everything else it still takes.
    DiskFull,
}

const VOTE_TAG: u32 = 1;
const PREV_TAG: u32 = 2;
const COMMIT_TAG: u32 = 3;
const ENTRY_TAG: u32 = 4;

impl AppendRequest {
    /// The last entry that the follower's log matches once it has accepted the request.
    pub fn last(&self) -> Option<LogId> {
        self.entries.last().map(|e| e.log_id).or(self.prev)
    }

    /// The payload of its frame.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut rope = Rope::default();
        rope.message_field(VOTE_TAG, &VoteProto::from(&self.vote));
        for (tag, id) in [(PREV_TAG, self.prev), (COMMIT_TAG, self.leader_commit)] {
            if let Some(id) = id {
                rope.message_field(tag, &LogIdProto::from(id));
            }
        }
        let mut head = Vec::new();
        for entry in &self.entries {
            let command = encode_entry_head(entry, &mut head);
            rope.field_head(ENTRY_TAG, head.len() + command.map_or(0, Bytes::len));
            rope.copy(&head);
            if let Some(command) = command {
                rope.bytes(command);
            }
            head.clear();
        }
        rope.finish()
    }

    /// About how many bytes `entry` takes in a request. Exact enough to fill a frame by.
    pub fn entry_bytes(entry: &Entry) -> usize {
        let content = match &entry.payload {
            Payload::Blank => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => {
                let text = |texts: &[String]| texts.iter().map(|t| t.len() + 4).sum::<usize>();
                let members = membership.members.values();
                let members: usize =
                    members.map(|m| 24 + m.name.len() + text(&m.peer_addrs) + text(&m.api_addrs)).sum();
                members + membership.configs.iter().map(|c| 8 + c.len() * 10).sum::<usize>()
            }
        };
        field_len(ENTRY_TAG, content + crate::proto::ENTRY_OVERHEAD_MAX)
    }

    /// Reads one. Commands are slices of `payload`.
    ///
    /// # Errors
    /// It is not one, or breaks what the type promises.
    pub fn decode(mut payload: Bytes) -> Result<Self, DecodeError> {
        let (mut vote, mut prev, mut leader_commit, mut entries) = (None, None, None, Vec::new());
        while payload.has_remaining() {
            let (tag, wire_type) = decode_key(&mut payload)?;
            if !(VOTE_TAG..=ENTRY_TAG).contains(&tag) || wire_type != WireType::LengthDelimited {
                skip_field(wire_type, tag, &mut payload, DecodeContext::default())?;
                continue;
            }
            let len = usize::try_from(decode_varint(&mut payload)?).unwrap_or(usize::MAX);
            if len > payload.len() {
                return Err(DecodeError::Malformed("a field is cut off".to_owned()));
            }
            let field = payload.split_to(len);
            match tag {
                VOTE_TAG => vote = Some(Vote::from(VoteProto::decode(field)?)),
                PREV_TAG => prev = Some(LogId::from(LogIdProto::decode(field)?)),
                COMMIT_TAG => leader_commit = Some(LogId::from(LogIdProto::decode(field)?)),
                _ if entries.len() == ENTRIES_MAX => return Err(invalid("too many entries")),
                _ => entries.push(decode_entry(field)?),
            }
        }
        let vote = vote.ok_or(DecodeError::Missing("the vote"))?;
        let request = Self { vote, prev, leader_commit, entries };
        request.check()?;
        Ok(request)
    }

    /// The three promises of the type.
    fn check(&self) -> Result<(), DecodeError> {
        if !self.vote.committed {
            return Err(invalid("the sender is not a leader"));
        }
        let mut last = self.prev;
        for id in self.entries.iter().map(|e| e.log_id) {
            let index = match last {
                Some(last) => last.index.checked_add(1).ok_or(invalid("an index overflows"))?,
                None => 0,
            };
            if id.index != index {
                return Err(invalid("entries are not consecutive"));
            }
            if last.is_some_and(|last| id.term < last.term) {
                return Err(invalid("terms fall"));
            }
            last = Some(id);
        }
        if last.is_some_and(|last| last.term > self.vote.term) {
            return Err(invalid("an entry is from a later term than its sender's"));
        }
        Ok(())
    }
}

fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { what: "append request", why }
}

#[derive(Clone, PartialEq, Message)]
struct AppendResponseProto {
    #[prost(oneof = "OutcomeProto", tags = "1, 2, 3, 4, 5")]
    outcome: Option<OutcomeProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeProto {
    #[prost(message, tag = "1")]
    Success(LogIdProto),
    /// Success, and the matching log is empty.
    #[prost(bool, tag = "2")]
    SuccessEmpty(bool),
    #[prost(message, tag = "3")]
    Conflict(LogIdProto),
    #[prost(message, tag = "4")]
    HigherVote(VoteProto),
    #[prost(bool, tag = "5")]
    DiskFull(bool),
}

impl AppendResponse {
    /// The payload of its frame.
    pub fn encode(&self) -> Vec<Bytes> {
        let outcome = match self {
            Self::Success(Some(id)) => OutcomeProto::Success((*id).into()),
            Self::Success(None) => OutcomeProto::SuccessEmpty(true),
            Self::Conflict(id) => OutcomeProto::Conflict((*id).into()),
            Self::HigherVote(vote) => OutcomeProto::HigherVote(vote.into()),
            Self::DiskFull => OutcomeProto::DiskFull(true),
        };
        vec![AppendResponseProto { outcome: Some(outcome) }.encode_to_vec().into()]
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto = AppendResponseProto::decode(payload)?;
        Ok(match proto.outcome.ok_or(DecodeError::Missing("the outcome"))? {
            OutcomeProto::Success(id) => Self::Success(Some(id.into())),
            OutcomeProto::SuccessEmpty(_) => Self::Success(None),
            OutcomeProto::Conflict(id) => Self::Conflict(id.into()),
            OutcomeProto::HigherVote(vote) => Self::HigherVote(vote.into()),
            OutcomeProto::DiskFull(_) => Self::DiskFull,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::tests::{bytes, log_id, payload, vote};
    use crate::types::NodeId;

    pub(crate) fn append_request() -> impl Strategy<Value = AppendRequest> {
        let payloads = proptest::collection::vec((0..2u64, payload()), 0..6);
        (option::of((0..9u64, 0..9u64)), payloads, option::of(log_id()), any::<u64>()).prop_map(
            |(prev, payloads, leader_commit, node)| {
                let prev = prev.map(|(t, i)| LogId::new(t, i));
                let mut term = prev.map_or(0, |p| p.term);
                let first = prev.map_or(0, |p| p.index + 1);
                let entries: Vec<_> = payloads
                    .into_iter()
                    .zip(first..)
                    .map(|((step, payload), index)| {
                        term += step;
                        Entry { log_id: LogId::new(term, index), payload }
                    })
                    .collect();
                let vote = Vote { term, node: NodeId(node), committed: true };
                AppendRequest { vote, prev, leader_commit, entries }
            },
        )
    }

    fn encoded(request: &AppendRequest) -> Bytes {
        request.encode().concat().into()
    }

    proptest! {
        #[test]
        fn round_trips(request in append_request(), id in option::of(log_id()), vote in vote()) {
            let bytes = encoded(&request);
            prop_assert!(bytes.len() <= 100 + request.entries.iter().map(AppendRequest::entry_bytes).sum::<usize>());
            prop_assert_eq!(AppendRequest::decode(bytes), Ok(request));
            let conflict = AppendResponse::Conflict(id.unwrap_or_default());
            let higher = AppendResponse::HigherVote(vote);
            for response in [AppendResponse::Success(id), conflict, higher, AppendResponse::DiskFull] {
                prop_assert_eq!(AppendResponse::decode(response.encode().concat().into()), Ok(response));
            }
        }

        #[test]
        fn what_breaks_a_promise_is_refused(request in append_request(), at in any::<prop::sample::Index>(), how in 0..5) {
            prop_assume!(!request.entries.is_empty());
            let mut bad = request;
            let at = at.index(bad.entries.len());
            match how {
                0 => bad.entries[at].log_id.index += 1,
                1 => bad.vote.term = bad.entries.last().unwrap().log_id.term.wrapping_sub(1),
                2 => bad.vote.committed = false,
                3 => bad.prev = Some(LogId::new(0, u64::MAX)),
                _ => {
                    let last = bad.entries.last().unwrap().log_id;
                    bad.entries.push(Entry { log_id: last, payload: Payload::Blank });
                }
            }
            prop_assume!(bad.vote.term != u64::MAX);
            prop_assert!(AppendRequest::decode(encoded(&bad)).is_err());
        }

        #[test]
        fn cut_or_garbled_bytes_never_panic(request in append_request(), garbage in bytes(), cut in 1..200usize) {
            let mut bytes = encoded(&request);
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(shorter) = AppendRequest::decode(bytes) {
                prop_assert!(shorter.entries.len() < request.entries.len() || shorter.vote != request.vote
                    || shorter.prev != request.prev || shorter.leader_commit != request.leader_commit);
            }
            let _ = AppendRequest::decode(garbage.clone());
            let _ = AppendResponse::decode(garbage);
        }
    }

    #[test]
    fn falling_terms_are_refused() {
        let entry = |term, index| Entry { log_id: LogId::new(term, index), payload: Payload::Blank };
        let vote = Vote { term: 5, node: NodeId(1), committed: true };
        let request = AppendRequest { vote, prev: None, leader_commit: None, entries: vec![entry(3, 0), entry(2, 1)] };
        assert!(AppendRequest::decode(encoded(&request)).is_err());
    }

    #[test]
    fn the_number_of_entries_is_limited() {
        let entries = (0..=ENTRIES_MAX as u64).map(|i| Entry { log_id: LogId::new(1, i), payload: Payload::Blank });
        let vote = Vote { term: 1, node: NodeId(1), committed: true };
        let request = AppendRequest { vote, prev: None, leader_commit: None, entries: entries.collect() };
        assert!(AppendRequest::decode(encoded(&request)).is_err());
    }

    #[test]
    fn a_large_command_is_not_copied() {
        let command = Bytes::from(vec![3; 10_000]);
        let entry = Entry { log_id: LogId::new(1, 0), payload: Payload::Command(command.clone()) };
        let vote = Vote { term: 1, node: NodeId(1), committed: true };
        let request = AppendRequest { vote, prev: None, leader_commit: None, entries: vec![entry] };
        assert!(request.encode().iter().any(|part| part.as_ptr() == command.as_ptr()));
    }
}

//! Requests, responses, and the parts of a snapshot.

use bytes::Bytes;
use prost::Message;

use super::append::{AppendRequest, AppendResponse};
use super::failure::Failure;
use super::member::{MemberDone, MemberRefusal, MemberRequest, decode_reply, encode_reply};
use super::rope::Rope;
use crate::proto::{
    DecodeError, LogIdProto, MemberProto, VoteProto, decode_stored_membership, encode_stored_membership,
};
use crate::types::{LogId, Member, NodeId, StoredMembership, Vote};

/// RequestVote (Raft §5.2), or its rehearsal (§9.6 of the Raft thesis).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The term asked for, and the candidate.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last_log_id: Option<LogId>,
    /// Whether the leader asked for this election, so that its lease does not stand against it.
    pub leadership_transfer: bool,
}

/// The answer to a [`VoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteResponse {
    /// What the voter has promised.
    pub vote: Vote,
    /// Whether it grants the request.
    pub granted: bool,
    /// The voter's last entry.
    pub last_log_id: Option<LogId>,
}

/// A leader hands over (§3.10 of the Raft thesis).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLeader {
    /// The leader's vote.
    pub from: Vote,
    /// Who shall lead.
    pub to: NodeId,
    /// The leader's last entry.
    pub last_log_id: Option<LogId>,
}

/// Why a node does not take leadership over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferRefusal {
    /// It has promised another vote meanwhile.
    VoteChanged {
        /// The leader's vote in the request.
        expected: Vote,
        /// Its own.
        actual: Vote,
    },
    /// Its log is not durable that far.
    LogNotFlushed {
        /// The leader's last entry in the request.
        expected: Option<LogId>,
        /// Its own last durable entry.
        actual: Option<LogId>,
    },
}

/// A client's write that a node hands on to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardWrite {
    /// The node that took it from the client.
    pub origin: NodeId,
    /// How often it was handed on before.
    pub hops: u32,
    /// How long the sender will wait for an answer, in milliseconds from its receipt.
    pub deadline_ms: u64,
    /// The command, encoded by `origin`.
    pub command: Bytes,
}

/// A request. Each gets one [`Response`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One append outside a stream; answered by [`Response::Append`].
    Append(AppendRequest),
    /// Answered by [`Response::Vote`].
    Vote(VoteRequest),
    /// Answered by [`Response::Vote`].
    PreVote(VoteRequest),
    /// Answered by [`Response::TransferLeader`].
    TransferLeader(TransferLeader),
    /// Answered by [`Response::Written`] or [`Response::NotLeader`].
    Write(ForwardWrite),
    /// Which entry must be applied before a linearizable read; answered by [`Response::ReadIndex`] or
    /// [`Response::NotLeader`].
    ReadIndex,
    /// A step of founding a cluster; answered by [`Response::Founding`].
    Founding(Bytes),
    /// Answered by [`Response::Member`] or [`Response::NotLeader`].
    Member(MemberRequest),
}

/// Where the leader is believed to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// Who leads.
    pub id: NodeId,
    /// How to reach it.
    pub member: Member,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Any request can fail.
    Failed(Failure),
    /// To [`Request::Append`].
    Append(AppendResponse),
    /// To [`Request::Vote`] and [`Request::PreVote`].
    Vote(VoteResponse),
    /// To [`Request::TransferLeader`].
    TransferLeader(Result<(), TransferRefusal>),
    /// The write was applied.
    Written {
        /// The entry.
        log_id: LogId,
        /// What the state machine answered.
        response: Bytes,
    },
    /// The entry to wait for before the read.
    ReadIndex(LogId),
    /// The request was not applied: this node does not lead.
    NotLeader(Option<LeaderHint>),
    /// To [`Request::Founding`].
    Founding(Bytes),
    /// To [`Request::Member`].
    Member(Result<MemberDone, MemberRefusal>),
}

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry it covers.
    pub last_log_id: Option<LogId>,
    /// The membership in force there.
    pub last_membership: StoredMembership,
}

/// A request of a snapshot stream: [`SnapshotPart::Begin`], chunks, [`SnapshotPart::End`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Opens it.
    Begin {
        /// The leader's vote.
        vote: Vote,
        /// What it covers. [`SnapshotPart::decode`] checks that nothing in it is from a later term than `vote`, and
        /// that its membership was not written after it.
        meta: SnapshotMeta,
    },
    /// The next encoded chunk.
    Chunk(Bytes),
    /// The encoded trailer, which says what the whole must add up to.
    End(Bytes),
}

/// The answers of a snapshot stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotReply {
    /// The oldest part not acknowledged has been taken: another may be sent.
    Taken,
    /// The last answer: the snapshot is installed, or the receiver has promised a greater vote, which this is.
    Installed(Vote),
    /// The last answer: it was not installed.
    Failed(Failure),
}

mod what {
    pub(super) const APPEND: u8 = 1;
    pub(super) const VOTE: u8 = 2;
    pub(super) const PRE_VOTE: u8 = 3;
    pub(super) const TRANSFER_LEADER: u8 = 4;
    pub(super) const WRITE: u8 = 5;
    pub(super) const READ_INDEX: u8 = 6;
    pub(super) const FOUNDING: u8 = 7;
    pub(super) const MEMBER: u8 = 8;
    pub(super) const FAILED: u8 = 16;
    pub(super) const NOT_LEADER: u8 = 17;
    pub(super) const SNAPSHOT_BEGIN: u8 = 32;
    pub(super) const SNAPSHOT_CHUNK: u8 = 33;
    pub(super) const SNAPSHOT_END: u8 = 34;
    pub(super) const SNAPSHOT_TAKEN: u8 = 35;
    pub(super) const SNAPSHOT_INSTALLED: u8 = 36;
    pub(super) const SNAPSHOT_FAILED: u8 = 37;
}

#[derive(Clone, PartialEq, Message)]
struct VoteRequestProto {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteProto>,
    #[prost(message, optional, tag = "2")]
    last_log_id: Option<LogIdProto>,
    #[prost(bool, tag = "3")]
    leadership_transfer: bool,
}

#[derive(Clone, PartialEq, Message)]
struct VoteResponseProto {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteProto>,
    #[prost(bool, tag = "2")]
    granted: bool,
    #[prost(message, optional, tag = "3")]
    last_log_id: Option<LogIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TransferProto {
    #[prost(message, optional, tag = "1")]
    from: Option<VoteProto>,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(message, optional, tag = "3")]
    last_log_id: Option<LogIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TransferResponseProto {
    #[prost(enumeration = "TransferCode", tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "2")]
    vote_expected: Option<VoteProto>,
    #[prost(message, optional, tag = "3")]
    vote_actual: Option<VoteProto>,
    #[prost(message, optional, tag = "4")]
    log_expected: Option<LogIdProto>,
    #[prost(message, optional, tag = "5")]
    log_actual: Option<LogIdProto>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum TransferCode {
    Unspecified = 0,
    Accepted = 1,
    VoteChanged = 2,
    LogNotFlushed = 3,
}

#[derive(Clone, PartialEq, Message)]
struct WriteProto {
    #[prost(uint64, tag = "1")]
    origin: u64,
    #[prost(uint32, tag = "2")]
    hops: u32,
    #[prost(uint64, tag = "3")]
    deadline_ms: u64,
    #[prost(bytes = "bytes", tag = "4")]
    command: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WrittenProto {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdProto>,
    #[prost(bytes = "bytes", tag = "2")]
    response: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct NotLeaderProto {
    #[prost(message, optional, tag = "1")]
    leader: Option<MemberProto>,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotBeginProto {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteProto>,
    #[prost(message, optional, tag = "2")]
    last_log_id: Option<LogIdProto>,
    #[prost(bytes = "bytes", tag = "3")]
    last_membership: Bytes,
}

fn vote_or_missing(vote: Option<VoteProto>) -> Result<Vote, DecodeError> {
    vote.map(Vote::from).ok_or(DecodeError::Missing("the vote"))
}

fn unknown_message() -> DecodeError {
    DecodeError::Invalid { what: "message", why: "this version does not know its kind" }
}

fn one(message: &impl Message) -> Vec<Bytes> {
    vec![message.encode_to_vec().into()]
}

impl VoteRequest {
    fn encode(&self) -> Vec<Bytes> {
        one(&VoteRequestProto {
            vote: Some((&self.vote).into()),
            last_log_id: self.last_log_id.map(Into::into),
            leadership_transfer: self.leadership_transfer,
        })
    }

    fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto = VoteRequestProto::decode(payload)?;
        let vote = vote_or_missing(proto.vote)?;
        if vote.committed {
            return Err(DecodeError::Invalid { what: "vote request", why: "the candidate says that it leads already" });
        }
        Ok(Self {
            vote,
            last_log_id: proto.last_log_id.map(Into::into),
            leadership_transfer: proto.leadership_transfer,
        })
    }
}

impl VoteResponse {
    fn encode(&self) -> Vec<Bytes> {
        one(&VoteResponseProto {
            vote: Some((&self.vote).into()),
            granted: self.granted,
            last_log_id: self.last_log_id.map(Into::into),
        })
    }

    fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto = VoteResponseProto::decode(payload)?;
        let vote = vote_or_missing(proto.vote)?;
        Ok(Self { vote, granted: proto.granted, last_log_id: proto.last_log_id.map(Into::into) })
    }
}

impl TransferLeader {
    fn encode(&self) -> Vec<Bytes> {
        one(&TransferProto {
            from: Some((&self.from).into()),
            to: self.to.0,
            last_log_id: self.last_log_id.map(Into::into),
        })
    }

    fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let proto = TransferProto::decode(payload)?;
        let from = vote_or_missing(proto.from)?;
        Ok(Self { from, to: NodeId(proto.to), last_log_id: proto.last_log_id.map(Into::into) })
    }
}

fn encode_transfer(result: &Result<(), TransferRefusal>) -> Vec<Bytes> {
    let mut proto = TransferResponseProto::default();
    match result {
        Ok(()) => proto.set_code(TransferCode::Accepted),
        Err(TransferRefusal::VoteChanged { expected, actual }) => {
            proto.set_code(TransferCode::VoteChanged);
            proto.vote_expected = Some(expected.into());
            proto.vote_actual = Some(actual.into());
        }
        Err(TransferRefusal::LogNotFlushed { expected, actual }) => {
            proto.set_code(TransferCode::LogNotFlushed);
            proto.log_expected = expected.map(Into::into);
            proto.log_actual = actual.map(Into::into);
        }
    }
    one(&proto)
}

fn decode_transfer(payload: Bytes) -> Result<Result<(), TransferRefusal>, DecodeError> {
    let proto = TransferResponseProto::decode(payload)?;
    Ok(match proto.code() {
        TransferCode::Unspecified => return Err(DecodeError::Missing("the outcome")),
        TransferCode::Accepted => Ok(()),
        TransferCode::VoteChanged => Err(TransferRefusal::VoteChanged {
            expected: vote_or_missing(proto.vote_expected)?,
            actual: vote_or_missing(proto.vote_actual)?,
        }),
        TransferCode::LogNotFlushed => Err(TransferRefusal::LogNotFlushed {
            expected: proto.log_expected.map(Into::into),
            actual: proto.log_actual.map(Into::into),
        }),
    })
}

impl ForwardWrite {
    fn encode(&self) -> Vec<Bytes> {
        let head =
            WriteProto { origin: self.origin.0, hops: self.hops, deadline_ms: self.deadline_ms, command: Bytes::new() };
        let mut rope = Rope::default();
        rope.message(&head).field(4, &self.command);
        rope.finish()
    }

    fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let WriteProto { origin, hops, deadline_ms, command } = WriteProto::decode(payload)?;
        Ok(Self { origin: NodeId(origin), hops, deadline_ms, command })
    }
}

impl Request {
    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Append(request) => (what::APPEND, request.encode()),
            Self::Vote(request) => (what::VOTE, request.encode()),
            Self::PreVote(request) => (what::PRE_VOTE, request.encode()),
            Self::TransferLeader(request) => (what::TRANSFER_LEADER, request.encode()),
            Self::Write(request) => (what::WRITE, request.encode()),
            Self::ReadIndex => (what::READ_INDEX, vec![]),
            Self::Founding(bytes) => (what::FOUNDING, vec![bytes.clone()]),
            Self::Member(request) => (what::MEMBER, request.encode()),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one, or this version does not know it.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        Ok(match what {
            what::APPEND => Self::Append(AppendRequest::decode(payload)?),
            what::VOTE => Self::Vote(VoteRequest::decode(payload)?),
            what::PRE_VOTE => Self::PreVote(VoteRequest::decode(payload)?),
            what::TRANSFER_LEADER => Self::TransferLeader(TransferLeader::decode(payload)?),
            what::WRITE => Self::Write(ForwardWrite::decode(payload)?),
            what::READ_INDEX => Self::ReadIndex,
            what::FOUNDING => Self::Founding(payload),
            what::MEMBER => Self::Member(MemberRequest::decode(payload)?),
            _ => return Err(unknown_message()),
        })
    }
}

impl Response {
    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Failed(failure) => (what::FAILED, failure.encode()),
            Self::Append(response) => (what::APPEND, response.encode()),
            Self::Vote(response) => (what::VOTE, response.encode()),
            Self::TransferLeader(result) => (what::TRANSFER_LEADER, encode_transfer(result)),
            Self::Written { log_id, response } => {
                let mut rope = Rope::default();
                rope.message_field(1, &LogIdProto::from(*log_id)).field(2, response);
                (what::WRITE, rope.finish())
            }
            Self::ReadIndex(log_id) => (what::READ_INDEX, one(&LogIdProto::from(*log_id))),
            Self::NotLeader(hint) => {
                let leader = hint.as_ref().map(|hint| MemberProto::new(hint.id, &hint.member));
                (what::NOT_LEADER, one(&NotLeaderProto { leader }))
            }
            Self::Founding(bytes) => (what::FOUNDING, vec![bytes.clone()]),
            Self::Member(reply) => (what::MEMBER, encode_reply(reply)),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one, or this version does not know it.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        Ok(match what {
            what::FAILED => Self::Failed(Failure::decode(payload)?),
            what::APPEND => Self::Append(AppendResponse::decode(payload)?),
            what::VOTE => Self::Vote(VoteResponse::decode(payload)?),
            what::TRANSFER_LEADER => Self::TransferLeader(decode_transfer(payload)?),
            what::WRITE => {
                let WrittenProto { log_id, response } = WrittenProto::decode(payload)?;
                Self::Written { log_id: log_id.ok_or(DecodeError::Missing("the log id"))?.into(), response }
            }
            what::READ_INDEX => Self::ReadIndex(LogIdProto::decode(payload)?.into()),
            what::NOT_LEADER => {
                let hint = NotLeaderProto::decode(payload)?.leader.map(MemberProto::into_parts);
                Self::NotLeader(hint.map(|(id, member)| LeaderHint { id, member }))
            }
            what::FOUNDING => Self::Founding(payload),
            what::MEMBER => Self::Member(decode_reply(payload)?),
            _ => return Err(unknown_message()),
        })
    }
}

impl SnapshotPart {
    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Begin { vote, meta } => {
                let proto = SnapshotBeginProto {
                    vote: Some(vote.into()),
                    last_log_id: meta.last_log_id.map(Into::into),
                    last_membership: encode_stored_membership(&meta.last_membership).into(),
                };
                (what::SNAPSHOT_BEGIN, one(&proto))
            }
            Self::Chunk(bytes) => (what::SNAPSHOT_CHUNK, vec![bytes.clone()]),
            Self::End(bytes) => (what::SNAPSHOT_END, vec![bytes.clone()]),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one, or its parts contradict each other.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        match what {
            what::SNAPSHOT_BEGIN => {
                let proto = SnapshotBeginProto::decode(payload)?;
                let vote = vote_or_missing(proto.vote)?;
                let last_log_id = proto.last_log_id.map(LogId::from);
                let last_membership = decode_stored_membership(proto.last_membership)?;
                let invalid = |why| DecodeError::Invalid { what: "snapshot", why };
                if !vote.committed {
                    return Err(invalid("the sender is not a leader"));
                }
                if last_log_id.is_some_and(|last| last.term > vote.term) {
                    return Err(invalid("it is from a later term than its sender's"));
                }
                if last_membership.log_id > last_log_id {
                    return Err(invalid("its membership was written after it"));
                }
                Ok(Self::Begin { vote, meta: SnapshotMeta { last_log_id, last_membership } })
            }
            what::SNAPSHOT_CHUNK => Ok(Self::Chunk(payload)),
            what::SNAPSHOT_END => Ok(Self::End(payload)),
            _ => Err(unknown_message()),
        }
    }
}

impl SnapshotReply {
    /// The `what` and the payload of its frame.
    pub fn encode(&self) -> (u8, Vec<Bytes>) {
        match self {
            Self::Taken => (what::SNAPSHOT_TAKEN, vec![]),
            Self::Installed(vote) => (what::SNAPSHOT_INSTALLED, one(&VoteProto::from(vote))),
            Self::Failed(failure) => (what::SNAPSHOT_FAILED, failure.encode()),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(what: u8, payload: Bytes) -> Result<Self, DecodeError> {
        match what {
            what::SNAPSHOT_TAKEN => Ok(Self::Taken),
            what::SNAPSHOT_INSTALLED => Ok(Self::Installed(VoteProto::decode(payload)?.into())),
            what::SNAPSHOT_FAILED => Ok(Self::Failed(Failure::decode(payload)?)),
            _ => Err(unknown_message()),
        }
    }
}

#[cfg(test)]
mod tests;

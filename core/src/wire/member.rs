//! Changes of the membership, on their way to the leader and back.

use bytes::Bytes;
use prost::Message;

use crate::proto::{DecodeError, LogIdProto, MemberProto};
use crate::types::{ClusterId, LogId, Member, NodeId};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberAction {
    /// A blank node asks to be admitted. Asked again with the same id it is answered the same.
    Join {
        /// Its id.
        id: NodeId,
        /// What it says of itself.
        member: Member,
    },
    /// The blank node at these addresses is to be admitted.
    Add {
        /// Its name.
        name: String,
        /// Where it is.
        peer_addrs: Vec<String>,
        /// Whether it shall stay a learner.
        stays_learner: bool,
    },
    /// To the node that was added: it has been admitted.
    Admit {
        /// The cluster.
        cluster: ClusterId,
        /// A committed membership that names it.
        at: LogId,
    },
    /// A member is to be removed.
    Remove {
        /// Its id or name.
        who: String,
        /// Also if too few of the others can be reached.
        force: bool,
    },
    /// A learner is to become a voter.
    Promote {
        /// Its id or name.
        who: String,
    },
    /// Another voter is to lead.
    Transfer {
        /// Its id or name; `None` leaves the choice to the leader.
        to: Option<String>,
    },
    /// A member says where it is now.
    Moved {
        /// Its id.
        id: NodeId,
        /// Where peers reach it.
        peer_addrs: Vec<String>,
        /// Where clients reach it.
        api_addrs: Vec<String>,
    },
}

/// A change of the membership, for the leader. Answered by [`Response::Member`](super::Response::Member) or
/// [`Response::NotLeader`](super::Response::NotLeader).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRequest {
    /// How long the sender will wait for an answer, in milliseconds from its receipt.
    pub deadline_ms: u64,
    /// What is to be done.
    pub action: MemberAction,
}

/// It is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberDone {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member that it was about; of a transfer, who leads.
    pub node: NodeId,
    /// The committed membership in which it is done.
    pub at: LogId,
}

/// Why a change is refused. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusalKind {
    /// It contradicts what is; this may pass.
    Conflict = 0,
    /// No member has this name or id.
    NotFound = 1,
    /// Too few voters of the new configuration can be reached.
    WouldLoseQuorum = 2,
    /// The node that it is about does not answer.
    Unreachable = 3,
    /// A member has this name, or this address, and does not give it up.
    Taken = 4,
}

/// A change that is refused: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct MemberRefusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what was wrong, and what to do.
    pub text: String,
}

impl RefusalKind {
    /// One that this version does not know is a conflict.
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::NotFound,
            2 => Self::WouldLoseQuorum,
            3 => Self::Unreachable,
            4 => Self::Taken,
            _ => Self::Conflict,
        }
    }
}

impl MemberRefusal {
    /// A refusal.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct AddProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    peer_addrs: Vec<String>,
    #[prost(bool, tag = "3")]
    stays_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
struct AdmitProto {
    #[prost(uint64, tag = "1")]
    cluster: u64,
    #[prost(message, optional, tag = "2")]
    at: Option<LogIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct RemoveProto {
    #[prost(string, tag = "1")]
    who: String,
    #[prost(bool, tag = "2")]
    force: bool,
}

#[derive(Clone, PartialEq, Message)]
struct TransferProto {
    #[prost(string, optional, tag = "1")]
    to: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct MovedProto {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, repeated, tag = "2")]
    peer_addrs: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    api_addrs: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ActionProto {
    #[prost(message, tag = "2")]
    Join(MemberProto),
    #[prost(message, tag = "3")]
    Add(AddProto),
    #[prost(message, tag = "4")]
    Admit(AdmitProto),
    #[prost(message, tag = "5")]
    Remove(RemoveProto),
    #[prost(string, tag = "6")]
    Promote(String),
    #[prost(message, tag = "7")]
    Transfer(TransferProto),
    #[prost(message, tag = "8")]
    Moved(MovedProto),
}

#[derive(Clone, PartialEq, Message)]
struct RequestProto {
    #[prost(uint64, tag = "1")]
    deadline_ms: u64,
    #[prost(oneof = "ActionProto", tags = "2, 3, 4, 5, 6, 7, 8")]
    action: Option<ActionProto>,
}

#[derive(Clone, PartialEq, Message)]
struct DoneProto {
    #[prost(uint64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(message, optional, tag = "3")]
    at: Option<LogIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusedProto {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeProto {
    #[prost(message, tag = "1")]
    Done(DoneProto),
    #[prost(message, tag = "2")]
    Refused(RefusedProto),
}

#[derive(Clone, PartialEq, Message)]
struct ResponseProto {
    #[prost(oneof = "OutcomeProto", tags = "1, 2")]
    outcome: Option<OutcomeProto>,
}

impl MemberRequest {
    pub(super) fn encode(&self) -> Vec<Bytes> {
        let action = match self.action.clone() {
            MemberAction::Join { id, member } => ActionProto::Join(MemberProto::new(id, &member)),
            MemberAction::Add { name, peer_addrs, stays_learner } => {
                ActionProto::Add(AddProto { name, peer_addrs, stays_learner })
            }
            MemberAction::Admit { cluster, at } => {
                ActionProto::Admit(AdmitProto { cluster: cluster.0, at: Some(at.into()) })
            }
            MemberAction::Remove { who, force } => ActionProto::Remove(RemoveProto { who, force }),
            MemberAction::Promote { who } => ActionProto::Promote(who),
            MemberAction::Transfer { to } => ActionProto::Transfer(TransferProto { to }),
            MemberAction::Moved { id, peer_addrs, api_addrs } => {
                ActionProto::Moved(MovedProto { id: id.0, peer_addrs, api_addrs })
            }
        };
        vec![RequestProto { deadline_ms: self.deadline_ms, action: Some(action) }.encode_to_vec().into()]
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let RequestProto { deadline_ms, action } = RequestProto::decode(payload)?;
        let action = match action.ok_or(DecodeError::Missing("what is to be done"))? {
            ActionProto::Join(member) => {
                let (id, member) = member.into_parts();
                MemberAction::Join { id, member }
            }
            ActionProto::Add(AddProto { name, peer_addrs, stays_learner }) => {
                MemberAction::Add { name, peer_addrs, stays_learner }
            }
            ActionProto::Admit(AdmitProto { cluster, at }) => {
                let at = at.ok_or(DecodeError::Missing("the log id"))?.into();
                MemberAction::Admit { cluster: ClusterId(cluster), at }
            }
            ActionProto::Remove(RemoveProto { who, force }) => MemberAction::Remove { who, force },
            ActionProto::Promote(who) => MemberAction::Promote { who },
            ActionProto::Transfer(TransferProto { to }) => MemberAction::Transfer { to },
            ActionProto::Moved(MovedProto { id, peer_addrs, api_addrs }) => {
                MemberAction::Moved { id: NodeId(id), peer_addrs, api_addrs }
            }
        };
        Ok(Self { deadline_ms, action })
    }
}

pub(super) fn encode_reply(reply: &Result<MemberDone, MemberRefusal>) -> Vec<Bytes> {
    let outcome = match reply {
        Ok(MemberDone { cluster, node, at }) => {
            OutcomeProto::Done(DoneProto { cluster: cluster.0, node: node.0, at: Some((*at).into()) })
        }
        Err(MemberRefusal { kind, text }) => {
            OutcomeProto::Refused(RefusedProto { kind: *kind as u32, text: text.clone() })
        }
    };
    vec![ResponseProto { outcome: Some(outcome) }.encode_to_vec().into()]
}

pub(super) fn decode_reply(payload: Bytes) -> Result<Result<MemberDone, MemberRefusal>, DecodeError> {
    match ResponseProto::decode(payload)?.outcome.ok_or(DecodeError::Missing("the outcome"))? {
        OutcomeProto::Done(DoneProto { cluster, node, at }) => {
            let at = at.ok_or(DecodeError::Missing("the log id"))?.into();
            Ok(Ok(MemberDone { cluster: ClusterId(cluster), node: NodeId(node), at }))
        }
        OutcomeProto::Refused(RefusedProto { kind, text }) => {
            Ok(Err(MemberRefusal { kind: RefusalKind::from_number(kind), text }))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::tests::{log_id, member};

    pub(in crate::wire) fn member_request() -> impl Strategy<Value = MemberRequest> {
        let addrs = || vec("[a-z]{1,6}:[0-9]{1,4}", 0..3);
        let action = prop_oneof![
            (any::<u64>(), member()).prop_map(|(id, member)| MemberAction::Join { id: NodeId(id), member }),
            (".{0,8}", addrs(), any::<bool>()).prop_map(|(name, peer_addrs, stays_learner)| MemberAction::Add {
                name,
                peer_addrs,
                stays_learner
            }),
            (any::<u64>(), log_id()).prop_map(|(cluster, at)| MemberAction::Admit { cluster: ClusterId(cluster), at }),
            (".{0,8}", any::<bool>()).prop_map(|(who, force)| MemberAction::Remove { who, force }),
            ".{0,8}".prop_map(|who| MemberAction::Promote { who }),
            proptest::option::of(".{0,8}").prop_map(|to| MemberAction::Transfer { to }),
            (any::<u64>(), addrs(), addrs()).prop_map(|(id, peer_addrs, api_addrs)| MemberAction::Moved {
                id: NodeId(id),
                peer_addrs,
                api_addrs
            }),
        ];
        (any::<u64>(), action).prop_map(|(deadline_ms, action)| MemberRequest { deadline_ms, action })
    }

    pub(in crate::wire) fn member_reply() -> impl Strategy<Value = Result<MemberDone, MemberRefusal>> {
        prop_oneof![
            (any::<(u64, u64)>(), log_id()).prop_map(|((cluster, node), at)| Ok(MemberDone {
                cluster: ClusterId(cluster),
                node: NodeId(node),
                at
            })),
            (0..5u32, ".{0,20}").prop_map(|(kind, text)| Err(MemberRefusal::new(RefusalKind::from_number(kind), text))),
        ]
    }
}

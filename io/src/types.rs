//! openraft's type parameters, chosen once, and conversions between its structs and ours.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft_rt::{AsyncRuntime, OptionalSend};
use quorate_core::{Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

/// A command for the state machine: encoded once by the proposer; the same bytes go to the log, to the peers and to
/// `apply`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Command(pub Bytes);

/// What the state machine answered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Response(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "response of {} bytes", self.0.len())
    }
}

/// What openraft knows of a member. Shared: openraft copies it at every tick and with every change of the leader.
pub type SharedMember = Arc<Member>;

/// openraft's type configuration over a runtime.
pub struct Types<R>(PhantomData<fn() -> R>);

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Types<R> {}
impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for Types<R> {}
impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<R: AsyncRuntime> openraft::RaftTypeConfig for Types<R> {
    type D = Command;
    type R = Response;
    type NodeId = NodeId;
    type Node = SharedMember;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, NodeId, SharedMember>;
    type Entry = openraft::Entry<CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = R;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// openraft's structs over our types. They do not depend on the runtime.
pub mod raft {
    use super::*;

    /// Term and index of an entry.
    pub type LogId = openraft::LogId<CommittedLeaderId<u64>>;
    /// Term, candidate, and whether it won.
    pub type Vote = openraft::Vote<openraft::impls::leader_id_std::LeaderId<u64, NodeId>>;
    /// A configuration.
    pub type Membership = openraft::Membership<NodeId, SharedMember>;
    /// A configuration with the entry that carried it.
    pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId<u64>, NodeId, SharedMember>;
    /// What an entry carries.
    pub type Payload = openraft::EntryPayload<Command, NodeId, SharedMember>;
    /// A log entry.
    pub type Entry = openraft::Entry<CommittedLeaderId<u64>, Payload>;
    /// What a snapshot covers.
    pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId<u64>, NodeId, SharedMember>;
}

/// Ours from openraft's.
pub fn log_id_from(id: &raft::LogId) -> LogId {
    LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// openraft's from ours.
pub fn log_id_to(id: LogId) -> raft::LogId {
    raft::LogId::new(CommittedLeaderId { term: id.term }, id.index)
}

/// Ours from openraft's.
pub fn vote_from(vote: &raft::Vote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

/// openraft's from ours.
pub fn vote_to(vote: &Vote) -> raft::Vote {
    let mut to = raft::Vote::new(vote.term, vote.node);
    to.committed = vote.committed;
    to
}

/// Ours from openraft's.
pub fn membership_from(membership: &raft::Membership) -> Membership {
    Membership {
        configs: membership.get_joint_config().clone(),
        members: membership.nodes().map(|(id, member)| (*id, Member::clone(member))).collect(),
    }
}

/// openraft's from ours.
pub fn nodes_to(members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, SharedMember> {
    members.iter().map(|(id, member)| (*id, Arc::new(member.clone()))).collect()
}

/// openraft's from ours. A decoded [`Membership`] has already been checked (every voter is a member), which is what
/// openraft would refuse.
///
/// # Errors
/// What openraft has against it.
pub fn membership_to(membership: &Membership) -> Result<raft::Membership, String> {
    raft::Membership::new(membership.configs.clone(), nodes_to(&membership.members)).map_err(|e| e.to_string())
}

/// Ours from openraft's.
pub fn stored_membership_from(stored: &raft::StoredMembership) -> StoredMembership {
    StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_from),
        membership: membership_from(stored.membership()),
    }
}

/// openraft's from ours.
///
/// # Errors
/// What openraft has against it.
pub fn stored_membership_to(stored: &StoredMembership) -> Result<raft::StoredMembership, String> {
    if stored.log_id.is_none() && stored.membership.configs.is_empty() {
        return Ok(raft::StoredMembership::default());
    }
    Ok(raft::StoredMembership::new(stored.log_id.map(log_id_to), membership_to(&stored.membership)?))
}

/// Ours from openraft's. Copies no command bytes.
pub fn entry_from(entry: &raft::Entry) -> Entry {
    Entry {
        log_id: log_id_from(&entry.log_id),
        payload: match &entry.payload {
            raft::Payload::Blank => Payload::Blank,
            raft::Payload::Normal(command) => Payload::Command(command.0.clone()),
            raft::Payload::Membership(membership) => Payload::Membership(membership_from(membership)),
        },
    }
}

/// openraft's from ours. Copies no command bytes.
///
/// # Errors
/// What openraft has against the membership it carries.
pub fn entry_to(entry: Entry) -> Result<raft::Entry, String> {
    Ok(raft::Entry {
        log_id: log_id_to(entry.log_id),
        payload: match entry.payload {
            Payload::Blank => raft::Payload::Blank,
            Payload::Command(bytes) => raft::Payload::Normal(Command(bytes)),
            Payload::Membership(membership) => raft::Payload::Membership(membership_to(&membership)?),
        },
    })
}

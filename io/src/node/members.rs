//! Who belongs to the cluster: adding, removing and promoting members, and handing leadership over, from any node.

use quorate_core::NodeId;

use super::Node;
use crate::error::{Reason, WriteError};
use crate::platform::Platform;

/// A node that is to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its name, which must be the one it was started with.
    pub name: String,
    /// `host:port` addresses where peers reach it, in order of preference.
    pub peer_addrs: Vec<String>,
    /// Whether it shall receive the log and never vote.
    pub learner: bool,
}

/// Why a change of the membership was not made, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No member has this name or id.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is: another change is under way, a name or an address is taken, the node is a voter already.
    #[error("{0}")]
    Conflict(String),
    /// Too few voters of the new configuration can be reached to be its quorum.
    #[error("{0}")]
    WouldLoseQuorum(String),
    /// The node that is to be added, or to lead, does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing was changed: trying again is safe.
    #[error("not applied: {0}")]
    NotApplied(Reason),
    /// It may have been changed, or may yet be: look at the members before trying again.
    #[error("outcome unknown: {0}")]
    Unknown(Reason),
}

impl From<WriteError> for MemberError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotApplied(reason) => Self::NotApplied(reason),
            WriteError::Unknown(reason) => Self::Unknown(reason),
        }
    }
}

impl<P: Platform> Node<P> {
    /// Makes the node at these addresses a member and returns its id. It must be blank, and wait with
    /// [`NodeConfig::join`](super::NodeConfig) or [`InitialState::Existing`](super::InitialState). It becomes a learner
    /// at once, and a voter when it has caught up, unless it shall stay a learner; that goes on without the caller.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_member(&self, _new: NewMember) -> Result<NodeId, MemberError> {
        Err(not_yet())
    }

    /// Removes a member: `who` is its id, as 16 hexadecimal digits, or its name. Unless `force` is set, a removal is
    /// refused after which the voters that can be reached would be no quorum. A node that is removed stops itself.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn remove_member(&self, _who: &str, _force: bool) -> Result<NodeId, MemberError> {
        Err(not_yet())
    }

    /// Makes a learner that has caught up a voter: `who` as of [`Node::remove_member`].
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn promote_member(&self, _who: &str) -> Result<NodeId, MemberError> {
        Err(not_yet())
    }

    /// Hands leadership to a voter that has caught up: `to` as of [`Node::remove_member`], or whoever is furthest.
    /// Returns who leads then.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn transfer_leadership(&self, _to: Option<&str>) -> Result<NodeId, MemberError> {
        Err(not_yet())
    }
}

fn not_yet() -> MemberError {
    MemberError::NotApplied(Reason::Unreachable("changes of the membership are not implemented yet".to_owned()))
}

//! Who belongs to the cluster: adding, removing and promoting members, and handing leadership over, from any node. What
//! the leader does about it is in [`lead`]; what is proposed is decided in [`quorate_core::membership`].

mod lead;

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use quorate_core::wire::{
    Failure, Fault, LeaderHint, MemberAction, MemberDone, MemberRefusal, MemberRequest, RefusalKind, Request, Response,
};
use quorate_core::{ClusterId, LogId, Member, NodeId};

pub(super) use lead::Origin;

use super::requests::{Attempt, failure, reason};
use super::{Node, StopError};
use crate::error::{Reason, WriteError};
use crate::jobs::lock;
use crate::platform::Platform;
use crate::transport::{CallError, PeerIdentity, Target};
use crate::types::log_id_from;

/// How long a node that was removed is still talked to, and goes on itself: what is on its way gets an answer.
const FAREWELL: Duration = Duration::from_secs(1);

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

/// Why a change failed, before its kind is made a variant.
enum ChangeError {
    Refused(MemberRefusal),
    Failed(WriteError),
}

impl ChangeError {
    fn refused(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self::Refused(MemberRefusal::new(kind, text))
    }
}

impl From<MemberRefusal> for ChangeError {
    fn from(refusal: MemberRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<WriteError> for ChangeError {
    fn from(error: WriteError) -> Self {
        Self::Failed(error)
    }
}

impl From<ChangeError> for MemberError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Failed(error) => error.into(),
            ChangeError::Refused(MemberRefusal { kind, text }) => match kind {
                RefusalKind::Conflict | RefusalKind::Taken => Self::Conflict(text),
                RefusalKind::NotFound => Self::NotFound(text),
                RefusalKind::WouldLoseQuorum => Self::WouldLoseQuorum(text),
                RefusalKind::Unreachable => Self::Unreachable(text),
            },
        }
    }
}

type Changed = Attempt<MemberDone, ChangeError>;

impl<P: Platform> Node<P> {
    /// Makes the node at these addresses a member and returns its id. It must be blank, and wait with
    /// [`NodeConfig::join`](super::NodeConfig) or [`InitialState::Existing`](super::InitialState). It becomes a learner
    /// at once, and a voter when it has caught up, unless it shall stay a learner; that goes on without the caller.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_member(&self, new: NewMember) -> Result<NodeId, MemberError> {
        let NewMember { name, peer_addrs, learner: stays_learner } = new;
        self.change(MemberAction::Add { name, peer_addrs, stays_learner }).await
    }

    /// Removes a member: `who` is its id, as 16 hexadecimal digits, or its name. Unless `force` is set, a removal is
    /// refused after which the voters that can be reached would be no quorum. A node that is removed stops itself.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn remove_member(&self, who: &str, force: bool) -> Result<NodeId, MemberError> {
        self.change(MemberAction::Remove { who: who.to_owned(), force }).await
    }

    /// Makes a learner that has caught up a voter: `who` as of [`Node::remove_member`].
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn promote_member(&self, who: &str) -> Result<NodeId, MemberError> {
        self.change(MemberAction::Promote { who: who.to_owned() }).await
    }

    /// Hands leadership to a voter: `to` as of [`Node::remove_member`], or whoever is furthest. Returns who leads then.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<NodeId, MemberError> {
        self.change(MemberAction::Transfer { to: to.map(str::to_owned) }).await
    }

    async fn change(&self, action: MemberAction) -> Result<NodeId, MemberError> {
        Ok(self.change_somewhere(action).await?.node)
    }

    /// Has a change made by the leader, wherever that is.
    async fn change_somewhere(&self, action: MemberAction) -> Result<MemberDone, ChangeError> {
        if let Some(error) = self.failure() {
            return Err(WriteError::NotApplied(Reason::Storage(error.to_string())).into());
        }
        let mut retry = self.retry()?;
        loop {
            let attempt = match self.leader() {
                None => Attempt::Again(Reason::NoLeader),
                Some((id, _)) if id == self.node_id() => self.lead_change(&action, retry.left()).await,
                Some((_, target)) => self.forward_change(&target, &action, retry.left()).await,
            };
            match attempt {
                Attempt::Done(done) => return Ok(done),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(reason) => retry.pause(reason).await?,
            }
        }
    }

    async fn forward_change(&self, target: &Target, action: &MemberAction, left: Duration) -> Changed {
        // Less for the leader than for us, so that its answer still finds us.
        let deadline_ms = u64::try_from((left * 9 / 10).as_millis()).unwrap_or(u64::MAX);
        let request = Request::Member(MemberRequest { deadline_ms, action: action.clone() });
        let unknown = |reason| Attempt::Failed(WriteError::Unknown(reason).into());
        match self.inner.peers.call(target, &request, left).await {
            Ok(Response::Member(Ok(done))) => Attempt::Done(done),
            Ok(Response::Member(Err(refusal))) => Attempt::Failed(refusal.into()),
            Ok(Response::NotLeader(_)) => Attempt::Again(Reason::NoLeader),
            Ok(Response::Failed(e)) if e.unknown => unknown(reason(e.fault)),
            Ok(Response::Failed(e)) => Attempt::Again(reason(e.fault)),
            Ok(_) => unknown(Reason::Invalid("an answer to another question".into())),
            Err(CallError::NotSent(e)) => Attempt::Again(Reason::Unreachable(e.to_string())),
            Err(CallError::Unknown(e)) => unknown(Reason::Unreachable(e.to_string())),
        }
    }

    /// A change that another node asks for. Members have it made here, if this node leads; a blank one may ask anybody
    /// to be admitted.
    pub(super) async fn handle_member(&self, from: &PeerIdentity, request: MemberRequest) -> Response {
        let cluster = self.inner.identity.cluster();
        let not_ready = |why: &str| Response::Failed(Failure::not_applied(Fault::NotReady(why.to_owned())));
        let invalid = |why: &str| Response::Failed(Failure::not_applied(Fault::Invalid(why.to_owned())));
        let attempt = match request.action {
            MemberAction::Admit { cluster, at } if from.cluster_id == cluster && cluster != ClusterId::NONE => {
                return self.handle_admit(cluster, at).await;
            }
            MemberAction::Admit { .. } => return invalid("the sender does not belong to that cluster"),
            _ if cluster == ClusterId::NONE => return not_ready("this node belongs to no cluster itself"),
            MemberAction::Join { id, .. } if from.cluster_id == ClusterId::NONE && from.node_id == id => {
                match self.change_somewhere(request.action).await {
                    Ok(done) => Attempt::Done(done),
                    Err(error) => Attempt::Failed(error),
                }
            }
            _ if from.cluster_id != cluster => return not_ready("not members of the same cluster"),
            action => {
                if let MemberAction::Moved { id, peer_addrs, .. } = &action
                    && *id == from.node_id
                {
                    // Whoever leads or not: there may be no leader before this node has asked that one for its vote.
                    self.inner.peers.hint(Some(*id), peer_addrs);
                }
                let timeout = Duration::from_millis(request.deadline_ms).min(self.inner.config.request_timeout);
                self.lead_change(&action, timeout).await
            }
        };
        match attempt {
            Attempt::Done(done) => Response::Member(Ok(done)),
            Attempt::Again(_) => Response::NotLeader(self.leader_hint()),
            Attempt::Failed(ChangeError::Refused(refusal)) => Response::Member(Err(refusal)),
            Attempt::Failed(ChangeError::Failed(error)) => Response::Failed(failure(&error)),
        }
    }

    /// Whether a committed membership that this node knows has no `node`, and is newer than what that node relies on.
    pub(super) fn has_seen_removed(&self, node: NodeId, relies_on: Option<LogId>) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let committed = metrics.borrow_watched().committed_membership_config.clone();
        committed.log_id().as_ref().map(log_id_from) > relies_on && committed.get_node(&node).is_none()
    }

    /// Follows the membership: says in handshakes what is known of it, keeps where peers may be, parts from members
    /// that were removed, and leaves if this node was.
    pub(super) async fn watch_members(&self) {
        let mut metrics = self.inner.raft.server_metrics();
        let (own, listed) = (self.node_id(), &self.inner.config.founding.members);
        let mut before = BTreeSet::new();
        loop {
            let (committed, effective) = {
                let metrics = metrics.borrow_and_update();
                (metrics.committed_membership_config.clone(), metrics.membership_config.clone())
            };
            for (id, member) in effective.nodes().filter(|(id, _)| **id != own) {
                // Names and lists are for people, and a list may be newer than the membership.
                let listed = listed.get(&member.name).into_iter().flatten();
                let addrs: Vec<_> = listed.chain(&member.peer_addrs).cloned().collect();
                self.inner.peers.hint(Some(*id), &addrs);
            }
            let at = committed.log_id().as_ref().map(log_id_from);
            let members: BTreeSet<_> = committed.nodes().map(|(id, _)| *id).collect();
            let newest = self.inner.identity.know_membership(at);
            for gone in before.difference(&members).filter(|id| **id != own) {
                self.part_from(*gone);
            }
            if at.is_some() && at == newest && !members.contains(&own) {
                P::Runtime::sleep(FAREWELL).await;
                return self.leave().await;
            }
            before = members;
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn part_from(&self, id: NodeId) {
        let node = self.clone();
        self.spawn(async move {
            P::Runtime::sleep(FAREWELL).await;
            if let Some(server) = &*lock(&node.inner.server) {
                server.disconnect(id);
            }
            node.inner.peers.forget(id);
        });
    }

    /// Stops this node: it was removed.
    pub(super) async fn leave(&self) {
        self.fail(StopError::Removed(self.inner.identity.cluster()));
        // It neither leads nor votes from here on.
        let _ = self.inner.raft.shutdown().await;
    }

    /// Whether this node is what it is to be: a voter, unless it shall stay a learner.
    pub(super) fn has_its_place(&self) -> Result<(), String> {
        let metrics = self.inner.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        match membership.get_node(&self.node_id()) {
            None => Err("this node was admitted to its cluster and has not heard from the leader yet".to_owned()),
            Some(member) if member.stays_learner => Ok(()),
            Some(_) if membership.voter_ids().any(|id| id == self.node_id()) => Ok(()),
            Some(_) => Err("this node is catching up and does not vote yet".to_owned()),
        }
    }

    /// Tells the leader where this node is, if the membership says otherwise.
    async fn say_where(&self) {
        let config = &self.inner.config;
        let own = self.node_id();
        let Some(record) = self.record_of(own) else { return self.ask_strangers().await };
        // A founding list has no addresses of APIs; cards tell them.
        let api_moved = !record.api_addrs.is_empty() && record.api_addrs != config.api_addrs;
        if config.peer_addrs.is_empty() || (record.peer_addrs == config.peer_addrs && !api_moved) {
            return;
        }
        let (peer_addrs, api_addrs) = (config.peer_addrs.clone(), config.api_addrs.clone());
        let action = MemberAction::Moved { id: own, peer_addrs, api_addrs };
        if self.leader().is_none() {
            self.look_for_leader(&action).await;
            return;
        }
        match self.change(action.clone()).await {
            Ok(_) => tracing::info!(addrs = ?config.peer_addrs, "the cluster knows the new addresses of this node"),
            Err(error) => {
                tracing::debug!(%error, "the cluster does not know the new addresses of this node yet");
                // Who led when this node last heard of a leader may lead no more.
                self.look_for_leader(&action).await;
            }
        }
    }

    /// A leader that does not know where this node is cannot make itself known here: whoever can be reached says who it
    /// is, and it is asked then, also if it became a member while this node was away. Of those whom this node's log names
    /// all may have been removed since: so it asks where it was told to, too.
    async fn look_for_leader(&self, action: &MemberAction) {
        let members = self.inner.raft.server_metrics().borrow_watched().membership_config.clone();
        let others = members.nodes().filter(|(id, _)| **id != self.node_id());
        let others = others.map(|(id, member)| Target { node: Some(*id), addrs: member.peer_addrs.clone() });
        self.ask_around(self.member_request(action.clone()), others.chain(self.strangers())).await;
    }

    /// A node that was admitted, and has no log yet that says so, asks where it was told to, and whom that log names: it may
    /// have been removed since, or the leader may not know where it is.
    async fn ask_strangers(&self) {
        if self.inner.identity.cluster() == ClusterId::NONE {
            return;
        }
        let config = &self.inner.config;
        let (id, peer_addrs, api_addrs) = (self.node_id(), config.peer_addrs.clone(), config.api_addrs.clone());
        let request = match peer_addrs.is_empty() {
            // Nobody is told where it is.
            true => Request::Founding(self.own_card()),
            false => self.member_request(MemberAction::Moved { id, peer_addrs, api_addrs }),
        };
        let members = self.inner.raft.server_metrics().borrow_watched().membership_config.clone();
        let members = members.nodes().map(|(id, member)| Target { node: Some(*id), addrs: member.peer_addrs.clone() });
        self.ask_around(request, self.strangers().chain(members)).await;
    }

    /// Whoever is where this node was told to ask, or where the founding list says that others are.
    fn strangers(&self) -> impl Iterator<Item = Target> {
        let config = &self.inner.config;
        config.told_peers().chain(config.listed_peers()).map(|addrs| Target { node: None, addrs })
    }

    /// Tells the leader, by way of these, or leaves if it was removed.
    async fn ask_around(&self, request: Request, others: impl Iterator<Item = Target>) {
        if self.tell_leader(request, others).await.is_err() {
            self.leave().await;
        }
    }

    fn member_request(&self, action: MemberAction) -> Request {
        let deadline_ms = u64::try_from(self.inner.config.request_timeout.as_millis()).unwrap_or(u64::MAX);
        Request::Member(MemberRequest { deadline_ms, action })
    }

    /// Asks these, and whom they take for the leader, until one has done it; an error if this node was removed.
    async fn tell_leader(&self, request: Request, others: impl Iterator<Item = Target>) -> Result<(), CallError> {
        let timeout = self.inner.config.request_timeout;
        for target in others {
            let mut answer = self.inner.peers.call(&target, &request, timeout).await;
            if let Ok(Response::NotLeader(Some(LeaderHint { id, member }))) = &answer
                && *id != self.node_id()
            {
                self.inner.peers.hint(Some(*id), &member.peer_addrs);
                let leader = Target { node: Some(*id), addrs: member.peer_addrs.clone() };
                answer = self.inner.peers.call(&leader, &request, timeout).await;
            }
            match answer {
                Ok(Response::Member(_)) => return Ok(()),
                Err(error) if error.is_removal() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn record_of(&self, id: NodeId) -> Option<Member> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&id).map(|member| Member::clone(member))
    }
}

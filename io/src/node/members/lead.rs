//! What a leader does about the membership: one change at a time, each through openraft's joint consensus, bounded by
//! the request's deadline. What a crash or a deadline leaves half done, and promotions, it sees to unasked; so they
//! survive a change of the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, PreconditionFailed, RaftError};
use openraft::raft::Precondition;
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Instant};
use openraft_rt::AsyncRuntime;
use prost::Message;
use quorate_core::founding::Card;
use quorate_core::membership::{CAUGHT_UP_ENTRIES, Change, Proposal, Sight, Verdict, View, find};
use quorate_core::wire::{MemberAction, MemberDone, MemberRequest, RefusalKind, Request, Response};
use quorate_core::{LogId, Member, Membership, NodeId};

use super::{ChangeError, Changed};
use crate::error::{Reason, WriteError};
use crate::jobs::lock;
use crate::node::Node;
use crate::node::requests::{Attempt, forwarded, stopped};
use crate::platform::Platform;
use crate::transport::Target;
use crate::types::{Types, log_id_from, log_id_to, membership_from, nodes_to, raft};

/// How often a leader looks whether there is something to finish or to promote.
const TEND_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at a change that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// For an answer of a member that is up.
const PING_WITHIN: Duration = Duration::from_secs(1);
/// For the card of a node that is to be added, and for telling it that it was.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// For whom the membership is being changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Origin {
    /// Somebody asked for it: two of these contradict each other.
    Operator,
    /// A node by itself: these wait.
    Node,
}

/// The turn to change the membership, given up when dropped.
struct Turn<'a>(&'a Mutex<Option<Origin>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

/// The membership as its leader sees it.
struct Seen {
    at: Option<LogId>,
    committed: bool,
    membership: Membership,
    sights: BTreeMap<NodeId, Sight>,
}

impl Seen {
    fn reachable_are(&mut self, ids: &BTreeSet<NodeId>) {
        self.sights.iter_mut().for_each(|(id, sight)| sight.reachable = ids.contains(id));
    }

    fn view(&self) -> View<'_> {
        View { membership: &self.membership, seen: &self.sights }
    }
}

/// What came of a proposal.
enum Proposed {
    Committed(LogId),
    /// Nothing was done: the membership had changed meanwhile, or the last change is not committed.
    Outdated,
    Again(Reason),
    Failed(WriteError),
}

type Moment<P> = InstantOf<Types<<P as Platform>::Runtime>>;

fn left<P: Platform>(deadline: Moment<P>) -> Duration {
    deadline.saturating_duration_since(Moment::<P>::now())
}

/// What an action asks for, of this membership.
fn change_of(
    action: &MemberAction,
    added: Option<&(NodeId, Member)>,
    membership: &Membership,
) -> Result<Change, ChangeError> {
    Ok(match (action, added) {
        (_, Some((id, member))) => Change::Add { id: *id, member: member.clone() },
        (MemberAction::Remove { who, force }, _) => Change::Remove { id: find(membership, who)?, force: *force },
        (MemberAction::Promote { who }, _) => Change::Promote { id: find(membership, who)? },
        (MemberAction::Moved { id, peer_addrs, api_addrs }, _) => {
            Change::Move { id: *id, peer_addrs: peer_addrs.clone(), api_addrs: api_addrs.clone() }
        }
        _ => return Err(ChangeError::refused(RefusalKind::Conflict, "that is no change of the membership")),
    })
}

fn under_way() -> ChangeError {
    let text = "another change of the membership is under way; try again when it is done";
    ChangeError::refused(RefusalKind::Conflict, text)
}

impl<P: Platform> Node<P> {
    /// Makes a change, if this node leads.
    pub(super) async fn lead_change(&self, action: &MemberAction, timeout: Duration) -> Changed {
        let deadline = Moment::<P>::now() + timeout;
        let at = self.membership_at();
        let done = match action {
            MemberAction::Transfer { to } => self.lead_transfer(to.as_deref(), deadline).await,
            _ => {
                let origin = match action {
                    MemberAction::Join { .. } | MemberAction::Moved { .. } => Origin::Node,
                    _ => Origin::Operator,
                };
                let _turn = match self.turn(origin, deadline).await {
                    Ok(turn) => turn,
                    Err(error) => return Attempt::Failed(error),
                };
                self.lead_members(action, deadline).await
            }
        };
        match done {
            Ok(attempt) => attempt,
            Err(error) if matches!(error, ChangeError::Refused(_)) => self.confirm(error, &at, deadline).await,
            Err(error) => Attempt::Failed(error),
        }
    }

    /// One that was deposed, and does not know it yet, may refuse what its successor would do; and a node that is refused
    /// its place ends. So whoever refuses makes sure that it still leads, and went by the newest membership.
    async fn confirm(&self, refused: ChangeError, at: &Option<raft::LogId>, deadline: Moment<P>) -> Changed {
        let left = left::<P>(deadline);
        if left.is_zero() {
            return Attempt::Failed(refused);
        }
        match self.read_index(left).await {
            Attempt::Done(_) if self.membership_at() == *at => Attempt::Failed(refused),
            Attempt::Done(_) => Attempt::Again(Reason::LeaderChanged),
            Attempt::Again(reason) => Attempt::Again(reason),
            Attempt::Failed(error) => Attempt::Failed(error.into()),
        }
    }

    async fn lead_members(&self, action: &MemberAction, deadline: Moment<P>) -> Result<Changed, ChangeError> {
        let added = match action {
            MemberAction::Add { name, peer_addrs, stays_learner } => {
                Some(self.newcomer(name, peer_addrs, *stays_learner).await?)
            }
            MemberAction::Join { id, member } => Some((*id, member.clone())),
            _ => None,
        };
        let cluster = self.inner.identity.cluster();
        // Who died a moment ago must not be counted on, and who is there not be replaced.
        let answering = match action {
            MemberAction::Moved { .. } => None,
            MemberAction::Join { id, member } => {
                let (answering, there) = futures_util::join!(self.who_answers(), self.is_there(*id, member));
                there?;
                Some(answering)
            }
            _ => Some(self.who_answers().await),
        };
        loop {
            let Some(mut seen) = self.see_members() else { return Ok(Attempt::Again(Reason::NoLeader)) };
            if let Some(answering) = &answering {
                seen.reachable_are(answering);
            }
            let change = change_of(action, added.as_ref(), &seen.membership)?;
            let node = change.id();
            let verdict = if seen.committed { seen.view().decide(change) } else { Verdict::Wait };
            let proposal = match verdict {
                Verdict::Refuse(refusal) => return Err(refusal.into()),
                // `at` is there: a membership has members.
                Verdict::Done => {
                    return Ok(Attempt::Done(MemberDone { cluster, node, at: seen.at.unwrap_or_default() }));
                }
                Verdict::Propose(proposal) => Some(proposal),
                Verdict::Wait if seen.committed => Some(Proposal::Finish),
                Verdict::Wait => None,
            };
            let finishes = matches!(proposal, Some(Proposal::Finish));
            let proposed = match proposal {
                Some(proposal) => self.propose_members(&proposal, seen.at, left::<P>(deadline)).await,
                None => Proposed::Outdated,
            };
            match proposed {
                Proposed::Committed(_) if finishes => {}
                Proposed::Committed(at) => {
                    if matches!(action, MemberAction::Add { .. }) {
                        // Once; it is told again until it has heard.
                        self.tell_admitted(node, at).await;
                    }
                    return Ok(Attempt::Done(MemberDone { cluster, node, at }));
                }
                Proposed::Again(reason) => return Ok(Attempt::Again(reason)),
                Proposed::Failed(error) => return Err(error.into()),
                Proposed::Outdated if left::<P>(deadline).is_zero() => return Err(under_way()),
                Proposed::Outdated => P::Runtime::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// The turn to change the membership.
    async fn turn(&self, origin: Origin, deadline: Moment<P>) -> Result<Turn<'_>, ChangeError> {
        loop {
            let taken = {
                let mut changing = lock(&self.inner.changing);
                if changing.is_none() {
                    *changing = Some(origin);
                    return Ok(Turn(&self.inner.changing));
                }
                *changing
            };
            let contradict = origin == Origin::Operator && taken == Some(Origin::Operator);
            if contradict || left::<P>(deadline).is_zero() {
                return Err(under_way());
            }
            P::Runtime::sleep(LOOK_EVERY).await;
        }
    }

    /// The members that answer when they are asked now, this one included.
    async fn who_answers(&self) -> BTreeSet<NodeId> {
        let membership = self.inner.raft.server_metrics().borrow_watched().membership_config.clone();
        let ping = Request::Founding(self.own_card());
        let (ping, own) = (&ping, self.node_id());
        let asked = membership.nodes().filter(|(id, _)| **id != own).map(|(id, member)| async move {
            let target = Target { node: Some(*id), addrs: member.peer_addrs.clone() };
            self.inner.peers.call(&target, ping, PING_WITHIN).await.is_ok().then_some(*id)
        });
        join_all(asked).await.into_iter().flatten().chain([own]).collect()
    }

    /// A node that asked to be admitted may be gone by the time at which the leader hears of it: it would take the place of
    /// its own successor.
    async fn is_there(&self, id: NodeId, member: &Member) -> Result<(), ChangeError> {
        // By its address alone: it may have asked before, from another one.
        let target = Target { node: None, addrs: member.peer_addrs.clone() };
        let ping = Request::Founding(self.own_card());
        let why = match self.inner.peers.call(&target, &ping, PING_WITHIN).await {
            Ok(Response::Founding(bytes)) => match Card::decode(bytes) {
                Ok(card) if card.node_id == id.0 => return Ok(()),
                Ok(card) => format!("node {} answers there", NodeId(card.node_id)),
                Err(error) => error.to_string(),
            },
            Ok(_) => "it answers another question".to_owned(),
            Err(error) => error.to_string(),
        };
        let text = format!("the leader does not reach node {id} at {}: {why}", member.peer_addrs.join(", "));
        Err(ChangeError::refused(RefusalKind::Unreachable, text))
    }

    /// `None` if this node does not lead, or is no member any more.
    fn see_members(&self) -> Option<Seen> {
        // So long without an answer counts as gone: a follower acknowledges every heartbeat.
        let silence_max = Duration::from_millis(2 * self.inner.config.timing.election_timeout_max_ms());
        let now = Moment::<P>::now();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref().filter(|_| metrics.current_leader == Some(metrics.id))?;
        let heard = metrics.heartbeat.as_ref()?;
        let last = metrics.last_log_index.map_or(0, |index| index + 1);
        let sight = |id: NodeId| {
            if id == metrics.id {
                return Sight { reachable: true, behind: Some(0) };
            }
            let heard = heard.get(&id).and_then(Option::as_ref);
            let reachable = heard.is_some_and(|heard| now.saturating_duration_since(**heard) <= silence_max);
            let matched = replication.get(&id).and_then(Option::as_ref);
            Sight { reachable, behind: matched.map(|matched| last.saturating_sub(matched.index + 1)) }
        };
        let membership = membership_from(metrics.membership_config.membership());
        // Once it has removed itself it leads on for a moment, and has no say in who is a member any more.
        if !membership.members.contains_key(&metrics.id) {
            return None;
        }
        let sights = membership.members.keys().map(|id| (*id, sight(*id))).collect();
        let committed = metrics.membership_config == metrics.committed_membership_config;
        let at = metrics.membership_config.log_id().as_ref().map(log_id_from);
        Some(Seen { at, committed, membership, sights })
    }

    async fn propose_members(&self, proposal: &Proposal, at: Option<LogId>, within: Duration) -> Proposed {
        let changes = match proposal {
            Proposal::Members { set, drop } => ChangeMembers::Batch(vec![
                ChangeMembers::SetNodes(nodes_to(set)),
                ChangeMembers::RemoveNodes(drop.clone()),
            ]),
            Proposal::Voters { add, remove } => {
                let (add, remove): (BTreeSet<_>, _) = (add.iter().copied().collect(), remove.iter().copied().collect());
                ChangeMembers::Batch(vec![ChangeMembers::AddVoterIds(add), ChangeMembers::RemoveVoters(remove)])
            }
            Proposal::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
        };
        tracing::info!(?proposal, "changing the membership");
        let seen = at.map(log_id_to);
        let still = [Precondition::LastMembershipLogId { last_membership_log_id: seen }];
        // Who is removed leaves the membership altogether.
        let proposed = self.inner.raft.change_membership_if(changes, false, still);
        let unknown = |reason| Proposed::Failed(WriteError::Unknown(reason));
        match P::Runtime::timeout(within, proposed).await {
            Err(_) => unknown(Reason::Timeout),
            Ok(Ok(written)) => Proposed::Committed(log_id_from(&written.log_id)),
            Ok(Err(RaftError::Fatal(fatal))) => unknown(stopped(&fatal)),
            Ok(Err(RaftError::APIError(error))) => match error {
                // Of the first step or of the second, which finishes what the first has begun.
                ClientWriteError::ForwardToLeader(to) if self.membership_at() == seen => {
                    Proposed::Again(forwarded(&to))
                }
                ClientWriteError::ForwardToLeader(_) => unknown(Reason::LeaderChanged),
                ClientWriteError::LogEntryDiscarded(_) => unknown(Reason::LeaderChanged),
                ClientWriteError::PreconditionFailed(PreconditionFailed::LastMembershipLogIdMismatch {
                    expected,
                    ..
                }) if expected == seen => Proposed::Outdated,
                ClientWriteError::PreconditionFailed(_) => unknown(Reason::LeaderChanged),
                ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => Proposed::Outdated,
                ClientWriteError::ChangeMembershipError(e) => {
                    Proposed::Failed(WriteError::NotApplied(Reason::Invalid(e.to_string())))
                }
            },
        }
    }

    /// Where in the log the newest membership is that this node has.
    fn membership_at(&self) -> Option<raft::LogId> {
        *self.inner.raft.server_metrics().borrow_watched().membership_config.log_id()
    }

    /// Asks the node that is to be added who it is.
    async fn newcomer(
        &self,
        name: &str,
        peer_addrs: &[String],
        stays_learner: bool,
    ) -> Result<(NodeId, Member), ChangeError> {
        let conflict = |text: String| Err(ChangeError::refused(RefusalKind::Conflict, text));
        let target = Target { node: None, addrs: peer_addrs.to_vec() };
        let addrs = peer_addrs.join(", ");
        let unreachable = |why: String| {
            let text = format!("no node that could be added answers at {addrs}: {why}; start it first");
            ChangeError::refused(RefusalKind::Unreachable, text)
        };
        if peer_addrs.iter().any(|addr| self.inner.config.peer_addrs.contains(addr)) {
            // It would take itself for a copy of its disk.
            return conflict(format!("{addrs} is where the leader itself is reached"));
        }
        let ask = Request::Founding(Default::default());
        let card = match self.inner.peers.call(&target, &ask, ANSWER_WITHIN).await {
            Ok(Response::Founding(bytes)) => Card::decode(bytes).map_err(|e| unreachable(e.to_string()))?,
            Ok(_) => return Err(unreachable("it answers another question".to_owned())),
            Err(error) => return Err(unreachable(error.to_string())),
        };
        let id = NodeId(card.node_id);
        if card.name != name {
            return conflict(format!("the node at {addrs} is named {:?}, not {name:?}", card.name));
        }
        if card.cluster == self.inner.identity.cluster().0 {
            return conflict(format!("{name:?} at {addrs} is a member already: {id}"));
        }
        if card.cluster != 0 {
            return conflict(format!(
                "{name:?} at {addrs} belongs to another cluster, {:016x}; only a node without data can be added",
                card.cluster
            ));
        }
        if !card.waits {
            return conflict(format!(
                "{name:?} at {addrs} is about to found a cluster of its own; start it so that it waits to be added \
                 (join, or an initial state of existing)"
            ));
        }
        let (peer_addrs, api_addrs, in_memory) = (peer_addrs.to_vec(), card.api_addrs, card.in_memory);
        Ok((id, Member { name: card.name, peer_addrs, api_addrs, stays_learner, in_memory, replaces: None }))
    }

    /// Tells a new member that it is one.
    async fn tell_admitted(&self, id: NodeId, at: LogId) {
        let Some(member) = self.record_of(id) else { return };
        let action = MemberAction::Admit { cluster: self.inner.identity.cluster(), at };
        let request = Request::Member(MemberRequest { deadline_ms: ANSWER_WITHIN.as_millis() as u64, action });
        let target = Target { node: Some(id), addrs: member.peer_addrs };
        let told = self.inner.peers.call(&target, &request, ANSWER_WITHIN).await;
        tracing::debug!(member = %id, ?told, "told a new member that it is one");
    }

    /// Sees to what nobody asks for. Runs as long as the node does.
    pub(in crate::node) async fn tend_members(&self) {
        loop {
            P::Runtime::sleep(TEND_EVERY).await;
            self.tend().await;
            self.say_where().await;
        }
    }

    async fn tend(&self) {
        let Some(seen) = self.see_members().filter(|seen| seen.committed) else { return };
        if let Some(at) = seen.at {
            // Nothing of the log is there: it may not know that it is a member. One that votes did once.
            let silent = seen.sights.iter().filter(|(id, s)| s.behind.is_none() && !seen.membership.is_voter(**id));
            let silent = silent.map(|(id, _)| *id);
            join_all(silent.map(|id| self.tell_admitted(id, at))).await;
        }
        let within = self.inner.config.request_timeout;
        if seen.view().tend().is_none() {
            return;
        }
        let Ok(_turn) = self.turn(Origin::Node, Moment::<P>::now() + within).await else { return };
        // As it is now that it is our turn. One that died a moment ago must not be made a voter, nor be counted on.
        let answering = self.who_answers().await;
        let Some(mut seen) = self.see_members().filter(|seen| seen.committed) else { return };
        seen.reachable_are(&answering);
        let Some(proposal) = seen.view().tend() else { return };
        if let Proposed::Failed(error) = self.propose_members(&proposal, seen.at, within).await {
            tracing::warn!(?proposal, %error, "the membership is not as it is to be yet");
        }
    }

    /// Hands leadership over, and waits until somebody else leads.
    async fn lead_transfer(&self, to: Option<&str>, deadline: Moment<P>) -> Result<Changed, ChangeError> {
        let answering = self.who_answers().await;
        let Some(seen) = self.see_members() else { return Ok(Attempt::Again(Reason::NoLeader)) };
        let (own, cluster, at) = (self.node_id(), self.inner.identity.cluster(), seen.at.unwrap_or_default());
        let heir = match to {
            Some(who) => find(&seen.membership, who)?,
            None => {
                let fit = |id: &NodeId, peer: &crate::node::Seen, _| answering.contains(id) && !peer.disk_full;
                self.heir(fit).ok_or_else(|| {
                    ChangeError::refused(RefusalKind::Unreachable, "no other voter answers that could lead")
                })?
            }
        };
        if heir == own {
            return Ok(Attempt::Done(MemberDone { cluster, node: own, at }));
        }
        if !seen.membership.is_voter(heir) {
            let text = format!("{:?} is a learner: promote it first", to.unwrap_or_default());
            return Err(ChangeError::refused(RefusalKind::Conflict, text));
        }
        if !answering.contains(&heir) {
            let text = format!("{:?} does not answer: it cannot lead", to.unwrap_or_default());
            return Err(ChangeError::refused(RefusalKind::Unreachable, text));
        }
        if seen.sights.get(&heir).and_then(|sight| sight.behind).is_some_and(|entries| entries > CAUGHT_UP_ENTRIES) {
            let text = format!("{:?} has not caught up; try again later", to.unwrap_or_default());
            return Err(ChangeError::refused(RefusalKind::Conflict, text));
        }
        self.hand_over_to(heir, left::<P>(deadline)).await;
        let mut metrics = self.inner.raft.server_metrics();
        let other = |leader: Option<NodeId>| leader.filter(|id| *id != own);
        let follows = metrics.wait_until(|m| other(m.current_leader).is_some());
        // An election may take a moment more.
        let _ = P::Runtime::timeout(left::<P>(deadline).max(LOOK_EVERY), follows).await;
        let leader = other(metrics.borrow_watched().current_leader);
        match leader {
            Some(node) => Ok(Attempt::Done(MemberDone { cluster, node, at })),
            None => Err(WriteError::Unknown(Reason::Timeout).into()),
        }
    }
}

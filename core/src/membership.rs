//! Changes of the membership, decided: what the leader proposes for a request, or why it refuses, as a function of the
//! membership in force and of what it sees of the members.
//!
//! | asked for | that is | proposed, or refused |
//! |---|---|---|
//! | anything | while the configuration is joint | nothing yet: the change under way is finished first |
//! | add | a member already | nothing: it is done |
//! | | named like nobody | a learner |
//! | | named like members of whom none answers, their voter, if any, being in memory | a learner that replaces the voter among them; the learners among them go |
//! | | named like any other member | refused: the name is taken |
//! | remove | a learner | its record goes |
//! | | the last voter | refused |
//! | | a voter, and the reachable ones of the others are no majority of them | refused unless forced |
//! | | any other voter | a joint change without it |
//! | promote | reachable, caught up, with a quorum reachable afterwards | a joint change with it, and without whom it replaces |
//! | move | at other addresses than its record says | its record is replaced |
//!
//! A voter that is replaced counts until its successor has caught up and the joint change is committed: so a lost
//! minority is replaced, and a lost majority is not papered over.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Member, Membership, NodeId};
use crate::wire::{MemberRefusal, RefusalKind};

/// A learner has caught up when it lacks no more entries than this.
pub const CAUGHT_UP_ENTRIES: u64 = 256;

/// What the leader sees of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Whether it has answered of late.
    pub reachable: bool,
    /// How many entries of the leader's log it lacks; `None` if that is not known yet.
    pub behind: Option<u64>,
}

impl Sight {
    /// Whether it could vote at once.
    fn is_ready(self) -> bool {
        self.reachable && self.behind.is_some_and(|entries| entries <= CAUGHT_UP_ENTRIES)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node becomes a member.
    Add {
        /// Its id.
        id: NodeId,
        /// What it says of itself; whom it replaces is decided here.
        member: Member,
    },
    /// A member leaves.
    Remove {
        /// Which.
        id: NodeId,
        /// Also if too few of the others can be reached.
        force: bool,
    },
    /// A learner becomes a voter.
    Promote {
        /// Which.
        id: NodeId,
    },
    /// A member is at other addresses.
    Move {
        /// Which.
        id: NodeId,
        /// Where peers reach it.
        peer_addrs: Vec<String>,
        /// Where clients reach it.
        api_addrs: Vec<String>,
    },
}

impl Change {
    /// Whom it is about.
    pub fn id(&self) -> NodeId {
        match self {
            Self::Add { id, .. } | Self::Remove { id, .. } | Self::Promote { id } | Self::Move { id, .. } => *id,
        }
    }
}

/// What to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Records of members that are added or replaced, and learners that leave. No voter changes.
    Members {
        /// Added or replaced.
        set: BTreeMap<NodeId, Member>,
        /// They leave.
        drop: BTreeSet<NodeId>,
    },
    /// A change of the voters, through a joint configuration. Who is removed leaves the membership.
    Voters {
        /// Learners that become voters.
        add: Option<NodeId>,
        /// A voter that leaves.
        remove: Option<NodeId>,
    },
    /// The end of a joint configuration that a crash has left.
    Finish,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Propose this.
    Propose(Proposal),
    /// It is as it should be.
    Done,
    /// Ask again when the change under way is finished.
    Wait,
    /// It cannot be.
    Refuse(MemberRefusal),
}

fn refuse(kind: RefusalKind, text: String) -> Verdict {
    Verdict::Refuse(MemberRefusal::new(kind, text))
}

/// The member that `who` means: an id of 16 hexadecimal digits, or a name.
///
/// # Errors
/// There is none, or there are two of that name.
pub fn find(membership: &Membership, who: &str) -> Result<NodeId, MemberRefusal> {
    if who.len() == 16
        && let Ok(id) = who.parse()
        && membership.members.contains_key(&id)
    {
        return Ok(id);
    }
    let named: Vec<_> = membership.members.iter().filter(|(_, member)| member.name == who).map(|(id, _)| *id).collect();
    match named[..] {
        [id] => Ok(id),
        [] => Err(MemberRefusal::new(RefusalKind::NotFound, format!("no member has the name or the id {who:?}"))),
        _ => {
            let ids: Vec<_> = named.iter().map(ToString::to_string).collect();
            let text = format!("{} members are named {who:?}; say which by its id: {}", ids.len(), ids.join(", "));
            Err(MemberRefusal::new(RefusalKind::Conflict, text))
        }
    }
}

/// The members as their leader sees them.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// In force, and committed.
    pub membership: &'a Membership,
    /// What is seen of them; who is missing has not been seen.
    pub seen: &'a BTreeMap<NodeId, Sight>,
}

impl View<'_> {
    /// What to do about a request: see the [module](self).
    pub fn decide(self, change: Change) -> Verdict {
        if self.membership.is_joint() {
            return Verdict::Wait;
        }
        let (id, member) = (change.id(), self.membership.members.get(&change.id()));
        match (change, member) {
            (Change::Add { .. }, Some(_)) => Verdict::Done,
            (Change::Add { member, .. }, None) => self.add(id, member),
            (_, None) => refuse(RefusalKind::NotFound, format!("node {id} is no member")),
            (Change::Remove { force, .. }, Some(member)) => self.remove(id, member, force),
            (Change::Promote { .. }, Some(member)) => self.promote(id, member),
            (Change::Move { peer_addrs, api_addrs, .. }, Some(member)) => {
                let moved = Member { peer_addrs, api_addrs, ..member.clone() };
                if moved == *member {
                    return Verdict::Done;
                }
                let set = BTreeMap::from([(id, moved)]);
                Verdict::Propose(Proposal::Members { set, drop: BTreeSet::new() })
            }
        }
    }

    /// What a leader proposes unasked: the end of a joint configuration, and promotions of learners that are ready. Those
    /// that replace a voter come first: with a lost voter in it, a larger configuration bears less.
    pub fn tend(self) -> Option<Proposal> {
        if self.membership.is_joint() {
            return Some(Proposal::Finish);
        }
        let learners =
            self.membership.members.iter().filter(|(id, m)| !self.membership.is_voter(**id) && !m.stays_learner);
        let (successors, others): (Vec<_>, Vec<_>) = learners.partition(|(_, member)| member.replaces.is_some());
        successors.into_iter().chain(others).find_map(|(id, member)| match self.promote(*id, member) {
            Verdict::Propose(proposal) => Some(proposal),
            _ => None,
        })
    }

    fn sight(self, id: NodeId) -> Sight {
        self.seen.get(&id).copied().unwrap_or_default()
    }

    fn add(self, id: NodeId, mut member: Member) -> Verdict {
        let members = &self.membership.members;
        let name = &member.name;
        for (other_id, other) in members {
            // A learner has promised nothing that anybody counts on: one that is lost makes room by itself.
            if other.name == *name && !other.in_memory && self.membership.is_voter(*other_id) {
                let text = format!(
                    "the name {name:?} belongs to member {other_id}; if that node is lost, remove it first, or give \
                     the new one another name"
                );
                return refuse(RefusalKind::Taken, text);
            }
            if !self.sight(*other_id).reachable {
                continue;
            }
            if other.name == *name {
                let text = format!("member {other_id} has the name {name:?}, and answers: it is not replaced");
                return refuse(RefusalKind::Conflict, text);
            }
            if let Some(addr) = other.peer_addrs.iter().find(|addr| member.peer_addrs.contains(addr)) {
                let text = format!("{addr} is the address of member {:?}, which answers", other.name);
                return refuse(RefusalKind::Conflict, text);
            }
        }
        let (old, drop): (Vec<_>, Vec<_>) =
            members.iter().filter(|(_, m)| m.name == *name).partition(|(id, _)| self.membership.is_voter(**id));
        member.stays_learner |= old.is_empty() && !drop.is_empty() && drop.iter().all(|(_, m)| m.stays_learner);
        member.replaces = old.first().map(|(id, _)| **id);
        let drop = drop.into_iter().map(|(id, _)| *id).collect();
        Verdict::Propose(Proposal::Members { set: BTreeMap::from([(id, member)]), drop })
    }

    fn remove(self, id: NodeId, member: &Member, force: bool) -> Verdict {
        if !self.membership.is_voter(id) {
            let (set, drop) = (BTreeMap::new(), BTreeSet::from([id]));
            return Verdict::Propose(Proposal::Members { set, drop });
        }
        let voters = self.voters(None, Some(id));
        if voters.is_empty() {
            let text = format!("{:?} is the last voter: without it there is no cluster", member.name);
            return refuse(RefusalKind::WouldLoseQuorum, text);
        }
        match self.lacks_quorum(&voters) {
            Some(why) if !force => {
                let text = format!("without {:?} the cluster could not go on: {why}", member.name);
                refuse(RefusalKind::WouldLoseQuorum, text)
            }
            _ => Verdict::Propose(Proposal::Voters { add: None, remove: Some(id) }),
        }
    }

    fn promote(self, id: NodeId, member: &Member) -> Verdict {
        let (name, sight) = (&member.name, self.sight(id));
        if self.membership.is_voter(id) {
            return refuse(RefusalKind::Conflict, format!("{name:?} is a voter already"));
        }
        if !sight.reachable {
            return refuse(RefusalKind::Unreachable, format!("{name:?} does not answer"));
        }
        if !sight.is_ready() {
            let behind = sight.behind.map_or("all".to_owned(), |entries| entries.to_string());
            let text = format!("{name:?} has not caught up: it lacks {behind} entries; try again later");
            return refuse(RefusalKind::Conflict, text);
        }
        let replaced = member.replaces.filter(|old| self.membership.is_voter(*old));
        match self.lacks_quorum(&self.voters(Some(id), replaced)) {
            Some(why) => {
                let text = format!("with {name:?} as a voter the cluster could not go on: {why}");
                refuse(RefusalKind::WouldLoseQuorum, text)
            }
            None => Verdict::Propose(Proposal::Voters { add: Some(id), remove: replaced }),
        }
    }

    /// The voters after a change.
    fn voters(self, add: Option<NodeId>, remove: Option<NodeId>) -> BTreeSet<NodeId> {
        let now = self.membership.configs.iter().flatten().copied();
        now.filter(|id| Some(*id) != remove).chain(add).collect()
    }

    /// Why these would be no quorum, if they would not.
    fn lacks_quorum(self, voters: &BTreeSet<NodeId>) -> Option<String> {
        let missing: Vec<_> = voters.iter().filter(|id| !self.sight(**id).reachable).collect();
        if voters.len() - missing.len() > voters.len() / 2 {
            return None;
        }
        let name = |id: &&NodeId| self.membership.members.get(id).map_or_else(|| id.to_string(), |m| m.name.clone());
        let names: Vec<_> = missing.iter().map(name).collect();
        Some(format!("of its {} voters {} cannot be reached", voters.len(), names.join(", ")))
    }
}

#[cfg(test)]
mod tests;

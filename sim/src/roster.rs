//! Who is who: the identities that machines had, and the configurations that are in force.
//!
//! A machine that loses what it kept comes back as somebody else: that is another *life* of it. Whoever asks a node to
//! keep its word goes by lives, and so do the oracles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::RaftMetrics;
use quorate_io::types::{Types, log_id_from, membership_from};

use crate::platform::SimRuntime;

/// See [`life`].
const LIFE_SHIFT: u32 = 32;

/// The number of a machine's life: of its first one the machine's own.
fn life(machine: u32, lives_before: u64) -> u64 {
    u64::from(machine) | lives_before << LIFE_SHIFT
}

/// Whose life it is.
pub(crate) fn machine_of(life: u64) -> u32 {
    life as u32
}

/// Sets of voters, two while they are joint, by their nodes' ids.
pub(crate) type Voters = Vec<BTreeSet<u64>>;

#[derive(Clone, Debug)]
struct Config {
    voters: Voters,
    members: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Register {
    /// How often a machine has lost what it kept.
    lost_lives: BTreeMap<u32, u64>,
    /// The ids of machines, in their present lives.
    ids: BTreeMap<u32, u64>,
    /// Whose life an id is of.
    owners: BTreeMap<u64, u64>,
    /// Ids whose nodes have lost what they kept.
    lost: BTreeSet<u64>,
    /// Machines that were members at some time.
    entered: BTreeSet<u32>,
    /// By index and term: what somebody has in its log, unless a newer one is committed.
    configs: BTreeMap<(u64, u64), Config>,
    /// Of the newest that is committed.
    committed: Option<(u64, u64)>,
    /// How many the first configuration named.
    founders: Option<usize>,
    /// Ids that some configuration named.
    named: BTreeSet<u64>,
    /// A removal that was asked for.
    leaving: Option<u64>,
    /// Every removal that was ever asked for.
    dismissed: BTreeSet<u64>,
}

impl Register {
    /// The newest committed configuration.
    fn committed(&self) -> Option<&Config> {
        self.configs.get(&self.committed?)
    }

    /// These voters, if this learner became one: in the place of its machine's former life, if that votes.
    fn promoted(&self, voters: &BTreeSet<u64>, learner: u64) -> BTreeSet<u64> {
        let machine = |id: &u64| self.owners.get(id).map(|life| machine_of(*life));
        let others = voters.iter().copied().filter(|id| machine(id) != machine(&learner));
        others.chain([learner]).collect()
    }
}

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Register>>);

/// What a node's metrics told anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Index and voters of a configuration that nobody has had before.
    pub config: Option<(u64, Voters)>,
    /// The index of a configuration that is committed now.
    pub committed: Option<u64>,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present life of a machine.
    pub(crate) fn life(&self, machine: u32) -> u64 {
        life(machine, self.lock().lost_lives.get(&machine).copied().unwrap_or(0))
    }

    /// A machine has lost, or is about to lose, what it kept: whatever promised it never comes back.
    pub(crate) fn lose(&self, machine: u32) {
        let mut register = self.lock();
        if let Some(id) = register.ids.get(&machine).copied() {
            register.lost.insert(id);
        }
    }

    /// A machine begins another life, with nothing.
    pub(crate) fn begin_life(&self, machine: u32) {
        let mut register = self.lock();
        if let Some(id) = register.ids.remove(&machine) {
            register.lost.insert(id);
        }
        *register.lost_lives.entry(machine).or_default() += 1;
    }

    /// A machine's node has this id.
    ///
    /// # Errors
    /// Another life has it, or this one has another.
    pub(crate) fn is_called(&self, machine: u32, id: u64) -> Result<(), String> {
        let own = self.life(machine);
        let mut register = self.lock();
        let owner = *register.owners.entry(id).or_insert(own);
        let before = *register.ids.entry(machine).or_insert(id);
        let lives = |life: u64| format!("n{machine} in its life {}", (life >> LIFE_SHIFT) + 1);
        if owner != own {
            let other = format!("n{} in its life {}", machine_of(owner), (owner >> LIFE_SHIFT) + 1);
            return Err(format!("{id:016x} is the id of {}, and was that of {other}", lives(own)));
        }
        if before != id {
            return Err(format!("{} has the id {id:016x}, and had {before:016x}", lives(own)));
        }
        Ok(())
    }

    /// What a machine's node says about the membership. Only what is new is told.
    pub(crate) fn observe(&self, machine: u32, metrics: &RaftMetrics<Types<SimRuntime>>) -> News {
        let mut register = self.lock();
        let mut news = News::default();
        let key = |stored: &quorate_io::types::raft::StoredMembership| {
            stored.log_id().as_ref().map(log_id_from).map(|id| (id.index, id.term))
        };
        if let Some(at) = key(&metrics.membership_config) {
            register.entered.insert(machine);
            let known = register.configs.contains_key(&at) || register.committed.is_some_and(|newest| at < newest);
            if !known {
                let membership = membership_from(metrics.membership_config.membership());
                let voters: Voters =
                    membership.configs.iter().map(|half| half.iter().map(|id| id.0).collect()).collect();
                let members: BTreeSet<u64> = membership.members.keys().map(|id| id.0).collect();
                register.named.extend(&members);
                register.founders = register.founders.or(Some(members.len()));
                news.config = Some((at.0, voters.clone()));
                register.configs.insert(at, Config { voters, members });
            }
        }
        let committed = key(&metrics.committed_membership_config);
        if committed > register.committed {
            register.committed = committed;
            news.committed = committed.map(|(index, _)| index);
            if let Some(at) = committed {
                register.configs.retain(|of, _| *of >= at);
            }
        }
        news
    }

    /// How many nodes founded the cluster, if it is founded.
    pub(crate) fn founders(&self) -> Option<usize> {
        self.lock().founders
    }

    /// Whether a membership that was told named this id, or nobody has told one: in memory a cluster may be founded by
    /// second lives.
    pub(crate) fn names(&self, id: u64) -> bool {
        let register = self.lock();
        register.named.is_empty() || register.named.contains(&id)
    }

    /// The voters of the configurations that may count now: of the newest committed one, of any that came after it, and
    /// of what would be left of each without the member whose removal was asked for. Empty before the cluster is founded.
    fn voters_in_force(register: &Register) -> Vec<(BTreeSet<u64>, &BTreeSet<u64>)> {
        let mut all = Vec::new();
        for config in register.configs.values() {
            for half in &config.voters {
                let less = register.leaving.filter(|id| half.contains(id)).map(|id| {
                    let mut less = half.clone();
                    less.remove(&id);
                    less
                });
                all.extend(less.filter(|less| !less.is_empty()).map(|less| (less, &config.members)));
                all.push((half.clone(), &config.members));
            }
        }
        all
    }

    /// Whether in every configuration in force the voters that are lost, and the members whose machines are among these,
    /// are a minority, and would be if a learner were promoted; `None` if there is no configuration yet.
    pub(crate) fn are_a_minority(&self, machines: &BTreeSet<u32>) -> Option<bool> {
        let register = self.lock();
        let owner = |id: &u64| register.owners.get(id).map(|life| machine_of(*life));
        let is_present = |id: &u64| owner(id).is_some_and(|machine| register.ids.get(&machine) == Some(id));
        let is_bad = |id: &u64| is_present(id) && owner(id).is_some_and(|machine| machines.contains(&machine));
        let is_minority = |voters: &BTreeSet<u64>| {
            let bad = voters.iter().filter(|id| register.lost.contains(id) || is_bad(id)).count();
            bad <= (voters.len() - 1) / 2
        };
        let within = |voters: &BTreeSet<u64>, members: &BTreeSet<u64>| {
            is_minority(voters) && members.difference(voters).all(|id| is_minority(&register.promoted(voters, *id)))
        };
        let in_force = Self::voters_in_force(&register);
        (!in_force.is_empty()).then(|| in_force.iter().all(|(voters, members)| within(voters, members)))
    }

    /// Whether these machines, as they are now, are a majority of every configuration in force, and would be if a learner
    /// were promoted.
    pub(crate) fn are_a_quorum(&self, machines: &[u32]) -> bool {
        let register = self.lock();
        let ids: BTreeSet<u64> = machines.iter().filter_map(|machine| register.ids.get(machine).copied()).collect();
        let is_majority = |voters: &BTreeSet<u64>| voters.intersection(&ids).count() > voters.len() / 2;
        let within = |voters: &BTreeSet<u64>, members: &BTreeSet<u64>| {
            is_majority(voters) && members.difference(voters).all(|id| is_majority(&register.promoted(voters, *id)))
        };
        Self::voters_in_force(&register).iter().all(|(voters, members)| within(voters, members))
    }

    /// Whether a machine's node votes in the newest committed configuration.
    pub(crate) fn votes(&self, machine: u32) -> bool {
        let register = self.lock();
        let id = register.ids.get(&machine);
        register.committed().zip(id).is_some_and(|(config, id)| config.voters.iter().all(|half| half.contains(id)))
    }

    /// Whether there is a committed configuration, and a machine's node is no member of the newest one.
    pub(crate) fn has_left(&self, machine: u32) -> bool {
        let register = self.lock();
        let id = register.ids.get(&machine);
        register.committed().zip(id).is_some_and(|(config, id)| !config.members.contains(id))
    }

    /// Whether a machine's node is in no configuration in force: nobody relies on it.
    pub(crate) fn is_nobody(&self, machine: u32) -> bool {
        let register = self.lock();
        let id = register.ids.get(&machine);
        !id.is_some_and(|id| register.configs.values().any(|config| config.members.contains(id)))
    }

    /// The id of a machine's node.
    pub(crate) fn present_id(&self, machine: u32) -> Option<u64> {
        self.lock().ids.get(&machine).copied()
    }

    /// The id of a machine's node, if it is a member as far as the newest committed configuration says.
    pub(crate) fn present_member(&self, machine: u32) -> Option<u64> {
        let register = self.lock();
        let config = register.committed()?;
        register.ids.get(&machine).copied().filter(|id| config.members.contains(id))
    }

    /// A member of a configuration in force that was the node of this machine, in this life or another: voters first.
    pub(crate) fn member_at(&self, machine: u32) -> Option<u64> {
        let register = self.lock();
        let of = |id: &&u64| register.owners.get(id).is_some_and(|life| machine_of(*life) == machine);
        let mut voters = register.configs.values().flat_map(|config| config.voters.iter().flatten());
        voters.find(of).or_else(|| register.configs.values().flat_map(|config| &config.members).find(of)).copied()
    }

    /// Whether an id is that of a member, as far as the newest committed configuration says.
    pub(crate) fn is_member(&self, id: u64) -> bool {
        let register = self.lock();
        register.committed().is_none_or(|config| config.members.contains(&id))
    }

    /// Whether a machine was a member at some time.
    pub(crate) fn has_entered(&self, machine: u32) -> bool {
        self.lock().entered.contains(&machine)
    }

    /// A removal was asked for; `None`: it is over.
    pub(crate) fn set_leaving(&self, id: Option<u64>) {
        self.lock().leaving = id;
    }

    /// An operator asks for a removal, until it is done.
    pub(crate) fn dismiss(&self, id: u64) {
        self.lock().dismissed.insert(id);
    }

    /// Whether somebody ever asked for the removal of a machine's node.
    pub(crate) fn is_dismissed(&self, machine: u32) -> bool {
        let register = self.lock();
        register.ids.get(&machine).is_some_and(|id| register.dismissed.contains(id))
    }

    /// Whether a removal was asked for and is not over.
    pub(crate) fn is_leaving(&self) -> bool {
        self.lock().leaving.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_core::{LogId, Member, Membership, NodeId, StoredMembership};
    use quorate_io::types::stored_membership_to;

    use super::*;

    /// What a node tells that has these sets of voters, and these learners, at this index, committed or not.
    fn tells(roster: &Roster, machine: u32, index: u64, voters: &[&[u64]], learners: &[u64], committed: bool) {
        let ids = voters.iter().copied().flatten().chain(learners);
        let membership = Membership {
            configs: voters.iter().map(|half| half.iter().copied().map(NodeId).collect()).collect(),
            members: ids.map(|id| (NodeId(*id), Member { name: format!("{id}"), ..Member::default() })).collect(),
        };
        let stored = StoredMembership { log_id: Some(LogId { term: 1, index }), membership };
        let stored = Arc::new(stored_membership_to(&stored).expect("it is valid"));
        let mut metrics = RaftMetrics::new_initial(NodeId(u64::from(machine)));
        metrics.membership_config = stored.clone();
        if committed {
            metrics.committed_membership_config = stored;
        }
        roster.observe(machine, &metrics);
    }

    /// Machines 1, 2, … with nodes of the ids 1, 2, ….
    fn of(machines: u32) -> Roster {
        let roster = Roster::default();
        (1..=machines).for_each(|machine| roster.is_called(machine, u64::from(machine)).expect("new"));
        roster
    }

    fn minority(roster: &Roster, machines: &[u32]) -> bool {
        roster.are_a_minority(&machines.iter().copied().collect()).expect("there is a configuration")
    }

    #[test]
    fn an_id_is_of_one_life_and_a_life_has_one_id() {
        let roster = of(2);
        roster.is_called(1, 1).expect("the same again");
        assert!(roster.is_called(1, 7).expect_err("another").contains("had 0000000000000001"));
        assert!(roster.is_called(2, 1).expect_err("of 1").contains("n1 in its life 1"));
        roster.begin_life(1);
        assert!(roster.is_called(1, 1).expect_err("it is another life").contains("n1 in its life 2"));
        let roster = of(1);
        roster.begin_life(1);
        roster.is_called(1, 9).expect("a new id");
        assert_eq!((machine_of(roster.life(1)), roster.life(1) == 1), (1, false));
    }

    #[test]
    fn what_is_lost_counts_until_a_committed_configuration_does_without_it() {
        let roster = of(3);
        assert_eq!(roster.are_a_minority(&BTreeSet::new()), None);
        tells(&roster, 1, 0, &[&[1, 2, 3]], &[], true);
        assert!(minority(&roster, &[3]) && !minority(&roster, &[2, 3]));
        roster.lose(3);
        roster.begin_life(3);
        roster.is_called(3, 13).expect("new");
        assert!(minority(&roster, &[3]) && !minority(&roster, &[2]), "3 is lost");
        // Its successor is lost, too: that is still one of three.
        tells(&roster, 1, 4, &[&[1, 2, 3]], &[13], true);
        assert!(minority(&roster, &[3]) && !minority(&roster, &[2]));
        tells(&roster, 1, 5, &[&[1, 2, 3], &[1, 2, 13]], &[], false);
        assert!(minority(&roster, &[]) && !minority(&roster, &[2]) && minority(&roster, &[3]));
        tells(&roster, 1, 6, &[&[1, 2, 13]], &[], true);
        assert!(minority(&roster, &[2]) && roster.votes(3) && !roster.is_nobody(3));
        assert!(roster.names(3) && !roster.is_member(3) && roster.member_at(3) == Some(13));
    }

    #[test]
    fn a_learner_counts_as_if_it_were_promoted_and_a_removal_as_if_it_were_done() {
        let roster = of(6);
        tells(&roster, 1, 3, &[&[1, 2, 3, 4, 5]], &[6], true);
        assert!(minority(&roster, &[2, 3]) && !minority(&roster, &[2, 3, 6]) && minority(&roster, &[3, 6]));
        assert!(!roster.are_a_quorum(&[1, 2, 3]) && roster.are_a_quorum(&[1, 2, 3, 6]), "four of six are needed then");
        let roster = of(3);
        tells(&roster, 1, 3, &[&[1, 2, 3]], &[], true);
        roster.set_leaving(Some(1));
        assert!(!minority(&roster, &[2]), "of 2 and 3 both are needed");
        assert!(roster.is_leaving() && !roster.has_left(1));
        tells(&roster, 2, 4, &[&[2, 3]], &[], true);
        roster.set_leaving(None);
        assert!(roster.has_left(1) && roster.is_nobody(1) && roster.present_member(1).is_none());
        assert!(roster.are_a_quorum(&[2, 3]) && !roster.are_a_quorum(&[1, 2]));
    }
}

//! Every row of the table, and that whatever is proposed leaves a quorum of those that are reachable.

use proptest::prelude::*;

use super::*;

const READY: Sight = Sight { reachable: true, behind: Some(0) };
const LOST: Sight = Sight { reachable: false, behind: Some(0) };

fn named(name: &str) -> Member {
    Member { name: name.to_owned(), peer_addrs: vec![format!("{name}:2380")], ..Member::default() }
}

fn in_memory(name: &str) -> Member {
    Member { in_memory: true, ..named(name) }
}

/// Members 1, 2, … with these records; the first `voters` of them vote.
fn cluster(members: &[Member], voters: u64) -> Membership {
    Membership {
        configs: vec![(1..=voters).map(NodeId).collect()],
        members: (1..).map(NodeId).zip(members.iter().cloned()).collect(),
    }
}

fn seen(sights: &[Sight]) -> BTreeMap<NodeId, Sight> {
    (1..).map(NodeId).zip(sights.iter().copied()).collect()
}

fn decide(membership: &Membership, sights: &[Sight], change: Change) -> Verdict {
    View { membership, seen: &seen(sights) }.decide(change)
}

fn refused(verdict: Verdict) -> RefusalKind {
    match verdict {
        Verdict::Refuse(refusal) => refusal.kind,
        other => panic!("{other:?}"),
    }
}

fn add(id: u64, member: Member) -> Change {
    Change::Add { id: NodeId(id), member }
}

fn remove(id: u64, force: bool) -> Change {
    Change::Remove { id: NodeId(id), force }
}

fn members(set: &[(u64, Member)], drop: &[u64]) -> Verdict {
    let set = set.iter().map(|(id, member)| (NodeId(*id), member.clone())).collect();
    Verdict::Propose(Proposal::Members { set, drop: drop.iter().copied().map(NodeId).collect() })
}

fn voters(add: Option<u64>, remove: Option<u64>) -> Verdict {
    Verdict::Propose(Proposal::Voters { add: add.map(NodeId), remove: remove.map(NodeId) })
}

#[test]
fn a_member_is_meant_by_its_id_or_by_a_name_that_is_its_alone() {
    let mut membership = cluster(&[named("a"), named("b"), named("b"), named("0000000000000001")], 4);
    assert_eq!(find(&membership, "a"), Ok(NodeId(1)));
    assert_eq!(find(&membership, "0000000000000003"), Ok(NodeId(3)));
    assert_eq!(find(&membership, "0000000000000001"), Ok(NodeId(1)), "an id wins");
    assert_eq!(find(&membership, "c").unwrap_err().kind, RefusalKind::NotFound);
    assert_eq!(find(&membership, "1").unwrap_err().kind, RefusalKind::NotFound);
    let both = find(&membership, "b").unwrap_err();
    assert!(both.kind == RefusalKind::Conflict && both.text.contains("0000000000000003"), "{both}");
    membership.members.remove(&NodeId(1));
    membership.configs[0].remove(&NodeId(1));
    assert_eq!(find(&membership, "0000000000000001"), Ok(NodeId(4)), "a name may look like an id");
}

#[test]
fn nothing_is_changed_while_the_configuration_is_joint() {
    let mut membership = cluster(&[named("a"), named("b")], 2);
    membership.configs.push([NodeId(1)].into());
    for change in [add(3, named("c")), remove(2, true), Change::Promote { id: NodeId(2) }] {
        assert_eq!(decide(&membership, &[READY, READY], change), Verdict::Wait);
    }
    let view = View { membership: &membership, seen: &seen(&[READY, LOST]) };
    assert_eq!(view.tend(), Some(Proposal::Finish));
}

#[test]
fn who_is_added_is_a_learner_first() {
    let membership = cluster(&[named("a")], 1);
    assert_eq!(decide(&membership, &[READY], add(2, named("b"))), members(&[(2, named("b"))], &[]));
    assert_eq!(decide(&membership, &[READY], add(1, named("x"))), Verdict::Done, "asked again with the same id");
    assert_eq!(refused(decide(&membership, &[LOST], add(2, named("a")))), RefusalKind::Taken);
    let elsewhere = Member { peer_addrs: vec!["a:2380".into()], ..named("b") };
    assert_eq!(refused(decide(&membership, &[READY], add(2, elsewhere.clone()))), RefusalKind::Conflict);
    assert_eq!(decide(&membership, &[LOST], add(2, elsewhere.clone())), members(&[(2, elsewhere)], &[]));
}

/// A node that asked to be admitted and lost its disk before it heard of it comes back under another id.
#[test]
fn a_learner_that_is_lost_makes_room_for_one_of_its_name() {
    let mut membership = cluster(&[named("a"), named("b")], 1);
    assert_eq!(refused(decide(&membership, &[READY, READY], add(3, named("b")))), RefusalKind::Conflict, "it answers");
    assert_eq!(decide(&membership, &[READY, LOST], add(3, named("b"))), members(&[(3, named("b"))], &[2]));
    membership.configs[0].insert(NodeId(2));
    assert_eq!(refused(decide(&membership, &[READY, LOST], add(3, named("b")))), RefusalKind::Taken, "it votes");
}

#[test]
fn a_member_in_memory_is_replaced_once_it_is_gone() {
    let three = [in_memory("a"), in_memory("b"), in_memory("c")];
    let mut membership = cluster(&three, 3);
    let successor = |old| Member { replaces: Some(NodeId(old)), ..in_memory("c") };
    let mut sights = vec![READY, READY, READY];
    assert_eq!(refused(decide(&membership, &sights, add(4, in_memory("c")))), RefusalKind::Conflict, "it is alive");
    sights[2] = LOST;
    assert_eq!(decide(&membership, &sights, add(4, in_memory("c"))), members(&[(4, successor(3))], &[]));

    // Until it has caught up, the old one counts.
    membership.members.insert(NodeId(4), successor(3));
    sights.push(Sight { reachable: true, behind: None });
    assert_eq!(View { membership: &membership, seen: &seen(&sights) }.tend(), None);
    sights[3] = READY;
    let swap = Proposal::Voters { add: Some(NodeId(4)), remove: Some(NodeId(3)) };
    assert_eq!(View { membership: &membership, seen: &seen(&sights) }.tend(), Some(swap.clone()));

    // Before a learner that replaces nobody.
    let mut crowded = membership.clone();
    crowded.members.insert(NodeId(0), in_memory("d"));
    let mut with_zero = seen(&sights);
    with_zero.insert(NodeId(0), READY);
    assert_eq!(View { membership: &crowded, seen: &with_zero }.tend(), Some(swap));

    // It is lost in turn: its record goes, the old voter is still the one to be replaced.
    sights[3] = LOST;
    assert_eq!(decide(&membership, &sights, add(5, in_memory("c"))), members(&[(5, successor(3))], &[4]));
    // One that is no voter is no longer to be replaced.
    membership.configs[0].remove(&NodeId(3));
    sights[3] = READY;
    let view = View { membership: &membership, seen: &seen(&sights) };
    assert_eq!(view.tend(), Some(Proposal::Voters { add: Some(NodeId(4)), remove: None }));

    // A learner that was to stay one is one again.
    let learner = Member { stays_learner: true, ..in_memory("l") };
    let membership = cluster(&[named("a"), learner.clone()], 1);
    assert_eq!(decide(&membership, &[READY, LOST], add(3, in_memory("l"))), members(&[(3, learner)], &[2]));
}

#[test]
fn a_removal_leaves_a_quorum_or_is_forced_and_never_takes_the_last_voter() {
    let one = cluster(&[named("a"), named("l")], 1);
    assert_eq!(refused(decide(&one, &[READY, READY], remove(1, true))), RefusalKind::WouldLoseQuorum);
    assert_eq!(decide(&one, &[READY, LOST], remove(2, false)), members(&[], &[2]));
    assert_eq!(refused(decide(&one, &[READY], remove(9, true))), RefusalKind::NotFound);
    let three = cluster(&[named("a"), named("b"), named("c")], 3);
    assert_eq!(decide(&three, &[READY, READY, LOST], remove(3, false)), voters(None, Some(3)));
    assert_eq!(decide(&three, &[READY, READY, READY], remove(1, false)), voters(None, Some(1)));
    let verdict = decide(&three, &[READY, READY, LOST], remove(2, false));
    let Verdict::Refuse(refusal) = &verdict else { panic!("{verdict:?}") };
    assert!(refusal.kind == RefusalKind::WouldLoseQuorum && refusal.text.contains('c'), "{refusal}");
    assert_eq!(decide(&three, &[READY, READY, LOST], remove(2, true)), voters(None, Some(2)));
}

#[test]
fn a_learner_is_promoted_when_it_is_ready() {
    let stays = Member { stays_learner: true, ..named("d") };
    let membership = cluster(&[named("a"), named("b"), named("c"), stays], 2);
    let promote = |id, sight| {
        let mut sights = [READY; 4];
        sights[id as usize - 1] = sight;
        decide(&membership, &sights, Change::Promote { id: NodeId(id) })
    };
    assert_eq!(promote(3, READY), voters(Some(3), None));
    assert_eq!(promote(4, READY), voters(Some(4), None), "asked for");
    assert_eq!(refused(promote(2, READY)), RefusalKind::Conflict);
    assert_eq!(refused(promote(3, LOST)), RefusalKind::Unreachable);
    for behind in [None, Some(CAUGHT_UP_ENTRIES + 1)] {
        assert_eq!(refused(promote(3, Sight { reachable: true, behind })), RefusalKind::Conflict);
    }
    // Unasked, only who wishes to vote; and nobody whose vote the cluster would have to wait for.
    let tend = |sights: &[Sight]| View { membership: &membership, seen: &seen(sights) }.tend();
    assert_eq!(tend(&[READY; 4]), Some(Proposal::Voters { add: Some(NodeId(3)), remove: None }));
    assert_eq!(tend(&[READY, READY, LOST, READY]), None);
    assert_eq!(tend(&[READY, LOST, READY, READY]), Some(Proposal::Voters { add: Some(NodeId(3)), remove: None }));
    let verdict = decide(&membership, &[LOST, LOST, READY, READY], Change::Promote { id: NodeId(3) });
    assert_eq!(refused(verdict), RefusalKind::WouldLoseQuorum);
}

#[test]
fn new_addresses_replace_the_record_and_keep_the_rest_of_it() {
    let old = Member { stays_learner: true, in_memory: true, replaces: Some(NodeId(9)), ..named("b") };
    let membership = cluster(&[named("a"), old.clone()], 1);
    let moved = |addr: &str| Change::Move { id: NodeId(2), peer_addrs: vec![addr.to_owned()], api_addrs: vec![] };
    assert_eq!(decide(&membership, &[READY], moved("b:2380")), Verdict::Done);
    let new = Member { peer_addrs: vec!["z:1".into()], ..old };
    assert_eq!(decide(&membership, &[READY], moved("z:1")), members(&[(2, new)], &[]));
    let stranger = Change::Move { id: NodeId(7), peer_addrs: vec![], api_addrs: vec![] };
    assert_eq!(refused(decide(&membership, &[READY], stranger)), RefusalKind::NotFound);
}

proptest! {
    /// Of every combination: what is proposed and not forced has a reachable quorum, and no voter is left out but the
    /// one that is removed or replaced.
    #[test]
    fn what_is_proposed_has_a_quorum(
        voting in 1..6u64,
        sights in proptest::collection::vec((any::<bool>(), proptest::option::of(0..400u64)), 8),
        who in 1..9u64,
        removes in any::<bool>(),
        replaces in proptest::option::of(1..9u64),
    ) {
        let names: Vec<_> = (1..=8).map(|n| Member { replaces: replaces.map(NodeId), ..named(&format!("n{n}")) }).collect();
        let membership = cluster(&names, voting);
        let sights: Vec<_> = sights.into_iter().map(|(reachable, behind)| Sight { reachable, behind }).collect();
        let change = if removes { remove(who, false) } else { Change::Promote { id: NodeId(who) } };
        let verdict = decide(&membership, &sights, change);
        let unasked = View { membership: &membership, seen: &seen(&sights) }.tend().map(Verdict::Propose);
        for verdict in [Some(verdict), unasked].into_iter().flatten() {
            if let Verdict::Propose(Proposal::Voters { add, remove }) = verdict {
                let after: Vec<u64> = (1..=8).filter(|id| {
                    (*id <= voting && remove != Some(NodeId(*id))) || add == Some(NodeId(*id))
                }).collect();
                let reachable = after.iter().filter(|id| sights[**id as usize - 1].reachable).count();
                prop_assert!(reachable * 2 > after.len(), "{reachable} of {after:?}");
                prop_assert!(after.len() as u64 + 1 >= voting);
            }
        }
    }
}

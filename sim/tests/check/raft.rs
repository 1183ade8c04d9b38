//! Planted contradictions for every oracle over the nodes, next to what is right.

use sim::check::history::Violation;
use sim::check::raft::{
    APPLIED_STAYS, AppliedStays, At, COMMITTED_IMMUTABLE, COMMITTED_ON_QUORUM, CommittedImmutable, CommittedOnQuorum,
    DURABLE_VOTE, DurableVote, ELECTION_SAFETY, Effect, ElectionSafety, LEADER_COMPLETENESS, LOG_MATCHING,
    LeaderCompleteness, LogEntry, LogMatching, MATCH_STAYS, MONOTONIC, MatchStays, Monotonic, Progress, SINGLE_VOTE,
    STATE_MACHINE_EQUALITY, SingleVote, StateMachineEquality,
};

fn at(node: u64, time_ns: u64) -> At {
    At { node, time_ns }
}

/// (index, term, payload).
fn entry((index, term, payload_hash): (u64, u64, u64)) -> LogEntry {
    LogEntry { index, term, payload_hash }
}

fn property(result: Result<(), Violation>) -> &'static str {
    result.expect_err("a violation").property
}

#[test]
fn election_safety() {
    let mut oracle = ElectionSafety::default();
    oracle.observe(at(1, 10), 1, 1).expect("the first leader");
    oracle.observe(at(2, 20), 1, 1).expect("a follower agrees");
    oracle.observe(at(2, 30), 2, 2).expect("the next term");
    oracle.observe(at(1, 40), 2, 2).expect("a follower agrees");
    let found = oracle.observe(at(3, 50), 1, 3);
    assert_eq!(
        found.expect_err("two leaders").to_string(),
        "election safety: term 1 is led by 0000000000000003 (node 0000000000000003 at 50 ns) and by \
         0000000000000001 (node 0000000000000001 at 10 ns)"
    );
    assert_eq!(property(oracle.observe(at(3, 50), 2, 1)), ELECTION_SAFETY);
}

#[test]
fn log_matching() {
    let observe = |logs: &[&[(u64, u64, u64)]]| {
        let mut oracle = LogMatching::default();
        logs.iter().zip(1..).try_for_each(|(log, node)| {
            let entries: Vec<LogEntry> = log.iter().copied().map(entry).collect();
            oracle.observe(at(node, node), &entries)
        })
    };
    // Equal, shorter, purged, and divergent with other terms.
    let log: &[_] = &[(0, 1, 7), (1, 1, 8), (2, 2, 9)];
    observe(&[log, log, &log[..1], &log[1..], &[(0, 1, 7), (1, 1, 8), (2, 3, 5)]]).expect("matching logs");
    // Another payload under the same id.
    assert_eq!(property(observe(&[log, &[(1, 1, 6)]])), LOG_MATCHING);
    // The same entry after another predecessor.
    assert_eq!(property(observe(&[&[(1, 1, 8), (2, 3, 9)], &[(1, 2, 8), (2, 3, 9)]])), LOG_MATCHING);
    // A hole, and a term that goes back.
    assert_eq!(property(observe(&[&[(0, 1, 7), (2, 1, 8)]])), LOG_MATCHING);
    assert_eq!(property(observe(&[&[(0, 2, 7), (1, 1, 8)]])), LOG_MATCHING);
}

#[test]
fn committed_immutable() {
    let mut oracle = CommittedImmutable::default();
    for (node, applied) in [(1, (0, 1, 7)), (2, (0, 1, 7)), (1, (1, 2, 8)), (1, (0, 1, 7))] {
        oracle.observe(at(node, 10), entry(applied)).expect("the same entries");
    }
    for other in [(1, 3, 8), (1, 2, 9), (0, 0, 7)] {
        assert_eq!(property(oracle.clone().observe(at(2, 20), entry(other))), COMMITTED_IMMUTABLE);
    }
}

#[test]
fn monotonic() {
    let progress = |term, commit, applied| Progress { term, commit, applied };
    let mut oracle = Monotonic::default();
    oracle.observe(at(1, 10), 1, Progress::default()).expect("a blank node");
    oracle.observe(at(1, 20), 1, progress(2, Some(5), Some(4))).expect("progress");
    oracle.observe(at(1, 30), 1, progress(2, Some(5), Some(4))).expect("the same");
    oracle.observe(at(2, 30), 1, progress(1, None, None)).expect("another node");
    for back in [progress(1, Some(5), Some(4)), progress(2, Some(4), Some(4)), progress(3, Some(6), Some(3))] {
        assert_eq!(property(oracle.clone().observe(at(1, 40), 1, back)), MONOTONIC);
    }
    assert_eq!(property(oracle.clone().observe(at(1, 40), 1, progress(2, Some(5), Some(6)))), MONOTONIC);
    oracle.observe(at(1, 40), 2, progress(2, Some(3), Some(3))).expect("a restart may be behind");
    assert_eq!(property(oracle.observe(at(1, 50), 2, progress(2, Some(2), Some(2)))), MONOTONIC);
}

#[test]
fn votes_are_cast_once() {
    let mut oracle = SingleVote::default();
    oracle.observe(at(1, 10), 1, 2).expect("a vote");
    oracle.observe(at(1, 20), 1, 2).expect("the same vote again");
    oracle.observe(at(3, 20), 1, 3).expect("another voter");
    oracle.observe(at(1, 30), 2, 3).expect("another term");
    assert_eq!(property(oracle.observe(at(1, 40), 1, 3)), SINGLE_VOTE);
}

#[test]
fn votes_are_durable_before_they_are_told() {
    let mut oracle = DurableVote::default();
    oracle.observe_disk(at(1, 10), None).expect("nothing told");
    oracle.observe_told(at(1, 20), 2);
    oracle.observe_told(at(1, 30), 1);
    oracle.observe_disk(at(1, 40), Some(2)).expect("durable");
    oracle.observe_disk(at(1, 40), Some(3)).expect("durable, and not told yet");
    oracle.observe_disk(at(2, 40), None).expect("another node");
    assert_eq!(property(oracle.observe_disk(at(1, 50), Some(1))), DURABLE_VOTE);
    assert_eq!(property(oracle.observe_disk(at(1, 50), None)), DURABLE_VOTE);
    oracle.observe_start(at(1, 60), Some(2)).expect("it goes on where it was");
    assert_eq!(property(oracle.observe_start(at(1, 70), None)), DURABLE_VOTE);
}

#[test]
fn a_follower_keeps_what_it_has_acknowledged() {
    let mut oracle = MatchStays::default();
    oracle.observe_log(at(2, 10), 2, 0, None).expect("nothing is counted on");
    oracle.observe_matched(at(1, 20), 3, 2, 7);
    oracle.observe_matched(at(1, 30), 3, 2, 6);
    oracle.observe_log(at(2, 40), 2, 3, Some(7)).expect("it has it");
    oracle.observe_log(at(2, 40), 2, 4, Some(5)).expect("another leader took it out");
    oracle.observe_log(at(3, 40), 3, 3, None).expect("another node");
    assert_eq!(property(oracle.observe_log(at(2, 50), 2, 3, Some(6))), MATCH_STAYS);
    assert_eq!(property(oracle.observe_log(at(2, 50), 2, 3, None)), MATCH_STAYS);
    oracle.observe_matched(at(3, 60), 4, 2, 5);
    oracle.observe_log(at(2, 70), 2, 4, Some(5)).expect("of the newer term's leader");
    assert_eq!(property(oracle.observe_log(at(2, 80), 2, 4, Some(4))), MATCH_STAYS);
}

#[test]
fn state_machine_equality() {
    let mut oracle = StateMachineEquality::default();
    oracle.observe(at(1, 10), 4, 77).expect("a state");
    oracle.observe(at(2, 20), 4, 77).expect("the same state");
    oracle.observe(at(2, 30), 5, 78).expect("the next");
    assert_eq!(property(oracle.observe(at(1, 40), 5, 79)), STATE_MACHINE_EQUALITY);
}

#[test]
fn commands_have_one_effect() {
    let effect = |response_hash, changes_hash| Effect { response_hash, changes_hash };
    let mut oracle = StateMachineEquality::default();
    oracle.observe_effect(at(1, 10), 4, effect(1, 2)).expect("an effect");
    oracle.observe_effect(at(2, 20), 4, effect(1, 2)).expect("the same elsewhere");
    oracle.observe_effect(at(2, 30), 5, effect(3, 4)).expect("another command");
    for (other, what) in [
        (effect(9, 2), "answered differently at"),
        (effect(1, 9), "changed the state differently at"),
        (effect(9, 9), "answered differently and changed the state differently at"),
    ] {
        let found = oracle.clone().observe_effect(at(3, 40), 4, other).expect_err("another effect");
        assert_eq!(found.property, STATE_MACHINE_EQUALITY);
        assert!(found.explanation.contains(what), "{found}");
    }
}

#[test]
fn leaders_have_what_was_committed_before() {
    let mut oracle = LeaderCompleteness::default();
    oracle.observe_committed(at(1, 10), 2, (4, 1));
    oracle.observe_committed(at(2, 20), 3, (6, 2));
    oracle.observe_committed(at(3, 30), 5, (8, 5));
    let leads = |term, purged, log: &[(u64, u64)]| oracle.observe_leader(at(1, 40), term, purged, log.iter().copied());
    leads(1, None, &[]).expect("a leader of before the first commit");
    leads(3, None, &[(4, 1), (5, 1)]).expect("what was committed in its own term may come later");
    leads(4, None, &[(4, 1), (5, 1), (6, 2), (7, 2)]).expect("it has all");
    leads(4, Some(5), &[(6, 2)]).expect("purged, and the rest");
    leads(6, Some(9), &[]).expect("all purged");
    // It lacks the last, one in the middle, and has another.
    assert_eq!(property(leads(4, None, &[(4, 1), (5, 1)])), LEADER_COMPLETENESS);
    assert_eq!(property(leads(4, None, &[(5, 1), (6, 2)])), LEADER_COMPLETENESS);
    assert_eq!(property(leads(6, None, &[(4, 1), (6, 3), (8, 5)])), LEADER_COMPLETENESS);
    assert_eq!(property(leads(6, Some(4), &[])), LEADER_COMPLETENESS);
    // Somebody of a lower term knows it, too: the demand is on more leaders then.
    oracle.observe_committed(at(2, 50), 2, (6, 2));
    let leads = oracle.observe_leader(at(1, 60), 3, None, [(4, 1), (5, 1)]);
    assert_eq!(property(leads), LEADER_COMPLETENESS);
}

#[test]
fn committed_is_on_a_majority_of_media() {
    let medium = |log: &[(u64, u64)]| log.iter().copied().collect::<std::collections::BTreeMap<u64, u64>>();
    let mut oracle = CommittedOnQuorum::default();
    oracle.observe_voters(0, vec![(1..=3).collect()]);
    oracle.observe_medium(1, None, &medium(&[])).expect("nothing is committed yet");
    oracle.observe_committed(at(1, 20), 4, 1);
    oracle.observe_committed(at(1, 20), 5, 2);
    oracle.observe_medium(1, None, &medium(&[(4, 1), (5, 2), (6, 2)])).expect("all there");
    oracle.observe_medium(2, None, &medium(&[(4, 1)])).expect("a minority lacks one");
    oracle.observe_medium(2, None, &medium(&[(4, 1)])).expect("the same once more");
    oracle.observe_medium(3, Some(5), &medium(&[])).expect("it was there");
    let mut one_more = oracle.clone();
    assert_eq!(property(one_more.observe_medium(3, Some(4), &medium(&[]))), COMMITTED_ON_QUORUM);
    // An entry of another term is another entry.
    assert_eq!(property(oracle.observe_medium(3, None, &medium(&[(4, 1), (5, 1)]))), COMMITTED_ON_QUORUM);
    let mut five = CommittedOnQuorum::default();
    five.observe_voters(0, vec![(1..=5).collect()]);
    five.observe_committed(at(1, 10), 4, 1);
    five.observe_medium(1, None, &medium(&[])).expect("four may have it");
    five.observe_medium(2, None, &medium(&[])).expect("three may have it");
    assert_eq!(property(five.observe_medium(3, None, &medium(&[]))), COMMITTED_ON_QUORUM);
}

#[test]
fn a_majority_is_one_of_each_half_of_a_configuration_that_was_in_force() {
    let nothing = std::collections::BTreeMap::new();
    let lacks = |oracle: &CommittedOnQuorum, voters: &[u64]| {
        let mut oracle = oracle.clone();
        voters.iter().try_for_each(|voter| oracle.observe_medium(*voter, None, &nothing))
    };
    let mut oracle = CommittedOnQuorum::default();
    oracle.observe_voters(0, vec![(1..=3).collect()]);
    oracle.observe_committed_voters(0);
    oracle.observe_voters(6, vec![(1..=3).collect(), (3..=5).collect()]);
    oracle.observe_committed(at(1, 20), 7, 1);
    // Whoever called it committed may have known the first configuration only, or the joint one.
    lacks(&oracle, &[4, 5]).expect("1, 2 and 3 have it");
    lacks(&oracle, &[1, 4]).expect("of the joint one 2, 3 and 3, 5 have it");
    assert_eq!(property(lacks(&oracle, &[1, 2, 4])), COMMITTED_ON_QUORUM);
    oracle.observe_committed_voters(6);
    assert_eq!(property(lacks(&oracle, &[4, 5])), COMMITTED_ON_QUORUM, "the joint one was committed before it");
    lacks(&oracle, &[1, 4]).expect("a quorum of the joint one");
    // What comes later explains nothing.
    oracle.observe_voters(9, vec![[1].into()]);
    assert_eq!(property(lacks(&oracle, &[4, 5])), COMMITTED_ON_QUORUM);
    oracle.observe_committed(at(1, 30), 8, 1);
    oracle.observe_medium(4, Some(7), &nothing).expect("under the last one 1 alone would do");
    oracle.observe_medium(5, Some(7), &nothing).expect("the same");
}

#[test]
fn what_was_applied_stays() {
    let mut oracle = AppliedStays::default();
    oracle.observe_rest(at(1, 10), None).expect("nothing was applied");
    oracle.observe_applied(at(1, 20), 7);
    oracle.observe_applied(at(2, 30), 5);
    oracle.observe_rest(at(2, 40), Some(7)).expect("everybody is there");
    oracle.observe_rest(at(3, 40), Some(9)).expect("or further");
    assert_eq!(property(oracle.observe_rest(at(2, 50), Some(6))), APPLIED_STAYS);
    assert_eq!(property(oracle.observe_rest(at(2, 50), None)), APPLIED_STAYS);
}

//! Planted contradictions for every oracle over the nodes, next to what is right.

use sim::check::history::Violation;
use sim::check::raft::{
    At, COMMITTED_IMMUTABLE, CommittedImmutable, DURABLE_VOTE, DurableVote, ELECTION_SAFETY, ElectionSafety,
    LOG_MATCHING, LogEntry, LogMatching, MONOTONIC, Monotonic, Progress, STATE_MACHINE_EQUALITY, StateMachineEquality,
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
    let mut oracle = Monotonic::default();
    oracle.observe_vote(at(1, 10), 1, 2).expect("a vote");
    oracle.observe_vote(at(1, 20), 1, 2).expect("the same vote again");
    oracle.observe_vote(at(3, 20), 1, 3).expect("another voter");
    oracle.observe_vote(at(1, 30), 2, 3).expect("another term");
    assert_eq!(property(oracle.observe_vote(at(1, 40), 1, 3)), MONOTONIC);
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
}

#[test]
fn state_machine_equality() {
    let mut oracle = StateMachineEquality::default();
    oracle.observe(at(1, 10), 4, 77).expect("a state");
    oracle.observe(at(2, 20), 4, 77).expect("the same state");
    oracle.observe(at(2, 30), 5, 78).expect("the next");
    assert_eq!(property(oracle.observe(at(1, 40), 5, 79)), STATE_MACHINE_EQUALITY);
}

//! Random histories: right ones pass both checkers, and what is right is what brute force says.

use std::time::{Duration, Instant};

use sim::check::history::{Item, Operation, Outcome, well_formed};
use sim::check::linearizability::{self, Verdict};
use sim::check::revision_order::{self, Evidence, LogWrite};

use super::brute::{Demand, explains};
use super::store::{Options, run};
use super::support::Random;

const STEPS_MAX: u64 = 1_000_000;

fn with(log: &[LogWrite]) -> Evidence<'_> {
    Evidence { log: Some(log), base_revision: 0 }
}

#[test]
fn a_right_store_passes() {
    let options = Options { clients: 5, keys: 4, operations: 300, failed_percent: 20, stale_percent: 20, lists: true };
    let (mut unknown_applied, mut hidden) = (0, 0);
    for seed in 0..200 {
        let run = run(seed, options);
        let without = revision_order::check(&run.history, Evidence::default());
        hidden += without.unwrap_or_else(|v| panic!("seed {seed}: {}", v.render(&run.history))).hidden;
        let summary = revision_order::check(&run.history, with(&run.log));
        let summary = summary.unwrap_or_else(|v| panic!("seed {seed}: {}", v.render(&run.history)));
        unknown_applied += summary.unknown_applied.len();
        assert_eq!((summary.hidden, summary.last_revision), (0, run.log.len() as u64));
        match linearizability::check(&run.history, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => panic!("seed {seed}: {}", violation.render(&run.history)),
            Verdict::Inconclusive { keys } => panic!("seed {seed}: inconclusive for {keys:?}"),
        }
    }
    assert!(unknown_applied > 1_000 && hidden > 100, "{unknown_applied} unknown writes applied, {hidden} hidden");
}

/// Takes an acknowledged put out of everything that came later: the log, and what reads show.
#[test]
fn a_dropped_write_is_caught() {
    let options = Options { clients: 3, keys: 3, operations: 60, failed_percent: 10, stale_percent: 0, lists: true };
    for seed in 0..200 {
        let mut run = run(seed, options);
        let mut random = Random(seed);
        let acknowledged = run.history.iter().filter_map(Operation::written_revision).collect::<Vec<_>>();
        let lost = acknowledged[random.below(acknowledged.len())];
        run.log.retain(|write| write.revision != lost);
        for write in &mut run.log {
            write.revision -= u64::from(write.revision > lost);
        }
        assert!(revision_order::check(&run.history, with(&run.log)).is_err(), "seed {seed}: the log lacks {lost}");
    }
}

/// A linearizable read that answers from the past is caught by its revision, and by the search if the value has changed
/// since.
#[test]
fn a_stale_answer_is_caught() {
    let options = Options { clients: 1, keys: 2, operations: 60, failed_percent: 10, stale_percent: 100, lists: false };
    let (mut stale, mut changed) = (0, 0);
    for seed in 0..200 {
        let run = run(seed, options);
        let mut history = run.history.clone();
        let mut last_write = 0;
        for operation in &mut history {
            let revision = operation.outcome.revision().unwrap_or(u64::MAX);
            last_write = operation.written_revision().unwrap_or(last_write);
            if operation.op.is_stale_read() && revision < last_write {
                *operation = super::support::linearizable(operation.clone());
                break;
            }
        }
        if history == run.history {
            continue;
        }
        stale += 1;
        let found = revision_order::check(&history, with(&run.log)).expect_err("a stale read");
        assert_eq!(found.property, revision_order::REAL_TIME, "seed {seed}: {}", found.render(&history));
        assert!(revision_order::check(&history, Evidence::default()).is_err());
        changed += usize::from(matches!(linearizability::check(&history, STEPS_MAX), Verdict::Violation(_)));
    }
    assert!(stale > 150 && changed > 50, "{stale} stale reads, {changed} of them seen by the search");
}

#[test]
fn agrees_with_brute_force() {
    let (mut right, mut wrong, mut missed) = (0, 0, 0);
    for seed in 0..30_000 {
        let mut random = Random(seed);
        let options = Options {
            clients: 1 + random.below(3),
            keys: 1 + random.below(2),
            operations: 2 + random.below(5),
            failed_percent: [0, 40][random.below(2)],
            stale_percent: [0, 40][random.below(2)],
            lists: random.percent(30),
        };
        let mut run = run(random.next(), options);
        for _ in 0..random.below(3) {
            mutate(&mut random, &mut run.history, &mut run.log);
        }
        let history = &run.history;
        if well_formed(history).is_err() || !(1..).zip(&run.log).all(|(n, write)| write.revision == n) {
            continue;
        }
        let expected = explains(history, Demand::Log(&run.log));
        let found = revision_order::check(history, with(&run.log));
        assert_eq!(found.is_ok(), expected, "seed {seed}: {}", show(history, &run.log, &found));
        *if expected { &mut right } else { &mut wrong } += 1;

        let expected = explains(history, Demand::Revisions);
        let found = revision_order::check(history, Evidence::default());
        let exact = !history.iter().any(Operation::is_unknown_write);
        assert!(found.is_ok() || !expected, "seed {seed}: {}", show(history, &[], &found));
        assert!(found.is_err() || expected || !exact, "seed {seed}: {}", show(history, &[], &found));
        missed += usize::from(found.is_ok() && !expected);

        if !options.lists {
            let expected = explains(history, Demand::Values);
            let found = linearizability::check(history, STEPS_MAX);
            assert_eq!(found == Verdict::Linearizable, expected, "seed {seed}: {}", show(history, &[], &found));
            assert!(!matches!(found, Verdict::Inconclusive { .. }));
        }
    }
    assert!(right > 8_000 && wrong > 8_000, "{right} right, {wrong} wrong");
    assert!(missed * 50 < right + wrong, "without a log, {missed} wrong histories pass");
}

fn show(history: &[Operation], log: &[LogWrite], found: &impl std::fmt::Debug) -> String {
    format!("{found:?}\n{}{log:#?}", sim::check::history::render(history))
}

/// Changes one thing that a broken store might get wrong.
fn mutate(random: &mut Random, history: &mut [Operation], log: &mut Vec<LogWrite>) {
    let index = random.below(history.len());
    let other = random.below(history.len());
    let shown: Vec<Item> = history.iter().flat_map(|operation| operation.outcome.items()).cloned().collect();
    let outcome = history[other].outcome.clone();
    let operation = &mut history[index];
    let up = random.percent(50);
    let nudge = |n: &mut u64| *n = if up { *n + 1 } else { n.saturating_sub(1) };
    match random.below(9) {
        0 => match &mut operation.outcome {
            Outcome::Put { revision, .. }
            | Outcome::Delete { revision, .. }
            | Outcome::Get { revision, .. }
            | Outcome::List { revision, .. } => nudge(revision),
            Outcome::NotApplied | Outcome::Unknown => {}
        },
        1 => match &mut operation.outcome {
            Outcome::Put { version: Some(version), .. } => nudge(version),
            Outcome::Delete { deleted, .. } => *deleted = !*deleted,
            Outcome::Get { item, .. } if !shown.is_empty() => *item = Some(shown[random.below(shown.len())].clone()),
            Outcome::List { items, .. } if !items.is_empty() => drop(items.remove(random.below(items.len()))),
            _ => {}
        },
        2 => match &mut operation.outcome {
            Outcome::Get { item, .. } => *item = None,
            Outcome::List { items, .. } => items.extend(shown.first().cloned()),
            Outcome::Put { create_revision: Some(revision), .. } => nudge(revision),
            _ => {}
        },
        3 if operation.op.is_write() => operation.outcome = Outcome::NotApplied,
        4 if operation.op.is_write() => operation.outcome = Outcome::Unknown,
        5 => operation.invoke_ns = operation.invoke_ns.saturating_sub(random.below(20) as u64),
        6 => operation.complete_ns = operation.complete_ns.map(|end| end + random.below(20) as u64),
        7 => operation.outcome = outcome,
        8 if log.len() > 1 => {
            let at = random.below(log.len() - 1);
            let revisions = (log[at].revision, log[at + 1].revision);
            log.swap(at, at + 1);
            (log[at].revision, log[at + 1].revision) = revisions;
        }
        _ => drop(log.pop()),
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures the checker, outside of every run")]
fn a_hundred_thousand_operations_take_a_moment() {
    let options =
        Options { clients: 20, keys: 500, operations: 100_000, failed_percent: 3, stale_percent: 0, lists: false };
    let run = run(1, options);
    let start = Instant::now();
    let summary = revision_order::check(&run.history, with(&run.log)).expect("a right history");
    assert!(summary.acknowledged > 40_000);
    revision_order::check(&run.history, Evidence::default()).expect("a right history");
    let took = start.elapsed();
    // A quadratic algorithm would take minutes.
    assert!(took < Duration::from_secs(10), "took {took:?}");
    assert_eq!(linearizability::check(&run.history, STEPS_MAX), Verdict::Linearizable);
}

/// With this many operations in flight and unknown, a search that tries what cannot matter does not come to an end.
#[test]
fn the_search_copes_with_crowded_keys() {
    for (clients, operations, failed_percent) in [(20, 500, 20), (40, 1_000, 10), (20, 2_000, 5), (5, 5_000, 2)] {
        let options = Options { clients, keys: 1, operations, failed_percent, stale_percent: 0, lists: false };
        for seed in 0..10 {
            assert_eq!(linearizability::check(&run(seed, options).history, 200_000), Verdict::Linearizable);
        }
    }
}

//! Simulated clusters under faults: many seeds, whether they repeat, and whether a bug would be found.
//!
//! `SIM_SEEDS` says how many seeds run; `SIM_SEED=n` runs one and tells everything about it.
//!
//! There is no list of seeds that once failed: what a seed means changes with every change of the drawing. What one found
//! is kept as a plan file in `sim/corpus`, which `plans.rs` runs, or pinned by a test of the part that had the bug.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::process::{Command, Output};

use sim::check::history::{Op, Operation, Outcome, Violation};
use sim::coverage::missing;
use sim::plan::Plan;
use sim::run::{Report, Stats, run};
use sim::sweep::{explain, sweep};

/// That of the `sim` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds whose hashes are compared; others than those that the sweep runs.
const REPEATED: std::ops::Range<u64> = 1_000_000..1_000_050;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the binary was built with this test")
}

fn replay(seed: u64) {
    let plan = Plan::draw(seed);
    let report = run(&plan, 200);
    println!("{plan}{}\n{:#?}", report.tail.join("\n"), report.stats);
    assert!(report.violation.is_none(), "{}", explain(&report));
}

#[test]
fn no_seed_violates_a_property() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let count = number("SIM_SEEDS").unwrap_or(1_000);
    let summary = sweep(0..count, 2, |report, _| {
        if report.violation.is_some() {
            println!("{}", explain(report));
        }
    });
    println!("{}", summary.figures());
    assert_eq!(summary.seeds, count, "every seed ran once");
    assert_eq!(summary.hashes.len() as u64, count);
    let failed: Vec<u64> = summary.failures.iter().map(|report| report.seed).collect();
    if let Some(first) = summary.failures.iter().min_by_key(|report| report.seed) {
        panic!("{} of {count} seeds failed: {failed:?}. The first:\n{}", failed.len(), explain(first));
    }
    let missing = missing(count, &summary.stats);
    assert!(missing.is_empty(), "under-exercised:\n{}", missing.join("\n"));
}

#[test]
fn a_seed_repeats_with_any_number_of_jobs_and_in_another_process() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let once = sweep(REPEATED, 1, |_, _| ()).hashes;
    assert_eq!(once.len(), 50);
    let distinct: std::collections::BTreeSet<_> = once.values().collect();
    assert_eq!(distinct.len(), 50, "the hash tells seeds apart");
    assert_eq!(once, sweep(REPEATED, 2, |_, _| ()).hashes, "again, with two jobs");
    let seeds = format!("{}..{}", REPEATED.start, REPEATED.end);
    let output = sim(&["sweep", "--seeds", &seeds, "--jobs", "2", "--hashes"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let elsewhere: BTreeMap<u64, u64> = text.lines().filter_map(hash_line).collect();
    assert_eq!(once, elsewhere, "in another process");
}

/// `seed 7 hash 00ff…`
fn hash_line(line: &str) -> Option<(u64, u64)> {
    let (seed, hash) = line.strip_prefix("seed ")?.split_once(" hash ")?;
    Some((seed.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
}

/// A replica that applies some commands twice is found, by the whole pipeline, and reported with its command.
#[test]
fn the_canary_is_found() {
    for seed in ["2", "4", "9"] {
        let output = sim(&["canary", "--seed", seed]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("seed {seed} violates: ")), "{text}");
        assert!(text.contains(&format!("cargo run --release -p sim -- canary --seed {seed}")), "{text}");
    }
}

#[test]
fn wrong_usage_is_not_a_violation() {
    for args in [&["sweep", "--seeds", "5..5"][..], &["sweep", "--seeds", "all"], &["replay"], &["dance"]] {
        assert_eq!(sim(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_violation_is_reported_with_the_commands_that_repeat_it() {
    let operation = Operation {
        client: 1,
        invoke_ns: 5,
        complete_ns: Some(9),
        op: Op::Delete { key: "k0".to_owned() },
        outcome: Outcome::Unknown,
    };
    let violation = Violation::new("a planted property", "planted".to_owned(), vec![0]);
    let report = Report {
        seed: 77,
        plan: Plan::draw(77),
        file: None,
        hash: 0,
        events: 0,
        violation: Some(violation),
        history: vec![operation],
        stats: Stats::default(),
        tail: Vec::new(),
    };
    let text = explain(&report);
    let from_a_file = explain(&Report { file: Some("x/failing.plan".to_owned()), ..report.clone() });
    assert!(from_a_file.contains("cargo run --release -p sim -- replay x/failing.plan\n"), "{from_a_file}");
    let edited = explain(&Report { plan: Plan { nodes: 1, ..Plan::draw(77) }, ..report });
    assert!(!edited.contains("replay 77") && edited.contains("replay failing.plan"), "{edited}");
    for part in [
        "seed 77 violates: a planted property",
        "k0",
        &Plan::draw(77).to_string(),
        "cargo run --release -p sim -- replay 77",
        "SIM_SEED=77 cargo test -p sim",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

//! Sweeps that are shared among machines, stopped by the clock, and added up; and what their exit codes say.

#![cfg(madsim)]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use sim::run::Stats;
use sim::sweep::{Order, Share, Stretch, SweepRecord, merge, perform, sweep};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn share(index: u64, of: u64) -> Share {
    Share { index, of }
}

fn stretch(start: u64, end: u64, index: u64, of: u64) -> Stretch {
    Stretch { seeds: start..end, share: share(index, of) }
}

/// A sweep that did not take place.
fn record(ran: Stretch) -> SweepRecord {
    SweepRecord {
        version: "1".to_owned(),
        fingerprint: 7,
        seeds: ran.count(),
        ran: vec![ran],
        hash: 3,
        core_ms: 1,
        stats: Stats { acknowledged: 5, faults: BTreeMap::from([("kill", 2)]), ..Stats::default() },
        failures: Vec::new(),
    }
}

fn merged(records: &[SweepRecord]) -> Result<sim::sweep::Merged, String> {
    let named = records.iter().enumerate().map(|(n, record)| (format!("file {n}"), record.clone()));
    merge(named.collect()).map_err(|e| e.to_string())
}

/// A file that is gone when the test is over.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quorate-sweep-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_shards_of_a_sweep_are_the_sweep() {
    let seeds = 20..29;
    let whole = sweep(seeds.clone(), 1, |_, _| ());
    let expected = SweepRecord::new(&seeds, Share::WHOLE, &whole);
    let mut hashes = BTreeMap::new();
    let mut records = Vec::new();
    // The last one first: the order does not matter.
    for index in (0..3).rev() {
        let order = Order { share: share(index, 3), ..Order::all(seeds.clone(), 2) };
        let summary = perform(&order, |report, _| assert_eq!(report.seed % 3, index));
        assert_eq!((summary.seeds, summary.end), (3, 29));
        let record = SweepRecord::new(&seeds, order.share, &summary);
        assert_eq!(SweepRecord::from_json(&record.to_json()), Ok(record.clone()));
        records.push(record);
        hashes.extend(summary.hashes);
    }
    assert_eq!(hashes, whole.hashes);
    let merged = merged(&records).unwrap();
    assert_eq!(merged.missing, 0);
    assert_eq!(SweepRecord { core_ms: expected.core_ms, ..merged.record }, expected);
}

#[test]
fn the_clock_ends_a_sweep_and_what_ran_is_known() {
    let order = Order { time_max: Some(Duration::ZERO), ..Order::all(5..9, 2) };
    let none = perform(&order, |_, _| panic!("no seed is begun"));
    assert_eq!((none.seeds, none.end), (0, 5));
    assert_eq!(SweepRecord::new(&order.seeds, order.share, &none).ran, []);
    let order = Order { time_max: Some(Duration::from_secs(1)), share: share(1, 2), ..Order::all(0..100_000, 2) };
    let some = perform(&order, |_, _| ());
    assert!(some.seeds > 0 && some.end < 100_000, "{} seeds", some.seeds);
    let expected: Vec<u64> = (0..some.end).filter(|seed| seed % 2 == 1).collect();
    assert_eq!(some.hashes.keys().copied().collect::<Vec<_>>(), expected, "all before the end, and no others");
}

#[test]
fn sweeps_add_up() {
    let mut one = record(stretch(0, 10, 0, 2));
    one.failures.push(sim::sweep::Failure { seed: 8, property: "p".to_owned(), explanation: "e".to_owned() });
    let mut other = record(stretch(0, 10, 1, 2));
    other.failures.push(sim::sweep::Failure { seed: 3, property: "q".to_owned(), explanation: "f".to_owned() });
    let both = merged(&[one.clone(), other]).unwrap();
    assert_eq!((both.missing, both.record.seeds, both.record.hash), (0, 10, 6));
    assert_eq!((both.record.stats.acknowledged, both.record.stats.faults["kill"]), (10, 4));
    assert_eq!(both.record.failures.iter().map(|f| f.seed).collect::<Vec<_>>(), [3, 8]);
    assert_eq!(both.record.ran, [stretch(0, 10, 0, 1)], "complete");
    // What was added up can be added to.
    let more = merged(&[both.record, record(stretch(10, 20, 0, 1))]).unwrap();
    assert_eq!((more.missing, more.record.ran), (0, vec![stretch(0, 20, 0, 1)]));
    let gap = merged(&[one, record(stretch(10, 20, 0, 1))]).unwrap();
    assert_eq!((gap.missing, gap.record.ran.len()), (5, 2));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let one = record(stretch(0, 10, 0, 2));
    let refused = |other: SweepRecord| merged(&[one.clone(), other]).unwrap_err();
    let error = refused(one.clone());
    assert_eq!(error, "file 0 ran 0..10 shard 0/2, file 1 ran 0..10 shard 0/2: these overlap");
    assert!(refused(record(stretch(9, 12, 0, 2))).ends_with("overlap"));
    assert!(refused(record(stretch(9, 12, 1, 3))).contains("one number of shards only"));
    let error = refused(SweepRecord { version: "2".to_owned(), ..record(stretch(10, 12, 0, 1)) });
    assert!(error.contains("version 1 ") && error.contains("version 2 "), "{error}");
    let error = refused(SweepRecord { fingerprint: 8, ..record(stretch(10, 12, 0, 1)) });
    assert!(error.contains("merge sweeps of the same code"), "{error}");
    assert!(merged(&[]).is_err());
}

#[test]
fn what_is_no_record_is_refused_by_name() {
    let whole = record(stretch(0, 10, 0, 2)).to_json();
    let error = |text: &str| SweepRecord::from_json(text).unwrap_err().to_string();
    assert!(error("seeds").contains("not JSON"));
    assert_eq!(error("[]"), "it is no JSON object");
    assert!(error(&whole.replace("\"format\": 1", "\"format\": 2")).contains("its format is 2"));
    assert_eq!(error(&whole.replace("\"core_ms\"", "\"core_s\"")), "it has no \"core_ms\"");
    assert!(error(&whole.replace("0/2", "2/2")).contains("numbered from 0 to 1"));
    assert!(error(&whole.replace("\"kill\": 2", "\"kill\": -2")).contains("\"kill\" in its \"faults\""));
    assert!(error(&whole.replace("0000000000000003", "three")).contains("hexadecimal"));
}

#[test]
fn exit_codes_tell_clean_from_failed_from_broken_from_under_exercised() {
    let clean = sim(&["sweep", "--seeds", "0..2"]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean));
    for wrong in [
        &["sweep", "--seeds", "0..2", "--shard", "2/2"][..],
        &["sweep", "--seeds", "0..2", "--minutes", "0"],
        &["sweep", "--seeds", "0..2", "--json", "/nowhere/at/all.json"],
        &["merge"],
        &["merge", "/nowhere/at/all.json"],
    ] {
        let output = sim(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output));
        assert!(!output.stderr.is_empty(), "{wrong:?} says why");
    }
    let mut failed = record(stretch(0, 10, 0, 2));
    for (seed, property) in [(4, "a"), (2, "b"), (8, "b")] {
        failed.failures.push(sim::sweep::Failure { seed, property: property.to_owned(), explanation: String::new() });
    }
    let failed = Temporary::new("failed.json", &failed.to_json());
    let output = sim(&["merge", failed.path()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 seeds failed") && said.contains("-- replay 2") && said.contains("-- replay 4"), "{said}");
    // So many seeds must have reached something.
    let idle = Temporary::new("idle.json", &record(stretch(0, 5_000, 0, 1)).to_json());
    let output = sim(&["merge", idle.path()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("under-exercised"));
}

#[test]
fn shards_are_merged_from_their_files() {
    let sum = Temporary::new("sum.json", "");
    let files = [0, 1].map(|index| {
        let file = Temporary::new(&format!("{index}.json"), "");
        let shard = format!("{index}/2");
        let output = sim(&["sweep", "--seeds", "40..44", "--shard", &shard, "--minutes", "60", "--json", file.path()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains(&format!("ran: 40..44 shard {shard}")), "{}", text(&output));
        file
    });
    let output = sim(&["merge", files[0].path(), files[1].path(), "--output", sum.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let expected = SweepRecord::new(&(40..44), Share::WHOLE, &sweep(40..44, 1, |_, _| ()));
    let found = SweepRecord::from_json(&std::fs::read_to_string(sum.path()).unwrap()).unwrap();
    assert_eq!(SweepRecord { core_ms: expected.core_ms, ..found }, expected);
    let output = sim(&["merge", files[0].path(), files[0].path()]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("overlap"), "{}", text(&output));
}

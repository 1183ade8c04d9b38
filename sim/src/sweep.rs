//! Many runs: a range of seeds, or a share of it, on threads.
//!
//! ```text
//!  0..100000 ─┬─ shard 0/3 on one machine ──► a.json ─┐
//!             ├─ shard 1/3 on another ──────► b.json ─┼─ sim merge ──► figures, failures, what was not reached
//!             └─ shard 2/3 on a third ──────► c.json ─┘
//! ```

mod command;
mod progress;
mod record;
mod share;
mod tally;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use command::{Args, MergeArgs, main, merge_main};
pub use record::{Failure, Merged, RecordError, SweepRecord, merge};
pub use share::{Share, Stretch};
pub use tally::{Class, by_class, table};

use crate::plan::Plan;
use crate::run::{Report, Stats, run};

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Which of them.
    pub share: Share,
    /// Threads.
    pub jobs: u64,
    /// No seed is begun later than this after the start.
    pub time_max: Option<Duration>,
    /// No seed is begun once one has failed.
    pub fail_fast: bool,
}

impl Order {
    /// All of these seeds.
    pub fn all(seeds: Range<u64>, jobs: u64) -> Self {
        Self { seeds, share: Share::WHOLE, jobs, time_max: None, fail_fast: false }
    }
}

/// What a sweep amounted to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// The seeds of the share from the first to before this one ran, all of them and no others.
    pub end: u64,
    /// Trace hashes by seed.
    pub hashes: BTreeMap<u64, u64>,
    /// Runs that violated a property.
    pub failures: Vec<Report>,
    /// All figures, summed.
    pub stats: Stats,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// Threads.
    pub jobs: u64,
}

/// Runs all seeds of a range on `jobs` threads. Goes on after a failure; `each` hears of every run as it ends.
pub fn sweep(seeds: Range<u64>, jobs: u64, each: impl FnMut(&Report, u64)) -> Summary {
    perform(&Order::all(seeds, jobs), each)
}

/// Runs what is ordered; `each` hears of every run as it ends, and how many have.
#[expect(clippy::disallowed_methods, reason = "a sweep is outside of every run: it may look at the clock")]
pub fn perform(order: &Order, mut each: impl FnMut(&Report, u64)) -> Summary {
    let started = Instant::now();
    let (first, step) = (order.share.first(order.seeds.start), order.share.of);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let take = || {
        let late = order.time_max.is_some_and(|most| started.elapsed() >= most);
        if late || stop.load(Ordering::Acquire) {
            return None;
        }
        // Handed out in order: what has been begun is a prefix of the share.
        let seed = next.fetch_add(1, Ordering::AcqRel).checked_mul(step).and_then(|offset| first.checked_add(offset));
        seed.filter(|seed| *seed < order.seeds.end)
    };
    let mut summary = Summary { jobs: order.jobs, end: order.seeds.start, ..Summary::default() };
    std::thread::scope(|scope| {
        let (sender, reports) = mpsc::channel();
        for _ in 0..order.jobs.max(1) {
            let (sender, take, stop) = (sender.clone(), &take, &stop);
            scope.spawn(move || {
                while let Some(seed) = take() {
                    let report = run(&Plan::draw(seed), 0);
                    stop.fetch_or(order.fail_fast && report.violation.is_some(), Ordering::AcqRel);
                    if sender.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in reports {
            summary.take(report, &mut each);
        }
    });
    let last = summary.hashes.last_key_value().map(|(seed, _)| *seed);
    summary.end = match last {
        // The rest of the range is not of the share.
        Some(last) if last.checked_add(step).is_none_or(|next| next >= order.seeds.end) => order.seeds.end,
        Some(last) => last + 1,
        None if first >= order.seeds.end => order.seeds.end,
        None => order.seeds.start,
    };
    summary.elapsed = started.elapsed();
    summary
}

impl Summary {
    fn take(&mut self, report: Report, each: &mut impl FnMut(&Report, u64)) {
        self.seeds += 1;
        self.hashes.insert(report.seed, report.hash);
        add(&mut self.stats, &report.stats);
        each(&report, self.seeds);
        if report.violation.is_some() {
            self.failures.push(report);
        }
    }

    /// The figures as text.
    pub fn figures(&self) -> String {
        tally::figures(self.seeds, &self.stats, self.elapsed.as_secs_f64() * self.jobs as f64, self.jobs)
    }
}

/// Adds figures up.
pub(crate) fn add(sum: &mut Stats, one: &Stats) {
    sum.simulated_ns += one.simulated_ns;
    sum.acknowledged += one.acknowledged;
    sum.unknown += one.unknown;
    sum.not_applied += one.not_applied;
    sum.restarts += one.restarts;
    sum.inconclusive += one.inconclusive;
    for (sums, ones) in [
        (&mut sum.faults, &one.faults),
        (&mut sum.disk, &one.disk),
        (&mut sum.points, &one.points),
        (&mut sum.net, &one.net),
        (&mut sum.reached, &one.reached),
    ] {
        for (what, count) in ones {
            *sums.entry(what).or_default() += count;
        }
    }
}

/// A failure, as a person wants to read it: what, where in the history, the plan, and the command that shows it again.
pub fn explain(report: &Report) -> String {
    describe(report, &reproduce(report))
}

/// The same of whatever was under test; `again` says how to run it again.
pub fn describe<O: std::fmt::Display>(report: &Report<O>, again: &str) -> String {
    let seed = report.seed;
    let Some(violation) = &report.violation else {
        return format!("seed {seed}: clean, hash {:016x}", report.hash);
    };
    format!(
        "seed {seed} violates: {}\n{}\n{}reproduce: {again}\n",
        violation.property,
        violation.render(&report.history),
        report.plan,
    )
}

/// The command that runs a report's plan again.
fn reproduce(report: &Report) -> String {
    let (seed, plan) = (report.seed, &report.plan);
    let drawn = Plan::draw(seed);
    if let Some(file) = &report.file {
        format!("cargo run --release -p sim -- replay {file}")
    } else if *plan == drawn {
        format!("cargo run --release -p sim -- replay {seed}\n       or: SIM_SEED={seed} cargo test -p sim")
    } else if *plan == (Plan { canary: true, ..drawn }) {
        format!("cargo run --release -p sim -- canary --seed {seed}")
    } else {
        "save the plan above, from \"(\" to \")\", as failing.plan; cargo run --release -p sim -- replay failing.plan"
            .to_owned()
    }
}

//! Many runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::run::{Report, Stats, run};

/// What a sweep amounted to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
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
#[expect(clippy::disallowed_methods, reason = "a sweep is outside of every run: it may look at the clock")]
pub fn sweep(seeds: Range<u64>, jobs: u64, mut each: impl FnMut(&Report, u64)) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let mut summary = Summary { jobs, ..Summary::default() };
    std::thread::scope(|scope| {
        let (sender, reports) = mpsc::channel();
        for _ in 0..jobs.max(1) {
            let (sender, next, end) = (sender.clone(), &next, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(run(&Plan::draw(seed), 0)).is_err() {
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
    summary.elapsed = started.elapsed();
    summary
}

impl Summary {
    fn take(&mut self, report: Report, each: &mut impl FnMut(&Report, u64)) {
        self.seeds += 1;
        self.hashes.insert(report.seed, report.hash);
        let (sum, one) = (&mut self.stats, &report.stats);
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
        each(&report, self.seeds);
        if report.violation.is_some() {
            self.failures.push(report);
        }
    }

    /// The figures as text.
    pub fn figures(&self) -> String {
        let stats = &self.stats;
        let wall = self.elapsed.as_secs_f64().max(1e-9);
        let simulated = stats.simulated_ns as f64 / 1e9;
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} seeds in {wall:.1} s with {} jobs: {:.1} seeds/s, {simulated:.0} simulated s, {:.0} simulated s per \
             core s\noperations: {} acknowledged, {} unknown, {} not applied; {} restarts; {} searches \
             inconclusive\nfaults: {}\nreached: {}\ndisks: {}\ncut: {}\nnetwork: {}",
            self.seeds,
            self.jobs,
            self.seeds as f64 / wall,
            simulated / wall / self.jobs as f64,
            stats.acknowledged,
            stats.unknown,
            stats.not_applied,
            stats.restarts,
            stats.inconclusive,
            list(&stats.faults),
            list(&stats.reached),
            list(&stats.disk),
            list(&stats.points),
            list(&stats.net),
        )
    }
}

/// A failure, as a person wants to read it: what, where in the history, the plan, and the command that shows it again.
pub fn explain(report: &Report) -> String {
    let Some(violation) = &report.violation else {
        return format!("seed {}: clean, hash {:016x}", report.seed, report.hash);
    };
    let seed = report.seed;
    let again = match report.plan.canary {
        true => format!("cargo run --release -p sim -- canary --seed {seed}"),
        false => format!("cargo run --release -p sim -- replay {seed}\n       or: SIM_SEED={seed} cargo test -p sim"),
    };
    format!(
        "seed {seed} violates: {}\n{}\n{}reproduce: {again}\n",
        violation.property,
        violation.render(&report.history),
        report.plan,
    )
}

//! `sim sweep` and `sim merge`.
//!
//! Exit code 0: clean. 1: a property was violated. 2: wrong usage, a file that cannot be read or written, or the harness
//! itself failed. 3: clean, but not all was reached that should have been.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::progress::Progress;
use super::record::{RecordError, SweepRecord, merge};
use super::share::Share;
use super::tally::{by_class, figures, table};
use super::{Order, Summary, explain, perform};
use crate::run::Stats;

/// Of wrong usage, and of a harness that failed.
const HARNESS: u8 = 2;

/// What `sim sweep` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// From the first to before the second: 0..2000
    #[arg(long, value_parser = range)]
    seeds: Range<u64>,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Run only the seeds s of the range with s % N == I, written as I/N: one share of N, each for a machine
    #[arg(long, default_value = "0/1")]
    shard: Share,
    /// Begin no seed after so many minutes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    minutes: Option<u64>,
    /// Write the outcome to this file, for `sim merge`
    #[arg(long)]
    json: Option<PathBuf>,
    /// Begin no seed after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Print the trace hash of every seed
    #[arg(long)]
    hashes: bool,
}

/// What `sim merge` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct MergeArgs {
    /// What `sim sweep --json` or `sim merge --output` wrote
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the sum to this file
    #[arg(short, long)]
    output: Option<PathBuf>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    let parsed: Range<u64> = parsed.ok_or_else(|| "write it as A..B, for example 0..2000".to_owned())?;
    if parsed.is_empty() { Err("the range is empty".to_owned()) } else { Ok(parsed) }
}

/// A sweep.
pub fn main(args: &Args) -> ExitCode {
    told(run(args))
}

/// Sweeps added up.
pub fn merge_main(args: &MergeArgs) -> ExitCode {
    told(add_up(args))
}

fn told(done: Result<ExitCode, RecordError>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(HARNESS)
    })
}

fn at(path: &Path, what: impl std::fmt::Display) -> RecordError {
    RecordError::new(format!("{}: {what}", path.display()))
}

fn run(args: &Args) -> Result<ExitCode, RecordError> {
    if let Some(path) = &args.json {
        // Now, not when hours have gone into what it is to hold.
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|e| at(path, format!("the outcome cannot be written there: {e}")))?;
    }
    let order = Order {
        seeds: args.seeds.clone(),
        share: args.shard,
        jobs: args.jobs,
        time_max: args.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        fail_fast: args.fail_fast,
    };
    let all = order.share.count(&order.seeds);
    let mut progress = Progress::new(all, order.time_max);
    let summary = perform(&order, |report, done| {
        if args.hashes {
            println!("seed {} hash {:016x}", report.seed, report.hash);
        }
        if report.violation.is_some() {
            println!("{}", explain(report));
            progress.failed += 1;
        }
        progress.tell(done);
    });
    if let Some(path) = &args.json {
        let record = SweepRecord::new(&order.seeds, order.share, &summary);
        std::fs::write(path, record.to_json()).map_err(|e| at(path, e))?;
    }
    println!("{}", summary.figures());
    println!("{}", covered(&order, all, &summary));
    let failures = summary.failures.iter().filter_map(|r| Some((r.seed, r.violation.as_ref()?.property)));
    Ok(verdict(failures, summary.seeds, &summary.stats, order.share == Share::WHOLE))
}

/// Which seeds ran.
fn covered(order: &Order, all: u64, summary: &Summary) -> String {
    let shard = if order.share == Share::WHOLE { String::new() } else { format!(" shard {}", order.share) };
    let (start, end) = (order.seeds.start, order.seeds.end);
    if summary.seeds == all {
        return format!("ran: {start}..{end}{shard}");
    }
    let next = summary.end;
    let mut again = format!("sim sweep --seeds {next}..{end}");
    if order.share != Share::WHOLE {
        again += &format!(" --shard {}", order.share);
    }
    format!("ran: {start}..{next}{shard}, {} of {all} seeds; the rest: {again}", summary.seeds)
}

fn add_up(args: &MergeArgs) -> Result<ExitCode, RecordError> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|e| at(path, e))?;
        let record = SweepRecord::from_json(&text).map_err(|e| at(path, e))?;
        Ok((path.display().to_string(), record))
    };
    let merged = merge(args.files.iter().map(read).collect::<Result<_, _>>()?)?;
    let record = &merged.record;
    if let Some(path) = &args.output {
        std::fs::write(path, record.to_json()).map_err(|e| at(path, e))?;
    }
    println!("{}", figures(record.seeds, &record.stats, record.core_ms as f64 / 1e3, 1));
    let ran: Vec<String> = record.ran.iter().map(ToString::to_string).collect();
    println!("ran: {}; hash {:016x}", ran.join(", "), record.hash);
    if merged.missing > 0 {
        println!("{} seeds between the first and the last did not run", merged.missing);
    }
    let failures = record.failures.iter().map(|failure| (failure.seed, failure.property.as_str()));
    let verdict = verdict(failures, record.seeds, &record.stats, true);
    // What did not run is not clean.
    Ok(if verdict == ExitCode::SUCCESS && merged.missing > 0 { ExitCode::from(3) } else { verdict })
}

/// Says what failed, or what was not reached; a share of a sweep is asked that when it is merged.
fn verdict<'a>(
    failures: impl IntoIterator<Item = (u64, &'a str)>,
    seeds: u64,
    stats: &Stats,
    is_whole: bool,
) -> ExitCode {
    let classes = by_class(failures);
    if !classes.is_empty() {
        println!("{} seeds failed:\n{}", classes.iter().map(|class| class.seeds.len()).sum::<usize>(), table(&classes));
        return ExitCode::from(1);
    }
    if !is_whole {
        println!("clean; what it reached is judged by `sim merge`");
        return ExitCode::SUCCESS;
    }
    let missing = crate::coverage::missing(seeds, stats);
    if !missing.is_empty() {
        println!("clean, but under-exercised:\n{}", missing.join("\n"));
        return ExitCode::from(3);
    }
    println!("clean");
    ExitCode::SUCCESS
}

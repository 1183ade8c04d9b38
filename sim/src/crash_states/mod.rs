//! Every state that a power loss can leave behind, recovered by production code and checked.
//!
//! ```text
//!  script ──► log store, store, node files ──► recording disk ──► points: the medium after every operation, and
//!             (production)                                         what the outside had been told by then
//!                                                                    │ each unsynced sector old, new or torn; each
//!                                                                    ▼ length and name as before or after
//!  model: what may be there ──────► check ◄────── start (production) ◄── image, image, image, ...
//!                                                   │ go on: append, vote, kill, start again
//!                                                   └─► its own points: a power loss during recovery
//! ```
//!
//! What is legal follows from the duties in [`quorate_core::disk`]. Where a point has few combinations all of them are
//! recovered; where it has many, all lost, all kept, every single one lost and kept and torn, and a random sample. The
//! report says how many points were which.
//!
//! The model (`model.rs`) knows nothing about batches, blocks or files: the log is a prefix of what was pushed, at least
//! as long as what was acknowledged, and the store is the last durable state or one that was begun since. Nothing that
//! only a power loss did may be called damage. The other way round, [`damage`] changes blocks of a medium on which
//! everything is durable, and nothing may be lost or invented without being called so.

mod content;
mod damage;
mod disk;
mod explore;
mod histories;
mod medium;
mod model;
mod node;
mod script;

use std::collections::VecDeque;
use std::fmt;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

pub use damage::DamageReport;
pub use explore::CrashReport;
use script::History;

use crate::platform::run;

/// A bug on purpose. Each must be found, or the enumeration shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Syncs of the log do nothing: what is acknowledged was never durable.
    LogSyncsAreLies,
    /// Syncs of everything else do nothing.
    StoreSyncsAreLies,
    /// Syncs of directories do nothing, as if nobody called for them.
    DirectorySyncsAreLies,
    /// One sector of each sync of the log is forgotten.
    SyncForgetsASector,
    /// Writes of bytes that the cache already has are skipped: a recovered batch is not written again.
    RewritesAreSkipped,
    /// Seals behind data are never written.
    SealsAreLost,
    /// A damaged log is cut where the damage is, and used.
    DamageIsCut,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// A point with at most so many combinations is enumerated.
    pub exhaustive_max: u64,
    /// The same where a store has to be opened, which takes longer.
    pub exhaustive_store_max: u64,
    /// So many random combinations of any other point.
    pub samples: usize,
    /// Of so many recovered states one is also recovered with power losses during its recovery; with a store.
    pub second_level_every: u64,
    /// So many random combinations of a point of such a recovery that has too many.
    pub second_level_samples: usize,
    /// One byte in so many is flipped in the damage mode.
    pub flip_every: usize,
    /// Of so many ways to damage a medium with a store one is tried. No divisor of a number of blocks, so that all kinds
    /// and places get their turn.
    pub damage_store_every: u64,
}

impl Effort {
    /// For every build: under a minute on two cores without optimisation of this workspace's code.
    pub const CI: Self = Self {
        exhaustive_max: 1 << 12,
        exhaustive_store_max: 1 << 7,
        samples: 24,
        second_level_every: 64,
        second_level_samples: 2,
        flip_every: 61,
        damage_store_every: 23,
    };
    /// Minutes.
    pub const THOROUGH: Self = Self {
        exhaustive_max: 1 << 14,
        exhaustive_store_max: 1 << 12,
        samples: 400,
        second_level_every: 16,
        second_level_samples: 16,
        flip_every: 7,
        damage_store_every: 1,
    };
}

/// The names of all histories.
pub fn histories() -> Vec<&'static str> {
    histories::ALL.iter().map(|history| history.name).collect()
}

fn find(name: &str) -> Option<&'static History> {
    histories::ALL.iter().find(|history| history.name == name)
}

/// Records a history and recovers every legal state after a power loss.
///
/// # Errors
/// There is no such history, or it could not be recorded: production refused a step, or a restart within it came up
/// with something that it must not.
pub fn crash(name: &'static str, effort: Effort, plant: Option<Plant>) -> Result<CrashReport, String> {
    let history = find(name).ok_or_else(|| format!("no history is called {name:?}"))?;
    run(1, move || explore::explore(history, effort, plant))
}

/// Records a history, lets everything become durable, and damages the medium block by block.
///
/// # Errors
/// As [`crash`].
pub fn damage(name: &'static str, effort: Effort, plant: Option<Plant>) -> Result<DamageReport, String> {
    let history = find(name).ok_or_else(|| format!("no history is called {name:?}"))?;
    run(1, move || damage::damage(history, effort, plant))
}

/// Runs all histories in both modes on so many threads; `each` gets every report's line as it comes.
///
/// # Errors
/// Every violation, and every history that could not be recorded.
pub fn all(effort: Effort, threads: usize, each: impl Fn(&str) + Sync) -> Result<Totals, Vec<String>> {
    run_all(&histories(), effort, threads, each)
}

fn run_all(
    names: &[&'static str],
    effort: Effort,
    threads: usize,
    each: impl Fn(&str) + Sync,
) -> Result<Totals, Vec<String>> {
    let jobs: VecDeque<(&'static str, bool)> = names.iter().flat_map(|&name| [(name, true), (name, false)]).collect();
    let jobs = Mutex::new(jobs);
    let totals = Mutex::new((Totals::default(), Vec::new()));
    let lock = |queue: &Mutex<VecDeque<_>>| queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((name, crashes)) = lock(&jobs) {
                    let line = if crashes {
                        crash(name, effort, None).map(Line::Crash)
                    } else {
                        damage(name, effort, None).map(Line::Damage)
                    };
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    match line {
                        Ok(line) => {
                            each(&line.to_string());
                            totals.0.add(&line);
                            totals.1.extend(line.violation().map(|v| format!("{name}: {v}")));
                        }
                        Err(error) => totals.1.push(format!("{name}: {error}")),
                    }
                }
            });
        }
    });
    let (totals, violations) = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    if violations.is_empty() { Ok(totals) } else { Err(violations) }
}

/// Recover every state that a power loss can leave behind in short histories.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Try more of what can only be sampled; takes minutes
    #[arg(long)]
    thorough: bool,
    /// Only this history
    #[arg(long)]
    history: Option<String>,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
}

/// The command `sim crash-states`. Exit code 1: there is a violation; 2: there is no such history.
pub fn main(args: &Args) -> ExitCode {
    let effort = if args.thorough { Effort::THOROUGH } else { Effort::CI };
    let names = histories().into_iter().filter(|name| args.history.as_ref().is_none_or(|only| only == name));
    let names: Vec<&'static str> = names.collect();
    if names.is_empty() {
        eprintln!("no such history; there are: {}", histories().join(", "));
        return ExitCode::from(2);
    }
    match run_all(&names, effort, args.jobs as usize, |line| println!("{line}")) {
        Ok(totals) => {
            println!("{totals}\nclean");
            ExitCode::SUCCESS
        }
        Err(violations) => {
            println!("{}", violations.join("\n"));
            ExitCode::from(1)
        }
    }
}

enum Line {
    Crash(CrashReport),
    Damage(DamageReport),
}

impl Line {
    fn violation(&self) -> Option<&String> {
        match self {
            Self::Crash(report) => report.violation.as_ref(),
            Self::Damage(report) => report.violation.as_ref(),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(report) => report.fmt(f),
            Self::Damage(report) => report.fmt(f),
        }
    }
}

/// What all histories add up to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Instants at which the power was lost.
    pub points: u64,
    /// Of them, those whose legal states were enumerated; the others were sampled.
    pub exhaustive: u64,
    /// Legal states that were built.
    pub states: u64,
    /// Different ones, all of them recovered, and started again after going on.
    pub recovered: u64,
    /// Different states after a power loss during one of those recoveries, recovered too.
    pub second_level: u64,
    /// Damaged media that a start was tried on.
    pub damaged: u64,
    /// Of them, those that it refused; the others lost nothing.
    pub refused: u64,
}

impl Totals {
    fn add(&mut self, line: &Line) {
        match line {
            Line::Crash(report) => {
                self.points += report.points;
                self.exhaustive += report.exhaustive;
                self.states += report.states;
                self.recovered += report.recovered;
                self.second_level += report.second_level;
            }
            Line::Damage(report) => {
                self.damaged += report.damaged;
                self.refused += report.refused;
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "power lost at {} points ({} exhaustively): {} legal states, {} different ones recovered and gone on with, \
             {} different ones after a power loss during recovery; {} damaged media, {} of them refused, the others \
             recovered whole",
            self.points, self.exhaustive, self.states, self.recovered, self.second_level, self.damaged, self.refused
        )
    }
}

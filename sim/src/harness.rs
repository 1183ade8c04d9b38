//! Your state machine in the simulator.
//!
//! A user of `quorate-io` brings a [`StateMachine`]. Bring it here, too, with what clients ask of it and with what the
//! right answers are, and it gets everything that the key-value store gets: clusters of production's nodes, their disks
//! and network, every fault that a plan can draw, and all oracles.
//!
//! ```
//! use bytes::Bytes;
//! use quorate_core::{LogId, StateMachine, StateMut, StateRef};
//! # #[cfg(madsim)] {
//! use sim::SplitMix;
//! use sim::harness::{Ask, Trial, check};
//!
//! /// A counter: every command adds its first byte and answers the sum.
//! struct Counter;
//!
//! fn sum(state: &dyn StateRef) -> u64 {
//!     state.get(b"sum").map_or(0, |sum| u64::from_be_bytes(sum[..].try_into().expect("eight bytes")))
//! }
//!
//! impl StateMachine for Counter {
//!     fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
//!         let sum = Bytes::copy_from_slice(&(sum(state) + u64::from(command[0])).to_be_bytes());
//!         state.put(Bytes::from_static(b"sum"), sum.clone());
//!         sum
//!     }
//! }
//!
//! /// What clients ask, and a number that does the same as the counter.
//! struct Adding;
//!
//! impl Trial for Adding {
//!     type Machine = Counter;
//!     type Query = ();
//!     type Answer = u64;
//!     type State = u64;
//!
//!     fn machine(&self) -> Counter {
//!         Counter
//!     }
//!     fn draw(&self, rng: &mut SplitMix) -> Ask<()> {
//!         if rng.chance(400) { Ask::Read(()) } else { Ask::Write(vec![rng.below(100) as u8].into()) }
//!     }
//!     fn query(&self, state: &dyn StateRef, _: &()) -> u64 {
//!         sum(state)
//!     }
//!     fn expect_write(&self, state: &mut u64, command: &Bytes) -> Bytes {
//!         *state += u64::from(command[0]);
//!         Bytes::copy_from_slice(&state.to_be_bytes())
//!     }
//!     fn expect_read(&self, state: &u64, _: &()) -> u64 {
//!         *state
//!     }
//! }
//!
//! // In a test: #[test] fn the_counter_counts() {
//! check(Adding, 0..2);
//! # }
//! ```
//!
//! In a workspace of your own, `.cargo/config.toml` must set what this one's does, or nothing of it compiles:
//!
//! ```toml
//! [build]
//! rustflags = ["--cfg", "madsim"]
//! rustdocflags = ["--cfg", "madsim"]
//! ```
//!
//! # What is checked
//!
//! - Everything inside the nodes, as for the key-value store: see [`crate::check::raft`].
//! - `apply` is a function of the command and the state: each command must have the same response and the same changes
//!   on every replica, and the whole states are compared every thirty-two indexes, at the end, and wherever
//!   a process applies the log once more.
//! - What clients saw, by [`crate::check::log_order`]: every command carries a serial (the harness puts it in front of
//!   the command and takes it off before `apply`), so that a phantom, a command that took effect twice, a lost one and
//!   an order that is not that of time are found; every response and every answer of a read is compared with the
//!   model's at its place in the log.
//! - Nothing panics, nodes start after any crash, and a healed cluster serves.
//!
//! # What a failure looks like
//!
//! [`check`] panics with the violated property, the operations in conflict, the plan of faults, the same made as small
//! as it gets, and how to run it again: `SIM_SEED=17 cargo test that_test` runs one seed and prints the end of its trace,
//! `SIM_PLAN=failing.plan` a plan that was saved to a file, and perhaps changed by hand.
//!
//! # What makes a run repeatable, and what does not
//!
//! A run is a function of its seed as far as the simulator reaches, and it reaches into `apply`: the clock
//! (`std::time`) and the entropy of the operating system (`getrandom`, so `RandomState` and with it the order of a
//! `HashMap`) are those of the run. An `apply` that uses them differs between replicas in the same way in each replay.
//!
//! What it does not reach is what outlives a run, or is outside of the process: statics, files, the network, addresses of
//! memory, threads of your own. An `apply` that uses those may replay differently; it is found all the same, when two
//! replicas of one run differ.

mod subject;

use std::fmt::Debug;
use std::ops::Range;

use bytes::Bytes;
use quorate_core::{StateMachine, StateRef};

pub use subject::Tried;

use crate::plan::Plan;
use crate::rng::SplitMix;
use crate::run::{ReportOf, run_subject};
use crate::shrink::{class, shrink};
use crate::sweep::describe;

/// So many plans are tried at most to make a failing one smaller.
const SHRINK_RUNS: u64 = 200;
/// So many of the last events are printed of one that is run again.
const TAIL: usize = 200;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask<Q> {
    /// A command, of 65,528 bytes at most.
    Write(Bytes),
    /// A query: mostly linearizable, in some plans sometimes stale.
    Read(Q),
}

/// A state machine, what clients ask of it, and what is right. See the module for an example.
pub trait Trial: Send + Sync + 'static {
    /// The machine under test.
    type Machine: StateMachine;
    /// A question about the state.
    type Query: Clone + Debug + Send + Sync + 'static;
    /// The answer to one.
    type Answer: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What the sequential model remembers; at first its default.
    type State: Default;

    /// The machine of a process that starts. Every process gets one of its own.
    fn machine(&self) -> Self::Machine;

    /// Draws what a client asks for next. Writes must be among it; they need not differ from each other.
    fn draw(&self, rng: &mut SplitMix) -> Ask<Self::Query>;

    /// Answers a query from the replicated state, as your program does.
    fn query(&self, state: &dyn StateRef, query: &Self::Query) -> Self::Answer;

    /// Executes a command on the model and returns the response that is right.
    fn expect_write(&self, state: &mut Self::State, command: &Bytes) -> Bytes;

    /// The answer that is right.
    fn expect_read(&self, state: &Self::State, query: &Self::Query) -> Self::Answer;
}

/// Runs the seeds of a range; for a test. With `SIM_SEED` or `SIM_PLAN` set it runs that alone.
///
/// # Panics
/// If a property is violated; if no operation of any seed was acknowledged, which shows nothing; if what `SIM_SEED` or
/// `SIM_PLAN` names is no plan.
pub fn check<T: Trial>(trial: T, seeds: Range<u64>) {
    let subject = Tried::new(trial);
    if let Some(plan) = asked_for() {
        return again(&subject, &plan);
    }
    let mut acknowledged = 0;
    for seed in seeds.clone() {
        let report = run_subject(&subject, &Plan::draw(seed), 0);
        if report.violation.is_some() {
            panic!("{}{}", describe(&report, &command(&format!("SIM_SEED={seed}"))), smaller(&subject, &report.plan));
        }
        acknowledged += report.stats.acknowledged;
    }
    assert!(acknowledged > 0 || seeds.is_empty(), "no operation was acknowledged in any of the seeds {seeds:?}");
}

/// The first seed of a range that violates a property, with what was found: to show that a bug on purpose is found.
pub fn find<T: Trial>(trial: T, seeds: Range<u64>) -> Option<ReportOf<Tried<T>>> {
    let subject = Tried::new(trial);
    seeds.map(|seed| run_subject(&subject, &Plan::draw(seed), 0)).find(|report| report.violation.is_some())
}

/// The plan that the environment asks for.
fn asked_for() -> Option<Plan> {
    let target = std::env::var("SIM_PLAN").or_else(|_| std::env::var("SIM_SEED")).ok()?;
    Some(Plan::load(&target).unwrap_or_else(|error| panic!("SIM_SEED or SIM_PLAN: {error}")))
}

fn again<T: Trial>(subject: &Tried<T>, plan: &Plan) {
    let report = run_subject(subject, plan, TAIL);
    println!("{plan}{}\n{:#?}", report.tail.join("\n"), report.stats);
    let same = command("the same variable");
    assert!(report.violation.is_none(), "{}", describe(&report, &same));
}

/// `SIM_SEED=7 cargo test bank::keeps_its_total`: libtest names threads by their tests.
fn command(with: &str) -> String {
    let thread = std::thread::current();
    format!("{with} cargo test {}", thread.name().filter(|name| *name != "main").unwrap_or_default())
}

/// The failing plan, made smaller, as text.
fn smaller<T: Trial>(subject: &Tried<T>, plan: &Plan) -> String {
    let judge = |plan: &Plan| run_subject(subject, plan, 0).violation.as_ref().map(class);
    shrink(plan, SHRINK_RUNS, 1, judge, |_, _| ()).map_or_else(
        || "\nrun again, it violates nothing: it depends on something that the simulator does not reach".to_owned(),
        |small| {
            let with = command("SIM_PLAN=failing.plan");
            format!("\nshrunk in {} runs; save it as failing.plan, then: {with}\n{}", small.runs, small.plan)
        },
    )
}

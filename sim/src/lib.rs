//! The deterministic simulator: whole clusters of the production code, thousands of seeded runs, every failure
//! replayable.
//!
//! Nothing here stands in for code that production runs. The simulator binds the three seams of
//! [`quorate_io::Platform`] and runs everything above them as it is:
//!
//! ```text
//!            log store · store · snapshots · transport · node · router      (the production code)
//!   ──────────────────────────────────────────────────────────────────────────────────────────────
//!     Runtime                     Disk                           Net
//!     platform::SimRuntime        platform::SimDisk              platform::SimNet    one handle per boot
//!     madsim tasks, its clock     platform::Drive                platform::Network   what outlives a process
//!     and seeded randomness       cache and medium images        pipes with latency
//! ```
//!
//! [`platform::Machine`] ties the three together and is where the order of a kill is right once: first the network
//! and the disk stop listening to the old process, then its tasks are dropped.
//!
//! # A run is data
//!
//! ```text
//!  seed ──plan::Plan::draw──► Plan ─────────run::run─────────► Report            sweep::sweep: many, on threads
//!  file ──plan::Plan::parse─► nodes, settings,                 verdict, hash,    sweep::explain: what failed, the
//!                             workload, faults                 history, figures  plan, the command that repeats it
//!                                 ▲                               │
//!                                 └───────── shrink::shrink ──────┘              the smallest plan that fails alike
//!
//!  in run():  cluster boots production's nodes ── clients use production's router ── nemesis makes the faults happen
//!                  └──────── witness: observations of logs, votes, applies, metrics ────────┘
//!             heal a core → it must serve alone → heal everything → every node must serve and catch up
//!                  → compare logs and states → judge the history
//! ```
//!
//! A plan prints as text that can be edited and read again ([`plan::Plan::to_text`], [`plan::Plan::parse`]) and holds
//! everything that is drawn ahead; what is random while it runs comes from the same seed. Property tests draw plans with
//! [`plan::plans`]. Plans that once showed a bug are kept in `sim/corpus`.
//!
//! The oracles are in [`check`], one property each with its source: the safety properties of Raft over what the witness
//! observed ([`check::raft`]), and the clients' history by two checkers that share nothing ([`check::revision_order`],
//! [`check::linearizability`]), or in the order of the log ([`check::log_order`]). A run also fails if a node panics,
//! refuses to start or stops by itself, or if a healed quorum or the healed cluster does not serve in time. The first
//! violation is the verdict.
//!
//! What is under test is a [`subject::Subject`]: the key-value store through production's REST router, or a state
//! machine of your own: see [`harness`].
//!
//! The command line is `sim sweep`, `sim merge`, `sim replay`, `sim shrink`, `sim plan`, `sim timeline`: see
//! `src/main.rs`. [`timeline`] makes a page of a run that a person can look at.
//!
//! # What makes a run repeatable
//!
//! A run is a function of its seed. The entropy sources and how each is closed:
//!
//! | source | closed by |
//! |---|---|
//! | scheduling, time | madsim's executor and clock, one fresh OS thread for each run |
//! | the machines' own clocks | integers over that clock: offset, drift and steps are the plan's |
//! | wake-up order in channels | FIFO channels of our own ([`platform`], and [`quorate_io::watch`], which is production's, too); tokio's watch spreads waiters by a counter that is global to the process |
//! | randomness of the code under test | [`platform::SimRng`] over madsim's seeded generator |
//! | randomness of disks and links | one [`SplitMix`] stream for each disk and each link, derived from the seed and a label |
//! | iteration order | `BTreeMap` only |
//! | threads | none: `spawn_blocking` runs inline, a disk worker is a task |
//! | state that outlives a run | no statics; two thread locals, the clocks of the thread's only run |
//!
//! [`Trace`] is the witness: a rolling hash over what took effect, when and where. Two runs of a seed must agree in
//! it, in the same process and in another.
//!
//! # Example
//!
//! ```
//! # #[cfg(madsim)] {
//! use sim::platform::{World, WorldConfig, run};
//!
//! let hash = |seed| {
//!     run(seed, move || async move {
//!         let world = World::new(WorldConfig { seed, ..WorldConfig::default() });
//!         let machine = world.machine("n1");
//!         let _task = machine.boot(|platform| async move { drop(platform) });
//!         machine.kill();
//!         world.trace().hash()
//!     })
//! };
//! assert_eq!(hash(7), hash(7));
//! # }
//! ```

#[cfg(not(madsim))]
compile_error!(
    "sim needs --cfg madsim: .cargo/config.toml sets it, and a RUSTFLAGS variable replaces that setting; unset \
     RUSTFLAGS or add '--cfg madsim' to it"
);

#[cfg(madsim)]
pub mod atlas;
pub mod check;
#[cfg(madsim)]
mod client;
#[cfg(madsim)]
mod cluster;
#[cfg(madsim)]
pub mod conformance;
#[cfg(madsim)]
pub mod coverage;
#[cfg(madsim)]
pub mod crash_states;
#[cfg(madsim)]
pub mod harness;
#[cfg(madsim)]
mod liveness;
#[cfg(madsim)]
mod nemesis;
#[cfg(madsim)]
mod operator;
#[cfg(madsim)]
pub mod plan;
#[cfg(madsim)]
pub mod platform;
#[cfg(madsim)]
mod rng;
#[cfg(madsim)]
pub mod roster;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub mod shrink;
#[cfg(madsim)]
pub mod subject;
#[cfg(madsim)]
pub mod sweep;
#[cfg(madsim)]
pub mod timeline;
#[cfg(madsim)]
mod trace;
#[cfg(madsim)]
pub mod witness;

#[cfg(madsim)]
pub use rng::SplitMix;
#[cfg(madsim)]
pub use trace::{Event, Recorded, Trace};

//! What is under test: a state machine, the way clients reach it, what they ask, and what is right.
//!
//! Everything else of a run (nodes, faults, disks, network, the oracles inside the nodes) is the same whatever the
//! state machine does. There are two: [`Kv`], which goes through production's REST router, and a user's own machine
//! ([`crate::harness`]).

mod kv;

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{LogId, StateMachine};
use quorate_io::Node;

pub use kv::Kv;

use crate::check::history::{Operation, Violation};
use crate::plan::Workload;
use crate::platform::SimPlatform;
use crate::rng::SplitMix;

/// Gives every operation of one client a number of its own.
#[derive(Clone, Debug)]
pub struct Serials {
    /// The client, 0 for the one that looks whether the cluster has healed.
    pub client: u64,
    last: u64,
}

impl Serials {
    /// Of a client.
    pub fn new(client: u64) -> Self {
        Self { client, last: 0 }
    }

    /// One more than the last, from 1.
    pub fn take(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What a client may conclude from an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Done,
    /// It had no effect and never will have.
    NotApplied,
    /// It takes effect at some time, or never.
    Unknown,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Answer<A> {
    /// What the client learnt.
    pub outcome: A,
    /// Whether a write was refused for want of space.
    pub disk_full: bool,
}

/// A command that some replica has applied and said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log.
    pub at: LogId,
    /// What the state machine was given.
    pub command: Bytes,
    /// What it answered.
    pub response: Bytes,
}

/// What a history amounted to.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// The first property that does not hold.
    pub violation: Option<Violation>,
    /// Searches that ran out of steps.
    pub inconclusive: u64,
}

/// See the module.
pub trait Subject: Clone + Send + Sync + 'static {
    /// What clients call: made by each client for each process that it talks to.
    type Service: Clone + Send + 'static;
    /// What a client asks for.
    type Op: Clone + Debug + Display + Send + Sync + 'static;
    /// What a client learns; the default is that the outcome is unknown.
    type Outcome: Clone + Debug + Display + Default + Send + 'static;

    /// The outcome of what never reached anybody.
    const NOT_APPLIED: Self::Outcome;

    /// The state machine of a process that starts.
    fn machine(&self) -> Arc<dyn StateMachine>;

    /// The interface to a node.
    fn serve(&self, node: &Node<SimPlatform>) -> Self::Service;

    /// Draws an operation.
    fn draw(&self, workload: &Workload, rng: &mut SplitMix, serials: &mut Serials) -> Self::Op;

    /// Another operation for one whose outcome stayed unknown: a new one, since that one may still happen.
    fn again(&self, op: Self::Op, workload: &Workload, serials: &mut Serials) -> Self::Op;

    /// A write that must succeed through every node of a healed cluster.
    fn probe_write(&self, rng: &mut SplitMix, serials: &mut Serials) -> Self::Op;

    /// A linearizable read that must succeed there: the more it shows, the better.
    fn probe_read(&self, rng: &mut SplitMix, serials: &mut Serials) -> Option<Self::Op>;

    /// Whether an operation may change the state.
    fn is_write(op: &Self::Op) -> bool;

    /// What may be concluded.
    fn fate(outcome: &Self::Outcome) -> Fate;

    /// Asks a node. Runs in its process.
    fn ask(service: Self::Service, op: Self::Op) -> impl Future<Output = Answer<Self::Outcome>> + Send + 'static;

    /// Judges what clients saw by the commands that were applied, in the order of the log.
    fn judge(&self, history: &[Operation<Self::Op, Self::Outcome>], log: &[Committed]) -> Judgement;
}

//! A check in the order of the log, for any state machine that has a sequential model.
//!
//! Consensus claims that the committed log is the one order of all commands. So nothing has to be searched: every
//! command carries a serial and has a place in the log, every acknowledged write names its place, every read names how
//! much of the log it saw. What is left is to check that these places are right ones (Herlihy & Wing 1990,
//! "Linearizability": an order that contains the real-time order, and in which every answer is a sequential one).
//!
//! ```text
//!   log        1.1   1.2   2.5   2.6        places: (term, index), each with serial, command, response
//!   calls      w 17 ───► acknowledged at 1.2          [`EXACTLY_ONCE`] [`DURABILITY`] [`NO_PHANTOM`]
//!                   r ───────► saw everything up to 5 [`REAL_TIME`] [`READ_YOUR_WRITES`]
//!   model      s0 → s1 → s2 → s3 → s4       [`FOLLOWS`], [`READS_FOLLOW`]
//! ```
//!
//! One property in a file each: [`attribution`](self) (whose command is it), `acknowledged`, `real_time`, `replay`.
//! O(n log n) and one step of the model for each command.

mod acknowledged;
mod attribution;
pub mod kv_model;
mod real_time;
mod replay;

use std::fmt::{self, Debug};

use super::history::{Consistency, Operation, Violation};
pub use super::revision_order::{DURABILITY, EXACTLY_ONCE, NO_PHANTOM, NOT_APPLIED_INVISIBLE, REAL_TIME};
pub use real_time::READ_YOUR_WRITES;
pub use replay::{FOLLOWS, READS_FOLLOW, replay};

/// The log's places ascend. Broken by whoever hands the log in.
pub const LOG_ASCENDS: &str = "indexes and terms ascend in the log";

/// What a sequential machine does: the specification that replicas are compared with.
pub trait Model {
    /// What is written.
    type Command: PartialEq + Debug;
    /// What a write answers.
    type Response: PartialEq + Debug;
    /// What is read.
    type Query: Debug;
    /// What a read answers.
    type Answer: PartialEq + Debug;
    /// What it remembers.
    type State;

    /// Before any command.
    fn initial(&self) -> Self::State;
    /// Executes a command.
    fn write(&self, state: &mut Self::State, command: &Self::Command) -> Self::Response;
    /// Answers a query.
    fn read(&self, state: &Self::State, query: &Self::Query) -> Self::Answer;
}

/// A committed command, with what the machine answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<C, R> {
    /// Its index in the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Which call issued it. Two calls never have the same.
    pub serial: u64,
    /// What was asked for.
    pub command: C,
    /// What was answered when it was applied.
    pub response: R,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<C, Q> {
    /// A command.
    Write {
        /// Of this call and no other.
        serial: u64,
        /// The command.
        command: C,
    },
    /// A query.
    Read {
        /// The query.
        query: Q,
        /// What was asked for.
        consistency: Consistency,
    },
}

/// What a client learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Learnt<R, A> {
    /// The command took effect.
    Written {
        /// At this index of the log.
        index: u64,
        /// In this term.
        term: u64,
        /// The answer.
        response: R,
    },
    /// The query was answered.
    Read {
        /// From the state after this index; `None` before any entry.
        applied: Option<u64>,
        /// The answer.
        answer: A,
    },
    /// A write had no effect and never will have; or a read failed.
    NotApplied,
    /// A write takes effect at some time after its invocation, or never.
    #[default]
    Unknown,
}

/// One call of one client.
pub type Call<M> = Operation<
    Request<<M as Model>::Command, <M as Model>::Query>,
    Learnt<<M as Model>::Response, <M as Model>::Answer>,
>;

/// The log of a model's commands.
pub type Log<M> = [Entry<<M as Model>::Command, <M as Model>::Response>];

impl<Q, A, R, B> Operation<Request<Q, A>, Learnt<R, B>> {
    /// Until when it took effect, if it did; `None`: at any time from its invocation on.
    fn settled_ns(&self) -> Option<u64> {
        if matches!(self.outcome, Learnt::Unknown) { None } else { self.complete_ns }
    }

    fn is_stale(&self) -> bool {
        matches!(self.op, Request::Read { consistency: Consistency::Stale, .. })
    }
}

/// Checks what clients saw against the log, and the log against the model.
///
/// # Errors
/// The first violation of one of the properties above.
pub fn check<M: Model>(model: &M, log: &Log<M>, calls: &[Call<M>]) -> Result<(), Violation> {
    ascends::<M>(log)?;
    let placed = attribution::attribute::<M>(log, calls)?;
    acknowledged::check::<M>(log, calls)?;
    real_time::check::<M>(calls, &placed)?;
    replay(model, log, calls)
}

fn ascends<M: Model>(log: &Log<M>) -> Result<(), Violation> {
    let descent = log.windows(2).find(|pair| pair[0].index >= pair[1].index || pair[0].term > pair[1].term);
    descent.map_or(Ok(()), |pair| {
        let explanation = format!("{}.{} comes after {}.{}", pair[1].term, pair[1].index, pair[0].term, pair[0].index);
        Err(Violation::new(LOG_ASCENDS, explanation, []))
    })
}

impl<C: Debug, Q: Debug> fmt::Display for Request<C, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { serial, command } => write!(f, "write {command:?} ({serial:x})"),
            Self::Read { query, consistency: Consistency::Stale } => write!(f, "stale read {query:?}"),
            Self::Read { query, .. } => write!(f, "read {query:?}"),
        }
    }
}

impl<R: Debug, A: Debug> fmt::Display for Learnt<R, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written { index, term, response } => write!(f, "{response:?} at {term}.{index}"),
            Self::Read { applied: Some(applied), answer } => write!(f, "{answer:?} after index {applied}"),
            Self::Read { applied: None, answer } => write!(f, "{answer:?} before any entry"),
            Self::NotApplied => f.write_str("not applied"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

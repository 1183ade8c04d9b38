//! Oracles over facts observed inside the nodes: the safety properties of Raft (Ongaro & Ousterhout 2014, "In search of
//! an understandable consensus algorithm", extended version, figure 3).
//!
//! Each is fed with observations in the order in which they were made, and answers as soon as two contradict each other.
//! All hold for ever, not only among nodes that live at the same time, so nothing is forgotten at a restart. A node that
//! was wiped comes back under another id.

mod committed_immutable;
mod committed_on_quorum;
mod durability;
mod durable_vote;
mod election_safety;
mod leader_completeness;
mod log_matching;
mod match_stays;
mod monotonic;
mod single_vote;
mod state_machine_equality;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use super::history::Violation;
pub use committed_immutable::{COMMITTED_IMMUTABLE, CommittedImmutable};
pub use committed_on_quorum::{COMMITTED_ON_QUORUM, CommittedOnQuorum};
pub use durability::{APPLIED_STAYS, AppliedStays};
pub use durable_vote::{DURABLE_VOTE, DurableVote};
pub use election_safety::{ELECTION_SAFETY, ElectionSafety};
pub use leader_completeness::{LEADER_COMPLETENESS, LeaderCompleteness};
pub use log_matching::{LOG_MATCHING, LogMatching};
pub use match_stays::{MATCH_STAYS, MatchStays};
pub use monotonic::{MONOTONIC, Monotonic, Progress};
pub use single_vote::{SINGLE_VOTE, SingleVote};
pub use state_machine_equality::{Effect, STATE_MACHINE_EQUALITY, StateMachineEquality};

/// Who was observed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The node's id.
    pub node: u64,
    /// The time of the observation, in nanoseconds.
    pub time_ns: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:016x} at {} ns", self.node, self.time_ns)
    }
}

fn violation(property: &'static str, explanation: String) -> Result<(), Violation> {
    Err(Violation::new(property, explanation, []))
}

/// Remembers the first observation of a fact, with which all later ones must agree, and returns it if this one does not.
fn disagreement<K: Ord, V: PartialEq>(first: &mut BTreeMap<K, (V, At)>, key: K, value: V, at: At) -> Option<&(V, At)> {
    match first.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert((value, at));
            None
        }
        Entry::Occupied(entry) => (entry.get().0 != value).then_some(entry.into_mut()),
    }
}

/// One entry of a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// A hash of its payload.
    pub payload_hash: u64,
}

//! Replicas are deterministic state machines (Raft §2; Schneider 1990, "Implementing fault-tolerant services using the
//! state machine approach"): the same commands in the same order give the same answers and the same state.

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, disagreement, violation};

/// Replicas that applied the same entries are equal.
pub const STATE_MACHINE_EQUALITY: &str = "state machine equality";

/// What applying one command did, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Of the response.
    pub response_hash: u64,
    /// Of the keys that were changed, each with what it was set to last, whatever the order.
    pub changes_hash: u64,
}

/// After the same entries all replicas are in the same state, and every command did the same everywhere.
#[derive(Clone, Debug, Default)]
pub struct StateMachineEquality {
    states: BTreeMap<u64, (u64, At)>,
    effects: BTreeMap<u64, (Effect, At)>,
}

impl StateMachineEquality {
    /// The state of `at.node` has the hash `state_hash` after it applied everything up to `applied`.
    ///
    /// # Errors
    /// Another state has been observed after that entry.
    pub fn observe(&mut self, at: At, applied: u64, state_hash: u64) -> Result<(), Violation> {
        let Some((_, before)) = disagreement(&mut self.states, applied, state_hash, at) else { return Ok(()) };
        violation(STATE_MACHINE_EQUALITY, format!("after index {applied} the state of {at} is not that of {before}"))
    }

    /// The command at `index` had this effect at `at.node`. It must be known to be the same command everywhere.
    ///
    /// # Errors
    /// It had another effect elsewhere: `apply` is not a function of its arguments, or the states before it differed.
    pub fn observe_effect(&mut self, at: At, index: u64, effect: Effect) -> Result<(), Violation> {
        let Some((other, before)) = disagreement(&mut self.effects, index, effect, at) else { return Ok(()) };
        let what = match (other.response_hash != effect.response_hash, other.changes_hash != effect.changes_hash) {
            (true, true) => "answered differently and changed the state differently",
            (true, false) => "answered differently",
            _ => "changed the state differently",
        };
        let explanation = format!(
            "the command at index {index} {what} at {at} than at {before}: apply is no function of the command and the \
             state, or the states before it differed"
        );
        violation(STATE_MACHINE_EQUALITY, explanation)
    }
}

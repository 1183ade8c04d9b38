//! Durability (Raft §5.4: "the leader ... never loses committed entries"; §8: what a client was told stays so).

use super::super::history::Violation;
use super::{At, violation};

/// What was applied, and so may have been acknowledged, is applied by everybody in the end.
pub const APPLIED_STAYS: &str = "what was applied once stays applied";

/// Once a cluster has come to rest, nobody is behind what anybody had applied before.
#[derive(Clone, Debug, Default)]
pub struct AppliedStays {
    furthest: Option<(u64, At)>,
}

impl AppliedStays {
    /// `at.node` has applied the entry `index`: whoever proposed it may have been told.
    pub fn observe_applied(&mut self, at: At, index: u64) {
        if self.furthest.is_none_or(|(furthest, _)| index > furthest) {
            self.furthest = Some((index, at));
        }
    }

    /// The cluster is at rest, all faults are over, and `at.node` has applied everything up to `applied`.
    ///
    /// # Errors
    /// Somebody had applied more.
    pub fn observe_rest(&self, at: At, applied: Option<u64>) -> Result<(), Violation> {
        match self.furthest {
            Some((furthest, before)) if applied < Some(furthest) => violation(
                APPLIED_STAYS,
                format!("at rest {at} has applied {applied:?}, and {before} had applied index {furthest}"),
            ),
            _ => Ok(()),
        }
    }
}

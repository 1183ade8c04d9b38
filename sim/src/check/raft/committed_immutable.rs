//! State machine safety (Raft §5.4.3, figure 3): what is committed never changes.

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, LogEntry, disagreement, violation};

/// What one node applied at an index, every node applies.
pub const COMMITTED_IMMUTABLE: &str = "committed entries never change";

/// State machine safety (Raft §5.4.3): if a node has applied an entry at an index, no other node will ever apply a
/// different one there.
#[derive(Clone, Debug, Default)]
pub struct CommittedImmutable {
    applied: BTreeMap<u64, ((u64, u64), At)>,
}

impl CommittedImmutable {
    /// `at.node` applied `entry`, or learned that it is committed.
    ///
    /// # Errors
    /// Another entry has been applied at that index.
    pub fn observe(&mut self, at: At, entry: LogEntry) -> Result<(), Violation> {
        let LogEntry { index, term, payload_hash } = entry;
        let Some(((other, _), before)) = disagreement(&mut self.applied, index, (term, payload_hash), at) else {
            return Ok(());
        };
        let explanation = if *other == term {
            format!("entry {term}.{index} that {at} applied is not that of {before}")
        } else {
            format!("index {index} was applied with term {term} ({at}) and {other} ({before})")
        };
        violation(COMMITTED_IMMUTABLE, explanation)
    }
}

//! Progress (Raft §5.1 and figure 2, "volatile state on all servers"): nothing that counts goes back.

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, violation};

/// Terms and indexes do not go back.
pub const MONOTONIC: &str = "monotonic term, commit and applied";

/// How far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest term it has seen.
    pub term: u64,
    /// The last index known to be committed; `None` before there is any.
    pub commit: Option<u64>,
    /// The last index applied; `None` before there is any.
    pub applied: Option<u64>,
}

/// Current term increases monotonically, as do commit index and last applied.
#[derive(Clone, Debug, Default)]
pub struct Monotonic {
    /// Node → (incarnation, progress).
    progress: BTreeMap<u64, ((u64, Progress), At)>,
}

impl Monotonic {
    /// `at.node` is this far. `incarnation` counts its starts: commit and applied are not durable, and a term may be
    /// seen before it is, so a restart may take all three back.
    ///
    /// # Errors
    /// One of the three is behind an earlier observation of the incarnation, or the node applied more than is committed.
    pub fn observe(&mut self, at: At, incarnation: u64, progress: Progress) -> Result<(), Violation> {
        if progress.applied > progress.commit {
            let (applied, commit) = (progress.applied, progress.commit);
            return violation(MONOTONIC, format!("{at} applied {applied:?}, but only {commit:?} is committed"));
        }
        match self.progress.insert(at.node, ((incarnation, progress), at)) {
            Some(((same, old), before))
                if same == incarnation
                    && (progress.term < old.term || progress.commit < old.commit || progress.applied < old.applied) =>
            {
                violation(MONOTONIC, format!("{at} is back at {progress:?}, after {old:?} at {} ns", before.time_ns))
            }
            _ => Ok(()),
        }
    }
}

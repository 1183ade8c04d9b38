//! Persistence of term and vote (Raft §5.2 and figure 2).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, violation};

/// A term and a vote are durable before anybody is told of them.
pub const DURABLE_VOTE: &str = "votes are durable before they are told";

/// Current term and vote are on stable storage before a server responds to anybody (Raft §5.2 and figure 2, "persistent
/// state on all servers").
#[derive(Clone, Debug, Default)]
pub struct DurableVote {
    /// Node → the highest term that it may have told others of.
    told: BTreeMap<u64, (u64, At)>,
}

impl DurableVote {
    /// `at.node` may answer others in `term`: its storage has said that the vote is durable.
    pub fn observe_told(&mut self, at: At, term: u64) {
        let told = self.told.entry(at.node).or_insert((term, at));
        if told.0 < term {
            *told = (term, at);
        }
    }

    /// `at.node` is down, and `term` is the highest on its disk.
    ///
    /// # Errors
    /// It has told others of a higher one.
    pub fn observe_disk(&self, at: At, term: Option<u64>) -> Result<(), Violation> {
        self.compare(at, term, "finds", "on its disk")
    }

    /// `at.node` has started, and goes on in `term`.
    ///
    /// # Errors
    /// It has told others of a higher one.
    pub fn observe_start(&self, at: At, term: Option<u64>) -> Result<(), Violation> {
        self.compare(at, term, "starts in", "by its log")
    }

    fn compare(&self, at: At, term: Option<u64>, does: &str, by: &str) -> Result<(), Violation> {
        match self.told.get(&at.node) {
            Some((told, before)) if Some(*told) > term => {
                let at_ns = before.time_ns;
                let what = format!("{at} {does} term {term:?} {by}, and was in {told} at {at_ns} ns");
                violation(DURABLE_VOTE, what)
            }
            _ => Ok(()),
        }
    }
}

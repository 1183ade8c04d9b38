//! What a follower acknowledges (Raft §5.3 and figure 2: `matchIndex`).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, violation};

/// What a follower said that it has, it has after a crash, too.
pub const MATCH_STAYS: &str = "a follower keeps what it has acknowledged";

/// "matchIndex: for each server, index of highest log entry known to be replicated on server" (Raft, figure 2). A leader
/// never takes it back, and what its log has only another leader, in a newer term, takes out of a follower's.
#[derive(Clone, Debug, Default)]
pub struct MatchStays {
    /// Node → the highest index that a leader of the newest such term knew of.
    matched: BTreeMap<u64, (u64, u64, At)>,
}

impl MatchStays {
    /// `at.node` leads `term`, and counts on `follower` having everything up to `index`.
    pub fn observe_matched(&mut self, at: At, term: u64, follower: u64, index: u64) {
        let matched = self.matched.entry(follower).or_insert((term, index, at));
        if (matched.0, matched.1) < (term, index) {
            *matched = (term, index, at);
        }
    }

    /// `at.node`, whose id is `id`, is in `term`, and its log or its snapshot ends at `last`.
    ///
    /// # Errors
    /// The leader of this term counts on more.
    pub fn observe_log(&self, at: At, id: u64, term: u64, last: Option<u64>) -> Result<(), Violation> {
        match self.matched.get(&id) {
            Some((of, index, before)) if *of == term && last < Some(*index) => violation(
                MATCH_STAYS,
                format!("in term {term} the log of {at} ends at {last:?}; {before} led, and knew that it had {index}"),
            ),
            _ => Ok(()),
        }
    }
}

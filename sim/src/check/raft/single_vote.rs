//! One vote for each server and term (Raft §5.2 and figure 2, `votedFor`).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, disagreement, violation};

/// A vote is cast once.
pub const SINGLE_VOTE: &str = "one vote in a term";

/// A node votes for one candidate in a term.
#[derive(Clone, Debug, Default)]
pub struct SingleVote {
    /// (node, term) → candidate.
    votes: BTreeMap<(u64, u64), (u64, At)>,
}

impl SingleVote {
    /// `at.node` granted its vote of `term` to `candidate`, and the vote is durable or has been sent.
    ///
    /// # Errors
    /// It has voted for another candidate in that term, in this incarnation or an earlier one.
    pub fn observe(&mut self, at: At, term: u64, candidate: u64) -> Result<(), Violation> {
        let Some((other, before)) = disagreement(&mut self.votes, (at.node, term), candidate, at) else {
            return Ok(());
        };
        let explanation =
            format!("in term {term} {at} votes for {candidate:016x}, and at {} ns for {other:016x}", before.time_ns);
        violation(SINGLE_VOTE, explanation)
    }
}

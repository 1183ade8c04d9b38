//! Election safety (Raft §5.2, figure 3).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, disagreement, violation};

/// At most one leader in a term.
pub const ELECTION_SAFETY: &str = "election safety";

/// Election safety (Raft §5.2): at most one leader can be elected in a given term.
#[derive(Clone, Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, (u64, At)>,
}

impl ElectionSafety {
    /// `at.node` believes that `leader` was elected in `term`; feed it what a node believes of itself and of others.
    ///
    /// # Errors
    /// Another leader of the term has been observed.
    pub fn observe(&mut self, at: At, term: u64, leader: u64) -> Result<(), Violation> {
        let Some((other, before)) = disagreement(&mut self.leaders, term, leader, at) else { return Ok(()) };
        let explanation = format!("term {term} is led by {leader:016x} ({at}) and by {other:016x} ({before})");
        violation(ELECTION_SAFETY, explanation)
    }
}

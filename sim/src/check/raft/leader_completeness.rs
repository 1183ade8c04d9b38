//! Leader completeness (Raft §5.4, figure 3).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, violation};

/// What is committed is in the log of every later leader.
pub const LEADER_COMPLETENESS: &str = "leader completeness";

/// When an entry was known to be committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: u64,
    /// The lowest term that a node was in that knew.
    known_in: u64,
    at: At,
}

/// If an entry is committed in a given term, it is present in the logs of the leaders of all higher terms.
#[derive(Clone, Debug, Default)]
pub struct LeaderCompleteness {
    /// By index.
    committed: BTreeMap<u64, Committed>,
}

impl LeaderCompleteness {
    /// `at.node`, whose term is `known_in`, knows that the entry `index` of `term` is committed.
    pub fn observe_committed(&mut self, at: At, known_in: u64, (index, term): (u64, u64)) {
        let committed = self.committed.entry(index).or_insert(Committed { term, known_in, at });
        if known_in < committed.known_in {
            *committed = Committed { term, known_in, at };
        }
    }

    /// `at.node` leads `term`, or did and has not forgotten what it had: `log` is (index, term) of all its entries, in
    /// order, and what is at or below `purged` is in its state.
    ///
    /// What is in a log and committed never leaves it, so the log may be looked at any time after the election.
    ///
    /// # Errors
    /// An entry that was known to be committed in a lower term is not there.
    pub fn observe_leader(
        &self,
        at: At,
        term: u64,
        purged: Option<u64>,
        log: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), Violation> {
        let mut log = log.into_iter().peekable();
        let first = purged.map_or(0, |purged| purged.saturating_add(1));
        for (&index, committed) in self.committed.range(first..) {
            if committed.known_in >= term {
                continue;
            }
            while log.next_if(|(at, _)| *at < index).is_some() {}
            let there = log.peek().copied().filter(|(at, _)| *at == index).map(|(_, term)| term);
            if there == Some(committed.term) {
                continue;
            }
            let has = there.map_or_else(|| "nothing".to_owned(), |term| format!("an entry of term {term}"));
            let Committed { term: of, known_in, at: knew } = committed;
            let explanation = format!(
                "the leader of term {term}, {at}, has {has} at index {index}, where {knew} knew an entry of term {of} to \
                 be committed in term {known_in}"
            );
            return violation(LEADER_COMPLETENESS, explanation);
        }
        Ok(())
    }
}

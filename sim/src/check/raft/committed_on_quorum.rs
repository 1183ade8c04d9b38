//! Commitment (Raft §5.3, §5.4.2): an entry is committed once a majority has stored it, and stored means durable
//! (figure 2, "persistent state on all servers, updated on stable storage before responding to RPCs").

use std::collections::{BTreeMap, BTreeSet};

use super::super::history::Violation;
use super::{At, violation};

/// What anybody calls committed is durable on a majority.
pub const COMMITTED_ON_QUORUM: &str = "committed entries are durable on a majority";

/// What is committed is on the media of a majority of the voters, from then on.
///
/// A medium is looked at some time after the entry was called committed. What is durable and committed leaves a log only
/// by a purge, which leaves a trace; so a log that lacks it then lacked it before, and nodes may be looked at one by
/// one. Media that were damaged or exchanged say nothing: do not show them.
#[derive(Clone, Debug)]
pub struct CommittedOnQuorum {
    voters: usize,
    /// By index: the term, and who called it committed first.
    committed: BTreeMap<u64, (u64, At)>,
    /// By index: the nodes on whose medium it was not.
    lacking: BTreeMap<u64, BTreeSet<u64>>,
}

impl CommittedOnQuorum {
    /// For a cluster of so many voters, which stay the same.
    pub fn new(voters: usize) -> Self {
        Self { voters, committed: BTreeMap::new(), lacking: BTreeMap::new() }
    }

    /// `at.node` calls the entry `index` of `term` committed.
    pub fn observe_committed(&mut self, at: At, index: u64, term: u64) {
        self.committed.entry(index).or_insert((term, at));
    }

    /// On the medium of `at.node` there is this log: index → term, and what is at or below `purged` was there.
    ///
    /// # Errors
    /// An entry that was called committed before was on too few media.
    pub fn observe_medium(&mut self, at: At, purged: Option<u64>, log: &BTreeMap<u64, u64>) -> Result<(), Violation> {
        let first = purged.map_or(0, |purged| purged.saturating_add(1));
        for (&index, (term, knew)) in self.committed.range(first..) {
            if log.get(&index) == Some(term) {
                continue;
            }
            let lacking = self.lacking.entry(index).or_default();
            lacking.insert(at.node);
            if self.voters - lacking.len() > self.voters / 2 {
                continue;
            }
            let names: Vec<String> = lacking.iter().map(|node| format!("{node:016x}")).collect();
            let explanation = format!(
                "entry {term}.{index} was called committed by {knew}, and was not on the media of {} of {} nodes: {}",
                names.len(),
                self.voters,
                names.join(", ")
            );
            return violation(COMMITTED_ON_QUORUM, explanation);
        }
        Ok(())
    }
}

//! Commitment (Raft §5.3, §5.4.2): an entry is committed once a majority has stored it, and stored means durable
//! (figure 2, "persistent state on all servers, updated on stable storage before responding to RPCs"). While a
//! configuration is joint that takes a majority of each half (§6).

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
///
/// Which configuration an entry was committed under is not told. It is one that somebody had in its log by the time at
/// which the entry was called committed, and that is not older than the newest committed one before the entry: there must
/// be such a one of which a majority has the entry.
#[derive(Clone, Debug, Default)]
pub struct CommittedOnQuorum {
    /// In the order of observation: the index of the entry that carried it, and its sets of voters.
    configs: Vec<(u64, Vec<BTreeSet<u64>>)>,
    /// The indexes of those that are committed.
    committed_configs: BTreeSet<u64>,
    /// By index: what is known of who called it committed first.
    committed: BTreeMap<u64, Committed>,
    /// By index: the voters on whose media it was not.
    lacking: BTreeMap<u64, BTreeSet<u64>>,
}

#[derive(Clone, Debug)]
struct Committed {
    term: u64,
    knew: At,
    /// How many configurations there had been.
    configs: usize,
}

impl CommittedOnQuorum {
    /// In somebody's log the entry `index` is a configuration with these sets of voters.
    pub fn observe_voters(&mut self, index: u64, voters: Vec<BTreeSet<u64>>) {
        self.configs.push((index, voters));
    }

    /// The configuration at `index` is committed.
    pub fn observe_committed_voters(&mut self, index: u64) {
        self.committed_configs.insert(index);
    }

    /// `at.node` calls the entry `index` of `term` committed.
    pub fn observe_committed(&mut self, at: At, index: u64, term: u64) {
        let configs = self.configs.len();
        self.committed.entry(index).or_insert(Committed { term, knew: at, configs });
    }

    /// On the medium of `voter` there is this log: index → term, and what is at or below `purged` was there.
    ///
    /// # Errors
    /// An entry that was called committed before was on too few media.
    pub fn observe_medium(
        &mut self,
        voter: u64,
        purged: Option<u64>,
        log: &BTreeMap<u64, u64>,
    ) -> Result<(), Violation> {
        let first = purged.map_or(0, |purged| purged.saturating_add(1));
        for (&index, Committed { term, knew, configs }) in self.committed.range(first..) {
            if log.get(&index) == Some(term) {
                continue;
            }
            let lacking = self.lacking.entry(index).or_default();
            if !lacking.insert(voter) {
                continue;
            }
            let since = self.committed_configs.range(..=index).next_back().copied().unwrap_or(0);
            let mut candidates = self.configs[..*configs].iter().filter(|(at, _)| *at >= since).peekable();
            let has = |half: &BTreeSet<u64>| half.difference(lacking).count() > half.len() / 2;
            if candidates.peek().is_none() || candidates.any(|(_, voters)| voters.iter().all(has)) {
                continue;
            }
            let names: Vec<String> = lacking.iter().map(|node| format!("{node:016x}")).collect();
            let explanation = format!(
                "entry {term}.{index} was called committed by {knew}, and was not on the media of {}: the others are no \
                 quorum of any configuration that was in force",
                names.join(", ")
            );
            return violation(COMMITTED_ON_QUORUM, explanation);
        }
        Ok(())
    }
}

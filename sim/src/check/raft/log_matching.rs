//! Log matching (Raft §5.3, figure 3).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{At, LogEntry, disagreement, violation};

/// Entries with the same id are the same, and so is all before them.
pub const LOG_MATCHING: &str = "log matching";

/// Log matching (Raft §5.3): if two logs contain an entry with the same index and term, then the logs are identical in
/// all entries up through that one.
///
/// An entry names its predecessor once and for all, so comparing neighbours is comparing prefixes.
#[derive(Clone, Debug, Default)]
pub struct LogMatching {
    /// (index, term) → payload.
    payloads: BTreeMap<(u64, u64), (u64, At)>,
    /// (index, term) → term of the entry before it.
    predecessors: BTreeMap<(u64, u64), (u64, At)>,
}

impl LogMatching {
    /// `at.node` has `entries` in its log, one after the other. They may be any part of the log: the whole once in a
    /// while, or what is appended, beginning with the entry before it.
    ///
    /// # Errors
    /// The entries are not consecutive, their terms go back, or an entry contradicts one observed earlier.
    pub fn observe(&mut self, at: At, entries: &[LogEntry]) -> Result<(), Violation> {
        let mut last: Option<&LogEntry> = None;
        for entry in entries {
            let LogEntry { index, term, payload_hash } = *entry;
            if let Some((_, before)) = disagreement(&mut self.payloads, (index, term), payload_hash, at) {
                let explanation = format!("entry {term}.{index} of {at} is not that of {before}");
                return violation(LOG_MATCHING, explanation);
            }
            if let Some(last) = last.replace(entry) {
                if last.index.checked_add(1) != Some(index) || last.term > term {
                    let explanation = format!("{at} has entry {term}.{index} after {}.{}", last.term, last.index);
                    return violation(LOG_MATCHING, explanation);
                }
                if let Some((other, before)) = disagreement(&mut self.predecessors, (index, term), last.term, at) {
                    let ours = last.term;
                    let explanation = format!(
                        "before entry {term}.{index} comes one of term {ours} ({at}) and of {other} ({before})"
                    );
                    return violation(LOG_MATCHING, explanation);
                }
            }
        }
        Ok(())
    }
}

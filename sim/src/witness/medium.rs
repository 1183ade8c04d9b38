//! What is durable of a node's log, read off the medium without the recovery that production runs.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_core::Vote;
use quorate_core::identity;
use quorate_core::log::format::parse_segment_name;
use quorate_core::log::record::Record;
use quorate_core::log::recovery::{Found, SegmentFacts, Tail, scan_segment};

use crate::platform::{Drive, FileClass};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Medium {
    /// Whose it is: the node's id.
    pub identity: Option<u64>,
    /// All votes that are written anywhere.
    pub votes: Vec<Vote>,
    /// Index → term of the entries that are in the log, or were until a snapshot that covers them began to be installed.
    pub entries: BTreeMap<u64, u64>,
    /// The same of entries that were truncated, and in whose place there is nothing.
    cut: BTreeMap<u64, u64>,
    /// What the log calls committed.
    committed: Option<u64>,
    /// Up to here there were entries.
    pub purged: Option<u64>,
    /// How many segments end in something that is no valid batch.
    pub torn: u64,
}

/// A segment file, if it is one.
pub(super) fn scan(path: &Path, bytes: Vec<u8>) -> Option<(u64, SegmentFacts)> {
    let number = parse_segment_name(path.file_name()?.to_str()?)?;
    Some((number, scan_segment(number, &bytes.into(), None)))
}

impl Medium {
    /// Reads a medium.
    pub fn read(drive: &Drive) -> Self {
        let files = drive.durable_of(FileClass::Segment).into_iter();
        let segments: BTreeMap<u64, SegmentFacts> = files.filter_map(|(path, bytes)| scan(&path, bytes)).collect();
        let whole = |path: &Path| path.file_name().is_some_and(|name| name == identity::FILE_NAME);
        let mut papers = drive.durable_of(FileClass::Identity).into_iter().filter(|(path, _)| whole(path));
        let identity = papers.find_map(|(_, bytes)| Some(identity::decode(&bytes).ok()?.node_id.0));
        let mut medium = Self { identity, ..Self::default() };
        for facts in segments.values() {
            medium.torn += u64::from(facts.tail != Tail::Clean);
            let found = facts.batches.iter().flat_map(|batch| &batch.records).filter_map(|record| match record {
                Found::Other(Record::Vote(vote)) => Some(*vote),
                _ => None,
            });
            medium.votes.extend(facts.base.as_ref().and_then(|base| base.vote).into_iter().chain(found));
        }
        medium.replay(&segments);
        medium
    }

    /// Follows the segments that the newest base needs, each up to where its successor says that it ended.
    fn replay(&mut self, segments: &BTreeMap<u64, SegmentFacts>) {
        let newest = segments.iter().rev().find_map(|(number, facts)| Some((*number, facts.base.as_ref()?)));
        let Some((newest, base)) = newest else { return };
        for (number, facts) in segments.range(base.first_segment..=newest) {
            let next = segments.get(&(number + 1)).and_then(|next| next.base.as_ref()).filter(|_| *number < newest);
            let end = next.map_or(u64::MAX, |next| next.previous_end);
            self.purge(facts.base.as_ref().and_then(|base| base.purged).map(|purged| purged.index));
            let batches = facts.batches.iter().filter(|batch| batch.header.end() <= end);
            batches.flat_map(|batch| &batch.records).for_each(|record| self.record(record));
        }
        self.keep_what_a_snapshot_covers();
    }

    /// A node that gets a snapshot whose last entry conflicts with its own truncates what it does not know to be committed,
    /// before the snapshot is durable (openraft, `install_full_snapshot`). That entry is on a quorum, and so is all that
    /// comes before it, without this node.
    fn keep_what_a_snapshot_covers(&mut self) {
        let (entries, committed) = (&self.entries, self.committed);
        self.cut.retain(|index, _| Some(*index) <= committed && !entries.contains_key(index));
        let cut = std::mem::take(&mut self.cut);
        self.entries.extend(cut);
    }

    fn record(&mut self, record: &Found) {
        match record {
            Found::Entry(id, ..) => {
                if self.entries.last_key_value().is_some_and(|(last, _)| *last >= id.index) {
                    self.entries.split_off(&id.index);
                }
                self.cut.remove(&id.index);
                self.entries.insert(id.index, id.term);
            }
            Found::Other(Record::Truncate(after)) => {
                self.cut.append(&mut self.entries.split_off(&after.map_or(0, |after| after.index + 1)));
            }
            Found::Other(Record::Committed(upto)) => self.committed = self.committed.max(Some(upto.index)),
            Found::Other(Record::Purge(upto)) => self.purge(Some(upto.index)),
            Found::Other(_) => {}
        }
    }

    fn purge(&mut self, upto: Option<u64>) {
        if let Some(index) = upto.filter(|upto| self.purged < Some(*upto)) {
            self.purged = Some(index);
            self.entries = self.entries.split_off(&(index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::LogId;
    use quorate_core::log::writer::Place;

    use super::*;

    fn medium(records: &[Found]) -> BTreeMap<u64, u64> {
        let mut medium = Medium::default();
        records.iter().for_each(|record| medium.record(record));
        medium.keep_what_a_snapshot_covers();
        medium.entries
    }

    fn entry(term: u64, index: u64) -> Found {
        Found::Entry(LogId { term, index }, Place { segment: 1, offset: 0, len: 0, crc: 0 }, false)
    }

    #[test]
    fn what_was_truncated_for_a_snapshot_was_there_and_nothing_else_was() {
        let committed = |term, index| Found::Other(Record::Committed(LogId { term, index }));
        let cut = Found::Other(Record::Truncate(Some(LogId { term: 5, index: 1 })));
        let log = [entry(5, 1), entry(5, 2), entry(5, 3)];
        let with = |more: &[Found]| medium(&[&log, more].concat());
        // A snapshot up to 6.2 is on its way.
        assert_eq!(with(&[cut.clone(), committed(6, 2)]), BTreeMap::from([(1, 5), (2, 5)]));
        // A plain truncation, of what another leader replaces.
        assert_eq!(with(std::slice::from_ref(&cut)), BTreeMap::from([(1, 5)]));
        assert_eq!(with(&[cut.clone(), entry(6, 2), committed(6, 2)]), BTreeMap::from([(1, 5), (2, 6)]));
    }
}

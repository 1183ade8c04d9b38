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
    /// Index → term of the entries that are in the log.
    pub entries: BTreeMap<u64, u64>,
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
    }

    fn record(&mut self, record: &Found) {
        match record {
            Found::Entry(id, ..) => {
                if self.entries.last_key_value().is_some_and(|(last, _)| *last >= id.index) {
                    self.entries.split_off(&id.index);
                }
                self.entries.insert(id.index, id.term);
            }
            Found::Other(Record::Truncate(after)) => {
                self.entries.split_off(&after.map_or(0, |after| after.index + 1));
            }
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

//! A log directory as a crash leaves it: what is on the medium, and what was written since the last sync.

use std::collections::BTreeMap;

use quorate_core::LogId;
use quorate_core::log::format::LogIdentity;
use quorate_core::log::record::checksum;
use quorate_core::log::recovery::{SegmentFacts, scan_segment};
use quorate_core::log::writer::WriteStep;
use quorate_core::log::{Damage, Flush, Recovered, recover};

const SECTOR_BYTES: usize = 512;

/// Segment files by number: what a read sees, and what a power loss leaves.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    pub files: BTreeMap<u64, Vec<u8>>,
    durable: BTreeMap<u64, Vec<u8>>,
    unsynced: Vec<(u64, u64, Vec<u8>)>,
}

impl Medium {
    /// Does one step, completely.
    pub fn perform(&mut self, step: &WriteStep) {
        match step {
            WriteStep::Create { segment, len, header } => {
                let mut file = header.clone();
                file.resize(usize::try_from(*len).expect("segments are small"), 0);
                self.durable.insert(*segment, file.clone());
                assert!(self.files.insert(*segment, file).is_none(), "segment {segment} exists");
            }
            WriteStep::Write { segment, offset, bytes } => {
                write(&mut self.files, *segment, *offset, bytes);
                self.unsynced.push((*segment, *offset, bytes.clone()));
            }
            WriteStep::Sync { segment } => {
                let synced = self.unsynced.extract_if(.., |(written, ..)| written == segment);
                synced.for_each(|(segment, offset, bytes)| write(&mut self.durable, segment, offset, &bytes));
            }
            WriteStep::Trim { segment, len } => {
                let len = usize::try_from(*len).expect("segments are small");
                // Durable or not, nothing depends on it: here it is at once.
                self.files.get_mut(segment).expect("a closed segment exists").truncate(len);
                self.durable.get_mut(segment).expect("a closed segment exists").truncate(len);
            }
            WriteStep::Delete { segment } => {
                self.unsynced.retain(|(written, ..)| written != segment);
                self.durable.remove(segment);
                self.files.remove(segment);
            }
        }
    }

    /// Does a whole flush.
    pub fn flush(&mut self, flush: &Flush) {
        flush.steps.iter().for_each(|step| self.perform(step));
    }

    /// Does the first `steps` steps of a flush and begins the next one; then the process dies.
    pub fn kill_in(&mut self, flush: &Flush, steps: usize, mut coin: impl FnMut() -> bool) {
        let (done, rest) = flush.steps.split_at(steps.min(flush.steps.len()));
        done.iter().for_each(|step| self.perform(step));
        match rest.first() {
            Some(WriteStep::Create { segment, len, header }) if coin() => {
                // Of a segment under creation there may be any length and any part of the header.
                let mut file = if coin() { header.clone() } else { Vec::new() };
                if coin() {
                    file.truncate(SECTOR_BYTES / 8);
                }
                if coin() {
                    file.resize(usize::try_from(*len).expect("segments are small"), 0);
                }
                self.durable.insert(*segment, file.clone());
                self.files.insert(*segment, file);
            }
            Some(step @ WriteStep::Write { .. }) => self.perform(step),
            _ => {}
        }
    }

    /// The power fails: `keep` says of every sector that was not synced whether it has reached the medium.
    pub fn lose_power(&mut self, mut keep: impl FnMut() -> bool) {
        for (segment, offset, bytes) in std::mem::take(&mut self.unsynced) {
            for (offset, sector) in (offset..).step_by(SECTOR_BYTES).zip(bytes.chunks(SECTOR_BYTES)) {
                if keep() {
                    write(&mut self.durable, segment, offset, sector);
                }
            }
        }
        self.files = self.durable.clone();
    }

    /// What recovery makes of it. All that it says is somewhere is there: who reads it by these lengths never asks for
    /// more memory than the file has bytes.
    pub fn recover(&self, log: Option<LogIdentity>, applied: Option<LogId>) -> Result<Recovered, Damage> {
        let facts: BTreeMap<u64, SegmentFacts> =
            self.files.iter().map(|(&n, bytes)| (n, scan_segment(n, &bytes.clone().into(), log))).collect();
        let mut recovered = recover(&facts, log, applied)?;
        if let Some((segment, offset, len)) = recovered.last_batch_at {
            let bytes = self.read(segment, offset, len).expect("the last batch is in its file");
            recovered.resume.last_batch = Some((segment, offset, bytes.to_vec()));
        }
        for (id, place, _) in &recovered.entries {
            let record = self.read(place.segment, place.offset, place.len.into()).expect("an entry is in its file");
            assert_eq!(checksum(record), place.crc, "entry {id}");
        }
        Ok(recovered)
    }

    /// `len` bytes of a segment; `None` if they are not there.
    pub fn read(&self, segment: u64, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.files.get(&segment)?.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    }
}

fn write(files: &mut BTreeMap<u64, Vec<u8>>, segment: u64, offset: u64, bytes: &[u8]) {
    let file = files.entry(segment).or_default();
    let start = usize::try_from(offset).expect("segments are small");
    let end = start + bytes.len();
    file.resize(file.len().max(end), 0);
    file[start..end].copy_from_slice(bytes);
}

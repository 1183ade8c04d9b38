//! A log directory as a crash leaves it: what is on the medium, and what was written since the last sync.

use std::collections::BTreeMap;

use quorate_core::LogId;
use quorate_core::log::format::LogIdentity;
use quorate_core::log::recovery::{SegmentFacts, scan_segment};
use quorate_core::log::writer::WriteStep;
use quorate_core::log::{Damage, Flush, Recovered, recover};

const SECTOR_BYTES: usize = 512;

/// Segment files by number.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    pub files: BTreeMap<u64, Vec<u8>>,
    unsynced: Vec<(u64, u64, Vec<u8>)>,
}

impl Medium {
    /// Does one step, completely. A write stays in the cache until the next sync.
    pub fn perform(&mut self, step: &WriteStep) {
        match step {
            WriteStep::Create { segment, len, header } => {
                let mut file = header.clone();
                file.resize(usize::try_from(*len).expect("segments are small"), 0);
                assert!(self.files.insert(*segment, file).is_none(), "segment {segment} exists");
            }
            WriteStep::Write { segment, offset, bytes } => self.unsynced.push((*segment, *offset, bytes.clone())),
            WriteStep::Sync { .. } => self.lose_power(|| true),
            WriteStep::Delete { segment } => drop(self.files.remove(segment)),
        }
    }

    /// Does a whole flush.
    pub fn flush(&mut self, flush: &Flush) {
        flush.steps.iter().for_each(|step| self.perform(step));
    }

    /// Does the first `steps` steps of a flush and begins the next one; then the node dies. `keep` says of every sector
    /// that was not synced whether it has reached the medium.
    pub fn crash_in(&mut self, flush: &Flush, steps: usize, mut keep: impl FnMut() -> bool) {
        let (done, rest) = flush.steps.split_at(steps.min(flush.steps.len()));
        done.iter().for_each(|step| self.perform(step));
        match rest.first() {
            Some(WriteStep::Create { segment, len, header }) if keep() => {
                // Of a segment under creation there may be any length and any part of the header.
                let mut file = if keep() { header.clone() } else { Vec::new() };
                if keep() {
                    file.truncate(SECTOR_BYTES / 8);
                }
                if keep() {
                    file.resize(usize::try_from(*len).expect("segments are small"), 0);
                }
                self.files.insert(*segment, file);
            }
            Some(step @ WriteStep::Write { .. }) => self.perform(step),
            _ => {}
        }
        self.lose_power(keep);
    }

    /// Everything that is not synced is kept or lost, sector by sector.
    fn lose_power(&mut self, mut keep: impl FnMut() -> bool) {
        for (segment, offset, bytes) in std::mem::take(&mut self.unsynced) {
            let file = self.files.get_mut(&segment).expect("writes go to segments that exist");
            for (sector, chunk) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|_| keep()) {
                let at = usize::try_from(offset).expect("segments are small") + sector * SECTOR_BYTES;
                let end = at + chunk.len();
                file.resize(file.len().max(end), 0);
                file[at..end].copy_from_slice(chunk);
            }
        }
    }

    /// What recovery makes of it. `None` if the last batch cannot be read to its end, which is an I/O error.
    pub fn recover(&self, log: Option<LogIdentity>, applied: Option<LogId>) -> Result<Option<Recovered>, Damage> {
        let facts: BTreeMap<u64, SegmentFacts> =
            self.files.iter().map(|(&n, bytes)| (n, scan_segment(n, &bytes.clone().into(), log))).collect();
        let mut recovered = recover(&facts, log, applied)?;
        if let Some((segment, offset, len)) = recovered.last_batch_at {
            let Some(bytes) = self.read(segment, offset, len) else { return Ok(None) };
            recovered.resume.last_batch = Some((segment, offset, bytes.to_vec()));
        }
        Ok(Some(recovered))
    }

    /// `len` bytes of a segment; `None` if they are not there.
    pub fn read(&self, segment: u64, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.files.get(&segment)?.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    }
}

//! Decides which bytes reach the disk in which order. Pure: it hands out [`Flush`]es, somebody else performs them.

use std::collections::{BTreeMap, VecDeque};

use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchKind, LogIdentity, SEGMENT_BYTES_MAX, encode_batch, encode_segment_header,
    padded_len,
};
use super::record::{self, Base, Record};
use crate::types::LogId;

/// How much of a segment is filled with zeros at a time, ahead of what is written next. A sync of reserved space that has
/// never been written has to record that it is now; most file systems make that cost a third of the sync. Of the batches of one
/// entry each less than one in two hundred brings zeros, so that 99 of 100 do not wait for them.
const ZEROED_PART: u64 = 16;

/// Sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Preallocated length of a segment, at most [`SEGMENT_BYTES_MAX`]. A batch that does not fit an empty one gets a
    /// longer segment.
    pub segment_bytes: u64,
    /// Records beyond this many bytes wait for the next batch; a single record may be longer.
    pub batch_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, batch_bytes_max: 4 << 20 }
    }
}

/// One operation on the log's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteStep {
    /// Create the segment's file (it does not exist), all zeros, reserve `len` bytes, write `header` at 0, sync the file,
    /// sync the directory.
    Create {
        /// Its number.
        segment: u64,
        /// Bytes to reserve.
        len: u64,
        /// Its first block.
        header: Vec<u8>,
    },
    /// Write `bytes` at `offset`.
    Write {
        /// Where to.
        segment: u64,
        /// In bytes.
        offset: u64,
        /// One whole batch, padded, and zeros for batches to come if that space has not been written before.
        bytes: Vec<u8>,
    },
    /// Sync the segment's file.
    Sync {
        /// Which one.
        segment: u64,
    },
    /// Cut the segment's file to `len` bytes: nothing is written to it any more, and what was reserved behind its end
    /// is given back, before the next segment asks for space. Whoever wants the whole file for a later segment leaves it.
    /// Nothing depends on it: bytes behind the end are ignored.
    Trim {
        /// Which one.
        segment: u64,
        /// Where its last batch ends.
        len: u64,
    },
    /// Remove the segment's file, or make it the file of a segment that is created later. If that is lost in a crash,
    /// recovery removes it.
    Delete {
        /// Which one.
        segment: u64,
    },
}

/// Where an entry's record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Segment number.
    pub segment: u64,
    /// Offset of the record, in bytes.
    pub offset: u64,
    /// Length of the record, in bytes.
    pub len: u32,
    /// CRC of the record, so that whoever reads it later knows that it is what was written.
    pub crc: u32,
}

/// A unit of work: perform the steps in order; if all succeed, everything pushed before and including ticket
/// `through` is durable. If one fails nothing after it may be attempted, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Flush {
    /// In this order.
    pub steps: Vec<WriteStep>,
    /// The last ticket (see [`LogWriter::push`]) that this flush makes durable.
    pub through: u64,
    /// The entries in it: ticket, id, place.
    pub placed: Vec<(u64, LogId, Place)>,
    /// Whether the last batch has a valid successor once this is done.
    pub sealed: bool,
}

/// The state that a recovered log continues from ([`super::recover`]), or the empty log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Vote, committed, purged, last; `boot_epoch` is the one of the last start.
    pub base: Base,
    /// Every segment that is still needed, with the highest entry index in it.
    pub segments: BTreeMap<u64, Option<u64>>,
    /// Leftovers to remove.
    pub delete: Vec<u64>,
    /// Sequence of the last valid batch.
    pub sequence: u64,
    /// Its header CRC.
    pub prev_crc: u32,
    /// Its segment, offset and bytes as read, to be written again before anything else; `None` in an empty log.
    pub last_batch: Option<(u64, u64, Vec<u8>)>,
}

/// The pure log writer.
///
/// Drive it so: [`LogWriter::open`] gives the first flush; then [`push`](Self::push) records as they come, and
/// whenever no flush is under way, perform what [`next_batch`](Self::next_batch) hands out and then call
/// [`on_done`](Self::on_done).
#[derive(Debug)]
pub struct LogWriter {
    log: LogIdentity,
    options: LogOptions,
    queue: VecDeque<Record>,
    pushed: u64,
    flushed: u64,
    /// As of the last record that was encoded.
    base: Base,
    segments: BTreeMap<u64, Option<u64>>,
    segment: u64,
    segment_len: u64,
    /// Where in the segment the next batch goes.
    offset: u64,
    /// Up to where the segment has been written, with batches and zeros.
    zeroed: u64,
    sequence: u64,
    prev_crc: u32,
    sealed: bool,
    seal_wanted: bool,
    under_way: bool,
}

impl LogWriter {
    /// Continues a log. The flush makes the recovered state durable before anybody is answered: it writes the last
    /// valid batch again (after a `kill -9` it may have been read from the page cache only), and opens a new segment,
    /// since a recovered one is never appended to.
    ///
    /// # Panics
    /// If the boot epochs are used up: [`recover`](super::recover) refuses such a log.
    pub fn open(log: LogIdentity, options: LogOptions, resume: Resume) -> (Self, Flush) {
        let last_segment = resume.segments.keys().next_back().copied().unwrap_or(0);
        let mut steps = Vec::new();
        let mut previous_end = 0;
        if let Some((segment, offset, bytes)) = resume.last_batch {
            previous_end = offset + bytes.len() as u64;
            steps.push(WriteStep::Write { segment, offset, bytes });
            steps.push(WriteStep::Sync { segment });
        }
        steps.extend(resume.delete.iter().map(|&segment| WriteStep::Delete { segment }));
        let boot_epoch = resume.base.boot_epoch.checked_add(1).expect("recovery refuses a log that has no epoch left");
        let mut writer = Self {
            log,
            options,
            queue: VecDeque::new(),
            pushed: 0,
            flushed: 0,
            base: Base { boot_epoch, ..resume.base },
            segments: resume.segments,
            segment: last_segment,
            segment_len: 0,
            offset: previous_end,
            zeroed: 0,
            sequence: resume.sequence,
            prev_crc: resume.prev_crc,
            sealed: true,
            seal_wanted: false,
            under_way: true,
        };
        writer.roll(0, &mut steps);
        (writer, Flush { steps, through: 0, placed: Vec::new(), sealed: true })
    }

    /// Which start of the node this is.
    pub fn boot_epoch(&self) -> u64 {
        self.base.boot_epoch
    }

    /// Sets [`LogOptions::segment_bytes`] for the segments to come: small ones while the disk is full.
    pub fn set_segment_bytes(&mut self, bytes: u64) {
        self.options.segment_bytes = bytes;
    }

    /// Queues a record; returns its ticket. Tickets count up from 1, and the flush whose `through` reaches a ticket
    /// makes its record durable.
    pub fn push(&mut self, record: Record) -> u64 {
        self.queue.push_back(record);
        self.pushed += 1;
        self.pushed
    }

    /// Asks for a seal behind the last batch, if it has none and nothing else is queued.
    pub fn push_seal(&mut self) {
        self.seal_wanted = true;
    }

    /// The next thing to do, if any and if nothing is under way.
    pub fn next_batch(&mut self) -> Option<Flush> {
        if self.under_way {
            return None;
        }
        let mut steps = Vec::new();
        let mut placed = Vec::new();
        let wants_seal = std::mem::take(&mut self.seal_wanted) && !self.sealed;
        if self.queue.is_empty() {
            if !wants_seal {
                return None;
            }
            self.seal(&mut steps);
        } else {
            self.data(&mut steps, &mut placed);
        }
        self.under_way = true;
        Some(Flush { steps, through: self.flushed, placed, sealed: self.sealed })
    }

    /// The flush that was handed out last has been performed, without an error.
    pub fn on_done(&mut self) {
        self.under_way = false;
    }

    fn data(&mut self, steps: &mut Vec<WriteStep>, placed: &mut Vec<(u64, LogId, Place)>) {
        let mut buf = vec![0; BATCH_HEADER_BYTES];
        let (mut entries, mut has_vote) = (Vec::new(), false);
        // The base of a roll that this batch needs must not yet contain this batch's records.
        let mut after = self.base.clone();
        while let Some(next) = self.queue.front() {
            let full = buf.len() + record::encoded_len(next) > self.options.batch_bytes_max;
            if full && buf.len() > BATCH_HEADER_BYTES {
                break;
            }
            let start = buf.len();
            record::encode(next, &mut buf);
            if let Record::Entry(entry) = next {
                let (len, crc) = ((buf.len() - start) as u32, record::checksum(&buf[start..]));
                entries.push((self.flushed + 1, entry.log_id, start as u64, len, crc));
            }
            has_vote |= matches!(next, Record::Vote(_));
            absorb(&mut after, next);
            self.queue.pop_front();
            self.flushed += 1;
        }
        let len = padded_len(buf.len() - BATCH_HEADER_BYTES);
        if self.offset + len + BLOCK_BYTES > self.segment_len {
            self.roll(len, steps);
        }
        let (segment, offset) = (self.segment, self.offset);
        let highest = entries.iter().map(|(_, id, ..)| id.index).max();
        let known = self.segments.entry(segment).or_default();
        *known = (*known).max(highest);
        placed.extend(entries.into_iter().map(|(ticket, id, start, len, crc)| {
            let place = Place { segment, offset: offset + start, len, crc };
            (ticket, id, place)
        }));
        self.batch(BatchKind::Data, buf, steps);
        self.sealed = false;
        self.base = after;
        if has_vote {
            self.seal(steps);
        }
        if self.base.purged.is_some() && self.first_needed() > self.oldest() {
            self.roll(0, steps);
        }
    }

    fn oldest(&self) -> u64 {
        self.segments.keys().next().copied().unwrap_or(self.segment)
    }

    /// The oldest segment that holds an entry above the purged one; the current one if there is none.
    fn first_needed(&self) -> u64 {
        let purged = self.base.purged.map(|id| id.index);
        let needed = self.segments.iter().find(|(_, highest)| **highest > purged);
        needed.map_or(self.segment, |(&segment, _)| segment)
    }

    /// Starts the next segment, with room for a batch of `len` bytes, and drops the segments it makes superfluous.
    fn roll(&mut self, len: u64, steps: &mut Vec<WriteStep>) {
        let previous_segment = self.segment;
        self.base.previous_segment = previous_segment;
        self.base.previous_end = self.offset;
        self.segment += 1;
        self.segments.insert(self.segment, None);
        self.base.first_segment = self.first_needed();
        self.offset = BLOCK_BYTES;
        self.zeroed = 0;
        self.segment_len = self.options.segment_bytes.min(SEGMENT_BYTES_MAX).max(4 * BLOCK_BYTES + len);
        if previous_segment > 0 {
            steps.push(WriteStep::Trim { segment: previous_segment, len: self.base.previous_end });
        }
        steps.push(WriteStep::Create {
            segment: self.segment,
            len: self.segment_len,
            header: encode_segment_header(self.log, self.segment),
        });
        let mut buf = vec![0; BATCH_HEADER_BYTES];
        record::encode_base(&self.base, &mut buf);
        self.batch(BatchKind::Base, buf, steps);
        self.seal(steps);
        let kept = self.segments.split_off(&self.base.first_segment);
        steps.extend(self.segments.keys().map(|&segment| WriteStep::Delete { segment }));
        self.segments = kept;
    }

    fn seal(&mut self, steps: &mut Vec<WriteStep>) {
        self.batch(BatchKind::Seal, vec![0; BATCH_HEADER_BYTES], steps);
        self.sealed = true;
    }

    fn batch(&mut self, kind: BatchKind, buf: Vec<u8>, steps: &mut Vec<WriteStep>) {
        self.sequence += 1;
        let (segment, offset) = (self.segment, self.offset);
        let (mut bytes, crc) = encode_batch(self.log.uuid, kind, segment, offset, self.sequence, self.prev_crc, buf);
        self.prev_crc = crc;
        self.offset += bytes.len() as u64;
        if self.offset > self.zeroed {
            let ahead = (self.segment_len / ZEROED_PART).next_multiple_of(BLOCK_BYTES);
            self.zeroed = (self.offset + ahead).min(self.segment_len);
            bytes.resize((self.zeroed - offset) as usize, 0);
        }
        steps.push(WriteStep::Write { segment, offset, bytes });
        steps.push(WriteStep::Sync { segment });
    }
}

/// What a record does to the state that bases repeat.
pub(super) fn absorb(base: &mut Base, record: &Record) {
    match record {
        Record::Entry(entry) => base.last = Some(entry.log_id),
        Record::Vote(vote) => base.vote = Some(*vote),
        Record::Committed(id) => base.committed = Some(*id),
        Record::Truncate(after) => base.last = after.or(base.purged),
        Record::Purge(id) => {
            base.purged = Some(*id);
            if base.last.is_none_or(|last| last.index < id.index) {
                base.last = Some(*id);
            }
        }
    }
}

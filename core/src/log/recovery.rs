//! What a log directory found after a crash means: scan → facts → decision table → plan. Pure.
//!
//! [`scan_segment`] turns the bytes of one file into [`SegmentFacts`]; [`recover`] decides over all of them and
//! replays. The decision per segment is [`verdict`], a table over where the segment lies relative to the newest valid
//! base and what its batches look like:
//!
//! | position | batches | verdict | the disk's story |
//! |---|---|---|---|
//! | before the newest base's `first_segment` | any | delete | the purge that made it superfluous was durable, its removal was not |
//! | inner | valid up to the successor's `previous_end` | keep | closed properly; bytes after that end are a tail that an earlier recovery cut |
//! | inner | anything else | damage | all of it was durable before the successor's base was written |
//! | newest | valid, then zeros | keep | the last flush was whole |
//! | newest | valid, then a bad batch, then a batch with a higher sequence | damage | a batch is written only after its predecessor is durable, so the predecessor rotted |
//! | newest | valid, then a bad batch, nothing after it | cut | a torn flush that nobody was told about |
//! | after the newest base | no valid batch | delete | a roll was interrupted; the base was never durable |
//! | after the newest base | a valid batch, understood or not | damage | something was written behind a base, so the base had been durable |
//! | no valid base at all | no identity, no store, no valid batch | fresh | the first start was interrupted; this node never spoke to anybody |
//! | no valid base at all | anything else | damage | there was a log |
//!
//! Where the log disagrees with the store at the store's applied id (or does not reach it), the store's snapshot was
//! installed and the crash came before the log was purged to it: the log is reset to the snapshot, the vote kept.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchKind, HeaderError, LogIdentity, batch_body, decode_batch_header,
    decode_segment_header, segment_name,
};
use super::record::{self, Base, Record};
use super::writer::{Place, Resume, absorb};
use crate::types::{LogId, Payload};

/// Durable data is missing or changed. The node must not serve or vote with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at offset {offset}: {kind}", segment_name(*segment))]
pub struct Damage {
    /// The segment, as in the file's name.
    pub segment: u64,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub kind: DamageKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// No segment has a valid base, yet this node has been in use. Named is where one must have been durable.
    #[error("no segment has a valid base batch, but this data directory has been in use")]
    NoBase,
    /// A segment that the newest base needs is not there.
    #[error("this segment is missing, and a later one needs it")]
    MissingSegment,
    /// A batch is unreadable though it was durable.
    #[error("a batch that had been synced is unreadable")]
    BadBatch,
    /// A segment's first block is unreadable though the segment was in use.
    #[error("the segment header is unreadable")]
    BadHeader,
    /// The file is of a format this program does not know.
    #[error("log format version {0} is unknown to this version of quorate; use a newer one")]
    UnknownVersion(u32),
    /// The segment belongs to another log.
    #[error("this segment belongs to another node or another log")]
    OtherLog,
    /// A batch passes its checksum but holds no records this program knows.
    #[error("a batch passes its checksum but cannot be understood: {0}")]
    Unreadable(String),
    /// A base says something else than the batches before it.
    #[error("the base batch disagrees with the batches before it")]
    BaseDisagrees,
    /// The file is longer than any segment.
    #[error("the file has {0} bytes, more than any segment of a log")]
    TooLong(u64),
    /// A log that goes on counting for ever never gets there: something wrote this.
    #[error("a counter of the log is beyond what a log can reach")]
    CounterTooHigh,
    /// An entry does not follow the one before it.
    #[error("entry {0} does not follow the entry before it")]
    EntryGap(LogId),
    /// The log was purged beyond what the store has applied.
    #[error(
        "the log was purged up to {purged}, but the store has applied only {applied:?}: the store is older than the log"
    )]
    StoreBehindPurge {
        /// Last purged entry.
        purged: LogId,
        /// What the store has.
        applied: Option<LogId>,
    },
}

/// A record that was found, entries without their payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry: its id, where its record is, whether it carries a membership.
    Entry(LogId, Place, bool),
    /// Any other record.
    Other(Record),
}

/// One valid batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBatch {
    /// Its header.
    pub header: BatchHeader,
    /// Its records; none in a base or a seal.
    pub records: Vec<Found>,
}

/// What lies behind the last valid batch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Zeros, or the end of the file.
    Clean,
    /// Something that is no valid batch, and no valid batch anywhere behind it.
    Torn,
    /// Something that is no valid batch, and behind it a valid batch header with a higher sequence.
    Overtaken,
}

/// What one segment file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// From its name.
    pub segment: u64,
    /// Whose log its header says it is.
    pub header: Result<LogIdentity, HeaderError>,
    /// Its base, if the first batch is a valid one.
    pub base: Option<Base>,
    /// The chain of valid batches from the start, base included.
    pub batches: Vec<FoundBatch>,
    /// What is behind them.
    pub tail: Tail,
    /// A batch of the chain that passes its checksum but cannot be read: where and why.
    pub unreadable: Option<(u64, String)>,
}

impl SegmentFacts {
    /// Where the valid chain ends, in bytes.
    pub fn end(&self) -> u64 {
        self.batches.last().map_or(BLOCK_BYTES, |b| b.header.end())
    }

    fn any_valid_batch(&self) -> bool {
        !self.batches.is_empty() || self.tail == Tail::Overtaken || self.unreadable.is_some()
    }
}

/// Reads one segment file. `log` is whose log it should be, if that is known from elsewhere; else its own header says.
pub fn scan_segment(segment: u64, bytes: &Bytes, log: Option<LogIdentity>) -> SegmentFacts {
    let header = match decode_segment_header(bytes) {
        Ok((log, number)) if number == segment => Ok(log),
        Ok(_) => Err(HeaderError::Invalid),
        Err(e) => Err(e),
    };
    let mut facts =
        SegmentFacts { segment, header, base: None, batches: Vec::new(), tail: Tail::Clean, unreadable: None };
    let Some(uuid) = log.or(facts.header.clone().ok()).map(|log| log.uuid) else {
        return facts;
    };
    let mut offset = BLOCK_BYTES;
    let mut previous: Option<BatchHeader> = None;
    while let Some(block) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).filter(|b| !b.is_empty()) {
        let found = decode_batch_header(uuid, segment, offset, block)
            .ok()
            .filter(|header| match previous {
                None => header.kind == BatchKind::Base,
                Some(p) => {
                    header.kind != BatchKind::Base
                        && Some(header.sequence) == p.sequence.checked_add(1)
                        && header.prev_crc == p.crc
                }
            })
            .filter(|header| batch_body(header, bytes).is_some());
        let Some(header) = found else { break };
        // Space is reserved before it is written to, so no crash leaves a batch without its padding: a cut does.
        if header.end() > bytes.len() as u64 {
            facts.unreadable = Some((offset, "the file ends inside its padding".to_owned()));
            return facts;
        }
        match read_batch(&header, bytes) {
            Ok((base, records)) => {
                facts.base = facts.base.or(base);
                facts.batches.push(FoundBatch { header, records });
            }
            Err(e) => {
                facts.unreadable = Some((offset, e.0));
                return facts;
            }
        }
        offset = header.end();
        previous = Some(header);
    }
    facts.tail = tail(uuid, segment, offset, previous.map(|p| p.sequence), bytes);
    facts
}

const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

fn tail(uuid: u128, segment: u64, from: u64, last_sequence: Option<u64>, bytes: &Bytes) -> Tail {
    let rest = usize::try_from(from).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
    // Block by block: a preallocated segment is mostly zeros, and a comparison of blocks is many times faster.
    if rest.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()]) {
        return Tail::Clean;
    }
    // The bad batch itself may have a valid header: it has the sequence after the last valid one.
    let floor = last_sequence.map(|s| s.saturating_add(1));
    let overtaken = rest.chunks(BLOCK_BYTES as usize).enumerate().any(|(block, chunk)| {
        let offset = from + block as u64 * BLOCK_BYTES;
        match decode_batch_header(uuid, segment, offset, chunk) {
            Ok(header) => floor.is_none_or(|floor| header.sequence > floor) && (floor.is_some() || block > 0),
            Err(_) => false,
        }
    });
    if overtaken { Tail::Overtaken } else { Tail::Torn }
}

fn read_batch(header: &BatchHeader, bytes: &Bytes) -> Result<(Option<Base>, Vec<Found>), record::RecordError> {
    let start = header.offset as usize + BATCH_HEADER_BYTES;
    let body = bytes.slice(start..start + header.body_len as usize);
    match header.kind {
        BatchKind::Base => match record::decode_base(&body)? {
            Base { first_segment, .. } if first_segment > header.segment => {
                Err(record::RecordError(format!("it needs segment {first_segment}, which is after its own")))
            }
            base => Ok((Some(base), Vec::new())),
        },
        BatchKind::Seal => Ok((None, Vec::new())),
        BatchKind::Data => {
            let (mut at, mut records) = (0, Vec::new());
            while let Some((record, next)) = record::decode_at(&body, at)? {
                records.push(match record {
                    Record::Entry(entry) => {
                        let offset = (start + at) as u64;
                        let crc = record::checksum(&body[at..next]);
                        let place = Place { segment: header.segment, offset, len: (next - at) as u32, crc };
                        Found::Entry(entry.log_id, place, matches!(entry.payload, Payload::Membership(_)))
                    }
                    other => Found::Other(other),
                });
                at = next;
            }
            Ok((None, records))
        }
    }
}

/// Boot epochs, segment numbers and sequences stay below: one that wrapped around would repeat itself.
pub const COUNTER_MAX: u64 = u64::MAX / 2;

/// Where a segment lies relative to the newest valid base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before the first segment that the newest base needs.
    Before,
    /// Needed, and not the newest.
    Inner,
    /// The one with the newest valid base.
    Newest,
    /// After it.
    After,
}

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A leftover: remove it.
    Delete,
    /// Replay it.
    Keep,
    /// Replay its valid batches; what follows was never acknowledged.
    Cut,
    /// Refuse to go on.
    Damage,
}

/// The decision table of the module. `reaches_end` only matters for inner segments: a valid batch ends exactly where
/// the successor's base says this segment ended.
pub fn verdict(position: Position, reaches_end: bool, tail: Tail, any_valid_batch: bool) -> Verdict {
    match (position, tail) {
        (Position::Before, _) => Verdict::Delete,
        (Position::Inner, _) if reaches_end => Verdict::Keep,
        (Position::Inner, _) => Verdict::Damage,
        (Position::Newest, Tail::Clean) => Verdict::Keep,
        (Position::Newest, Tail::Torn) => Verdict::Cut,
        (Position::Newest, Tail::Overtaken) => Verdict::Damage,
        (Position::After, _) if any_valid_batch => Verdict::Damage,
        (Position::After, _) => Verdict::Delete,
    }
}

/// A recovered log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is; `None` if there is none yet.
    pub log: Option<LogIdentity>,
    /// For [`super::LogWriter::open`]. `last_batch` is filled in by the caller from `last_batch_at`.
    pub resume: Resume,
    /// Segment, offset and length of the last valid batch, to be read and written again.
    pub last_batch_at: Option<(u64, u64, u64)>,
    /// The entries after the purged one, consecutive: id, place, whether it carries a membership.
    pub entries: Vec<(LogId, Place, bool)>,
    /// A torn tail that is cut: segment and offset.
    pub cut: Option<(u64, u64)>,
    /// Whether the log was reset to the store's applied id.
    pub reset: bool,
}

/// Decides what the segments of a directory mean. `log` is the identity if the directory has one; `applied` is what
/// the store has durably applied.
///
/// # Errors
/// The first [`Damage`] in log order. Nothing may then be changed.
pub fn recover(
    segments: &BTreeMap<u64, SegmentFacts>,
    log: Option<LogIdentity>,
    applied: Option<LogId>,
) -> Result<Recovered, Damage> {
    for facts in segments.values() {
        match &facts.header {
            Err(HeaderError::UnknownVersion(version)) => {
                return Err(damage(facts.segment, 0, DamageKind::UnknownVersion(*version)));
            }
            Ok(own) if log.is_some_and(|log| log != *own) => {
                return Err(damage(facts.segment, 0, DamageKind::OtherLog));
            }
            _ => {}
        }
    }
    let newest = segments.values().rev().find_map(|f| f.base.as_ref().map(|base| (f.segment, base)));
    let Some((newest, newest_base)) = newest else {
        let in_use = log.is_some() || applied.is_some() || segments.values().any(SegmentFacts::any_valid_batch);
        if in_use {
            // A crash can leave the newest without one, but not the one before it, too.
            let mut numbers = segments.values().rev().map(|facts| (facts.segment, facts.any_valid_batch()));
            let segment = match (numbers.next(), numbers.next()) {
                (Some((_, false)), Some((before, _))) => Some(before),
                (newest, _) => newest.map(|(newest, _)| newest),
            };
            return Err(match segment {
                Some(segment) => damage(segment, BLOCK_BYTES, DamageKind::NoBase),
                None => damage(1, 0, DamageKind::MissingSegment),
            });
        }
        let resume = Resume { delete: segments.keys().copied().collect(), ..Resume::default() };
        return Ok(Recovered { log: None, resume, last_batch_at: None, entries: Vec::new(), cut: None, reset: false });
    };
    // A base that is bad, but has been durable, may have let go of what the one before it needs.
    let superseded = segments.range(newest.saturating_add(1)..).find(|(_, facts)| facts.any_valid_batch());
    if let Some((_, facts)) = superseded {
        check_readable(facts, Position::Newest)?;
        return Err(damage(facts.segment, facts.end(), DamageKind::BadBatch));
    }
    // First: without it, the segment before would seem to end in the wrong place.
    if let Some(missing) = (newest_base.first_segment..newest).find(|number| !segments.contains_key(number)) {
        return Err(damage(missing, 0, DamageKind::MissingSegment));
    }
    let mut delete = Vec::new();
    let mut cut = None;
    for facts in segments.values() {
        let position = match facts.segment {
            s if s > newest => Position::After,
            s if s == newest => Position::Newest,
            s if s >= newest_base.first_segment => Position::Inner,
            _ => Position::Before,
        };
        let reaches_end = successor_end(segments, facts).is_some();
        match verdict(position, reaches_end, facts.tail, facts.any_valid_batch()) {
            Verdict::Delete => delete.push(facts.segment),
            Verdict::Keep => check_readable(facts, position)?,
            Verdict::Cut => {
                check_readable(facts, position)?;
                cut = Some((facts.segment, facts.end()));
            }
            Verdict::Damage => return Err(bad_batch(segments, facts, position)),
        }
    }
    let mut replay = Replay::default();
    for facts in segments.range(newest_base.first_segment..=newest).map(|(_, facts)| facts) {
        let end = if facts.segment == newest { facts.end() } else { successor_end(segments, facts).unwrap_or(0) };
        replay.segment(facts, end, facts.segment == newest_base.first_segment)?;
    }
    finish(replay, segments, newest, delete, cut, applied)
}

fn damage(segment: u64, offset: u64, kind: DamageKind) -> Damage {
    Damage { segment, offset, kind }
}

/// The batch that gives a segment away. If nothing shows that an inner segment is bad, it is the base of the one after
/// it, which alone says where the former ends.
fn bad_batch(segments: &BTreeMap<u64, SegmentFacts>, facts: &SegmentFacts, position: Position) -> Damage {
    let next = facts.segment.checked_add(1).and_then(|next| segments.get(&next));
    match next.filter(|next| next.base.is_none() && position == Position::Inner && facts.tail != Tail::Overtaken) {
        Some(next) => damage(next.segment, BLOCK_BYTES, DamageKind::BadBatch),
        None => damage(facts.segment, facts.end(), DamageKind::BadBatch),
    }
}

/// Where `facts` ends according to its successor's base, if a valid batch ends exactly there and the chain continues.
fn successor_end(segments: &BTreeMap<u64, SegmentFacts>, facts: &SegmentFacts) -> Option<u64> {
    let successor = segments.get(&facts.segment.checked_add(1)?)?;
    let base = successor.base.as_ref()?;
    let first = successor.batches.first()?.header;
    let last = facts.batches.iter().find(|b| b.header.end() == base.previous_end)?.header;
    let chained = base.previous_segment == facts.segment
        && Some(first.sequence) == last.sequence.checked_add(1)
        && first.prev_crc == last.crc;
    chained.then_some(base.previous_end)
}

fn check_readable(facts: &SegmentFacts, position: Position) -> Result<(), Damage> {
    if facts.header.is_err() {
        return Err(damage(facts.segment, 0, DamageKind::BadHeader));
    }
    match &facts.unreadable {
        // Bytes behind an inner segment's end are ignored, whatever they are.
        Some((offset, why)) if position == Position::Newest => {
            Err(damage(facts.segment, *offset, DamageKind::Unreadable(why.clone())))
        }
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Replay {
    state: Base,
    entries: Vec<(LogId, Place, bool)>,
    segments: BTreeMap<u64, Option<u64>>,
    last: Option<BatchHeader>,
}

impl Replay {
    fn segment(&mut self, facts: &SegmentFacts, end: u64, first: bool) -> Result<(), Damage> {
        let Some(base) = &facts.base else {
            return Err(damage(facts.segment, BLOCK_BYTES, DamageKind::BadBatch));
        };
        let told = |b: &Base| (b.vote, b.committed, b.purged, b.last);
        // A recovery may reset the log to a snapshot in a base; then nothing before that base counts.
        if first || base.first_segment == facts.segment {
            self.entries.clear();
            self.segments.clear();
        } else if told(base) != told(&self.state) {
            return Err(damage(facts.segment, BLOCK_BYTES, DamageKind::BaseDisagrees));
        }
        self.state = base.clone();
        self.segments.insert(facts.segment, None);
        for batch in facts.batches.iter().take_while(|b| b.header.end() <= end) {
            self.last = Some(batch.header);
            for record in &batch.records {
                self.record(facts.segment, batch.header.offset, record)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, segment: u64, offset: u64, found: &Found) -> Result<(), Damage> {
        match found {
            Found::Entry(id, place, membership) => {
                let gap = self.state.last.is_some_and(|last| last.index.checked_add(1) != Some(id.index))
                    || (self.state.last.is_none() && id.index != 0);
                if gap {
                    return Err(damage(segment, offset, DamageKind::EntryGap(*id)));
                }
                self.entries.push((*id, *place, *membership));
                self.state.last = Some(*id);
                if let Some(highest) = self.segments.get_mut(&segment) {
                    *highest = (*highest).max(Some(id.index));
                }
            }
            Found::Other(record) => {
                match record {
                    Record::Truncate(after) => {
                        let keep = after.map(|id| id.index);
                        let keep = self.entries.partition_point(|(id, ..)| Some(id.index) <= keep);
                        self.entries.truncate(keep);
                    }
                    Record::Purge(upto) => {
                        let gone = self.entries.partition_point(|(id, ..)| id.index <= upto.index);
                        self.entries.drain(..gone);
                    }
                    _ => {}
                }
                absorb(&mut self.state, record);
            }
        }
        Ok(())
    }
}

fn finish(
    mut replay: Replay,
    segments: &BTreeMap<u64, SegmentFacts>,
    newest: u64,
    delete: Vec<u64>,
    cut: Option<(u64, u64)>,
    applied: Option<LogId>,
) -> Result<Recovered, Damage> {
    // Entries below the purged one may be left where their segment was kept for others.
    let purged = replay.state.purged;
    replay.entries.retain(|(id, ..)| Some(id.index) > purged.map(|p| p.index));
    if let Some(purged) = purged
        && applied.is_none_or(|a| a.index < purged.index)
    {
        return Err(damage(newest, BLOCK_BYTES, DamageKind::StoreBehindPurge { purged, applied }));
    }
    let mut reset = false;
    if let Some(applied) = applied {
        let agrees = replay.entries.iter().any(|(id, ..)| *id == applied) || purged == Some(applied);
        if !agrees {
            reset = true;
            replay.entries.clear();
            replay.segments.values_mut().for_each(|highest| *highest = None);
            replay.state.purged = Some(applied);
            replay.state.last = Some(applied);
        }
    }
    let last = replay.last.ok_or_else(|| damage(newest, BLOCK_BYTES, DamageKind::NoBase))?;
    if replay.state.boot_epoch.max(newest).max(last.sequence) >= COUNTER_MAX {
        return Err(damage(newest, BLOCK_BYTES, DamageKind::CounterTooHigh));
    }
    let log = segments.get(&newest).and_then(|f| f.header.clone().ok());
    Ok(Recovered {
        log,
        resume: Resume {
            base: replay.state,
            segments: replay.segments,
            delete,
            sequence: last.sequence,
            prev_crc: last.crc,
            last_batch: None,
        },
        last_batch_at: Some((last.segment, last.offset, last.end() - last.offset)),
        entries: replay.entries,
        cut,
        reset,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::format::{batch_body, decode_batch_header, encode_batch, encode_segment_header};
    use crate::log::writer::{LogOptions, LogWriter, WriteStep};
    use crate::types::{Entry, NodeId, Vote};

    const LOG: LogIdentity = LogIdentity { uuid: 0xfeed, node_id: NodeId(7) };
    const SMALL: LogOptions = LogOptions { segment_bytes: 8 * BLOCK_BYTES, batch_bytes_max: 3000 };

    /// The table of the module, row by row, over every combination of facts.
    #[test]
    fn every_combination_of_facts_has_the_documented_verdict() {
        for position in [Position::Before, Position::Inner, Position::Newest, Position::After] {
            for reaches_end in [false, true] {
                for tail in [Tail::Clean, Tail::Torn, Tail::Overtaken] {
                    for any_valid in [false, true] {
                        let expected = match (position, reaches_end, tail, any_valid) {
                            (Position::Before, ..) => Verdict::Delete,
                            (Position::Inner, true, ..) => Verdict::Keep,
                            (Position::Inner, false, ..) => Verdict::Damage,
                            (Position::Newest, _, Tail::Clean, _) => Verdict::Keep,
                            (Position::Newest, _, Tail::Torn, _) => Verdict::Cut,
                            (Position::Newest, _, Tail::Overtaken, _) => Verdict::Damage,
                            (Position::After, _, _, true) => Verdict::Damage,
                            (Position::After, _, _, false) => Verdict::Delete,
                        };
                        assert_eq!(verdict(position, reaches_end, tail, any_valid), expected);
                    }
                }
            }
        }
    }

    /// Segment files with what is on the medium and what was written since the last sync.
    #[derive(Clone, Default)]
    struct Medium {
        synced: BTreeMap<u64, Vec<u8>>,
        unsynced: Vec<(u64, u64, Vec<u8>)>,
    }

    impl Medium {
        fn perform(&mut self, step: &WriteStep) {
            match step {
                WriteStep::Create { segment, len, header } => {
                    let mut file = vec![0; *len as usize];
                    file[..header.len()].copy_from_slice(header);
                    assert!(self.synced.insert(*segment, file).is_none(), "segment {segment} exists");
                }
                WriteStep::Write { segment, offset, bytes } => {
                    self.unsynced.push((*segment, *offset, bytes.clone()));
                }
                WriteStep::Sync { .. } => {
                    let writes = std::mem::take(&mut self.unsynced);
                    writes.iter().for_each(|write| self.apply(write, |_| true));
                }
                WriteStep::Trim { segment, len } => {
                    let file = self.synced.get_mut(segment).expect("a closed segment exists");
                    assert!(file.len() as u64 >= *len && self.unsynced.is_empty());
                    file.truncate(*len as usize);
                }
                WriteStep::Delete { segment } => {
                    self.synced.remove(segment);
                }
            }
        }

        fn apply(&mut self, (segment, offset, bytes): &(u64, u64, Vec<u8>), mut keep: impl FnMut(usize) -> bool) {
            let file = self.synced.get_mut(segment).expect("writes go to segments that exist");
            for (sector, chunk) in bytes.chunks(512).enumerate() {
                if keep(sector) {
                    let at = *offset as usize + sector * 512;
                    file[at..at + chunk.len()].copy_from_slice(chunk);
                }
            }
        }

        /// Loses, sector by sector, what was not synced.
        fn power_loss(&mut self, mut keep: impl FnMut() -> bool) {
            for write in std::mem::take(&mut self.unsynced) {
                self.apply(&write, |_| keep());
            }
        }

        fn recover(&self, known: bool) -> Result<Recovered, Damage> {
            let log = known.then_some(LOG);
            let facts = self.synced.iter().map(|(&n, bytes)| (n, scan_segment(n, &bytes.clone().into(), log)));
            let mut recovered = recover(&facts.collect(), log, None)?;
            recovered.resume.last_batch = recovered.last_batch_at.map(|(segment, offset, len)| {
                (segment, offset, self.synced[&segment][offset as usize..(offset + len) as usize].to_vec())
            });
            Ok(recovered)
        }
    }

    #[derive(Clone, Debug)]
    enum Action {
        Append(u8, u16),
        Vote,
        Truncate(u8),
        Flush,
        Crash { steps: u8, coins: u64, power: bool },
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (1..6u8, 0..3000u16).prop_map(|(count, len)| Action::Append(count, len)),
            1 => Just(Action::Vote),
            1 => (1..4u8).prop_map(Action::Truncate),
            4 => Just(Action::Flush),
            1 => (0..8u8, any::<u64>(), any::<bool>())
                .prop_map(|(steps, coins, power)| Action::Crash { steps, coins, power }),
        ]
    }

    /// What the log holds after a number of records, by brute force.
    fn model(records: &[Record]) -> (Vec<LogId>, Option<Vote>) {
        let (mut entries, mut vote) = (Vec::<LogId>::new(), None);
        for record in records {
            match record {
                Record::Entry(entry) => entries.push(entry.log_id),
                Record::Truncate(after) => entries.retain(|id| Some(id.index) <= after.map(|a| a.index)),
                Record::Vote(v) => vote = Some(*v),
                _ => {}
            }
        }
        (entries, vote)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Crashes anywhere: what was acknowledged is there, what is there was pushed, in order.
        #[test]
        fn acknowledged_records_survive_and_nothing_is_invented(actions in proptest::collection::vec(action(), 1..60)) {
            let mut medium = Medium::default();
            let mut pushed: Vec<Record> = Vec::new();
            let mut durable = 0;
            let open = |medium: &mut Medium, known: bool| {
                let recovered = medium.recover(known).expect("no damage was done");
                let (writer, first) = LogWriter::open(LOG, SMALL, recovered.resume.clone());
                first.steps.iter().for_each(|step| medium.perform(step));
                (writer, recovered)
            };
            let (mut writer, _) = open(&mut medium, false);
            writer.on_done();
            let mut tickets_before = 0;
            for action in actions {
                match action {
                    Action::Append(count, len) => for _ in 0..count {
                        let (entries, _) = model(&pushed);
                        let index = entries.last().map_or(0, |id| id.index + 1);
                        let payload = Payload::Command(vec![7; len as usize].into());
                        let record = Record::Entry(Entry { log_id: LogId::new(pushed.len() as u64, index), payload });
                        writer.push(record.clone());
                        pushed.push(record);
                    },
                    Action::Vote => {
                        let vote = Vote { term: pushed.len() as u64, node: NodeId(1), committed: false };
                        writer.push(Record::Vote(vote));
                        pushed.push(Record::Vote(vote));
                    }
                    Action::Truncate(count) => {
                        let (entries, _) = model(&pushed);
                        let keep = entries.len().saturating_sub(count as usize);
                        let after = keep.checked_sub(1).map(|last| entries[last]);
                        writer.push(Record::Truncate(after));
                        pushed.push(Record::Truncate(after));
                    }
                    Action::Flush => if let Some(flush) = writer.next_batch() {
                        flush.steps.iter().for_each(|step| medium.perform(step));
                        writer.on_done();
                        durable = tickets_before + flush.through as usize;
                    } else {
                        writer.push_seal();
                    },
                    Action::Crash { steps, coins, power } => {
                        if let Some(flush) = writer.next_batch() {
                            flush.steps.iter().take(steps as usize).for_each(|step| medium.perform(step));
                        }
                        let mut coins = coins;
                        medium.power_loss(|| { coins = coins.rotate_left(1); !power || coins & 1 == 1 });
                        let again = medium.recover(true).expect("no damage was done");
                        let (next, recovered) = open(&mut medium, true);
                        prop_assert_eq!(&again.entries, &recovered.entries);
                        writer = next;
                        writer.on_done();
                        let found: Vec<LogId> = recovered.entries.iter().map(|(id, ..)| *id).collect();
                        let state = (found, recovered.resume.base.vote);
                        let matching = (durable..=pushed.len()).find(|&n| model(&pushed[..n]) == state);
                        prop_assert!(matching.is_some(), "{:?} is no state after ticket {}", state, durable);
                        // A prefix is what the log now is; what was lost is pushed again never.
                        pushed.truncate(matching.unwrap_or(0));
                        durable = pushed.len();
                        tickets_before = durable;
                        let (last, _) = (recovered.resume.base.last, ());
                        prop_assert_eq!(last, model(&pushed).0.last().copied());
                    }
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20_000), 0..3)) {
            let facts = (1..).zip(files).map(|(n, bytes)| (n, scan_segment(n, &bytes.into(), Some(LOG)))).collect();
            let _ = recover(&facts, Some(LOG), None);
        }
    }

    fn history() -> Medium {
        let mut medium = Medium::default();
        let (mut writer, first) = LogWriter::open(LOG, SMALL, Resume::default());
        first.steps.iter().for_each(|step| medium.perform(step));
        writer.on_done();
        for index in 0..20 {
            let payload = Payload::Command(vec![index as u8; 1000].into());
            writer.push(Record::Entry(Entry { log_id: LogId::new(1, index), payload }));
            let flush = writer.next_batch().expect("a record is queued");
            flush.steps.iter().for_each(|step| medium.perform(step));
            writer.on_done();
        }
        writer.push_seal();
        let flush = writer.next_batch().expect("a seal is wanted");
        flush.steps.iter().for_each(|step| medium.perform(step));
        medium
    }

    /// The base before it needs segments that the bad one let go of: nobody is to look for those.
    #[test]
    fn a_bad_newest_base_is_named_though_older_segments_are_gone() {
        let mut medium = Medium::default();
        let (mut writer, first) = LogWriter::open(LOG, SMALL, Resume::default());
        first.steps.iter().for_each(|step| medium.perform(step));
        writer.on_done();
        let entries = (0..20).map(|index| {
            let payload = Payload::Command(vec![7; 1000].into());
            Record::Entry(Entry { log_id: LogId::new(1, index), payload })
        });
        for record in entries.chain([Record::Purge(LogId::new(1, 15))]) {
            writer.push(record);
            let flush = writer.next_batch().expect("a record is queued");
            flush.steps.iter().for_each(|step| medium.perform(step));
            writer.on_done();
        }
        let recovered = |medium: &Medium| {
            let facts = medium.synced.iter().map(|(&n, bytes)| (n, scan_segment(n, &bytes.clone().into(), Some(LOG))));
            recover(&facts.collect(), Some(LOG), Some(LogId::new(1, 15)))
        };
        assert!(!medium.synced.contains_key(&1) && recovered(&medium).is_ok());
        let mut last = medium.synced.last_entry().expect("segments");
        last.get_mut()[BLOCK_BYTES as usize + 8] ^= 1;
        let newest = *last.key();
        let damage = recovered(&medium).expect_err("the base was durable");
        assert_eq!((damage.segment, damage.offset), (newest, BLOCK_BYTES), "{damage}");
        // Found by the simulator: nothing else is left but a segment that was just being created.
        medium.synced.retain(|segment, _| *segment == newest);
        medium.synced.insert(newest + 1, vec![0; 4 * BLOCK_BYTES as usize]);
        let damage = recovered(&medium).expect_err("the base was durable");
        assert_eq!((damage.segment, &damage.kind), (newest, &DamageKind::NoBase), "{damage}");
    }

    /// Found by seed 6642: rot in the only base, then a power loss while the next segment was begun.
    #[test]
    fn without_any_base_the_segment_that_had_one_is_named() {
        let mut medium = history();
        let oldest = *medium.synced.keys().next().expect("segments");
        let next = oldest + 1;
        medium.synced.retain(|number, _| *number <= next);
        medium.synced.get_mut(&oldest).expect("exists")[BLOCK_BYTES as usize + 8] ^= 1;
        // Its header was synced on its own; its base was torn.
        medium.synced.get_mut(&next).expect("exists")[BLOCK_BYTES as usize..].fill(0);
        let damage = medium.recover(true).expect_err("the base was durable");
        assert_eq!((damage.segment, damage.offset, damage.kind), (oldest, BLOCK_BYTES, DamageKind::NoBase));
    }

    /// Its checksums are right and it cannot be: something wrote it, so it is no interrupted roll that may be deleted.
    /// Found by fuzzing.
    #[test]
    fn a_base_that_needs_later_segments_is_damage() {
        let mut medium = history();
        let (&newest, bytes) = medium.synced.last_key_value().expect("segments");
        let facts = scan_segment(newest, &bytes.clone().into(), Some(LOG));
        let last = facts.batches.last().expect("a base").header;
        let next = newest + 1;
        for first_segment in [next + 1, u64::MAX] {
            let base = Base { first_segment, previous_segment: newest, previous_end: last.end(), ..Base::default() };
            let mut body = vec![0; BATCH_HEADER_BYTES];
            record::encode_base(&base, &mut body);
            let (batch, _) =
                encode_batch(LOG.uuid, BatchKind::Base, next, BLOCK_BYTES, last.sequence + 1, last.crc, body);
            let mut file = encode_segment_header(LOG, next);
            file.resize(BLOCK_BYTES as usize, 0);
            file.extend(batch);
            medium.synced.insert(next, file);
            let damage = medium.recover(true).expect_err("a base that cannot be");
            assert_eq!((damage.segment, damage.offset), (next, BLOCK_BYTES));
            assert!(matches!(damage.kind, DamageKind::Unreadable(_)), "{damage}");
        }
    }

    /// One flipped bit in any block that a sealed log needs: recovery refuses, or the block is not needed any more.
    #[test]
    fn damage_to_synced_and_sealed_data_is_never_cut_as_a_torn_tail() {
        let whole = history();
        let expected = whole.recover(true).expect("whole").entries;
        assert_eq!(expected.len(), 20);
        let mut refused = 0;
        for (&segment, bytes) in &whole.synced {
            for at in (0..bytes.len()).step_by(97) {
                let mut rotten = whole.clone();
                rotten.synced.get_mut(&segment).expect("exists")[at] ^= 0x10;
                match rotten.recover(true) {
                    Err(damage) => {
                        let named = (damage.segment, damage.offset <= at as u64);
                        assert_eq!(named, (segment, true), "byte {at}: {damage}");
                        refused += 1;
                    }
                    // Padding, preallocated space and the last seal (which nothing follows) carry no record.
                    Ok(recovered) => assert_eq!(recovered.entries, expected, "segment {segment} byte {at}"),
                }
            }
        }
        assert!(refused > 100, "only {refused} flips were seen");
    }

    /// No crash makes a segment shorter than its last batch, so whoever cut it took something that was durable.
    #[test]
    fn a_segment_cut_inside_a_batch_is_damage() {
        let whole = history();
        let (&newest, bytes) = whole.synced.last_key_value().expect("segments");
        let end = scan_segment(newest, &bytes.clone().into(), Some(LOG)).end() as usize;
        // Its last batch is a seal: one block, of which the header takes 64 bytes.
        for len in [end - 1, end - 2000, end - BLOCK_BYTES as usize + BATCH_HEADER_BYTES] {
            let mut cut = whole.clone();
            cut.synced.get_mut(&newest).expect("exists").truncate(len);
            let damage = cut.recover(true).expect_err("durable bytes are gone");
            assert_eq!((damage.segment, damage.offset), (newest, end as u64 - BLOCK_BYTES));
            assert!(matches!(damage.kind, DamageKind::Unreadable(_)), "{damage}");
        }
        let mut cut = whole.clone();
        cut.synced.get_mut(&newest).expect("exists").truncate(end);
        assert_eq!(cut.recover(true).expect("only reserved space is gone").entries.len(), 20);
    }

    #[test]
    fn a_counter_at_its_end_is_refused_and_never_repeated() {
        for (epoch, refused) in [(COUNTER_MAX - 2, false), (COUNTER_MAX - 1, true), (u64::MAX - 1, true)] {
            let mut medium = Medium::default();
            let base = Base { boot_epoch: epoch, ..Base::default() };
            let (writer, first) = LogWriter::open(LOG, SMALL, Resume { base, ..Resume::default() });
            assert_eq!(writer.boot_epoch(), epoch + 1);
            first.steps.iter().for_each(|step| medium.perform(step));
            match medium.recover(true) {
                Ok(recovered) => assert!(!refused && recovered.resume.base.boot_epoch == epoch + 1),
                Err(damage) => assert!(refused && damage.kind == DamageKind::CounterTooHigh, "{damage}"),
            }
        }
    }

    /// What a flush says about where a record is, is what a scan finds, and its CRC is the record's.
    #[test]
    fn places_from_the_writer_are_those_that_recovery_finds() {
        let mut medium = Medium::default();
        let (mut writer, first) = LogWriter::open(LOG, SMALL, Resume::default());
        first.steps.iter().for_each(|step| medium.perform(step));
        writer.on_done();
        let mut placed = Vec::new();
        for index in 0..20 {
            let payload = Payload::Command(vec![index as u8; 700].into());
            writer.push(Record::Entry(Entry { log_id: LogId::new(1, index), payload }));
            if index % 3 == 0 {
                let flush = writer.next_batch().expect("a record is queued");
                flush.steps.iter().for_each(|step| medium.perform(step));
                writer.on_done();
                placed.extend(flush.placed.into_iter().map(|(_, id, place)| (id, place, false)));
            }
        }
        assert_eq!(medium.recover(true).expect("whole").entries, placed);
        for (_, place, _) in &placed {
            let at = place.offset as usize;
            let record = &medium.synced[&place.segment][at..at + place.len as usize];
            assert_eq!(record::checksum(record), place.crc);
        }
    }

    #[test]
    fn a_roll_gives_space_back_before_it_asks_for_some() {
        let (mut writer, _) = LogWriter::open(LOG, SMALL, Resume::default());
        writer.on_done();
        writer.set_segment_bytes(5 * BLOCK_BYTES);
        let mut rolls = 0;
        for index in 0..20 {
            let payload = Payload::Command(vec![1; 2900].into());
            writer.push(Record::Entry(Entry { log_id: LogId::new(1, index), payload }));
            let steps = writer.next_batch().expect("a record is queued").steps;
            writer.on_done();
            let Some(create) = steps.iter().position(|s| matches!(s, WriteStep::Create { .. })) else { continue };
            rolls += 1;
            let WriteStep::Create { segment, len, .. } = &steps[create] else { unreachable!("found") };
            assert_eq!(*len, 5 * BLOCK_BYTES);
            assert!(matches!(steps[create - 1], WriteStep::Trim { segment: trimmed, .. } if trimmed == segment - 1));
        }
        assert!(rolls > 5, "{rolls} rolls");
    }

    /// Space is written with zeros ahead of batches, in few writes, and never behind the segment's end.
    #[test]
    fn zeros_go_ahead_of_batches() {
        let options = LogOptions { segment_bytes: 256 * BLOCK_BYTES, ..SMALL };
        let (mut writer, _) = LogWriter::open(LOG, options, Resume::default());
        writer.on_done();
        let mut longer = 0;
        for index in 0..1000 {
            let payload = Payload::Command(vec![1; 100].into());
            writer.push(Record::Entry(Entry { log_id: LogId::new(1, index), payload }));
            for step in writer.next_batch().expect("a record is queued").steps {
                let WriteStep::Write { segment, offset, bytes } = step else { continue };
                let header = decode_batch_header(LOG.uuid, segment, offset, &bytes).expect("it begins with a batch");
                let (batch, zeros) = bytes.split_at((header.end() - offset) as usize);
                assert!(batch_body(&header, &[vec![0; offset as usize], batch.to_vec()].concat()).is_some());
                assert!(zeros.iter().all(|byte| *byte == 0));
                longer += u32::from(!zeros.is_empty());
                assert!(offset + bytes.len() as u64 <= options.segment_bytes, "at {offset}");
            }
            writer.on_done();
        }
        // Of 1,000 blocks one in 17 brings 16 more, and each segment begins with zeros.
        assert!((58..=66).contains(&longer), "{longer} writes have zeros behind");
    }

    #[test]
    fn a_missing_segment_or_log_is_damage_not_an_empty_log() {
        let mut medium = history();
        let oldest = *medium.synced.keys().next().expect("segments");
        medium.synced.remove(&oldest);
        let damage = medium.recover(true).expect_err("a needed segment is gone");
        assert_eq!((damage.segment, damage.kind), (oldest, DamageKind::MissingSegment));
        let mut medium = history();
        let inner = *medium.synced.keys().nth(1).expect("segments");
        medium.synced.remove(&inner);
        let damage = medium.recover(true).expect_err("a needed segment is gone");
        assert_eq!((damage.segment, damage.kind), (inner, DamageKind::MissingSegment));
        let gone = Medium::default();
        let damage = gone.recover(true).expect_err("the log is gone");
        assert_eq!((damage.segment, damage.kind), (1, DamageKind::MissingSegment));
        assert!(gone.recover(false).is_ok());
    }

    #[test]
    fn the_store_decides_where_log_and_store_disagree() {
        let medium = history();
        let facts: BTreeMap<_, _> =
            medium.synced.iter().map(|(&n, b)| (n, scan_segment(n, &b.clone().into(), Some(LOG)))).collect();
        let keep = recover(&facts, Some(LOG), Some(LogId::new(1, 10))).expect("agrees");
        assert_eq!((keep.reset, keep.entries.len()), (false, 20));
        for installed in [LogId::new(2, 10), LogId::new(1, 50)] {
            let reset = recover(&facts, Some(LOG), Some(installed)).expect("snapshot installed");
            assert!(reset.reset && reset.entries.is_empty());
            assert_eq!((reset.resume.base.purged, reset.resume.base.last), (Some(installed), Some(installed)));
        }
    }

    #[test]
    fn purging_deletes_segments_and_keeps_the_vote() {
        let mut medium = Medium::default();
        let (mut writer, first) = LogWriter::open(LOG, SMALL, Resume::default());
        first.steps.iter().for_each(|step| medium.perform(step));
        writer.on_done();
        let vote = Vote { term: 3, node: NodeId(9), committed: true };
        let mut records = vec![Record::Vote(vote)];
        records.extend((0..40).map(|index| {
            Record::Entry(Entry { log_id: LogId::new(3, index), payload: Payload::Command(vec![1; 2000].into()) })
        }));
        records.push(Record::Purge(LogId::new(3, 35)));
        for record in records {
            writer.push(record);
            let flush = writer.next_batch().expect("a record is queued");
            flush.steps.iter().for_each(|step| medium.perform(step));
            writer.on_done();
        }
        assert!(medium.synced.len() < 5, "{} segments are left", medium.synced.len());
        assert!(!medium.synced.contains_key(&1));
        let facts: BTreeMap<_, _> =
            medium.synced.iter().map(|(&n, b)| (n, scan_segment(n, &b.clone().into(), Some(LOG)))).collect();
        let recovered = recover(&facts, Some(LOG), Some(LogId::new(3, 37))).expect("whole");
        assert_eq!(recovered.resume.base.vote, Some(vote));
        assert_eq!(recovered.entries.first().map(|(id, ..)| id.index), Some(36));
        let behind = recover(&facts, Some(LOG), Some(LogId::new(3, 20))).expect_err("the store is too old");
        assert!(matches!(behind.kind, DamageKind::StoreBehindPurge { .. }));
    }
}

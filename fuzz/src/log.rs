//! Recovery of the log: from arbitrary bytes, from crashes, and from a valid log that was damaged.

use std::collections::BTreeMap;

use quorate_core::log::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, LogIdentity};
use quorate_core::log::record::{Record, decode_one};
use quorate_core::log::recovery::COUNTER_MAX;
use quorate_core::log::writer::{LogOptions, Resume};
use quorate_core::log::{LogWriter, Recovered};
use quorate_core::{Entry, LogId, Member, Membership, NodeId, Payload, Vote};

use super::input::Input;
use super::medium::Medium;

const LOG: LogIdentity = LogIdentity { uuid: 0xfeed, node_id: NodeId(7) };
const SMALL: LogOptions = LogOptions { segment_bytes: 6 * BLOCK_BYTES, batch_bytes_max: 3000 };
const ACTIONS_MAX: usize = 24;

/// The first byte of the input chooses: arbitrary segment files; a history with crashes; the same, then damage; the
/// same, then changes whose checksums are put right again.
///
/// Recovery never panics. It finds what was durable before a crash and nothing that was never written. Of a damaged log
/// it returns a state that the log once had, or refuses; it refuses if a single bit of a sealed log is the difference.
/// What a recovered log writes first is recovered to the same state.
pub fn log_recovery(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => arbitrary(&mut input),
        1 => History::default().write(&mut input),
        2 => damaged(&mut input),
        _ => resealed(&mut input),
    }
}

fn arbitrary(input: &mut Input<'_>) {
    let (count, flags, first) = (input.u8() % 4, input.u8(), input.u64());
    let log = (flags & 1 == 1).then_some(LOG);
    let applied = (flags & 2 == 2).then(|| LogId::new(input.u64(), input.u64()));
    let len = input.0.len() / usize::from(count.max(1));
    let mut medium = Medium::default();
    for number in 0..u64::from(count) {
        medium.files.insert(first.saturating_add(number), input.bytes(len).to_vec());
    }
    check_recovery(&mut medium, log, applied);
}

/// Recovers, lets the recovered log write its first flush, and recovers again.
fn check_recovery(medium: &mut Medium, log: Option<LogIdentity>, applied: Option<LogId>) -> Option<Recovered> {
    let recovered = medium.recover(log, applied).ok()?;
    let resume = &recovered.resume;
    let segment = resume.segments.keys().next_back().copied().unwrap_or(0);
    if resume.base.boot_epoch.max(resume.sequence).max(segment) > COUNTER_MAX - 4 {
        // What it writes next is too high already.
        return None;
    }
    let identity = log.or(recovered.log).unwrap_or(LOG);
    let (_, first) = LogWriter::open(identity, SMALL, recovered.resume.clone());
    medium.flush(&first);
    let again = medium.recover(Some(identity), applied).expect("what was recovered is whole");
    assert_eq!(facts(&again), facts(&recovered));
    assert_eq!(again.resume.base.boot_epoch, recovered.resume.base.boot_epoch + 1);
    assert!(!again.reset && again.cut.is_none());
    Some(recovered)
}

/// What a recovery says about the log, leaving out where it is.
fn facts(recovered: &Recovered) -> (State, Vec<bool>) {
    let base = &recovered.resume.base;
    let state = State {
        entries: recovered.entries.iter().map(|(id, ..)| *id).collect(),
        vote: base.vote,
        committed: base.committed,
        purged: base.purged,
        last: base.last,
    };
    (state, recovered.entries.iter().map(|(.., membership)| *membership).collect())
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    entries: Vec<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl State {
    /// Raft's rules, in their plainest form.
    fn record(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => self.entries.push(entry.log_id),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(id) => self.committed = Some(*id),
            Record::Truncate(after) => self.entries.retain(|id| Some(id.index) <= after.map(|a| a.index)),
            Record::Purge(upto) => {
                self.entries.retain(|id| id.index > upto.index);
                self.purged = Some(*upto);
            }
        }
        self.last = self.entries.last().copied().or(self.purged);
    }

    /// The log after a snapshot was installed that it does not reach.
    fn reset(&self, applied: Option<LogId>) -> Self {
        Self { entries: Vec::new(), purged: applied, last: applied, ..self.clone() }
    }
}

fn state_after(records: &[Record]) -> State {
    let mut state = State::default();
    records.iter().for_each(|record| state.record(record));
    state
}

/// A log that is written, flushed, crashed and recovered as the input says.
#[derive(Default)]
struct History {
    medium: Medium,
    /// Everything that was pushed and has not been lost.
    pushed: Vec<Record>,
    /// How many of them are durable, and how many are out of reach of a single flipped bit.
    durable: usize,
    sealed: usize,
    /// Tickets of the present writer start after this many.
    tickets_before: usize,
    /// What the store has applied.
    applied: Option<LogId>,
}

impl History {
    fn write(&mut self, input: &mut Input<'_>) {
        let (mut writer, first) = LogWriter::open(LOG, SMALL, Resume::default());
        let mut coins = Coins(input.u64());
        if coins.flip() {
            self.medium.kill_in(&first, input.index(first.steps.len()), || coins.flip());
            self.medium.lose_power(|| coins.flip());
            writer = self.reopen(None);
        } else {
            self.medium.flush(&first);
            writer.on_done();
        }
        for _ in 0..ACTIONS_MAX {
            if input.is_empty() {
                break;
            }
            match input.u8() % 8 {
                0..=2 => self.append(input, &mut writer),
                3 => self.push_other(input, &mut writer),
                4 | 5 => {
                    self.flush(&mut writer);
                }
                6 => {
                    while self.flush(&mut writer) {}
                    writer.push_seal();
                    self.flush(&mut writer);
                }
                _ => writer = self.crash(input, writer),
            }
        }
    }

    fn push(&mut self, writer: &mut LogWriter, record: Record) {
        writer.push(record.clone());
        self.pushed.push(record);
    }

    fn append(&mut self, input: &mut Input<'_>, writer: &mut LogWriter) {
        let (count, kind) = (input.u8() % 4, input.u8());
        for _ in 0..=count {
            let index = state_after(&self.pushed).last.map_or(0, |last| last.index + 1);
            let payload = match kind % 8 {
                0 => Payload::Blank,
                1 => Payload::Membership(Membership {
                    configs: vec![[NodeId(7)].into()],
                    members: BTreeMap::from([(NodeId(7), Member::default())]),
                }),
                _ => Payload::Command(vec![kind; usize::from(input.u16() % 3500)].into()),
            };
            // Terms that never repeat make every entry's id unique.
            let log_id = LogId::new(self.pushed.len() as u64, index);
            self.push(writer, Record::Entry(Entry { log_id, payload }));
        }
    }

    fn push_other(&mut self, input: &mut Input<'_>, writer: &mut LogWriter) {
        let state = state_after(&self.pushed);
        let durable = state_after(&self.pushed[..self.durable]).entries;
        let record = match input.u8() % 4 {
            0 => Record::Vote(Vote { term: input.u64(), node: NodeId(input.u64()), committed: input.u8() & 1 == 1 }),
            1 => Record::Committed(LogId::new(input.u64(), input.u64())),
            2 => {
                // What the store has applied is committed, and that is never truncated.
                let floor = self.applied.max(state.purged);
                let keep: Vec<_> = state.entries.iter().filter(|id| Some(id.index) > floor.map(|f| f.index)).collect();
                match input.index(keep.len() + 1) {
                    0 if floor.is_some() => Record::Truncate(floor),
                    0 => Record::Truncate(None),
                    n => Record::Truncate(Some(*keep[n - 1])),
                }
            }
            _ => {
                let both: Vec<_> = durable.into_iter().filter(|id| state.entries.contains(id)).collect();
                let Some(upto) = both.get(input.index(both.len())).copied() else { return };
                self.applied = self.applied.max(both.get(input.index(both.len())).copied()).max(Some(upto));
                Record::Purge(upto)
            }
        };
        self.push(writer, record);
    }

    /// Flushes once; `false` if there was nothing to do.
    fn flush(&mut self, writer: &mut LogWriter) -> bool {
        let Some(flush) = writer.next_batch() else { return false };
        self.medium.flush(&flush);
        writer.on_done();
        let before = self.durable;
        self.durable = self.tickets_before + usize::try_from(flush.through).expect("tickets are few");
        let has_vote = self.pushed[before..self.durable].iter().any(|record| matches!(record, Record::Vote(_)));
        assert!(flush.sealed || !has_vote, "a vote counts as saved before its seal is durable");
        if flush.sealed {
            self.sealed = self.durable;
        }
        true
    }

    fn crash(&mut self, input: &mut Input<'_>, mut writer: LogWriter) -> LogWriter {
        let (steps, power) = (usize::from(input.u8() % 12), input.u8());
        let mut coins = Coins(input.u64());
        if let Some(flush) = writer.next_batch() {
            self.medium.kill_in(&flush, steps, || coins.flip());
        }
        // A process that dies leaves its writes in the cache, where the next one finds them; a power loss takes them.
        if power & 1 == 1 {
            self.medium.lose_power(|| coins.flip());
        }
        if power & 2 == 2 {
            let recovered = self.medium.recover(Some(LOG), self.applied).expect("no damage was done");
            let (_, first) = LogWriter::open(LOG, SMALL, recovered.resume);
            self.medium.kill_in(&first, usize::from(power >> 4), || coins.flip());
            if power & 4 == 4 {
                self.medium.lose_power(|| coins.flip());
            }
        }
        self.reopen(Some(LOG))
    }

    /// Restarts after a crash: everything durable is there, and what is there is a state that the log had.
    fn reopen(&mut self, log: Option<LogIdentity>) -> LogWriter {
        let recovered = self.medium.recover(log, self.applied).expect("no damage was done");
        assert!(!recovered.reset);
        let found = facts(&recovered).0;
        let count = self.matching(self.durable, &found);
        let count = count.unwrap_or_else(|| panic!("{found:?} is no state since ticket {}", self.durable));
        self.check_content(&recovered);
        self.pushed.truncate(count);
        (self.durable, self.sealed, self.tickets_before) = (count, count, count);
        let (mut writer, first) = LogWriter::open(LOG, SMALL, recovered.resume);
        self.medium.flush(&first);
        writer.on_done();
        writer
    }

    /// After how many records, at least `from`, the log was in this state.
    fn matching(&self, from: usize, state: &State) -> Option<usize> {
        let mut now = state_after(&self.pushed[..from]);
        (from..=self.pushed.len()).find(|&count| {
            if count > from {
                now.record(&self.pushed[count - 1]);
            }
            now == *state
        })
    }

    /// Every entry that was found is one that was written, to the byte.
    fn check_content(&self, recovered: &Recovered) {
        for (id, place, membership) in &recovered.entries {
            let bytes =
                self.medium.read(place.segment, place.offset, place.len.into()).expect("its place is in a file");
            let record = decode_one(&bytes.to_vec().into()).expect("its record is whole");
            assert!(self.pushed.contains(&record), "{id} was never written");
            assert!(matches!(&record, Record::Entry(entry) if entry.log_id == *id
                && matches!(entry.payload, Payload::Membership(_)) == *membership));
        }
    }
}

/// A stream of coin flips.
struct Coins(u64);

impl Coins {
    fn flip(&mut self) -> bool {
        self.0 = self.0.rotate_left(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 >> 63 == 1
    }
}

/// At most this many bits are flipped: a crc32c sees any three wrong bits.
const FLIPS_MAX: usize = 3;

fn damaged(input: &mut Input<'_>) {
    let mut changes = Input(input.bytes(16));
    let mut history = History::default();
    history.write(input);
    let (mut flips, mut others) = (0, 0);
    while !changes.is_empty() {
        let (kind, segment, at, len) = (changes.u8(), changes.u8(), changes.u16(), changes.u8());
        let numbers: Vec<u64> = history.medium.files.keys().copied().collect();
        let Some(&number) = numbers.get(usize::from(segment) % numbers.len().max(1)) else { break };
        let file = history.medium.files.get_mut(&number).expect("it is listed");
        if file.is_empty() {
            continue;
        }
        let offset = (usize::from(at) << 1) % file.len();
        match kind % 6 {
            1 if flips < FLIPS_MAX => {
                file[offset] ^= 1 << (len % 8);
                flips += 1;
            }
            2 => {
                let end = (offset + 64 * (usize::from(len) + 1)).min(file.len());
                file[offset..end].fill(0);
                others += 1;
            }
            3 => {
                file.truncate(offset);
                others += 1;
            }
            4 => {
                history.medium.files.remove(&number);
                others += 1;
            }
            5 => {
                // A misdirected write: a block of one file in another.
                let block = file[offset / 4096 * 4096..].iter().copied().take(4096).collect::<Vec<u8>>();
                let to = numbers[usize::from(len) % numbers.len()];
                let to = history.medium.files.get_mut(&to).expect("it is listed");
                let start = usize::from(len) / 16 * 4096;
                to.resize(to.len().max(start + block.len()), 0);
                to[start..start + block.len()].copy_from_slice(&block);
                others += 1;
            }
            _ => {}
        }
    }
    let Ok(recovered) = history.medium.recover(Some(LOG), history.applied) else { return };
    let found = facts(&recovered).0;
    let from = if flips <= 1 && others == 0 { history.sealed } else { 0 };
    if recovered.reset {
        let all_sealed = from == history.pushed.len() && from > 0;
        assert!(!all_sealed, "a flipped bit in a sealed log was taken for an installed snapshot");
        let once = (0..=history.pushed.len()).map(|n| state_after(&history.pushed[..n]).reset(history.applied));
        assert!(once.into_iter().any(|state| state == found), "{found:?} was never a state of the log");
    } else {
        assert!(history.matching(from, &found).is_some(), "{found:?} was no state of the log since ticket {from}");
    }
    history.check_content(&recovered);
    check_recovery(&mut history.medium, Some(LOG), history.applied);
}

fn resealed(input: &mut Input<'_>) {
    let mut changes = Input(input.bytes(32));
    let mut history = History::default();
    history.write(input);
    while !changes.is_empty() {
        let (segment, block, at, value) = (changes.u8(), changes.u8(), changes.u8(), changes.u8());
        let count = history.medium.files.len().max(1);
        let Some(file) = history.medium.files.values_mut().nth(usize::from(segment) % count) else { break };
        let offset = usize::from(block) % 16 * BLOCK_BYTES as usize + usize::from(at);
        if let Some(byte) = file.get_mut(offset) {
            *byte ^= value;
        }
    }
    let mut previous = 0;
    for file in history.medium.files.values_mut() {
        previous = reseal(file, previous);
    }
    check_recovery(&mut history.medium, Some(LOG), history.applied);
}

/// Puts the checksums of a segment right, and the chain through it.
fn reseal(file: &mut [u8], mut previous: u32) -> u32 {
    if let Some((header, rest)) = file.split_at_mut_checked(48)
        && let Some(crc) = rest.first_chunk_mut()
    {
        *crc = crc32c::crc32c(header).to_le_bytes();
    }
    let block = BLOCK_BYTES as usize;
    let mut at = block;
    while let Some(batch) = file.get_mut(at..).filter(|batch| batch.len() >= BATCH_HEADER_BYTES) {
        if &batch[..4] != b"QRBT" {
            at += block;
            continue;
        }
        batch[48..52].copy_from_slice(&previous.to_le_bytes());
        let len = batch[52..].first_chunk().map_or(0, |len| u32::from_le_bytes(*len)) as usize;
        if let Some(body) = batch.get(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES.saturating_add(len)) {
            let crc = crc32c::crc32c(body).to_le_bytes();
            batch[56..60].copy_from_slice(&crc);
        }
        previous = crc32c::crc32c(&batch[..60]);
        batch[60..64].copy_from_slice(&previous.to_le_bytes());
        at += (BATCH_HEADER_BYTES + len).div_ceil(block).max(1) * block;
    }
    previous
}

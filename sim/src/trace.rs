//! The witness of a run: a rolling hash over everything that took effect.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that took effect.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Virtual time, nanoseconds since the start of the run.
    pub at: u64,
    /// The machine it happened to.
    pub node: u32,
    /// What happened, two words at most: `disk write`, `net deliver`.
    pub kind: &'static str,
    /// What it happened to: a file, a link.
    pub subject: &'a str,
    /// Two numbers that say more: an offset and a length, a connection and its bytes.
    pub numbers: [u64; 2],
    /// Bytes that were written or delivered.
    pub payload: &'a [u8],
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at / 1_000_000_000, self.at % 1_000_000_000);
        let [a, b] = self.numbers;
        write!(f, "{seconds:>5}.{nanos:09} n{} {} {} {a} {b}", self.node, self.kind, self.subject)
    }
}

/// An [`Event`] that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Virtual time, nanoseconds since the start of the run.
    pub at: u64,
    /// The machine it happened to; 0 if to none.
    pub node: u32,
    /// What happened.
    pub kind: &'static str,
    /// What it happened to.
    pub subject: String,
    /// Two numbers that say more.
    pub numbers: [u64; 2],
    /// Bytes that were written or delivered.
    pub payload: Vec<u8>,
}

impl From<Event<'_>> for Recorded {
    fn from(event: Event<'_>) -> Self {
        let Event { at, node, kind, subject, numbers, payload } = event;
        Self { at, node, kind, subject: subject.to_owned(), numbers, payload: payload.to_vec() }
    }
}

/// A rolling 64-bit hash over a run's events. Clones share it. It is not cryptographic; it tells two runs apart.
///
/// Text written for people (log lines, `Debug` output) must not reach it: openraft prints wall-clock times there. What
/// a recording is to know beyond the hash comes through [`Trace::detail`].
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    recording: bool,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    events: u64,
    keep: usize,
    tail: VecDeque<String>,
    recorded: Vec<Recorded>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Trace {
    /// An empty trace that keeps the last `keep` events as text. Zero costs nothing; a report reruns the seed.
    pub fn new(keep: usize) -> Self {
        Self::with(keep, false)
    }

    /// An empty trace that keeps every event whole. Its hash is that of one that does not.
    pub fn recording() -> Self {
        Self::with(0, true)
    }

    fn with(keep: usize, recording: bool) -> Self {
        let inner = Inner { hash: SEED, keep, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), recording }
    }

    /// Whether events are kept: a [`Trace::detail`] that is costly to make is made only then.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Takes an event in. What destructors do in the wake of a panic is not part of the run.
    pub fn event(&self, event: Event<'_>) {
        if std::thread::panicking() {
            return;
        }
        let mut inner = self.lock();
        let mut hash = fold(inner.hash ^ event.at, u64::from(event.node));
        hash = fold_bytes(hash, event.kind.as_bytes());
        hash = fold_bytes(hash, event.subject.as_bytes());
        hash = fold(fold(hash, event.numbers[0]), event.numbers[1]);
        inner.hash = fold_bytes(hash, event.payload);
        inner.events += 1;
        if inner.keep > 0 {
            if inner.tail.len() == inner.keep {
                inner.tail.pop_front();
            }
            inner.tail.push_back(event.to_string());
        }
        if self.recording {
            inner.recorded.push(event.into());
        }
    }

    /// Keeps an event without hashing it, if this is a recording: what is the same in every run of a plan anyway, and
    /// text for people.
    pub fn detail(&self, event: Event<'_>) {
        if self.recording {
            self.lock().recorded.push(event.into());
        }
    }

    /// Everything that was kept so far, in the order in which it was said. What disks do is said late: sort by time.
    pub fn take_recorded(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.lock().recorded)
    }

    /// The hash over all events so far, in order.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.lock().events
    }

    /// The last events as text, oldest first; empty unless [`Trace::new`] was told to keep some.
    pub fn tail(&self) -> Vec<String> {
        self.lock().tail.iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SEED: u64 = 0x2d35_8dcc_aa6c_78a5;
const PRIME: u64 = 0x8bb8_4b93_962e_acc9;

/// The folded multiply of wyhash. Order matters, and no word is absorbed without effect: `hash` is rotated first, so
/// that a word equal to it does not cancel it for good.
pub(crate) fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash.rotate_left(23) ^ word ^ SEED) * u128::from(PRIME);
    (product as u64) ^ ((product >> 64) as u64)
}

pub(crate) fn fold_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = fold(hash, bytes.len() as u64);
    let (blocks, bytes) = bytes.as_chunks::<32>();
    if !blocks.is_empty() {
        // What is long goes in four lanes, side by side: each multiplication would wait for the one before it.
        let mut lanes = [0, 1, 2, 3].map(|lane| fold(hash, lane));
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane = fold(*lane, u64::from_le_bytes(*word)));
        }
        hash = lanes.into_iter().fold(hash, fold);
    }
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash, u64::from_le_bytes(*word));
    }
    if rest.is_empty() {
        return hash;
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash, u64::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(events: &[(u64, u32, &[u8])]) -> u64 {
        let trace = Trace::new(0);
        for &(at, node, payload) in events {
            trace.event(Event { at, node, kind: "test", subject: "it", numbers: [0, 0], payload });
        }
        trace.hash()
    }

    #[test]
    fn every_part_and_the_order_count() {
        let base = hash(&[(1, 1, b"a"), (2, 2, b"b")]);
        assert_eq!(base, hash(&[(1, 1, b"a"), (2, 2, b"b")]));
        for other in [
            hash(&[(2, 2, b"b"), (1, 1, b"a")]),
            hash(&[(1, 1, b"a"), (3, 2, b"b")]),
            hash(&[(1, 1, b"a"), (2, 1, b"b")]),
            hash(&[(1, 1, b"a"), (2, 2, b"b\0")]),
            hash(&[(1, 1, b"a")]),
            hash(&[(1, 1, b"")]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn every_byte_of_what_is_long_counts_and_so_does_its_place() {
        let payload: Vec<u8> = (0..200).collect();
        let mut hashes: Vec<u64> = vec![hash(&[(1, 1, &payload)])];
        for at in 0..200 {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            hashes.push(hash(&[(1, 1, &changed)]));
        }
        for (a, b) in [(0, 8), (0, 16), (0, 32), (8, 40), (64, 184), (160, 192)] {
            let mut swapped = payload.clone();
            (0..8).for_each(|byte| swapped.swap(a + byte, b + byte));
            hashes.push(hash(&[(1, 1, &swapped)]));
        }
        let many = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), many);
    }

    #[test]
    fn the_tail_keeps_the_last_events() {
        let trace = Trace::new(2);
        for at in 0..5 {
            trace.event(Event { at, node: 1, kind: "test", subject: "it", numbers: [at, 0], payload: &[] });
        }
        assert_eq!(trace.tail(), ["    0.000000003 n1 test it 3 0", "    0.000000004 n1 test it 4 0"]);
        assert_eq!(trace.events(), 5);
        assert!(trace.take_recorded().is_empty());
    }

    #[test]
    fn a_recording_keeps_what_others_only_hash() {
        let (plain, recording) = (Trace::new(0), Trace::recording());
        let event = Event { at: 7, node: 1, kind: "test", subject: "it", numbers: [1, 2], payload: b"p" };
        for trace in [&plain, &recording] {
            trace.event(event);
            trace.detail(Event { kind: "aside", ..event });
        }
        assert_eq!(plain.hash(), recording.hash());
        assert_eq!(plain.events(), 1);
        assert!(plain.take_recorded().is_empty());
        assert_eq!(recording.take_recorded(), [event.into(), Recorded { kind: "aside", ..event.into() }]);
    }
}

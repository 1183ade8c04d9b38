//! Oracles over facts observed inside the nodes: the safety properties of Raft (Ongaro & Ousterhout 2014, "In search of
//! an understandable consensus algorithm", extended version, figure 3).
//!
//! Each is fed with observations in the order in which they were made, and answers as soon as two contradict each other.
//! All hold for ever, not only among nodes that live at the same time, so nothing is forgotten at a restart. A node that
//! was wiped comes back under another id.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use super::history::Violation;

/// At most one leader in a term.
pub const ELECTION_SAFETY: &str = "election safety";
/// Entries with the same id are the same, and so is all before them.
pub const LOG_MATCHING: &str = "log matching";
/// What one node applied at an index, every node applies.
pub const COMMITTED_IMMUTABLE: &str = "committed entries never change";
/// Terms and indexes do not go back, and a vote is cast once.
pub const MONOTONIC: &str = "monotonic term, vote, commit and applied";
/// A term and a vote are durable before anybody is told of them.
pub const DURABLE_VOTE: &str = "votes are durable before they are told";
/// Replicas that applied the same entries are equal.
pub const STATE_MACHINE_EQUALITY: &str = "state machine equality";

/// Who was observed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The node's id.
    pub node: u64,
    /// The time of the observation, in nanoseconds.
    pub time_ns: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:016x} at {} ns", self.node, self.time_ns)
    }
}

fn violation(property: &'static str, explanation: String) -> Result<(), Violation> {
    Err(Violation::new(property, explanation, []))
}

/// Remembers the first observation of a fact, with which all later ones must agree, and returns it if this one does not.
fn disagreement<K: Ord, V: PartialEq>(first: &mut BTreeMap<K, (V, At)>, key: K, value: V, at: At) -> Option<&(V, At)> {
    match first.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert((value, at));
            None
        }
        Entry::Occupied(entry) => (entry.get().0 != value).then_some(entry.into_mut()),
    }
}

/// Election safety (Raft §5.2): at most one leader can be elected in a given term.
#[derive(Clone, Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, (u64, At)>,
}

impl ElectionSafety {
    /// `at.node` believes that `leader` was elected in `term`; feed it what a node believes of itself and of others.
    ///
    /// # Errors
    /// Another leader of the term has been observed.
    pub fn observe(&mut self, at: At, term: u64, leader: u64) -> Result<(), Violation> {
        let Some((other, before)) = disagreement(&mut self.leaders, term, leader, at) else { return Ok(()) };
        let explanation = format!("term {term} is led by {leader:016x} ({at}) and by {other:016x} ({before})");
        violation(ELECTION_SAFETY, explanation)
    }
}

/// One entry of a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// A hash of its payload.
    pub payload_hash: u64,
}

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

/// State machine safety (Raft §5.4.3): if a node has applied an entry at an index, no other node will ever apply a
/// different one there.
#[derive(Clone, Debug, Default)]
pub struct CommittedImmutable {
    applied: BTreeMap<u64, ((u64, u64), At)>,
}

impl CommittedImmutable {
    /// `at.node` applied `entry`, or learned that it is committed.
    ///
    /// # Errors
    /// Another entry has been applied at that index.
    pub fn observe(&mut self, at: At, entry: LogEntry) -> Result<(), Violation> {
        let LogEntry { index, term, payload_hash } = entry;
        let Some(((other, _), before)) = disagreement(&mut self.applied, index, (term, payload_hash), at) else {
            return Ok(());
        };
        let explanation = if *other == term {
            format!("entry {term}.{index} that {at} applied is not that of {before}")
        } else {
            format!("index {index} was applied with term {term} ({at}) and {other} ({before})")
        };
        violation(COMMITTED_IMMUTABLE, explanation)
    }
}

/// How far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest term it has seen.
    pub term: u64,
    /// The last index known to be committed; `None` before there is any.
    pub commit: Option<u64>,
    /// The last index applied; `None` before there is any.
    pub applied: Option<u64>,
}

/// Current term increases monotonically, as do commit index and last applied; a node votes for one candidate in a term
/// (Raft §5.1, §5.2 and figure 2).
#[derive(Clone, Debug, Default)]
pub struct Monotonic {
    /// Node → (incarnation, progress).
    progress: BTreeMap<u64, ((u64, Progress), At)>,
    /// (node, term) → candidate.
    votes: BTreeMap<(u64, u64), (u64, At)>,
}

impl Monotonic {
    /// `at.node` is this far. `incarnation` counts its starts: commit and applied are not durable, and a term may be
    /// seen before it is, so a restart may take all three back.
    ///
    /// # Errors
    /// One of the three is behind an earlier observation of the incarnation, or the node applied more than is committed.
    pub fn observe(&mut self, at: At, incarnation: u64, progress: Progress) -> Result<(), Violation> {
        if progress.applied > progress.commit {
            let (applied, commit) = (progress.applied, progress.commit);
            return violation(MONOTONIC, format!("{at} applied {applied:?}, but only {commit:?} is committed"));
        }
        match self.progress.insert(at.node, ((incarnation, progress), at)) {
            Some(((same, old), before))
                if same == incarnation
                    && (progress.term < old.term || progress.commit < old.commit || progress.applied < old.applied) =>
            {
                violation(MONOTONIC, format!("{at} is back at {progress:?}, after {old:?} at {} ns", before.time_ns))
            }
            _ => Ok(()),
        }
    }

    /// `at.node` granted its vote of `term` to `candidate`, and the vote is durable or has been sent.
    ///
    /// # Errors
    /// It has voted for another candidate in that term, in this incarnation or an earlier one.
    pub fn observe_vote(&mut self, at: At, term: u64, candidate: u64) -> Result<(), Violation> {
        let Some((other, before)) = disagreement(&mut self.votes, (at.node, term), candidate, at) else {
            return Ok(());
        };
        let explanation =
            format!("in term {term} {at} votes for {candidate:016x}, and at {} ns for {other:016x}", before.time_ns);
        violation(MONOTONIC, explanation)
    }
}

/// Current term and vote are on stable storage before a server responds to anybody (Raft §5.2 and figure 2, "persistent
/// state on all servers").
#[derive(Clone, Debug, Default)]
pub struct DurableVote {
    /// Node → the highest term that it may have told others of.
    told: BTreeMap<u64, (u64, At)>,
}

impl DurableVote {
    /// `at.node` may answer others in `term`: its storage has said that the vote is durable.
    pub fn observe_told(&mut self, at: At, term: u64) {
        let told = self.told.entry(at.node).or_insert((term, at));
        if told.0 < term {
            *told = (term, at);
        }
    }

    /// `at.node` is down, and `term` is the highest on its disk.
    ///
    /// # Errors
    /// It has told others of a higher one.
    pub fn observe_disk(&self, at: At, term: Option<u64>) -> Result<(), Violation> {
        match self.told.get(&at.node) {
            Some((told, before)) if Some(*told) > term => {
                let at_ns = before.time_ns;
                violation(
                    DURABLE_VOTE,
                    format!("{at} finds term {term:?} on its disk, and was in {told} at {at_ns} ns"),
                )
            }
            _ => Ok(()),
        }
    }
}

/// Replicas are deterministic (Raft §2): after the same entries they are in the same state.
#[derive(Clone, Debug, Default)]
pub struct StateMachineEquality {
    states: BTreeMap<u64, (u64, At)>,
}

impl StateMachineEquality {
    /// The state of `at.node` has the hash `state_hash` after it applied everything up to `applied`.
    ///
    /// # Errors
    /// Another state has been observed after that entry.
    pub fn observe(&mut self, at: At, applied: u64, state_hash: u64) -> Result<(), Violation> {
        let Some((_, before)) = disagreement(&mut self.states, applied, state_hash, at) else { return Ok(()) };
        violation(STATE_MACHINE_EQUALITY, format!("after index {applied} the state of {at} is not that of {before}"))
    }
}

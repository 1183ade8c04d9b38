//! What the nodes of a run do, fed to the oracles as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::ServerState;
use quorate_core::kv::{Command, Kv, Outcome, Response};
use quorate_core::log::record::Record;
use quorate_core::log::recovery::{Found, Tail, scan_segment};
use quorate_core::{LogId, StateMachine, StateMut};
use quorate_io::types::Types;

use crate::check::history::Violation;
use crate::check::raft::{
    At, CommittedImmutable, DurableVote, ElectionSafety, LogEntry, LogMatching, Monotonic, Progress,
    StateMachineEquality,
};
use crate::check::revision_order::LogWrite;
use crate::platform::{Drive, FileClass, SimRuntime, global_now};
use crate::trace::fold_bytes;

/// A node that recovered from any crash must start, and run until it is stopped.
pub const NO_SPONTANEOUS_STOP: &str =
    "a node starts after any crash, and refuses or stops by itself only for a fault of its own disk";
/// What could not be written cannot be believed any more (Rebello et al., "Can Applications Recover from fsync
/// Failures?", ATC 2020).
pub const STOPS_WHEN_DISK_FAILS: &str = "a node whose write or sync failed stops";

#[derive(Default)]
struct Oracles {
    election: ElectionSafety,
    matching: LogMatching,
    immutable: CommittedImmutable,
    monotonic: Monotonic,
    votes: DurableVote,
    equality: StateMachineEquality,
    /// The effective writes, by revision, as the first replica that applied each tells.
    writes: BTreeMap<u64, LogWrite>,
    violation: Option<Violation>,
    seen: Seen,
    nodes: BTreeMap<u32, Replica>,
    /// Indexes of the commands that some replica applied.
    commands: BTreeSet<u64>,
}

/// What a run reached, as far as its witness saw. Lower bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The highest term: elections that somebody started.
    pub terms: u64,
    /// Terms in which somebody led.
    pub leaders: BTreeSet<u64>,
    /// A node has a newer snapshot than before.
    pub snapshots: u64,
    /// A node's state skipped commands that others applied: it was installed from a snapshot.
    pub installed: u64,
    /// A node's log was cut at its beginning.
    pub purges: u64,
    /// A log ended in something that is no valid batch when its node booted.
    pub torn_tails: u64,
    /// A node's log got shorter: a crash or another leader took entries back.
    pub truncations: u64,
    /// Other things that happened, by name.
    pub others: BTreeMap<&'static str, u64>,
}

/// What is known of a replica, over all its processes.
#[derive(Default)]
struct Replica {
    command: u64,
    snapshot: u64,
    purged: u64,
    last_log: u64,
    unconfirmed: Vec<Applied>,
}

/// What a state machine was given and answered.
struct Applied {
    at: LogId,
    command: Bytes,
    response: Bytes,
}

impl Oracles {
    /// A node has applied a command.
    fn applied(&mut self, node: u32, under_load: bool, applied: Applied) -> Result<(), Violation> {
        let Applied { at, command, response } = applied;
        let payload_hash = hash(&[&command, &response]);
        let replica = self.nodes.entry(node).or_default();
        if at.index > replica.command {
            let skipped = replica.command + 1..at.index;
            if self.commands.range(skipped).next().is_some() {
                self.seen.installed += 1;
                *self.seen.others.entry("snapshots installed under load").or_default() += u64::from(under_load);
            }
            replica.command = at.index;
        }
        self.immutable.observe(Witness::at(node), LogEntry { index: at.index, term: at.term, payload_hash })?;
        if !self.commands.insert(at.index) {
            return Ok(());
        }
        if let (Ok(command), Ok(response)) = (Command::decode(&command), Response::decode(&response)) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let write = match (command, response.outcome) {
                (Command::Put { key, document }, Outcome::Put { .. }) => {
                    Some((text(&key), Some(text(&document.bytes()))))
                }
                (Command::Delete { key }, Outcome::Delete { deleted: true }) => Some((text(&key), None)),
                _ => None,
            };
            if let Some((key, value)) = write {
                let revision = response.revision;
                self.writes.entry(revision).or_insert(LogWrite { revision, key, value });
            }
        }
        Ok(())
    }
}

/// Shared by everything that observes a run. Keeps the first violation.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Oracles>>, Working);

/// How many operations of clients are under way.
pub type Working = Arc<AtomicU64>;

/// One hash over several slices.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |hash, part| fold_bytes(hash, part))
}

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Oracles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(node: u32) -> At {
        At { node: u64::from(node), time_ns: global_now() }
    }

    fn note(&self, observe: impl FnOnce(&mut Oracles) -> Result<(), Violation>) {
        let mut oracles = self.lock();
        if let Err(violation) = observe(&mut oracles) {
            oracles.violation.get_or_insert(violation);
        }
    }

    /// To be counted up by clients that begin an operation, and down when it ends.
    pub fn working(&self) -> Working {
        self.1.clone()
    }

    /// Something happened that a sweep should have reached.
    pub fn reached(&self, what: &'static str) {
        *self.lock().seen.others.entry(what).or_default() += 1;
    }

    /// The first violation.
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Reports a violation that was found elsewhere.
    pub fn report(&self, violation: Violation) {
        self.note(|_| Err(violation));
    }

    /// The effective writes so far, by revision.
    pub fn writes(&self) -> Vec<LogWrite> {
        self.lock().writes.values().cloned().collect()
    }

    /// What the run reached.
    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// A node's state machine was given a command. What it answered counts once the node says that it has applied it:
    /// if the state could not be read meanwhile, the store throws the answer away.
    pub fn applied(&self, node: u32, at: LogId, command: &Bytes, response: &Bytes) {
        let applied = Applied { at, command: command.clone(), response: response.clone() };
        let mut oracles = self.lock();
        let unconfirmed = &mut oracles.nodes.entry(node).or_default().unconfirmed;
        // A start that rebuilds its store applies the log once more.
        unconfirmed.retain(|earlier| earlier.at.index < at.index);
        unconfirmed.push(applied);
    }

    /// What a node was given and has not confirmed was thrown away.
    pub fn discard(&self, node: u32) {
        self.lock().nodes.entry(node).or_default().unconfirmed.clear();
    }

    /// A node says that it has applied everything up to an index.
    pub fn confirmed(&self, node: u32, upto: u64) {
        let under_load = self.1.load(Ordering::Relaxed) > 0;
        self.note(|o| {
            let unconfirmed = &mut o.nodes.entry(node).or_default().unconfirmed;
            let (confirmed, rest) = std::mem::take(unconfirmed).into_iter().partition(|a| a.at.index <= upto);
            *unconfirmed = rest;
            let confirmed: Vec<Applied> = confirmed;
            confirmed.into_iter().try_for_each(|applied| o.applied(node, under_load, applied))
        });
    }

    /// A node's metrics changed.
    pub fn progress(&self, node: u32, incarnation: u64, metrics: &openraft::RaftMetrics<Types<SimRuntime>>) {
        let index = |id: &Option<quorate_io::types::raft::LogId>| id.as_ref().map(|id| id.index);
        let progress = Progress {
            term: metrics.current_term,
            commit: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
        };
        // The last vote whose flush has completed, as storage says: others may have been told of it.
        let vote = quorate_io::types::vote_from(&metrics.vote);
        let (snapshot, purged) = (index(&metrics.snapshot), index(&metrics.purged));
        let last_log = metrics.last_log_index.unwrap_or(0);
        self.confirmed(node, progress.applied.unwrap_or(0));
        self.note(|o| {
            let (seen, replica) = (&mut o.seen, o.nodes.entry(node).or_default());
            seen.terms = seen.terms.max(metrics.current_term);
            seen.snapshots += u64::from(snapshot.is_some_and(|index| index > replica.snapshot));
            seen.purges += u64::from(purged.is_some_and(|index| index > replica.purged));
            seen.truncations += u64::from(last_log < replica.last_log);
            replica.snapshot = replica.snapshot.max(snapshot.unwrap_or(0));
            replica.purged = replica.purged.max(purged.unwrap_or(0));
            replica.last_log = last_log;
            if vote.term > 0 {
                o.votes.observe_told(Self::at(node), vote.term);
                if !vote.committed {
                    o.monotonic.observe_vote(Self::at(node), vote.term, vote.node.0)?;
                }
            }
            if metrics.state == ServerState::Leader {
                seen.leaders.insert(metrics.current_term);
                o.election.observe(Self::at(node), metrics.current_term, metrics.id.0)?;
            }
            o.monotonic.observe(Self::at(node), incarnation, progress)
        });
    }

    /// A node's whole log, as its reader returns it.
    pub fn log(&self, node: u32, entries: &[LogEntry]) {
        self.note(|o| o.matching.observe(Self::at(node), entries));
    }

    /// A node's state at its last applied entry.
    pub fn state(&self, node: u32, applied: u64, state_hash: u64) {
        self.note(|o| o.equality.observe(Self::at(node), applied, state_hash));
    }

    /// A node is about to boot from its disk. Returns whether its log ends in something that it has to cut.
    pub fn booting(&self, node: u32, drive: &Drive) -> bool {
        let torn = self.votes(node, drive);
        self.lock().seen.torn_tails += torn;
        // It will apply it again.
        self.discard(node);
        let segments = drive.files().into_iter().rev().filter(|path| FileClass::of(path) == FileClass::Segment);
        let newest = segments.filter_map(|path| {
            let number = quorate_core::log::format::parse_segment_name(path.file_name()?.to_str()?)?;
            Some(scan_segment(number, &drive.content(&path)?.into(), None))
        });
        newest.take(2).find(|facts| facts.base.is_some()).is_some_and(|facts| facts.tail == Tail::Torn)
    }

    /// The votes on a node's medium: what it could have told anybody is among them. One that is only in the cache was
    /// never told, and a power loss may take it before the next process has made it durable. Returns how many segments end in
    /// something that is no valid batch.
    pub fn votes(&self, node: u32, drive: &Drive) -> u64 {
        let mut torn = 0;
        let segments = drive.durable_of(FileClass::Segment).into_iter().filter_map(|(path, bytes)| {
            let name = path.file_name()?.to_str()?;
            Some((quorate_core::log::format::parse_segment_name(name)?, bytes))
        });
        let mut term = None;
        for (number, bytes) in segments {
            let facts = scan_segment(number, &bytes.into(), None);
            torn += u64::from(facts.tail != Tail::Clean);
            let found = facts.batches.iter().flat_map(|batch| &batch.records).filter_map(|record| match record {
                Found::Other(Record::Vote(vote)) => Some(*vote),
                _ => None,
            });
            for vote in facts.base.as_ref().and_then(|base| base.vote).into_iter().chain(found) {
                term = term.max(Some(vote.term));
                self.note(|o| match vote.committed {
                    // Who leads may differ from whom this node voted for.
                    true => o.election.observe(Self::at(node), vote.term, vote.node.0),
                    false => o.monotonic.observe_vote(Self::at(node), vote.term, vote.node.0),
                });
            }
        }
        self.note(|o| o.votes.observe_disk(Self::at(node), term));
        torn
    }
}

/// The key-value machine, observed: what production runs, and a note of what it did.
pub struct ObservedKv {
    /// Whose replica it is.
    pub node: u32,
    /// Who is told.
    pub witness: Witness,
    /// A bug on purpose: applies every seventh command twice.
    pub twice: bool,
}

impl StateMachine for ObservedKv {
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let mut response = Kv.apply(at, command, state);
        if self.twice && at.index.is_multiple_of(7) {
            response = Kv.apply(at, command, state);
        }
        self.witness.applied(self.node, at, command, &response);
        response
    }
}

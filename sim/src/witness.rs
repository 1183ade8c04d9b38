//! What the nodes of a run do, fed to the oracles as it happens.

mod medium;
mod observed;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::ServerState;
use quorate_core::LogId;
use quorate_core::log::recovery::Tail;
use quorate_io::types::Types;

pub use observed::Observed;

use crate::check::history::Violation;
use crate::check::raft::{
    AppliedStays, At, CommittedImmutable, CommittedOnQuorum, DurableVote, Effect, ElectionSafety, LeaderCompleteness,
    LogEntry, LogMatching, MatchStays, Monotonic, Progress, SingleVote, StateMachineEquality,
};
use crate::platform::{Drive, FileClass, SimRuntime, global_now};
use crate::roster::{News, Roster};
use crate::subject::Committed;
use crate::trace::{Event, Trace, fold_bytes};
use medium::Medium;

/// A node that recovered from any crash must start, and run until it is stopped.
pub const NO_SPONTANEOUS_STOP: &str =
    "a node starts after any crash, and refuses or stops by itself only for a fault of its own disk";
/// What could not be written cannot be believed any more (Rebello et al., "Can Applications Recover from fsync
/// Failures?", ATC 2020).
pub const STOPS_WHEN_DISK_FAILS: &str = "a node whose write or sync failed stops";

/// A node that lost what it kept has forgotten its votes and its log (openraft's FAQ on reusing a node id; Raft §5.1): it
/// takes part as somebody else, and only once the others say so.
pub const WIPED_STAYS_OUT: &str = "a node that lost what it kept stays out until a membership names it";

/// Votes and log are promises of an identity (Raft §5.1, §6): two nodes with one, or a node that comes back without its
/// promises, can make a second majority.
pub const ONE_IDENTITY: &str = "a node id is of one node, for ever";

/// How many indexes a recorded progress has: committed, applied, last in the log, snapshot, purged.
pub(crate) const PROGRESS_INDEXES: usize = 5;

#[derive(Default)]
struct Oracles {
    election: ElectionSafety,
    matching: LogMatching,
    matched: MatchStays,
    completeness: LeaderCompleteness,
    immutable: CommittedImmutable,
    on_quorum: CommittedOnQuorum,
    monotonic: Monotonic,
    vote: SingleVote,
    votes: DurableVote,
    equality: StateMachineEquality,
    /// The same, while commands are applied; another hash.
    equality_applying: StateMachineEquality,
    stays: AppliedStays,
    /// The commands that some replica applied, by index, as the first that did tells.
    commands: BTreeMap<u64, Committed>,
    violation: Option<Violation>,
    seen: Seen,
    nodes: BTreeMap<u32, Replica>,
    /// A leader's process has ended, and no follower's election timeout passes before this moment.
    bereaved_until: u64,
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

/// What a state machine was given, answered and changed.
#[derive(Debug)]
pub struct Applied {
    /// Where in the log.
    pub at: LogId,
    /// What it was given.
    pub command: Bytes,
    /// What it answered.
    pub response: Bytes,
    /// A hash of what it changed.
    pub changes_hash: u64,
    /// A hash of the state after it, if that was taken.
    pub state_hash: Option<u64>,
}

impl Oracles {
    /// A node, which is in `term`, has applied a command.
    fn applied(
        &mut self,
        (node, at): (u32, At),
        term: u64,
        under_load: bool,
        applied: Applied,
    ) -> Result<(), Violation> {
        let Applied { at: id, command, response, changes_hash, state_hash } = applied;
        let index = id.index;
        let replica = self.nodes.entry(node).or_default();
        if index > replica.command {
            let skipped = replica.command + 1..index;
            if self.commands.range(skipped).next().is_some() {
                self.seen.installed += 1;
                *self.seen.others.entry("snapshots installed under load").or_default() += u64::from(under_load);
            }
            replica.command = index;
        }
        let (command_hash, response_hash) = (hash(&[&command]), hash(&[&response]));
        self.immutable.observe(at, LogEntry { index, term: id.term, payload_hash: command_hash })?;
        self.equality.observe_effect(at, index, Effect { response_hash, changes_hash })?;
        if let Some(hash) = state_hash {
            self.equality_applying.observe(at, index, hash)?;
        }
        self.completeness.observe_committed(at, term, (index, id.term));
        self.on_quorum.observe_committed(at, index, id.term);
        self.stays.observe_applied(at, index);
        self.commands.entry(index).or_insert(Committed { at: id, command, response });
        Ok(())
    }
}

/// Shared by everything that observes a run. Keeps the first violation.
#[derive(Clone)]
pub struct Witness {
    oracles: Arc<Mutex<Oracles>>,
    working: Working,
    roster: Roster,
    trace: Trace,
}

/// How many operations of clients are under way.
pub type Working = Arc<AtomicU64>;

/// One hash over several slices.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |hash, part| fold_bytes(hash, part))
}

impl Witness {
    /// Of a cluster whose nodes are on this roster; one that also tells a trace.
    pub fn new(roster: Roster, trace: Trace) -> Self {
        Self { oracles: Arc::default(), working: Working::default(), roster, trace }
    }

    fn lock(&self) -> MutexGuard<'_, Oracles> {
        self.oracles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes go by their lives: one that lost what it kept is somebody else.
    fn at(&self, node: u32) -> At {
        At { node: self.roster.life(node), time_ns: global_now() }
    }

    fn note(&self, observe: impl FnOnce(&mut Oracles) -> Result<(), Violation>) {
        let mut oracles = self.lock();
        let Err(violation) = observe(&mut oracles) else { return };
        if oracles.violation.is_none() {
            let (at, subject, payload) = (global_now(), violation.property, violation.explanation.as_bytes());
            self.trace.event(Event { at, node: 0, kind: "violation found", subject, numbers: [0, 0], payload });
            oracles.violation = Some(violation);
        }
    }

    /// To be counted up by clients that begin an operation, and down when it ends.
    pub fn working(&self) -> Working {
        self.working.clone()
    }

    /// Something happened that a sweep should have reached.
    pub fn reached(&self, what: &'static str) {
        *self.lock().seen.others.entry(what).or_default() += 1;
    }

    /// The leader's process is about to end; who only waits campaigns later than so long after.
    pub fn leader_ends(&self, election_timeout_ns: u64) {
        self.lock().bereaved_until = global_now() + election_timeout_ns;
    }

    /// The first violation.
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Reports a violation that was found elsewhere.
    pub fn report(&self, violation: Violation) {
        self.note(|_| Err(violation));
    }

    /// The commands that were applied so far, in the order of the log.
    pub fn commands(&self) -> Vec<Committed> {
        self.lock().commands.values().cloned().collect()
    }

    /// What the run reached.
    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// A node's state machine was given a command. What it answered counts once the node says that it has applied it:
    /// if the state could not be read meanwhile, the store throws the answer away.
    pub fn applied(&self, node: u32, applied: Applied) {
        if self.trace.is_recording() {
            let Applied { at, command, response, .. } = &applied;
            let (kind, subject, numbers) = ("raft apply", text::applied(command, response), [at.term, at.index]);
            let subject = subject.as_str();
            self.trace.detail(Event { at: global_now(), node, kind, subject, numbers, payload: &[] });
        }
        let mut oracles = self.lock();
        let unconfirmed = &mut oracles.nodes.entry(node).or_default().unconfirmed;
        // A start that rebuilds its store applies the log once more.
        unconfirmed.retain(|earlier| earlier.at.index < applied.at.index);
        unconfirmed.push(applied);
    }

    /// What a node was given and has not confirmed was thrown away.
    pub fn discard(&self, node: u32) {
        self.lock().nodes.entry(node).or_default().unconfirmed.clear();
    }

    /// A node says, in this term, that it has applied everything up to an index.
    pub fn confirmed(&self, node: u32, term: u64, upto: u64) {
        let (at, under_load) = (self.at(node), self.working.load(Ordering::Relaxed) > 0);
        self.note(|o| {
            let unconfirmed = &mut o.nodes.entry(node).or_default().unconfirmed;
            // In order of their index.
            if unconfirmed.first().is_none_or(|first| first.at.index > upto) {
                return Ok(());
            }
            let (confirmed, rest) = std::mem::take(unconfirmed).into_iter().partition(|a| a.at.index <= upto);
            *unconfirmed = rest;
            let confirmed: Vec<Applied> = confirmed;
            confirmed.into_iter().try_for_each(|applied| o.applied((node, at), term, under_load, applied))
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
        self.detail_progress(
            node,
            metrics,
            [progress.commit, progress.applied, metrics.last_log_index, snapshot, purged],
        );
        self.members(node, metrics);
        self.confirmed(node, progress.term, progress.applied.unwrap_or(0));
        let at = self.at(node);
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
                o.votes.observe_told(at, vote.term);
                if !vote.committed {
                    o.vote.observe(at, vote.term, vote.node.0)?;
                }
            }
            if metrics.state == ServerState::Leader {
                if seen.leaders.insert(metrics.current_term) && at.time_ns < std::mem::take(&mut o.bereaved_until) {
                    *seen.others.entry("leaders that were missed at once").or_default() += 1;
                }
                o.election.observe(at, metrics.current_term, metrics.id.0)?;
                let matched = metrics.replication.iter().flatten();
                for (id, last) in matched.filter_map(|(id, last)| Some((id, last.as_ref()?))) {
                    o.matched.observe_matched(at, metrics.current_term, id.0, last.index);
                }
            }
            // A store that was built anew from a snapshot of a newer term than its node knows of is of that term.
            let of_snapshot = metrics.snapshot.as_ref().map_or(0, |id| id.committed_leader_id().term);
            let term = metrics.current_term.max(of_snapshot);
            o.matched.observe_log(at, metrics.id.0, term, metrics.last_log_index)?;
            o.monotonic.observe(at, incarnation, progress)
        });
    }

    /// What a node's metrics say about who it is and who votes.
    fn members(&self, node: u32, metrics: &openraft::RaftMetrics<Types<SimRuntime>>) {
        let is_new = self.roster.life(node) != u64::from(node);
        if is_new && (metrics.current_term > 0 || metrics.last_log_index.is_some()) && !self.roster.names(metrics.id.0)
        {
            let (term, last) = (metrics.current_term, metrics.last_log_index);
            let what = format!("n{node} is in term {term}, its log ends at {last:?}, and no membership names it");
            self.report(Violation::new(WIPED_STAYS_OUT, what, vec![]));
        }
        let News { config, committed } = self.roster.observe(node, metrics);
        if config.is_none() && committed.is_none() {
            return;
        }
        self.note(|o| {
            let others = &mut o.seen.others;
            if let Some((index, voters)) = config {
                *others.entry("configurations").or_default() += 1;
                *others.entry("joint configurations").or_default() += u64::from(voters.len() > 1);
                o.on_quorum.observe_voters(index, voters);
            }
            committed.into_iter().for_each(|index| o.on_quorum.observe_committed_voters(index));
            Ok(())
        });
    }

    /// A machine begins another life, with nothing.
    pub fn begin_life(&self, node: u32) {
        self.roster.begin_life(node);
        self.lock().nodes.remove(&node);
    }

    /// A node has this id.
    pub fn is_called(&self, node: u32, id: u64) {
        if let Err(what) = self.roster.is_called(node, id) {
            self.report(Violation::new(ONE_IDENTITY, what, vec![]));
        }
    }

    /// For a recording: the role, the term, who the node is and whom it follows, and its log in numbers.
    fn detail_progress(
        &self,
        node: u32,
        metrics: &openraft::RaftMetrics<Types<SimRuntime>>,
        indexes: [Option<u64>; PROGRESS_INDEXES],
    ) {
        if !self.trace.is_recording() {
            return;
        }
        let subject = match metrics.state {
            ServerState::Leader => "leader",
            ServerState::Candidate => "candidate",
            ServerState::Follower => "follower",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "shutdown",
        };
        let leader = metrics.current_leader.map_or(0, |id| id.0);
        let numbers = indexes.iter().map(|index| index.unwrap_or(u64::MAX)).chain([leader]);
        let payload: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        let (at, numbers) = (global_now(), [metrics.current_term, metrics.id.0]);
        self.trace.detail(Event { at, node, kind: "raft progress", subject, numbers, payload: &payload });
    }

    /// A node's whole log, as its reader returns it.
    pub fn log(&self, node: u32, entries: &[LogEntry]) {
        self.note(|o| o.matching.observe(self.at(node), entries));
    }

    /// The log of a node that leads `term`, or did: what it has purged, and what it has.
    pub fn leader(&self, node: u32, term: u64, purged: Option<u64>, entries: &[LogEntry]) {
        let log = entries.iter().map(|entry| (entry.index, entry.term));
        self.note(|o| {
            o.matching.observe(self.at(node), entries)?;
            o.completeness.observe_leader(self.at(node), term, purged, log)
        });
    }

    /// A node's state at its last applied entry.
    pub fn state(&self, node: u32, applied: u64, state_hash: u64) {
        self.note(|o| o.equality.observe(self.at(node), applied, state_hash));
    }

    /// The cluster has come to rest, and a node has applied everything up to an index.
    pub fn at_rest(&self, node: u32, applied: Option<u64>) {
        self.note(|o| o.stays.observe_rest(self.at(node), applied));
    }

    /// A node is about to boot from its disk. Returns whether its log ends in something that it has to cut.
    pub fn booting(&self, node: u32, drive: &Drive) -> bool {
        let torn = self.medium(node, drive);
        self.lock().seen.torn_tails += torn;
        // It will apply it again.
        self.discard(node);
        let segments = drive.files().into_iter().rev().filter(|path| FileClass::of(path) == FileClass::Segment);
        let newest = segments.filter_map(|path| medium::scan(&path, drive.content(&path)?));
        newest.take(2).find(|(_, facts)| facts.base.is_some()).is_some_and(|(_, facts)| facts.tail == Tail::Torn)
    }

    /// A node has started, and this is the term that its log says it was in, or a newer one.
    pub fn started(&self, node: u32, term: Option<u64>) {
        self.note(|o| o.votes.observe_start(self.at(node), term));
    }

    /// What is on a node's medium: the votes that it could have told anybody are among it, and the entries that it could
    /// have acknowledged. What is only in the cache was never told, and a power loss may take it before the next process
    /// has made it durable. Returns how many segments end in something that is no valid batch.
    pub fn medium(&self, node: u32, drive: &Drive) -> u64 {
        let medium = Medium::read(drive);
        let at = self.at(node);
        for vote in &medium.votes {
            self.note(|o| match vote.committed {
                // Who leads may differ from whom this node voted for.
                true => o.election.observe(at, vote.term, vote.node.0),
                false => o.vote.observe(at, vote.term, vote.node.0),
            });
        }
        let term = medium.votes.iter().map(|vote| vote.term).max();
        self.note(|o| o.votes.observe_disk(at, term));
        if let Some(id) = medium.identity {
            self.is_called(node, id);
            self.note(|o| o.on_quorum.observe_medium(id, medium.purged, &medium.entries));
        }
        medium.torn
    }
}

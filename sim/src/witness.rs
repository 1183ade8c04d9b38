//! What the nodes of a run do, fed to the oracles as it happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::ServerState;
use quorate_core::kv::{Command, Kv, Outcome, Response};
use quorate_core::log::record::Record;
use quorate_core::log::recovery::{Found, scan_segment};
use quorate_core::{LogId, StateMachine, StateMut};
use quorate_io::types::Types;

use crate::check::history::Violation;
use crate::check::raft::{
    At, CommittedImmutable, DurableVote, ElectionSafety, LogEntry, LogMatching, Monotonic, Progress, StateMachineEquality,
};
use crate::check::revision_order::LogWrite;
use crate::platform::{Drive, SimRuntime, global_now};

/// A node that recovered from any crash must start, and run until it is stopped.
pub const NO_SPONTANEOUS_STOP: &str = "a node starts after any crash, and stops by itself only when its disk fails";

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
    terms_led: u64,
    snapshots_installed: u64,
}

/// Shared by everything that observes a run. Keeps the first violation.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Oracles>>);

/// FNV-1a over several slices.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
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

    /// In how many terms somebody led, and how many snapshots were installed.
    pub fn counts(&self) -> (u64, u64) {
        let oracles = self.lock();
        (oracles.terms_led, oracles.snapshots_installed)
    }

    /// A node applied a command.
    pub fn applied(&self, node: u32, at: LogId, command: &Bytes, response: &Bytes) {
        let payload_hash = hash(&[command, response]);
        self.note(|o| {
            o.immutable.observe(Self::at(node), LogEntry { index: at.index, term: at.term, payload_hash })?;
            if let (Ok(command), Ok(response)) = (Command::decode(command), Response::decode(response)) {
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
                    o.writes.entry(revision).or_insert(LogWrite { revision, key, value });
                }
            }
            Ok(())
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
        self.note(|o| {
            if vote.term > 0 {
                o.votes.observe_told(Self::at(node), vote.term);
                if !vote.committed {
                    o.monotonic.observe_vote(Self::at(node), vote.term, vote.node.0)?;
                }
            }
            if metrics.state == ServerState::Leader {
                o.election.observe(Self::at(node), metrics.current_term, metrics.id.0)?;
                o.terms_led = o.terms_led.max(metrics.current_term);
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

    /// A snapshot was installed somewhere.
    pub fn installed(&self) {
        self.lock().snapshots_installed += 1;
    }

    /// The votes on the disk of a node that is down or idle: what it has told anybody is among them.
    pub fn votes(&self, node: u32, drive: &Drive) {
        let segments = drive.files().into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some((quorate_core::log::format::parse_segment_name(name)?, drive.content(&path)?))
        });
        let mut term = None;
        for (number, bytes) in segments {
            let facts = scan_segment(number, &bytes.into(), None);
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
    }
}

/// The key-value machine, observed: what production runs, and a note of what it did.
pub struct ObservedKv {
    /// Whose replica it is.
    pub node: u32,
    /// Who is told.
    pub witness: Witness,
}

impl StateMachine for ObservedKv {
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let response = Kv.apply(at, command, state);
        self.witness.applied(self.node, at, command, &response);
        response
    }
}

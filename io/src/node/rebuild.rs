//! A store that is damaged, or behind its log: it is built anew before consensus starts, under the same identity.
//!
//! ```text
//!   damage found by a read ──► marker in the store's directory ──► the node stops, exit code 6 ──► next start ─┐
//!   damage found by opening the store, or a store behind the purged part of the log ───────────────────────────┤
//!                                                                                                              ▼
//!             the log has all: an empty store                the log goes on from a snapshot, at P, or was
//!                                  │                         behind it: a peer's snapshot at or above P
//!                                  └───────────────────┬──────────────────────────┘
//!                                        the usual start: replay of the log
//! ```
//!
//! Why this is safe. The vote and the log are not touched, so this node breaks no promise: neither a vote nor an entry
//! that it acknowledged. A snapshot has committed entries only, so where the log has another entry than the snapshot
//! at the snapshot's id, that entry and those behind it were never committed; where the log ends before it, all it has
//! is in the snapshot. Those are the cases in which opening the log resets it to the snapshot, as after any other
//! snapshot. In all others the log keeps every entry above the snapshot. What an empty store replays is all that this
//! node ever acknowledged: a snapshot is acknowledged only once the log has a record of it.
//!
//! Until it is done the node has no server and no consensus: it votes for nobody, serves nothing, and does not hear of
//! peers that move meanwhile. If all of them do, it has to be started again with the new addresses (`--join`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingRecord;
use quorate_core::snapshot::{Manifest, Trailer};
use quorate_core::wire::{Failure, Fault, PulledPart};
use quorate_core::{ClusterId, LogId, Membership, NodeId};

use super::admission::Records;
use super::force;
use super::{Node, NodeConfig, StartError, StopError};
use crate::jobs::Jobs;
use crate::log_store::{self, Peeked};
use crate::platform::Platform;
use crate::snapshot::{EncodedPart, Received, SnapshotParts, SnapshotReceiver};
use crate::store::StoreError;
use crate::store::redb::{self, Building, Home};
use crate::transport::{Identity, LocalIdentity, PeerIdentity, Peers, PullStream, Target};

/// Between two rounds of asking all peers.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What a rebuild needs to know.
pub(super) struct Rebuild<'a, P: Platform> {
    pub(super) platform: &'a P,
    pub(super) config: &'a NodeConfig,
    /// The data directory.
    pub(super) dir: &'a Path,
    pub(super) home: &'a Home<P::Disk>,
    pub(super) records: &'a Records,
}

impl<P: Platform> Rebuild<'_, P> {
    /// Puts a new store into the place of a damaged one. Waits for a peer that has the state for as long as it takes.
    pub(super) async fn run(&self, readers: &Jobs<P::Disk>, damage: StoreError) -> Result<(), StartError> {
        let Some(log) = log_store::peek(readers, self.dir).await? else {
            // A store without a log is no node's state.
            return Err(damage.into());
        };
        let home = self.home.clone();
        let generation = self.home.jobs.run(move |disk| redb::next_generation(disk, &home)).await;
        let generation = generation.map_err(StoreError::from).flatten()?;
        tracing::warn!(%damage, "the state is lost and is built anew; the log is whole");
        match log.snapshot {
            None => self.empty(generation).await?,
            Some(snapshot) => {
                let sources = self.sources(&log);
                if sources.is_empty() {
                    let (dir, damage) = (self.dir.to_owned(), Box::new(damage));
                    return Err(StartError::StateLost { dir, damage, snapshot });
                }
                self.pull_from(&sources, &log, snapshot, generation).await?;
            }
        }
        tracing::info!(generation, "the store is built anew");
        Ok(())
    }

    /// The log has everything from the first entry on.
    async fn empty(&self, generation: u64) -> Result<(), StoreError> {
        let home = self.home.clone();
        let made = self.home.jobs.run(move |disk| {
            redb::remove_others(disk, &home, generation)?;
            let built = Building::begin(disk, &home, generation)?.finish(&Manifest::default())?;
            built.install(disk, &home).map(drop)
        });
        made.await.map_err(StoreError::from).flatten()
    }

    /// Whoever may have the state: the members of the newest known configuration, of the founding record, and the
    /// addresses of the founding list, in this order. Nobody, if this node goes on alone.
    fn sources(&self, log: &Peeked) -> Vec<Target> {
        if force::is_alone(self.config, self.records) {
            return Vec::new();
        }
        let own = log.identity.node_id;
        let founders = self.records.founding.as_ref().map(FoundingRecord::membership);
        let members = log.membership.iter().chain(&founders).flat_map(members).filter(|(id, _)| *id != own);
        let known = members.map(|(id, addrs)| Target { node: Some(id), addrs });
        let mut seen = BTreeSet::new();
        let told = self.config.listed_peers().chain(self.config.told_peers());
        known
            .chain(told.map(|addrs| Target { node: None, addrs }))
            // One address may be that of a founder, and of whoever has come in its place.
            .filter(|target| !target.addrs.is_empty() && seen.insert((target.node, target.addrs.clone())))
            .collect()
    }

    async fn pull_from(
        &self,
        sources: &[Target],
        log: &Peeked,
        at_least: LogId,
        generation: u64,
    ) -> Result<(), StartError> {
        let identity = Identity::new(LocalIdentity {
            cluster_id: self.records.cluster(),
            node_id: log.identity.node_id,
            // What it will be when the log is opened: peers refuse an older one than they have seen.
            boot_epoch: log.boot_epoch + 1,
            name: self.config.name.clone(),
            membership: self.records.admission.map(|admission| admission.at),
        });
        let peers = Peers::new(self.platform.clone(), identity, self.config.transport.clone());
        loop {
            for source in sources {
                match self.pull(&peers, source, at_least, generation).await {
                    Ok(()) => {
                        peers.shutdown();
                        return Ok(());
                    }
                    Err(PullError::Disk(error)) if !error.is_full() => return Err(error.into()),
                    Err(error) => tracing::warn!(from = ?source.addrs, %error, "no snapshot to rebuild from, yet"),
                }
            }
            P::Runtime::sleep(ASK_EVERY).await;
        }
    }

    async fn pull(&self, peers: &Peers<P>, source: &Target, at_least: LogId, generation: u64) -> Result<(), PullError> {
        let config = peers.config();
        let dial = Duration::from_millis(config.connect_ms + config.handshake_ms);
        let mut stream = peers.open_pull_stream(source, at_least, dial).await.map_err(peer)?;
        let PulledPart::Begin(manifest) = part(&mut stream).await? else { return Err(peer("it sent no manifest")) };
        let manifest = Manifest::decode(&manifest).map_err(peer)?;
        if manifest.applied < Some(at_least) {
            return Err(peer("its snapshot is older than the one that this node had"));
        }
        // Only now: as long as nobody has the state, all that is left of it stays.
        let home = self.home.clone();
        let removed = home.jobs.clone().run(move |disk| redb::remove_others(disk, &home, generation)).await;
        removed.map_err(StoreError::from).flatten()?;
        let mut receiver = SnapshotReceiver::<P>::into_file(self.home.clone(), generation, manifest);
        let trailer = loop {
            match part(&mut stream).await? {
                PulledPart::Chunk(chunk) => receiver.take(chunk).await?,
                PulledPart::End(trailer) => break Trailer::decode(&trailer).map_err(peer)?,
                PulledPart::Begin(_) | PulledPart::Failed(_) => return Err(peer("a snapshot that begins twice")),
            }
        };
        let Received::File(built) = receiver.complete(trailer).await? else {
            return Err(StoreError::Stopped.into());
        };
        let home = self.home.clone();
        let installed = home.jobs.clone().run(move |disk| built.install(disk, &home).map(drop)).await;
        Ok(installed.map_err(StoreError::from).flatten()?)
    }
}

fn members(membership: &Membership) -> impl Iterator<Item = (NodeId, Vec<String>)> {
    membership.members.iter().map(|(id, member)| (*id, member.peer_addrs.clone()))
}

/// Why a pull did not succeed.
#[derive(Debug, thiserror::Error)]
enum PullError {
    /// Another peer, or the same one later, may do better.
    #[error("{0}")]
    Peer(String),
    #[error(transparent)]
    Disk(StoreError),
}

fn peer(why: impl ToString) -> PullError {
    PullError::Peer(why.to_string())
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Snapshot(error) => peer(error),
            error => Self::Disk(error),
        }
    }
}

async fn part<R: AsyncRuntime>(stream: &mut PullStream<R>) -> Result<PulledPart, PullError> {
    match stream.next().await {
        Ok(PulledPart::Failed(failure)) => Err(peer(failure)),
        Ok(part) => Ok(part),
        Err(error) => Err(peer(error)),
    }
}

/// The next part to send; `None` after the last.
fn next_pulled(parts: &mut SnapshotParts) -> Option<PulledPart> {
    Some(match parts.next() {
        Ok(part) => match part? {
            EncodedPart::Manifest(manifest) => PulledPart::Begin(manifest),
            EncodedPart::Chunk(chunk) => PulledPart::Chunk(chunk),
            EncodedPart::Trailer(trailer) => PulledPart::End(trailer),
        },
        Err(error) => PulledPart::Failed(Failure::not_applied(Fault::Storage(error.to_string()))),
    })
}

impl<P: Platform> Node<P> {
    /// Sends this node's durable state to a member whose own is lost.
    pub(super) fn serve_pull(&self, from: &PeerIdentity, at_least: LogId) -> BoxStream<'static, PulledPart> {
        let (node, from) = (self.clone(), from.clone());
        let parts = async move {
            match node.pulled(&from, at_least).await {
                Ok(parts) => {
                    stream::unfold(parts, |mut parts| async move { Some((next_pulled(&mut parts)?, parts)) }).boxed()
                }
                Err(failure) => stream::iter([PulledPart::Failed(failure)]).boxed(),
            }
        };
        stream::once(parts).flatten().boxed()
    }

    async fn pulled(&self, from: &PeerIdentity, at_least: LogId) -> Result<SnapshotParts, Failure> {
        let not_ready = |why: &str| Failure::not_applied(Fault::NotReady(why.to_owned()));
        let cluster = self.inner.identity.cluster();
        if cluster == ClusterId::NONE || from.cluster_id != cluster {
            return Err(not_ready("not members of the same cluster"));
        }
        let state = self.inner.store.durable_state();
        if state.0.applied < Some(at_least) {
            // It is asked again.
            let _ = self.inner.raft.trigger().snapshot().await;
            return Err(not_ready("there is no snapshot that new"));
        }
        tracing::info!(to = %from.node_id, "sending a snapshot to a node that has lost its state");
        Ok(SnapshotParts::new(state))
    }

    /// Stops the node when its store fails, also if only a reader has noticed.
    pub(super) async fn watch_store(&self) {
        let error = self.inner.store.failed().await;
        self.inner.store.mark_damaged().await;
        self.fail(StopError::from(&error));
        // It neither leads nor votes from here on.
        let _ = self.inner.raft.shutdown().await;
    }
}

//! What a node does in the background. Every task ends when the node shuts down.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use prost::Message;
use quorate_core::NodeId;
use quorate_core::founding::Card;
use quorate_core::wire::{Request, Response};

use super::{Inner, Node, StopError, Storage};
use crate::jobs::lock;
use crate::log_store::LogStore;
use crate::platform::Platform;
use crate::state_machine::StateMachineStore;
use crate::transport::{CallError, Target};

/// How often peers are pinged, so that `/cluster/nodes` knows on every node who can be reached.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How often entries are let go of.
const PURGE_EVERY: Duration = Duration::from_millis(100);
/// A disk that has not written an entry after so many looks, a second apart, hangs.
const HANGS_AFTER: u32 = 3;

impl<P: Platform> Node<P> {
    /// Starts them.
    pub(super) fn start_tasks(&self, quiet: Option<Duration>) {
        let node = self.clone();
        self.spawn(async move { node.watch_consensus().await });
        let node = self.clone();
        self.spawn(async move { node.relieve_pressure().await });
        let node = self.clone();
        self.spawn(async move { node.ping_peers().await });
        let node = self.clone();
        self.spawn(async move { node.purge_log().await });
        let node = self.clone();
        self.spawn(async move { node.bound_log().await });
        let node = self.clone();
        self.spawn(async move { node.watch_members().await });
        let node = self.clone();
        self.spawn(async move { node.tend_members().await });
        let node = self.clone();
        self.spawn(async move { node.campaign_or_not(quiet).await });
        let node = self.clone();
        self.spawn(async move { node.watch_hanging_disk().await });
        if self.inner.reserve.is_some() {
            let node = self.clone();
            self.spawn(async move { node.watch_full_disk().await });
        }
    }

    /// Runs a task until it ends or the node shuts down.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut shutdown = self.shutdown_watch();
        drop(P::Runtime::spawn(async move {
            let _ = P::Runtime::select2(shutdown.wait_until(|stop| *stop), task).await;
        }));
    }

    /// Consensus stops for good at the first storage error; the node with it.
    async fn watch_consensus(&self) {
        // These metrics end when consensus does, and change with the leader only.
        let mut server = self.inner.raft.server_metrics();
        while server.changed().await.is_ok() {}
        let state = self.inner.raft.metrics().borrow_watched().running_state.clone();
        if !self.is_stopping() {
            let Inner { config, log, store, .. } = &*self.inner;
            let error = state.err().map_or_else(|| "it panicked".to_owned(), |error| error.to_string());
            self.fail(why_ended(&config.storage, log, store, &error));
        }
    }

    /// Makes a snapshot when too much is applied but not in the durable state.
    async fn relieve_pressure(&self) {
        let mut pressure = self.inner.store.pressure();
        while pressure.wait_until(|high| *high).await.is_ok() {
            if self.inner.raft.trigger().snapshot().await.is_err() {
                return;
            }
            let relieved = pressure.wait_until(|high| !*high);
            let _ = P::Runtime::timeout(PING_EVERY, relieved).await;
        }
    }

    /// Lets go of entries that are in a snapshot, but for some that followers may lack, and for all that come after a
    /// snapshot that is being sent: whoever gets it would need another one at once.
    async fn purge_log(&self) {
        let keep = self.inner.config.compaction.keep_entries;
        let mut purged = None;
        loop {
            P::Runtime::sleep(PURGE_EVERY).await;
            let raft = &self.inner.raft;
            let snapshot = raft.metrics().borrow_watched().snapshot.as_ref().map(|id| id.index);
            let upto = snapshot.and_then(|index| index.checked_sub(keep));
            let upto = match self.inner.sending.first_needed() {
                None => upto,
                Some(first) => upto.min(first.checked_sub(1)),
            };
            if upto > purged
                && let Some(upto) = upto
            {
                purged = Some(upto);
                if raft.trigger().purge_log(upto).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Snapshots and purges by bytes, whoever needs what: the others count entries only, and they may be large.
    async fn bound_log(&self) {
        let bytes_max = self.inner.config.compaction.log_bytes_max;
        loop {
            P::Runtime::sleep(PING_EVERY).await;
            let Some(upto) = self.inner.log.excess(bytes_max) else { continue };
            let raft = &self.inner.raft;
            let snapshot = raft.metrics().borrow_watched().snapshot.as_ref().map(|id| id.index);
            let done = match snapshot {
                // Half of it, so that this is not to be done again at once.
                Some(index) if index >= upto => {
                    let upto = self.inner.log.excess(bytes_max / 2).unwrap_or(upto).min(index);
                    raft.trigger().purge_log(upto).await
                }
                _ => raft.trigger().snapshot().await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// A leader needs no disk to send heartbeats, nor to commit what the others write: one whose disk hangs would lead
    /// for ever, and take no more writes once too many wait for it.
    async fn watch_hanging_disk(&self) {
        let (mut first, mut looks) = (None, 0);
        loop {
            P::Runtime::sleep(PING_EVERY).await;
            let before = std::mem::replace(&mut first, self.inner.log.first_unflushed());
            looks = if first.is_some() && first == before { looks + 1 } else { 0 };
            if looks >= HANGS_AFTER && !self.is_stopping() {
                tracing::warn!(seconds = looks, "the disk hangs: an entry waits to be written");
                self.step_aside().await;
            }
        }
    }

    async fn ping_peers(&self) {
        loop {
            let peers: Vec<(NodeId, Target)> = {
                let metrics = self.inner.raft.server_metrics();
                let metrics = metrics.borrow_watched();
                let others = metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id);
                others.map(|(id, m)| (*id, Target { node: Some(*id), addrs: m.peer_addrs.clone() })).collect()
            };
            // A card is what any node shows anybody. It says where this node is now.
            let ping = Request::Founding(self.own_card());
            let pings = peers.iter().map(|(_, target)| self.inner.peers.call(target, &ping, PING_EVERY));
            let answers = join_all(pings).await;
            if answers.iter().any(|answer| answer.as_ref().is_err_and(CallError::is_removal)) {
                return self.leave().await;
            }
            {
                let mut seen = lock(&self.inner.seen);
                seen.retain(|id, _| peers.iter().any(|(peer, _)| peer == id));
                for ((id, _), answer) in peers.iter().zip(answers) {
                    let peer = seen.entry(*id).or_default();
                    if std::mem::replace(&mut peer.reachable, answer.is_ok()) != answer.is_ok() {
                        tracing::info!(peer = %id, reachable = answer.is_ok(), "peer");
                    }
                    let refusal = answer.as_ref().err().and_then(CallError::refusal);
                    if refusal.is_some() && peer.refusal.as_ref() != refusal {
                        tracing::warn!(peer = %id, refusal = refusal.map(tracing::field::display), "a peer does not talk to this node");
                    }
                    peer.refusal = refusal.cloned();
                    if let Ok(Response::Founding(bytes)) = answer
                        && let Ok(card) = Card::decode(bytes)
                    {
                        peer.api_addrs = card.api_addrs;
                        peer.disk_full = card.disk_full;
                    }
                }
            }
            P::Runtime::sleep(PING_EVERY).await;
        }
    }
}

/// Why consensus has ended on this log and store. The storage's own words are plainer than openraft's.
pub(super) fn why_ended<P: Platform>(
    storage: &Storage,
    log: &LogStore<P>,
    store: &StateMachineStore<P>,
    raft: &str,
) -> StopError {
    if let Some(error) = log.failure() {
        let dir = storage.dir().map(Path::to_owned).unwrap_or_default();
        return match error.kind() {
            io::ErrorKind::InvalidData => StopError::LogDamaged { dir, what: error.to_string() },
            _ => StopError::Storage(error.to_string()),
        };
    }
    match store.fault() {
        Some(error) => StopError::from(&error),
        None => StopError::Raft(raft.to_owned()),
    }
}

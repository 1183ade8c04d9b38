//! A node: the library's front door.
//!
//! ```text
//!   write / read ──► leader? ──yes──► openraft ──► log store ──► disk worker
//!        ▲             │ no             │  ▲
//!        │             ▼                ▼  │
//!        │          transport ◄──► peers' nodes
//!        └── response ◄── state machine store ◄── committed entries
//! ```
//!
//! [`Node::start`] opens the data directory, recovers, and returns; whether a leader is known yet is what
//! [`Node::health`] and [`Node::leadership`] say. A node never exits or aborts its process: what goes wrong later is
//! the value of [`Node::stopped`].

mod admission;
mod backup;
mod config;
mod error;
mod force;
mod founding;
mod full;
mod leader_loss;
mod members;
mod rebuild;
mod requests;
mod service;
mod start;
mod status;
mod tasks;
mod together;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::type_config::alias::{InstantOf, WatchReceiverOf, WatchSenderOf};
use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;
use quorate_core::founding::Card;
use quorate_core::wire::Refusal;
use quorate_core::{LogId, NodeId, StateMachine};

pub use backup::{RestoreError, Restored, restore};
pub use config::{InitialState, NodeConfig, Storage};
pub use error::{StartError, StopError, exit_code};
#[doc(hidden)]
pub use founding::read_record;
pub use members::{MemberError, NewMember};
pub use status::{ClusterStatus, Health, Leadership, LeadershipWatch};

use members::Origin;
use requests::Attempt;
use together::Together;

use crate::error::{Reason, WriteError};
use crate::jobs::{Jobs, lock};
use crate::log_store::LogStore;
use crate::platform::Platform;
use crate::raft_network::Sending;
use crate::reserve::Reserve;
use crate::state_machine::StateMachineStore;
use crate::transport::{Identity, Peers, Server};
use crate::types::Types;

/// openraft's handle over our types.
pub type Raft<P> = openraft::Raft<Types<<P as Platform>::Runtime>, StateMachineStore<P>>;

/// Longest wait for requests under way when a node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest wait for another node to take leadership over when a leader stops.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How stopping ended, once it has.
type Finished = Option<Result<(), StopError>>;

/// What a node's tasks share.
pub(crate) struct Inner<P: Platform> {
    config: NodeConfig,
    platform: P,
    identity: Identity,
    raft: Raft<P>,
    log: LogStore<P>,
    store: StateMachineStore<P>,
    /// Space for what must be written on a full disk; none in memory mode.
    reserve: Option<Reserve<P::Disk>>,
    /// Writes the small files of the data directory; none in memory mode.
    jobs: Option<Jobs<P::Disk>>,
    peers: Peers<P>,
    sending: Sending,
    server: Mutex<Option<Server>>,
    /// What this node shows to others that have no cluster.
    card: Mutex<Card>,
    /// What the last ping of each peer told.
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    /// Whether it is blank, founds nothing, and has not been admitted to a cluster yet.
    waits: AtomicBool,
    /// For whom the membership is being changed at this leader.
    changing: Mutex<Option<Origin>>,
    /// Reads that wait to hear from where they may read, at this node and at the one that leads.
    reads_here: Together<Attempt<LogId>>,
    reads_there: Together<Attempt<LogId>>,
    in_flight: AtomicUsize,
    in_flight_bytes: AtomicUsize,
    /// When a leader was last heard of.
    led_at: Mutex<InstantOf<Types<P::Runtime>>>,
    stopping: AtomicBool,
    /// The first failure; the node has then stopped.
    failure: Mutex<WatchSenderOf<Types<P::Runtime>, Option<StopError>>>,
    /// How stopping ended, once it has.
    finished: Mutex<WatchSenderOf<Types<P::Runtime>, Finished>>,
    /// Turns `true` when the background tasks should end.
    shutdown: Mutex<WatchSenderOf<Types<P::Runtime>, bool>>,
    /// Held as long as the node uses the directory.
    lock: Mutex<Option<<P::Disk as Disk>::Lock>>,
}

/// What is known of a peer.
#[derive(Default)]
struct Seen {
    /// Whether it answered the last ping.
    reachable: bool,
    /// Where it said that clients reach it, when it last answered.
    api_addrs: Vec<String>,
    /// Whether its disk was full when it last answered.
    disk_full: bool,
    /// Why it does not talk to this node, if it said so at the last ping.
    refusal: Option<Refusal>,
}

/// A member of a cluster, or one that is about to found it. Cheap to clone; all clones are the same node.
///
/// Dropping all clones does not stop it: call [`Node::stop`].
pub struct Node<P: Platform> {
    inner: Arc<Inner<P>>,
}

impl<P: Platform> Clone for Node<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: Platform> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} {})", self.inner.config.name, self.inner.identity.get().node_id)
    }
}

/// Counts a write that is under way, and its bytes.
struct InFlight<'a> {
    count: &'a AtomicUsize,
    sum: &'a AtomicUsize,
    bytes: usize,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<P: Platform> Node<P> {
    /// Opens the data directory, recovers, and starts to take part: founds a cluster with the peers of the founding
    /// list, or goes on in the one it belongs to. Returns once recovered, without waiting for peers or a leader.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running.
    pub async fn start(platform: P, config: NodeConfig, machine: impl StateMachine) -> Result<Self, StartError> {
        start::start(platform, config, Arc::new(machine)).await
    }

    /// This node's identity.
    pub fn node_id(&self) -> NodeId {
        self.inner.identity.get().node_id
    }

    /// The address that peers are listened for at, with the port that was chosen if 0 was asked for.
    pub fn peer_addr(&self) -> String {
        lock(&self.inner.server).as_ref().map_or_else(String::new, |server| server.local_addr().to_owned())
    }

    /// openraft's own handle, for metrics and triggers that this interface does not cover.
    pub fn raft(&self) -> &Raft<P> {
        &self.inner.raft
    }

    /// The replicated log of this node.
    pub fn log(&self) -> &LogStore<P> {
        &self.inner.log
    }

    /// The state of this node.
    pub fn store(&self) -> &StateMachineStore<P> {
        &self.inner.store
    }

    /// Waits until the node has stopped by itself, and says why.
    pub async fn stopped(&self) -> StopError {
        let mut failure = lock(&self.inner.failure).subscribe();
        match failure.wait_until(Option::is_some).await {
            Ok(Some(error)) => error,
            // The sender is in `inner`, which `self` holds.
            _ => StopError::Raft("the node is gone".to_owned()),
        }
    }

    /// Stops: refuses new writes, finishes those under way, hands leadership over, stops consensus, makes the log
    /// durable, and lets the directory go. Bounded in time: what a hung disk does not finish is left to recovery. May
    /// be called more than once; every call returns when the node has stopped.
    ///
    /// # Errors
    /// Why the node had stopped by itself, or why its log could not be closed cleanly. It has stopped all the same.
    pub async fn stop(&self) -> Result<(), StopError> {
        let mut finished = lock(&self.inner.finished).subscribe();
        if !self.inner.stopping.swap(true, Ordering::Relaxed) {
            // In a task of its own: a caller that gives up does not leave a half-stopped node.
            let node = self.clone();
            drop(P::Runtime::spawn(async move {
                let result = node.shut_down().await;
                lock(&node.inner.finished).send_if_modified(|finished| {
                    *finished = Some(result);
                    true
                });
            }));
        }
        match finished.wait_until(Option::is_some).await {
            Ok(Some(result)) => result,
            _ => Err(StopError::Raft("the node is gone".to_owned())),
        }
    }

    async fn shut_down(&self) -> Result<(), StopError> {
        let inner = &self.inner;
        let failed = self.failure();
        if failed.is_none() {
            self.drain().await;
            if self.hand_over(|_, _, _| true).await {
                // Whoever has not heard of the new leader yet forwards to this node, and is told to try again.
                P::Runtime::sleep(2 * Duration::from_millis(inner.config.timing.heartbeat_ms())).await;
            }
        }
        lock(&inner.shutdown).send_if_different(true);
        if let Some(server) = lock(&inner.server).take() {
            server.shutdown();
        }
        inner.peers.shutdown();
        // Its core may be gone already, which is as good.
        let _ = P::Runtime::timeout(DRAIN, inner.raft.shutdown()).await;
        let closed = P::Runtime::timeout(DRAIN, inner.log.close()).await;
        let stored = P::Runtime::timeout(DRAIN, inner.store.close()).await;
        if stored.is_ok() {
            // Otherwise something may still write there: the directory is not free.
            drop(lock(&inner.lock).take());
        }
        match (failed, closed) {
            (Some(error), _) => Err(error),
            (None, Ok(closed)) => closed.map_err(|e: io::Error| StopError::Storage(e.to_string())),
            (None, Err(_)) => Err(StopError::Storage("the disk does not answer".to_owned())),
        }
    }

    /// Why the node has stopped by itself, if it has.
    fn failure(&self) -> Option<StopError> {
        lock(&self.inner.failure).borrow_watched().clone()
    }

    /// Records the first failure.
    fn fail(&self, error: StopError) {
        lock(&self.inner.failure).send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(%error, "this node has stopped");
                *failure = Some(error);
            }
            first
        });
    }

    fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Relaxed)
    }

    fn shutdown_watch(&self) -> WatchReceiverOf<Types<P::Runtime>, bool> {
        lock(&self.inner.shutdown).subscribe()
    }

    fn begin_write(&self, bytes: usize) -> Result<InFlight<'_>, WriteError> {
        if self.is_stopping() {
            return Err(WriteError::NotApplied(Reason::Stopping));
        }
        let Inner { config, in_flight: count, in_flight_bytes: sum, .. } = &*self.inner;
        let before = (count.fetch_add(1, Ordering::Relaxed), sum.fetch_add(bytes, Ordering::Relaxed));
        let guard = InFlight { count, sum, bytes };
        if before.0 >= config.writes_in_flight_max || before.1.saturating_add(bytes) > config.in_flight_bytes_max() {
            return Err(WriteError::NotApplied(Reason::Overloaded));
        }
        Ok(guard)
    }

    async fn drain(&self) {
        let drained = async {
            while self.inner.in_flight.load(Ordering::Relaxed) > 0 {
                P::Runtime::sleep(Duration::from_millis(5)).await;
            }
        };
        if P::Runtime::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("stopping with writes under way: their outcome is unknown to their clients");
        }
    }

    /// Hands leadership over for the sake of this node's disk. Only to one that has the whole log: any other would refuse,
    /// and leave the cluster without a leader until it elects one.
    async fn step_aside(&self) {
        self.hand_over(|_, peer, whole_log| peer.reachable && !peer.disk_full && whole_log).await;
    }

    /// Hands leadership to the heir; whether there is one.
    async fn hand_over(&self, fit: impl Fn(&NodeId, &Seen, bool) -> bool) -> bool {
        let heir = self.heir(fit);
        if let Some(heir) = heir {
            self.hand_over_to(heir, HAND_OVER).await;
        }
        heir.is_some()
    }

    /// The follower that is furthest, of those that are `fit` by what is seen of them and by whether they have the whole
    /// log; `None` if this node does not lead.
    fn heir(&self, fit: impl Fn(&NodeId, &Seen, bool) -> bool) -> Option<NodeId> {
        let own = self.node_id();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(own) {
            return None;
        }
        let matched = |id: &NodeId| metrics.replication.as_ref().and_then(|r| r.get(id).cloned().flatten());
        let matched = |id: &NodeId| matched(id).map(|log_id| log_id.index);
        let seen = lock(&self.inner.seen);
        let (unseen, last) = (Seen::default(), metrics.last_log_index);
        let voters = metrics.membership_config.voter_ids().filter(|id| *id != own);
        let seen = |id: &NodeId| seen.get(id).unwrap_or(&unseen);
        voters.filter(|id| fit(id, seen(id), matched(id) >= last)).max_by_key(|id| (!seen(id).disk_full, matched(id)))
    }

    /// Asks a follower to lead, again and again as it may lack an entry yet, until this node leads no more. If the other
    /// one does not take over, openraft sends no heartbeats any more (its transfer has no end but another
    /// leader), and the cluster elects a leader by itself.
    async fn hand_over_to(&self, heir: NodeId, within: Duration) {
        let (raft, own) = (&self.inner.raft, self.node_id());
        let asking = async {
            let mut metrics = raft.server_metrics();
            while raft.trigger().transfer_leader(heir).await.is_ok() {
                let gone = metrics.wait_until(|m| m.current_leader != Some(own));
                if P::Runtime::timeout(HAND_OVER / 5, gone).await.is_ok() {
                    return;
                }
            }
        };
        let _ = P::Runtime::timeout(within, asking).await;
    }
}

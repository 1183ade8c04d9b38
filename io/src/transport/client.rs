//! Dialling peers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::Stream;
use openraft_rt::{AsyncRuntime, Instant};
use quorate_core::wire::{AppendRequest, Purpose, Refusal, RefusalCode, Request, Response};
use quorate_core::{LogId, NodeId};
use rand::Rng;

use super::append::AppendStream;
use super::config::TransportConfig;
use super::connection::Connection;
use super::handshake::{Identity, PeerIdentity, dial};
use super::queue::{detach, lock};
use super::snapshot::{PullStream, SnapshotStream};
use super::{CallError, NotSent};
use crate::Platform;

/// Whom to reach, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who must answer; `None` takes whoever is at the address.
    pub node: Option<NodeId>,
    /// `host:port` addresses, in order of preference.
    pub addrs: Vec<String>,
}

/// A peer with an id is one peer wherever it is; one without is its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeId, Purpose),
    Address(String, Purpose),
}

/// Where peers may be, besides the addresses that a call names. A wrong one does no harm: who answers must be the peer
/// that is meant.
#[derive(Default)]
struct Hints {
    /// Newest first.
    of: BTreeMap<NodeId, Vec<String>>,
    /// Of whomever.
    anywhere: Vec<String>,
}

/// Of one peer; older ones are forgotten.
const HINTS_MAX: usize = 8;

type InstantOf<P> = <<P as Platform>::Runtime as AsyncRuntime>::Instant;

/// The dialling side of the transport: requests and streams to peers. Clones share the connections; the last one that
/// is dropped closes them.
pub struct Peers<P: Platform>(Arc<Inner<P>>);

struct Inner<P: Platform> {
    platform: P,
    identity: Identity,
    config: TransportConfig,
    slots: Mutex<BTreeMap<Key, Arc<Slot<P>>>>,
    hints: Mutex<Hints>,
    stopped: Arc<AtomicBool>,
}

/// The place of one connection.
struct Slot<P: Platform> {
    key: Key,
    state: Mutex<SlotState<P>>,
    stopped: Arc<AtomicBool>,
}

struct SlotState<P: Platform> {
    phase: Phase<P>,
    /// Failed dials since the last good one.
    failures: u32,
    /// The latest boot epoch that was seen of a peer that is known by its id.
    epoch_seen: u64,
}

type Dialling = oneshot::Sender<Result<Arc<Connection>, NotSent>>;

enum Phase<P: Platform> {
    /// Nobody has asked yet.
    Idle,
    /// A task dials; these wait for it.
    Dialling(Vec<Dialling>),
    /// There is a connection, unless it has broken meanwhile.
    Up(Arc<Connection>),
    /// The last dial failed: so does everything until then.
    Backoff(InstantOf<P>, NotSent),
}

impl<P: Platform> Clone for Peers<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> fmt::Debug for Peers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("slots", &lock(&self.0.slots).len()).finish_non_exhaustive()
    }
}

impl<P: Platform> Drop for Inner<P> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<P: Platform> Inner<P> {
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let slots = std::mem::take(&mut *lock(&self.slots));
        for slot in slots.into_values() {
            slot.close("transport is shut down");
        }
    }
}

impl<P: Platform> Peers<P> {
    /// Dials nobody yet.
    pub fn new(platform: P, identity: Identity, config: TransportConfig) -> Self {
        let slots = Mutex::default();
        Self(Arc::new(Inner { platform, identity, config, slots, hints: Mutex::default(), stopped: Arc::default() }))
    }

    /// A peer may be at these addresses, too; without an id, any peer may.
    pub fn hint(&self, node: Option<NodeId>, addrs: &[String]) {
        let mut hints = lock(&self.0.hints);
        let hints = &mut *hints;
        let known = node.map_or(&mut hints.anywhere, |node| hints.of.entry(node).or_default());
        let mut merged = addrs.to_vec();
        merged.extend(known.drain(..).filter(|addr| !addrs.contains(addr)));
        merged.truncate(HINTS_MAX.max(addrs.len()));
        *known = merged;
    }

    /// What to dial, in this order.
    pub(crate) fn addrs(&self, target: &Target) -> Vec<String> {
        let mut addrs = self.own_addrs(target);
        if target.node.is_some() {
            let hints = lock(&self.0.hints);
            let more: Vec<String> = hints.anywhere.iter().filter(|addr| !addrs.contains(addr)).cloned().collect();
            addrs.extend(more);
        }
        addrs
    }

    /// The same without those at which any member may be.
    pub(crate) fn own_addrs(&self, target: &Target) -> Vec<String> {
        let mut addrs = target.addrs.clone();
        let hints = lock(&self.0.hints);
        for addr in target.node.iter().flat_map(|node| hints.of.get(node)).flatten() {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }

    /// The limits and delays in force.
    pub fn config(&self) -> &TransportConfig {
        &self.0.config
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Sends a request over the control connection and waits at most `timeout` for its response, dialling included.
    ///
    /// # Errors
    /// [`CallError`] says whether the peer may have got the request.
    pub async fn call(&self, target: &Target, request: &Request, timeout: Duration) -> Result<Response, CallError> {
        let start = InstantOf::<P>::now();
        let connection = self.connection(target, Purpose::Control, timeout).await?;
        connection.call::<P::Runtime>(request, timeout.saturating_sub(start.elapsed())).await
    }

    /// Opens a stream of appends over the control connection. `timeout` is for dialling; for the answers see
    /// [`TransportConfig::append_idle_ms`]. Dropping the stream ends it on the peer.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn open_append_stream<S>(
        &self,
        target: &Target,
        input: S,
        timeout: Duration,
    ) -> Result<AppendStream<P::Runtime, S>, CallError>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin,
    {
        let connection = self.connection(target, Purpose::Control, timeout).await?;
        Ok(AppendStream::new(connection.open_lane()?, input, self.config()))
    }

    /// Opens a stream for one snapshot over the bulk connection. Dropping it abandons the snapshot on the peer.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn open_snapshot_stream(
        &self,
        target: &Target,
        timeout: Duration,
    ) -> Result<SnapshotStream<P::Runtime>, CallError> {
        let connection = self.connection(target, Purpose::Bulk, timeout).await?;
        Ok(SnapshotStream::new(connection.open_lane()?, self.config()))
    }

    /// Opens a stream on which the peer sends its newest snapshot, unless that is older than `at_least`, over the bulk
    /// connection. Dropping it ends it on the peer.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn open_pull_stream(
        &self,
        target: &Target,
        at_least: LogId,
        timeout: Duration,
    ) -> Result<PullStream<P::Runtime>, CallError> {
        let connection = self.connection(target, Purpose::Bulk, timeout).await?;
        PullStream::begin(connection.open_lane()?, self.config(), at_least)
    }

    /// What the peer said of itself, if a control connection to it is up.
    pub fn peer_identity(&self, node: NodeId) -> Option<PeerIdentity> {
        let slot = lock(&self.0.slots).get(&Key::Node(node, Purpose::Control)).cloned()?;
        match &lock(&slot.state).phase {
            Phase::Up(connection) if !connection.is_down() => Some(connection.peer.clone()),
            _ => None,
        }
    }

    /// Closes the connections to a node that is no member any more, and forgets it.
    pub fn forget(&self, node: NodeId) {
        for purpose in [Purpose::Control, Purpose::Bulk] {
            let slot = lock(&self.0.slots).remove(&Key::Node(node, purpose));
            if let Some(slot) = slot {
                slot.close("the peer was forgotten");
            }
        }
    }

    /// Closes all connections; everything in flight is unknown, everything later is not sent. The tasks end.
    pub fn shutdown(&self) {
        self.0.stop();
    }

    async fn connection(
        &self,
        target: &Target,
        purpose: Purpose,
        timeout: Duration,
    ) -> Result<Arc<Connection>, CallError> {
        let waiting = {
            let slot = self.slot(target, purpose)?;
            let mut state = lock(&slot.state);
            match &mut state.phase {
                Phase::Up(connection) if !connection.is_down() => {
                    if connection.local_cluster == self.0.identity.cluster() {
                        return Ok(connection.clone());
                    }
                    // The peer judges requests by what the handshake said: shake hands again.
                    connection.close("this node has joined a cluster since");
                }
                _ => {}
            }
            match &mut state.phase {
                Phase::Backoff(until, e) if InstantOf::<P>::now() < *until => {
                    return Err(CallError::NotSent(e.clone()));
                }
                Phase::Dialling(waiters) => {
                    let (sender, receiver) = oneshot::channel();
                    waiters.retain(|waiter| !waiter.is_canceled());
                    waiters.push(sender);
                    receiver
                }
                phase => {
                    let (sender, receiver) = oneshot::channel();
                    *phase = Phase::Dialling(vec![sender]);
                    drop(state);
                    let (net, identity) = (self.0.platform.net().clone(), self.0.identity.clone());
                    let to = Target { node: target.node, addrs: self.addrs(target) };
                    detach::<P::Runtime>(slot.dial(net, identity, self.0.config.clone(), to));
                    receiver
                }
            }
        };
        match P::Runtime::timeout(timeout, waiting).await {
            Ok(Ok(result)) => result.map_err(CallError::NotSent),
            Ok(Err(oneshot::Canceled)) => Err(CallError::NotSent(NotSent::Stopped)),
            Err(_) => Err(CallError::NotSent(NotSent::Timeout)),
        }
    }

    fn slot(&self, target: &Target, purpose: Purpose) -> Result<Arc<Slot<P>>, CallError> {
        let key = match (target.node, target.addrs.first()) {
            (Some(node), _) => Key::Node(node, purpose),
            (None, Some(addr)) => Key::Address(addr.clone(), purpose),
            (None, None) => return Err(CallError::NotSent(NotSent::Unreachable("no address is known".to_owned()))),
        };
        let mut slots = lock(&self.0.slots);
        if self.0.stopped.load(Ordering::SeqCst) {
            return Err(CallError::NotSent(NotSent::Stopped));
        }
        let stopped = &self.0.stopped;
        let slot = slots.entry(key).or_insert_with_key(|key| {
            let state = SlotState { phase: Phase::Idle, failures: 0, epoch_seen: 0 };
            Arc::new(Slot { key: key.clone(), state: Mutex::new(state), stopped: stopped.clone() })
        });
        Ok(slot.clone())
    }
}

impl<P: Platform> Slot<P> {
    /// Closes the connection and fails those who wait for one.
    fn close(&self, reason: &str) {
        let phase = std::mem::replace(&mut lock(&self.state).phase, Phase::Idle);
        if let Phase::Up(connection) = phase {
            connection.close(reason);
        }
    }

    fn purpose(&self) -> Purpose {
        match self.key {
            Key::Node(_, purpose) | Key::Address(_, purpose) => purpose,
        }
    }

    /// Dials the addresses in turn and tells everyone who waits.
    async fn dial(self: Arc<Self>, net: P::Net, identity: Identity, config: TransportConfig, to: Target) {
        let mut result = Err(NotSent::Unreachable("no address is known".to_owned()));
        for addr in &to.addrs {
            result = match dial::<P::Runtime, P::Net>(&net, &identity, &config, addr, to.node, self.purpose()).await {
                Ok(dialled) => self.check_epoch(&dialled.peer).map(|()| dialled),
                Err(e) => Err(e),
            };
            match &result {
                Ok(_) => break,
                Err(e) => tracing::debug!(addr, error = %e, "dial failed"),
            }
            if matches!(&result, Err(NotSent::Refused(refusal)) if refusal.code == RefusalCode::Removed) {
                // What others say of themselves does not outweigh it.
                break;
            }
        }
        let connection = result.map(|dialled| Connection::start::<P::Runtime, P::Net>(dialled, &config));
        self.dialled(connection, &config);
    }

    fn dialled(&self, result: Result<Arc<Connection>, NotSent>, config: &TransportConfig) {
        let mut state = lock(&self.state);
        let Phase::Dialling(waiters) = &mut state.phase else {
            // Closed meanwhile: nobody waits.
            if let Ok(connection) = result {
                connection.close("not wanted any more");
            }
            return;
        };
        let waiters = std::mem::take(waiters);
        match &result {
            Ok(connection) if self.stopped.load(Ordering::SeqCst) => {
                connection.close("transport is shut down");
                state.phase = Phase::Idle;
            }
            Ok(connection) => {
                state.failures = 0;
                state.phase = Phase::Up(connection.clone());
            }
            Err(e) => {
                let doubled = config.backoff_min_ms.saturating_mul(1 << state.failures.min(20));
                let delay_us = 1000 * doubled.min(config.backoff_max_ms);
                let jitter_us = P::Runtime::thread_rng().next_u64() % (delay_us / 2 + 1);
                let until = InstantOf::<P>::now() + Duration::from_micros(delay_us - jitter_us);
                state.failures = state.failures.saturating_add(1);
                state.phase = Phase::Backoff(until, e.clone());
            }
        }
        drop(state);
        for waiter in waiters {
            // It may have given up.
            let _ = waiter.send(result.clone());
        }
    }

    /// A peer whose boot epoch goes back runs on a copied or rolled back disk.
    fn check_epoch(&self, peer: &PeerIdentity) -> Result<(), NotSent> {
        if matches!(self.key, Key::Address(..)) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if peer.boot_epoch < state.epoch_seen {
            let text = format!("node {} was seen with boot epoch {}", peer.node_id, state.epoch_seen);
            return Err(NotSent::Refused(Refusal::new(RefusalCode::StaleEpoch, text)));
        }
        state.epoch_seen = peer.boot_epoch;
        Ok(())
    }
}

//! openraft's state machine over [`crate::store`].

use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use imbl::OrdMap;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft_rt::watch::{Watch, WatchReceiver, WatchSender};
use openraft_rt::{AsyncRuntime, OptionalSend};
use quorate_core::disk::Disk;
use quorate_core::snapshot::Manifest;
use quorate_core::{LogId, StateMachine, StoredMembership};

use crate::jobs::lock;
use crate::log_store::LogStore;
use crate::platform::Platform;
use crate::snapshot::{ChunkReader, Received, SnapshotData, Source};
use crate::store::redb::{Building, Committed, Home};
use crate::store::{BaseView, Batch, Fault, Freeze, Layers, Position, StoreError, View, memory, redb};
use crate::types::{
    Response, Types, log_id_from, log_id_to, membership_from, raft, stored_membership_from, stored_membership_to,
};

/// Entries that are applied, at most, before readers see them and their proposers are answered.
const PUBLISH_EVERY: usize = 64;

type WatchOf<P> = <<P as Platform>::Runtime as AsyncRuntime>::Watch;

/// Follows the last entry that is durable in the local log. Builds fail once its sender is dropped.
pub type DurableWatch<P> = <WatchOf<P> as Watch>::Receiver<Option<LogId>>;

/// `true` while the store has more bytes in memory than [`StoreConfig::dirty_bytes_max`].
pub type PressureWatch<P> = <WatchOf<P> as Watch>::Receiver<bool>;

/// Follows the last entry that is applied and visible.
pub type AppliedWatch<P> = <WatchOf<P> as Watch>::Receiver<Option<LogId>>;

/// A snapshot as openraft hands it around.
pub type Snapshot = openraft::storage::Snapshot<
    openraft::vote::leader_id_std::CommittedLeaderId<u64>,
    quorate_core::NodeId,
    crate::types::SharedMember,
    SnapshotData,
>;

/// Between two attempts to make a commit durable on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// Where a store keeps its base.
#[derive(Debug)]
pub enum Location<D: Disk> {
    /// In memory: lost with the process. Does nothing with any disk.
    Memory,
    /// In a directory that is the store's own.
    Dir(Home<D>),
}

/// How a store works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Size of redb's page cache in bytes.
    pub cache_bytes: usize,
    /// From how many bytes in memory on [`StateMachineStore::pressure`] asks for a snapshot.
    pub dirty_bytes_max: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, dirty_bytes_max: 16 << 20 }
    }
}

struct Inner<P: Platform> {
    layers: Mutex<Layers>,
    location: Location<P::Disk>,
    dirty_bytes_max: u64,
    machine: Arc<dyn StateMachine>,
    durable: DurableWatch<P>,
    /// Where it is recorded that a snapshot was installed.
    log: OnceLock<LogStore<P>>,
    // In a mutex because a sender need not be `Sync`.
    pressure: Mutex<<WatchOf<P> as Watch>::Sender<bool>>,
    applied: Mutex<<WatchOf<P> as Watch>::Sender<Option<LogId>>>,
    /// For the next store file: no two ever have the same.
    next_generation: AtomicU64,
    closed: AtomicBool,
    fault: Fault,
}

/// The state of this node: applies entries, serves views, builds and installs snapshots. Cheap to clone; all clones
/// are one store. Only openraft's state machine worker may apply, freeze and install.
pub struct StateMachineStore<P: Platform> {
    inner: Arc<Inner<P>>,
}

impl<P: Platform> Clone for StateMachineStore<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: Platform> fmt::Debug for StateMachineStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateMachineStore({:?})", self.inner.location)
    }
}

impl<P: Platform> StateMachineStore<P> {
    /// Opens the store at its durable state, D; openraft applies what the log has above it. Nothing above what
    /// `durable` says of the local log is committed; its value does not matter until the first snapshot is built.
    /// Removes what interrupted installs and transfers left.
    ///
    /// # Errors
    /// The disk fails, the data is damaged, or a newer program wrote it.
    pub async fn open(
        location: Location<P::Disk>,
        dirty_bytes_max: u64,
        machine: Arc<dyn StateMachine>,
        durable: DurableWatch<P>,
    ) -> Result<Self, StoreError> {
        let (generation, base, manifest) = match &location {
            Location::Memory => (0, BaseView::Memory(OrdMap::new()), Manifest::default()),
            Location::Dir(home) => {
                let opening = home.clone();
                let opened = home.jobs.run(move |disk| redb::open(disk, &opening)).await??;
                (opened.generation, BaseView::Redb(Arc::new(opened.view)), opened.manifest)
            }
        };
        let fault = Fault::default();
        let position = Position::from(manifest);
        let (applied, _) = WatchOf::<P>::channel(position.applied);
        let layers = Mutex::new(Layers::new(generation, base, position, fault.clone()));
        let (pressure, _) = WatchOf::<P>::channel(false);
        Ok(Self {
            inner: Arc::new(Inner {
                layers,
                location,
                dirty_bytes_max,
                machine,
                durable,
                log: OnceLock::new(),
                pressure: Mutex::new(pressure),
                applied: Mutex::new(applied),
                next_generation: AtomicU64::new(generation + 1),
                closed: AtomicBool::new(false),
                fault,
            }),
        })
    }

    /// The newest state: immutable, O(1), and waits for no disk.
    pub fn view(&self) -> View {
        lock(&self.inner.layers).newest().clone()
    }

    /// The last applied entry, X.
    pub fn applied(&self) -> Option<LogId> {
        lock(&self.inner.layers).newest().applied()
    }

    /// Follows it.
    pub(crate) fn applied_watch(&self) -> AppliedWatch<P> {
        lock(&self.inner.applied).subscribe()
    }

    /// From now on it is recorded in this log that a snapshot was installed, before anybody is told.
    pub(crate) fn record_in(&self, log: LogStore<P>) {
        // The node's log is opened once.
        let _ = self.inner.log.set(log);
    }

    /// The last entry that the durable state has in it, D: the newest snapshot's.
    pub fn durable(&self) -> Option<LogId> {
        lock(&self.inner.layers).durable().0.applied
    }

    /// The durable state, for sending, and what it covers.
    pub(crate) fn durable_state(&self) -> (Manifest, ChunkReader) {
        let layers = lock(&self.inner.layers);
        let (position, base) = layers.durable();
        (position.into(), ChunkReader::new(base.clone(), self.inner.fault.clone()))
    }

    /// A hash of all pairs of the newest view: see [`View::state_hash`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn state_hash(&self) -> Result<u64, StoreError> {
        self.view().state_hash()
    }

    /// Bytes of keys and values that are applied but not in the durable state.
    pub fn dirty_bytes(&self) -> u64 {
        lock(&self.inner.layers).dirty_bytes()
    }

    /// Says when there are too many of them: trigger a snapshot, and take no more writes if it stays so.
    pub fn pressure(&self) -> PressureWatch<P> {
        lock(&self.inner.pressure).subscribe()
    }

    /// The first failure, if there was one. The store is of no use after it: stop the node.
    pub fn fault(&self) -> Option<StoreError> {
        self.inner.fault.get().cloned()
    }

    /// Waits for the first failure.
    pub(crate) async fn failed(&self) -> StoreError {
        self.inner.fault.wait().await
    }

    /// If the store was found damaged, writes that down, durably, for the next start.
    pub(crate) async fn mark_damaged(&self) {
        let generation = lock(&self.inner.layers).generation();
        let (Location::Dir(home), Some(StoreError::Damaged { what, .. })) = (&self.inner.location, self.fault()) else {
            return;
        };
        let marking = home.clone();
        let marked = home.jobs.run(move |disk| redb::mark_damaged(disk, &marking, generation, &what)).await;
        // Otherwise the next start finds out for itself, when it reads there.
        if let Err(error) = marked.map_err(StoreError::from).flatten() {
            tracing::warn!(%error, "that the store is damaged could not be written down");
        }
    }

    /// Lets the files go: returns once nothing of this store writes there any more. What is applied and not durable is
    /// in the log. Views stay readable.
    pub(crate) async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.mark_damaged().await;
        let base = lock(&self.inner.layers).durable().1.clone();
        if let (Location::Dir(home), BaseView::Redb(view)) = (&self.inner.location, base) {
            // Behind everything that is queued. If the worker is gone, so is everything it could have written.
            let _ = home.jobs.run(move |_| view.fence()).await;
        }
    }

    /// The directory, and the number of a new store file there, for a snapshot that is to be received; `None` if it
    /// goes into memory.
    pub(crate) fn staging_place(&self) -> Option<(Home<P::Disk>, u64)> {
        match &self.inner.location {
            Location::Memory => None,
            Location::Dir(home) => Some((home.clone(), self.inner.next_generation.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        self.fault().map_or(Ok(()), Err)
    }

    /// Remembers a failure that leaves the durable state uncertain.
    fn remember<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.inner.fault.set(error.clone()))
    }

    fn update_pressure(&self) {
        let over = self.dirty_bytes() > self.inner.dirty_bytes_max;
        lock(&self.inner.pressure).send_if_different(over);
    }

    /// Tells those who follow it.
    fn update_applied(&self) {
        let applied = self.applied();
        lock(&self.inner.applied).send_if_different(applied);
    }

    /// Makes a batch visible, then answers its proposers.
    fn publish(&self, batch: Batch, answers: &mut Vec<(ApplyResponder<Types<P::Runtime>>, Bytes)>) {
        lock(&self.inner.layers).publish(batch);
        self.update_applied();
        self.update_pressure();
        for (responder, response) in answers.drain(..) {
            responder.send(Response(response));
        }
    }

    /// Applies one entry to the batch, whole or not at all as far as anybody sees.
    fn apply_entry(&self, batch: &mut Batch, entry: &raft::Entry) -> Result<Bytes, StoreError> {
        let at = log_id_from(&entry.log_id);
        if batch.position_mut().applied >= Some(at) {
            return Err(StoreError::Refused(format!("entry {at} is already applied")));
        }
        let response = match &entry.payload {
            raft::Payload::Blank => Bytes::new(),
            raft::Payload::Normal(command) => self.inner.machine.apply(at, &command.0, batch),
            raft::Payload::Membership(membership) => {
                let membership = membership_from(membership);
                batch.position_mut().membership = Arc::new(StoredMembership { log_id: Some(at), membership });
                Bytes::new()
            }
        };
        batch.position_mut().applied = Some(at);
        // What it read must have been readable.
        batch.check()?;
        Ok(response)
    }

    /// Makes a frozen layer durable and puts it into the base. Returns also if something newer got there first.
    async fn commit(&self, freeze: Freeze) -> Result<(), StoreError> {
        self.check()?;
        let upto = freeze.to.applied;
        self.inner.durable.clone().wait_until(|durable| *durable >= upto).await.map_err(|_| StoreError::Stopped)?;
        let base = match (&self.inner.location, &freeze.base) {
            (_, BaseView::Memory(map)) => BaseView::Memory(memory::merge(map.clone(), &freeze.layer)),
            (Location::Dir(home), BaseView::Redb(_)) => match self.commit_to(home, &freeze).await? {
                Some(base) => base,
                None => return Ok(()),
            },
            (Location::Memory, BaseView::Redb(_)) => return Err(StoreError::Stopped),
        };
        lock(&self.inner.layers).committed(&freeze, base);
        self.update_pressure();
        tracing::info!(upto = upto.map(|id| id.to_string()), "made a snapshot");
        Ok(())
    }

    /// Commits until it is durable, waiting for space on a full disk; `None` if something newer got there first.
    async fn commit_to(&self, home: &Home<P::Disk>, freeze: &Freeze) -> Result<Option<BaseView>, StoreError> {
        loop {
            let freezing = freeze.clone();
            let committed = home.jobs.run(move |_| match &freezing.base {
                BaseView::Redb(view) => redb::commit(view, &freezing),
                BaseView::Memory(_) => Ok(Committed::Superseded),
            });
            match self.remember(committed.await.map_err(StoreError::from).flatten())? {
                Committed::Done(view) => return Ok(Some(BaseView::Redb(Arc::new(view)))),
                Committed::Superseded => return Ok(None),
                Committed::Full => home.mark_full(),
            }
            P::Runtime::sleep(FULL_RETRY).await;
            if self.inner.closed.load(Ordering::Acquire) {
                return Err(StoreError::Stopped);
            }
        }
    }

    async fn install(&self, position: Position, data: SnapshotData) -> Result<(), StoreError> {
        self.check()?;
        let (applied, durable) = (self.applied(), self.durable());
        if position.applied <= durable {
            return Ok(());
        }
        if position.applied <= applied {
            // What is applied stays; but the log may be purged up to the snapshot now, so it has to be durable.
            let freeze = lock(&self.inner.layers).freeze();
            return match freeze {
                Some(freeze) => self.commit(freeze).await,
                None => Ok(()),
            };
        }
        let received = self.received(&position, data).await?;
        let old = lock(&self.inner.layers).durable().1.clone();
        let (generation, base) = match (&self.inner.location, old, received) {
            (Location::Dir(home), BaseView::Redb(old), Received::File(built)) => {
                let installing = home.clone();
                let installed = home.jobs.run(move |disk| redb::install(disk, &installing, &old, built));
                let installed = self.remember(installed.await.map_err(StoreError::from).flatten())?;
                (installed.generation, BaseView::Redb(Arc::new(installed.view)))
            }
            (_, _, Received::Memory(map, _)) => {
                let generation = self.inner.next_generation.fetch_add(1, Ordering::Relaxed);
                (generation, BaseView::Memory(map))
            }
            _ => return Err(StoreError::Refused("the snapshot was received for another store".to_owned())),
        };
        let upto = position.applied.map(|id| id.to_string());
        lock(&self.inner.layers).installed(generation, base, position);
        self.update_applied();
        self.update_pressure();
        tracing::info!(upto, "installed a snapshot");
        Ok(())
    }

    /// What was received for this store, and covers what openraft says it does.
    async fn received(&self, position: &Position, data: SnapshotData) -> Result<Received, StoreError> {
        let received = match data.0 {
            Source::Received(received) => received,
            // A view of another store of this process: nothing was sent.
            Source::View(base, _) => match self.staging_place() {
                None => {
                    let pairs: Result<_, _> = base.range(Bound::Unbounded, Bound::Unbounded).collect();
                    Received::Memory(pairs?, position.into())
                }
                Some((home, generation)) => {
                    let (manifest, jobs) = (Manifest::from(position), home.jobs.clone());
                    let built = jobs.run(move |disk| {
                        let mut building = Building::begin(disk, &home, generation)?;
                        for pair in base.range(Bound::Unbounded, Bound::Unbounded) {
                            building.add([&pair?])?;
                        }
                        building.finish(&manifest)
                    });
                    Received::File(built.await.map_err(StoreError::from).flatten()?)
                }
            },
        };
        match *received.manifest() == Manifest::from(position) {
            true => Ok(received),
            false => Err(StoreError::Refused("the snapshot covers something else than its metadata says".to_owned())),
        }
    }

    /// The snapshot at D.
    fn snapshot(&self) -> io::Result<Snapshot> {
        let layers = lock(&self.inner.layers);
        let (position, base) = layers.durable();
        let last_membership = stored_membership_to(&position.membership).map_err(io::Error::other)?;
        let meta = raft::SnapshotMeta { last_log_id: position.applied.map(log_id_to), last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotData(Source::View(base.clone(), self.inner.fault.clone())) })
    }
}

/// Makes one frozen layer durable.
pub struct SnapshotBuilder<P: Platform> {
    store: StateMachineStore<P>,
    freeze: Option<Freeze>,
}

impl<P: Platform> RaftSnapshotBuilder<Types<P::Runtime>> for SnapshotBuilder<P> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if let Some(freeze) = self.freeze.take() {
            self.store.commit(freeze).await?;
        }
        self.store.snapshot()
    }
}

impl<P: Platform> RaftStateMachine<Types<P::Runtime>> for StateMachineStore<P> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder<P>;

    async fn applied_state(&mut self) -> Result<(Option<raft::LogId>, raft::StoredMembership), io::Error> {
        let view = self.view();
        let membership = stored_membership_to(view.membership()).map_err(io::Error::other)?;
        Ok((view.applied().map(log_id_to), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<P::Runtime>>, io::Error>> + Unpin + OptionalSend,
    {
        self.check()?;
        let mut batch = Batch::new(self.view());
        let mut answers = Vec::new();
        let mut applied = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            let response = self.apply_entry(&mut batch, &entry)?;
            answers.extend(responder.map(|responder| (responder, response)));
            applied += 1;
            if applied % PUBLISH_EVERY == 0 {
                self.publish(batch, &mut answers);
                batch = Batch::new(self.view());
            }
        }
        self.publish(batch, &mut answers);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let freeze = lock(&self.inner.layers).freeze();
        SnapshotBuilder { store: self.clone(), freeze }
    }

    async fn install_snapshot(
        &mut self,
        meta: &raft::SnapshotMeta,
        snapshot: Self::SnapshotData,
    ) -> Result<(), io::Error> {
        let applied = meta.last_log_id.as_ref().map(log_id_from);
        let membership = Arc::new(stored_membership_from(&meta.last_membership));
        self.install(Position { applied, membership }, snapshot).await?;
        // From here on the leader counts on it.
        match (self.inner.log.get(), applied) {
            (Some(log), Some(applied)) => log.record_snapshot(applied).await,
            _ => Ok(()),
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        match self.durable() {
            Some(_) => self.snapshot().map(Some),
            None => Ok(None),
        }
    }
}

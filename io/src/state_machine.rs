//! openraft's state machine over [`crate::store`].

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use imbl::OrdMap;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft_rt::watch::{Watch, WatchReceiver, WatchSender};
use openraft_rt::{AsyncRuntime, OptionalSend};
use quorate_core::disk::Disk;
use quorate_core::snapshot::Manifest;
use quorate_core::{LogId, StateMachine, StoredMembership};

use crate::jobs::{Jobs, lock};
use crate::platform::Platform;
use crate::snapshot::{SnapshotData, Source};
use crate::store::{BaseView, Batch, Fault, Freeze, Layers, Position, StoreError, View, memory, redb};
use crate::types::{
    Response, Types, log_id_from, log_id_to, membership_from, raft, stored_membership_from, stored_membership_to,
};

/// Entries that are applied before readers see them and their proposers are answered. Copying a shared path of the
/// active layer is then paid once for that many entries.
const PUBLISH_EVERY: usize = 64;

type WatchOf<P> = <<P as Platform>::Runtime as AsyncRuntime>::Watch;

/// Follows the last entry that is durable in the local log. Builds fail once its sender is dropped.
pub type DurableWatch<P> = <WatchOf<P> as Watch>::Receiver<Option<LogId>>;

/// `true` while the store has more bytes in memory than [`StoreConfig::dirty_bytes_max`].
pub type PressureWatch<P> = <WatchOf<P> as Watch>::Receiver<bool>;

/// A snapshot as openraft hands it around.
pub type Snapshot<P> = openraft::storage::Snapshot<
    openraft::vote::leader_id_std::CommittedLeaderId<u64>,
    quorate_core::NodeId,
    quorate_core::Member,
    SnapshotData<P>,
>;

/// Where a store keeps its base.
#[derive(Clone, Debug)]
pub enum Location<D: Disk> {
    /// In memory: lost with the process. Does nothing with any disk.
    Memory,
    /// In a directory that is the store's own, by a disk worker that others may share.
    Dir {
        /// The worker.
        jobs: Jobs<D>,
        /// The directory; created if need be.
        dir: PathBuf,
    },
}

/// How a store works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Size of redb's page cache in bytes.
    pub cache_bytes: usize,
    /// From how many bytes in memory on [`StateMachineStore::pressure`] asks for a snapshot.
    pub dirty_bytes_max: u64,
    /// Whether opening reads the whole file and checks every page. Without it, damage is found by a restart after a
    /// crash only.
    pub verify_at_open: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, dirty_bytes_max: 64 << 20, verify_at_open: true }
    }
}

struct Inner<P: Platform> {
    layers: Mutex<Layers>,
    location: Location<P::Disk>,
    config: StoreConfig,
    machine: Arc<dyn StateMachine>,
    durable: DurableWatch<P>,
    // In a mutex because a sender need not be `Sync`.
    pressure: Mutex<<WatchOf<P> as Watch>::Sender<bool>>,
    incoming: AtomicU64,
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
        config: StoreConfig,
        machine: Arc<dyn StateMachine>,
        durable: DurableWatch<P>,
    ) -> Result<Self, StoreError> {
        let (generation, base, manifest) = match &location {
            Location::Memory => (0, BaseView::Memory(OrdMap::new()), Manifest::default()),
            Location::Dir { jobs, dir } => {
                let (dir, owner, options) = (dir.clone(), jobs.clone(), options(&config));
                let opened = jobs.run(move |disk| redb::open(disk, &dir, options, &owner)).await??;
                (opened.generation, BaseView::Redb(Arc::new(opened.view)), opened.manifest)
            }
        };
        let fault = Fault::default();
        let layers = Mutex::new(Layers::new(generation, base, manifest.into(), fault.clone()));
        let (pressure, _) = WatchOf::<P>::channel(false);
        let (pressure, incoming) = (Mutex::new(pressure), AtomicU64::new(0));
        Ok(Self { inner: Arc::new(Inner { layers, location, config, machine, durable, pressure, incoming, fault }) })
    }

    /// The newest state: immutable, O(1), and waits for no disk.
    pub fn view(&self) -> View {
        lock(&self.inner.layers).newest().clone()
    }

    /// The last applied entry, X.
    pub fn applied(&self) -> Option<LogId> {
        lock(&self.inner.layers).newest().applied()
    }

    /// The last entry that the durable state has in it, D: the newest snapshot's.
    pub fn durable(&self) -> Option<LogId> {
        lock(&self.inner.layers).durable().0.applied
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

    /// Lets the files go: returns once nothing of this store writes there any more. What is applied and not durable is
    /// in the log. Views stay readable.
    pub(crate) async fn close(&self) {
        let base = lock(&self.inner.layers).durable().1.clone();
        if let (Location::Dir { jobs, .. }, BaseView::Redb(view)) = (&self.inner.location, base) {
            // Behind everything that is queued. If the worker is gone, so is everything it could have written.
            let _ = jobs.run(move |_| view.fence()).await;
        }
    }

    /// The worker and the file for a snapshot that is to be received; `None` if it goes into memory.
    pub(crate) fn staging_place(&self) -> Option<(Jobs<P::Disk>, PathBuf)> {
        match &self.inner.location {
            Location::Memory => None,
            Location::Dir { jobs, dir } => {
                let n = self.inner.incoming.fetch_add(1, Ordering::Relaxed);
                Some((jobs.clone(), redb::incoming_path(dir, n)))
            }
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        self.fault().map_or(Ok(()), Err)
    }

    /// Remembers a failure that leaves the durable state uncertain.
    fn remember<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| drop(self.inner.fault.set(error.clone())))
    }

    fn update_pressure(&self) {
        let over = self.dirty_bytes() > self.inner.config.dirty_bytes_max;
        lock(&self.inner.pressure).send_if_different(over);
    }

    /// Makes a batch visible, then answers its proposers.
    fn publish(&self, batch: &Batch, answers: &mut Vec<(ApplyResponder<Types<P::Runtime>>, Bytes)>) {
        lock(&self.inner.layers).publish(batch);
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
            (_, BaseView::Memory(map)) => Some(BaseView::Memory(memory::merge(map.clone(), &freeze.layer))),
            (Location::Dir { jobs, .. }, BaseView::Redb(view)) => {
                let (view, freeze) = (view.clone(), freeze.clone());
                let committed = jobs.run(move |_| redb::commit(&view, &freeze)).await;
                let committed = self.remember(committed.map_err(StoreError::from).flatten())?;
                committed.map(|view| BaseView::Redb(Arc::new(view)))
            }
            (Location::Memory, BaseView::Redb(_)) => return Err(StoreError::Stopped),
        };
        if let Some(base) = base {
            lock(&self.inner.layers).committed(&freeze, base);
            self.update_pressure();
        }
        Ok(())
    }

    async fn install(&self, position: Position, data: SnapshotData<P>) -> Result<(), StoreError> {
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
        let (generation, old) = {
            let layers = lock(&self.inner.layers);
            (layers.generation(), layers.durable().1.clone())
        };
        let (generation, base) = match (&self.inner.location, old) {
            (Location::Dir { jobs, dir }, BaseView::Redb(old)) => {
                let manifest = Manifest::from(&position);
                let (dir, owner, options) = (dir.clone(), jobs.clone(), options(&self.inner.config));
                let installed = jobs.run(move |disk| {
                    redb::install(disk, &dir, &old, &manifest, options, &owner, |each| data.for_each_pair(each))
                });
                let installed = self.remember(installed.await.map_err(StoreError::from).flatten())?;
                (installed.generation, BaseView::Redb(Arc::new(installed.view)))
            }
            _ => {
                let mut map = OrdMap::new();
                data.for_each_pair(&mut |key, value| {
                    map.insert(key.clone(), value.clone());
                    Ok(())
                })?;
                (generation + 1, BaseView::Memory(map))
            }
        };
        lock(&self.inner.layers).installed(generation, base, position);
        self.update_pressure();
        Ok(())
    }

    /// The snapshot at D.
    fn snapshot(&self) -> io::Result<Snapshot<P>> {
        let layers = lock(&self.inner.layers);
        let (position, base) = layers.durable();
        let last_membership = stored_membership_to(&position.membership).map_err(io::Error::other)?;
        let meta = raft::SnapshotMeta { last_log_id: position.applied.map(log_id_to), last_membership };
        Ok(Snapshot::<P> { meta, snapshot: SnapshotData(Source::View(base.clone())) })
    }
}

fn options(config: &StoreConfig) -> redb::Options {
    redb::Options { cache_bytes: config.cache_bytes, verify: config.verify_at_open }
}

/// Makes one frozen layer durable.
pub struct SnapshotBuilder<P: Platform> {
    store: StateMachineStore<P>,
    freeze: Option<Freeze>,
}

impl<P: Platform> RaftSnapshotBuilder<Types<P::Runtime>> for SnapshotBuilder<P> {
    type SnapshotData = SnapshotData<P>;

    async fn build_snapshot(&mut self) -> Result<Snapshot<P>, io::Error> {
        if let Some(freeze) = self.freeze.take() {
            self.store.commit(freeze).await?;
        }
        self.store.snapshot()
    }
}

impl<P: Platform> RaftStateMachine<Types<P::Runtime>> for StateMachineStore<P> {
    type SnapshotData = SnapshotData<P>;
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
                self.publish(&batch, &mut answers);
            }
        }
        self.publish(&batch, &mut answers);
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
        Ok(self.install(Position { applied, membership }, snapshot).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<P>>, io::Error> {
        match self.durable() {
            Some(_) => self.snapshot().map(Some),
            None => Ok(None),
        }
    }
}

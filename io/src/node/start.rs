//! Starting a node: directory, store, log, consensus, listener, in this order. A start that fails leaves nothing
//! running.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::Instant;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;
use quorate_core::founding::{Card, Founding, FoundingRecord};
use quorate_core::log::format::LogIdentity;
use quorate_core::log::recovery::DamageKind;
use quorate_core::wire::FRAME_BYTES_MAX;
use quorate_core::{LogId, NodeId, StateMachine};
use rand::Rng;

use super::admission::Records;
use super::force;
use super::rebuild::Rebuild;
use super::service::Service;
use super::tasks::why_ended;
use super::together::Together;
use super::{InitialState, Inner, Node, NodeConfig, Raft, StartError, Storage};
use crate::jobs::{Jobs, lock};
use crate::log_store::{self, LogDir, LogStore, OpenError};
use crate::platform::Platform;
use crate::raft_config::raft_config;
use crate::raft_network::NetworkFactory;
use crate::reserve::{self, Reserve};
use crate::state_machine::{Location, StateMachineStore};
use crate::store::StoreError;
use crate::store::redb::Home;
use crate::transport::{Identity, LocalIdentity, Peers, Server};
use crate::types::Types;

/// Beyond a command itself, a frame or a snapshot chunk that carries it takes less than this.
const COMMAND_OVERHEAD_BYTES: usize = 64 << 10;
/// In one start a store is built anew so often at most: a disk that damages it again and again is not to be relied on.
const REBUILDS_MAX: u32 = 3;

/// What a data directory, or its absence, gives a node.
pub(super) struct Opened<P: Platform> {
    pub(super) log: LogStore<P>,
    pub(super) store: StateMachineStore<P>,
    pub(super) identity: LogIdentity,
    boot_epoch: u64,
    has_history: bool,
    pub(super) records: Records,
    pub(super) jobs: Option<Jobs<P::Disk>>,
    pub(super) reserve: Option<Reserve<P::Disk>>,
    lock: Option<<P::Disk as Disk>::Lock>,
}

pub(super) async fn start<P: Platform>(
    platform: P,
    config: NodeConfig,
    machine: Arc<dyn StateMachine>,
) -> Result<Node<P>, StartError> {
    let bytes_max = FRAME_BYTES_MAX - COMMAND_OVERHEAD_BYTES;
    if config.command_bytes_max > bytes_max {
        let why =
            format!("command_bytes_max is {}, more than a frame can carry ({bytes_max})", config.command_bytes_max);
        return Err(StartError::Config(why));
    }
    config.check_reserve()?;
    if config.force_new_cluster && matches!(config.storage, Storage::Memory) {
        let why = "--force-new-cluster: a node in memory has nothing to go on from after a restart; restore a backup";
        return Err(StartError::Config(why.to_owned()));
    }
    let mut rebuilt = false;
    loop {
        let mut opened = match &config.storage {
            Storage::Dir(dir) => open_dir(&platform, dir, &config, machine.clone()).await?,
            Storage::Memory => open_memory::<P>(&config, machine.clone()).await?,
        };
        let (log, store, held) = (opened.log.clone(), opened.store.clone(), opened.lock.take());
        match assemble(platform.clone(), config.clone(), opened).await {
            Ok((node, begin)) => {
                *lock(&node.inner.lock) = held;
                node.begin(begin).await?;
                return Ok(node);
            }
            Err(error) => {
                // Its own failure would only hide the reason. The directory is let go only when nothing writes there.
                let _ = log.close().await;
                store.close().await;
                drop(held);
                // Consensus replays the log as it starts, and reads the store for that. What it finds damaged there is
                // marked by now, and rebuilt when it is opened again.
                let damaged = matches!(store.fault(), Some(StoreError::Damaged { .. }));
                if !damaged || std::mem::replace(&mut rebuilt, true) {
                    return Err(error);
                }
            }
        }
    }
}

/// What is left to do once a node is put together.
struct Begin {
    quiet: Option<Duration>,
    entry: Entry,
}

/// How a node comes to a cluster.
enum Entry {
    /// It founded one, of this record.
    Founded(FoundingRecord),
    /// It was admitted to one.
    Admitted,
    /// It is to found one.
    Found(Box<Founding>),
    /// It waits to be admitted, and asks these.
    Wait(Vec<Vec<String>>),
}

async fn assemble<P: Platform>(
    platform: P,
    config: NodeConfig,
    mut opened: Opened<P>,
) -> Result<(Node<P>, Begin), StartError> {
    if let Storage::Dir(dir) = &config.storage
        && !opened.records.are_of(&opened.identity)
    {
        return Err(StartError::MixedUp(dir.clone()));
    }
    force::carry_out(&config, &mut opened).await?;
    // Checked before anything runs: an error of an operator, with a reason, not a half-started node.
    let entry = entry(&config, &opened)?;
    let quiet = opened.has_history.then(|| config.timing.quiet_after_restart());
    let raft_config = raft_config(opened.identity.node_id, &config.timing, &config.compaction, quiet.is_some())
        .map_err(StartError::Config)?;
    let identity = Identity::new(LocalIdentity {
        cluster_id: opened.records.cluster(),
        node_id: opened.identity.node_id,
        boot_epoch: opened.boot_epoch,
        name: config.name.clone(),
        membership: opened.records.admission.map(|admission| admission.at),
    });
    let peers = Peers::new(platform.clone(), identity.clone(), config.transport.clone());
    let network = NetworkFactory::new(peers.clone());
    let sending = network.sending();
    let raft = Raft::<P>::new(
        opened.identity.node_id,
        Arc::new(raft_config),
        network,
        opened.log.clone(),
        opened.store.clone(),
    )
    .await
    .map_err(|e| StartError::Consensus(why_ended(&config.storage, &opened.log, &opened.store, &e.to_string())))?;
    let card = match &entry {
        Entry::Found(founding) => founding.card().clone(),
        _ => Card { cluster: opened.records.cluster().0, ..own_card(&config, opened.identity.node_id) },
    };
    let (failure, _) = Types::<P::Runtime>::watch_channel(None);
    let (shutdown, _) = Types::<P::Runtime>::watch_channel(false);
    let (finished, _) = Types::<P::Runtime>::watch_channel(None);
    let inner = Inner {
        config,
        platform,
        identity,
        raft,
        log: opened.log,
        store: opened.store,
        reserve: opened.reserve,
        jobs: opened.jobs,
        peers,
        sending,
        server: Mutex::new(None),
        card: Mutex::new(card),
        seen: Mutex::new(BTreeMap::new()),
        waits: AtomicBool::new(false),
        changing: Mutex::new(None),
        reads_here: Together::default(),
        reads_there: Together::default(),
        in_flight: AtomicUsize::new(0),
        in_flight_bytes: AtomicUsize::new(0),
        led_at: Mutex::new(InstantOf::<Types<P::Runtime>>::now()),
        stopping: AtomicBool::new(false),
        failure: Mutex::new(failure),
        shutdown: Mutex::new(shutdown),
        finished: Mutex::new(finished),
        lock: Mutex::new(opened.lock),
    };
    Ok((Node { inner: Arc::new(inner) }, Begin { quiet, entry }))
}

impl<P: Platform> Node<P> {
    async fn begin(&self, begin: Begin) -> Result<(), StartError> {
        match &begin.entry {
            Entry::Founded(record) => self.enter(record).await,
            // Before anybody can come to admit it.
            Entry::Wait(_) => self.begin_to_wait(),
            Entry::Admitted | Entry::Found(_) => {}
        }
        self.inner.peers.hint(None, &self.inner.config.join);
        if let Err(error) = listen(self, begin.quiet).await {
            // Its own failure would only hide the reason.
            let _ = self.stop().await;
            return Err(error);
        }
        self.start_tasks(begin.quiet);
        let watcher = self.clone();
        self.spawn(async move { watcher.watch_store().await });
        let node = self.clone();
        match begin.entry {
            Entry::Found(founding) => self.spawn(async move { node.found(*founding).await }),
            Entry::Wait(addrs) => self.spawn(async move { node.join(addrs, None).await }),
            Entry::Founded(_) | Entry::Admitted => {}
        }
        Ok(())
    }
}

async fn listen<P: Platform>(node: &Node<P>, quiet: Option<Duration>) -> Result<(), StartError> {
    let inner = &node.inner;
    let addr = &inner.config.peer_listen;
    let service = Arc::new(Service::new(node, quiet));
    let transport = inner.config.transport.clone();
    let server = Server::start(&inner.platform, addr, inner.identity.clone(), transport, service).await;
    let server = server.map_err(|error| StartError::Listen { addr: addr.clone(), error })?;
    *lock(&inner.server) = Some(server);
    Ok(())
}

async fn open_dir<P: Platform>(
    platform: &P,
    dir: &Path,
    config: &NodeConfig,
    machine: Arc<dyn StateMachine>,
) -> Result<Opened<P>, StartError> {
    let disk = platform.disk();
    let jobs = Jobs::start(disk, "store");
    let locked = lock_dir::<P>(&jobs, dir).await?;
    let reserve = open_reserve::<P>(&jobs, dir, config).await?;
    let records = Records::read::<P>(&jobs, dir, &reserve).await?;
    force::check(config, dir, &records)?;
    let home = Home {
        jobs: jobs.clone(),
        dir: dir.join("store"),
        reserve: Some(reserve.clone()),
        cache_bytes: config.store.cache_bytes,
    };
    let readers = Jobs::start(disk, "log reads");
    let mut rebuilt = 0;
    let (store, log) = loop {
        match open_data(platform, dir, config, &machine, &home, &reserve, &readers).await {
            Ok(opened) => break opened,
            Err(error) if rebuilt < REBUILDS_MAX => {
                let damage = state_lost(error, &home)?;
                let rebuild = Rebuild { platform, config, dir, home: &home, records: &records };
                rebuild.run(&readers, damage).await?;
                rebuilt += 1;
            }
            Err(error) => return Err(error),
        }
    };
    Ok(Opened {
        log: log.store,
        store,
        identity: log.identity,
        boot_epoch: log.boot_epoch,
        has_history: log.has_history,
        records,
        jobs: Some(jobs),
        reserve: Some(reserve),
        lock: Some(locked),
    })
}

/// The damage, if `error` says that the state is lost and nothing else.
fn state_lost<D: Disk>(error: StartError, home: &Home<D>) -> Result<StoreError, StartError> {
    match error {
        StartError::Store(damage @ StoreError::Damaged { .. }) => Ok(damage),
        StartError::Log(OpenError::Damage { damage, .. })
            if matches!(damage.kind, DamageKind::StoreBehindPurge { .. }) =>
        {
            Ok(StoreError::damaged(&home.dir, damage.kind.to_string()))
        }
        other => Err(other),
    }
}

/// Opens store and log.
async fn open_data<P: Platform>(
    platform: &P,
    dir: &Path,
    config: &NodeConfig,
    machine: &Arc<dyn StateMachine>,
    home: &Home<P::Disk>,
    reserve: &Reserve<P::Disk>,
    readers: &Jobs<P::Disk>,
) -> Result<(StateMachineStore<P>, log_store::Opened<P>), StartError> {
    let (durable, durable_watch) = Types::<P::Runtime>::watch_channel(None::<LogId>);
    let location = Location::Dir(home.clone());
    let dirty_bytes_max = config.store.dirty_bytes_max;
    let store = StateMachineStore::open(location, dirty_bytes_max, machine.clone(), durable_watch).await?;
    let fresh = fresh_identity::<P>();
    let place = LogDir { disk: platform.disk(), jobs: readers, path: dir, reserve };
    match log_store::open::<P>(place, config.log, fresh, store.durable(), durable).await {
        Ok(log) => {
            store.record_in(log.store.clone());
            Ok((store, log))
        }
        Err(error) => {
            store.close().await;
            Err(error.into())
        }
    }
}

pub(super) async fn lock_dir<P: Platform>(
    jobs: &Jobs<P::Disk>,
    dir: &Path,
) -> Result<<P::Disk as Disk>::Lock, StartError> {
    let path = dir.to_owned();
    let locked = jobs.run(move |disk| {
        disk.create_dir_all(&path)?;
        disk.lock(&path)
    });
    match locked.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(lock) => Ok(lock),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(StartError::Locked(dir.to_owned())),
        Err(error) => Err(StartError::Io { path: dir.to_owned(), error }),
    }
}

pub(super) async fn open_reserve<P: Platform>(
    jobs: &Jobs<P::Disk>,
    dir: &Path,
    config: &NodeConfig,
) -> Result<Reserve<P::Disk>, StartError> {
    let path = dir.to_owned();
    let (bytes, segment_bytes) = (config.reserve_bytes, config.log.options.segment_bytes);
    let opened = jobs.run(move |disk| Reserve::open(disk, &path, bytes, segment_bytes)).await;
    opened
        .unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(|error| StartError::Io { path: dir.join(reserve::FILE_NAME), error })
}

async fn open_memory<P: Platform>(
    config: &NodeConfig,
    machine: Arc<dyn StateMachine>,
) -> Result<Opened<P>, StartError> {
    let (durable, durable_watch) = Types::<P::Runtime>::watch_channel(None::<LogId>);
    let log = LogStore::in_memory(config.log, durable);
    let store = StateMachineStore::open(Location::Memory, config.store.dirty_bytes_max, machine, durable_watch).await?;
    Ok(Opened {
        log,
        store,
        identity: fresh_identity::<P>(),
        boot_epoch: 1,
        has_history: false,
        records: Records::default(),
        jobs: None,
        reserve: None,
        lock: None,
    })
}

/// Random: never derived from a name, never used again.
pub(super) fn fresh_identity<P: Platform>() -> LogIdentity {
    let mut rng = P::Runtime::thread_rng();
    let uuid = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    LogIdentity { uuid, node_id: NodeId(rng.next_u64().max(1)) }
}

fn own_card(config: &NodeConfig, node_id: NodeId) -> Card {
    Card {
        name: config.name.clone(),
        node_id: node_id.0,
        peer_addrs: config.peer_addrs.clone(),
        api_addrs: config.api_addrs.clone(),
        in_memory: matches!(config.storage, Storage::Memory),
        ..Card::default()
    }
}

fn entry<P: Platform>(config: &NodeConfig, opened: &Opened<P>) -> Result<Entry, StartError> {
    match &opened.records.founding {
        Some(record) if record.founded => return Ok(Entry::Founded(record.clone())),
        _ if opened.records.admission.is_some() => return Ok(Entry::Admitted),
        // What it has accepted it may have to found: whatever its settings say by now.
        _ if opened.records.promise.as_ref().is_some_and(|promise| promise.record().is_some()) => {}
        _ if !config.join.is_empty() => {
            return Ok(Entry::Wait(config.told_peers().collect()));
        }
        _ if config.initial_state == InitialState::Existing => {
            return Ok(Entry::Wait(config.listed_peers().collect()));
        }
        _ => {}
    }
    let card = own_card(config, opened.identity.node_id);
    let kept = opened.records.promise.clone();
    let founding = Founding::new(config.founding.clone(), card, kept, config.founding_grace)?;
    Ok(Entry::Found(Box::new(founding)))
}

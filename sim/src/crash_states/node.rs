//! A node's storage as production puts it together, on a recording disk.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use quorate_core::disk::{Disk, replace_file};
use quorate_core::founding::{self, FoundingRecord};
use quorate_core::log::format::{BLOCK_BYTES, LogIdentity};
use quorate_core::log::writer::LogOptions;
use quorate_core::snapshot::Manifest;
use quorate_core::{Entry, LogId, NodeId, StateMachine, StateMut, StateRef, StoredMembership, Vote};
use quorate_io::log_store::{self, LogConfig, LogDir, LogStore, OpenError};
use quorate_io::node::read_record;
use quorate_io::reserve::Reserve;
use quorate_io::snapshot::SnapshotReceiver;
use quorate_io::state_machine::{Location, Snapshot, StateMachineStore};
use quorate_io::store::Home;
use quorate_io::types::{
    Types, entry_from, entry_to, log_id_from, log_id_to, raft, stored_membership_from, vote_from, vote_to,
};
use quorate_io::{Jobs, Platform};

use super::disk::RecordingDisk;
use crate::Trace;
use crate::platform::{Network, SimNet, SimRuntime};

type C = Types<SimRuntime>;

/// One block: a reserve is there, and nobody needs it.
const RESERVE_BYTES: u64 = BLOCK_BYTES;
const CACHE_BYTES: usize = 1 << 20;
const DIRTY_BYTES_MAX: u64 = 64 << 20;

/// The state, as pairs.
pub(crate) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The data directory.
pub(crate) fn data_dir() -> &'static Path {
    Path::new("/data")
}

fn store_dir() -> PathBuf {
    data_dir().join("store")
}

/// Production on a [`RecordingDisk`].
#[derive(Clone, Debug)]
pub(crate) struct CrashPlatform {
    disk: RecordingDisk,
    net: SimNet,
}

impl Platform for CrashPlatform {
    type Runtime = SimRuntime;
    type Disk = RecordingDisk;
    type Net = SimNet;

    fn disk(&self) -> &RecordingDisk {
        &self.disk
    }

    fn net(&self) -> &SimNet {
        &self.net
    }
}

impl CrashPlatform {
    /// A network is part of every platform; nobody uses this one.
    pub(crate) fn new(disk: RecordingDisk) -> Self {
        Self { disk, net: Network::new(0, Trace::new(0)).boot(1) }
    }
}

/// A command is a list of `key=value` and `-key`, separated by `;`.
struct Script;

/// What a command changes.
pub(crate) fn changes(command: &[u8]) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    command.split(|byte| *byte == b';').filter_map(|change| match change.strip_prefix(b"-") {
        Some(key) => Some((key.to_vec(), None)),
        None => {
            let at = change.iter().position(|byte| *byte == b'=')?;
            Some((change[..at].to_vec(), Some(change[at + 1..].to_vec())))
        }
    })
}

impl StateMachine for Script {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        for (key, value) in changes(command) {
            match value {
                Some(value) => state.put(key.into(), value.into()),
                None => state.delete(&key),
            }
        }
        Bytes::new()
    }
}

fn log_config() -> LogConfig {
    let options = LogOptions { segment_bytes: 8 * BLOCK_BYTES, batch_bytes_max: 16 << 10 };
    // No cache: what a recovered log holds is read from its segments.
    LogConfig { options, cache_bytes: 0, seal_after: Duration::from_millis(10), ..LogConfig::default() }
}

/// What a started node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) identity: LogIdentity,
    pub(crate) boot_epoch: u64,
    pub(crate) log: LogState,
    pub(crate) store: Option<StoreState>,
    pub(crate) founding: Option<FoundingRecord>,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) entries: Vec<Entry>,
}

/// What a store holds, durably.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreState {
    /// D.
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) pairs: Pairs,
}

/// Why a node refuses to start.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    /// What is damaged in the log: segment and offset.
    pub(crate) damage: Option<(u64, u64)>,
}

impl Refusal {
    fn new(error: impl fmt::Display) -> Self {
        Self { text: error.to_string(), damage: None }
    }
}

/// A node's storage.
#[derive(Clone)]
pub(crate) struct Storage {
    log: LogStore<CrashPlatform>,
    store: Option<StateMachineStore<CrashPlatform>>,
    jobs: Jobs<RecordingDisk>,
    identity: LogIdentity,
    boot_epoch: u64,
    founding: Option<FoundingRecord>,
}

impl Storage {
    /// Starts as a node does. `fresh` is the identity of an empty directory.
    ///
    /// # Errors
    /// Why the node refuses.
    pub(crate) async fn open(platform: CrashPlatform, with_store: bool, fresh: LogIdentity) -> Result<Self, Refusal> {
        let disk = platform.disk().clone();
        let jobs = Jobs::start(&disk, "store");
        let locked = jobs.run(|disk| {
            disk.create_dir_all(data_dir())?;
            disk.lock(data_dir())
        });
        locked.await.map_err(Refusal::new)?.map_err(Refusal::new)?;
        let reserve = jobs.run(|disk| Reserve::open(disk, data_dir(), RESERVE_BYTES, RESERVE_BYTES)).await;
        let reserve = reserve.map_err(Refusal::new)?.map_err(Refusal::new)?;
        let path = data_dir().join(founding::FILE_NAME);
        let founding = read_record::<CrashPlatform, _>(&jobs, path, &reserve, FoundingRecord::from_file).await;
        let founding = founding.map_err(Refusal::new)?;
        let (durable, watch) = C::watch_channel(None::<LogId>);
        let store = if with_store {
            let home =
                Home { jobs: jobs.clone(), dir: store_dir(), reserve: Some(reserve.clone()), cache_bytes: CACHE_BYTES };
            let location = Location::Dir(home);
            let store = StateMachineStore::open(location, DIRTY_BYTES_MAX, Arc::new(Script), watch).await;
            Some(store.map_err(Refusal::new)?)
        } else {
            None
        };
        let readers = Jobs::start(&disk, "log reads");
        let applied = store.as_ref().and_then(StateMachineStore::durable);
        let place = LogDir { disk: &disk, jobs: &readers, path: data_dir(), reserve: &reserve };
        let opened = log_store::open::<CrashPlatform>(place, log_config(), fresh, applied, durable);
        let opened = opened.await.map_err(|error| match &error {
            OpenError::Damage { damage, .. } => {
                Refusal { text: error.to_string(), damage: Some((damage.segment, damage.offset)) }
            }
            _ => Refusal::new(error),
        })?;
        let (identity, boot_epoch) = (opened.identity, opened.boot_epoch);
        Ok(Self { log: opened.store, store, jobs, identity, boot_epoch, founding })
    }

    /// What there is.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn recovered(&self) -> Result<Recovered, String> {
        let mut log = self.log.clone();
        let mut reader = log.get_log_reader().await;
        let state = log.get_log_state().await.map_err(text)?;
        let entries = reader.try_get_log_entries(..).await.map_err(text)?;
        let log = LogState {
            vote: reader.read_vote().await.map_err(text)?.as_ref().map(vote_from),
            committed: log.read_committed().await.map_err(text)?.as_ref().map(log_id_from),
            purged: state.last_purged_log_id.as_ref().map(log_id_from),
            last: state.last_log_id.as_ref().map(log_id_from),
            entries: entries.iter().map(entry_from).collect(),
        };
        let store = self.store.as_ref().map(store_state).transpose()?;
        let (identity, boot_epoch) = (self.identity, self.boot_epoch);
        Ok(Recovered { identity, boot_epoch, log, store, founding: self.founding.clone() })
    }

    pub(crate) async fn append(&self, entries: Vec<Entry>) -> io::Result<()> {
        let entries: Result<Vec<raft::Entry>, String> = entries.into_iter().map(entry_to).collect();
        let (sender, flushed) = C::oneshot();
        let mut log = self.log.clone();
        log.append(entries.map_err(io::Error::other)?, IOFlushed::signal(sender)).await?;
        flushed.await.map_err(|_| io::Error::other("nobody answers"))?
    }

    pub(crate) async fn vote(&self, vote: Vote) -> io::Result<()> {
        self.log.clone().save_vote(&vote_to(&vote)).await
    }

    pub(crate) async fn committed(&self, id: LogId) -> io::Result<()> {
        self.log.clone().save_committed(Some(log_id_to(id))).await
    }

    pub(crate) async fn truncate(&self, after: Option<LogId>) -> io::Result<()> {
        self.log.clone().truncate_after(after.map(log_id_to)).await
    }

    pub(crate) async fn purge(&self, upto: LogId) -> io::Result<()> {
        self.log.clone().purge(log_id_to(upto)).await
    }

    pub(crate) async fn apply(&self, entries: Vec<Entry>) -> io::Result<()> {
        let mut store = self.store.clone().ok_or_else(|| io::Error::other("there is no store"))?;
        apply_to(&mut store, entries).await
    }

    pub(crate) async fn build_snapshot(&self) -> io::Result<()> {
        let mut store = self.store.clone().ok_or_else(|| io::Error::other("there is no store"))?;
        store.get_snapshot_builder().await.build_snapshot().await.map(drop)
    }

    /// Receives the state that `entries` make as a peer's snapshot; installs it unless it is `abandoned`.
    pub(crate) async fn install(&self, entries: Vec<Entry>, abandoned: bool) -> io::Result<()> {
        let mut store = self.store.clone().ok_or_else(|| io::Error::other("there is no store"))?;
        let snapshot = foreign(entries).await?;
        let manifest = Manifest {
            applied: snapshot.meta.last_log_id.as_ref().map(log_id_from),
            membership: stored_membership_from(&snapshot.meta.last_membership),
        };
        let mut receiver = SnapshotReceiver::new(&store, manifest);
        let mut chunks = snapshot.snapshot.chunks()?;
        while let Some(chunk) = chunks.next_chunk()? {
            receiver.chunk(chunk).await?;
        }
        if abandoned {
            return Ok(());
        }
        let received = receiver.finish(chunks.trailer()).await?;
        store.install_snapshot(&snapshot.meta, received).await
    }

    pub(crate) async fn keep_founding(&self, record: &FoundingRecord) -> io::Result<()> {
        let bytes = record.to_file();
        let kept = self.jobs.run(move |disk| replace_file(disk, &data_dir().join(founding::FILE_NAME), &bytes));
        kept.await.map_err(io::Error::other)?
    }

    pub(crate) async fn close(&self) -> io::Result<()> {
        self.log.close().await
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn store_state(store: &StateMachineStore<CrashPlatform>) -> Result<StoreState, String> {
    let view = store.view();
    let mut pairs = Pairs::new();
    view.range(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
        pairs.insert(key.to_vec(), value.to_vec());
        true
    });
    view.check().map_err(text)?;
    Ok(StoreState { applied: view.applied(), membership: view.membership().clone(), pairs })
}

async fn apply_to(store: &mut StateMachineStore<CrashPlatform>, entries: Vec<Entry>) -> io::Result<()> {
    let entries: Result<Vec<raft::Entry>, String> = entries.into_iter().map(entry_to).collect();
    let entries = entries.map_err(io::Error::other)?.into_iter().map(|entry| Ok((entry, None)));
    store.apply(futures_util::stream::iter(entries)).await
}

/// A snapshot as another node has it.
async fn foreign(entries: Vec<Entry>) -> io::Result<Snapshot> {
    let (durable, watch) = C::watch_channel(Some(LogId::new(u64::MAX, u64::MAX)));
    let opened = StateMachineStore::open(Location::Memory, DIRTY_BYTES_MAX, Arc::new(Script), watch);
    let mut store = opened.await.map_err(io::Error::other)?;
    apply_to(&mut store, entries).await?;
    let snapshot = store.get_snapshot_builder().await.build_snapshot().await;
    drop(durable);
    snapshot
}

/// The identity that the `n`-th start of an empty directory would get.
pub(crate) fn fresh(n: u64) -> LogIdentity {
    LogIdentity { uuid: 0x5eed_0000_0000_0000_0000_0000 + u128::from(n), node_id: NodeId(100 + n) }
}

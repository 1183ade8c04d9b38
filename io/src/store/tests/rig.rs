//! A disk that can be cut off, a machine that does what its commands say, and ways to drive a store.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use openraft::async_runtime::watch::Watch;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use quorate_core::disk::{Disk, File, OpenMode, Worker};
use quorate_core::snapshot::Manifest;
use quorate_core::{LogId, StateMachine, StateMut, StateRef};

use crate::jobs::Jobs;
use crate::platform::Platform;
use crate::snapshot::{SnapshotData, SnapshotReceiver};
use crate::state_machine::{Location, Snapshot, StateMachineStore, StoreConfig};
use crate::store::redb::Home;
use crate::store::{StoreError, View};
use crate::tokio::{RealDisk, RealFile, TcpNet, TokioRuntime};
use crate::types::{Command, log_id_from, log_id_to, raft, stored_membership_from};

pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
pub type Store = StateMachineStore<TestPlatform>;
type WatchOf = <TokioRuntime as openraft_rt::AsyncRuntime>::Watch;
pub type DurableSender = <WatchOf as Watch>::Sender<Option<LogId>>;

/// A directory that goes with the test.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("quorate-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn names(&self) -> Vec<String> {
        RealDisk::default().list(&self.0).unwrap()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The real disk until a number of changes has been made; none afterwards, as if the process had been killed. It can
/// also be full: then nothing can be written, only synced, renamed and removed.
#[derive(Clone, Debug)]
pub struct CutDisk(Arc<AtomicI64>, Arc<AtomicBool>);

#[derive(Debug)]
pub struct CutFile(RealFile, CutDisk);

impl CutDisk {
    pub fn never() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)), Arc::default())
    }

    pub fn set_full(&self, full: bool) {
        self.1.store(full, Ordering::SeqCst);
    }

    fn space(&self) -> io::Result<()> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    pub fn cut_after(&self, changes: i64) {
        self.0.store(changes, Ordering::SeqCst);
    }

    fn change(&self) -> io::Result<()> {
        match self.0.fetch_sub(1, Ordering::SeqCst) {
            left if left > 0 => Ok(()),
            _ => Err(io::Error::other("cut off")),
        }
    }
}

impl File for CutFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.change()?;
        self.1.space()?;
        self.0.write_at(offset, data)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.change()?;
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.1.change()?;
        self.1.space()?;
        self.0.allocate(len)
    }
    fn sync(&self) -> io::Result<()> {
        // Only a process dies here, so syncing for real would cost time and prove nothing.
        self.1.change()
    }
}

impl Disk for CutDisk {
    type File = CutFile;
    type Wake = <RealDisk as Disk>::Wake;
    type Lock = <RealDisk as Disk>::Lock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<CutFile> {
        if matches!(mode, OpenMode::Create | OpenMode::CreateNew) {
            self.change()?;
        }
        Ok(CutFile(RealDisk::default().open(path, mode)?, self.clone()))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk::default().list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk::default().create_dir_all(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk::default().remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk::default().rename(from, to)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.change()
    }
    fn lock(&self, dir: &Path) -> io::Result<Self::Lock> {
        RealDisk::default().lock(dir)
    }
    fn start<W: Worker>(&self, name: &str, worker: W) -> Self::Wake {
        RealDisk::default().start(name, worker)
    }
}

#[derive(Clone, Debug)]
pub struct TestPlatform(CutDisk, TcpNet);

impl Platform for TestPlatform {
    type Runtime = TokioRuntime;
    type Disk = CutDisk;
    type Net = TcpNet;

    fn disk(&self) -> &CutDisk {
        &self.0
    }
    fn net(&self) -> &TcpNet {
        &self.1
    }
}

/// One change of a command: a key, and its new value unless it goes.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Does what its commands say and answers how many pairs there are, which it counts by a range over its own changes.
pub struct Script;

impl StateMachine for Script {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        for (key, value) in decode(command) {
            match value {
                Some(value) => state.put(key.into(), value.into()),
                None => state.delete(&key),
            }
        }
        let mut count = 0_u64;
        state.range(Bound::Unbounded, Bound::Unbounded, &mut |_, _| {
            count += 1;
            true
        });
        Bytes::copy_from_slice(&count.to_le_bytes())
    }
}

pub fn encode(changes: &[Change]) -> Bytes {
    let mut out = vec![];
    for (key, value) in changes {
        let value_len = value.as_ref().map_or(0, |v| v.len() as u32 + 1);
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(value_len.to_le_bytes());
        out.extend(key);
        out.extend(value.iter().flatten());
    }
    out.into()
}

fn decode(mut bytes: &[u8]) -> Vec<Change> {
    let mut out = vec![];
    while let Some((lens, rest)) = bytes.split_first_chunk::<8>() {
        let len = |at: usize| u32::from_le_bytes(lens[at..at + 4].try_into().unwrap()) as usize;
        let (key, rest) = rest.split_at(len(0));
        let (value, rest) = rest.split_at(len(4).saturating_sub(1));
        out.push((key.to_vec(), (len(4) > 0).then(|| value.to_vec())));
        bytes = rest;
    }
    out
}

pub fn change_model(model: &mut Pairs, changes: &[Change]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    ::tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub const ALL_DURABLE: Option<LogId> = Some(LogId::new(u64::MAX, u64::MAX));

/// A store's directory with a worker of its own.
pub fn home(disk: &CutDisk, dir: &Path) -> Home<CutDisk> {
    Home { jobs: Jobs::start(disk, "store"), dir: dir.to_owned(), reserve: None, cache_bytes: 1 << 20 }
}

/// What a snapshot says that it covers.
pub fn manifest(snapshot: &Snapshot) -> Manifest {
    Manifest {
        applied: snapshot.meta.last_log_id.as_ref().map(log_id_from),
        membership: stored_membership_from(&snapshot.meta.last_membership),
    }
}

/// A store and the log's end of its watch.
pub struct Rig {
    pub store: Store,
    pub durable: DurableSender,
}

impl Rig {
    /// In memory without a directory.
    pub async fn open(dir: Option<(&CutDisk, &TempDir)>) -> Result<Self, StoreError> {
        let location = match dir {
            None => Location::Memory,
            Some((disk, dir)) => Location::Dir(home(disk, &dir.0)),
        };
        let (durable, watch) = WatchOf::channel(ALL_DURABLE);
        let dirty_bytes_max = StoreConfig::default().dirty_bytes_max;
        let store = StateMachineStore::open(location, dirty_bytes_max, Arc::new(Script), watch).await?;
        Ok(Self { store, durable })
    }

    pub async fn apply(&mut self, index: u64, changes: &[Change]) {
        self.apply_payload(index, raft::Payload::Normal(Command(encode(changes)))).await.unwrap();
    }

    pub async fn apply_payload(&mut self, index: u64, payload: raft::Payload) -> io::Result<()> {
        let entry = raft::Entry { log_id: log_id_to(LogId::new(1, index)), payload };
        self.store.apply(futures_util::stream::iter([Ok((entry, None))])).await
    }

    pub async fn build(&mut self) -> io::Result<Snapshot> {
        self.store.get_snapshot_builder().await.build_snapshot().await
    }

    /// Sends a snapshot to this store the way the network does.
    pub async fn receive(&mut self, snapshot: &Snapshot) -> SnapshotData {
        let mut receiver = SnapshotReceiver::new(&self.store, manifest(snapshot));
        let mut reader = snapshot.snapshot.chunks().unwrap();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            receiver.chunk(chunk).await.unwrap();
        }
        receiver.finish(reader.trailer()).await.unwrap()
    }

    /// Drops the store and waits until its disk worker has closed the file.
    pub async fn close(self) {
        let jobs = self.store.staging_place().map(|(home, _)| home.jobs);
        drop(self.store);
        if let Some(jobs) = jobs {
            jobs.run(|_| ()).await.unwrap();
        }
    }
}

/// All pairs of a view.
pub fn pairs(view: &View) -> Pairs {
    pairs_between(view, Bound::Unbounded, Bound::Unbounded)
}

pub fn pairs_between(view: &View, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs {
    let mut out = Pairs::new();
    view.range(from, to, &mut |key, value| {
        assert!(out.last_key_value().is_none_or(|(last, _)| last.as_slice() < &key[..]), "keys rise");
        out.insert(key.to_vec(), value.to_vec());
        true
    });
    view.check().unwrap();
    out
}

//! The Disk seam: a disk with a cache, a medium, and time.
//!
//! ```text
//!   Worker::work()           executed          in effect            durable
//!   ───────────────▶ journal ────────▶ virtual ─────────▶ unsynced ─────────▶ medium
//!     all at once,            time passes      any part of it      sync takes
//!     reads see it            op by op         may be lost         effect
//!                     ◀── kill undoes ──▶      ◀── power loss ──▶
//! ```
//!
//! A step of a worker runs synchronously; each operation is visible at once, and recorded with its undo and with the
//! virtual time at which it takes effect. Nobody needs to be awake at those times: operations are settled, in the
//! order of their times, when the step is over or when a kill cuts it.

mod image;
mod points;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker};

use self::image::Change;
pub use self::points::{Act, CRASH_POINTS, CrashPoint, FileClass};
pub use self::state::{Failure, Trap, TrapKind};
use self::state::{Inode, State};
use super::clock::{Sleep, global_now, nanos};
use crate::Trace;

/// How fast a disk is and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskProfile {
    /// What any operation takes at least, nanoseconds.
    pub op_ns: u64,
    /// What a write takes beyond that, nanoseconds per KiB.
    pub write_ns_per_kib: u64,
    /// What a sync takes at least, nanoseconds.
    pub sync_ns_min: u64,
    /// What a sync takes at most, nanoseconds; most are near the least.
    pub sync_ns_max: u64,
    /// What a sync takes beyond that for each KiB that it has to write, nanoseconds.
    pub flush_ns_per_kib: u64,
    /// How many of 1000 syncs stall.
    pub stall_per_mille: u32,
    /// How long such a stall lasts at most, nanoseconds.
    pub stall_ns_max: u64,
    /// Space in bytes; none is endless.
    pub capacity_bytes: Option<u64>,
}

impl Default for DiskProfile {
    /// A good SSD: syncs of 50 µs to 2 ms, one in 200 stalls for up to 50 ms.
    fn default() -> Self {
        Self {
            op_ns: 2_000,
            write_ns_per_kib: 60,
            sync_ns_min: 50_000,
            sync_ns_max: 2_000_000,
            flush_ns_per_kib: 500,
            stall_per_mille: 5,
            stall_ns_max: 50_000_000,
            capacity_bytes: None,
        }
    }
}

/// What happened to a disk, faults above all. A fault that hit nothing counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Writes and length changes that took effect.
    pub writes: u64,
    /// Syncs of files and directories that took effect.
    pub syncs: u64,
    /// Operations that a kill undid.
    pub undone: u64,
    /// Unsynced writes of a sector that a power loss or a failed sync kept.
    pub sectors_kept: u64,
    /// Unsynced writes of a sector that a power loss or a failed sync lost.
    pub sectors_lost: u64,
    /// Writes in flight that a power loss cut between two bytes.
    pub torn_writes: u64,
    /// Directory changes that a power loss or a failed sync lost.
    pub entries_lost: u64,
    /// Syncs that failed by injection.
    pub failed_syncs: u64,
    /// Writes that failed by injection.
    pub failed_writes: u64,
    /// Operations refused for want of space.
    pub refused_for_space: u64,
    /// Syncs that stalled, and injected stalls.
    pub stalls: u64,
    /// Bytes changed behind everybody's back.
    pub damaged_bytes: u64,
    /// Synced writes of which a block never got to the medium.
    pub lost_writes: u64,
    /// Those of them whose block overwrote another.
    pub misdirected_writes: u64,
    /// How often a kill or a power loss cut the journal at each of [`CRASH_POINTS`].
    pub points: BTreeMap<&'static str, u64>,
}

/// How damage changes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garble {
    /// Turns over this bit of one byte.
    Flip(u32),
    /// Zeroes so many bytes.
    Zero(u64),
    /// Puts something arbitrary in the place of so many bytes.
    Noise(u64),
    /// Puts the block of the same file that begins there in the place of another.
    Copy(u64),
}

impl Garble {
    fn len(self) -> u64 {
        match self {
            Self::Flip(_) => 1,
            Self::Zero(len) | Self::Noise(len) => len,
            Self::Copy(_) => 4096,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Flip(_) => "flipped bit",
            Self::Zero(_) => "zeroed bytes",
            Self::Noise(_) => "garbled bytes",
            Self::Copy(_) => "another block",
        }
    }
}

/// Damage that was done to what a file holds: to what is on the medium, at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    /// The file, by the name it was created under or that it was damaged by.
    pub path: PathBuf,
    /// Of that name.
    pub class: FileClass,
    /// Which file had that name.
    pub file: u64,
    /// What was done to it.
    pub what: &'static str,
    /// The first byte.
    pub offset: u64,
    /// From the first byte to the last.
    pub len: u64,
}

/// A disk as a thing: it survives processes, and the harness does to it what happens to disks. Clones share it.
#[derive(Clone)]
pub struct Drive(Arc<Mutex<State>>);

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drive(n{})", self.lock().node)
    }
}

impl Drive {
    /// An empty disk of machine `node`. Its random stream is that of (`seed`, `node`).
    pub fn new(node: u32, seed: u64, profile: DiskProfile, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State::new(node, seed, profile, trace))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for a process that starts now. Ends the one before it, if it still runs.
    pub fn boot(&self) -> SimDisk {
        let mut state = self.lock();
        state.kill(global_now());
        SimDisk { drive: self.clone(), generation: state.generation }
    }

    /// The process is killed: operations that have not taken effect are undone, its handles are dead and its locks
    /// free. What took effect stays in the cache, synced or not.
    pub fn kill(&self) {
        self.lock().kill(global_now());
    }

    /// Kills the process and takes the power: of what was not synced, an arbitrary part is lost.
    pub fn power_loss(&self) {
        self.lock().power_loss(global_now());
    }

    /// Kills the process and empties the disk.
    pub fn wipe(&self) {
        self.lock().wipe(global_now());
    }

    /// From now on, nothing takes effect for so long.
    pub fn stall(&self, duration: Duration) {
        self.lock().stall(global_now(), nanos(duration));
    }

    /// From now on, and for so long, every sync of a file of this class takes `longer`.
    pub fn slow_syncs(&self, class: FileClass, longer: Duration, duration: Duration) {
        self.lock().slow_syncs = Some((class, nanos(longer), global_now() + nanos(duration)));
    }

    /// Sets how fast the disk is and how much it holds, from the next operation on.
    pub fn set_profile(&self, profile: DiskProfile) {
        self.lock().profile = profile;
    }

    /// The next `count` syncs fail: each lets an arbitrary part of what it should have written reach the medium, and
    /// the rest is clean in the cache and never written.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().fail_syncs = count;
    }

    /// The next `count` writes fail, after an arbitrary prefix of their bytes.
    pub fn fail_writes(&self, count: u32) {
        self.lock().fail_writes = count;
    }

    /// Sets a trap, beside those that are set.
    pub fn set_trap(&self, trap: Trap) {
        self.lock().traps.push(trap);
    }

    /// Takes all traps away, and with them the failures that were ordered.
    pub fn disarm(&self) {
        let mut state = self.lock();
        state.traps.clear();
        (state.fail_syncs, state.fail_writes) = (0, 0);
    }

    /// From when on nothing takes effect, in nanoseconds, and where that is, because a [`TrapKind::Cut`] went off. Kill
    /// the process or take the power then.
    pub fn cut(&self) -> Option<(u64, &'static CrashPoint)> {
        self.lock().cut.as_ref().map(|cut| (cut.at, cut.point))
    }

    /// Is woken when a trap has gone off.
    pub fn set_bell(&self, bell: SimWake) {
        self.lock().bell = bell;
    }

    /// What failed by injection since the process was started.
    pub fn failures(&self) -> Vec<Failure> {
        let state = self.lock();
        state.failures.iter().filter(|failure| failure.generation == state.generation).cloned().collect()
    }

    /// The process has opened all files of a class anew.
    pub fn opened_anew(&self, class: FileClass) {
        self.lock()
            .failures
            .iter_mut()
            .filter(|failure| failure.class == class)
            .for_each(|failure| failure.over = true);
    }

    /// All damage that was ever done.
    pub fn harms(&self) -> Vec<Harm> {
        self.lock().harms.clone()
    }

    /// Whether a write is to be lost and has not been.
    pub fn awaits_loss(&self) -> bool {
        self.lock().traps.iter().any(|trap| matches!(trap.kind, TrapKind::Lose { .. }))
    }

    /// Whether a file that was damaged still has a name, in the cache or on the medium.
    pub fn has_file(&self, file: u64) -> bool {
        self.lock().has_file(file)
    }

    /// Changes bytes of a file from `offset` on, on the medium, and in the cache too if `seen`; which ones changed. None
    /// where the cache holds something that is not on the medium, and none past the end.
    pub fn damage(&self, path: &Path, offset: u64, how: Garble, seen: bool) -> Vec<u64> {
        self.lock().damage(global_now(), path, offset, how, seen)
    }

    /// Drops from the cache what is clean.
    pub fn evict(&self) {
        self.lock().evict(global_now());
    }

    /// Bytes of disk space in use.
    pub fn used_bytes(&self) -> u64 {
        self.lock().space_of_others(None)
    }

    /// A file's content as a process would read it, for oracles.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = self.lock().find(path).ok()?;
        let cache = &inode.content().cache;
        Some(cache.first(cache.len))
    }

    /// Whether a path names the same file before and after a power loss.
    pub fn is_name_durable(&self, path: &Path) -> bool {
        let state = self.lock();
        let Ok(seen) = state.find(path) else { return false };
        state.durable_files().iter().any(|(name, file)| name == path && Arc::ptr_eq(file, &seen))
    }

    /// The files that no power loss takes and what each holds then, without the zeros behind the last page that was
    /// ever written. While operations are under way this is not what a process would see.
    pub fn durable(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.durable_where(|_| true)
    }

    /// Those of a class.
    pub fn durable_of(&self, class: FileClass) -> Vec<(PathBuf, Vec<u8>)> {
        self.durable_where(|path| FileClass::of(path) == class)
    }

    fn durable_where(&self, wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
        let read = |(path, inode): (PathBuf, Arc<Inode>)| {
            let medium = &inode.content().medium;
            (path, medium.first(medium.written_len()))
        };
        let mut files = self.lock().durable_files();
        files.retain(|(path, _)| wanted(path));
        files.into_iter().map(read).collect()
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().files()
    }

    /// What happened so far.
    pub fn counters(&self) -> DiskCounters {
        self.lock().counters.clone()
    }
}

/// One process's handle to a [`Drive`]. After a kill it does nothing and returns errors, whoever still holds it.
///
/// Whatever changes the disk must happen inside a [`Worker`] step, which is what gives it a time and an undo: outside
/// one it panics. Closing a file that was removed is such a change. Directories are an exception ([`Disk::create_dir_all`] is durable at once).
#[derive(Clone)]
pub struct SimDisk {
    drive: Drive,
    generation: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({:?}, boot {})", self.drive, self.generation)
    }
}

impl SimDisk {
    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.drive.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the process that opened this disk was killed"));
        }
        Ok(state)
    }

    fn settle(&self, step: u64) -> Option<u64> {
        self.drive.lock().settle_step(global_now(), step)
    }

    /// Runs a worker: a step at once, then the time that its operations take, then its completion.
    async fn drive<W: Worker>(self, wake: SimWake, mut worker: W) {
        loop {
            let Ok(step) = self.live().map(|mut state| state.begin_step(global_now())) else { return };
            let outcome = worker.work();
            self.drive.lock().end_step();
            while let Some(due) = self.settle(step) {
                Sleep::until_global(due).await;
            }
            if self.live().is_err() {
                return;
            }
            match outcome {
                Step::Done(done) => worker.done(done),
                Step::Idle => wake.wait().await,
                Step::Stop => return,
            }
        }
    }
}

/// See [`Wake`].
#[derive(Clone, Debug, Default)]
pub struct SimWake(Arc<Mutex<Woken>>);

#[derive(Debug, Default)]
struct Woken {
    woken: bool,
    worker: Option<Waker>,
}

impl SimWake {
    /// Until somebody calls [`Wake::wake`], or has since the last time.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut state.woken) {
                return Poll::Ready(());
            }
            state.worker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Wake for SimWake {
    fn wake(&self) {
        let worker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.woken = true;
            state.worker.take()
        };
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

/// Holds a directory's lock until dropped, or until its process is killed.
#[derive(Debug)]
pub struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.live() {
            state.locks.remove(&self.dir);
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Wake = SimWake;
    type Lock = SimLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let mut state = self.live()?;
        let inode = match (state.find(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), _) => inode,
            (Err(error), OpenMode::Read | OpenMode::Existing) => return Err(error),
            (Err(_), OpenMode::CreateNew | OpenMode::Create) => state.create(path)?,
        };
        drop(state);
        Ok(SimFile { disk: self.clone(), inode, writable: mode != OpenMode::Read })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.live()?.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.live()?.create_dir_all(dir);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.live()?.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live()?.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.live()?.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<SimLock> {
        let mut state = self.live()?;
        state.list(dir)?;
        if !state.locks.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(state);
        Ok(SimLock { disk: self.clone(), dir: dir.to_owned() })
    }

    fn start<W: Worker>(&self, _name: &str, worker: W) -> SimWake {
        let wake = SimWake::default();
        madsim::task::spawn(self.clone().drive(wake.clone(), worker));
        wake
    }
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: Arc<Inode>,
    writable: bool,
}

impl SimFile {
    fn change(&self, change: Change, reserve: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.live()?.change(&self.inode, change, reserve)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Ok(state) = self.disk.live()
            && !std::thread::panicking()
        {
            state.check_close(&self.inode);
        }
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _live = self.disk.live()?;
        Ok(self.inode.content().cache.read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset, data: Bytes::copy_from_slice(data) }, 0)
    }

    fn len(&self) -> io::Result<u64> {
        let _live = self.disk.live()?;
        Ok(self.inode.content().cache.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len), 0)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        self.change(Change::SetLen(now.max(len)), len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.live()?.sync(&self.inode)
    }
}

//! A disk that takes no time and remembers every state that its medium went through.
//!
//! A worker runs at once, inside the wake that rouses it, so a script decides the order of everything. After each
//! operation the disk keeps a [`Point`]: the medium with all that is not synced, from which the legal states after a
//! power loss follow.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker};
use quorate_core::log::format::{BATCH_HEADER_BYTES, BatchKind, decode_batch_header, parse_segment_name};

use super::Plant;
use super::content::Image;
use super::medium::Medium;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An instant at which the power may be lost.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// What happened last.
    pub(crate) what: String,
    /// The disk then.
    pub(crate) medium: Medium,
    /// How many of the recorder's marks had been made.
    pub(crate) marks: usize,
}

#[derive(Default)]
struct State {
    medium: Medium,
    /// Handles of an earlier process are dead.
    process: u64,
    /// So many operations take effect yet; then the process is dead.
    fuse: Option<u64>,
    /// After so many syncs, one fails.
    fail_sync: Option<u64>,
    record: bool,
    points: Vec<Point>,
    marks: usize,
    operations: u64,
    locked: BTreeSet<PathBuf>,
    /// Workers wait until they are let go.
    held: Option<Vec<Arc<dyn Run>>>,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    plant: Option<Plant>,
    hook: Mutex<Option<Hook>>,
}

/// A process's handle on the disk.
#[derive(Clone)]
pub(crate) struct RecordingDisk {
    shared: Arc<Shared>,
    process: u64,
}

impl fmt::Debug for RecordingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordingDisk(process {})", self.process)
    }
}

impl RecordingDisk {
    pub(crate) fn new(image: &Image, plant: Option<Plant>) -> Self {
        let state = State { medium: Medium::from_image(image), ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), plant, hook: Mutex::new(None) }), process: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// The disk for the next process; the one before is dead, and the cache outlives it.
    pub(crate) fn kill(&self) -> Self {
        let mut state = self.lock();
        state.process += 1;
        (state.fuse, state.fail_sync) = (None, None);
        state.locked.clear();
        let held = state.held.take();
        let process = state.process;
        drop(state);
        drop(held);
        *lock(&self.shared.hook) = None;
        Self { shared: self.shared.clone(), process }
    }

    /// The disk for the next process, after a power loss that left `image`.
    pub(crate) fn power_loss(&self, image: &Image) -> Self {
        let disk = self.kill();
        disk.lock().medium = Medium::from_image(image);
        disk
    }

    /// From now on every state is remembered.
    pub(crate) fn record(&self) {
        let mut state = self.lock();
        state.record = true;
        state.point(|| "the beginning".to_owned());
    }

    /// Something that the outside was told, or began. Its number is how many there were before.
    pub(crate) fn mark(&self, what: &str) {
        let mut state = self.lock();
        state.marks += 1;
        state.point(|| what.to_owned());
    }

    pub(crate) fn take_points(&self) -> Vec<Point> {
        std::mem::take(&mut self.lock().points)
    }

    pub(crate) fn medium(&self) -> Medium {
        self.lock().medium.clone()
    }

    /// Operations that changed anything, so far.
    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The process dies after so many more operations.
    pub(crate) fn kill_after(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// After so many more syncs, of files and directories, one fails: what it should have written is clean in the
    /// cache.
    pub(crate) fn fail_sync_after(&self, syncs: u64) {
        self.lock().fail_sync = Some(syncs);
    }

    /// Called whenever a worker has published an outcome.
    pub(crate) fn set_hook(&self, hook: Hook) {
        *lock(&self.shared.hook) = Some(hook);
    }

    /// Workers wait from now on.
    pub(crate) fn hold(&self) {
        self.lock().held = Some(Vec::new());
    }

    /// Lets the workers go that were roused meanwhile, the last one first: nobody may rely on another being faster.
    pub(crate) fn release(&self) {
        let held = self.lock().held.take();
        held.into_iter().flatten().rev().for_each(|worker| worker.run());
    }

    fn planted(&self, plant: Plant) -> bool {
        self.shared.plant == Some(plant)
    }

    fn change<T>(
        &self,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        self.alive(&state)?;
        if let Some(left) = &mut state.fuse {
            if *left == 0 {
                state.process += 1;
                return Err(dead());
            }
            *left -= 1;
        }
        let done = change(&mut state)?;
        state.operations += 1;
        state.point(what);
        Ok(done)
    }

    fn alive(&self, state: &State) -> io::Result<()> {
        if state.process == self.process { Ok(()) } else { Err(dead()) }
    }
}

fn dead() -> io::Error {
    io::Error::other("this process is dead")
}

impl State {
    fn sync_fails(&mut self) -> bool {
        let left = self.fail_sync;
        self.fail_sync = left.and_then(|left| left.checked_sub(1));
        left == Some(0)
    }

    fn point(&mut self, what: impl FnOnce() -> String) {
        if self.record {
            self.points.push(Point { what: what(), medium: self.medium.clone(), marks: self.marks });
        }
    }
}

fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(dir), Some(name)) => Ok((dir, name)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn name(path: &Path) -> &str {
    parts(path).map_or("", |(_, name)| name)
}

/// An open file.
#[derive(Debug)]
pub(crate) struct RecordingFile {
    disk: RecordingDisk,
    path: PathBuf,
    inode: u64,
    writable: bool,
}

impl RecordingFile {
    fn segment(&self) -> Option<u64> {
        parse_segment_name(name(&self.path))
    }

    fn change<T>(
        &self,
        what: impl FnOnce(&str) -> String,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.change(|| what(name(&self.path)), change)
    }

    /// Whether a broken disk swallows this write.
    fn swallows(&self, state: &State, offset: u64, data: &[u8]) -> bool {
        let Some(segment) = self.segment().filter(|_| state.record) else { return false };
        if self.disk.planted(Plant::SealsAreLost) && data.len() >= BATCH_HEADER_BYTES {
            let mut uuid = [0; 16];
            uuid.copy_from_slice(&data[8..24]);
            let header = decode_batch_header(u128::from_le_bytes(uuid), segment, offset, data);
            return header.is_ok_and(|header| header.kind == BatchKind::Seal && offset > 3 * 4096);
        }
        if self.disk.planted(Plant::RewritesAreSkipped) {
            let mut there = vec![0; data.len()];
            let got = state.medium.content(self.inode).read(offset, &mut there);
            return got == data.len() && there == data;
        }
        false
    }
}

impl File for RecordingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.lock();
        self.disk.alive(&state)?;
        Ok(state.medium.content(self.inode).read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let what = |name: &str| format!("{name}: write {} bytes at {offset}", data.len());
        self.change(what, |state| {
            if !self.swallows(state, offset, data) {
                state.medium.write(self.inode, offset, data);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        self.disk.alive(&state)?;
        Ok(state.medium.content(self.inode).len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(
            |name| format!("{name}: set length {len}"),
            |state| {
                state.medium.set_len(self.inode, len);
                Ok(())
            },
        )
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(
            |name| format!("{name}: allocate {len}"),
            |state| {
                let len = state.medium.content(self.inode).len().max(len);
                state.medium.set_len(self.inode, len);
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        let what = |name: &str| format!("{name}: sync");
        self.change(what, |state| {
            if state.sync_fails() {
                state.medium.sync_failed(self.inode);
                return Err(io::Error::other("the sync failed"));
            }
            let log = self.segment().is_some();
            match self.disk.shared.plant.filter(|_| state.record) {
                Some(Plant::LogSyncsAreLies) if log => {}
                Some(Plant::StoreSyncsAreLies) if !log => {}
                Some(Plant::SyncForgetsASector) if log => state.medium.sync_badly(self.inode),
                _ => state.medium.sync(self.inode),
            }
            Ok(())
        })
    }
}

impl Disk for RecordingDisk {
    type File = RecordingFile;
    type Wake = Rouse;
    type Lock = ();

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<RecordingFile> {
        let (dir, name) = parts(path)?;
        let found = {
            let state = self.lock();
            self.alive(&state)?;
            state.medium.find(dir, name)
        };
        let inode = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, OpenMode::Read | OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => self.change(
                || format!("{name}: create"),
                |state| {
                    let inode = state.medium.create();
                    let linked = state.medium.link(dir, name, Some(inode));
                    if linked { Ok(inode) } else { Err(io::ErrorKind::NotFound.into()) }
                },
            )?,
        };
        Ok(RecordingFile { disk: self.clone(), path: path.to_owned(), inode, writable: mode != OpenMode::Read })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        self.alive(&state)?;
        state.medium.list(dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if self.lock().medium.list(dir).is_some() {
            return Ok(());
        }
        self.change(
            || format!("{}: make directory", dir.display()),
            |state| {
                dir.ancestors().filter(|dir| dir.parent().is_some()).for_each(|dir| state.medium.make_dir(dir));
                Ok(())
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = parts(path)?;
        self.change(
            || format!("{name}: remove"),
            |state| {
                state.medium.find(dir, name).ok_or(io::ErrorKind::NotFound)?;
                state.medium.link(dir, name, None);
                Ok(())
            },
        )
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((dir, from), (_, to)) = (parts(from)?, parts(to)?);
        self.change(
            || format!("{from}: rename to {to}"),
            |state| {
                let inode = state.medium.find(dir, from).ok_or(io::ErrorKind::NotFound)?;
                state.medium.link(dir, from, None);
                state.medium.link(dir, to, Some(inode));
                Ok(())
            },
        )
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(
            || format!("{}: sync directory", dir.display()),
            |state| {
                if state.sync_fails() {
                    state.medium.sync_dir_failed(dir);
                    return Err(io::Error::other("the sync of the directory failed"));
                }
                let lie = state.record && self.planted(Plant::DirectorySyncsAreLies);
                if lie || state.medium.sync_dir(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
            },
        )
    }

    fn lock(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        self.alive(&state)?;
        if state.locked.insert(dir.to_owned()) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn start<W: Worker>(&self, _name: &str, worker: W) -> Rouse {
        let runner = Runner { worker: Mutex::new(Some(worker)), turn: Mutex::new(Turn::Rests), disk: self.clone() };
        let rouse = Rouse(Arc::new(runner));
        rouse.wake();
        rouse
    }
}

trait Run: Send + Sync {
    fn run(self: Arc<Self>);
}

/// Rouses a worker: runs it, here and now.
#[derive(Clone)]
pub(crate) struct Rouse(Arc<dyn Run>);

impl fmt::Debug for Rouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rouse")
    }
}

impl Wake for Rouse {
    fn wake(&self) {
        self.0.clone().run();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Rests,
    Runs,
    /// Roused while it ran, by itself.
    Again,
}

struct Runner<W> {
    worker: Mutex<Option<W>>,
    turn: Mutex<Turn>,
    disk: RecordingDisk,
}

impl<W: Worker> Runner<W> {
    fn work(&self) {
        let mut slot = lock(&self.worker);
        while let Some(worker) = slot.as_mut() {
            *lock(&self.turn) = Turn::Runs;
            match worker.work() {
                Step::Done(done) => {
                    worker.done(done);
                    let hook = lock(&self.disk.shared.hook).clone();
                    if let Some(hook) = hook {
                        hook();
                    }
                }
                Step::Idle if *lock(&self.turn) == Turn::Again => {}
                Step::Idle => return,
                Step::Stop => {
                    let gone = slot.take();
                    drop(slot);
                    drop(gone);
                    return;
                }
            }
        }
    }
}

impl<W: Worker> Run for Runner<W> {
    fn run(self: Arc<Self>) {
        if let Some(held) = &mut self.disk.lock().held {
            held.push(self.clone());
            return;
        }
        {
            let mut turn = lock(&self.turn);
            if *turn != Turn::Rests {
                *turn = Turn::Again;
                return;
            }
            *turn = Turn::Runs;
        }
        self.work();
        *lock(&self.turn) = Turn::Rests;
    }
}

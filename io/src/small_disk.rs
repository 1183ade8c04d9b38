//! For tests: the real disk with a limited capacity of its own, and a platform over it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use quorate_core::disk::{Disk, File, OpenMode, Worker};

use crate::jobs::lock;
use crate::platform::Platform;
use crate::tokio::{RealDisk, RealFile, TcpNet, TokioRuntime};

#[derive(Debug)]
struct Space {
    capacity: u64,
    /// What each file takes, whether written or reserved.
    files: BTreeMap<PathBuf, u64>,
    /// Syncs fail for want of space, as they do where it is only found at write-back.
    sync_fails: bool,
    /// Syncs do not return.
    hangs: bool,
}

/// Counts the files directly in a data directory, those of the store not: the store has tests of its own for this.
#[derive(Clone, Debug)]
pub struct SmallDisk(Arc<Mutex<Space>>, Arc<Condvar>);

#[derive(Debug)]
pub struct SmallFile {
    file: RealFile,
    path: PathBuf,
    disk: SmallDisk,
}

impl SmallDisk {
    pub fn new(capacity: u64) -> Self {
        let space = Space { capacity, files: BTreeMap::new(), sync_fails: false, hangs: false };
        Self(Arc::new(Mutex::new(space)), Arc::default())
    }

    /// Another program takes space, or gives it back. May be less than what is used.
    pub fn set_capacity(&self, capacity: u64) {
        lock(&self.0).capacity = capacity;
    }

    /// Leaves no space at all.
    pub fn fill(&self) {
        let mut space = lock(&self.0);
        space.capacity = space.files.values().sum();
    }

    /// What is left of it.
    pub fn room(&self) -> u64 {
        let space = lock(&self.0);
        space.capacity.saturating_sub(space.files.values().sum())
    }

    pub fn fail_syncs(&self) {
        lock(&self.0).sync_fails = true;
    }

    /// From now on syncs do not return, or do again.
    pub fn hang(&self, hangs: bool) {
        lock(&self.0).hangs = hangs;
        self.1.notify_all();
    }

    pub fn len_of(&self, name: &str) -> u64 {
        let space = lock(&self.0);
        space.files.iter().filter(|(path, _)| path.ends_with(name)).map(|(_, len)| len).sum()
    }

    fn resize(&self, path: &Path, len: u64) -> io::Result<()> {
        if path.components().any(|part| part.as_os_str() == "store") {
            return Ok(());
        }
        let mut space = lock(&self.0);
        let before = space.files.get(path).copied().unwrap_or(0);
        let total: u64 = space.files.values().sum();
        if len > before && total - before + len > space.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        space.files.insert(path.to_owned(), len);
        Ok(())
    }
}

impl SmallFile {
    fn grow(&self, len: u64) -> io::Result<()> {
        let now = self.file.len()?;
        if len > now { self.disk.resize(&self.path, len) } else { Ok(()) }
    }
}

impl File for SmallFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.grow(offset + data.len() as u64)?;
        self.file.write_at(offset, data)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.resize(&self.path, len)?;
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let now = self.file.len()?;
        if let Err(error) = self.grow(len) {
            // As ext4 does it: what there was is taken, and the caller's to give back.
            let room = self.disk.room();
            self.disk.resize(&self.path, now + room)?;
            self.file.set_len(now + room)?;
            return Err(error);
        }
        self.file.set_len(now.max(len))
    }
    fn sync(&self) -> io::Result<()> {
        let hung = lock(&self.disk.0);
        let space = self.disk.1.wait_while(hung, |space| space.hangs).unwrap_or_else(PoisonError::into_inner);
        if space.sync_fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for SmallDisk {
    type File = SmallFile;
    type Wake = <RealDisk as Disk>::Wake;
    type Lock = <RealDisk as Disk>::Lock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SmallFile> {
        Ok(SmallFile { file: RealDisk::default().open(path, mode)?, path: path.to_owned(), disk: self.clone() })
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk::default().list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk::default().create_dir_all(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk::default().remove(path)?;
        lock(&self.0).files.remove(path);
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk::default().rename(from, to)?;
        let mut space = lock(&self.0);
        if let Some(len) = space.files.remove(from) {
            space.files.insert(to.to_owned(), len);
        }
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, dir: &Path) -> io::Result<Self::Lock> {
        RealDisk::default().lock(dir)
    }
    fn start<W: Worker>(&self, name: &str, worker: W) -> Self::Wake {
        RealDisk::default().start(name, worker)
    }
}

#[derive(Clone, Debug)]
pub struct SmallPlatform {
    disk: SmallDisk,
    net: TcpNet,
}

impl SmallPlatform {
    pub fn new(disk: &SmallDisk) -> Self {
        Self { disk: disk.clone(), net: TcpNet }
    }
}

impl Platform for SmallPlatform {
    type Runtime = TokioRuntime;
    type Disk = SmallDisk;
    type Net = TcpNet;

    fn disk(&self) -> &SmallDisk {
        &self.disk
    }
    fn net(&self) -> &TcpNet {
        &self.net
    }
}

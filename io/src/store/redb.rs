//! The base on disk: one redb file per generation, behind the disk seam.
//!
//! ```text
//! CURRENT                which store file counts; replaced atomically
//! store-<n>.redb         table `state`: the pairs; table `meta`: what follows
//! incoming-<n>.snap      chunks of a snapshot that is being received; worth nothing after a restart
//!
//! CURRENT  0        4         6      8            16       20
//!          +--------+---------+------+------------+--------+
//!          | "QCUR" | version | 0    | generation | crc32c |     little-endian, crc32c over bytes 0..16
//!          +--------+---------+------+------------+--------+
//!
//! meta     "format"      u16, little-endian
//!          "generation"  u64, little-endian: the file's own <n>
//!          "manifest"    D and the membership there (quorate_core::snapshot::Manifest)
//! ```
//!
//! Everything in this file that takes a `Disk` or a write transaction runs inside a worker's step. redb verifies the
//! checksums of its pages when the file is opened ([`Options::verify`]), not on ordinary reads. Commits are two-phase,
//! so that redb reports a damaged newest commit instead of falling back to the one before it.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use bytes::Bytes;
use quorate_core::disk::{Disk, File, OpenMode, confirm_file, read_file, replace_file};
use quorate_core::snapshot::Manifest;

use super::{Freeze, StoreError};
use crate::jobs::Jobs;

const STATE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

const FORMAT_VERSION: u16 = 1;
const FIRST_GENERATION: u64 = 1;
const CURRENT: &str = "CURRENT";
const CURRENT_MAGIC: [u8; 4] = *b"QCUR";
const CURRENT_BYTES: usize = 20;

/// How to open a store file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// redb's cache in bytes.
    pub(crate) cache_bytes: usize,
    /// Whether to read and check every page at open.
    pub(crate) verify: bool,
}

/// Where a received snapshot number `n` is put until it is installed.
pub(crate) fn incoming_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("incoming-{n}.snap"))
}

fn store_name(generation: u64) -> String {
    format!("store-{generation}.redb")
}

/// redb's view of a file. Once the fence is up nothing is written through it any more.
#[derive(Debug)]
struct Backend<F> {
    file: F,
    fence: Arc<AtomicBool>,
}

impl<F> Backend<F> {
    fn writable(&self) -> io::Result<&F> {
        if self.fence.load(Ordering::Acquire) {
            return Err(io::Error::other("this store file is no longer the current one"));
        }
        Ok(&self.file)
    }
}

impl<F: File> StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(offset, out)? {
            got if got == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?.write_at(offset, data)
    }
}

/// Names the file in redb's errors.
trait At<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<::redb::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| match error.into() {
            ::redb::Error::Io(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                StoreError::damaged(path, e.to_string())
            }
            ::redb::Error::Io(e) => StoreError::io(path, e),
            ::redb::Error::UpgradeRequired(version) => {
                StoreError::UnknownVersion { file: path.to_owned(), version: version.into() }
            }
            ::redb::Error::PreviousIo => StoreError::io(path, io::Error::other("an earlier operation on it failed")),
            other => StoreError::damaged(path, other.to_string()),
        })
    }
}

/// A database inside a closing job. If that job is never run, the database must not write as it goes.
struct Closing {
    database: Option<Database>,
    fence: Arc<AtomicBool>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.fence.store(true, Ordering::Release);
        self.database = None;
    }
}

/// An open store file, shared by the views into it. Dropping redb's handle writes, so the last view to go leaves that
/// to the disk worker.
struct OpenFile {
    path: PathBuf,
    generation: u64,
    database: Option<Database>,
    fence: Arc<AtomicBool>,
    /// Another file took this one's place, durably.
    superseded: AtomicBool,
    /// Hands the database to the disk worker; the flag says whether to remove the file.
    close: Box<dyn Fn(Closing, bool) + Send + Sync>,
}

impl OpenFile {
    fn database(&self) -> &Database {
        self.database.as_ref().expect("taken by drop only")
    }

    fn fenced(&self) -> bool {
        self.fence.load(Ordering::Acquire)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let closing = Closing { database: self.database.take(), fence: self.fence.clone() };
        (self.close)(closing, self.superseded.load(Ordering::Acquire));
    }
}

/// The pairs of a store file as they were at one commit.
pub(crate) struct RedbView {
    // Before the file: redb closes the database when its handle goes, and this must not be open then.
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    file: Arc<OpenFile>,
}

impl fmt::Debug for RedbView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedbView({})", self.file.path.display())
    }
}

impl RedbView {
    /// From now on nothing is written to the file.
    pub(crate) fn fence(&self) {
        self.file.fence.store(true, Ordering::Release);
    }

    fn new(file: Arc<OpenFile>) -> Result<Self, StoreError> {
        let read = file.database().begin_read().at(&file.path)?;
        let table = read.open_table(STATE).at(&file.path)?;
        Ok(Self { table, file })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = ReadableTable::get(&self.table, key).at(&self.file.path)?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + use<'a>, StoreError> {
        let pairs = ReadOnlyTable::range::<&[u8]>(&self.table, (from, to)).at(&self.file.path)?;
        Ok(pairs.map(|pair| {
            let (key, value) = pair.at(&self.file.path)?;
            Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
        }))
    }
}

/// What [`open`] found, or made.
pub(crate) struct Opened {
    pub(crate) view: RedbView,
    pub(crate) generation: u64,
    pub(crate) manifest: Manifest,
}

/// Opens the current store file of `dir`, or makes the first; removes what an interrupted install or receive left.
pub(crate) fn open<D: Disk>(disk: &D, dir: &Path, options: Options, jobs: &Jobs<D>) -> Result<Opened, StoreError> {
    disk.create_dir_all(dir).map_err(|e| StoreError::io(dir, e))?;
    let names = disk.list(dir).map_err(|e| StoreError::io(dir, e))?;
    let current = dir.join(CURRENT);
    // What is seen here may not have reached the medium: a removal must not overtake the switch that allows it.
    let generation = if names.iter().any(|name| name == CURRENT) {
        let bytes = read_file(disk, &current).map_err(|e| StoreError::io(&current, e))?;
        let generation = decode_current(&current, &bytes)?;
        confirm_file(disk, &current, &bytes).map_err(|e| StoreError::io(&current, e))?;
        Some(generation)
    } else {
        disk.sync_dir(dir).map_err(|e| StoreError::io(dir, e))?;
        None
    };
    for name in &names {
        let incoming = name.starts_with("incoming-") && name.ends_with(".snap");
        let store = name.starts_with("store-") && name.ends_with(".redb");
        let path = dir.join(name);
        if store && generation.is_none() && *name != store_name(FIRST_GENERATION) {
            return Err(StoreError::damaged(&path, format!("{CURRENT}, which says whether it counts, is missing")));
        }
        let counts = generation.is_some_and(|n| *name == store_name(n));
        // The pointer that was just confirmed has used up its temporary file.
        let leftover = name == "CURRENT.new" && generation.is_none();
        if incoming || (store && !counts) || leftover {
            disk.remove(&path).map_err(|e| StoreError::io(&path, e))?;
        }
    }
    match generation {
        Some(generation) => open_existing(disk, dir, generation, options, jobs),
        None => {
            let file = create(disk, dir, FIRST_GENERATION, options, jobs)?;
            let manifest = Manifest::default();
            fill(&file, &manifest, |_| Ok(()))?;
            switch(disk, dir, FIRST_GENERATION)?;
            Ok(Opened { view: RedbView::new(Arc::new(file))?, generation: FIRST_GENERATION, manifest })
        }
    }
}

fn encode_current(generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CURRENT_BYTES);
    bytes.extend(CURRENT_MAGIC);
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(generation.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode_current(path: &Path, bytes: &[u8]) -> Result<u64, StoreError> {
    let version = bytes.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    if bytes.starts_with(&CURRENT_MAGIC)
        && let Some(version) = version
        && version != FORMAT_VERSION
    {
        return Err(StoreError::UnknownVersion { file: path.to_owned(), version: version.into() });
    }
    let generation = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match generation {
        Some(generation) if bytes == encode_current(generation) => Ok(generation),
        _ => Err(StoreError::damaged(path, "its bytes are not what was written")),
    }
}

/// Makes `generation` the one that counts, atomically and durably.
fn switch<D: Disk>(disk: &D, dir: &Path, generation: u64) -> Result<(), StoreError> {
    disk.sync_dir(dir).map_err(|e| StoreError::io(dir, e))?;
    let current = dir.join(CURRENT);
    replace_file(disk, &current, &encode_current(generation)).map_err(|e| StoreError::io(&current, e))
}

/// Opens redb on a file; writes, because redb does.
fn open_file<D: Disk>(
    disk: &D,
    dir: &Path,
    generation: u64,
    mode: OpenMode,
    options: Options,
    jobs: &Jobs<D>,
) -> Result<OpenFile, StoreError> {
    let path = dir.join(store_name(generation));
    let file = match disk.open(&path, mode) {
        Ok(file) => file,
        Err(e) if mode == OpenMode::Existing && e.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(&path, format!("{CURRENT} names it, and it is missing")));
        }
        Err(e) => return Err(StoreError::io(&path, e)),
    };
    let fence = Arc::new(AtomicBool::new(false));
    let backend = Backend { file, fence: fence.clone() };
    // redb answers most damage by an error, but some by a panic.
    let database = catch_unwind(AssertUnwindSafe(|| {
        let repaired = Arc::new(AtomicBool::new(false));
        let note = repaired.clone();
        let mut database = Database::builder()
            .set_cache_size(options.cache_bytes)
            .set_repair_callback(move |_| note.store(true, Ordering::Relaxed))
            .create_with_backend(backend)
            .at(&path)?;
        // A repair has just verified every page.
        if mode == OpenMode::Existing && options.verify && !repaired.load(Ordering::Relaxed) {
            database.check_integrity().at(&path)?;
        }
        Ok(database)
    }))
    .unwrap_or_else(|_| Err(StoreError::damaged(&path, "redb cannot make sense of it")))?;
    let (jobs, doomed) = (jobs.clone(), path.clone());
    let close = Box::new(move |closing: Closing, remove: bool| {
        let doomed = doomed.clone();
        jobs.post(move |disk| {
            let mut closing = closing;
            closing.database = None;
            if remove {
                // It stays a leftover if this fails, and the next open removes it.
                let _ = disk.remove(&doomed);
            }
        });
    });
    let superseded = AtomicBool::new(false);
    Ok(OpenFile { path, generation, database: Some(database), fence, superseded, close })
}

fn create<D: Disk>(
    disk: &D,
    dir: &Path,
    generation: u64,
    options: Options,
    jobs: &Jobs<D>,
) -> Result<OpenFile, StoreError> {
    let path = dir.join(store_name(generation));
    match disk.remove(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&path, e)),
        _ => open_file(disk, dir, generation, OpenMode::CreateNew, options, jobs),
    }
}

fn open_existing<D: Disk>(
    disk: &D,
    dir: &Path,
    generation: u64,
    options: Options,
    jobs: &Jobs<D>,
) -> Result<Opened, StoreError> {
    let file = open_file(disk, dir, generation, OpenMode::Existing, options, jobs)?;
    let read = file.database().begin_read().at(&file.path)?;
    let meta = read.open_table(META).at(&file.path)?;
    let manifest = read_meta(&file, &meta)?;
    drop((meta, read));
    Ok(Opened { view: RedbView::new(Arc::new(file))?, generation, manifest })
}

/// Checks that the file is what its name says, and returns what it covers.
fn read_meta(file: &OpenFile, meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Manifest, StoreError> {
    let read = |key: &str| -> Result<Vec<u8>, StoreError> {
        let value = meta.get(key).at(&file.path)?;
        let value = value.ok_or_else(|| StoreError::damaged(&file.path, format!("it has no {key}")))?;
        Ok(value.value().to_vec())
    };
    let format = read("format")?;
    if format != FORMAT_VERSION.to_le_bytes() {
        let version = format.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        return Err(StoreError::UnknownVersion { file: file.path.clone(), version });
    }
    if read("generation")? != file.generation.to_le_bytes() {
        return Err(StoreError::damaged(&file.path, "it is the file of another generation"));
    }
    Manifest::decode(&read("manifest")?).map_err(|e| StoreError::undecodable(&file.path, e))
}

fn begin_write(file: &OpenFile) -> Result<WriteTransaction, StoreError> {
    let mut write = file.database().begin_write().at(&file.path)?;
    write.set_durability(Durability::Immediate).at(&file.path)?;
    write.set_two_phase_commit(true);
    Ok(write)
}

/// Puts what `pairs` inserts and the manifest into a new file, in one durable transaction.
fn fill(
    file: &OpenFile,
    manifest: &Manifest,
    pairs: impl FnOnce(&mut dyn FnMut(&Bytes, &Bytes) -> Result<(), StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let write = begin_write(file)?;
    {
        let mut state = write.open_table(STATE).at(&file.path)?;
        pairs(&mut |key, value| state.insert(&**key, &**value).map(drop).at(&file.path))?;
        let mut meta = write.open_table(META).at(&file.path)?;
        meta.insert("format", &FORMAT_VERSION.to_le_bytes()[..]).at(&file.path)?;
        meta.insert("generation", &file.generation.to_le_bytes()[..]).at(&file.path)?;
        meta.insert("manifest", &*manifest.encode()).at(&file.path)?;
    }
    write.commit().at(&file.path)
}

/// Writes a frozen layer and the manifest, durably, and returns the view of what was committed; `None` if another
/// commit or an install was faster.
pub(crate) fn commit(base: &RedbView, freeze: &Freeze) -> Result<Option<RedbView>, StoreError> {
    let file = &base.file;
    if file.fenced() || file.generation != freeze.generation {
        return Ok(None);
    }
    let write = begin_write(file)?;
    {
        let mut meta = write.open_table(META).at(&file.path)?;
        if read_meta(file, &meta)?.applied != freeze.from {
            return Ok(None);
        }
        let mut state = write.open_table(STATE).at(&file.path)?;
        for (key, change) in freeze.layer.iter() {
            match change {
                Some(value) => drop(state.insert(&**key, &**value).at(&file.path)?),
                None => drop(state.remove(&**key).at(&file.path)?),
            }
        }
        meta.insert("manifest", &*Manifest::from(&freeze.to).encode()).at(&file.path)?;
    }
    write.commit().at(&file.path)?;
    RedbView::new(file.clone()).map(Some)
}

/// Builds the file of the next generation from `pairs`, which come in key order, and puts it in the place of `old`.
/// A crash at any point leaves the one or the other.
pub(crate) fn install<D: Disk>(
    disk: &D,
    dir: &Path,
    old: &RedbView,
    manifest: &Manifest,
    options: Options,
    jobs: &Jobs<D>,
    pairs: impl FnOnce(&mut dyn FnMut(&Bytes, &Bytes) -> Result<(), StoreError>) -> Result<(), StoreError>,
) -> Result<Opened, StoreError> {
    let generation = old.file.generation + 1;
    let file = create(disk, dir, generation, options, jobs)?;
    if let Err(error) = fill(&file, manifest, pairs) {
        // Nobody points at it yet.
        file.fence.store(true, Ordering::Release);
        file.superseded.store(true, Ordering::Release);
        return Err(error);
    }
    let switched = switch(disk, dir, generation);
    // Also when the switch failed: which file counts is then unknown until the next start, so neither may change.
    old.file.fence.store(true, Ordering::Release);
    if let Err(error) = switched {
        file.fence.store(true, Ordering::Release);
        return Err(error);
    }
    old.file.superseded.store(true, Ordering::Release);
    Ok(Opened { view: RedbView::new(Arc::new(file))?, generation, manifest: manifest.clone() })
}

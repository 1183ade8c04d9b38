//! The base on disk: one redb database per generation, in checksummed blocks, behind the disk seam.
//!
//! ```text
//! CURRENT                which store file counts; replaced atomically
//! store-<n>.db           a file of blocks (see `blocks`) with a redb database in it: table `state` has the pairs, table
//!                        `meta` what follows. One that CURRENT does not name is a snapshot on its way, or a leftover
//! damaged-<n>            store-<n>.db was found damaged while it was in use; says how, for people
//!
//! meta     "format"      u16, little-endian
//!          "generation"  u64, little-endian: the file's own <n>
//!          "manifest"    D and the membership there (quorate_core::snapshot::Manifest)
//! ```
//!
//! Everything in this file that takes a `Disk` or a write transaction runs inside a worker's step. Commits are
//! two-phase, so that redb never falls back from the newest commit to the one before it, and carry redb's allocator
//! state (quick repair), so that opening after a crash reads a few pages and not all of them.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use bytes::Bytes;
use quorate_core::disk::{Disk, OpenMode, read_file};
use quorate_core::snapshot::Manifest;
use quorate_core::store_file::{StoreFileError, decode_current, encode_current};

use super::blocks::{Backend, Blocks, OpenError};
use super::{Freeze, StoreError};
use crate::jobs::Jobs;
use crate::reserve::{Reserve, replace_spending, spend};

const STATE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

const FORMAT_VERSION: u16 = 1;
const FIRST_GENERATION: u64 = 1;
const CURRENT: &str = "CURRENT";
const INSPECT_CACHE_BYTES: usize = 16 << 20;

/// A store's directory, and who works there.
pub struct Home<D: Disk> {
    /// Does all that writes there.
    pub jobs: Jobs<D>,
    /// Created if need be.
    pub dir: PathBuf,
    /// Space for what must be written on a full disk.
    pub reserve: Option<Reserve<D>>,
    /// redb's cache in bytes.
    pub cache_bytes: usize,
}

impl<D: Disk> Clone for Home<D> {
    fn clone(&self) -> Self {
        let Self { jobs, dir, reserve, cache_bytes } = self;
        Self { jobs: jobs.clone(), dir: dir.clone(), reserve: reserve.clone(), cache_bytes: *cache_bytes }
    }
}

impl<D: Disk> fmt::Debug for Home<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Home({})", self.dir.display())
    }
}

impl<D: Disk> Home<D> {
    pub(crate) fn mark_full(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.mark_full();
        }
    }

    /// Takes note if an error is a lack of space.
    pub(crate) fn note_full(&self, error: &StoreError) {
        if error.is_full() {
            self.mark_full();
        }
    }

    fn replace(&self, disk: &D, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        replace_spending(disk, self.reserve.as_ref(), path, content).map_err(|e| StoreError::io(path, e))
    }

    /// Makes `generation` the one that counts, atomically and durably.
    fn switch(&self, disk: &D, generation: u64) -> Result<(), StoreError> {
        disk.sync_dir(&self.dir).map_err(|e| StoreError::io(&self.dir, e))?;
        self.replace(disk, &self.dir.join(CURRENT), &encode_current(generation))
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(store_name(generation))
    }
}

fn store_name(generation: u64) -> String {
    format!("store-{generation}.db")
}

fn marker_name(generation: u64) -> String {
    format!("damaged-{generation}")
}

/// The generation in a file's name.
fn generation_of(name: &str) -> Option<u64> {
    let number = match name.strip_prefix("store-") {
        Some(rest) => rest.strip_suffix(".db")?,
        None => name.strip_prefix("damaged-")?,
    };
    number.parse().ok()
}

/// Names the file in redb's errors.
trait At<T> {
    fn at(self, place: &Place) -> Result<T, StoreError>;
}

impl<T, E: Into<::redb::Error>> At<T> for Result<T, E> {
    fn at(self, place: &Place) -> Result<T, StoreError> {
        let path = &place.path;
        self.map_err(|error| {
            // After the first error redb has no other words than that there was one.
            if let Some(what) = place.blocks.damage() {
                return StoreError::damaged(path, what);
            }
            match error.into() {
                ::redb::Error::Io(e)
                    if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
                {
                    StoreError::damaged(path, e.to_string())
                }
                ::redb::Error::Io(e) => StoreError::io(path, e),
                ::redb::Error::UpgradeRequired(version) => {
                    StoreError::UnknownVersion { file: path.to_owned(), version: version.into() }
                }
                ::redb::Error::PreviousIo => {
                    StoreError::io(path, io::Error::other("an earlier operation on it failed"))
                }
                other => StoreError::damaged(path, other.to_string()),
            }
        })
    }
}

/// A store file and what is beneath its database.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    blocks: Arc<Blocks>,
}

/// A database inside a closing job. If that job is never run, the database must not write as it goes.
struct Closing {
    database: Option<Database>,
    blocks: Arc<Blocks>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.blocks.fence();
        self.database = None;
    }
}

/// An open store file, shared by the views into it. Dropping redb's handle writes, so the last view to go leaves that
/// to the disk worker.
struct OpenFile {
    place: Place,
    generation: u64,
    database: Option<Database>,
    /// It counts for nothing, durably so: it may be removed.
    doomed: AtomicBool,
    /// Hands the database to the disk worker; the flag says whether to remove the file.
    close: Box<dyn Fn(Closing, bool) + Send + Sync>,
}

impl OpenFile {
    fn database(&self) -> &Database {
        self.database.as_ref().expect("taken by drop only")
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let closing = Closing { database: self.database.take(), blocks: self.place.blocks.clone() };
        (self.close)(closing, self.doomed.load(Ordering::Acquire));
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
        write!(f, "RedbView({})", self.file.place.path.display())
    }
}

impl RedbView {
    /// From now on nothing is written to the file.
    pub(crate) fn fence(&self) {
        self.file.place.blocks.fence();
    }

    fn new(file: Arc<OpenFile>) -> Result<Self, StoreError> {
        let read = file.database().begin_read().at(&file.place)?;
        let table = read.open_table(STATE).at(&file.place)?;
        Ok(Self { table, file })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = ReadableTable::get(&self.table, key).at(&self.file.place)?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + use<'a>, StoreError> {
        let pairs = ReadOnlyTable::range::<&[u8]>(&self.table, (from, to)).at(&self.file.place)?;
        Ok(pairs.map(|pair| {
            let (key, value) = pair.at(&self.file.place)?;
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

/// Opens the current store file, or makes the first; removes what an interrupted install or receive left.
pub(crate) fn open<D: Disk>(disk: &D, home: &Home<D>) -> Result<Opened, StoreError> {
    let dir = &home.dir;
    disk.create_dir_all(dir).map_err(|e| StoreError::io(dir, e))?;
    let names = disk.list(dir).map_err(|e| StoreError::io(dir, e))?;
    let current = read_current(disk, home, &names)?;
    match current {
        // What is seen here may not have reached the medium, if an earlier process failed to sync it.
        Some(generation) => home.switch(disk, generation)?,
        None => disk.sync_dir(dir).map_err(|e| StoreError::io(dir, e))?,
    }
    let names = disk.list(dir).map_err(|e| StoreError::io(dir, e))?;
    for name in &names {
        let path = dir.join(name);
        let counts = generation_of(name).is_none_or(|n| current == Some(n)) && !name.ends_with(".new");
        if name.starts_with("store-") && current.is_none() && *name != store_name(FIRST_GENERATION) {
            return Err(StoreError::damaged(&path, format!("{CURRENT}, which says whether it counts, is missing")));
        }
        if !counts {
            disk.remove(&path).map_err(|e| StoreError::io(&path, e))?;
        } else if name.starts_with("damaged-") {
            let what = read_file(disk, &path).map_err(|e| StoreError::io(&path, e))?;
            let what = format!("found while the node ran: {}", String::from_utf8_lossy(&what));
            return Err(StoreError::damaged(&dir.join(store_name(current.unwrap_or_default())), what));
        }
    }
    match current {
        Some(generation) => open_existing(disk, home, generation),
        None => {
            let building = Building::begin(disk, home, FIRST_GENERATION)?;
            building.finish(&Manifest::default())?.install(disk, home)
        }
    }
}

fn read_current<D: Disk>(disk: &D, home: &Home<D>, names: &[String]) -> Result<Option<u64>, StoreError> {
    if !names.iter().any(|name| name == CURRENT) {
        return Ok(None);
    }
    let path = home.dir.join(CURRENT);
    let bytes = read_file(disk, &path).map_err(|e| StoreError::io(&path, e))?;
    decode_current(&bytes).map(Some).map_err(|e| bytes_error(&path, e))
}

/// Writes down, durably, that a generation is damaged: the next [`open`] says so, too.
pub(crate) fn mark_damaged<D: Disk>(disk: &D, home: &Home<D>, generation: u64, what: &str) -> Result<(), StoreError> {
    home.replace(disk, &home.dir.join(marker_name(generation)), what.as_bytes())
}

/// A generation that no file of the directory has, for a store that takes the place of a damaged one.
pub(crate) fn next_generation<D: Disk>(disk: &D, home: &Home<D>) -> Result<u64, StoreError> {
    let names = disk.list(&home.dir).map_err(|e| StoreError::io(&home.dir, e))?;
    // It may be what is damaged; then the files have to say.
    let current = read_current(disk, home, &names).ok().flatten();
    let greatest = names.iter().filter_map(|name| generation_of(name)).chain(current).max();
    Ok(greatest.map_or(FIRST_GENERATION, |n| n.saturating_add(1)))
}

/// Removes all store files but `keep`: they are damaged, and their space is needed.
pub(crate) fn remove_others<D: Disk>(disk: &D, home: &Home<D>, keep: u64) -> Result<(), StoreError> {
    let names = disk.list(&home.dir).map_err(|e| StoreError::io(&home.dir, e))?;
    for name in names.iter().filter(|name| name.starts_with("store-") && **name != store_name(keep)) {
        let path = home.dir.join(name);
        disk.remove(&path).map_err(|e| StoreError::io(&path, e))?;
    }
    Ok(())
}

fn bytes_error(path: &Path, error: StoreFileError) -> StoreError {
    match error {
        StoreFileError::UnknownVersion(version) => {
            StoreError::UnknownVersion { file: path.to_owned(), version: version.into() }
        }
        StoreFileError::Damaged => StoreError::damaged(path, error.to_string()),
    }
}

/// Starts redb on blocks; writes, because redb does.
fn start_redb(place: &Place, cache_bytes: usize) -> Result<Database, StoreError> {
    let _writing = place.blocks.writing();
    // redb answers most damage by an error, but some by a panic.
    let started = catch_unwind(AssertUnwindSafe(|| {
        let builder = &mut Database::builder();
        builder.set_cache_size(cache_bytes).create_with_backend(Backend(place.blocks.clone())).at(place)
    }));
    started.unwrap_or_else(|_| Err(StoreError::damaged(&place.path, "redb cannot make sense of it")))
}

/// A database that hands itself to the disk worker in the end.
fn open_database<D: Disk>(home: &Home<D>, generation: u64, blocks: Blocks) -> Result<OpenFile, StoreError> {
    let place = Place { path: home.path(generation), blocks: Arc::new(blocks) };
    let database = start_redb(&place, home.cache_bytes)?;
    let (jobs, doomed) = (home.jobs.clone(), place.path.clone());
    let close = Box::new(move |closing: Closing, remove: bool| {
        let doomed = doomed.clone();
        jobs.post(move |disk| {
            let mut closing = closing;
            if remove {
                closing.blocks.fence();
            }
            let writing = closing.blocks.writing();
            let database = closing.database.take();
            drop(database);
            drop(writing);
            if remove {
                // It stays a leftover if this fails, and the next open removes it.
                let _ = disk.remove(&doomed);
            }
        });
    });
    Ok(OpenFile { place, generation, database: Some(database), doomed: AtomicBool::new(false), close })
}

fn open_blocks<D: Disk>(disk: &D, path: &Path, generation: u64, mode: OpenMode) -> Result<Blocks, StoreError> {
    let file = match disk.open(path, mode) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(path, format!("{CURRENT} names it, and it is missing")));
        }
        Err(e) => return Err(StoreError::io(path, e)),
    };
    Blocks::open(Box::new(file), generation).map_err(|error| match error {
        OpenError::Io(e) => StoreError::io(path, e),
        OpenError::Header(StoreFileError::Damaged) => {
            StoreError::damaged(path, "the header at offset 0: neither copy is whole")
        }
        OpenError::Header(error) => bytes_error(path, error),
    })
}

/// What [`inspect`] found.
pub(crate) struct Inspected {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) pairs: u64,
}

/// Reads the store of `dir` and checks every block that counts, without writing: what redb writes stays in memory.
/// `None` if there is none yet.
pub(crate) fn inspect<D: Disk>(disk: &D, dir: &Path) -> Result<Option<Inspected>, StoreError> {
    let current = dir.join(CURRENT);
    let bytes = match read_file(disk, &current) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io(&current, e)),
    };
    let generation = decode_current(&bytes).map_err(|e| bytes_error(&current, e))?;
    let path = dir.join(store_name(generation));
    match read_file(disk, &dir.join(marker_name(generation))) {
        Ok(what) => return Err(StoreError::damaged(&path, String::from_utf8_lossy(&what))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(StoreError::io(&path, e)),
    }
    let blocks = open_blocks(disk, &path, generation, OpenMode::Read)?;
    let place = Place { path: path.clone(), blocks: Arc::new(blocks) };
    place.blocks.keep_in_memory();
    let mut database = start_redb(&place, INSPECT_CACHE_BYTES)?;
    check_pages(&place, &mut database)?;
    // Dropping it drops the database, behind the fence.
    let close = Box::new(|closing: Closing, _| drop(closing));
    let (database, doomed) = (Some(database), AtomicBool::new(false));
    let file = Arc::new(OpenFile { place, generation, database, doomed, close });
    let manifest = manifest_of(&file)?;
    let view = RedbView::new(file)?;
    let mut pairs = 0;
    for pair in view.range(Bound::Unbounded, Bound::Unbounded)? {
        pair?;
        pairs += 1;
    }
    Ok(Some(Inspected { path, manifest, pairs }))
}

/// Reads every page that the newest commit refers to. Of any other block a power loss may have left half a write, or
/// a write without its checksum: that is no damage.
fn check_pages(place: &Place, database: &mut Database) -> Result<(), StoreError> {
    let _writing = place.blocks.writing();
    let checked = catch_unwind(AssertUnwindSafe(|| database.check_integrity().at(place)));
    // What it has repaired, in memory, is how the space is divided, which the pairs do not depend on.
    checked.unwrap_or_else(|_| Err(StoreError::damaged(&place.path, "redb cannot make sense of it"))).map(drop)
}

fn open_existing<D: Disk>(disk: &D, home: &Home<D>, generation: u64) -> Result<Opened, StoreError> {
    let path = home.path(generation);
    let blocks = open_blocks(disk, &path, generation, OpenMode::Existing)?;
    spend(home.reserve.as_ref(), || blocks.settle_header()).map_err(|e| StoreError::io(&path, e))?;
    blocks.let_spill();
    let file = open_database(home, generation, blocks)?;
    let manifest = manifest_of(&file)?;
    Ok(Opened { view: RedbView::new(Arc::new(file))?, generation, manifest })
}

/// What the newest commit covers.
fn manifest_of(file: &OpenFile) -> Result<Manifest, StoreError> {
    let read = file.database().begin_read().at(&file.place)?;
    let meta = read.open_table(META).at(&file.place)?;
    read_meta(file, &meta)
}

/// Checks that the file is what its name says, and returns what it covers.
fn read_meta(file: &OpenFile, meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Manifest, StoreError> {
    let path = &file.place.path;
    let read = |key: &str| -> Result<Vec<u8>, StoreError> {
        let value = meta.get(key).at(&file.place)?;
        let value = value.ok_or_else(|| StoreError::damaged(path, format!("it has no {key}")))?;
        Ok(value.value().to_vec())
    };
    let format = read("format")?;
    if format != FORMAT_VERSION.to_le_bytes() {
        let version = format.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        return Err(StoreError::UnknownVersion { file: path.clone(), version });
    }
    if read("generation")? != file.generation.to_le_bytes() {
        return Err(StoreError::damaged(path, "it is the file of another generation"));
    }
    Manifest::decode(&read("manifest")?).map_err(|e| StoreError::undecodable(path, e))
}

fn begin_write(file: &OpenFile) -> Result<WriteTransaction, StoreError> {
    let mut write = file.database().begin_write().at(&file.place)?;
    write.set_durability(Durability::Immediate).at(&file.place)?;
    write.set_two_phase_commit(true);
    write.set_quick_repair(true);
    Ok(write)
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Committed {
    /// It is durable, and this is the view of it.
    Done(RedbView),
    /// Another commit or an install was faster.
    Superseded,
    /// The disk is full: nothing has changed, and the same freeze has to be committed again, when there may be space.
    Full,
}

/// Writes a frozen layer and the manifest, durably.
pub(crate) fn commit(base: &RedbView, freeze: &Freeze) -> Result<Committed, StoreError> {
    let file = &base.file;
    let blocks = &file.place.blocks;
    if file.generation != freeze.generation {
        return Ok(Committed::Superseded);
    }
    let Some(_writing) = blocks.writing() else { return Ok(Committed::Superseded) };
    // Also what redb wrote when it was opened. No commit begins on top of one that is not durable.
    if !flush(file)? {
        return Ok(Committed::Full);
    }
    let found = manifest_of(file)?;
    if found.applied != freeze.to.applied {
        if found.applied != freeze.from {
            return Ok(Committed::Superseded);
        }
        let write = begin_write(file)?;
        {
            let mut state = write.open_table(STATE).at(&file.place)?;
            for (key, change) in freeze.layer.iter() {
                match change {
                    Some(value) => drop(state.insert(&**key, &**value).at(&file.place)?),
                    None => drop(state.remove(&**key).at(&file.place)?),
                }
            }
            let mut meta = write.open_table(META).at(&file.place)?;
            meta.insert("manifest", &*Manifest::from(&freeze.to).encode()).at(&file.place)?;
        }
        write.commit().at(&file.place)?;
        if !flush(file)? {
            return Ok(Committed::Full);
        }
    }
    RedbView::new(file.clone()).map(Committed::Done)
}

fn flush(file: &OpenFile) -> Result<bool, StoreError> {
    let blocks = &file.place.blocks;
    if !blocks.is_spilled() {
        return Ok(true);
    }
    let flushed = blocks.flush().map_err(|e| StoreError::io(&file.place.path, e))?;
    if flushed {
        tracing::info!(file = %file.place.path.display(), "there is space again: the store's commit is durable");
    }
    Ok(flushed)
}

/// A store file that is being filled, in one transaction. Dropping it removes the file. A full disk is an error here,
/// and harms nothing.
pub(crate) struct Building {
    // Before the file, which it writes to.
    write: WriteTransaction,
    file: OpenFile,
}

impl Building {
    /// Makes the file of `generation`, which no file has had, or one that counts for nothing.
    pub(crate) fn begin<D: Disk>(disk: &D, home: &Home<D>, generation: u64) -> Result<Self, StoreError> {
        let path = home.path(generation);
        match disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io(&path, e)),
            _ => {}
        }
        let made = Self::make(disk, home, generation);
        if let Err(error) = &made {
            home.note_full(error);
            let _ = disk.remove(&path);
        }
        made
    }

    fn make<D: Disk>(disk: &D, home: &Home<D>, generation: u64) -> Result<Self, StoreError> {
        let path = home.path(generation);
        let file = disk.open(&path, OpenMode::CreateNew).map_err(|e| StoreError::io(&path, e))?;
        let file = open_database(home, generation, Blocks::create(Box::new(file), generation))?;
        file.doomed.store(true, Ordering::Release);
        let _writing = file.place.blocks.writing();
        let write = begin_write(&file)?;
        write.open_table(STATE).map(drop).at(&file.place)?;
        drop(_writing);
        Ok(Self { write, file })
    }

    /// Adds pairs; fastest in key order. After an error the file is of no use.
    pub(crate) fn add<'p>(&mut self, pairs: impl IntoIterator<Item = &'p (Bytes, Bytes)>) -> Result<(), StoreError> {
        let place = &self.file.place;
        let _writing = place.blocks.writing();
        let mut state = self.write.open_table(STATE).at(place)?;
        for (key, value) in pairs {
            state.insert(&**key, &**value).map(drop).at(place)?;
        }
        Ok(())
    }

    /// Makes the file durable.
    pub(crate) fn finish(self, manifest: &Manifest) -> Result<Built, StoreError> {
        let Self { write, file } = self;
        let writing = file.place.blocks.writing();
        {
            let mut meta = write.open_table(META).at(&file.place)?;
            meta.insert("format", &FORMAT_VERSION.to_le_bytes()[..]).at(&file.place)?;
            meta.insert("generation", &file.generation.to_le_bytes()[..]).at(&file.place)?;
            meta.insert("manifest", &*manifest.encode()).at(&file.place)?;
        }
        write.commit().at(&file.place)?;
        drop(writing);
        Ok(Built { file, manifest: manifest.clone() })
    }
}

/// A whole and durable store file that does not count yet. Dropping it removes the file.
pub(crate) struct Built {
    file: OpenFile,
    manifest: Manifest,
}

impl Built {
    /// What it covers.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Makes it the one that counts. If that fails, which one counts is unknown until the next start.
    pub(crate) fn install<D: Disk>(self, disk: &D, home: &Home<D>) -> Result<Opened, StoreError> {
        let Self { file, manifest } = self;
        file.doomed.store(false, Ordering::Release);
        if let Err(error) = home.switch(disk, file.generation) {
            file.place.blocks.fence();
            return Err(error);
        }
        file.place.blocks.let_spill();
        let generation = file.generation;
        Ok(Opened { view: RedbView::new(Arc::new(file))?, generation, manifest })
    }
}

/// Puts `built` in the place of `old`. A crash at any point leaves the one or the other.
pub(crate) fn install<D: Disk>(disk: &D, home: &Home<D>, old: &RedbView, built: Built) -> Result<Opened, StoreError> {
    let installed = built.install(disk, home);
    // Also when the switch failed: which file counts is then unknown until the next start, so neither may change.
    old.fence();
    if installed.is_ok() {
        old.file.doomed.store(true, Ordering::Release);
    }
    installed
}

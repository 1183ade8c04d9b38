//! Every way in which a file of blocks can come back other than it was written: damage is found, and nothing else is
//! ever read for it.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use ::redb::{Database, ReadableDatabase, StorageBackend, TableDefinition};
use quorate_core::disk::File;
use quorate_core::store_file::{BLOCK_BYTES, StoreFileError};

use crate::jobs::lock;
use crate::store::blocks::{Backend, Blocks, OpenError};

const TABLE: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("t");
const GENERATION: u64 = 7;
const GROUPS_AT: usize = 4 * BLOCK_BYTES;

type Model = Vec<(u32, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    journal: Vec<Op>,
    /// So many more writes find space.
    space: Option<usize>,
    fail_sync: bool,
}

/// A file in memory that remembers what was done to it.
#[derive(Clone, Debug, Default)]
struct MemFile(Arc<Mutex<Disk>>);

fn perform(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, data) => {
            let range = *offset as usize..*offset as usize + data.len();
            bytes.resize(bytes.len().max(range.end), 0);
            bytes[range].copy_from_slice(data);
        }
        Op::SetLen(len) => bytes.resize(*len as usize, 0),
        Op::Sync => {}
    }
}

impl MemFile {
    fn of(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Disk { bytes: bytes.to_vec(), ..Disk::default() })))
    }

    fn bytes(&self) -> Vec<u8> {
        lock(&self.0).bytes.clone()
    }

    fn act(&self, op: Op) -> io::Result<()> {
        let mut disk = lock(&self.0);
        perform(&mut disk.bytes, &op);
        disk.journal.push(op);
        Ok(())
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let disk = lock(&self.0);
        let rest = disk.bytes.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(space) = &mut lock(&self.0).space {
            *space = space.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.act(Op::Write(offset, data.to_vec()))
    }
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).bytes.len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.act(Op::SetLen(len))
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        let fails = lock(&self.0).fail_sync;
        match fails {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.act(Op::Sync),
        }
    }
}

/// A database on blocks on a file, open for writing all the time.
struct Rig {
    // Before the blocks, to which it writes as it goes.
    database: Database,
    blocks: Arc<Blocks>,
    file: MemFile,
}

impl Rig {
    fn new(file: MemFile) -> Self {
        let blocks = Arc::new(Blocks::create(Box::new(file.clone()), GENERATION));
        Self::start(file, blocks).unwrap()
    }

    fn start(file: MemFile, blocks: Arc<Blocks>) -> Result<Self, String> {
        std::mem::forget(blocks.writing());
        blocks.let_spill();
        let database = catch_unwind(AssertUnwindSafe(|| {
            Database::builder().set_cache_size(1 << 20).create_with_backend(Backend(blocks.clone()))
        }));
        let database = database.map_err(|_| "a panic".to_owned())?.map_err(|e| e.to_string())?;
        Ok(Self { database, blocks, file })
    }

    fn reopen(bytes: &[u8]) -> Result<Self, String> {
        let file = MemFile::of(bytes);
        let blocks = Blocks::open(Box::new(file.clone()), GENERATION).map_err(|e| format!("{e:?}"))?;
        blocks.settle_header().unwrap();
        Self::start(file, Arc::new(blocks))
    }

    fn put(&self, pairs: &Model) -> Result<(), ::redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_two_phase_commit(true);
        write.set_quick_repair(true);
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(key, &**value)?;
            }
        }
        Ok(write.commit()?)
    }

    fn get(&self) -> Result<Model, ::redb::Error> {
        let read = self.database.begin_read()?;
        let table = match read.open_table(TABLE) {
            Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(vec![]),
            table => table?,
        };
        let mut out = vec![];
        for pair in table.range::<u32>(..)? {
            let (key, value) = pair?;
            out.push((key.value(), value.value().to_vec()));
        }
        Ok(out)
    }
}

fn pairs(tag: u8) -> Model {
    (0..150).map(|n| (n, vec![tag.wrapping_add(n as u8); 60])).collect()
}

/// What a later process finds in these bytes; an error is damage that it reports.
fn found(bytes: &[u8]) -> Result<Model, String> {
    Rig::reopen(bytes)?.get().map_err(|e| e.to_string())
}

/// A file after two commits and what it was after the first, both as a crash leaves them.
fn two_commits() -> (Vec<u8>, Vec<u8>) {
    let rig = Rig::new(MemFile::default());
    rig.put(&pairs(1)).unwrap();
    let before = rig.file.bytes();
    rig.put(&pairs(2)).unwrap();
    (before, rig.file.bytes())
}

fn blocks_of(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    (0..bytes.len() / BLOCK_BYTES).map(|n| n * BLOCK_BYTES..(n + 1) * BLOCK_BYTES)
}

/// Damaged bytes are refused, or read as if they were whole. Returns whether they were refused.
fn refused(bytes: &[u8], what: impl std::fmt::Debug) -> bool {
    match found(bytes) {
        Ok(found) => {
            assert!(found == pairs(2), "{what:?}: wrong pairs");
            false
        }
        Err(_) => true,
    }
}

/// Every byte of every block and of its sum: nothing else than what was written is ever read.
#[test]
fn every_changed_byte_of_a_block_is_found() {
    let (_, bytes) = two_commits();
    let file = MemFile::of(&bytes);
    let blocks = Blocks::open(Box::new(file.clone()), GENERATION).unwrap();
    let mut count = 0;
    let numbers = 1..=(bytes.len() / BLOCK_BYTES - 5) as u64;
    let read = |blocks: &Blocks, number: u64| {
        let mut out = vec![0; BLOCK_BYTES];
        blocks.get(number, &mut out).map(|()| out)
    };
    let written: Vec<u64> = numbers.filter(|number| read(&blocks, *number).is_ok()).collect();
    assert!(written.len() > 10, "{written:?}");
    for number in &written {
        let start = GROUPS_AT + *number as usize * BLOCK_BYTES;
        for at in start..start + BLOCK_BYTES {
            lock(&file.0).bytes[at] ^= 1 << (at % 8);
            let error = read(&blocks, *number).expect_err("changed");
            assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains(&start.to_string()));
            lock(&file.0).bytes[at] ^= 1 << (at % 8);
            count += 1;
        }
        let sum = GROUPS_AT + (*number as usize - 1) * 4;
        for at in sum..sum + 4 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let blocks = Blocks::open(Box::new(MemFile::of(&damaged)), GENERATION).unwrap();
            read(&blocks, *number).expect_err("its sum is changed");
        }
    }
    assert!(count > 10 * BLOCK_BYTES);
}

/// Every byte of the header, and a sample of all others, through redb.
#[test]
fn a_changed_byte_is_harmless_or_found() {
    let (_, bytes) = two_commits();
    let mut count = 0;
    let content = |at: usize| bytes[at] != 0 && (at >= GROUPS_AT || at % BLOCK_BYTES < 320);
    for at in (0..bytes.len()).filter(|at| (content(*at) && (*at < GROUPS_AT || at % 29 == 0)) || at % 1009 == 0) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let refused = refused(&damaged, at);
        assert!(at >= GROUPS_AT || !refused, "a copy of the header at {at} is repaired");
        count += usize::from(refused);
    }
    assert!(count > 100, "{count}");
}

#[test]
fn misdirected_swapped_and_lost_writes_of_blocks_are_harmless_or_found() {
    let (before, bytes) = two_commits();
    let (mut misdirected, mut swapped, mut lost) = (0, 0, 0);
    for one in blocks_of(&bytes).filter(|one| one.start >= GROUPS_AT) {
        let others = blocks_of(&bytes).filter(|other| other.start > one.start);
        for other in others.filter(|other| ((one.start + other.start) / BLOCK_BYTES).is_multiple_of(3)) {
            let mut damaged = bytes.clone();
            damaged.copy_within(one.clone(), other.start);
            misdirected += usize::from(refused(&damaged, ("misdirected", &one, &other)));
            damaged[one.clone()].copy_from_slice(&bytes[other.clone()]);
            swapped += usize::from(refused(&damaged, ("swapped", &one, &other)));
        }
        let mut damaged = bytes.clone();
        damaged[one.clone()].fill(0);
        if let Some(old) = before.get(one.clone()) {
            damaged[one.clone()].copy_from_slice(old);
        }
        lost += usize::from(damaged != bytes && refused(&damaged, ("lost", &one)));
    }
    assert!(misdirected > 10 && swapped > 10 && lost > 3, "{misdirected} {swapped} {lost}");
}

#[test]
fn one_copy_of_the_header_is_enough() {
    let (before, bytes) = two_commits();
    let copies = [0..2 * BLOCK_BYTES, 2 * BLOCK_BYTES..4 * BLOCK_BYTES];
    for copy in &copies {
        let mut damaged = bytes.clone();
        damaged[copy.clone()].fill(0xee);
        let rig = Rig::reopen(&damaged).unwrap();
        assert_eq!(rig.get().unwrap(), pairs(2));
        let repaired = rig.file.bytes();
        assert_eq!(repaired[copies[0].clone()], repaired[copies[1].clone()]);
        // A write that never reached the medium.
        damaged[copy.clone()].copy_from_slice(&before[copy.clone()]);
        assert_eq!(found(&damaged).unwrap(), pairs(2));
    }
    let mut damaged = bytes.clone();
    damaged[..GROUPS_AT].fill(0xee);
    let opened = Blocks::open(Box::new(MemFile::of(&damaged)), GENERATION);
    assert!(matches!(opened, Err(OpenError::Header(StoreFileError::Damaged))), "{opened:?}");
    let other = Blocks::open(Box::new(MemFile::of(&bytes)), GENERATION + 1);
    assert!(matches!(other, Err(OpenError::Header(StoreFileError::Damaged))), "another generation's file: {other:?}");
    let mut newer = bytes;
    newer[4] = 9;
    assert_eq!(found(&newer).unwrap(), pairs(2), "a changed byte is no new version");
    newer[2 * BLOCK_BYTES + 4] = 9;
    let newer = Blocks::open(Box::new(MemFile::of(&newer)), GENERATION);
    assert!(matches!(newer, Err(OpenError::Header(StoreFileError::UnknownVersion(9)))), "{newer:?}");
}

#[test]
fn a_truncated_file_is_found() {
    let (_, bytes) = two_commits();
    let refusals = (0..bytes.len()).step_by(3000).filter(|len| refused(&bytes[..*len], len)).count();
    assert!(refusals > 10, "{refusals}");
}

/// What the medium may hold when the power goes after the first `done` operations: those before the last sync, and of
/// the others all, none, or all but one.
fn crash_images(start: &[u8], journal: &[Op], done: usize) -> Vec<Vec<u8>> {
    let synced = journal[..done].iter().rposition(|op| *op == Op::Sync).map_or(0, |at| at + 1);
    let image = |lost: &dyn Fn(usize) -> bool| {
        let mut bytes = start.to_vec();
        let kept = journal[..done].iter().enumerate().filter(|(n, _)| *n < synced || !lost(*n));
        kept.for_each(|(_, op)| perform(&mut bytes, op));
        bytes
    };
    let mut torn = image(&|_| true);
    for op in &journal[synced..done] {
        if let Op::Write(offset, data) = op {
            perform(&mut torn, &Op::Write(*offset, data[..data.len() / 2].to_vec()));
        }
    }
    let mut images = vec![image(&|_| false), image(&|_| true), torn];
    images.extend((synced..done).map(|one| image(&|n| n == one)));
    images
}

fn check_crashes(start: &[u8], journal: &[Op], before: &Model, after: &Model) {
    for done in 0..=journal.len() {
        for image in crash_images(start, journal, done) {
            let found = found(&image).unwrap_or_else(|e| panic!("after {done} of {}: {e}", journal.len()));
            assert!(found == *after || (done < journal.len() && found == *before), "after {done} of {}", journal.len());
        }
    }
}

#[test]
fn a_power_loss_in_a_commit_leaves_the_one_or_the_other() {
    let rig = Rig::new(MemFile::default());
    rig.put(&pairs(1)).unwrap();
    let start = rig.file.bytes();
    lock(&rig.file.0).journal.clear();
    rig.put(&pairs(2)).unwrap();
    let journal = lock(&rig.file.0).journal.clone();
    assert!(journal.len() > 10);
    check_crashes(&start, &journal, &pairs(1), &pairs(2));
}

#[test]
fn a_full_disk_at_any_write_fails_nothing() {
    for space in 0.. {
        let rig = Rig::new(MemFile::default());
        rig.put(&pairs(1)).unwrap();
        let start = rig.file.bytes();
        lock(&rig.file.0).journal.clear();
        lock(&rig.file.0).space = Some(space);
        rig.put(&pairs(2)).unwrap();
        assert_eq!(rig.get().unwrap(), pairs(2), "space for {space}");
        if !rig.blocks.is_spilled() {
            assert!(space > 10);
            return;
        }
        let journal = lock(&rig.file.0).journal.clone();
        for image in crash_images(&start, &journal, journal.len()) {
            // The last header may be whole: then the commit counts, though nobody was told.
            let found = found(&image).unwrap();
            assert!(found == pairs(1) || found == pairs(2), "space for {space}");
        }
        assert!(!rig.blocks.flush().unwrap());
        lock(&rig.file.0).space = Some(1);
        let _ = rig.blocks.flush().unwrap();
        assert_eq!(rig.get().unwrap(), pairs(2));
        lock(&rig.file.0).space = None;
        assert!(rig.blocks.flush().unwrap());
        assert!(!rig.blocks.is_spilled());
        let journal = lock(&rig.file.0).journal.clone();
        if space % 7 == 3 {
            check_crashes(&start, &journal, &pairs(1), &pairs(2));
        }
        rig.put(&pairs(3)).unwrap();
        assert_eq!(found(&rig.file.bytes()).unwrap(), pairs(3));
    }
}

/// redb syncs what a header refers to before it writes the header; the blocks do so whatever redb does.
#[test]
fn a_header_is_never_ahead_of_its_blocks() {
    for space in [None, Some(0), Some(1), Some(2), Some(3)] {
        let file = MemFile::default();
        let blocks = Arc::new(Blocks::create(Box::new(file.clone()), GENERATION));
        std::mem::forget(blocks.writing());
        blocks.let_spill();
        let backend = Backend(blocks);
        let write = |tag: u8| {
            backend.write(0, &[tag; 320]).unwrap();
            backend.write(u64::from(tag) * 4096, &[tag; 4096]).unwrap();
            backend.sync_data().unwrap();
        };
        write(1);
        let start = file.bytes();
        lock(&file.0).journal.clear();
        lock(&file.0).space = space;
        write(2);
        assert_eq!(backend.0.is_spilled(), space.is_some());
        lock(&file.0).space = None;
        assert!(backend.0.flush().unwrap());
        let journal = lock(&file.0).journal.clone();
        for done in 0..=journal.len() {
            for image in crash_images(&start, &journal, done) {
                let reopened = Blocks::open(Box::new(MemFile::of(&image)), GENERATION);
                let reopened = Backend(Arc::new(reopened.expect("one copy is whole")));
                let (mut tag, mut block) = ([0], [0; 4096]);
                reopened.read(0, &mut tag).unwrap();
                assert!(tag == [2] || (tag == [1] && done < journal.len()), "{space:?}, {done}: {tag:?}");
                reopened.read(u64::from(tag[0]) * 4096, &mut block).unwrap();
                assert_eq!(block, [tag[0]; 4096]);
            }
        }
    }
}

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let rig = Rig::new(MemFile::default());
    rig.put(&pairs(1)).unwrap();
    lock(&rig.file.0).fail_sync = true;
    // A full disk, says the sync: that is no reason to believe it the next time.
    rig.put(&pairs(2)).unwrap_err();
    lock(&rig.file.0).fail_sync = false;
    let bytes = rig.file.bytes();
    rig.put(&pairs(3)).unwrap_err();
    // redb has given up by itself; the blocks do not rely on it.
    let backend = Backend(rig.blocks.clone());
    backend.write(4096, &[1; 4096]).unwrap_err();
    backend.sync_data().unwrap_err();
    drop(rig.database);
    assert_eq!(rig.file.bytes(), bytes);
    assert_eq!(found(&bytes).unwrap(), pairs(1));
}

#[test]
fn any_offset_and_length_reads_back() {
    let file = MemFile::default();
    let blocks = Arc::new(Blocks::create(Box::new(file.clone()), GENERATION));
    std::mem::forget(blocks.writing());
    let backend = Backend(blocks);
    let mut model = vec![0; 3 * 1024 * BLOCK_BYTES];
    backend.set_len(model.len() as u64).unwrap();
    let stretches =
        [(0, 320), (4090, 20), (4096, 4096), (8192, 3 * 4096), (1023 * 4096, 4 * 4096), (1024 * 4096 + 9, 9000)];
    for (n, (at, len)) in stretches.into_iter().enumerate() {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + n + 1) as u8).collect();
        backend.write(at as u64, &data).unwrap();
        model[at..at + len].copy_from_slice(&data);
    }
    backend.sync_data().unwrap();
    let reopened = Blocks::open(Box::new(MemFile::of(&file.bytes())), GENERATION).unwrap();
    for backend in [backend, Backend(Arc::new(reopened))] {
        assert_eq!(backend.len().unwrap(), model.len() as u64);
        for (at, len) in stretches {
            let mut out = vec![0; len];
            backend.read(at as u64, &mut out).unwrap();
            assert!(out == model[at..at + len], "{at}");
        }
        backend.read(model.len() as u64 - 3, &mut [0; 4]).unwrap_err();
        // Never written: redb does not ask, and a lost write of the sums would look like this.
        backend.read(500 * 4096, &mut [0; 4096]).unwrap_err();
    }
}

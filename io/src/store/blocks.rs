//! A file whose every block is checksummed: what redb's pages lie in.
//!
//! How they lie in the file is drawn in [`quorate_core::store_file`]: two copies of a header, which holds block 0, and
//! groups of blocks behind the sums of each.
//!
//! redb overwrites block 0 in place and every other block only while no commit refers
//! to it. So:
//!
//! - *Rot, a lost or a misdirected write* of a block makes its sum wrong, whichever of the two was hit. Sums are held in
//!   memory, and every read from the file is checked. A block without a sum was never written, and redb never reads
//!   one: that is damage too. A block of sums needs no checksum of its own, and must not have one: a torn write of it
//!   leaves the sums that did not change as they were, and those are the ones that a commit relies on.
//! - *A torn header* leaves the other copy: they are written one after the other, each synced before the next write.
//!   The header is written after everything that it may refer to has been synced.
//! - *A failed sync* may leave the page cache ahead of the medium, for the next process to see. What that could be of
//!   the header is written and synced again by [`Blocks::settle_header`] before anything relies on it; all else was
//!   synced before a header referred to it. After a failed write or sync nothing is written any more.
//! - *A full disk* must not fail redb, which would refuse everything from then on. From the first write that finds no
//!   space, all writes are kept in memory: the [spill](Blocks::is_spilled). redb believes that it has committed.
//!   [`Blocks::flush`] writes the spill in the order in which redb wrote it, each header after its blocks; until it
//!   is through, the file holds the commit before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use ::redb::StorageBackend;
use quorate_core::disk::File;
use quorate_core::store_file::{
    BLOCK_BYTES, GROUP_BLOCKS, HEADER_BYTES, Header, Headers, StoreFileError, block_at, checksum, decode_headers,
    group_at, group_of, runs,
};

use crate::jobs::lock;
use crate::reserve::is_full;

const BLOCK: u64 = BLOCK_BYTES as u64;

type Content = Box<[u8]>;

/// Why a file cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Io(io::Error),
    /// Neither copy of the header can be read.
    Header(StoreFileError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One step of the spill: blocks, and the header that may be written once they are durable.
#[derive(Debug, Default)]
struct Stage {
    /// Blocks from this one on were cut off before the blocks were written.
    cut: Option<u64>,
    blocks: BTreeMap<u64, Content>,
    header: Option<Header>,
}

/// What readers need, too.
#[derive(Debug)]
struct State {
    /// As redb sees it now.
    header: Header,
    /// Of block `n + 1` at `n`; whole groups.
    sums: Vec<u32>,
    /// In the order of writing; empty unless spilled.
    spill: Vec<Stage>,
}

/// Where to read a block.
enum Place {
    Memory(Content),
    File(u32),
}

impl State {
    fn sum(&self, block: u64) -> u32 {
        usize::try_from(block - 1).ok().and_then(|at| self.sums.get(at)).copied().unwrap_or(0)
    }

    fn set_sum(&mut self, block: u64, sum: u32) {
        let at = (block - 1) as usize;
        if at >= self.sums.len() {
            self.sums.resize((at / GROUP_BLOCKS as usize + 1) * GROUP_BLOCKS as usize, 0);
        }
        self.sums[at] = sum;
    }

    fn place(&self, block: u64) -> Place {
        if block == 0 {
            return Place::Memory(self.header.block.clone());
        }
        for stage in self.spill.iter().rev() {
            if let Some(content) = stage.blocks.get(&block) {
                return Place::Memory(content.clone());
            }
            if stage.cut.is_some_and(|cut| block >= cut) {
                return Place::File(0);
            }
        }
        Place::File(self.sum(block))
    }

    /// Forgets the blocks from `cut` on; returns the groups whose sums changed.
    fn cut(&mut self, cut: u64) -> BTreeSet<u64> {
        let from = (cut.max(1) - 1) as usize;
        let mut groups = BTreeSet::new();
        for (at, sum) in self.sums.iter_mut().enumerate().skip(from).filter(|(_, sum)| **sum != 0) {
            *sum = 0;
            groups.insert(at as u64 / GROUP_BLOCKS);
        }
        groups
    }
}

/// What is written and not synced. Its mutex makes writers go one after another.
#[derive(Debug, Default)]
struct Unsynced {
    /// Groups whose sums differ from the file's.
    groups: BTreeSet<u64>,
    /// Whether blocks were written since the last sync.
    blocks: bool,
    header: bool,
    /// The greatest sequence that may be in the file.
    sequence: u64,
    /// Bytes behind the last block that counts may go.
    trim: bool,
}

/// Nothing may be written: no job of a disk worker is at work on this file.
const CLOSED: u8 = 0;
const OPEN: u8 = 1;
/// Nothing may ever be written again.
const FENCED: u8 = 2;

/// A file of checksummed blocks: see the [module](self). Everything that writes runs inside a worker's step.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Box<dyn File>,
    generation: u64,
    state: Mutex<State>,
    unsynced: Mutex<Unsynced>,
    gate: AtomicU8,
    /// Whether a full disk spills or is an error.
    spills: AtomicBool,
    /// What was found damaged first.
    damage: OnceLock<String>,
}

/// Lets redb write for as long as it lives.
pub(super) struct Writing<'a>(&'a Blocks);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let _ = self.0.gate.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Blocks {
    /// A new file without content. Nothing is written before redb writes.
    pub(super) fn create(file: Box<dyn File>, generation: u64) -> Self {
        Self::new(file, generation, State { header: Header::empty(), sums: Vec::new(), spill: Vec::new() })
    }

    /// Reads header and sums. Call [`Blocks::settle_header`] before the content is relied on.
    pub(super) fn open(file: Box<dyn File>, generation: u64) -> Result<Self, OpenError> {
        let mut bytes = vec![0; 2 * HEADER_BYTES];
        read_zeroed(&*file, 0, &mut bytes)?;
        let Headers { newest: header, unreadable, lost_a } =
            decode_headers(&bytes, generation).map_err(OpenError::Header)?;
        if let Some(copy) = unreadable {
            tracing::warn!(generation, copy, "a copy of the store's header is unreadable: writing it again");
        }
        if lost_a {
            tracing::warn!(generation, "a write of copy A of the store's header was lost: writing it again");
        }
        let blocks = header.blocks();
        let groups = blocks.saturating_sub(1).div_ceil(GROUP_BLOCKS);
        let mut sums = Vec::new();
        for group in 0..groups {
            let mut bytes = vec![0; BLOCK_BYTES];
            read_zeroed(&*file, group_at(group), &mut bytes)?;
            sums.extend(bytes.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum)));
        }
        let mut state = State { header, sums, spill: Vec::new() };
        state.cut(blocks);
        Ok(Self::new(file, generation, state))
    }

    fn new(file: Box<dyn File>, generation: u64, state: State) -> Self {
        let unsynced = Mutex::new(Unsynced { sequence: state.header.sequence, ..Unsynced::default() });
        Self {
            file,
            generation,
            state: Mutex::new(state),
            unsynced,
            gate: AtomicU8::new(CLOSED),
            spills: AtomicBool::new(false),
            damage: OnceLock::new(),
        }
    }

    /// Writes both copies of the header as they are, so that they are on the medium, whatever came before. May be
    /// called again after it found no space.
    pub(super) fn settle_header(&self) -> io::Result<()> {
        let unsynced = lock(&self.unsynced);
        let header = lock(&self.state).header.clone();
        self.put_header(&unsynced, &header)
    }

    /// From now on a full disk spills instead of failing redb.
    pub(super) fn let_spill(&self) {
        self.spills.store(true, Ordering::Release);
    }

    /// From now on everything that is written stays in memory.
    pub(super) fn keep_in_memory(&self) {
        self.let_spill();
        lock(&self.state).spill.push(Stage::default());
    }

    /// Opens the file to redb's writes; `None` once it is fenced.
    pub(super) fn writing(&self) -> Option<Writing<'_>> {
        let before = self.gate.compare_exchange(CLOSED, OPEN, Ordering::AcqRel, Ordering::Acquire);
        (before != Err(FENCED)).then_some(Writing(self))
    }

    /// From now on nothing is written to the file.
    pub(super) fn fence(&self) {
        self.gate.store(FENCED, Ordering::Release);
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.gate.load(Ordering::Acquire) == FENCED
    }

    /// What was found damaged first, if anything was. redb answers everything after that by another error.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Whether something that redb believes to be durable is in memory only.
    pub(super) fn is_spilled(&self) -> bool {
        !lock(&self.state).spill.is_empty()
    }

    /// Tries to write the spill; whether all of it is durable now. Every header is written after the blocks that were
    /// written before it, so a crash in between leaves the one commit or the other.
    pub(super) fn flush(&self) -> io::Result<bool> {
        self.check_gate()?;
        let mut unsynced = lock(&self.unsynced);
        match self.flush_stages(&mut unsynced) {
            Ok(()) => Ok(true),
            Err(Stop::Full) => Ok(false),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn flush_stages(&self, unsynced: &mut Unsynced) -> Result<(), Stop> {
        loop {
            let cut = match lock(&self.state).spill.first_mut() {
                None => return Ok(()),
                Some(stage) => stage.cut.take(),
            };
            if let Some(cut) = cut {
                unsynced.groups.append(&mut lock(&self.state).cut(cut));
            }
            loop {
                let next = lock(&self.state)
                    .spill
                    .first()
                    .and_then(|stage| stage.blocks.first_key_value().map(|(block, content)| (*block, content.clone())));
                let Some((block, content)) = next else { break };
                self.put_blocks(unsynced, block, &content)?;
                if let Some(stage) = lock(&self.state).spill.first_mut() {
                    stage.blocks.remove(&block);
                }
            }
            self.put_sums(unsynced)?;
            let header = lock(&self.state).spill.first_mut().and_then(|stage| stage.header.clone());
            if let Some(header) = header {
                self.put_new_header(unsynced, header)?;
            }
            lock(&self.state).spill.remove(0);
        }
    }

    fn check_gate(&self) -> io::Result<()> {
        match self.gate.load(Ordering::Acquire) {
            OPEN => Ok(()),
            FENCED => Err(io::Error::other("this store file is no longer the current one")),
            // redb tries this when readers crowd its cache, and does without.
            _ => Err(io::Error::other("no disk worker is at work on this store file")),
        }
    }

    /// What an error of the file means: no space is a state, anything else the end of writing.
    fn judge(&self, error: io::Error) -> Stop {
        if is_full(&error) {
            return Stop::Full;
        }
        self.fence();
        Stop::Failed(error)
    }

    fn sync(&self) -> Result<(), Stop> {
        self.file.sync().map_err(|error| {
            self.fence();
            // Whatever it says: nothing is known about what was written, so it is not taken for a lack of space.
            Stop::Failed(io::Error::other(error))
        })
    }

    /// Writes whole blocks from `block` on, 1 at least, and sets their sums.
    fn put_blocks(&self, unsynced: &mut Unsynced, block: u64, data: &[u8]) -> Result<(), Stop> {
        unsynced.blocks = true;
        for (block, run) in runs(block, data.len() as u64) {
            let data = &data[run.clone()];
            self.file.write_at(block_at(block), data).map_err(|e| self.judge(e))?;
            let mut state = lock(&self.state);
            for (n, content) in data.chunks(BLOCK_BYTES).enumerate() {
                state.set_sum(block + n as u64, checksum(self.generation, block + n as u64, content));
            }
            unsynced.groups.insert(group_of(block));
        }
        Ok(())
    }

    /// Makes blocks and sums durable.
    fn put_sums(&self, unsynced: &mut Unsynced) -> Result<(), Stop> {
        while let Some(group) = unsynced.groups.first().copied() {
            let bytes: Vec<u8> = {
                let state = lock(&self.state);
                let from = (group * GROUP_BLOCKS) as usize;
                state.sums[from..from + GROUP_BLOCKS as usize].iter().flat_map(|sum| sum.to_le_bytes()).collect()
            };
            self.file.write_at(group_at(group), &bytes).map_err(|e| self.judge(e))?;
            unsynced.blocks = true;
            unsynced.groups.remove(&group);
        }
        if unsynced.blocks {
            self.sync()?;
            unsynced.blocks = false;
        }
        Ok(())
    }

    fn put_new_header(&self, unsynced: &mut Unsynced, mut header: Header) -> Result<(), Stop> {
        // Never used twice, also if this fails half-way.
        unsynced.sequence += 1;
        header.sequence = unsynced.sequence;
        self.put_header(unsynced, &header).map_err(|error| match self.is_fenced() {
            true => Stop::Failed(error),
            false => Stop::Full,
        })?;
        if std::mem::take(&mut unsynced.trim) {
            let end = block_at(header.blocks().max(1));
            let longer = self.file.len().map_err(|e| self.judge(e))? > end;
            if longer {
                self.file.set_len(end).map_err(|e| self.judge(e))?;
            }
        }
        Ok(())
    }

    /// One copy after the other, so that one is whole at any time. An error that is not a full disk fences the file.
    fn put_header(&self, _: &Unsynced, header: &Header) -> io::Result<()> {
        let bytes = header.encode(self.generation);
        for copy in [0, 1] {
            let written = self.file.write_at(copy * HEADER_BYTES as u64, &bytes).map_err(|e| match self.judge(e) {
                Stop::Full => io::Error::from(io::ErrorKind::StorageFull),
                Stop::Failed(error) => error,
            });
            written?;
            self.sync().map_err(io::Error::from)?;
        }
        Ok(())
    }

    fn damaged(&self, block: u64, what: &str) -> io::Error {
        let text = format!("the block at offset {}: {what}", block_at(block));
        let _ = self.damage.set(text.clone());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Reads whole blocks of one group from the file and checks them.
    fn get_blocks(&self, block: u64, out: &mut [u8], sums: &[u32]) -> io::Result<()> {
        if sums.contains(&0) {
            return Err(self.damaged(block, "it was never written, or the write was lost"));
        }
        let got = self.file.read_at(block_at(block), out)?;
        for (n, (content, sum)) in out.chunks(BLOCK_BYTES).zip(sums).enumerate() {
            let number = block + n as u64;
            if got < (n + 1) * BLOCK_BYTES {
                return Err(self.damaged(number, "the file ends before it"));
            }
            if checksum(self.generation, number, content) != *sum {
                return Err(self.damaged(number, "its checksum is wrong"));
            }
        }
        Ok(())
    }

    /// Reads whole blocks.
    pub(super) fn get(&self, block: u64, out: &mut [u8]) -> io::Result<()> {
        for (block, run) in runs(block, out.len() as u64) {
            let out = &mut out[run];
            let count = (out.len() / BLOCK_BYTES) as u64;
            let plain: Option<Vec<u32>> = {
                let state = lock(&self.state);
                let plain = block > 0 && state.spill.is_empty();
                plain.then(|| (block..block + count).map(|block| state.sum(block)).collect())
            };
            if let Some(sums) = plain {
                self.get_blocks(block, out, &sums)?;
                continue;
            }
            for (number, out) in (block..).zip(out.chunks_mut(BLOCK_BYTES)) {
                let place = lock(&self.state).place(number);
                match place {
                    Place::Memory(content) => out.copy_from_slice(&content),
                    Place::File(sum) => self.get_blocks(number, out, &[sum])?,
                }
            }
        }
        Ok(())
    }

    /// Takes whole blocks from redb, block 0 excepted.
    fn take(&self, unsynced: &mut Unsynced, block: u64, data: &[u8]) -> io::Result<()> {
        if !self.is_spilled() {
            match self.put_blocks(unsynced, block, data) {
                Ok(()) => return Ok(()),
                Err(stop) => self.begin_spill(stop)?,
            }
        }
        let mut state = lock(&self.state);
        if state.spill.last().is_none_or(|stage| stage.header.is_some()) {
            state.spill.push(Stage::default());
        }
        if let Some(stage) = state.spill.last_mut() {
            for (n, content) in data.chunks(BLOCK_BYTES).enumerate() {
                stage.blocks.insert(block + n as u64, content.into());
            }
        }
        Ok(())
    }

    fn begin_spill(&self, stop: Stop) -> io::Result<()> {
        match stop {
            Stop::Full if self.spills.load(Ordering::Acquire) => {
                tracing::warn!(generation = self.generation, "no space for a commit of the store: it waits in memory");
                lock(&self.state).spill.push(Stage::default());
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    fn sync_all(&self, unsynced: &mut Unsynced) -> io::Result<()> {
        let header = std::mem::take(&mut unsynced.header).then(|| lock(&self.state).header.clone());
        if !self.is_spilled() {
            let done = self.put_sums(unsynced).and_then(|()| match &header {
                Some(header) => self.put_new_header(unsynced, header.clone()),
                None => Ok(()),
            });
            match done {
                Ok(()) => return Ok(()),
                Err(stop) => self.begin_spill(stop)?,
            }
        }
        // A sync that brings no header orders nothing: blocks are durable before the next header anyway.
        let mut state = lock(&self.state);
        if header.is_some() && state.spill.last().is_none_or(|stage| stage.header.is_some()) {
            state.spill.push(Stage::default());
        }
        if let (Some(stage), Some(header)) = (state.spill.last_mut(), header) {
            stage.header = Some(header);
        }
        Ok(())
    }
}

/// Why writing stopped.
enum Stop {
    Full,
    Failed(io::Error),
}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Full => io::ErrorKind::StorageFull.into(),
            Stop::Failed(error) => error,
        }
    }
}

/// Reads what there is; the rest is zeros.
fn read_zeroed(file: &dyn File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let got = file.read_at(offset, out)?;
    out[got..].fill(0);
    Ok(())
}

/// The blocks that a stretch of bytes touches: each with the part of it, and the part of the stretch.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset + at as u64;
        let start = (position % BLOCK) as usize;
        let n = (BLOCK_BYTES - start).min(len - at);
        let piece = (position / BLOCK, start..start + n, at..at + n);
        at += n;
        (n > 0).then_some(piece)
    })
}

fn is_whole(offset: u64, len: usize) -> bool {
    offset >= BLOCK && offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK_BYTES)
}

/// redb's end of [`Blocks`].
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Blocks>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0.state).header.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > lock(&self.0.state).header.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if is_whole(offset, out.len()) {
            return self.0.get(offset / BLOCK, out);
        }
        let mut content = vec![0; BLOCK_BYTES];
        for (block, part, of_out) in pieces(offset, out.len()) {
            self.0.get(block, &mut content)?;
            out[of_out].copy_from_slice(&content[part]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.check_gate()?;
        let mut unsynced = lock(&self.0.unsynced);
        let mut state = lock(&self.0.state);
        let cut = len.div_ceil(BLOCK).max(1);
        unsynced.header = true;
        if len < state.header.len {
            unsynced.trim = true;
            if state.spill.is_empty() {
                unsynced.groups.append(&mut state.cut(cut));
            } else {
                state.spill.push(Stage { cut: Some(cut), ..Stage::default() });
            }
        }
        state.header.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.check_gate()?;
        self.0.sync_all(&mut lock(&self.0.unsynced))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.check_gate()?;
        let mut unsynced = lock(&self.0.unsynced);
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        {
            let mut state = lock(&self.0.state);
            if end > state.header.len {
                state.header.len = end;
                unsynced.header = true;
            }
        }
        if is_whole(offset, data.len()) {
            return self.0.take(&mut unsynced, offset / BLOCK, data);
        }
        for (block, part, of_data) in pieces(offset, data.len()) {
            if block == 0 {
                lock(&self.0.state).header.block[part].copy_from_slice(&data[of_data]);
                unsynced.header = true;
                continue;
            }
            let mut content = vec![0; BLOCK_BYTES];
            let fresh = matches!(lock(&self.0.state).place(block), Place::File(0));
            if !fresh {
                self.0.get(block, &mut content)?;
            }
            content[part].copy_from_slice(&data[of_data]);
            self.0.take(&mut unsynced, block, &content)?;
        }
        Ok(())
    }
}

//! What a file holds: the cache that reads see, the medium that survives, and what lies between them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{DiskCounters, Garble};
use crate::SplitMix;

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// More than this between cache and medium is written back unasked, as a kernel does.
const WRITE_BACK_BYTES: usize = 8 << 20;

/// [`PAGE`] bytes. A page that was written whole is a slice of what was written, in the cache and on the medium.
type Page = Bytes;

/// Sparse content: a page that is not there is zero, and so is what a page holds past the length.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) len: u64,
    pages: BTreeMap<u64, Page>,
}

/// What takes an image back to before one change.
#[derive(Debug)]
pub(super) struct Undo {
    len: u64,
    pages: Vec<(u64, Option<Page>)>,
}

/// A change of a file's content or length.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, data: Bytes },
    SetLen(u64),
}

/// The pieces of `offset..offset + len` that lie within one unit each: (unit, offset of the piece, its length).
fn pieces(offset: u64, len: u64, unit: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    (offset / unit..end.div_ceil(unit)).filter(move |_| len > 0).map(move |number| {
        let start = offset.max(number * unit);
        (number, start, end.min((number + 1) * unit) - start)
    })
}

/// The length of a file after a write: one of no bytes changes nothing, wherever it is.
fn length_after(len: u64, offset: u64, written: usize) -> u64 {
    if written == 0 { len } else { len.max(offset + written as u64) }
}

/// A page with other bytes at `start`; one that is not there is zero.
fn overwritten(old: Option<&Page>, start: usize, bytes: &[u8]) -> Page {
    let mut page = old.map_or_else(|| vec![0; PAGE as usize], |old| old.to_vec());
    page[start..start + bytes.len()].copy_from_slice(bytes);
    page.into()
}

impl Image {
    /// The end of the last page that is there, at most the length.
    pub(super) fn written_len(&self) -> u64 {
        self.pages.last_key_value().map_or(0, |(page, _)| (page + 1) * PAGE).min(self.len)
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = self.len.saturating_sub(offset).min(buf.len() as u64);
        for (page, start, piece) in pieces(offset, len, PAGE) {
            let to = &mut buf[(start - offset) as usize..][..piece as usize];
            match self.pages.get(&page) {
                Some(page) => to.copy_from_slice(&page[(start % PAGE) as usize..][..piece as usize]),
                None => to.fill(0),
            }
        }
        len as usize
    }

    /// The first `len` bytes, at most as many as there are.
    pub(super) fn first(&self, len: u64) -> Vec<u8> {
        let len = len.min(self.len) as usize;
        let mut bytes = Vec::with_capacity(len.next_multiple_of(PAGE as usize));
        for (number, page) in self.pages.range(..(len as u64).div_ceil(PAGE)) {
            bytes.resize((number * PAGE) as usize, 0);
            bytes.extend_from_slice(page);
        }
        bytes.resize(len, 0);
        bytes
    }

    /// `len` bytes from `offset`, zeros where there are none.
    fn block(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut block = vec![0; len as usize];
        self.read(offset, &mut block);
        block
    }

    pub(super) fn write(&mut self, offset: u64, data: &Bytes) {
        for (number, start, piece) in pieces(offset, data.len() as u64, PAGE) {
            let from = (start - offset) as usize;
            let piece = data.slice(from..from + piece as usize);
            let page = match self.pages.get(&number) {
                _ if piece.len() == PAGE as usize => piece,
                old => overwritten(old, (start % PAGE) as usize, &piece),
            };
            self.pages.insert(number, page);
        }
        self.len = length_after(self.len, offset, data.len());
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                let kept = (len % PAGE) as usize;
                *page = overwritten(Some(page), kept, &vec![0; PAGE as usize - kept]);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::SetLen(len) => self.set_len(*len),
        }
    }

    fn undo_of(&self, change: &Change) -> Undo {
        let pages = match change {
            Change::Write { offset, data } => pieces(*offset, data.len() as u64, PAGE)
                .map(|(page, ..)| (page, self.pages.get(&page).cloned()))
                .collect(),
            Change::SetLen(len) => {
                self.pages.range(len / PAGE..).map(|(page, content)| (*page, Some(content.clone()))).collect()
            }
        };
        Undo { len: self.len, pages }
    }

    fn undo(&mut self, undo: Undo) {
        for (number, page) in undo.pages {
            match page {
                Some(page) => _ = self.pages.insert(number, page),
                None => _ = self.pages.remove(&number),
            }
        }
        self.len = undo.len;
    }
}

/// A file's content, whatever its name.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) cache: Image,
    pub(super) medium: Image,
    /// Changes that took effect since the last sync that did, in order: any part of them may be on the medium.
    unsynced: Vec<Change>,
    unsynced_bytes: usize,
    /// Bytes from the start for which space was allocated, as far as the file still reaches.
    reserved: u64,
}

impl Content {
    /// Makes a change visible.
    pub(super) fn execute(&mut self, change: &Change) -> Undo {
        let undo = self.cache.undo_of(change);
        self.cache.apply(change);
        undo
    }

    /// Takes back a change that never took effect; the last one first.
    pub(super) fn undo(&mut self, undo: Undo) {
        self.cache.undo(undo);
    }

    /// The change took effect: the operating system has it.
    pub(super) fn take_effect(&mut self, change: Change) {
        if let Change::Write { data, .. } = &change {
            self.unsynced_bytes += data.len();
        }
        self.unsynced.push(change);
        if self.unsynced_bytes > WRITE_BACK_BYTES {
            self.sync();
        }
    }

    /// Bytes that a sync would have to write.
    pub(super) fn unsynced_bytes(&self) -> usize {
        self.unsynced_bytes
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.medium.apply(&change);
        }
        self.unsynced_bytes = 0;
    }

    pub(super) fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len);
    }

    /// Bytes of disk space that the file would take after `change`.
    pub(super) fn space_after(&self, change: Option<&Change>) -> u64 {
        let len = if let Some(Change::SetLen(len)) = change { *len } else { self.cache.len };
        // Cutting a file gives back what was allocated.
        let from = self.reserved.min(len).div_ceil(PAGE);
        let mut pages = self.cache.pages.range(from..len.div_ceil(PAGE).max(from)).count() as u64;
        if let Some(Change::Write { offset, data }) = change {
            let touched = pieces(*offset, data.len() as u64, PAGE).map(|(page, ..)| page);
            pages += touched.filter(|page| *page >= from && !self.cache.pages.contains_key(page)).count() as u64;
        }
        (from + pages) * PAGE
    }

    pub(super) fn has_unsynced_writes(&self) -> bool {
        self.unsynced.iter().any(|change| matches!(change, Change::Write { .. }))
    }

    /// As [`Content::sync`], but one block that was written stays on the medium as it was. Returns where it is and what
    /// belongs there; `None` if all is there after all.
    pub(super) fn sync_but_one(&mut self, rng: &mut SplitMix, block: u64) -> Option<(u64, Vec<u8>)> {
        let touched = |change: &Change| match change {
            Change::Write { offset, data } => pieces(*offset, data.len() as u64, block).map(|(n, ..)| n).collect(),
            Change::SetLen(_) => Vec::new(),
        };
        let blocks: Vec<u64> = self.unsynced.iter().flat_map(touched).collect();
        let offset = blocks.get(rng.below(blocks.len() as u64) as usize)? * block;
        let before = self.medium.block(offset, block);
        self.sync();
        let after = self.medium.block(offset, block);
        self.overwrite(offset, &before).then_some((offset, after))
    }

    /// Puts bytes on the medium behind the cache, as far as the file reaches; whether that changed anything.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let len = self.medium.len.saturating_sub(offset).min(bytes.len() as u64);
        let bytes = &bytes[..len as usize];
        let changes = self.medium.block(offset, len) != bytes;
        self.medium.write(offset, &Bytes::copy_from_slice(bytes));
        changes
    }

    /// Changes bytes on the medium, and what the cache holds of them if `seen`; returns which. Not where the cache holds
    /// something newer, or past the end.
    pub(super) fn damage(&mut self, offset: u64, how: Garble, seen: bool, rng: &mut SplitMix) -> Vec<u64> {
        let len = how.len().min(self.medium.len.min(self.cache.len).saturating_sub(offset));
        let before = self.medium.block(offset, len);
        if before != self.cache.block(offset, len) {
            return Vec::new();
        }
        let mut after = before.clone();
        match how {
            Garble::Flip(bit) => after.iter_mut().for_each(|byte| *byte ^= 1 << (bit % 8)),
            Garble::Zero(_) => after.fill(0),
            Garble::Copy(from) => after = self.medium.block(from, len),
            Garble::Noise(_) => after.iter_mut().for_each(|byte| *byte = rng.next() as u8),
        }
        let after = Bytes::from(after);
        self.medium.write(offset, &after);
        if seen {
            self.cache.write(offset, &after);
        }
        let changed = before.iter().zip(&after).enumerate().filter(|(_, (old, new))| old != new);
        changed.map(|(at, _)| offset + at as u64).collect()
    }

    /// What is clean is read from the medium again.
    pub(super) fn evict(&mut self) {
        self.cache = self.medium.clone();
        for change in &self.unsynced {
            self.cache.apply(change);
        }
    }

    /// The cache is gone: the file is what the medium holds.
    pub(super) fn forget_cache(&mut self) {
        self.cache = self.medium.clone();
    }

    /// Lets an arbitrary part of the unsynced changes reach the medium and forgets the rest.
    ///
    /// Length changes are metadata: a prefix of them survives. Of each 512-byte sector the medium holds what it held
    /// after some number of the writes to it. A write past a cut that is lost went to blocks that no longer belong to
    /// the file.
    pub(super) fn scatter(&mut self, rng: &mut SplitMix, counters: &mut DiskCounters) {
        self.unsynced_bytes = 0;
        let changes = std::mem::take(&mut self.unsynced);
        if changes.is_empty() {
            return;
        }
        let fate = rng.below(4);
        let mut kept_of = |total: u64| match fate {
            0 => 0,
            1 => total,
            _ => rng.below(total + 1),
        };

        let mut lengths = vec![self.medium.len];
        let mut touches: BTreeMap<u64, u64> = BTreeMap::new();
        for change in &changes {
            let last = *lengths.last().expect("it starts with one");
            let len = match change {
                Change::SetLen(len) => *len,
                Change::Write { offset, data } => {
                    for (sector, ..) in pieces(*offset, data.len() as u64, SECTOR) {
                        *touches.entry(sector).or_default() += 1;
                    }
                    length_after(last, *offset, data.len())
                }
            };
            lengths.push(len);
        }
        let grown = lengths.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
        let lengths_kept = kept_of(grown);
        for total in touches.values_mut() {
            let kept = kept_of(*total);
            counters.sectors_kept += kept;
            counters.sectors_lost += *total - kept;
            *total = kept;
        }
        self.keep(&changes, &lengths, lengths_kept, touches);
    }

    /// Applies the first `lengths_kept` length changes, and of the writes to each sector the first `kept`.
    fn keep(&mut self, changes: &[Change], lengths: &[u64], mut lengths_kept: u64, mut kept: BTreeMap<u64, u64>) {
        let mut len = self.medium.len;
        let mut lost_cut = u64::MAX;
        for (change, pair) in changes.iter().zip(lengths.windows(2)) {
            if pair[0] != pair[1] && lengths_kept > 0 {
                lengths_kept -= 1;
                len = pair[1];
                if matches!(change, Change::SetLen(_)) {
                    self.medium.set_len(len);
                }
            } else if pair[1] < pair[0] {
                lost_cut = lost_cut.min(pair[1]);
            }
            let Change::Write { offset, data } = change else { continue };
            for (sector, start, piece) in pieces(*offset, data.len() as u64, SECTOR) {
                let Some(left) = kept.get_mut(&sector).filter(|left| **left > 0) else { continue };
                *left -= 1;
                if start + piece <= lost_cut {
                    let from = (start - offset) as usize;
                    self.medium.write(start, &data.slice(from..from + piece as usize));
                }
            }
        }
        self.medium.set_len(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(image: &Image) -> Vec<u8> {
        let mut buf = vec![0xee; image.len as usize + 10];
        let len = image.read(0, &mut buf);
        buf.truncate(len);
        assert_eq!(image.first(image.len), buf);
        buf
    }

    #[test]
    fn a_write_of_nothing_extends_nothing() {
        let mut content = Content::default();
        content.execute(&Change::Write { offset: 100, data: Bytes::new() });
        content.take_effect(Change::Write { offset: 100, data: Bytes::new() });
        content.sync();
        assert_eq!((content.cache.len, content.medium.len), (0, 0));
        content.take_effect(Change::Write { offset: 100, data: Bytes::new() });
        content.scatter(&mut SplitMix::new(2), &mut DiskCounters::default());
        assert_eq!(content.medium.len, 0);
    }

    /// Against an obviously correct image: random changes, each undone again at random.
    #[test]
    fn images_and_undo_agree_with_a_vector() {
        let mut rng = SplitMix::new(3);
        let mut content = Content::default();
        let mut plain: Vec<Vec<u8>> = vec![Vec::new()];
        let mut undos = Vec::new();
        for _ in 0..3000 {
            let mut next = plain.last().unwrap().clone();
            let change = match rng.below(5) {
                0 if !undos.is_empty() => {
                    content.undo(undos.pop().unwrap());
                    plain.pop();
                    assert_eq!(all(&content.cache), *plain.last().unwrap());
                    continue;
                }
                1 => {
                    let len = rng.below(30_000);
                    next.resize(len as usize, 0);
                    Change::SetLen(len)
                }
                _ => {
                    let (offset, len) = (rng.below(20_000), rng.below(9000));
                    let data = vec![rng.next() as u8; len as usize];
                    next.resize(next.len().max((offset + len) as usize), 0);
                    next[offset as usize..][..len as usize].copy_from_slice(&data);
                    Change::Write { offset, data: data.into() }
                }
            };
            undos.push(content.execute(&change));
            plain.push(next);
            assert_eq!(all(&content.cache), *plain.last().unwrap());
        }
    }

    /// Every sector is a version that it once had, the length is one the file once had, and all outcomes occur.
    #[test]
    fn a_scattered_file_is_made_of_old_sectors() {
        let (mut lens, mut first) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let mut counters = DiskCounters::default();
        for seed in 0..300 {
            let mut content = Content::default();
            content.take_effect(Change::Write { offset: 0, data: vec![1; 2048].into() });
            content.sync();
            content.take_effect(Change::Write { offset: 0, data: vec![2; 1024].into() });
            content.take_effect(Change::Write { offset: 512, data: vec![3; 4096].into() });
            content.scatter(&mut SplitMix::new(seed), &mut counters);
            let bytes = all(&content.medium);
            lens.insert(bytes.len());
            first.insert((bytes[0], bytes[512], bytes[1024]));
            for (number, sector) in bytes.chunks(512).enumerate() {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "torn without cause");
                let allowed: &[u8] = match number {
                    0 => &[1, 2],
                    1 => &[1, 2, 3],
                    2 | 3 => &[1, 3],
                    _ => &[0, 3],
                };
                assert!(allowed.contains(&sector[0]), "sector {number} holds {}", sector[0]);
            }
        }
        assert_eq!(lens, [2048, 4608].into());
        assert_eq!(first.len(), 12);
        assert!(counters.sectors_lost > 0 && counters.sectors_kept > 0);
    }

    /// If a cut is lost, so is what was written over the part cut off.
    #[test]
    fn a_lost_cut_leaves_the_old_file() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut content = Content::default();
            content.take_effect(Change::Write { offset: 0, data: vec![1; 1024].into() });
            content.sync();
            content.take_effect(Change::SetLen(0));
            content.take_effect(Change::Write { offset: 0, data: vec![2; 512].into() });
            content.scatter(&mut SplitMix::new(seed), &mut DiskCounters::default());
            seen.insert(all(&content.medium));
        }
        assert_eq!(seen, [vec![1; 1024], vec![], vec![0; 512], vec![2; 512]].into());
    }
}

//! The bytes of files, sparse and by sector, and images of whole disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes as a whole, in bytes.
pub(crate) const SECTOR_BYTES: usize = 512;

fn mix(a: u64, b: u64) -> u128 {
    let (mut low, mut high) = (a ^ 0x9e37_79b9_7f4a_7c15, b ^ 0xc2b2_ae3d_27d4_eb4f);
    for _ in 0..2 {
        low = (low ^ high.rotate_left(23)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        high = (high ^ low.rotate_left(31)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }
    u128::from(low ^ (low >> 29)) << 64 | u128::from(high ^ (high >> 31))
}

fn combine(hash: u128, value: u128) -> u128 {
    mix((hash >> 64) as u64 ^ value as u64, (value >> 64) as u64 ^ (hash as u64).rotate_left(17))
}

fn hash_bytes(bytes: &[u8]) -> u128 {
    bytes.chunks(8).fold(bytes.len() as u128, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        mix((hash >> 64) as u64 ^ word, hash as u64)
    })
}

/// The bytes of a sector that are not all zero.
#[derive(Debug)]
pub(crate) struct Sector {
    bytes: [u8; SECTOR_BYTES],
    hash: u128,
}

/// A sector; zeros are nothing.
pub(crate) type Cell = Option<Arc<Sector>>;

pub(crate) fn cell(bytes: [u8; SECTOR_BYTES]) -> Cell {
    let zero = bytes.iter().all(|byte| *byte == 0);
    (!zero).then(|| Arc::new(Sector { hash: hash_bytes(&bytes), bytes }))
}

pub(crate) fn bytes_of(cell: &Cell) -> [u8; SECTOR_BYTES] {
    cell.as_ref().map_or([0; SECTOR_BYTES], |sector| sector.bytes)
}

pub(crate) fn hash_of(cell: &Cell) -> u128 {
    cell.as_ref().map_or(0, |sector| sector.hash)
}

/// A file's bytes, sparse, with a running hash. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: u64,
    cells: Vec<Cell>,
    sum: u128,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn cell(&self, at: usize) -> Cell {
        self.cells.get(at).cloned().flatten()
    }

    pub(crate) fn put(&mut self, at: usize, new: Cell) {
        if at >= self.cells.len() {
            if new.is_none() {
                return;
            }
            self.cells.resize(at + 1, None);
        }
        let term = |cell: &Cell| cell.as_ref().map_or(0, |sector| combine(sector.hash, at as u128 + 1));
        self.sum ^= term(&self.cells[at]) ^ term(&new);
        self.cells[at] = new;
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let got = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < got {
            let (at, within) = split(offset + done as u64);
            let take = (SECTOR_BYTES - within).min(got - done);
            match self.cells.get(at).and_then(Option::as_ref) {
                Some(sector) => buf[done..done + take].copy_from_slice(&sector.bytes[within..within + take]),
                None => buf[done..done + take].fill(0),
            }
            done += take;
        }
        got
    }

    /// Returns the sectors that were written.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Vec<usize> {
        let (mut done, mut written) = (0, Vec::new());
        while done < data.len() {
            let (at, within) = split(offset + done as u64);
            let take = (SECTOR_BYTES - within).min(data.len() - done);
            let mut bytes = bytes_of(&self.cell(at));
            bytes[within..within + take].copy_from_slice(&data[done..done + take]);
            self.put(at, cell(bytes));
            written.push(at);
            done += take;
        }
        self.len = self.len.max(offset + data.len() as u64);
        written
    }

    /// Returns the sectors that lost bytes.
    pub(crate) fn set_len(&mut self, len: u64) -> Vec<usize> {
        let (first, within) = split(len);
        let lost: Vec<usize> = (first..self.cells.len()).filter(|at| self.cells[*at].is_some()).collect();
        for &at in &lost {
            let mut bytes = bytes_of(&self.cell(at));
            bytes[if at == first { within } else { 0 }..].fill(0);
            self.put(at, cell(bytes));
        }
        self.len = len;
        lost
    }

    fn key(&self) -> u128 {
        combine(self.sum, u128::from(self.len) + 1)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }
}

fn split(offset: u64) -> (usize, usize) {
    ((offset / SECTOR_BYTES as u64) as usize, (offset % SECTOR_BYTES as u64) as usize)
}

/// All files by directory and name: what a disk holds when nothing is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image(pub(crate) BTreeMap<PathBuf, BTreeMap<String, Arc<Content>>>);

impl Image {
    /// Equal images have equal keys, and others do not (by hash).
    pub(crate) fn key(&self) -> u128 {
        let mut key = 0;
        for (dir, names) in &self.0 {
            key = combine(key, hash_bytes(dir.as_os_str().as_encoded_bytes()));
            for (name, content) in names {
                key = combine(combine(key, hash_bytes(name.as_bytes())), content.key());
            }
        }
        key
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, &Arc<Content>)> {
        self.0.iter().flat_map(|(dir, names)| names.iter().map(move |(name, content)| (dir.join(name), content)))
    }

    pub(crate) fn file_mut(&mut self, path: &Path) -> Option<&mut Content> {
        let names = self.0.get_mut(path.parent()?)?;
        names.get_mut(path.file_name()?.to_str()?).map(Arc::make_mut)
    }
}

//! The bytes of a store's files: the one that says which store file counts, and a store file's checksummed blocks.
//!
//! ```text
//! CURRENT      0        4         6      8            16       20
//!              +--------+---------+------+------------+--------+
//!              | "QCUR" | version | 0    | generation | crc32c |     over bytes 0..16
//!              +--------+---------+------+------------+--------+
//! ```
//!
//! The database in a store file sees an array of 4 KiB blocks, numbered from 0. In the file they lie as follows:
//!
//! ```text
//! offset 0        8 KiB     16 KiB    20 KiB                          16 KiB + 1025 × 4 KiB
//!        +---------+---------+---------+-------+-------+--- ... +-------+---------+-------+---
//!        | header  | header  | sums of | block | block |        | block | sums of | block |
//!        | copy A  | copy B  | 1..1024 |   1   |   2   |        | 1024  | 1025... | 1025  |
//!        +---------+---------+---------+-------+-------+--- ... +-------+---------+-------+---
//!                            |<------- group 0: 1 + 1024 blocks ------->|<---- group 1 ...
//!
//! header copy  0        4         6      8            16         24       32              4096       8192
//!              +--------+---------+------+------------+----------+--------+--------+------+----------+
//!              | "QBLK" | version | 0    | generation | sequence | length | crc32c | 0    | block 0  |
//!              +--------+---------+------+------------+----------+--------+--------+------+----------+
//! generation   of the store file, as in its name
//! sequence     rises with every change of the header; the higher valid copy counts
//! length       what the database sees as the file's length, in bytes
//! crc32c       u32, over bytes 0..32 and block 0
//!
//! sums         1024 × u32: crc32c over generation (u64), block number (u64) and content; 0 where nothing was written,
//!              1 where the crc is 0
//! ```
//!
//! All integers are little-endian.

use std::ops::Range;

/// Of a block, in bytes: redb's page size.
pub const BLOCK_BYTES: usize = 4096;
/// Of a copy of the header, in bytes.
pub const HEADER_BYTES: usize = 2 * BLOCK_BYTES;
/// Blocks in a group, and sums in the block before them.
pub const GROUP_BLOCKS: u64 = BLOCK / 4;
/// Of `CURRENT`, in bytes.
pub const CURRENT_BYTES: usize = 20;
/// The only version so far, of both.
pub const FORMAT_VERSION: u16 = 1;

const BLOCK: u64 = BLOCK_BYTES as u64;
const GROUPS_AT: u64 = 2 * HEADER_BYTES as u64;
const BLOCKS_MAGIC: [u8; 4] = *b"QBLK";
const CURRENT_MAGIC: [u8; 4] = *b"QCUR";

/// Why bytes say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFileError {
    /// They are not what was written.
    #[error("its bytes are not what was written")]
    Damaged,
    /// A later version of this program wrote them.
    #[error("its format has version {0}; this program knows {FORMAT_VERSION}")]
    UnknownVersion(u16),
}

/// The header of a store file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Rises with every change.
    pub sequence: u64,
    /// What the database sees as the file's length, in bytes.
    pub len: u64,
    /// Block 0: [`BLOCK_BYTES`] of them.
    pub block: Box<[u8]>,
}

/// What the two copies of a header say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The one that counts.
    pub newest: Header,
    /// A copy that is unreadable, by its name.
    pub unreadable: Option<&'static str>,
    /// Copy A is older than copy B. It is written first, so no crash does this: a write of it was lost.
    pub lost_a: bool,
}

impl Header {
    /// Of a file without content.
    pub fn empty() -> Self {
        Self { sequence: 0, len: 0, block: vec![0; BLOCK_BYTES].into() }
    }

    /// A copy, [`HEADER_BYTES`] long.
    pub fn encode(&self, generation: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(BLOCKS_MAGIC);
        out.extend(FORMAT_VERSION.to_le_bytes());
        out.extend([0, 0]);
        out.extend(generation.to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &self.block);
        out.extend(crc.to_le_bytes());
        out.resize(BLOCK_BYTES, 0);
        out.extend(&self.block);
        out
    }

    fn decode(copy: &[u8], generation: u64) -> Option<Self> {
        let block = copy.get(BLOCK_BYTES..HEADER_BYTES)?.into();
        let header = Self { sequence: u64_at(copy, 16)?, len: u64_at(copy, 24)?, block };
        (header.encode(generation) == copy).then_some(header)
    }

    /// The last block that counts, plus one.
    pub fn blocks(&self) -> u64 {
        self.len.div_ceil(BLOCK)
    }
}

/// Reads both copies of the header from the first `2 *` [`HEADER_BYTES`] of a file.
///
/// # Errors
/// Neither copy is what was written for this generation.
pub fn decode_headers(bytes: &[u8], generation: u64) -> Result<Headers, StoreFileError> {
    let copy = |n: usize| bytes.get(n * HEADER_BYTES..(n + 1) * HEADER_BYTES).unwrap_or_default();
    match (Header::decode(copy(0), generation), Header::decode(copy(1), generation)) {
        (Some(a), Some(b)) if a.sequence < b.sequence => Ok(Headers { newest: b, unreadable: None, lost_a: true }),
        (Some(a), Some(_)) => Ok(Headers { newest: a, unreadable: None, lost_a: false }),
        (Some(a), None) => Ok(Headers { newest: a, unreadable: Some("B"), lost_a: false }),
        (None, Some(b)) => Ok(Headers { newest: b, unreadable: Some("A"), lost_a: false }),
        (None, None) => Err([0, 1]
            .into_iter()
            .find_map(|n| unknown_version(copy(n), BLOCKS_MAGIC))
            .map_or(StoreFileError::Damaged, StoreFileError::UnknownVersion)),
    }
}

/// What `CURRENT` holds.
pub fn encode_current(generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CURRENT_BYTES);
    bytes.extend(CURRENT_MAGIC);
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(generation.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The generation that counts.
///
/// # Errors
/// The bytes are not what [`encode_current`] made.
pub fn decode_current(bytes: &[u8]) -> Result<u64, StoreFileError> {
    if let Some(generation) = u64_at(bytes, 8).filter(|generation| bytes == encode_current(*generation)) {
        return Ok(generation);
    }
    let whole = bytes.len() == CURRENT_BYTES && crc32c::crc32c(&bytes[..16]).to_le_bytes() == bytes[16..];
    let unknown = unknown_version(bytes, CURRENT_MAGIC).filter(|_| whole);
    Err(unknown.map_or(StoreFileError::Damaged, StoreFileError::UnknownVersion))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn unknown_version(bytes: &[u8], magic: [u8; 4]) -> Option<u16> {
    let version = u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?);
    (bytes.starts_with(&magic) && version != FORMAT_VERSION).then_some(version)
}

/// The sum of a block's content; never 0, which says that nothing was written.
pub fn checksum(generation: u64, block: u64, content: &[u8]) -> u32 {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&generation.to_le_bytes());
    head[8..].copy_from_slice(&block.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), content).max(1)
}

/// The group of a block, which is not block 0.
pub fn group_of(block: u64) -> u64 {
    (block - 1) / GROUP_BLOCKS
}

/// Where the sums of a group are in the file.
pub fn group_at(group: u64) -> u64 {
    GROUPS_AT + group * (GROUP_BLOCKS + 1) * BLOCK
}

/// Where a block is in the file. Copy A stands for block 0.
pub fn block_at(block: u64) -> u64 {
    match block {
        0 => BLOCK,
        _ => group_at(group_of(block)) + (1 + (block - 1) % GROUP_BLOCKS) * BLOCK,
    }
}

/// Cuts `bytes` bytes from the start of `block` into stretches that lie together in the file: the first block of each,
/// and its part of the bytes. Block 0 is alone.
pub fn runs(mut block: u64, bytes: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = block;
        let fit = if first == 0 { 1 } else { GROUP_BLOCKS - (first - 1) % GROUP_BLOCKS };
        let run = (fit * BLOCK).min(bytes - at);
        let range = at as usize..(at + run) as usize;
        at += run;
        block += fit;
        (run > 0).then_some((first, range))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(a: &Header, b: &Header) -> Vec<u8> {
        [a.encode(7), b.encode(7)].concat()
    }

    fn header(sequence: u64) -> Header {
        Header { sequence, len: 3 * BLOCK, block: vec![sequence as u8; BLOCK_BYTES].into() }
    }

    #[test]
    fn the_newest_valid_copy_counts() {
        let (old, new) = (header(4), header(5));
        let whole = decode_headers(&headers(&new, &old), 7);
        assert_eq!(whole, Ok(Headers { newest: new.clone(), unreadable: None, lost_a: false }), "between two writes");
        let lost = decode_headers(&headers(&old, &new), 7);
        assert_eq!(lost, Ok(Headers { newest: new.clone(), unreadable: None, lost_a: true }));
        for (copy, name) in [(0, "A"), (1, "B")] {
            let mut bytes = headers(&new, &new);
            bytes[copy * HEADER_BYTES + 5000] ^= 1;
            let one = decode_headers(&bytes, 7);
            assert_eq!(one, Ok(Headers { newest: new.clone(), unreadable: Some(name), lost_a: false }));
        }
        assert_eq!(decode_headers(&headers(&new, &new), 8), Err(StoreFileError::Damaged), "of another store");
        assert_eq!(decode_headers(&[], 7), Err(StoreFileError::Damaged));
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = headers(&header(1), &header(1));
        for copy in [0, HEADER_BYTES] {
            bytes[copy + 4] = 2;
        }
        assert_eq!(decode_headers(&bytes, 7), Err(StoreFileError::UnknownVersion(2)));
        let mut current = encode_current(9);
        current[4] = 3;
        assert_eq!(decode_current(&current), Err(StoreFileError::Damaged), "its checksum covers the version");
        let crc = crc32c::crc32c(&current[..16]).to_le_bytes();
        current[16..].copy_from_slice(&crc);
        assert_eq!(decode_current(&current), Err(StoreFileError::UnknownVersion(3)));
    }

    #[test]
    fn blocks_and_sums_do_not_overlap() {
        assert_eq!((block_at(0), block_at(1), block_at(1024)), (BLOCK, 5 * BLOCK, 1028 * BLOCK));
        assert_eq!((group_at(0), group_at(1), block_at(1025)), (4 * BLOCK, 1029 * BLOCK, 1030 * BLOCK));
        let cut: Vec<_> = runs(0, 1026 * BLOCK).map(|(block, range)| (block, range.len() as u64 / BLOCK)).collect();
        assert_eq!(cut, [(0, 1), (1, 1024), (1025, 1)]);
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_no_current(generation in any::<u64>(), bit in 0..CURRENT_BYTES * 8) {
            let mut bytes = encode_current(generation);
            prop_assert_eq!(decode_current(&bytes), Ok(generation));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_current(&bytes), Err(StoreFileError::Damaged));
        }

        #[test]
        fn a_changed_bit_is_no_header(sequence in any::<u64>(), bit in 0..HEADER_BYTES * 8) {
            let mut copy = header(sequence).encode(7);
            prop_assert_eq!(Header::decode(&copy, 7), Some(header(sequence)));
            copy[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&copy, 7), None);
        }
    }
}

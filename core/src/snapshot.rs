//! The form in which a state travels from one node to another: a manifest, chunks of pairs, a trailer.
//!
//! A snapshot is the pairs of a state in key order, cut into *chunks* of about [`CHUNK_BYTES`], each checksummed, and
//! a *trailer* that says what the whole must add up to. Its [`Manifest`] says which log entry it covers and which
//! membership was in force there. All integers are little-endian.
//!
//! ```text
//! chunk    0        4         6      8            16       20         24       28
//!          +--------+---------+------+------------+--------+----------+--------+---------------------------+
//!          | "QSNC" | version | 0    | sequence   | pairs  | body len | crc32c | body                      |
//!          +--------+---------+------+------------+--------+----------+--------+---------------------------+
//! body     pairs × [ key len u32 | value len u32 | key | value ], keys strictly rising, over all chunks
//! crc32c   over bytes 0..24 and the body
//!
//! trailer  0        4         6      8            16           24           32            36      40
//!          +--------+---------+------+------------+------------+------------+-------------+-------+
//!          | "QSNT" | version | 0    | chunks     | pairs      | bytes      | crc of crcs | crc32c|
//!          +--------+---------+------+------------+------------+------------+-------------+-------+
//! bytes        the encoded lengths of all chunks, headers included
//! crc of crcs  crc32c over the chunks' crc32c fields (4 bytes each) in order
//! crc32c       over bytes 0..36
//! ```
//!
//! Chunks are numbered from 0. An empty state has no chunk, only a trailer.
//!
//! A *backup* is a file that holds the three, one behind the other: see [`PartReader`].

mod manifest;
mod parts;

use bytes::{BufMut, Bytes, BytesMut};

pub use manifest::Manifest;
pub use parts::{BackupVerifier, Part, PartReader};

/// A chunk is closed once its body has this many bytes; so it is larger by at most one pair.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// The version of all three forms that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Length of a chunk's header in bytes.
pub const CHUNK_HEADER_BYTES: usize = 28;

/// Length of an encoded [`Trailer`] in bytes.
pub const TRAILER_BYTES: usize = 40;

const CHUNK_MAGIC: [u8; 4] = *b"QSNC";
const TRAILER_MAGIC: [u8; 4] = *b"QSNT";
const PAIR_HEADER_BYTES: usize = 8;

/// Why bytes are not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a program that is newer than this one.
    #[error("{what} has format version {version}, this program reads version {FORMAT_VERSION}: upgrade this node")]
    UnknownVersion {
        /// Which part.
        what: &'static str,
        /// What it says.
        version: u16,
    },
    /// Bytes are missing, changed or added.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// What gives it away.
        why: &'static str,
    },
    /// The parts are whole but are not one snapshot.
    #[error("snapshot chunks do not fit together: {0}")]
    Inconsistent(&'static str),
    /// A key or a value of 4 GiB and more.
    #[error("a pair is too large for a snapshot")]
    TooLarge,
}

fn damaged(what: &'static str, why: &'static str) -> SnapshotError {
    SnapshotError::Damaged { what, why }
}

/// What a whole snapshot adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// Number of chunks.
    pub chunks: u64,
    /// Number of pairs.
    pub pairs: u64,
    /// Encoded length of all chunks in bytes.
    pub bytes: u64,
    /// crc32c over the chunks' checksums, in order.
    pub crc: u32,
}

impl Trailer {
    /// The byte box in the module's documentation.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(TRAILER_BYTES);
        out.put_slice(&TRAILER_MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u16_le(0);
        out.put_u64_le(self.chunks);
        out.put_u64_le(self.pairs);
        out.put_u64_le(self.bytes);
        out.put_u32_le(self.crc);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Reads what [`Trailer::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are damaged or of a version that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        const WHAT: &str = "snapshot trailer";
        if bytes.len() != TRAILER_BYTES {
            return Err(damaged(WHAT, "wrong length"));
        }
        check_magic(WHAT, bytes, TRAILER_MAGIC)?;
        if crc32c::crc32c(&bytes[..36]) != u32_at(bytes, 36) {
            return Err(damaged(WHAT, "checksum"));
        }
        Ok(Self {
            chunks: u64_at(bytes, 8),
            pairs: u64_at(bytes, 16),
            bytes: u64_at(bytes, 24),
            crc: u32_at(bytes, 32),
        })
    }

    /// Counts one more chunk in.
    fn add(&mut self, chunk_bytes: usize, pairs: u32, crc: u32) {
        self.chunks += 1;
        self.pairs += u64::from(pairs);
        self.bytes += chunk_bytes as u64;
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

/// Checks the first six bytes, which every form starts with.
fn check_magic(what: &'static str, bytes: &[u8], magic: [u8; 4]) -> Result<(), SnapshotError> {
    if bytes.len() < 6 {
        return Err(damaged(what, "too short"));
    }
    if bytes[..4] != magic {
        return Err(damaged(what, "wrong magic number"));
    }
    match u16::from_le_bytes([bytes[4], bytes[5]]) {
        FORMAT_VERSION => Ok(()),
        version => Err(SnapshotError::UnknownVersion { what, version }),
    }
}

/// Cuts pairs into chunks. [`ChunkWriter::push`] pairs in key order; take a chunk by [`ChunkWriter::finish_chunk`]
/// when [`ChunkWriter::is_full`] or at the end; then [`ChunkWriter::trailer`].
#[derive(Debug, Default)]
pub struct ChunkWriter {
    body: BytesMut,
    pairs: u32,
    tally: Trailer,
}

impl ChunkWriter {
    /// Appends a pair to the open chunk.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`].
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        let key_len = u32::try_from(key.len()).map_err(|_| SnapshotError::TooLarge)?;
        let value_len = u32::try_from(value.len()).map_err(|_| SnapshotError::TooLarge)?;
        let body_len = self.body.len() + PAIR_HEADER_BYTES + key.len() + value.len();
        u32::try_from(body_len).map_err(|_| SnapshotError::TooLarge)?;
        self.body.put_u32_le(key_len);
        self.body.put_u32_le(value_len);
        self.body.put_slice(key);
        self.body.put_slice(value);
        self.pairs += 1;
        Ok(())
    }

    /// Whether the open chunk is as large as a chunk should be.
    pub fn is_full(&self) -> bool {
        self.body.len() >= CHUNK_BYTES
    }

    /// Closes the open chunk and returns it encoded; `None` if it has no pair.
    pub fn finish_chunk(&mut self) -> Option<Bytes> {
        if self.pairs == 0 {
            return None;
        }
        let body = self.body.split();
        let mut out = BytesMut::with_capacity(CHUNK_HEADER_BYTES + body.len());
        out.put_slice(&CHUNK_MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u16_le(0);
        out.put_u64_le(self.tally.chunks);
        out.put_u32_le(self.pairs);
        out.put_u32_le(u32::try_from(body.len()).expect("push keeps the body below 4 GiB"));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
        out.put_u32_le(crc);
        out.put_slice(&body);
        self.tally.add(out.len(), self.pairs, crc);
        self.pairs = 0;
        Some(out.freeze())
    }

    /// What the chunks taken so far add up to.
    pub fn trailer(&self) -> Trailer {
        self.tally
    }
}

/// One decoded chunk. Its keys and values share the encoded bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its number, from 0.
    pub sequence: u64,
    /// Its pairs; keys rise strictly.
    pub pairs: Vec<(Bytes, Bytes)>,
}

/// The length of the encoded chunk that begins with this header.
///
/// # Errors
/// These bytes do not begin a chunk, or one of an unknown version.
pub fn chunk_len(header: &[u8]) -> Result<usize, SnapshotError> {
    const WHAT: &str = "snapshot chunk";
    check_magic(WHAT, header, CHUNK_MAGIC)?;
    if header.len() < CHUNK_HEADER_BYTES {
        return Err(damaged(WHAT, "too short"));
    }
    Ok(CHUNK_HEADER_BYTES + u32_at(header, 20) as usize)
}

impl Chunk {
    /// Reads one encoded chunk, which must fill `bytes` exactly.
    ///
    /// # Errors
    /// The bytes are damaged or of a version that is not known here.
    pub fn decode(bytes: &Bytes) -> Result<Self, SnapshotError> {
        const WHAT: &str = "snapshot chunk";
        if chunk_len(bytes)? != bytes.len() {
            return Err(damaged(WHAT, "wrong length"));
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), &bytes[CHUNK_HEADER_BYTES..]);
        if crc != u32_at(bytes, 24) {
            return Err(damaged(WHAT, "checksum"));
        }
        let count = u32_at(bytes, 16) as usize;
        let mut rest = bytes.slice(CHUNK_HEADER_BYTES..);
        if count == 0 || count > rest.len() / PAIR_HEADER_BYTES {
            return Err(damaged(WHAT, "impossible pair count"));
        }
        let mut pairs: Vec<(Bytes, Bytes)> = Vec::with_capacity(count);
        for _ in 0..count {
            if rest.len() < PAIR_HEADER_BYTES {
                return Err(damaged(WHAT, "a pair is cut off"));
            }
            let (key_len, value_len) = (u32_at(&rest, 0) as usize, u32_at(&rest, 4) as usize);
            let mut pair = rest.split_off(PAIR_HEADER_BYTES);
            if pair.len() < key_len || pair.len() - key_len < value_len {
                return Err(damaged(WHAT, "a pair is cut off"));
            }
            let key = pair.split_to(key_len);
            let value = pair.split_to(value_len);
            if pairs.last().is_some_and(|(last, _)| *last >= key) {
                return Err(damaged(WHAT, "keys do not rise"));
            }
            pairs.push((key, value));
            rest = pair;
        }
        if !rest.is_empty() {
            return Err(damaged(WHAT, "bytes after the last pair"));
        }
        Ok(Self { sequence: u64_at(bytes, 8), pairs })
    }
}

/// Takes a snapshot's chunks in order and at last its trailer, and says whether they are one whole snapshot.
#[derive(Debug, Default)]
pub struct ChunkVerifier {
    tally: Trailer,
    last_key: Option<Bytes>,
}

impl ChunkVerifier {
    /// Decodes and checks the next chunk.
    ///
    /// # Errors
    /// It is damaged, is not the next one, or its keys do not rise from the previous chunk's.
    pub fn chunk(&mut self, bytes: &Bytes) -> Result<Chunk, SnapshotError> {
        let chunk = Chunk::decode(bytes)?;
        if chunk.sequence != self.tally.chunks {
            return Err(SnapshotError::Inconsistent("a chunk is missing, repeated or out of order"));
        }
        if let (Some(last), Some((first, _))) = (&self.last_key, chunk.pairs.first())
            && last >= first
        {
            return Err(SnapshotError::Inconsistent("keys do not rise from one chunk to the next"));
        }
        // A copy, so that the verifier does not keep the chunk's bytes alive.
        self.last_key = chunk.pairs.last().map(|(key, _)| Bytes::copy_from_slice(key));
        let pairs = u32::try_from(chunk.pairs.len()).map_err(|_| SnapshotError::TooLarge)?;
        self.tally.add(bytes.len(), pairs, u32_at(bytes, 24));
        Ok(chunk)
    }

    /// Checks that the chunks add up to what the trailer says.
    ///
    /// # Errors
    /// They do not.
    pub fn finish(&self, trailer: &Trailer) -> Result<(), SnapshotError> {
        if self.tally == *trailer {
            Ok(())
        } else {
            Err(SnapshotError::Inconsistent("the trailer does not match the chunks"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    fn encode(pairs: &Pairs, cut_every: usize) -> (Vec<Bytes>, Trailer) {
        let mut writer = ChunkWriter::default();
        let mut chunks = vec![];
        for (n, (key, value)) in pairs.iter().enumerate() {
            writer.push(key, value).unwrap();
            if (n + 1) % cut_every == 0 || writer.is_full() {
                chunks.extend(writer.finish_chunk());
            }
        }
        chunks.extend(writer.finish_chunk());
        (chunks, writer.trailer())
    }

    fn decode(chunks: &[Bytes], trailer: &Trailer) -> Result<Pairs, SnapshotError> {
        let mut verifier = ChunkVerifier::default();
        let mut out = Pairs::new();
        for chunk in chunks {
            out.extend(verifier.chunk(chunk)?.pairs.iter().map(|(k, v)| (k.to_vec(), v.to_vec())));
        }
        verifier.finish(trailer)?;
        Ok(out)
    }

    fn pairs() -> impl Strategy<Value = Pairs> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        proptest::collection::btree_map(bytes(), bytes(), 0..40)
    }

    proptest! {
        #[test]
        fn chunks_carry_the_pairs(pairs in pairs(), cut in 1_usize..10) {
            let (chunks, trailer) = encode(&pairs, cut);
            prop_assert_eq!(Trailer::decode(&trailer.encode()).unwrap(), trailer);
            prop_assert_eq!(decode(&chunks, &trailer).unwrap(), pairs);
        }

        #[test]
        fn a_changed_byte_is_found(pairs in pairs(), cut in 1_usize..10, at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let (mut chunks, trailer) = encode(&pairs, cut);
            prop_assume!(!chunks.is_empty());
            let which = at.index(chunks.len());
            let mut bytes = chunks[which].to_vec();
            let offset = at.index(bytes.len());
            bytes[offset] ^= flip;
            chunks[which] = bytes.into();
            prop_assert!(decode(&chunks, &trailer).is_err());
            let mut bytes = trailer.encode().to_vec();
            let offset = at.index(bytes.len());
            bytes[offset] ^= flip;
            prop_assert!(Trailer::decode(&bytes).is_err());
        }

        #[test]
        fn lost_swapped_and_repeated_chunks_are_found(pairs in pairs(), cut in 1_usize..5, at in any::<prop::sample::Index>()) {
            let (chunks, trailer) = encode(&pairs, cut);
            prop_assume!(chunks.len() >= 2);
            let which = at.index(chunks.len() - 1);
            let mut lost = chunks.clone();
            lost.remove(at.index(chunks.len()));
            prop_assert!(decode(&lost, &trailer).is_err());
            let mut swapped = chunks.clone();
            swapped.swap(which, which + 1);
            prop_assert!(decode(&swapped, &trailer).is_err());
            let mut repeated = chunks.clone();
            repeated.insert(which, chunks[which].clone());
            prop_assert!(decode(&repeated, &trailer).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), valid_start in any::<bool>()) {
            let mut bytes = bytes;
            if valid_start && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(b"QSNC\x01\0");
            }
            let bytes = Bytes::from(bytes);
            let _ = Chunk::decode(&bytes);
            let _ = Trailer::decode(&bytes);
            let _ = Manifest::decode(&bytes);
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let mut bytes = Trailer::default().encode().to_vec();
        bytes[4] = 9;
        let error = Trailer::decode(&bytes).unwrap_err();
        assert_eq!(error, SnapshotError::UnknownVersion { what: "snapshot trailer", version: 9 });
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn a_big_pair_makes_a_big_chunk() {
        let pairs = Pairs::from([(vec![1], vec![7; 2 * CHUNK_BYTES]), (vec![2], vec![8])]);
        let (chunks, trailer) = encode(&pairs, usize::MAX);
        assert_eq!(chunks.len(), 2);
        assert_eq!(decode(&chunks, &trailer).unwrap(), pairs);
    }
}

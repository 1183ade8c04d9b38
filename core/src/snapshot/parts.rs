//! A snapshot as one sequence of bytes, which is what a backup is: manifest, chunks, trailer, one behind the other.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    CHUNK_HEADER_BYTES, ChunkVerifier, Manifest, SnapshotError, TRAILER_BYTES, Trailer, chunk_len, damaged, manifest,
};
use crate::wire::FRAME_BYTES_MAX;

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Manifest(Manifest),
    /// Encoded, for a [`ChunkVerifier`](super::ChunkVerifier).
    Chunk(Bytes),
    /// The last.
    Trailer(Trailer),
}

/// What has to come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    Manifest,
    ChunkOrTrailer,
    Nothing,
}

/// Cuts the bytes of a backup into its parts. [`PartReader::push`] bytes as they come, then take parts until there is
/// none; after the last bytes, [`PartReader::finish`].
///
/// Holds no more than was pushed, and of that not more than a part needs.
#[derive(Debug, Default)]
pub struct PartReader {
    unread: BytesMut,
    expected: Expected,
}

impl PartReader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next part, if all of it is there.
    ///
    /// # Errors
    /// What is there does not begin a part, or not the one that must come.
    pub fn next_part(&mut self) -> Result<Option<Part>, SnapshotError> {
        let part = match self.expected {
            Expected::Manifest => {
                let whole = self.take(manifest::HEADER_BYTES, manifest::encoded_len)?;
                whole.map(|bytes| Manifest::decode(&bytes).map(Part::Manifest)).transpose()?
            }
            Expected::ChunkOrTrailer if self.unread.starts_with(&super::TRAILER_MAGIC) => {
                let whole = self.take(TRAILER_BYTES, |_| Ok(TRAILER_BYTES))?;
                whole.map(|bytes| Trailer::decode(&bytes).map(Part::Trailer)).transpose()?
            }
            Expected::ChunkOrTrailer => self.take(CHUNK_HEADER_BYTES, chunk_len)?.map(Part::Chunk),
            Expected::Nothing if self.unread.is_empty() => None,
            Expected::Nothing => return Err(damaged("backup", "bytes after the trailer")),
        };
        match part {
            Some(Part::Trailer(_)) => self.expected = Expected::Nothing,
            Some(_) => self.expected = Expected::ChunkOrTrailer,
            None => {}
        }
        Ok(part)
    }

    /// There are no more bytes.
    ///
    /// # Errors
    /// Something is missing.
    pub fn finish(&self) -> Result<(), SnapshotError> {
        match self.expected {
            Expected::Nothing => Ok(()),
            Expected::Manifest => Err(damaged("backup", "it is none, or its beginning is missing")),
            Expected::ChunkOrTrailer => Err(damaged("backup", "it ends too early")),
        }
    }

    /// The next part's bytes, if all are there: `len` says how many they are from the header.
    fn take(
        &mut self,
        header_bytes: usize,
        len: impl Fn(&[u8]) -> Result<usize, SnapshotError>,
    ) -> Result<Option<Bytes>, SnapshotError> {
        if self.unread.len() < header_bytes {
            return Ok(None);
        }
        let len = len(&self.unread[..header_bytes])?;
        if len > FRAME_BYTES_MAX {
            return Err(damaged("backup", "a part is larger than any that is written"));
        }
        if self.unread.len() < len {
            return Ok(None);
        }
        let part = Bytes::copy_from_slice(&self.unread[..len]);
        self.unread.advance(len);
        Ok(Some(part))
    }
}

/// Says whether the bytes that are pushed are one whole backup.
#[derive(Debug, Default)]
pub struct BackupVerifier {
    reader: PartReader,
    chunks: ChunkVerifier,
    pairs: u64,
}

impl BackupVerifier {
    /// Checks the next bytes.
    ///
    /// # Errors
    /// Something in them is damaged, or not what must come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.reader.push(bytes);
        while let Some(part) = self.reader.next_part()? {
            match part {
                Part::Manifest(_) => {}
                Part::Chunk(chunk) => self.pairs += self.chunks.chunk(&chunk)?.pairs.len() as u64,
                Part::Trailer(trailer) => self.chunks.finish(&trailer)?,
            }
        }
        Ok(())
    }

    /// There are no more bytes: how many pairs there were.
    ///
    /// # Errors
    /// Something is missing.
    pub fn finish(&self) -> Result<u64, SnapshotError> {
        self.reader.finish().map(|()| self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::ChunkWriter;
    use crate::types::LogId;

    fn backup(pairs: u32) -> (Vec<Part>, Vec<u8>) {
        let manifest = Manifest { applied: Some(LogId::new(3, 7)), ..Manifest::default() };
        let mut bytes = manifest.encode().to_vec();
        let mut parts = vec![Part::Manifest(manifest)];
        let mut writer = ChunkWriter::default();
        for n in 0..pairs {
            writer.push(&n.to_be_bytes(), &[7; 100]).expect("small");
            if n % 3 == 2 {
                parts.extend(writer.finish_chunk().map(Part::Chunk));
            }
        }
        parts.extend(writer.finish_chunk().map(Part::Chunk));
        parts.push(Part::Trailer(writer.trailer()));
        for part in &parts[1..] {
            match part {
                Part::Chunk(chunk) => bytes.extend_from_slice(chunk),
                Part::Trailer(trailer) => bytes.extend_from_slice(&trailer.encode()),
                Part::Manifest(_) => {}
            }
        }
        (parts, bytes)
    }

    fn read(bytes: &[u8], step: usize) -> Result<(Vec<Part>, u64), SnapshotError> {
        let (mut reader, mut parts, mut verifier) = (PartReader::default(), Vec::new(), BackupVerifier::default());
        for piece in bytes.chunks(step) {
            verifier.push(piece)?;
            reader.push(piece);
            while let Some(part) = reader.next_part()? {
                parts.push(part);
            }
        }
        reader.finish()?;
        Ok((parts, verifier.finish()?))
    }

    proptest! {
        #[test]
        fn parts_come_back_however_the_bytes_are_cut(pairs in 0_u32..20, step in 1_usize..500) {
            let (parts, bytes) = backup(pairs);
            prop_assert_eq!(read(&bytes, step), Ok((parts, u64::from(pairs))));
        }

        #[test]
        fn a_changed_byte_and_a_missing_end_are_found(pairs in 0_u32..20, at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let (_, mut bytes) = backup(pairs);
            let at = at.index(bytes.len());
            prop_assert!(read(&bytes[..at], 4096).is_err());
            bytes[at] ^= flip;
            prop_assert!(read(&bytes, 4096).is_err());
            bytes[at] ^= flip;
            bytes.push(0);
            prop_assert!(read(&bytes, 4096).is_err());
        }
    }
}

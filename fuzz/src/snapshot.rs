//! Chunks, trailer and manifest of a snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::snapshot::{
    BackupVerifier, CHUNK_HEADER_BYTES, Chunk, ChunkVerifier, ChunkWriter, FORMAT_VERSION, Manifest, SnapshotError,
    Trailer, chunk_len,
};

use super::input::Input;

type Pairs = Vec<(Bytes, Bytes)>;

fn write(pairs: impl IntoIterator<Item = (Bytes, Bytes)>, chunk_pairs: usize) -> (Vec<Bytes>, Trailer) {
    let (mut writer, mut chunks) = (ChunkWriter::default(), Vec::new());
    for (count, (key, value)) in pairs.into_iter().enumerate() {
        if count > 0 && count % chunk_pairs == 0 {
            chunks.extend(writer.finish_chunk());
        }
        writer.push(&key, &value).expect("inputs are small");
    }
    chunks.extend(writer.finish_chunk());
    (chunks, writer.trailer())
}

fn verify(chunks: &[Bytes], trailer: &[u8]) -> Result<Pairs, SnapshotError> {
    let (mut verifier, mut pairs) = (ChunkVerifier::default(), Pairs::new());
    for chunk in chunks {
        pairs.extend(verifier.chunk(chunk)?.pairs);
    }
    verifier.finish(&Trailer::decode(trailer)?)?;
    Ok(pairs)
}

/// `content` behind the 16 or 28 bytes that make it a form with valid lengths and checksums.
fn sealed(magic: &[u8; 4], before_len: &[u8], content: &[u8]) -> Bytes {
    let mut out = [magic, &FORMAT_VERSION.to_le_bytes()[..], &[0, 0], before_len].concat();
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), content);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(content);
    out.into()
}

fn decoders(bytes: &Bytes) {
    if let Ok(chunk) = Chunk::decode(bytes) {
        assert_eq!(chunk_len(bytes), Ok(bytes.len()));
        assert!(chunk.pairs.is_sorted_by(|(a, _), (b, _)| a < b));
        let (chunks, trailer) = write(chunk.pairs.clone(), usize::MAX);
        assert_eq!(verify(&chunks, &trailer.encode()), Ok(chunk.pairs));
    }
    if let Ok(trailer) = Trailer::decode(bytes) {
        assert_eq!(Trailer::decode(&trailer.encode()), Ok(trailer));
    }
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }
}

/// How many pairs a backup has.
fn backup(parts: &[&[u8]]) -> Result<u64, SnapshotError> {
    let mut verifier = BackupVerifier::default();
    parts.iter().try_for_each(|part| verifier.push(part))?;
    verifier.finish()
}

/// Every decoder, with checksums as they come and with checksums put right; then a whole snapshot with changes, which
/// is refused or yields exactly the pairs that were written.
pub fn snapshot(data: &[u8]) {
    decoders(&Bytes::copy_from_slice(data));
    let _ = backup(&[data]);
    let header_rest = CHUNK_HEADER_BYTES - 16;
    let (before_len, body) = data.split_at(header_rest.min(data.len()));
    if before_len.len() == header_rest {
        let chunk = sealed(b"QSNC", before_len, body);
        assert_eq!(chunk_len(&chunk), Ok(chunk.len()));
        decoders(&chunk);
    }
    decoders(&sealed(b"QSNM", &[], data));
    changed(data);
}

fn changed(data: &[u8]) {
    let mut input = Input(data);
    let (chunk_pairs, changes) = (usize::from(input.u8() % 8) + 1, input.u8() % 4);
    let mut changes = Input(input.bytes(usize::from(changes) * 5));
    let mut pairs = BTreeMap::new();
    while !input.is_empty() {
        let (key_len, value_len) = (usize::from(input.u8() % 16), usize::from(input.u8() % 64));
        let key = Bytes::copy_from_slice(input.bytes(key_len));
        pairs.insert(key, Bytes::copy_from_slice(input.bytes(value_len)));
    }
    let written: Pairs = pairs.into_iter().collect();
    let (mut chunks, trailer) = write(written.clone(), chunk_pairs);
    let mut trailer = trailer.encode().to_vec();
    // At most three flipped bits, which a crc32c always sees at these lengths (its Hamming distance is at least 4).
    while !changes.is_empty() {
        let (kind, at, which) = (changes.u8(), changes.u16(), changes.u16());
        let count = chunks.len();
        match kind % 6 {
            0 => flip(&mut trailer, at),
            1 if count > 0 => drop(chunks.remove(usize::from(which) % count)),
            2 if count > 0 => chunks.swap(usize::from(which) % count, usize::from(at) % count),
            3 if count > 0 => chunks.insert(usize::from(at) % count, chunks[usize::from(which) % count].clone()),
            4 if count > 0 => {
                let chunk = &mut chunks[usize::from(which) % count];
                chunk.truncate(usize::from(at) % chunk.len().max(1));
            }
            5 if count > 0 => {
                let chunk = &mut chunks[usize::from(which) % count];
                let mut bytes = chunk.to_vec();
                flip(&mut bytes, at);
                *chunk = bytes.into();
            }
            _ => {}
        }
    }
    let manifest = Manifest::default().encode();
    let encoded = std::iter::once(&manifest).chain(&chunks).map(|part| &**part);
    let parts: Vec<&[u8]> = encoded.chain([&*trailer]).collect();
    // A chunk that is cut to nothing is missing as one of several, and not there at all in a row of bytes.
    if let Ok(pairs) = backup(&parts) {
        assert_eq!(pairs, written.len() as u64);
    }
    if let Ok(read) = verify(&chunks, &trailer) {
        assert_eq!(read, written);
    }
}

fn flip(bytes: &mut [u8], at: u16) {
    if !bytes.is_empty() {
        let bit = usize::from(at) % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

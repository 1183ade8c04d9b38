//! Segment and batch headers: encode, decode, check. See the [module](super) for the byte boxes.

use crate::types::NodeId;

/// Batches start at multiples of this many bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// No segment is longer: a file that is was not written by a log. Recovery refuses it, since it reads segments whole.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Length of a batch header in bytes.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Length of the segment header that is covered by its CRC, and the CRC.
const SEGMENT_HEADER_BYTES: usize = 52;
/// The only version of both headers so far.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"QRSEG1\r\n";
const BATCH_MAGIC: &[u8; 4] = b"QRBT";

/// The name of a segment file.
pub fn segment_name(segment: u64) -> String {
    format!("log-{segment:016x}.seg")
}

/// The segment number in a file name; `None` for any other file.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    parse_name(name, segment_name)
}

/// The name of a segment file that nothing needs any more, and that is kept to become another segment.
pub fn spare_name(segment: u64) -> String {
    format!("log-{segment:016x}.spare")
}

/// The number of the segment that a spare one was; `None` for any other file.
pub fn parse_spare_name(name: &str) -> Option<u64> {
    parse_name(name, spare_name)
}

/// The number of which `name` is the name.
fn parse_name(name: &str, name_of: fn(u64) -> String) -> Option<u64> {
    let (digits, _) = name.strip_prefix("log-")?.split_once('.')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

/// What tells this log from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// Random, made once per data directory, never shown to a client.
    pub uuid: u128,
    /// The node the log belongs to.
    pub node_id: NodeId,
}

/// Why a header is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Zeros, or a torn or damaged write.
    #[error("no valid header")]
    Invalid,
    /// Valid, but newer than this program.
    #[error(
        "log format version {0} is unknown to this version of quorate (it knows version {FORMAT_VERSION}); use a newer quorate"
    )]
    UnknownVersion(u32),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut word = [0; 16];
    word.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(word)
}

/// The first block of a segment.
pub fn encode_segment_header(log: LogIdentity, segment: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
    block.extend_from_slice(SEGMENT_MAGIC);
    block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    block.extend_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
    block.extend_from_slice(&log.uuid.to_le_bytes());
    block.extend_from_slice(&log.node_id.0.to_le_bytes());
    block.extend_from_slice(&segment.to_le_bytes());
    block.extend_from_slice(&crc32c::crc32c(&block).to_le_bytes());
    block.resize(BLOCK_BYTES as usize, 0);
    block
}

/// Reads a segment's first block; returns whose log it is and which segment.
///
/// # Errors
/// See [`HeaderError`].
pub fn decode_segment_header(block: &[u8]) -> Result<(LogIdentity, u64), HeaderError> {
    if block.len() < SEGMENT_HEADER_BYTES || &block[..8] != SEGMENT_MAGIC {
        return Err(HeaderError::Invalid);
    }
    if u32_at(block, 48) != crc32c::crc32c(&block[..48]) {
        return Err(HeaderError::Invalid);
    }
    if u32_at(block, 8) != FORMAT_VERSION || u64::from(u32_at(block, 12)) != BLOCK_BYTES {
        return Err(HeaderError::UnknownVersion(u32_at(block, 8)));
    }
    let log = LogIdentity { uuid: u128_at(block, 16), node_id: NodeId(u64_at(block, 32)) };
    Ok((log, u64_at(block, 40)))
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// First of a segment: what older segments would be needed for.
    Base,
    /// Records.
    Data,
    /// Empty; gives the batch before it a valid successor.
    Seal,
}

/// A batch's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it is for.
    pub kind: BatchKind,
    /// Its segment.
    pub segment: u64,
    /// Its own offset in the segment, in bytes.
    pub offset: u64,
    /// Counts batches over the life of the log.
    pub sequence: u64,
    /// Header CRC of the batch before it.
    pub prev_crc: u32,
    /// Length of the body in bytes.
    pub body_len: u32,
    /// CRC of the body.
    pub body_crc: u32,
    /// CRC of this header.
    pub crc: u32,
}

impl BatchHeader {
    /// Where the next batch starts.
    pub fn end(&self) -> u64 {
        self.offset + padded_len(self.body_len as usize)
    }
}

/// Bytes that a batch with a body of `body_len` takes on disk.
pub fn padded_len(body_len: usize) -> u64 {
    ((BATCH_HEADER_BYTES + body_len) as u64).div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// A batch as it goes to disk: header, body, padding. Returns the header CRC too, for the next batch's chain.
///
/// `body` is encoded behind 64 bytes that the caller left free for the header.
///
/// # Panics
/// If `buf` has no room for the header or the body exceeds `u32::MAX` bytes: a mistake of the caller.
pub fn encode_batch(
    log_uuid: u128,
    kind: BatchKind,
    segment: u64,
    offset: u64,
    sequence: u64,
    prev_crc: u32,
    mut buf: Vec<u8>,
) -> (Vec<u8>, u32) {
    let body_len = u32::try_from(buf.len() - BATCH_HEADER_BYTES).expect("a flush batch is capped far below 4 GiB");
    let body_crc = crc32c::crc32c(&buf[BATCH_HEADER_BYTES..]);
    let kind = match kind {
        BatchKind::Base => 0,
        BatchKind::Data => 1,
        BatchKind::Seal => 2,
    };
    let mut header = Vec::with_capacity(BATCH_HEADER_BYTES);
    header.extend_from_slice(BATCH_MAGIC);
    header.extend_from_slice(&(FORMAT_VERSION as u16).to_le_bytes());
    header.extend_from_slice(&[kind, 0]);
    header.extend_from_slice(&log_uuid.to_le_bytes());
    header.extend_from_slice(&segment.to_le_bytes());
    header.extend_from_slice(&offset.to_le_bytes());
    header.extend_from_slice(&sequence.to_le_bytes());
    header.extend_from_slice(&prev_crc.to_le_bytes());
    header.extend_from_slice(&body_len.to_le_bytes());
    header.extend_from_slice(&body_crc.to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    buf[..BATCH_HEADER_BYTES].copy_from_slice(&header);
    buf.resize(padded_len(body_len as usize) as usize, 0);
    (buf, crc)
}

/// Reads the batch header at `offset` of a segment, if it is one of this log, for this place.
///
/// # Errors
/// See [`HeaderError`].
pub fn decode_batch_header(
    log_uuid: u128,
    segment: u64,
    offset: u64,
    block: &[u8],
) -> Result<BatchHeader, HeaderError> {
    if block.len() < BATCH_HEADER_BYTES || &block[..4] != BATCH_MAGIC {
        return Err(HeaderError::Invalid);
    }
    let crc = u32_at(block, 60);
    if crc != crc32c::crc32c(&block[..60]) || u128_at(block, 8) != log_uuid {
        return Err(HeaderError::Invalid);
    }
    if u64_at(block, 24) != segment || u64_at(block, 32) != offset {
        return Err(HeaderError::Invalid);
    }
    let version = u32::from(block[4]) | u32::from(block[5]) << 8;
    if version != FORMAT_VERSION {
        return Err(HeaderError::UnknownVersion(version));
    }
    let kind = match block[6] {
        0 => BatchKind::Base,
        1 => BatchKind::Data,
        2 => BatchKind::Seal,
        _ => return Err(HeaderError::Invalid),
    };
    Ok(BatchHeader {
        kind,
        segment,
        offset,
        sequence: u64_at(block, 40),
        prev_crc: u32_at(block, 48),
        body_len: u32_at(block, 52),
        body_crc: u32_at(block, 56),
        crc,
    })
}

/// The body of the batch whose header was found in `segment_bytes`, if it is whole.
pub fn batch_body<'a>(header: &BatchHeader, segment_bytes: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(header.offset).ok()?.checked_add(BATCH_HEADER_BYTES)?;
    let body = segment_bytes.get(start..start.checked_add(header.body_len as usize)?)?;
    (crc32c::crc32c(body) == header.body_crc).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogIdentity = LogIdentity { uuid: 77, node_id: NodeId(3) };

    #[test]
    fn a_segment_header_round_trips_and_every_flipped_bit_is_seen() {
        let block = encode_segment_header(LOG, 9);
        assert_eq!(decode_segment_header(&block), Ok((LOG, 9)));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_segment_header(&bad), Err(HeaderError::Invalid), "bit {bit}");
        }
    }

    #[test]
    fn a_batch_round_trips_and_every_flipped_bit_is_seen() {
        let mut buf = vec![0; BATCH_HEADER_BYTES];
        buf.extend_from_slice(b"twelve bytes");
        let (bytes, crc) = encode_batch(77, BatchKind::Data, 2, 8192, 5, 42, buf);
        assert_eq!(bytes.len() as u64, BLOCK_BYTES);
        let header = decode_batch_header(77, 2, 8192, &bytes).expect("valid");
        assert_eq!((header.sequence, header.prev_crc, header.crc, header.body_len), (5, 42, crc, 12));
        let mut segment = vec![0; 8192];
        segment.extend_from_slice(&bytes);
        assert_eq!(batch_body(&header, &segment), Some(&b"twelve bytes"[..]));
        for bit in 0..(BATCH_HEADER_BYTES + 12) * 8 {
            let mut bad = segment.clone();
            bad[8192 + bit / 8] ^= 1 << (bit % 8);
            let whole = decode_batch_header(77, 2, 8192, &bad[8192..]).ok().and_then(|h| batch_body(&h, &bad));
            assert_eq!(whole, None, "bit {bit}");
        }
    }

    #[test]
    fn a_batch_of_another_log_segment_or_offset_is_not_ours() {
        let (bytes, _) = encode_batch(77, BatchKind::Seal, 2, 8192, 5, 42, vec![0; BATCH_HEADER_BYTES]);
        assert!(decode_batch_header(77, 2, 8192, &bytes).is_ok());
        assert!(decode_batch_header(78, 2, 8192, &bytes).is_err());
        assert!(decode_batch_header(77, 3, 8192, &bytes).is_err());
        assert!(decode_batch_header(77, 2, 4096, &bytes).is_err());
    }

    #[test]
    fn unknown_versions_are_named() {
        let mut block = encode_segment_header(LOG, 1);
        block[8] = 9;
        let crc = crc32c::crc32c(&block[..48]).to_le_bytes();
        block[48..52].copy_from_slice(&crc);
        assert_eq!(decode_segment_header(&block), Err(HeaderError::UnknownVersion(9)));
    }

    #[test]
    fn segment_names_parse_back() {
        assert_eq!(parse_segment_name(&segment_name(0x2a)), Some(0x2a));
        for bad in ["log-2a.seg", "log-000000000000002A.seg", "log-.seg", "store.redb", "log-000000000000002a.seg.new"]
        {
            assert_eq!(parse_segment_name(bad), None, "{bad}");
        }
        assert_eq!(parse_spare_name(&spare_name(0x2a)), Some(0x2a));
        for bad in [segment_name(0x2a), "log-2a.spare".to_owned(), spare_name(0x2a) + ".new"] {
            assert_eq!(parse_spare_name(&bad), None, "{bad}");
        }
        assert_eq!(parse_segment_name(&spare_name(0x2a)), None);
    }
}

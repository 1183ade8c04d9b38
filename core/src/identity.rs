//! The identity file: who a data directory belongs to.
//!
//! ```text
//!  0         8         12       20        36      40
//! +---------+---------+--------+---------+-------+
//! | magic   | version | node   | log     | crc   |
//! | QRNODE1 | u32     | u64    | u128    | u32   |
//! +---------+---------+--------+---------+-------+
//! ```
//!
//! It is written once, after the log's first segment is durable and before the node speaks to anybody. From then on
//! a directory without a log is damaged, not empty.

use crate::log::format::LogIdentity;
use crate::types::NodeId;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "identity";
const MAGIC: &[u8; 8] = b"QRNODE1\n";
const VERSION: u32 = 1;

/// Why an identity file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Damaged, or not an identity file.
    #[error("the file is damaged or not an identity file")]
    Invalid,
    /// Newer than this program.
    #[error("identity format version {0} is unknown to this version of quorate; use a newer one")]
    UnknownVersion(u32),
}

/// The file's content.
pub fn encode(identity: LogIdentity) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&identity.node_id.0.to_le_bytes());
    out.extend_from_slice(&identity.uuid.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Reads the file's content.
///
/// # Errors
/// See [`IdentityError`].
pub fn decode(bytes: &[u8]) -> Result<LogIdentity, IdentityError> {
    let (content, crc) = bytes.split_last_chunk::<4>().ok_or(IdentityError::Invalid)?;
    if bytes.len() < 16 || &bytes[..8] != MAGIC || crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return Err(IdentityError::Invalid);
    }
    let rest = &content[8..];
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(IdentityError::Invalid)?;
    match u32::from_le_bytes(*version) {
        VERSION => {}
        other => return Err(IdentityError::UnknownVersion(other)),
    }
    let (node, rest) = rest.split_first_chunk::<8>().ok_or(IdentityError::Invalid)?;
    let uuid: [u8; 16] = rest.try_into().map_err(|_| IdentityError::Invalid)?;
    Ok(LogIdentity { uuid: u128::from_le_bytes(uuid), node_id: NodeId(u64::from_le_bytes(*node)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_round_trips_and_damage_and_newer_versions_are_seen() {
        let identity = LogIdentity { uuid: 5 << 90, node_id: NodeId(42) };
        let bytes = encode(identity);
        assert_eq!(decode(&bytes), Ok(identity));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), Err(IdentityError::Invalid), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Err(IdentityError::Invalid), "length {len}");
        }
        let mut newer = bytes[..36].to_vec();
        newer[8] = 2;
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
        assert_eq!(decode(&newer), Err(IdentityError::UnknownVersion(2)));
    }
}

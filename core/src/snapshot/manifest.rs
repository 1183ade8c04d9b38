//! What a snapshot covers.
//!
//! ```text
//! 0        4         6      8          12       16
//! +--------+---------+------+----------+--------+-----------------+
//! | "QSNM" | version | 0    | body len | crc32c | body (protobuf) |
//! +--------+---------+------+----------+--------+-----------------+
//! crc32c   over bytes 0..12 and the body
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{FORMAT_VERSION, SnapshotError, check_magic, damaged, u32_at};
use crate::proto::{LogIdProto, decode_stored_membership, encode_stored_membership};
use crate::types::{LogId, StoredMembership};

const MAGIC: [u8; 4] = *b"QSNM";
pub(super) const HEADER_BYTES: usize = 16;
const WHAT: &str = "snapshot manifest";

/// Which entries a state has in it, and the membership in force after the last of them. Stored beside the pairs of
/// a state machine store, and fit to be sent ahead of a snapshot's chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The last applied entry; `None` if there was none.
    pub applied: Option<LogId>,
    /// The last membership at or below it.
    pub membership: StoredMembership,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ManifestProto {
    #[prost(message, optional, tag = "1")]
    applied: Option<LogIdProto>,
    #[prost(bytes = "bytes", tag = "2")]
    membership: Bytes,
}

/// The length of the encoded manifest that begins with this header.
pub(super) fn encoded_len(header: &[u8]) -> Result<usize, SnapshotError> {
    check_magic(WHAT, header, MAGIC)?;
    Ok(HEADER_BYTES + u32_at(header, 8) as usize)
}

impl Manifest {
    /// The byte box in the module's documentation.
    pub fn encode(&self) -> Bytes {
        let message = ManifestProto {
            applied: self.applied.map(LogIdProto::from),
            membership: encode_stored_membership(&self.membership).into(),
        };
        let body = message.encode_to_vec();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(body.len()).expect("a membership is far below 4 GiB"));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
        out.put_u32_le(crc);
        out.put_slice(&body);
        out.freeze()
    }

    /// Reads what [`Manifest::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are damaged or of a version that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        check_magic(WHAT, bytes, MAGIC)?;
        if bytes.len() < HEADER_BYTES || encoded_len(bytes)? != bytes.len() {
            return Err(damaged(WHAT, "wrong length"));
        }
        let body = &bytes[HEADER_BYTES..];
        if crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), body) != u32_at(bytes, 12) {
            return Err(damaged(WHAT, "checksum"));
        }
        let message = ManifestProto::decode(body).map_err(|_| damaged(WHAT, "its fields do not decode"))?;
        let membership = decode_stored_membership(message.membership)
            .map_err(|_| damaged(WHAT, "its membership does not decode"))?;
        Ok(Self { applied: message.applied.map(LogId::from), membership })
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::tests::{log_id, membership};

    fn manifest() -> impl Strategy<Value = Manifest> {
        let stored = option::of((log_id(), membership())).prop_map(|stored| match stored {
            Some((log_id, membership)) => StoredMembership { log_id: Some(log_id), membership },
            None => StoredMembership::default(),
        });
        (option::of(log_id()), stored).prop_map(|(applied, membership)| Manifest { applied, membership })
    }

    proptest! {
        #[test]
        fn decode_reads_what_encode_wrote(manifest in manifest(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = manifest.encode().to_vec();
            prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
            let offset = at.index(bytes.len());
            bytes[offset] ^= flip;
            prop_assert!(Manifest::decode(&bytes).is_err());
        }
    }
}

//! The key-value machine: JSON documents under byte-string keys, with etcd's revisions.
//!
//! One revision counts the successful writes of the whole store; an empty store is at revision 0 and the first write
//! makes it 1 (etcd starts at 1; this is the one difference). Every key remembers the revision that created it, the
//! revision that last changed it, and how many times it was written since it was created. A put on a deleted key
//! creates it anew, at version 1. Deleting a key that is not there changes nothing, the revision included.
//!
//! Documents are kept exactly as they were sent, byte for byte, without the whitespace around them: no number passes
//! through a float, no duplicate member is dropped, nothing is reordered. See [`Document`].
//!
//! # Layout
//!
//! All integers are little-endian `u64`.
//!
//! ```text
//! key                    value
//! 'm' "revision"         revision
//! 'k' <key bytes>        create_revision | mod_revision | version | document bytes
//! ```
//!
//! The first byte leaves room for other kinds of records; a change to what is there needs another first byte.

mod command;
mod document;
mod read;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};

pub use command::{Command, Malformed, Outcome, Response};
pub use document::{Document, NotJson};
pub use read::{KeyValue, Page, Scan, get, list, revision};

use crate::machine::{StateMachine, StateMut};
use crate::types::LogId;

/// The longest key, in bytes. A property of the format, the same on every replica: [`Kv`] refuses longer keys, and the
/// empty one. Percent-encoded at its worst, such a key still fits the 64 KiB that HTTP servers allow a request line.
pub const KEY_BYTES_MAX: usize = 4096;

/// What a front end accepts. Replicas may differ in it: nothing here takes part in [`Kv`]'s `apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest document, in bytes, whitespace around it included.
    pub value_bytes_max: usize,
    /// Items in a page when the request names no limit.
    pub page_items_default: usize,
    /// The most items that a request may ask for.
    pub page_items_max: usize,
    /// A page ends with the item that takes it past this many bytes of keys and documents.
    pub page_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { value_bytes_max: 1 << 20, page_items_default: 100, page_items_max: 1000, page_bytes_max: 4 << 20 }
    }
}

/// The key-value state machine. It answers every command with an encoded [`Response`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Kv;

impl StateMachine for Kv {
    fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let Some(current) = read::stored_revision(state) else {
            // Counting on from a guess would hand out revisions twice.
            return Response::invalid(0, "the stored revision is damaged").encode();
        };
        let response = match Command::decode(command) {
            Ok(command) => run(command, current, state),
            Err(malformed) => Response::invalid(current, malformed.0),
        };
        response.encode()
    }
}

fn run(command: Command, current: u64, state: &mut dyn StateMut) -> Response {
    let key = command.key();
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Response::invalid(current, "the key is empty or too long");
    }
    let old = get(state, key);
    match command {
        Command::Put { key, document } => {
            let revision = current + 1;
            let (create_revision, version) = old.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
            let value = document.into_bytes();
            let mut record = BytesMut::with_capacity(read::HEADER_BYTES + value.len());
            record.put_u64_le(create_revision);
            record.put_u64_le(revision);
            record.put_u64_le(version);
            record.put_slice(&value);
            state.put(read::state_key(&key).into(), record.freeze());
            set_revision(state, revision);
            Response { revision, outcome: Outcome::Put { create_revision, version } }
        }
        Command::Delete { key } => {
            let deleted = old.is_some();
            let revision = current + u64::from(deleted);
            if deleted {
                state.delete(&read::state_key(&key));
                set_revision(state, revision);
            }
            Response { revision, outcome: Outcome::Delete { deleted } }
        }
    }
}

fn set_revision(state: &mut dyn StateMut, revision: u64) {
    state.put(Bytes::from_static(read::REVISION), Bytes::copy_from_slice(&revision.to_le_bytes()));
}

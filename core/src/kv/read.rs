//! Reading the key-value machine's state.

use std::ops::Bound;

use bytes::{Buf, Bytes};

use crate::machine::StateRef;

pub(super) const REVISION: &[u8] = b"mrevision";
pub(super) const HEADER_BYTES: usize = 24;
const RECORD: u8 = b'k';

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The JSON document, as it was sent.
    pub value: Bytes,
    /// The revision at which the key was created.
    pub create_revision: u64,
    /// The revision at which the key was last changed.
    pub mod_revision: u64,
    /// Writes to the key since it was created: 1 after the first.
    pub version: u64,
}

/// Which keys [`list`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Only keys that begin with these bytes.
    pub prefix: &'a [u8],
    /// Only keys greater than this one, which need not be there.
    pub after: Option<&'a [u8]>,
    /// At most so many.
    pub items_max: usize,
    /// Stop with the item that takes the keys and values past so many bytes.
    pub bytes_max: usize,
}

/// Keys with their values, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The items.
    pub items: Vec<KeyValue>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// The value at `key`, if there.
pub fn get(state: &(impl StateRef + ?Sized), key: &[u8]) -> Option<KeyValue> {
    let record = state.get(&state_key(key))?;
    decode(Bytes::copy_from_slice(key), record)
}

/// The keys that `scan` asks for.
pub fn list(state: &(impl StateRef + ?Sized), scan: Scan<'_>) -> Page {
    let first = state_key(scan.prefix);
    let end = after_prefix(&first);
    let after = scan.after.map(state_key);
    let from = match &after {
        // An ordered map may panic on a range that ends before it begins.
        Some(after) if *after >= end => return Page::default(),
        Some(after) if *after >= first => Bound::Excluded(after.as_slice()),
        _ => Bound::Included(first.as_slice()),
    };
    let mut page = Page::default();
    let mut bytes = 0;
    state.range(from, Bound::Excluded(&end), &mut |key, record| {
        if page.items.len() >= scan.items_max || bytes > scan.bytes_max {
            page.more = true;
            return false;
        }
        bytes += key.len() + record.len();
        page.items.extend(decode(key.slice(1..), record.clone()));
        true
    });
    page
}

/// The store's revision: how many writes it has seen.
pub fn revision(state: &(impl StateRef + ?Sized)) -> u64 {
    stored_revision(state).unwrap_or(0)
}

/// As [`revision`]; `None` if what is stored is not a revision.
pub(super) fn stored_revision(state: &(impl StateRef + ?Sized)) -> Option<u64> {
    match state.get(REVISION) {
        None => Some(0),
        Some(stored) => Some(u64::from_le_bytes(stored.as_ref().try_into().ok()?)),
    }
}

pub(super) fn state_key(key: &[u8]) -> Vec<u8> {
    let mut state_key = Vec::with_capacity(1 + key.len());
    state_key.push(RECORD);
    state_key.extend_from_slice(key);
    state_key
}

/// The least byte string that is greater than everything that begins with `prefix`, a state key.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let len = prefix.iter().rposition(|byte| *byte != 0xff).expect("a state key begins with 'k', which is not 0xff");
    let mut end = prefix[..=len].to_vec();
    end[len] += 1;
    end
}

/// `None` for a record too short to be one, which nothing here ever wrote.
fn decode(key: Bytes, mut record: Bytes) -> Option<KeyValue> {
    if record.len() < HEADER_BYTES {
        return None;
    }
    let (create_revision, mod_revision, version) = (record.get_u64_le(), record.get_u64_le(), record.get_u64_le());
    Some(KeyValue { key, value: record, create_revision, mod_revision, version })
}

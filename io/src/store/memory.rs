//! The base in memory: nothing on disk, nothing left after the process.

use bytes::Bytes;
use imbl::OrdMap;

use super::Layer;

/// `base` with a frozen layer merged into it. Shares with `base` what did not change.
pub(crate) fn merge(mut base: OrdMap<Bytes, Bytes>, layer: &Layer) -> OrdMap<Bytes, Bytes> {
    for (key, change) in layer.iter() {
        match change {
            Some(value) => drop(base.insert(key.clone(), value.clone())),
            None => drop(base.remove(key)),
        }
    }
    base
}

//! The state machine that a user brings.
//!
//! A state machine is a deterministic function from (state, command) to (new state, response). Its state lives in an
//! ordered map of byte strings that Quorate keeps: in memory, on disk, in snapshots, identical on every replica. So a
//! user writes only [`StateMachine::apply`]; durability, snapshots, catch-up and recovery come with the map.
//!
//! ```
//! use bytes::Bytes;
//! use quorate_core::{LogId, StateMachine, StateMut, StateRef};
//!
//! /// A counter: every command adds to it, the response is the new sum.
//! struct Counter;
//!
//! impl StateMachine for Counter {
//!     fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
//!         let old = state.get(b"sum").map_or(0, |v| u64::from_be_bytes(v[..].try_into().unwrap_or([0; 8])));
//!         let sum = Bytes::copy_from_slice(&(old + command.len() as u64).to_be_bytes());
//!         state.put(Bytes::from_static(b"sum"), sum.clone());
//!         sum
//!     }
//! }
//! ```

use std::ops::Bound;

use bytes::Bytes;

use crate::types::LogId;

/// Reads the replicated state: an ordered map of byte strings.
pub trait StateRef {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Option<Bytes>;

    /// Calls `each` for the pairs from `from` to `to` in key order, until it returns `false`.
    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool);
}

/// Changes the replicated state. The changes of one `apply` take effect together.
pub trait StateMut: StateRef {
    /// Sets `key` to `value`.
    fn put(&mut self, key: Bytes, value: Bytes);

    /// Removes `key`, if there.
    fn delete(&mut self, key: &[u8]);
}

/// A deterministic state machine.
///
/// `apply` must be a pure function of its arguments: no clock, no randomness, no hash-map iteration order, no static
/// that outlives it. Every replica runs it on the same commands in the same order and must reach the same state; the
/// simulator checks that by comparing the replicas' states.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed command and returns the response for whoever proposed it.
    ///
    /// A command that makes no sense is answered by a response that says so: an entry that is committed cannot be
    /// refused any more. `at` is the command's place in the log, the same on every replica.
    ///
    /// # Panics
    /// Must not: a command that panics one replica panics them all, for ever.
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes;
}

impl<M: StateMachine + ?Sized> StateMachine for std::sync::Arc<M> {
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        (**self).apply(at, command, state)
    }
}

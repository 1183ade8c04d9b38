//! A state machine, and a note of everything that it does.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{LogId, StateMachine, StateMut, StateRef};

use super::{Applied, Witness, hash};
use crate::atlas::Atlas;
use crate::trace::{fold, fold_bytes};

/// What production runs, observed.
pub struct Observed {
    /// Whose replica it is.
    pub node: u32,
    /// Who is told.
    pub witness: Witness,
    /// The machine under test.
    pub machine: Arc<dyn StateMachine>,
    /// Whose store may be read without reading damage that nobody has asked for.
    pub atlas: Atlas,
    /// A bug on purpose: applies every seventh command twice.
    pub twice: bool,
}

/// The whole state is hashed after every so many indexes: the same ones on every replica.
const HASHED_EVERY: u64 = 32;

impl StateMachine for Observed {
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let mut changes = Changes { state, hashes: Vec::new() };
        let mut response = self.machine.apply(at, command, &mut changes);
        if self.twice && at.index.is_multiple_of(7) {
            response = self.machine.apply(at, command, &mut changes);
        }
        let due = at.index.is_multiple_of(HASHED_EVERY) && self.atlas.has_whole_store(self.node);
        let state_hash = due.then(|| state_hash(&changes));
        let (changes_hash, answer) = (changes.hash(), response.clone());
        let applied = Applied { at, command: command.clone(), response: answer, changes_hash, state_hash };
        self.witness.applied(self.node, applied);
        response
    }
}

fn state_hash(state: &dyn StateRef) -> u64 {
    let mut all = 0;
    state.range(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
        all = fold_bytes(fold_bytes(all, key), value);
        true
    });
    all
}

/// Passes changes on and remembers what they amount to.
struct Changes<'a> {
    state: &'a mut dyn StateMut,
    /// For each key that was touched: hashes of the key and of what it was set to last.
    hashes: Vec<(u64, u64)>,
}

impl Changes<'_> {
    fn note(&mut self, key: &[u8], value: u64) {
        let key = hash(&[key]);
        match self.hashes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, last)) => *last = value,
            None => self.hashes.push((key, value)),
        }
    }

    /// The same for the same changes in another order.
    fn hash(mut self) -> u64 {
        self.hashes.sort_unstable();
        self.hashes.iter().fold(0, |hash, (key, value)| fold(fold(hash, *key), *value))
    }
}

impl StateRef for Changes<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.state.get(key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool) {
        self.state.range(from, to, each);
    }
}

impl StateMut for Changes<'_> {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.note(&key, hash(&[b"put", &value]));
        self.state.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.note(key, hash(&[b"deleted"]));
        self.state.delete(key);
    }
}

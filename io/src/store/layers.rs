//! The layers above the base, and one immutable view of all of them.

use std::collections::BTreeMap;
use std::iter::{self, Peekable};
use std::ops::Bound;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use futures_channel::oneshot;
use imbl::OrdMap;
use quorate_core::snapshot::Manifest;
use quorate_core::{LogId, StateMut, StateRef, StoredMembership};

use super::StoreError;
use super::redb::RedbView;
use crate::jobs::lock;

/// The first failure of a store. Whoever reads checks it after reading. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault(Arc<FaultState>);

#[derive(Debug, Default)]
struct FaultState {
    error: OnceLock<StoreError>,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Fault {
    pub(crate) fn get(&self) -> Option<&StoreError> {
        self.0.error.get()
    }

    /// Only the first counts.
    pub(crate) fn set(&self, error: StoreError) {
        let mut waiting = lock(&self.0.waiting);
        let _ = self.0.error.set(error);
        for waiter in waiting.drain(..) {
            let _ = waiter.send(());
        }
    }

    /// Waits until there is one.
    pub(crate) async fn wait(&self) -> StoreError {
        loop {
            let told = {
                let mut waiting = lock(&self.0.waiting);
                if let Some(error) = self.get() {
                    return error.clone();
                }
                let (sender, receiver) = oneshot::channel();
                waiting.push(sender);
                receiver
            };
            let _ = told.await;
        }
    }
}

/// A pair, or a tombstone.
type Change = (Bytes, Option<Bytes>);

/// Changes since the layer below: values and tombstones, in key order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    map: OrdMap<Bytes, Option<Bytes>>,
    bytes: u64,
}

impl Layer {
    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, |v| v.len() as u64);
        let key_len = key.len() as u64;
        self.bytes += key_len + size(&value);
        if let Some(old) = self.map.insert(key, value) {
            self.bytes -= key_len + size(&old);
        }
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> impl Iterator<Item = Result<Change, StoreError>> {
        self.map.range::<_, [u8]>((from, to)).map(|(key, value)| Ok((key.clone(), value.clone())))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.map.iter()
    }
}

/// The last applied entry and the membership in force there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: Arc<StoredMembership>,
}

impl From<Manifest> for Position {
    fn from(manifest: Manifest) -> Self {
        Self { applied: manifest.applied, membership: Arc::new(manifest.membership) }
    }
}

impl From<&Position> for Manifest {
    fn from(position: &Position) -> Self {
        Self { applied: position.applied, membership: (*position.membership).clone() }
    }
}

/// The base as it was at one D: immutable, whatever is committed or installed later.
#[derive(Clone, Debug)]
pub(crate) enum BaseView {
    /// A read transaction of the store's file.
    Redb(Arc<RedbView>),
    /// A map.
    Memory(OrdMap<Bytes, Bytes>),
}

impl BaseView {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Redb(view) => view.get(key),
            Self::Memory(map) => Ok(map.get(key).cloned()),
        }
    }

    /// The pairs from `from` to `to` in order, read as they are asked for. After an error comes nothing.
    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a> {
        if is_empty(from, to) {
            return Box::new(iter::empty());
        }
        match self {
            Self::Redb(view) => match view.range(from, to) {
                Ok(pairs) => Box::new(pairs),
                Err(error) => Box::new(iter::once(Err(error))),
            },
            Self::Memory(map) => {
                Box::new(map.range::<_, [u8]>((from, to)).map(|(key, value)| Ok((key.clone(), value.clone()))))
            }
        }
    }
}

/// Whether no key can lie between the bounds. Ordered maps panic when asked for some such ranges.
fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    use Bound::{Excluded, Included};
    match (from, to) {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

/// `upper` laid over `lower`: both in key order, and where both have a key, `upper` has the say.
fn overlay(
    upper: impl Iterator<Item = Result<Change, StoreError>>,
    lower: impl Iterator<Item = Result<Change, StoreError>>,
) -> impl Iterator<Item = Result<Change, StoreError>> {
    let mut upper: Peekable<_> = upper.peekable();
    let mut lower: Peekable<_> = lower.peekable();
    iter::from_fn(move || match (upper.peek(), lower.peek()) {
        (Some(Ok((up, _))), Some(Ok((low, _)))) => match up.cmp(low) {
            std::cmp::Ordering::Less => upper.next(),
            std::cmp::Ordering::Greater => lower.next(),
            std::cmp::Ordering::Equal => {
                lower.next();
                upper.next()
            }
        },
        (Some(Err(_)), _) | (_, None) => upper.next(),
        (None, _) | (_, Some(Err(_))) => lower.next(),
    })
}

/// The state after some entry: immutable, cheap to clone, and readable for as long as it is held.
///
/// [`StateRef`] has no way to say that a read failed. A failed read finds nothing, ends its range and is remembered:
/// call [`View::check`] after reading and before using what was read.
#[derive(Clone, Debug)]
pub struct View {
    active: Layer,
    frozen: Layer,
    base: BaseView,
    position: Position,
    fault: Fault,
}

impl View {
    /// The last entry that is applied in this view.
    pub fn applied(&self) -> Option<LogId> {
        self.position.applied
    }

    /// The membership in force at that entry.
    pub fn membership(&self) -> &StoredMembership {
        &self.position.membership
    }

    /// Whether everything that was read from this store so far could be read.
    ///
    /// # Errors
    /// The store's first failure.
    pub fn check(&self) -> Result<(), StoreError> {
        self.fault.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// A hash of all pairs in order, the same for the same pairs wherever they lie: for comparing replicas.
    ///
    /// # Errors
    /// A pair could not be read.
    pub fn state_hash(&self) -> Result<u64, StoreError> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        self.range(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            add(key);
            add(value);
            true
        });
        self.check()?;
        Ok(hash)
    }

    fn failed(&self, error: StoreError) {
        self.fault.set(error);
    }

    /// Calls `each` for the pairs in a range that is not empty, with `changes` laid over them.
    fn walk(
        &self,
        changes: impl Iterator<Item = Result<Change, StoreError>>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
    ) {
        let base = self.base.range(from, to).map(|pair| pair.map(|(key, value)| (key, Some(value))));
        let layers = overlay(self.active.range(from, to), overlay(self.frozen.range(from, to), base));
        for change in overlay(changes, layers) {
            match change {
                Ok((key, Some(value))) if !each(&key, &value) => return,
                Ok(_) => {}
                Err(error) => return self.failed(error),
            }
        }
    }
}

impl StateRef for View {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        if let Some(change) = self.active.map.get(key).or_else(|| self.frozen.map.get(key)) {
            return change.clone();
        }
        self.base.get(key).unwrap_or_else(|error| {
            self.failed(error);
            None
        })
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool) {
        if !is_empty(from, to) {
            self.walk(iter::empty(), from, to, each);
        }
    }
}

/// Entries being applied: what they change, over the newest view. [`Layers::publish`] makes it visible together. The
/// changes are kept apart, and not made in a copy of the active layer: nobody else holds that one then, mostly, so that
/// publishing copies no path of it.
#[derive(Debug)]
pub(crate) struct Batch {
    view: View,
    changes: BTreeMap<Bytes, Option<Bytes>>,
    position: Position,
}

impl Batch {
    pub(crate) fn new(view: View) -> Self {
        let position = view.position.clone();
        Self { view, changes: BTreeMap::new(), position }
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.view.check()
    }

    pub(crate) fn position_mut(&mut self) -> &mut Position {
        &mut self.position
    }
}

impl StateRef for Batch {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.changes.get(key) {
            Some(change) => change.clone(),
            None => self.view.get(key),
        }
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool) {
        if is_empty(from, to) {
            return;
        }
        let changes = self.changes.range::<[u8], _>((from, to));
        self.view.walk(changes.map(|(key, value)| Ok((key.clone(), value.clone()))), from, to, each);
    }
}

impl StateMut for Batch {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.changes.insert(Bytes::copy_from_slice(key), None);
    }
}

/// A frozen layer on its way to the base, and what must still hold when it gets there.
#[derive(Clone, Debug)]
pub(crate) struct Freeze {
    pub(crate) generation: u64,
    pub(crate) from: Option<LogId>,
    pub(crate) to: Position,
    pub(crate) layer: Layer,
    pub(crate) base: BaseView,
}

/// The newest view, and what has been made durable of it.
#[derive(Debug)]
pub(crate) struct Layers {
    newest: View,
    /// Up to where the frozen layer goes, if there is one.
    frozen_to: Option<Position>,
    /// D.
    durable: Position,
    generation: u64,
}

impl Layers {
    pub(crate) fn new(generation: u64, base: BaseView, durable: Position, fault: Fault) -> Self {
        let newest =
            View { active: Layer::default(), frozen: Layer::default(), base, position: durable.clone(), fault };
        Self { newest, frozen_to: None, durable, generation }
    }

    pub(crate) fn newest(&self) -> &View {
        &self.newest
    }

    /// D, and the base there.
    pub(crate) fn durable(&self) -> (&Position, &BaseView) {
        (&self.durable, &self.newest.base)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of keys and values that are in memory only.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.newest.active.bytes + self.newest.frozen.bytes
    }

    /// Makes a batch visible. It may have begun before a commit: it brings what its entries changed, and no layer.
    pub(crate) fn publish(&mut self, batch: Batch) {
        let Batch { view, changes, position } = batch;
        drop(view);
        for (key, value) in changes {
            self.newest.active.set(key, value);
        }
        self.newest.position = position;
    }

    /// Freezes (D, X]; `None` if that is nothing. While a frozen layer waits for its commit, that one is returned
    /// again: committing it twice does no harm, and a builder that was dropped leaves nothing behind.
    pub(crate) fn freeze(&mut self) -> Option<Freeze> {
        if self.frozen_to.is_none() {
            if self.newest.position.applied == self.durable.applied {
                return None;
            }
            self.newest.frozen = std::mem::take(&mut self.newest.active);
            self.frozen_to = Some(self.newest.position.clone());
        }
        self.frozen_to.clone().map(|to| Freeze {
            generation: self.generation,
            from: self.durable.applied,
            to,
            layer: self.newest.frozen.clone(),
            base: self.newest.base.clone(),
        })
    }

    /// The frozen layer is in `base`, durably. Does nothing if another commit or an install was faster.
    pub(crate) fn committed(&mut self, freeze: &Freeze, base: BaseView) {
        if freeze.generation != self.generation || freeze.from != self.durable.applied {
            return;
        }
        self.newest.frozen = Layer::default();
        self.newest.base = base;
        self.frozen_to = None;
        self.durable = freeze.to.clone();
    }

    /// A snapshot took the place of everything.
    pub(crate) fn installed(&mut self, generation: u64, base: BaseView, position: Position) {
        *self = Self::new(generation, base, position, self.newest.fault.clone());
    }
}

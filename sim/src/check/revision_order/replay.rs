//! The sequential store, and the comparison of every answer with it.

use std::collections::BTreeMap;

use super::super::history::{Item, Op, Outcome, Violation};
use super::timeline::{Slot, Timeline};
use super::{READ_STATE, REPLAY};

/// What is known of a key at some revision.
#[derive(Clone, Copy, Debug)]
struct Cell<'a> {
    /// `None` if the key is missing.
    value: Option<&'a str>,
    /// The last revision that touched it. For a missing key the last one at which it is known to be missing.
    mod_revision: u64,
    /// `None` if a hidden write may have changed it.
    create_revision: Option<u64>,
    /// `None` if a hidden write may have changed it.
    version: Option<u64>,
    /// The operation that wrote or deleted it.
    operation: Option<usize>,
}

impl Cell<'_> {
    /// A key that is known to be missing at `revision`, without anyone known to have removed it.
    const fn missing(revision: u64) -> Self {
        Self { value: None, mod_revision: revision, create_revision: None, version: None, operation: None }
    }
}

/// Replays all known writes in the order of revisions and compares every answer with the state at its revision.
pub(super) fn replay(timeline: &mut Timeline<'_>) -> Result<(), Violation> {
    let slots = std::mem::take(&mut timeline.slots);
    let history = timeline.history;
    let mut answers: Vec<(u64, usize)> = (history.iter().enumerate())
        .filter(|(_, operation)| operation.written_revision().is_none())
        .filter_map(|(index, operation)| Some((operation.outcome.revision()?, index)))
        .collect();
    answers.sort_unstable();
    let mut store = Store { timeline, cells: BTreeMap::new() };
    let mut writes = slots.into_iter().peekable();
    for (revision, index) in answers {
        while let Some((revision, slot)) = writes.next_if(|(written, _)| *written <= revision) {
            store.write(revision, &slot)?;
        }
        store.read(revision, index)?;
    }
    writes.try_for_each(|(revision, slot)| store.write(revision, &slot))
}

struct Store<'t, 'a> {
    timeline: &'t mut Timeline<'a>,
    cells: BTreeMap<&'a str, Cell<'a>>,
}

impl<'a> Store<'_, 'a> {
    /// Applies one write and checks what it answered, if it did.
    fn write(&mut self, revision: u64, slot: &Slot<'a>) -> Result<(), Violation> {
        let old = self.cells.get(slot.key).copied();
        let alive = old.filter(|cell| cell.value.is_some());
        let since = old.map_or(self.timeline.base_revision(), |cell| cell.mod_revision);
        let hidden_put = self.timeline.can_hide_put(slot.key, since, revision - 1);
        let hidden = hidden_put || self.timeline.can_hide_delete(slot.key, since, revision - 1);
        let mut cell = Cell {
            value: slot.value,
            mod_revision: revision,
            create_revision: None,
            version: None,
            operation: slot.operation,
        };
        if slot.value.is_none() {
            if alive.is_none() && !hidden_put {
                let explanation = format!("revision {revision} deletes {}, which was not there", slot.key);
                let operations = slot.operation.into_iter().chain(old.and_then(|cell| cell.operation));
                return Err(Violation::new(REPLAY, explanation, operations));
            }
        } else {
            if !hidden {
                cell.create_revision = alive.map_or(Some(revision), |cell| cell.create_revision);
                cell.version = alive.map_or(Some(1), |cell| cell.version.and_then(|version| version.checked_add(1)));
            }
            let outcome = slot.operation.map(|index| &self.timeline.history[index].outcome);
            if let Some(Outcome::Put { create_revision, version, .. }) = outcome {
                let created = agree("create revision", &mut cell.create_revision, *create_revision);
                created.and_then(|()| agree("version", &mut cell.version, *version)).map_err(|explanation| {
                    let operations = slot.operation.into_iter().chain(old.and_then(|cell| cell.operation));
                    Violation::new(REPLAY, format!("put of {} at {revision}: {explanation}", slot.key), operations)
                })?;
            }
        }
        self.cells.insert(slot.key, cell);
        Ok(())
    }

    /// Checks the answer of an operation that wrote nothing.
    fn read(&mut self, revision: u64, index: usize) -> Result<(), Violation> {
        let history = self.timeline.history;
        match (&history[index].op, &history[index].outcome) {
            (Op::Get { key, .. }, Outcome::Get { item: Some(item), .. }) => self.present(revision, key, item, index),
            (Op::Get { key, .. } | Op::Delete { key }, _) => self.missing(revision, key, index),
            (Op::List { prefix, .. }, Outcome::List { items, .. }) => self.list(revision, prefix, items, index),
            _ => Ok(()),
        }
    }

    fn list(&mut self, revision: u64, prefix: &'a str, items: &'a [Item], index: usize) -> Result<(), Violation> {
        let mut listed: BTreeMap<&str, &Item> = BTreeMap::new();
        for item in items {
            let ascends = listed.last_key_value().is_none_or(|(last, _)| *last < item.key.as_str());
            if !ascends || !item.key.starts_with(prefix) {
                let explanation = format!("{item} is out of order or does not start with {prefix:?}");
                return Err(Violation::new(READ_STATE, explanation, [index]));
            }
            listed.insert(&item.key, item);
            self.present(revision, &item.key, item, index)?;
        }
        let matching = self.cells.range(prefix..).take_while(|(key, _)| key.starts_with(prefix));
        let unlisted = matching.filter(|(key, cell)| cell.value.is_some() && !listed.contains_key(*key));
        let unlisted: Vec<&'a str> = unlisted.map(|(key, _)| *key).collect();
        unlisted.into_iter().try_for_each(|key| self.missing(revision, key, index))
    }

    /// Checks that `key` held `item`.
    fn present(&mut self, revision: u64, key: &str, item: &Item, index: usize) -> Result<(), Violation> {
        let cell = self.cells.get_mut(key);
        let Some(cell) = cell.filter(|cell| item.key == key && cell.value == Some(item.value.as_str())) else {
            let cell = self.cells.get(key);
            let held = match cell {
                Some(Cell { value: Some(value), mod_revision, .. }) => format!("{key}={value}@{mod_revision}"),
                Some(Cell { value: None, mod_revision, .. }) => format!("nothing there, as of {mod_revision}"),
                None => "nothing there".to_owned(),
            };
            let explanation = format!("#{index} saw {item} at revision {revision}, which had {held}");
            return Err(Violation::new(READ_STATE, explanation, self.parties(key, index)));
        };
        // Present at `mod_revision` and untouched since, so nothing hidden explains a difference.
        let created = agree("create revision", &mut cell.create_revision, item.create_revision);
        let agreed = created.and_then(|()| agree("version", &mut cell.version, item.version));
        agreed.map_err(|explanation| {
            let explanation = format!("#{index} saw {item} at revision {revision}: {explanation}");
            Violation::new(READ_STATE, explanation, self.parties(key, index))
        })
    }

    /// Checks that `key` was missing.
    fn missing(&mut self, revision: u64, key: &'a str, index: usize) -> Result<(), Violation> {
        let cell = self.cells.entry(key).or_insert(Cell::missing(revision));
        let Some(value) = cell.value else {
            cell.mod_revision = revision;
            return Ok(());
        };
        if !self.timeline.can_hide_delete(key, cell.mod_revision, revision) {
            let held = format!("{key}={value}@{}", cell.mod_revision);
            let explanation = format!("#{index} found no {key} at revision {revision}, which had {held}");
            return Err(Violation::new(READ_STATE, explanation, self.parties(key, index)));
        }
        self.timeline.use_hidden_delete(key);
        *cell = Cell::missing(revision);
        Ok(())
    }

    fn parties(&self, key: &str, index: usize) -> impl Iterator<Item = usize> + use<> {
        self.cells.get(key).and_then(|cell| cell.operation).into_iter().chain([index])
    }
}

/// Compares what follows from the state with what the store says; what does not follow is learned.
fn agree(name: &str, known: &mut Option<u64>, said: Option<u64>) -> Result<(), String> {
    match (*known, said) {
        (Some(known), Some(said)) if known != said => Err(format!("{name} {said} instead of {known}")),
        (None, Some(_)) => {
            *known = said;
            Ok(())
        }
        _ => Ok(()),
    }
}

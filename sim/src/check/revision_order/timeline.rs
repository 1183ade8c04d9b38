//! Which write made which revision.

use std::collections::{BTreeMap, VecDeque};

use super::super::history::{Op, Operation, Outcome, Violation};
use super::{
    DURABILITY, EXACTLY_ONCE, Evidence, LOG_CONSECUTIVE, NO_PHANTOM, NOT_APPLIED_INVISIBLE, READ_STATE, REAL_TIME,
    Summary, UNIQUE_REVISIONS,
};

/// A revision of which it is known what it did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'a> {
    pub key: &'a str,
    /// `None` for a delete.
    pub value: Option<&'a str>,
    /// The operation that did it. Unknown only for deletes, which carry no serial.
    pub operation: Option<usize>,
}

/// The earliest completion of all operations that know of a revision or a later one.
#[derive(Clone, Copy, Debug)]
struct Known {
    revision: u64,
    by_ns: u64,
}

pub(super) struct Timeline<'a> {
    pub history: &'a [Operation],
    evidence: Evidence<'a>,
    /// Known revisions.
    pub slots: BTreeMap<u64, Slot<'a>>,
    /// The same as a sorted list, once all are known.
    revisions: Vec<u64>,
    /// Value → the put of it.
    writers: BTreeMap<&'a str, usize>,
    /// Operation → the revision that it is known to have made.
    placed: Vec<Option<u64>>,
    /// Sorted by revision; `by_ns` does not decrease.
    known: Vec<Known>,
    /// Key → puts of unknown outcome that are not placed, by invocation: (invoked, operation).
    loose_puts: BTreeMap<&'a str, VecDeque<(u64, usize)>>,
    /// The same for deletes.
    loose_deletes: BTreeMap<&'a str, VecDeque<(u64, usize)>>,
}

impl<'a> Timeline<'a> {
    /// The timeline as the log tells it.
    pub(super) fn new(history: &'a [Operation], evidence: Evidence<'a>) -> Result<Self, Violation> {
        let writers = history.iter().enumerate().filter_map(|(index, operation)| match &operation.op {
            Op::Put { value, .. } => Some((value.as_str(), index)),
            _ => None,
        });
        let mut timeline = Self {
            history,
            evidence,
            slots: BTreeMap::new(),
            revisions: Vec::new(),
            writers: writers.collect(),
            placed: vec![None; history.len()],
            known: known(history),
            loose_puts: BTreeMap::new(),
            loose_deletes: BTreeMap::new(),
        };
        let mut last = evidence.base_revision;
        for write in evidence.log.unwrap_or_default() {
            if last.checked_add(1) != Some(write.revision) {
                let explanation = format!("revision {} comes after {last}", write.revision);
                return Err(Violation::new(LOG_CONSECUTIVE, explanation, []));
            }
            last = write.revision;
            let value = write.value.as_deref();
            let operation = match value {
                Some(value) => Some(timeline.writer(&write.key, value, write.revision, None)?),
                None => None,
            };
            timeline.slots.insert(write.revision, Slot { key: &write.key, value, operation });
        }
        Ok(timeline)
    }

    /// Puts every acknowledged write at its revision, and checks that all answers are within the log.
    pub(super) fn place_acknowledged(&mut self) -> Result<(), Violation> {
        let end = self.evidence.log.map(|log| log.last().map_or(self.evidence.base_revision, |write| write.revision));
        for (index, operation) in self.history.iter().enumerate() {
            let Some(revision) = operation.outcome.revision() else { continue };
            let written = operation.written_revision();
            let first = self.evidence.base_revision.saturating_add(u64::from(written.is_some()));
            if revision < first {
                let explanation = format!("revision {revision}, but the history starts at {first}");
                return Err(Violation::new(REAL_TIME, explanation, [index]));
            }
            if let Some(end) = end.filter(|end| revision > *end) {
                let property = if written.is_some() { DURABILITY } else { READ_STATE };
                let explanation = format!("revision {revision}, but the committed log ends at {end}");
                return Err(Violation::new(property, explanation, [index]));
            }
            match &operation.op {
                Op::Put { key, value } if written.is_some() => self.place(revision, key, Some(value), index)?,
                Op::Delete { key } if written.is_some() => self.place(revision, key, None, index)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn place(&mut self, revision: u64, key: &'a str, value: Option<&'a str>, index: usize) -> Result<(), Violation> {
        let Some(slot) = self.slots.get_mut(&revision) else {
            self.placed[index] = Some(revision);
            self.slots.insert(revision, Slot { key, value, operation: Some(index) });
            return Ok(());
        };
        if slot.key == key && slot.value == value && slot.operation.is_none_or(|other| other == index) {
            slot.operation = Some(index);
            self.placed[index] = Some(revision);
            return Ok(());
        }
        let other = slot.operation.filter(|other| self.history[*other].written_revision() == Some(revision));
        let (property, explanation) = match other {
            Some(_) => (UNIQUE_REVISIONS, format!("two writes were acknowledged with revision {revision}")),
            None => {
                let did =
                    slot.value.map_or_else(|| format!("deleted {}", slot.key), |v| format!("set {}={v}", slot.key));
                (DURABILITY, format!("acknowledged with revision {revision}, but that revision {did}"))
            }
        };
        Err(Violation::new(property, explanation, slot.operation.into_iter().chain([index])))
    }

    /// Puts every write whose value was read at the revision that the read stated for it.
    pub(super) fn place_observed(&mut self) -> Result<(), Violation> {
        let history = self.history;
        for (index, operation) in history.iter().enumerate() {
            let Some(revision) = operation.outcome.revision() else { continue };
            for item in operation.outcome.items() {
                if item.mod_revision > revision || item.mod_revision <= self.evidence.base_revision {
                    let explanation = format!("{item} is not from before revision {revision}");
                    return Err(Violation::new(READ_STATE, explanation, [index]));
                }
                let writer = self.writer(&item.key, &item.value, item.mod_revision, Some(index))?;
                match self.slots.get(&item.mod_revision) {
                    Some(slot) if slot.operation != Some(writer) => {
                        let explanation = format!("{item} was read, but that revision was another write");
                        let operations = slot.operation.into_iter().chain([writer, index]);
                        return Err(Violation::new(UNIQUE_REVISIONS, explanation, operations));
                    }
                    Some(_) => {}
                    None => {
                        let slot = Slot { key: &item.key, value: Some(&item.value), operation: Some(writer) };
                        self.slots.insert(item.mod_revision, slot);
                    }
                }
            }
        }
        Ok(())
    }

    /// The put that wrote `value`, which `seen_by` (a read, or the log) shows at `revision`.
    fn writer(&mut self, key: &str, value: &str, revision: u64, seen_by: Option<usize>) -> Result<usize, Violation> {
        let place = || seen_by.map_or_else(|| "in the log".to_owned(), |index| format!("by #{index}"));
        let Some(&writer) = self.writers.get(value) else {
            let explanation = format!("{key}={value}@{revision} was seen {}, but nobody wrote it", place());
            return Err(Violation::new(NO_PHANTOM, explanation, seen_by));
        };
        let operation = &self.history[writer];
        let conflict = |property, text: String| {
            let explanation = format!("{key}={value}@{revision} was seen {}, {text}", place());
            Err(Violation::new(property, explanation, seen_by.into_iter().chain([writer])))
        };
        if !matches!(&operation.op, Op::Put { key: put, .. } if put == key) {
            return conflict(NO_PHANTOM, "but the value was put under another key".to_owned());
        }
        if operation.outcome == Outcome::NotApplied {
            return conflict(NOT_APPLIED_INVISIBLE, "but the put was reported as not applied".to_owned());
        }
        match operation.written_revision().or(self.placed[writer]) {
            Some(other) if other != revision => {
                conflict(EXACTLY_ONCE, format!("but the put took effect at revision {other}"))
            }
            _ if seen_by.is_none() && self.placed[writer].is_some() => {
                conflict(EXACTLY_ONCE, "and again at the same revision".to_owned())
            }
            _ => {
                self.placed[writer] = Some(revision);
                Ok(writer)
            }
        }
    }

    /// Finds an unknown delete for each delete of the log that nobody had acknowledged.
    ///
    /// Those of one key are interchangeable but for their invocation, and the time by which one must have been invoked
    /// grows with the revision, so pairing both in order succeeds if anything does.
    pub(super) fn attribute_deletes(&mut self) -> Result<(), Violation> {
        let mut loose: Vec<usize> = (0..self.history.len()).collect();
        loose.retain(|index| self.history[*index].is_unknown_write() && self.placed[*index].is_none());
        loose.sort_by_key(|index| (self.history[*index].invoke_ns, *index));
        for index in loose {
            let operation = &self.history[index];
            let (by_key, key) = match &operation.op {
                Op::Put { key, .. } => (&mut self.loose_puts, key),
                Op::Delete { key } => (&mut self.loose_deletes, key),
                Op::Get { .. } | Op::List { .. } => continue,
            };
            by_key.entry(key.as_str()).or_default().push_back((operation.invoke_ns, index));
        }
        for (&revision, slot) in &mut self.slots {
            if slot.operation.is_some() {
                continue;
            }
            let Some((_, index)) = self.loose_deletes.get_mut(slot.key).and_then(VecDeque::pop_front) else {
                let explanation = format!("revision {revision} deletes {}, but nobody asked for it", slot.key);
                let not_applied = self.history.iter().position(|operation| {
                    operation.outcome == Outcome::NotApplied
                        && matches!(&operation.op, Op::Delete { key } if key == slot.key)
                });
                let property = if not_applied.is_some() { NOT_APPLIED_INVISIBLE } else { NO_PHANTOM };
                return Err(Violation::new(property, explanation, not_applied));
            };
            slot.operation = Some(index);
            self.placed[index] = Some(revision);
        }
        self.revisions = self.slots.keys().copied().collect();
        Ok(())
    }

    /// Sweeps over time: an operation may not be behind what had completed when it was invoked.
    ///
    /// Completions count even of stale reads: what one shows is committed.
    pub(super) fn check_real_time(&self) -> Result<(), Violation> {
        let mut events = Vec::with_capacity(2 * self.history.len());
        for (index, operation) in self.history.iter().enumerate() {
            let Some(revision) = self.placed[index].or(operation.outcome.revision()) else { continue };
            // In the same nanosecond invocations come first: what touches is concurrent.
            events.push((operation.invoke_ns, false, index, revision));
            if let Some(complete_ns) = operation.effect_before_ns() {
                events.push((complete_ns, true, index, revision));
            }
        }
        events.sort_unstable();
        let mut floor: Option<(u64, usize)> = None;
        for (_, completes, index, revision) in events {
            if completes {
                if floor.is_none_or(|(floor, _)| revision > floor) {
                    floor = Some((revision, index));
                }
                continue;
            }
            if self.history[index].op.is_stale_read() {
                continue;
            }
            let writes = self.placed[index].is_some();
            let behind = |floor: u64| revision < floor || (writes && revision == floor);
            if let Some((floor, before)) = floor.filter(|(floor, _)| behind(*floor)) {
                let explanation =
                    format!("#{index} has revision {revision}, but #{before} came before it with {floor}");
                return Err(Violation::new(REAL_TIME, explanation, [before, index]));
            }
        }
        Ok(())
    }

    /// Checks that there are enough unknown writes to make the revisions of which nobody knows what they did: for every
    /// revision, as many as are hidden up to there must have been invoked before anyone knew of it.
    pub(super) fn check_hidden(&self) -> Result<(), Violation> {
        let loose = self.loose_puts.values().chain(self.loose_deletes.values()).flatten();
        let mut invoked: Vec<u64> = loose.map(|(invoke_ns, _)| *invoke_ns).collect();
        invoked.sort_unstable();
        for &Known { revision, by_ns } in &self.known {
            let hidden = self.hidden_between(self.evidence.base_revision, revision);
            let candidates = invoked.partition_point(|invoke_ns| *invoke_ns <= by_ns) as u64;
            if hidden > candidates {
                let knows = self.history.iter().position(|operation| {
                    operation.effect_before_ns() == Some(by_ns)
                        && operation.outcome.revision().is_some_and(|known| known >= revision)
                });
                let explanation = format!(
                    "{hidden} revisions up to {revision} were made by nobody, and there are {candidates} unknown writes"
                );
                return Err(Violation::new(NO_PHANTOM, explanation, knows));
            }
        }
        Ok(())
    }

    /// How many of the revisions in `(after, up_to]` are not known.
    pub(super) fn hidden_between(&self, after: u64, up_to: u64) -> u64 {
        let count = |revision: u64| self.revisions.partition_point(|known| *known <= revision) as u64;
        if up_to <= after { 0 } else { (up_to - after) - (count(up_to) - count(after)) }
    }

    /// When a revision was known to someone, at the latest; `u64::MAX` if it never was.
    fn known_by_ns(&self, revision: u64) -> u64 {
        let at = self.known.partition_point(|known| known.revision < revision);
        self.known.get(at).map_or(u64::MAX, |known| known.by_ns)
    }

    /// Whether an unknown put of `key` can be among the hidden revisions in `(after, up_to]`.
    pub(super) fn can_hide_put(&self, key: &str, after: u64, up_to: u64) -> bool {
        self.can_hide(&self.loose_puts, key, after, up_to)
    }

    /// Whether an unknown delete of `key` can be among the hidden revisions in `(after, up_to]`.
    pub(super) fn can_hide_delete(&self, key: &str, after: u64, up_to: u64) -> bool {
        self.can_hide(&self.loose_deletes, key, after, up_to)
    }

    fn can_hide(&self, loose: &BTreeMap<&str, VecDeque<(u64, usize)>>, key: &str, after: u64, up_to: u64) -> bool {
        let earliest = loose.get(key).and_then(VecDeque::front);
        earliest.is_some_and(|(invoke_ns, _)| *invoke_ns <= self.known_by_ns(up_to))
            && self.hidden_between(after, up_to) > 0
    }

    /// Takes the unknown delete of `key` that was invoked first: it must have taken effect, at a revision not known.
    pub(super) fn use_hidden_delete(&mut self, key: &str) {
        self.loose_deletes.get_mut(key).and_then(VecDeque::pop_front);
    }

    /// The revision before everything.
    pub(super) fn base_revision(&self) -> u64 {
        self.evidence.base_revision
    }

    pub(super) fn summary(&self) -> Summary {
        let last_known = self.known.last().map_or(self.base_revision(), |known| known.revision);
        let last_revision = self.revisions.last().map_or(last_known, |last| last_known.max(*last));
        let unknown = self.placed.iter().enumerate().filter(|(index, _)| self.history[*index].is_unknown_write());
        Summary {
            last_revision,
            acknowledged: self.history.iter().filter(|operation| operation.written_revision().is_some()).count() as u64,
            unknown_applied: unknown.filter_map(|(index, revision)| Some(((*revision)?, index))).collect(),
            hidden: self.hidden_between(self.base_revision(), last_revision),
        }
    }
}

/// Who knew what when, as a staircase.
fn known(history: &[Operation]) -> Vec<Known> {
    let mut known: Vec<Known> = history
        .iter()
        .filter_map(|operation| {
            Some(Known { revision: operation.outcome.revision()?, by_ns: operation.effect_before_ns()? })
        })
        .collect();
    known.sort_unstable_by_key(|known| known.revision);
    let mut earliest = u64::MAX;
    for known in known.iter_mut().rev() {
        earliest = earliest.min(known.by_ns);
        known.by_ns = earliest;
    }
    known
}

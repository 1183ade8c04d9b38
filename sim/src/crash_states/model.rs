//! What may be there after a power loss, said as simply as possible: the log is a prefix of what was pushed, at least
//! up to what was acknowledged; the store is the last state that was reported durable, or a later one that was begun.

use std::fmt;

use quorate_core::founding::FoundingRecord;
use quorate_core::log::format::LogIdentity;
use quorate_core::log::record::Record;
use quorate_core::{Entry, LogId, Payload};

use super::node::{LogState, Recovered, StoreState, changes};

/// What the outside did or was told.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// These records were handed to the log.
    Pushed(Vec<Record>),
    /// So many of the records of this process are durable.
    Acknowledged(usize),
    /// The store begins to make this durable.
    StoreBegun { state: StoreState, installed: bool },
    /// It is.
    StoreDone,
    /// This founding record is about to be kept.
    FoundingBegun(FoundingRecord),
    /// It is.
    FoundingDone,
    /// A start returned with this; identity and epoch have been shown.
    Started(Box<Recovered>),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pushed(records) => write!(f, "({} records are pushed)", records.len()),
            Self::Acknowledged(through) => write!(f, "(acknowledged up to record {through})"),
            Self::StoreBegun { state, installed: false } => write!(f, "(a snapshot at {:?} is begun)", state.applied),
            Self::StoreBegun { state, .. } => write!(f, "(a snapshot at {:?} is being installed)", state.applied),
            Self::StoreDone => f.write_str("(it is durable)"),
            Self::FoundingBegun(_) => f.write_str("(a founding record is to be kept)"),
            Self::FoundingDone => f.write_str("(the founding record is kept)"),
            Self::Started(recovered) => write!(f, "(the start with epoch {} returns)", recovered.boot_epoch),
        }
    }
}

/// What one record does to a log.
fn push(log: &mut LogState, record: &Record) {
    match record {
        Record::Entry(entry) => {
            log.entries.push(entry.clone());
            log.last = Some(entry.log_id);
        }
        Record::Vote(vote) => log.vote = Some(*vote),
        Record::Committed(id) => log.committed = Some(*id),
        Record::Truncate(after) => {
            log.entries.retain(|entry| Some(entry.log_id.index) <= after.map(|id| id.index));
            log.last = log.entries.last().map(|entry| entry.log_id).or(log.purged);
        }
        Record::Purge(upto) => {
            log.entries.retain(|entry| entry.log_id.index > upto.index);
            log.purged = Some(*upto);
            log.last = log.entries.last().map(|entry| entry.log_id).or(log.purged);
        }
    }
}

/// What one entry does to a state.
pub(crate) fn apply_entry(state: &mut StoreState, entry: &Entry) {
    match &entry.payload {
        Payload::Blank => {}
        Payload::Command(command) => changes(command).for_each(|(key, value)| match value {
            Some(value) => drop(state.pairs.insert(key, value)),
            None => drop(state.pairs.remove(&key)),
        }),
        Payload::Membership(membership) => {
            state.membership.log_id = Some(entry.log_id);
            state.membership.membership = membership.clone();
        }
    }
    state.applied = Some(entry.log_id);
}

fn holds(log: &LogState, id: LogId) -> bool {
    log.purged == Some(id) || log.entries.iter().any(|entry| entry.log_id == id)
}

#[derive(Clone, Debug)]
struct Candidate {
    state: StoreState,
    installed: bool,
}

/// Everything that has been pushed and told up to some instant.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The log as this process found it.
    base: LogState,
    records: Vec<Record>,
    acknowledged: usize,
    /// The durable state, then those that were begun since; none without a store.
    stores: Vec<Candidate>,
    shown: Option<(LogIdentity, u64)>,
    foundings: Vec<Option<FoundingRecord>>,
}

impl Model {
    pub(crate) fn new(with_store: bool) -> Self {
        let stores = with_store.then(|| Candidate { state: StoreState::default(), installed: false });
        Self {
            base: LogState::default(),
            records: Vec::new(),
            acknowledged: 0,
            stores: stores.into_iter().collect(),
            shown: None,
            foundings: vec![None],
        }
    }

    pub(crate) fn mark(&mut self, mark: &Mark) {
        match mark {
            Mark::Pushed(records) => self.records.extend(records.iter().cloned()),
            Mark::Acknowledged(through) => self.acknowledged = self.acknowledged.max(*through),
            Mark::StoreBegun { state, installed } => {
                self.stores.push(Candidate { state: state.clone(), installed: *installed });
            }
            Mark::StoreDone => drop(self.stores.drain(..self.stores.len() - 1)),
            Mark::FoundingBegun(record) => self.foundings.push(Some(record.clone())),
            Mark::FoundingDone => drop(self.foundings.drain(..self.foundings.len() - 1)),
            Mark::Started(recovered) => {
                self.base = recovered.log.clone();
                self.records.clear();
                self.acknowledged = 0;
                let state = recovered.store.clone().map(|state| Candidate { state, installed: false });
                self.stores = state.into_iter().collect();
                self.shown = Some((recovered.identity, recovered.boot_epoch));
                self.foundings = vec![recovered.founding.clone()];
            }
        }
    }

    /// How many records this process has pushed.
    pub(crate) fn pushed(&self) -> usize {
        self.records.len()
    }

    /// The log with everything that was pushed.
    pub(crate) fn log(&self) -> LogState {
        let mut log = self.base.clone();
        self.records.iter().for_each(|record| push(&mut log, record));
        log
    }

    /// The log and store that a start may come up with.
    fn allowed(&self) -> Vec<(LogState, Option<StoreState>)> {
        let mut log = self.base.clone();
        let mut allowed = Vec::new();
        for through in 0..=self.records.len() {
            if through > 0 {
                push(&mut log, &self.records[through - 1]);
            }
            if through < self.acknowledged {
                continue;
            }
            if self.stores.is_empty() {
                allowed.push((log.clone(), None));
            }
            for Candidate { state, installed } in &self.stores {
                let mut log = log.clone();
                if let Some(applied) = state.applied.filter(|applied| !holds(&log, *applied)) {
                    if !installed {
                        // What a node applied itself was durable in its log before it was in its store.
                        continue;
                    }
                    log.entries.clear();
                    (log.purged, log.last) = (Some(applied), Some(applied));
                }
                if log.purged.is_none_or(|purged| state.applied.is_some_and(|a| a.index >= purged.index)) {
                    allowed.push((log, Some(state.clone())));
                }
            }
        }
        allowed
    }

    /// Whether a start may come up with this.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, found: &Recovered) -> Result<(), String> {
        if let Some((identity, epoch)) = self.shown {
            if found.identity != identity {
                return Err(format!("the identity {identity:?} was shown, and now it is {:?}", found.identity));
            }
            if found.boot_epoch <= epoch {
                return Err(format!("the boot epoch {epoch} was shown, and now it is {}", found.boot_epoch));
            }
        }
        if !self.foundings.contains(&found.founding) {
            return Err(format!("the founding record is {:?}", found.founding));
        }
        let allowed = self.allowed();
        if allowed.iter().any(|(log, store)| *log == found.log && *store == found.store) {
            return Ok(());
        }
        let least = allowed.first().map(|(log, store)| (show_log(log), store.as_ref().map(show_store)));
        let found = (show_log(&found.log), found.store.as_ref().map(show_store));
        Err(format!(
            "it came up with {found:?}, which is none of the {} allowed states; the first of them is {least:?}",
            allowed.len()
        ))
    }
}

fn show_log(log: &LogState) -> String {
    let first = log.entries.first().map(|entry| entry.log_id.to_string());
    let id = |id: Option<LogId>| id.map(|id| id.to_string());
    format!(
        "vote {:?}, committed {:?}, purged {:?}, {} entries from {first:?}, last {:?}",
        log.vote.map(|vote| vote.to_string()),
        id(log.committed),
        id(log.purged),
        log.entries.len(),
        id(log.last)
    )
}

fn show_store(store: &StoreState) -> String {
    format!("state at {:?} with {} pairs", store.applied.map(|id| id.to_string()), store.pairs.len())
}

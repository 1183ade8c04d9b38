//! What the clients of the key-value store did and saw.
//!
//! A client is a sequential process: it invokes an operation, waits for the outcome, invokes the next. Every value put
//! is unique (it carries a serial), so a value that is seen names the operation that wrote it.
//!
//! The model has one global revision: it starts at a base (0 for an empty store), every write that takes effect adds
//! one, and deleting a key that is not there is no write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// A key with its value, as the store showed it at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The revision of the put that wrote `value`.
    pub mod_revision: u64,
    /// The revision of the put that created the key after it was last missing, if the store says.
    pub create_revision: Option<u64>,
    /// The number of puts since then, that one included, if the store says.
    pub version: Option<u64>,
}

impl Item {
    /// An item of which the store tells only the revision of its last put.
    pub fn new(key: impl Into<String>, value: impl Into<String>, mod_revision: u64) -> Self {
        Self { key: key.into(), value: value.into(), mod_revision, create_revision: None, version: None }
    }
}

/// What a read was asked to guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was acknowledged before the read was invoked is seen.
    Linearizable,
    /// Some state that the store went through, not one of the future.
    Stale,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets `key` to `value`; no other put of the history has this value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Removes `key`.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads `key`.
    Get {
        /// The key.
        key: String,
        /// What was asked for.
        consistency: Consistency,
    },
    /// Reads all keys that start with `prefix`.
    List {
        /// The prefix; the empty one reads the whole store.
        prefix: String,
        /// What was asked for.
        consistency: Consistency,
    },
}

impl Op {
    /// Whether the operation may change the store.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }

    /// Whether the operation is a read that may be answered from the past.
    pub fn is_stale_read(&self) -> bool {
        matches!(self, Self::Get { consistency, .. } | Self::List { consistency, .. } if *consistency == Consistency::Stale)
    }
}

/// What a client learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The put took effect.
    Put {
        /// The revision it made.
        revision: u64,
        /// The revision that created the key, if the store says.
        create_revision: Option<u64>,
        /// The key's version, if the store says.
        version: Option<u64>,
    },
    /// The delete took effect, or found nothing to delete.
    Delete {
        /// The revision it made; if nothing was deleted, the store's at that moment.
        revision: u64,
        /// Whether the key was there.
        deleted: bool,
    },
    /// The answer of a get.
    Get {
        /// The store's revision at the read.
        revision: u64,
        /// What the key held.
        item: Option<Item>,
    },
    /// The answer of a list.
    List {
        /// The store's revision at the read.
        revision: u64,
        /// All that matched, in ascending order of keys.
        items: Vec<Item>,
    },
    /// A write had no effect and never will have; or a read failed.
    NotApplied,
    /// A write takes effect at some time after its invocation, or never; or a read failed.
    #[default]
    Unknown,
}

impl Outcome {
    /// The revision that the store answered, if it answered.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Put { revision, .. }
            | Self::Delete { revision, .. }
            | Self::Get { revision, .. }
            | Self::List { revision, .. } => Some(*revision),
            Self::NotApplied | Self::Unknown => None,
        }
    }

    /// The items that the store showed, if it was a read and the store answered.
    pub fn items(&self) -> &[Item] {
        match self {
            Self::Get { item, .. } => item.as_slice(),
            Self::List { items, .. } => items,
            _ => &[],
        }
    }
}

/// One operation of one client: on the key-value store, if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<Q = Op, A = Outcome> {
    /// The client.
    pub client: u64,
    /// When it was invoked, in nanoseconds.
    pub invoke_ns: u64,
    /// When the client learned the outcome or gave up, in nanoseconds; `None` if the history ended first.
    pub complete_ns: Option<u64>,
    /// What was asked for.
    pub op: Q,
    /// What was learned.
    pub outcome: A,
}

impl Operation {
    /// Until when it took effect, if it did, in nanoseconds. `None`: no outcome, so at any time from its invocation on.
    pub fn effect_before_ns(&self) -> Option<u64> {
        if self.outcome == Outcome::Unknown { None } else { self.complete_ns }
    }

    /// The revision of the write, if this is a write that was acknowledged and changed the store.
    pub fn written_revision(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Put { revision, .. } | Outcome::Delete { revision, deleted: true } => Some(revision),
            _ => None,
        }
    }

    /// Whether this is a write of which the client does not know whether it takes effect.
    pub fn is_unknown_write(&self) -> bool {
        self.op.is_write() && self.outcome == Outcome::Unknown
    }
}

/// `c3 [100..250] put k=v -> revision 7 version 2`, times in nanoseconds.
impl<Q: fmt::Display, A: fmt::Display> fmt::Display for Operation<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{} [{}..", self.client, self.invoke_ns)?;
        if let Some(complete_ns) = self.complete_ns {
            write!(f, "{complete_ns}")?;
        }
        write!(f, "] {} -> {}", self.op, self.outcome)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stale = if self.is_stale_read() { "stale " } else { "" };
        match self {
            Self::Put { key, value } => write!(f, "put {key}={value}"),
            Self::Delete { key } => write!(f, "delete {key}"),
            Self::Get { key, .. } => write!(f, "{stale}get {key}"),
            Self::List { prefix, .. } => write!(f, "{stale}list {prefix}*"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { revision, create_revision, version } => {
                write!(f, "revision {revision}")?;
                create_revision.map_or(Ok(()), |r| write!(f, " created {r}"))?;
                version.map_or(Ok(()), |v| write!(f, " version {v}"))
            }
            Self::Delete { revision, deleted: true } => write!(f, "revision {revision}"),
            Self::Delete { revision, deleted: false } => write!(f, "nothing there at revision {revision}"),
            Self::Get { revision, item: None } => write!(f, "nothing at revision {revision}"),
            Self::Get { revision, item: Some(item) } => write!(f, "{item} at revision {revision}"),
            Self::List { revision, items } => {
                let items: Vec<String> = items.iter().map(Item::to_string).collect();
                write!(f, "[{}] at revision {revision}", items.join(", "))
            }
            Self::NotApplied => write!(f, "not applied"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}

/// `k=v@5`: put at revision 5.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}@{}", self.key, self.value, self.mod_revision)
    }
}

/// The property whose violation means that the history itself is broken: the recorder's fault, not the store's.
pub const WELL_FORMED: &str = "well-formed history";

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one; the class by which two failures count as the same.
    pub property: &'static str,
    /// What contradicts what.
    pub explanation: String,
    /// Indexes into the history of the operations in conflict; empty where no client is involved.
    pub operations: Vec<usize>,
}

impl Violation {
    /// A violation in which `operations` are in conflict.
    pub fn new(property: &'static str, explanation: String, operations: impl IntoIterator<Item = usize>) -> Self {
        let operations = operations.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Self { property, explanation, operations }
    }

    /// The explanation and the operations in conflict, a line each.
    pub fn render<O: fmt::Display>(&self, history: &[O]) -> String {
        let mut text = format!("{self}\n");
        for &index in &self.operations {
            if let Some(operation) = history.get(index) {
                let _ = writeln!(text, "  #{index} {operation}");
            }
        }
        text
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.explanation)
    }
}

impl std::error::Error for Violation {}

/// A history as text, a line for each operation in the order of invocation.
pub fn render(history: &[Operation]) -> String {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|&index| (history[index].invoke_ns, index));
    let mut text = String::new();
    for index in order {
        let _ = writeln!(text, "#{index} {}", history[index]);
    }
    text
}

/// Records a history while it happens.
///
/// Events get times that differ: an event in the same nanosecond as the one before is put one later. What was recorded
/// first really was first, so no order is invented, and none is lost where a simulated clock stands still.
#[derive(Clone, Debug)]
pub struct Recorder<Q = Op, A = Outcome> {
    operations: Vec<Operation<Q, A>>,
    last_ns: u64,
}

impl<Q, A: Default> Default for Recorder<Q, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Q, A: Default> Recorder<Q, A> {
    /// An empty history.
    pub fn new() -> Self {
        Self { operations: Vec::new(), last_ns: 0 }
    }

    /// Records that `client` is about to ask for `op`, and returns the operation's index. Call it before the request
    /// can reach any server. Until it completes it has the default outcome: unknown.
    pub fn invoke(&mut self, client: u64, now_ns: u64, op: Q) -> usize {
        let invoke_ns = self.tick(now_ns);
        self.operations.push(Operation { client, invoke_ns, complete_ns: None, op, outcome: A::default() });
        self.operations.len() - 1
    }

    /// Records the outcome of an operation. Call it after the answer has arrived.
    ///
    /// # Panics
    /// If `index` is not an operation in flight.
    pub fn complete(&mut self, index: usize, now_ns: u64, outcome: A) {
        let complete_ns = self.tick(now_ns);
        let operation = &mut self.operations[index];
        assert!(operation.complete_ns.is_none(), "operation #{index} has completed before");
        operation.complete_ns = Some(complete_ns);
        operation.outcome = outcome;
    }

    /// The history so far; what is in flight has an unknown outcome.
    pub fn operations(&self) -> &[Operation<Q, A>] {
        &self.operations
    }

    /// The history; what is still in flight has an unknown outcome.
    pub fn finish(self) -> Vec<Operation<Q, A>> {
        self.operations
    }

    fn tick(&mut self, now_ns: u64) -> u64 {
        self.last_ns = now_ns.max(self.last_ns.saturating_add(1));
        self.last_ns
    }
}

/// Checks that a history is one that sequential clients with unique values can record.
///
/// # Errors
/// A violation of [`WELL_FORMED`].
pub fn well_formed(history: &[Operation]) -> Result<(), Violation> {
    let broken = |explanation: &str, operations: &[usize]| {
        Err(Violation::new(WELL_FORMED, explanation.to_owned(), operations.iter().copied()))
    };
    let mut writers = BTreeMap::new();
    let mut last_of_client: BTreeMap<u64, usize> = BTreeMap::new();
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|&index| (history[index].invoke_ns, history[index].complete_ns, index));
    for index in order {
        let operation = &history[index];
        let answers = matches!(
            (&operation.op, &operation.outcome),
            (_, Outcome::NotApplied | Outcome::Unknown)
                | (Op::Put { .. }, Outcome::Put { .. })
                | (Op::Delete { .. }, Outcome::Delete { .. })
                | (Op::Get { .. }, Outcome::Get { .. })
                | (Op::List { .. }, Outcome::List { .. })
        );
        if !answers {
            return broken("the outcome does not answer the request", &[index]);
        }
        match operation.complete_ns {
            None if operation.outcome != Outcome::Unknown => return broken("an outcome without a time", &[index]),
            Some(complete_ns) if complete_ns < operation.invoke_ns => {
                return broken("completed before it was invoked", &[index]);
            }
            _ => {}
        }
        if let Some(last) = last_of_client.insert(operation.client, index)
            && history[last].complete_ns.is_some_and(|complete_ns| complete_ns > operation.invoke_ns)
        {
            return broken("one client has two operations in flight", &[last, index]);
        }
        if let Op::Put { value, .. } = &operation.op
            && let Some(other) = writers.insert(value, index)
        {
            return broken("two puts of one value", &[other, index]);
        }
    }
    Ok(())
}

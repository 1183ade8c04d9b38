//! The second check of a client history: a search for a linearization of every key, which ignores revisions.
//!
//! It shares nothing with [`revision_order`](super::revision_order) but the history, so that neither hides the other's
//! mistakes. A history is linearizable if and only if it is for each object alone (Herlihy & Wing 1990, "locality"), so
//! each key is a register of its own. The search is that of Wing & Gong (1993) with the memory of Lowe (2017, "Testing
//! for linearizability"), as in Knossos and porcupine: depth first over the orders of operations, never visiting one
//! (set of operations ordered, state) twice.
//!
//! A list counts as one read of every key under its prefix, which is weaker than what it promises. Stale reads are not
//! looked at. A write of unknown outcome may be ordered anywhere after its invocation, or nowhere.

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::history::{Consistency, Item, Op, Operation, Outcome, Violation, well_formed};
use search::{Action, Call, Found, Search, State, Stuck};

/// There is an order of the operations on a key that explains all answers.
pub const LINEARIZABLE: &str = "linearizability";

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is a linearization of every key.
    Linearizable,
    /// For some key there is none.
    Violation(Violation),
    /// The budget was spent on these keys, and no other key has a violation. Never to be taken for a success.
    Inconclusive {
        /// The keys.
        keys: Vec<String>,
    },
}

/// Searches a linearization of every key's operations, with at most `steps_max` steps for a key.
///
/// A step is one attempt to order one operation next: some ten nanoseconds to a microsecond. Histories with little
/// concurrency need a few steps for each operation; the worst case is exponential in the operations in flight at once.
pub fn check(history: &[Operation], steps_max: u64) -> Verdict {
    if let Err(violation) = well_formed(history) {
        return Verdict::Violation(violation);
    }
    let mut inconclusive = Vec::new();
    for (key, calls) in calls_by_key(history) {
        match Search::new(&calls).run(steps_max) {
            Found::Order => {}
            Found::Nothing(stuck) => return Verdict::Violation(no_order(key, &calls, &stuck)),
            Found::BudgetSpent => inconclusive.push(key.to_owned()),
        }
    }
    if inconclusive.is_empty() { Verdict::Linearizable } else { Verdict::Inconclusive { keys: inconclusive } }
}

fn no_order(key: &str, calls: &[Call], stuck: &Stuck) -> Violation {
    let operation = |call: usize| calls[call].operation;
    let before = match stuck.last_write {
        Some(call) => format!("the last write among them #{}", operation(call)),
        None => "no write among them".to_owned(),
    };
    let reader =
        stuck.reader.map_or(String::new(), |call| format!(", as #{} is still to read that write", operation(call)));
    let explanation = format!(
        "no order explains {key}: at best {} of {} operations come first, {before}, and then #{} can neither come next \
         nor wait{reader}",
        stuck.ordered,
        calls.len(),
        operation(stuck.blocked),
    );
    let parties = stuck.pending.iter().copied().chain(stuck.last_write).chain([stuck.blocked]).chain(stuck.reader);
    Violation::new(LINEARIZABLE, explanation, parties.map(operation))
}

/// The calls on every key, by invocation.
fn calls_by_key(history: &[Operation]) -> BTreeMap<&str, Vec<Call>> {
    let mut keys = BTreeSet::new();
    for operation in history {
        match &operation.op {
            Op::Put { key, .. } | Op::Delete { key } | Op::Get { key, .. } => keys.insert(key.as_str()),
            Op::List { .. } => false,
        };
        keys.extend(operation.outcome.items().iter().map(|item| item.key.as_str()));
    }
    let mut by_key: BTreeMap<&str, Vec<Call>> = keys.into_iter().map(|key| (key, Vec::new())).collect();
    let values = Values::new(history);
    for (operation, record) in history.iter().enumerate() {
        let complete_ns = record.effect_before_ns();
        let call = |action| Call { operation, invoke_ns: record.invoke_ns, complete_ns, action };
        let mut add = |key: &str, action| {
            if let Some(calls) = by_key.get_mut(key) {
                calls.push(call(action));
            }
        };
        match (&record.op, &record.outcome) {
            (_, Outcome::NotApplied) => {}
            (Op::Put { key, value }, _) => add(key, Action::Put(values.state(key, value))),
            (Op::Delete { key }, Outcome::Delete { deleted, .. }) => add(key, Action::Delete { found: Some(*deleted) }),
            (Op::Delete { key }, _) => add(key, Action::Delete { found: None }),
            (Op::Get { key, consistency: Consistency::Linearizable }, Outcome::Get { item, .. }) => {
                add(key, Action::Read(item.as_ref().map_or(State::MISSING, |item| values.of(item))));
            }
            (Op::List { prefix, consistency: Consistency::Linearizable }, Outcome::List { items, .. }) => {
                let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.key.as_str(), item)).collect();
                let listed = items.keys().filter(|key| !key.starts_with(prefix.as_str()));
                let matching =
                    by_key.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded)).map(|(key, _)| key);
                let matching = matching.take_while(|key| key.starts_with(prefix.as_str()));
                let read: Vec<&str> = matching.chain(listed).copied().collect();
                for key in read {
                    let state = items.get(key).map_or(State::MISSING, |item| values.of(item));
                    if let Some(calls) = by_key.get_mut(key) {
                        calls.push(call(Action::Read(state)));
                    }
                }
            }
            _ => {}
        }
    }
    for calls in by_key.values_mut() {
        calls.sort_by_key(|call| (call.invoke_ns, call.operation));
        drop_useless(calls);
    }
    by_key
}

/// Numbers for values. All that no read shows share one, since nothing can tell them apart.
struct Values<'a> {
    shown: BTreeMap<(&'a str, &'a str), u32>,
}

impl<'a> Values<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let reads = history.iter().filter(|operation| !operation.op.is_stale_read());
        let items = reads.flat_map(|operation| operation.outcome.items());
        let shown: BTreeSet<_> = items.map(|item| (item.key.as_str(), item.value.as_str())).collect();
        Self { shown: shown.into_iter().zip(State::FIRST_SHOWN..).collect() }
    }

    fn state(&self, key: &str, value: &str) -> State {
        self.shown.get(&(key, value)).map_or(State::NEVER_SHOWN, |number| State(*number))
    }

    fn of(&self, item: &Item) -> State {
        self.state(&item.key, &item.value)
    }
}

/// Drops unknown writes that no answer needs: ordering them nowhere is then as good as anywhere.
fn drop_useless(calls: &mut Vec<Call>) {
    let found = calls.iter().any(|call| call.action == Action::Delete { found: Some(true) });
    let missed = calls
        .iter()
        .any(|call| matches!(call.action, Action::Read(State::MISSING) | Action::Delete { found: Some(false) }));
    calls.retain(|call| match call.action {
        _ if call.complete_ns.is_some() => true,
        Action::Put(State::NEVER_SHOWN) => found,
        Action::Put(_) => true,
        Action::Delete { .. } => missed,
        Action::Read(_) => false,
    });
}

//! The search for a linearization of one register.

use std::collections::BTreeSet;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State(pub u32);

impl State {
    /// The key is not there.
    pub(super) const MISSING: Self = Self(0);
    /// Some value that no read ever shows.
    pub(super) const NEVER_SHOWN: Self = Self(1);
    /// The number of the first value that is shown.
    pub(super) const FIRST_SHOWN: u32 = 2;
}

/// What a call does to the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put(State),
    /// `found`: whether there was something to delete, if the client knows.
    Delete {
        found: Option<bool>,
    },
    Read(State),
}

impl Action {
    /// The state after the action, if it can happen in `state`.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Self::Put(value) => Some(value),
            Self::Delete { found } => {
                found.is_none_or(|found| found == (state != State::MISSING)).then_some(State::MISSING)
            }
            Self::Read(value) => (value == state).then_some(state),
        }
    }
}

/// One operation on the register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Its index in the history.
    pub operation: usize,
    pub invoke_ns: u64,
    /// `None`: the call may be ordered anywhere after its invocation, or nowhere.
    pub complete_ns: Option<u64>,
    pub action: Action,
}

/// What a search found.
pub(super) enum Found {
    /// A linearization.
    Order,
    /// That there is none. The order that came furthest, and where it ends:
    Nothing {
        /// how many calls it has,
        ordered: usize,
        /// the call that must come next and cannot,
        blocked: usize,
        /// the call that wrote last before it,
        last_write: Option<usize>,
        /// and the calls in flight then.
        pending: Vec<usize>,
    },
    /// Neither, within the budget.
    BudgetSpent,
}

/// A place in the list of events: 0 is the head, 1 + n event n.
type Place = usize;

/// A doubly linked list of the events (invocations and completions) of the calls that are not ordered yet.
pub(super) struct Search<'a> {
    calls: &'a [Call],
    /// The call of an event, and whether the event is its completion.
    events: Vec<(usize, bool)>,
    next: Vec<Place>,
    previous: Vec<Place>,
    /// Call → (its invocation, its completion).
    places: Vec<(Place, Option<Place>)>,
    /// Call → an interchangeable one that was invoked earlier, and is to be ordered earlier.
    twin: Vec<Option<usize>>,
    ordered: Vec<u64>,
    /// Completions left in the list.
    required: usize,
}

impl<'a> Search<'a> {
    /// A search over calls sorted by invocation.
    pub(super) fn new(calls: &'a [Call]) -> Self {
        let mut events = Vec::with_capacity(2 * calls.len());
        for (index, call) in calls.iter().enumerate() {
            // In the same nanosecond invocations come first: what touches is concurrent.
            events.push((call.invoke_ns, false, index));
            events.extend(call.complete_ns.map(|complete_ns| (complete_ns, true, index)));
        }
        events.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        for (event, (_, completes, call)) in events.iter().enumerate() {
            if *completes {
                places[*call].1 = Some(event + 1);
            } else {
                places[*call].0 = event + 1;
            }
        }
        let length = events.len();
        Self {
            calls,
            events: events.into_iter().map(|(_, completes, call)| (call, completes)).collect(),
            // The end of the list is its head again.
            next: (1..=length).chain([0]).collect(),
            previous: [length].into_iter().chain(0..length).collect(),
            required: places.iter().filter(|(_, completion)| completion.is_some()).count(),
            places,
            twin: twins(calls),
            ordered: vec![0; calls.len().div_ceil(64)],
        }
    }

    /// Searches, with at most `steps_max` steps.
    pub(super) fn run(mut self, steps_max: u64) -> Found {
        let mut seen: BTreeSet<(Vec<u64>, State)> = BTreeSet::new();
        let mut stack: Vec<(usize, State)> = Vec::new();
        let mut state = State::MISSING;
        let mut place = self.next[0];
        let mut furthest: Option<Found> = None;
        let mut furthest_len = None;
        let mut steps = 0;
        while self.required > 0 {
            if steps == steps_max {
                return Found::BudgetSpent;
            }
            steps += 1;
            let (call, completes) = self.events[place - 1];
            if !completes {
                if let Some(after) = self.try_order(call, state) {
                    self.ordered[call / 64] |= 1 << (call % 64);
                    if seen.insert((self.ordered.clone(), after)) {
                        stack.push((call, state));
                        state = after;
                        self.lift(call);
                        place = self.next[0];
                        continue;
                    }
                    self.ordered[call / 64] &= !(1 << (call % 64));
                }
                place = self.next[place];
                continue;
            }
            // `call` completed, so nothing that comes later in the list can be ordered before it.
            if furthest_len.is_none_or(|len| stack.len() > len) {
                furthest_len = Some(stack.len());
                let writes = |(call, _): &&(usize, State)| !matches!(self.calls[*call].action, Action::Read(_));
                let last_write = stack.iter().rfind(writes).map(|(call, _)| *call);
                let pending = self.pending(place);
                furthest = Some(Found::Nothing { ordered: stack.len(), blocked: call, last_write, pending });
            }
            let Some((last, before)) = stack.pop() else {
                return furthest.unwrap_or(Found::Order);
            };
            self.ordered[last / 64] &= !(1 << (last % 64));
            state = before;
            self.unlift(last);
            place = self.next[self.places[last].0];
        }
        Found::Order
    }

    /// The state after `call`, if it may be ordered next.
    fn try_order(&self, call: usize, state: State) -> Option<State> {
        let optional = self.calls[call].complete_ns.is_none();
        if self.twin[call].is_some_and(|twin| self.ordered[twin / 64] & (1 << (twin % 64)) == 0) {
            return None;
        }
        // An unknown write that changes nothing need not be ordered.
        self.calls[call].action.apply(state).filter(|after| !optional || *after != state)
    }

    /// The calls whose invocation stands before `end`.
    fn pending(&self, end: Place) -> Vec<usize> {
        let places = std::iter::successors(Some(self.next[0]), |place| Some(self.next[*place]));
        places.take_while(|place| *place != end).map(|place| self.events[place - 1].0).collect()
    }

    /// Takes an ordered call out of the list.
    fn lift(&mut self, call: usize) {
        let (invocation, completion) = self.places[call];
        for place in [Some(invocation), completion].into_iter().flatten() {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
        self.required -= usize::from(completion.is_some());
    }

    /// Puts the call that was lifted last back to where it was.
    fn unlift(&mut self, call: usize) {
        let (invocation, completion) = self.places[call];
        for place in [completion, Some(invocation)].into_iter().flatten() {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
        self.required += usize::from(completion.is_some());
    }
}

/// For every unknown write that does the same as an earlier one, that one. Whatever can be explained with the later can
/// be explained with the earlier, so only one order of the two is tried; without it, the search doubles with each.
fn twins(calls: &[Call]) -> Vec<Option<usize>> {
    let mut last_put = None;
    let mut last_delete = None;
    let twin = |(index, call): (usize, &Call)| match call.action {
        _ if call.complete_ns.is_some() => None,
        Action::Put(State::NEVER_SHOWN) => last_put.replace(index),
        Action::Delete { .. } => last_delete.replace(index),
        _ => None,
    };
    calls.iter().enumerate().map(twin).collect()
}

//! The search for a linearization of one register.

use std::collections::{BTreeMap, BTreeSet};

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
    /// That there is none.
    Nothing(Stuck),
    /// Neither, within the budget.
    BudgetSpent,
}

/// Where the order that came furthest ends.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// How many calls are ordered.
    pub ordered: usize,
    /// The last one of them that writes.
    pub last_write: Option<usize>,
    /// The call that must come next and cannot.
    pub blocked: usize,
    /// A call that must come before anything else is written, since it reads that last write, but cannot come yet.
    pub reader: Option<usize>,
    /// The calls in flight then.
    pub pending: Vec<usize>,
}

/// One call of an order, while it is searched.
struct Choice {
    call: usize,
    /// The state before the call.
    before: State,
    /// Whether no other call need be tried in its place.
    only: bool,
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
    /// Value → reads of it that are not ordered yet.
    unread: BTreeMap<State, usize>,
    /// A bit for each call.
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
        let mut unread = BTreeMap::new();
        for call in calls {
            if let Action::Read(value) = call.action {
                *unread.entry(value).or_default() += 1;
            }
        }
        Self {
            calls,
            events: events.into_iter().map(|(_, completes, call)| (call, completes)).collect(),
            // The end of the list is its head again.
            next: (1..=length).chain([0]).collect(),
            previous: [length].into_iter().chain(0..length).collect(),
            required: places.iter().filter(|(_, completion)| completion.is_some()).count(),
            places,
            unread,
            ordered: vec![0; calls.len().div_ceil(64)],
        }
    }

    /// Searches, with at most `steps_max` steps.
    pub(super) fn run(mut self, steps_max: u64) -> Found {
        let mut seen: BTreeSet<(Vec<u64>, State)> = BTreeSet::new();
        let mut stack: Vec<Choice> = Vec::new();
        let mut state = State::MISSING;
        let mut place = self.next[0];
        let mut furthest: Option<Stuck> = None;
        let mut steps = 0;
        while self.required > 0 {
            if steps == steps_max {
                return Found::BudgetSpent;
            }
            steps += 1;
            if place == self.next[0]
                && let Some(call) = self.unchanging(state)
            {
                // What changes nothing is best ordered as soon as it can be: there is no other choice to come back to.
                stack.push(Choice { call, before: state, only: true });
                self.lift(call);
                place = self.next[0];
                continue;
            }
            let (call, completes) = self.events[place - 1];
            if !completes {
                if let Some(after) = self.try_order(call, state) {
                    self.lift(call);
                    if seen.insert((self.ordered.clone(), after)) {
                        stack.push(Choice { call, before: state, only: false });
                        state = after;
                        place = self.next[0];
                        continue;
                    }
                    self.unlift(call);
                }
                place = self.next[place];
                continue;
            }
            // `call` completed, so nothing that comes later in the list can be ordered before it.
            if furthest.as_ref().is_none_or(|furthest| stack.len() > furthest.ordered) {
                furthest = Some(self.stuck(&stack, state, place));
            }
            loop {
                let Some(last) = stack.pop() else { return Found::Nothing(furthest.unwrap_or_default()) };
                self.unlift(last.call);
                state = last.before;
                place = self.next[self.places[last.call].0];
                if !last.only {
                    break;
                }
            }
        }
        Found::Order
    }

    /// A completed call that may come next and leaves the state as it is.
    fn unchanging(&self, state: State) -> Option<usize> {
        let unchanging = |call: &usize| {
            let Call { complete_ns, action, .. } = self.calls[*call];
            complete_ns.is_some() && !matches!(action, Action::Put(_)) && action.apply(state) == Some(state)
        };
        self.pending().find(unchanging)
    }

    /// The state after `call`, if it may come next and it makes sense to try.
    ///
    /// - An unknown write that changes nothing need not be ordered.
    /// - A value that is still to be read must not be overwritten: it is put only once.
    /// - Of calls that do the same, the one that must complete first comes first; any order of them that explains the
    ///   answers can be turned into that one. Without this rule the search doubles with each unknown write.
    fn try_order(&self, call: usize, state: State) -> Option<State> {
        let Call { complete_ns, action, .. } = self.calls[call];
        let after = action.apply(state)?;
        let optional = complete_ns.is_none();
        let unread = state.0 >= State::FIRST_SHOWN && self.unread.get(&state).is_some_and(|unread| *unread > 0);
        if after == state && optional || after != state && unread {
            return None;
        }
        let urgency = |call: usize| (self.calls[call].complete_ns.unwrap_or(u64::MAX), call);
        let mut pending = self.pending();
        let dominated = pending.any(|other| self.calls[other].action == action && urgency(other) < urgency(call));
        (!dominated).then_some(after)
    }

    /// The calls that may come next: those whose invocation stands before the first completion.
    fn pending(&self) -> impl Iterator<Item = usize> {
        let places = std::iter::successors(Some(self.next[0]), |place| Some(self.next[*place]));
        places
            .map_while(|place| self.events.get(place.wrapping_sub(1)))
            .map_while(|(call, completes)| (!completes).then_some(*call))
    }

    /// The end of the order `stack`, which the completion at `end` blocks.
    fn stuck(&self, stack: &[Choice], state: State, end: Place) -> Stuck {
        let reads = |call: &usize| {
            self.calls[*call].action == Action::Read(state) && self.ordered[call / 64] & (1 << (call % 64)) == 0
        };
        let writes = |choice: &&Choice| !matches!(self.calls[choice.call].action, Action::Read(_));
        Stuck {
            ordered: stack.len(),
            last_write: stack.iter().rfind(writes).map(|choice| choice.call),
            blocked: self.events[end - 1].0,
            reader: (0..self.calls.len()).find(reads).filter(|_| state.0 >= State::FIRST_SHOWN),
            pending: self.pending().collect(),
        }
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
        self.ordered[call / 64] |= 1 << (call % 64);
        if let Action::Read(value) = self.calls[call].action {
            *self.unread.entry(value).or_default() -= 1;
        }
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
        self.ordered[call / 64] &= !(1 << (call % 64));
        if let Action::Read(value) = self.calls[call].action {
            *self.unread.entry(value).or_default() += 1;
        }
    }
}

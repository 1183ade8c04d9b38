//! What each node was at any time, out of the events of a run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::wire::Names;
use crate::trace::Recorded;
use crate::witness::PROGRESS_INDEXES;

/// What a machine's process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There is none.
    Down,
    /// There is none, for want of power.
    Unpowered,
    /// It has started and does not serve yet.
    Booting,
    /// It serves.
    Up,
    /// Its node has stopped by itself, or refused to start.
    Over,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unpowered => "unpowered",
            Self::Booting => "booting",
            Self::Up => "up",
            Self::Over => "over",
        }
    }
}

/// A time during which something was so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span<T> {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) what: T,
}

/// What a node said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) at: u64,
    /// Empty: its process has ended.
    pub(super) role: String,
    pub(super) term: u64,
    /// Whom it takes for the leader: a node's number, 0 if nobody.
    pub(super) leader: u32,
    /// Committed, applied, last in the log, snapshot, purged.
    pub(super) indexes: [Option<u64>; PROGRESS_INDEXES],
}

/// One node's lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) states: Vec<Span<State>>,
    /// When its process stood still.
    pub(super) pauses: Vec<Span<()>>,
    /// In the order of time; each holds until the next.
    pub(super) progress: Vec<Progress>,
}

impl Lane {
    /// What it was at a time, if its process ran.
    pub(super) fn progress_at(&self, at: u64) -> Option<&Progress> {
        self.progress
            .iter()
            .take_while(|progress| progress.at <= at)
            .last()
            .filter(|progress| !progress.role.is_empty())
    }

    /// Since when it has had the role and the term that it has at a time.
    pub(super) fn since(&self, at: u64) -> Option<u64> {
        let now = self.progress_at(at)?;
        let before = self.progress.iter().take_while(|progress| progress.at <= at);
        let mut since = now.at;
        for progress in before.collect::<Vec<_>>().into_iter().rev() {
            if (&progress.role, progress.term) != (&now.role, now.term) {
                break;
            }
            since = progress.at;
        }
        Some(since)
    }

    pub(super) fn state_at(&self, at: u64) -> State {
        let state = self.states.iter().find(|span| span.from <= at && at < span.to);
        state.or(self.states.last()).map_or(State::Down, |span| span.what)
    }
}

/// The ids that nodes have, which is how messages and metrics call them. A wiped node has several.
pub(super) fn names(recorded: &[Recorded]) -> Names {
    let progress = recorded.iter().filter(|event| event.kind == "raft progress");
    progress.map(|event| (event.numbers[1], format!("n{}", event.node))).collect()
}

/// The lanes of nodes 1 to `nodes`.
pub(super) fn lanes(recorded: &[Recorded], nodes: u32, end: u64) -> Vec<Lane> {
    let numbers: BTreeMap<u64, u32> = recorded
        .iter()
        .filter(|event| event.kind == "raft progress")
        .map(|event| (event.numbers[1], event.node))
        .collect();
    (1..=nodes).map(|node| lane(recorded.iter().filter(|event| event.node == node), &numbers, end)).collect()
}

fn lane<'a>(events: impl Iterator<Item = &'a Recorded>, numbers: &BTreeMap<u64, u32>, end: u64) -> Lane {
    let mut lane = Lane::default();
    let (mut state, mut paused) = ((0, State::Down), None);
    for event in events {
        let next = match event.kind {
            "process boot" => State::Booting,
            "process up" => State::Up,
            "process over" => State::Over,
            "process kill" => State::Down,
            "process unpowered" => State::Unpowered,
            "process pause" => {
                paused = paused.or(Some(event.at));
                continue;
            }
            "process resume" => {
                let what = ();
                lane.pauses.extend(paused.take().map(|from| Span { from, to: event.at, what }));
                continue;
            }
            "raft progress" => {
                let progress = progress(event, numbers);
                let same = |last: &Progress| Progress { at: progress.at, ..last.clone() } == progress;
                if !lane.progress.last().is_some_and(same) {
                    lane.progress.push(progress);
                }
                continue;
            }
            _ => continue,
        };
        if next == state.1 {
            continue;
        }
        if state.0 < event.at {
            lane.states.push(Span { from: state.0, to: event.at, what: state.1 });
        }
        state = (event.at, next);
        if next != State::Up && lane.progress.last().is_some_and(|last| !last.role.is_empty()) {
            lane.progress.push(Progress { at: event.at, ..Progress::default() });
        }
        if matches!(next, State::Down | State::Unpowered) {
            lane.pauses.extend(paused.take().map(|from| Span { from, to: event.at, what: () }));
        }
    }
    lane.states.push(Span { from: state.0, to: end.max(state.0), what: state.1 });
    lane.pauses.extend(paused.map(|from| Span { from, to: end, what: () }));
    lane
}

fn progress(event: &Recorded, numbers: &BTreeMap<u64, u32>) -> Progress {
    let (words, _) = event.payload.as_chunks::<8>();
    let word = |at: usize| words.get(at).map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    let indexes = std::array::from_fn(|at| Some(word(at)).filter(|index| *index != u64::MAX));
    let leader = numbers.get(&word(PROGRESS_INDEXES)).copied().unwrap_or(0);
    Progress { at: event.at, role: event.subject.clone(), term: event.numbers[0], leader, indexes }
}

/// When which links were closed: `(from, to)` and whether by holding everything back rather than by blocking.
pub(super) fn links(recorded: &[Recorded], end: u64) -> Vec<Span<(u32, u32, bool)>> {
    let mut open: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
    let mut spans = Vec::new();
    let span = |(from, to): (u32, u32), (since, how): (u64, u64), until| {
        let what = (from, to, how & 1 == 0);
        Span { from: since, to: until, what }
    };
    for event in recorded.iter().filter(|event| event.kind == "net link") {
        let ([to, how], from) = (event.numbers, event.node);
        let link = (from, to as u32);
        spans.extend(open.remove(&link).map(|since| span(link, since, event.at)));
        if how != 0 {
            open.insert(link, (event.at, how));
        }
    }
    spans.extend(open.into_iter().map(|(link, since)| span(link, since, end)));
    spans.sort_by_key(|span| (span.from, span.what));
    spans
}

/// A lane for the page.
pub(super) fn to_json(number: u32, lane: &Lane) -> Value {
    let index = |index: &Option<u64>| index.map_or(json!(-1), |index| json!(index));
    let progress = lane.progress.iter().map(|p| {
        let mut row = vec![json!(p.at), json!(p.role), json!(p.term), json!(p.leader)];
        row.extend(p.indexes.iter().map(index));
        Value::Array(row)
    });
    json!({
        "name": format!("n{number}"),
        "states": lane.states.iter().map(|span| json!([span.from, span.to, span.what.name()])).collect::<Vec<_>>(),
        "pauses": lane.pauses.iter().map(|span| json!([span.from, span.to])).collect::<Vec<_>>(),
        "progress": progress.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, node: u32, kind: &'static str, numbers: [u64; 2]) -> Recorded {
        Recorded { at, node, kind, subject: String::new(), numbers, payload: Vec::new() }
    }

    fn said(at: u64, role: &str, term: u64) -> Recorded {
        let words = [3, 2, 5, u64::MAX, u64::MAX, 77];
        let payload = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        Recorded { subject: role.to_owned(), payload, ..event(at, 1, "raft progress", [term, 77]) }
    }

    #[test]
    fn a_lane_knows_what_its_node_was_at_any_time() {
        let recorded = [
            event(0, 1, "process boot", [0, 0]),
            event(5, 1, "process up", [0, 0]),
            said(6, "follower", 1),
            said(7, "follower", 1),
            said(9, "leader", 2),
            event(12, 1, "process pause", [0, 0]),
            event(20, 1, "process kill", [0, 0]),
            event(30, 1, "process boot", [0, 0]),
        ];
        let lane = &lanes(&recorded, 1, 100)[0];
        let states: Vec<_> = lane.states.iter().map(|span| (span.from, span.to, span.what)).collect();
        assert_eq!(
            states,
            [(0, 5, State::Booting), (5, 20, State::Up), (20, 30, State::Down), (30, 100, State::Booting)]
        );
        assert_eq!(lane.pauses, [Span { from: 12, to: 20, what: () }]);
        assert_eq!(lane.progress.len(), 3, "what was said twice is there once, and its end is there");
        let at = |at| lane.progress_at(at).map(|progress| (progress.role.as_str(), progress.term, progress.leader));
        assert_eq!([at(5), at(8), at(19), at(20)], [None, Some(("follower", 1, 1)), Some(("leader", 2, 1)), None]);
        assert_eq!(lane.progress[0].indexes, [Some(3), Some(2), Some(5), None, None]);
        assert_eq!(lane.since(8), Some(6));
        assert_eq!(lane.state_at(25), State::Down);
        assert_eq!(names(&recorded)[&77], "n1");
    }

    #[test]
    fn links_are_closed_from_one_change_to_the_next() {
        let recorded =
            [event(5, 1, "net link", [2, 1]), event(6, 2, "net link", [1, 2]), event(8, 1, "net link", [2, 0])];
        let spans = links(&recorded, 50);
        let spans: Vec<_> = spans.iter().map(|span| (span.from, span.to, span.what)).collect();
        assert_eq!(spans, [(5, 8, (1, 2, false)), (6, 50, (2, 1, true))]);
    }
}

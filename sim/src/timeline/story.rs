//! The verdict in plain words: what was violated, by which operations, and who the nodes took themselves for then.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::lanes::{Lane, State};
use super::properties::property;
use super::wire::Names;
use super::{brief, seconds, shorten};
use crate::check::history::{Operation, Violation};
use crate::trace::Recorded;

/// A client's operation, and whom it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) client: u64,
    /// Its place in the history.
    pub(super) index: usize,
    /// Whom it asked.
    pub(super) node: u32,
    pub(super) invoked: u64,
    /// When it learnt what became of it, or gave up.
    pub(super) completed: Option<u64>,
    pub(super) op: String,
    /// `ok`, `unknown`, `not applied`; `open` if the run ended first.
    pub(super) outcome: &'static str,
    pub(super) answer: String,
    /// The store's revision at which it was answered, if it was.
    pub(super) revision: Option<u64>,
}

/// All operations, in the order of invocation.
pub(super) fn operations(recorded: &[Recorded], history: &[Operation]) -> Vec<Asked> {
    let mut all: Vec<Asked> = Vec::new();
    for event in recorded {
        let [client, index] = [event.numbers[0], event.numbers[1]];
        let outcome = match event.kind {
            "client invoke" => {
                let revision = history.get(index as usize).and_then(|operation| operation.outcome.revision());
                let (op, node, invoked) = (event.subject.clone(), event.node, event.at);
                let (answer, index) = (String::new(), index as usize);
                let outcome = "open";
                all.push(Asked { client, index, node, invoked, completed: None, op, outcome, answer, revision });
                continue;
            }
            "client ok" => "ok",
            "client unknown" => "unknown",
            "client not-applied" => "not applied",
            _ => continue,
        };
        let asked = all.iter_mut().rev().find(|asked| (asked.client, asked.index) == (client, index as usize));
        if let Some(asked) = asked {
            (asked.completed, asked.outcome, asked.answer) = (Some(event.at), outcome, event.subject.clone());
        }
    }
    all
}

/// Beside what is in conflict, so much is shown at least, nanoseconds.
const MARGIN: u64 = 20_000_000;

/// What replicas answered when they applied an entry: index and term → node → what was asked and answered.
pub(super) type Applied = BTreeMap<(u64, u64), BTreeMap<u32, String>>;

/// What every node's state machine answered to every entry; to one that it applied several times, at last.
pub(super) fn applied(recorded: &[Recorded]) -> Applied {
    let mut applied = Applied::new();
    for event in recorded.iter().filter(|event| event.kind == "raft apply") {
        let [term, index] = event.numbers;
        applied.entry((index, term)).or_default().insert(event.node, shorten(&brief(&event.subject), 300));
    }
    applied
}

/// What is known of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) operations: &'a [Asked],
    pub(super) lanes: &'a [Lane],
    pub(super) applied: &'a Applied,
    pub(super) names: &'a Names,
}

/// A line of the story, the operations that it is about, and the time, if it is about one.
type Line = (String, Vec<usize>, Option<u64>);

/// The verdict for the page. `found` is when the violation was reported.
pub(super) fn verdict(violation: &Violation, found: u64, run: &Run<'_>) -> Value {
    let marked: Vec<&Asked> =
        run.operations.iter().filter(|asked| violation.operations.contains(&asked.index)).collect();
    let (explanation, mut moments) = readable(&violation.explanation, run.names);
    moments.sort_unstable_by_key(|(_, at)| *at);
    let from = marked.iter().map(|asked| asked.invoked).chain(moments.iter().map(|(_, at)| *at)).min();
    let to = marked.iter().map(|asked| asked.completed.unwrap_or(asked.invoked));
    let to = to.chain(moments.iter().map(|(_, at)| *at)).max();
    let (from, to) = (from.unwrap_or(found), to.unwrap_or(found));
    let margin = MARGIN.max((to - from) / 6);
    let known = property(violation.property);
    let mut story = tell(&marked, run.lanes);
    story.extend(moments.iter().map(|(node, at)| (moment(*node, *at, run.lanes), vec![], Some(*at))));
    story.extend(parting(run));
    json!({
        "property": known.name,
        "demands": known.demands,
        "broken": known.broken,
        "source": known.source,
        "explanation": explanation,
        "found": found,
        "focus": [from.saturating_sub(margin), to + margin],
        "operations": violation.operations,
        "story": story,
        "moments": moments.iter().map(|(node, at)| json!([node, at])).collect::<Vec<_>>(),
        "nodes": nodes_at(marked.last().map_or(to, |last| last.completed.unwrap_or(last.invoked)), run.lanes),
    })
}

/// The marked operations in sentences, and what is wrong between them.
fn tell(marked: &[&Asked], lanes: &[Lane]) -> Vec<Line> {
    let mut story: Vec<_> = marked.iter().map(|asked| (sentence(asked, lanes), vec![asked.index], None)).collect();
    for (at, first) in marked.iter().enumerate() {
        for second in &marked[at + 1..] {
            story.extend(contradiction(first, second).map(|text| (text, vec![first.index, second.index], None)));
        }
    }
    story
}

/// What an oracle observed in a node.
fn moment(node: u32, at: u64, lanes: &[Lane]) -> String {
    let who = role_sentence(node, at, lanes);
    format!("At {} the checker compared what n{node} had then (framed in red).{who}", seconds(at))
}

/// The first entry that replicas applied differently, and the operation that had asked for it.
fn parting(run: &Run<'_>) -> Vec<Line> {
    let differs = |(_, nodes): &(&(u64, u64), &BTreeMap<u32, String>)| {
        nodes.values().next().is_some_and(|first| nodes.values().any(|other| other != first))
    };
    let Some(((index, term), nodes)) = run.applied.iter().find(differs) else { return Vec::new() };
    let mut by_answer: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, answer) in nodes {
        by_answer.entry(answer).or_default().push(format!("n{node}"));
    }
    let answers: Vec<String> =
        by_answer.into_iter().map(|(answer, nodes)| format!("{}: {answer}", nodes.join(", "))).collect();
    let asked = run
        .operations
        .iter()
        .find(|asked| nodes.values().any(|answer| answer.starts_with(&format!("{} →", brief(&asked.op)))));
    let (by, asked) = match asked {
        Some(asked) => {
            (format!(" It is #{}, which client {} asked for.", asked.index, asked.client), vec![asked.index])
        }
        None => (String::new(), vec![]),
    };
    let text = format!(
        "Replicas part at entry {term}.{index}, the first that they did not answer alike. {}.{by}",
        answers.join("; ")
    );
    vec![(text, asked, None)]
}

fn sentence(asked: &Asked, lanes: &[Lane]) -> String {
    let Asked { client, index, node, invoked, completed, op, answer, outcome, .. } = asked;
    let op = shorten(&brief(op), 80);
    let answer = match (*outcome, completed) {
        ("ok", Some(at)) => format!("answered at {}: {}", seconds(*at), shorten(&brief(answer), 200)),
        ("not applied", Some(at)) => format!("told “not applied” at {}", seconds(*at)),
        ("unknown", Some(at)) => format!("gave up at {}: it may take effect at any time, or never", seconds(*at)),
        _ => "never answered".to_owned(),
    };
    let at = completed.unwrap_or(*invoked);
    let who = role_sentence(*node, at, lanes) + &behind(*node, at, lanes);
    format!("#{index}: at {} client {client} asked n{node} to “{op}”; {answer}.{who}", seconds(*invoked))
}

/// Who the node took itself for, and who led in truth as far as others knew.
fn role_sentence(node: u32, at: u64, lanes: &[Lane]) -> String {
    let Some(own) = lanes.get(node as usize - 1).and_then(|lane| lane.progress_at(at)) else { return String::new() };
    let role = format!(" n{node} was then {} of term {}", own.role, own.term);
    let others = (1..).zip(lanes).filter(|(number, _)| *number != node);
    let leads = others.filter_map(|(number, lane)| {
        let progress = lane.progress_at(at).filter(|progress| progress.role == "leader")?;
        Some((progress.term, number, lane.since(at)?))
    });
    match leads.max() {
        Some((term, number, since)) if own.role == "leader" || term > own.term => {
            let newer = if term > own.term { ", a newer one" } else { "" };
            format!("{role}, while n{number} had been leader of term {term}{newer}, since {}.", seconds(since))
        }
        Some((term, number, _)) => format!("{role}; n{number} led term {term}."),
        None => format!("{role}."),
    }
}

/// Whether somebody had applied more than the node, then or before.
fn behind(node: u32, at: u64, lanes: &[Lane]) -> String {
    let own = lanes.get(node as usize - 1).and_then(|lane| lane.progress_at(at)).and_then(|now| now.indexes[1]);
    let most = |lane: &Lane| {
        let until = lane.progress.iter().take_while(|progress| progress.at <= at);
        until.filter_map(|progress| progress.indexes[1]).max()
    };
    let others = (1..).zip(lanes).filter(|(number, _)| *number != node);
    let most = others.filter_map(|(number, lane): (u32, _)| Some((most(lane)?, number))).max();
    match (own, most) {
        (Some(own), Some((most, other))) if own < most => {
            format!(" It had applied entry {own}, but n{other} had applied entry {most} before.")
        }
        _ => String::new(),
    }
}

/// An operation that was over before another began must not have seen more than that one.
fn contradiction(first: &Asked, second: &Asked) -> Option<String> {
    let ended = first.completed.filter(|ended| *ended < second.invoked && first.outcome == "ok")?;
    let (old, new) = (first.revision?, second.revision?);
    let gap = (second.invoked - ended) as f64 / 1e6;
    let (a, b) = (first.index, second.index);
    (new < old).then(|| {
        format!(
            "#{a} was over {gap:.3} ms before #{b} began, and had been answered at revision {old}. Yet #{b} was \
             answered at revision {new}: as if #{a} had not happened."
        )
    })
}

/// What every node was at a time.
fn nodes_at(at: u64, lanes: &[Lane]) -> Value {
    let rows = (1..).zip(lanes).map(|(number, lane): (u32, &Lane)| {
        let text = match (lane.state_at(at), lane.progress_at(at)) {
            (State::Up | State::Booting, Some(p)) => {
                let [commit, applied, ..] = p.indexes.map(|index| index.map_or("none".to_owned(), |i| i.to_string()));
                format!("{} of term {}, commit {commit}, applied {applied}", p.role, p.term)
            }
            (state, _) => state.name().to_owned(),
        };
        json!([format!("n{number}"), text])
    });
    json!({ "at": at, "rows": rows.collect::<Vec<_>>() })
}

/// What may follow a word of an explanation.
const PUNCTUATION: [char; 4] = [',', ')', ';', ':'];

/// The explanation with `node 0000000000000003 at 4123456789 ns` as `n3 at 4.123456789 s`, and those moments; with
/// names for Raft's ids, and seconds wherever there are nanoseconds.
fn readable(explanation: &str, names: &Names) -> (String, Vec<(u32, u64)>) {
    let words: Vec<&str> = explanation.split(' ').collect();
    let (mut text, mut moments): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let number = |ahead: usize| words.get(at + ahead)?.trim_end_matches(PUNCTUATION).parse::<u64>().ok();
        let is =
            |ahead: usize, what: &str| words.get(at + ahead).is_some_and(|word| word.trim_start_matches('(') == what);
        let is_ns = |ahead: usize| words.get(at + ahead).is_some_and(|word| word.trim_end_matches(PUNCTUATION) == "ns");
        let node = || u32::from_str_radix(words.get(at + 1)?, 16).ok();
        if is(0, "node")
            && is(2, "at")
            && is_ns(4)
            && let (Some(node), Some(time)) = (node(), number(3))
        {
            moments.push((node, time));
            text.push(word.replace("node", &format!("n{node}")));
            at += 2;
        } else if is_ns(1)
            && let Some(time) = number(0)
        {
            text.push(format!("{}.{:09}", time / 1_000_000_000, time % 1_000_000_000));
            text.push(words[at + 1].replace("ns", "s"));
            at += 2;
        } else {
            text.push(named(word, names));
            at += 1;
        }
    }
    (text.join(" "), moments)
}

/// A word that is Raft's id of a node, with the node's name.
fn named(word: &str, names: &Names) -> String {
    let id = word.trim_matches(['(', ')', ',', ';']);
    let name = u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16).and_then(|id| names.get(&id));
    name.map_or_else(|| word.to_owned(), |name| word.replace(id, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::lanes::Progress;

    fn asked(index: usize, node: u32, (invoked, completed): (u64, u64), revision: u64) -> Asked {
        let (op, answer) = ("get k".to_owned(), format!("v at revision {revision}"));
        let (completed, revision) = (Some(completed), Some(revision));
        Asked { client: 1, index, node, invoked, completed, op, outcome: "ok", answer, revision }
    }

    fn leads(at: u64, term: u64) -> Lane {
        let progress = Progress { at, role: "leader".to_owned(), term, ..Progress::default() };
        Lane { progress: vec![progress], ..Lane::default() }
    }

    #[test]
    fn a_stale_read_is_told_with_who_led() {
        let all = [asked(3, 2, (1_000_000, 2_000_000), 8), asked(4, 1, (5_000_000, 6_000_000), 7)];
        let violation = Violation::new("real-time order", "4 after 3".to_owned(), [3, 4]);
        let (lanes, applied) = ([leads(0, 1), leads(500_000, 2)], Applied::new());
        let verdict =
            verdict(&violation, 9, &Run { operations: &all, lanes: &lanes, applied: &applied, names: &Names::new() });
        let story: Vec<&str> =
            verdict["story"].as_array().unwrap().iter().map(|line| line[0].as_str().unwrap()).collect();
        assert!(story[1].contains("n1 was then leader of term 1, while n2 had been leader of term 2, a newer one"));
        assert!(story[2].starts_with("#3 was over 3.000 ms before #4 began"), "{story:?}");
        assert!(story[2].contains("revision 8. Yet #4 was answered at revision 7"), "{story:?}");
        assert_eq!(verdict["focus"], json!([0, 26_000_000]));
    }

    #[test]
    fn a_node_that_answers_behind_others_is_told_as_such() {
        let at = |applied| {
            let mut lane = leads(0, 1);
            lane.progress[0].indexes[1] = Some(applied);
            lane
        };
        assert_eq!(behind(1, 5, &[at(4), at(7)]), " It had applied entry 4, but n2 had applied entry 7 before.");
        assert_eq!(behind(2, 5, &[at(4), at(7)]), "");
    }

    #[test]
    fn the_first_entry_that_replicas_answer_differently_is_named() {
        let apply = |node, index, revision| Recorded {
            at: index,
            node,
            kind: "raft apply",
            subject: format!("get k → revision {revision}"),
            numbers: [3, index],
            payload: vec![],
        };
        let applied = applied(&[apply(1, 4, 8), apply(2, 4, 8), apply(1, 5, 9), apply(2, 5, 10), apply(2, 6, 1)]);
        let all = [asked(3, 2, (1_000_000, 2_000_000), 8)];
        let story = parting(&Run { operations: &all, lanes: &[], applied: &applied, names: &Names::new() });
        let text = "Replicas part at entry 3.5, the first that they did not answer alike. n2: get k → revision 10; n1: \
                    get k → revision 9. It is #3, which client 1 asked for.";
        assert_eq!(story, [(text.to_owned(), vec![3], None)]);
    }

    #[test]
    fn observations_are_put_into_the_words_of_the_page() {
        let text = "led by 00000000000000ff (node 0000000000000003 at 4123456789 ns) and at 5 ns by node none at all";
        let (text, moments) = readable(text, &Names::from([(255, "n1".to_owned())]));
        assert_eq!(text, "led by n1 (n3 at 4.123456789 s) and at 0.000000005 s by node none at all");
        assert_eq!(moments, [(3, 4_123_456_789)]);
    }
}

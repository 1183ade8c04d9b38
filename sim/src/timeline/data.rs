//! The data of the page.

use serde_json::{Value, json};

use super::lanes::{Lane, lanes, links, names, to_json};
use super::messages::{Message, assemble};
use super::story::{Asked, Run, applied, operations, verdict};
use super::{brief, shorten, wire};
use crate::atlas::DATA_DIR;
use crate::plan::Plan;
use crate::run::Report;
use crate::trace::Recorded;

/// Longer texts of operations and answers are shortened.
const TEXT_CHARS_MAX: usize = 400;

/// Everything the page shows.
pub(super) fn data(report: &Report, mut recorded: Vec<Recorded>) -> Value {
    recorded.sort_by_key(|event| event.at);
    let found = recorded.iter().find(|event| event.kind == "violation found").map(|event| event.at);
    let end = match report.stats.simulated_ns {
        // The run was cut short by a panic.
        0 => recorded.last().map_or(0, |event| event.at),
        end => end,
    };
    // After it, everything is only switched off.
    recorded.retain(|event| event.at < end);
    let names = names(&recorded);
    let lanes = lanes(&recorded, report.plan.machines(), end);
    let closed = links(&recorded, end);
    let is_closed = |from, to, sent, ended| {
        closed.iter().any(|span| (span.what.0, span.what.1) == (from, to) && span.from < ended && span.to > sent)
    };
    let messages = assemble(&recorded, &names, end, &is_closed);
    let operations = operations(&recorded, &report.history);
    let violation = report.violation.as_ref().map(|it| {
        let run = Run { operations: &operations, lanes: &lanes, applied: &applied(&recorded), names: &names };
        verdict(it, found.unwrap_or(end), &run)
    });
    let marks: Vec<Value> = recorded.iter().filter_map(mark).chain(log_marks(&lanes)).collect();
    let faults: Vec<Value> = recorded.iter().filter(|event| event.kind == "fault").map(fault).collect();
    let healed = recorded.iter().find(|event| event.kind == "fault heal").map(|event| event.at);
    json!({
        "title": title(report),
        "commands": commands(report),
        "plan": report.plan.to_string(),
        "figures": figures(report, recorded.len()),
        "notes": notes(),
        "end": end,
        "healed": healed,
        "violation": violation,
        "nodes": (1..).zip(&lanes).map(|(number, lane)| to_json(number, lane)).collect::<Vec<_>>(),
        "links": closed.iter().map(|span| {
            let (from, to, clogged) = span.what;
            json!([span.from, span.to, from, to, if clogged { "held back" } else { "blocked" }])
        }).collect::<Vec<_>>(),
        "messageKinds": wire::KINDS,
        "messages": messages.iter().map(message).collect::<Vec<_>>(),
        "operations": operations.iter().map(operation).collect::<Vec<_>>(),
        "marks": marks,
        "faults": faults,
    })
}

/// What the run is called on the command line, if anybody can run it again without writing a file first.
fn target(report: &Report) -> Option<String> {
    report.file.clone().or_else(|| (report.plan == Plan::draw(report.seed)).then(|| report.seed.to_string()))
}

fn title(report: &Report) -> String {
    let what = report.file.clone().unwrap_or_else(|| format!("seed {}", report.seed));
    match &report.violation {
        Some(violation) => format!("{what} violates: {}", violation.property),
        None => format!("{what}: clean"),
    }
}

fn commands(report: &Report) -> Value {
    let sim = |rest: String| format!("cargo run --release -p sim -- {rest}");
    let Some(target) = target(report) else {
        let save = "save the plan of this run, below, as failing.plan".to_owned();
        return json!([("first", save), ("run it again", sim("replay failing.plan".to_owned()))]);
    };
    let mut commands = vec![("run it again", sim(format!("replay {target}")))];
    if report.violation.is_some() {
        commands.push(("find fewer faults that violate the same", sim(format!("shrink {target} -o smaller.plan"))));
    }
    commands.push(("make this page again", sim(format!("timeline {target} -o timeline.html"))));
    json!(commands)
}

fn figures(report: &Report, events: usize) -> Value {
    let stats = &report.stats;
    json!([
        ["seed", report.seed.to_string()],
        ["trace hash", format!("{:016x}", report.hash)],
        ["simulated", super::seconds(stats.simulated_ns)],
        ["nodes", report.plan.nodes.to_string()],
        ["operations acknowledged", stats.acknowledged.to_string()],
        ["of unknown outcome", stats.unknown.to_string()],
        ["not applied", stats.not_applied.to_string()],
        ["restarts", stats.restarts.to_string()],
        ["events recorded", events.to_string()],
    ])
}

fn notes() -> Value {
    json!([
        format!(
            "Texts of operations and answers longer than {TEXT_CHARS_MAX} characters are shortened; they say by how much."
        ),
        "The bytes of disk writes and of values in messages are not in this page; their lengths are.",
        "Reads of a disk and what happens inside a process between two changes of its metrics are not recorded.",
    ])
}

fn message(message: &Message) -> Value {
    let Message { from, to, sent, ended, fate, bytes, said } = message;
    json!([sent, ended, from, to, said.kind as usize, fate.name(), bytes, brief(&said.text)])
}

fn operation(asked: &Asked) -> Value {
    let Asked { client, index, node, invoked, completed, op, outcome, answer, revision } = asked;
    let [op, answer] = [op, answer].map(|text| shorten(&brief(text), TEXT_CHARS_MAX));
    let completed = completed.map_or(json!(-1), |at| json!(at));
    json!([index, client, node, invoked, completed, op, outcome, answer, revision.map_or(json!(-1), |r| json!(r))])
}

/// Begin, end, what, and the nodes that it hit.
fn fault(event: &Recorded) -> Value {
    let for_ns = event.numbers[0] * 1_000_000;
    json!([event.at, event.at + for_ns, event.subject, String::from_utf8_lossy(&event.payload)])
}

/// The file of a disk event, as the node calls it.
fn file(subject: &str) -> &str {
    match subject.strip_prefix(DATA_DIR).unwrap_or(subject).trim_start_matches('/') {
        "" => "the data directory",
        file => file,
    }
}

/// `[at, node, group, kind, text, weight, since]`: weight 2 is a turning point, 1 is worth a look, 0 is everyday life.
/// `since` is when it began, for what takes time.
fn mark(event: &Recorded) -> Option<Value> {
    let [a, b] = event.numbers;
    let of = file(&event.subject);
    let payload = || String::from_utf8_lossy(&event.payload).into_owned();
    let mut since = event.at;
    let (group, kind, text, weight) = match event.kind {
        "process boot" => ("process", "boot", "process starts".to_owned(), 2),
        "process up" => ("process", "up", "node serves".to_owned(), 2),
        "process over" => ("process", "over", event.subject.clone(), 2),
        "process kill" => ("process", "kill", "process killed".to_owned(), 2),
        "process unpowered" => ("process", "power loss", "the power fails".to_owned(), 2),
        "process pause" => ("process", "pause", "process stands still".to_owned(), 2),
        "process resume" => ("process", "resume", "process goes on".to_owned(), 2),
        "disk sync" => {
            since = b;
            match a {
                1 => ("disk", "sync", format!("sync of {of}"), 0),
                _ => ("disk", "failed sync", format!("sync of {of} FAILED"), 2),
            }
        }
        "disk write" => ("disk", "write", format!("{b} B at {a} of {of}"), 0),
        "disk length" => ("disk", "write", format!("{of} is now {a} B long"), 0),
        "disk create" => ("disk", "create", format!("creates {of}"), 0),
        "disk remove" => ("disk", "remove", format!("removes {of}"), 0),
        "disk rename" => ("disk", "rename", format!("{of} becomes {}", payload()), 0),
        "disk cut" => ("disk", "crash point", format!("crash point: {of}"), 2),
        "disk failure" => ("disk", "failure", format!("an operation on {of} fails, by injection"), 2),
        "disk full" => ("disk", "full", format!("no space for {of}"), 1),
        "disk kill" if a > 0 => ("disk", "undone", format!("{a} operations under way are undone"), 1),
        "disk unsynced" => {
            let text = format!("of what was not synced in {of}, {a} sectors are lost and {b} kept");
            ("disk", "lost", text, if a > 0 { 2 } else { 1 })
        }
        "disk power loss" if event.numbers == [0, 0] => {
            ("disk", "lost", "nothing that was not synced is lost".to_owned(), 0)
        }
        "disk power loss" => {
            ("disk", "lost", format!("in all {a} unsynced sectors and {b} directory entries are lost"), 1)
        }
        "disk wipe" => ("disk", "wipe", "disk wiped".to_owned(), 2),
        "disk stall" => ("disk", "stall", format!("disk stands still for {} ms", a / 1_000_000), 2),
        "disk damage" => ("disk", "damage", format!("{} in {of}: {b} B from {a}", payload()), 2),
        "disk lost" => ("disk", "damage", format!("a block of {of} at {a} was not written where it belongs"), 2),
        "disk evict" => ("disk", "evict", "cache dropped".to_owned(), 0),
        "net connect" => ("net", "connect", format!("connection from n{a}"), 0),
        "net reset" => ("net", "reset", format!("connection {a} is reset"), 1),
        "net bounce" => ("net", "reset", format!("connection {a}: its other end is gone"), 1),
        "net forget" => ("net", "forgotten", format!("{b} connections with n{a} are forgotten on the way"), 1),
        "net detain" => ("net", "held", format!("{b} connections to n{a} carry nothing any more"), 1),
        "net strand" => ("net", "stranded", format!("connection {a} breaks here; its bytes are still under way"), 1),
        "net late" => ("net", "late", format!("{b} B of connection {a} go on after all"), 1),
        "net refuse" => {
            ("net", "connects", format!("connecting to n{a} {}", if b == 1 { "hangs" } else { "works again" }), 1)
        }
        "net link" => {
            ("net", "link", format!("link to n{a} {}", ["opens", "is blocked", "is held back"][b.min(2) as usize]), 1)
        }
        "raft apply" => ("raft", "apply", format!("applies entry {a}.{b}: {}", event.subject), 0),
        "fault heal" => ("fault", "heal", "everything heals".to_owned(), 2),
        "atlas" => ("fault", "damage", format!("damage {}", event.subject), 1),
        _ => return None,
    };
    Some(json!([event.at, event.node, group, kind, shorten(&brief(&text), TEXT_CHARS_MAX), weight, since]))
}

/// What changed in a node's view of the log and of leadership.
fn log_marks(lanes: &[Lane]) -> impl Iterator<Item = Value> {
    (1..).zip(lanes).flat_map(|(number, lane): (u32, &Lane)| {
        let pairs = lane.progress.windows(2).flat_map(move |pair| {
            let (before, now) = (&pair[0], &pair[1]);
            let row =
                |kind: &str, text: String, weight: u32| json!([now.at, number, "raft", kind, text, weight, now.at]);
            let mut rows = Vec::new();
            if now.role.is_empty() {
                return rows;
            }
            if (&before.role, before.term) != (&now.role, now.term) {
                let weight = if now.role == "leader" || before.role == "leader" { 2 } else { 1 };
                rows.push(row("role", format!("{} of term {}", now.role, now.term), weight));
            }
            let [.., last, snapshot, purged] = now.indexes;
            let [.., last_before, snapshot_before, purged_before] = before.indexes;
            if !before.role.is_empty() && last < last_before {
                rows.push(row(
                    "log cut back",
                    format!("log ends at {last:?}, no more at {last_before:?}").replace("Some(", "").replace(')', ""),
                    2,
                ));
            }
            if snapshot > snapshot_before {
                rows.push(row("snapshot", format!("snapshot up to entry {}", snapshot.unwrap_or(0)), 1));
            }
            if purged > purged_before {
                rows.push(row("purge", format!("log is purged up to entry {}", purged.unwrap_or(0)), 1));
            }
            rows
        });
        pairs.collect::<Vec<_>>()
    })
}

//! The key-value store, through production's REST router.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, response};
use http_body_util::{BodyExt, Collected};
use quorate_core::StateMachine;
use quorate_core::kv::{self, Limits};
use quorate_io::Node;
use serde_json::Value;
use tower::ServiceExt;

use super::{Answer, Committed, Fate, Judgement, Serials, Subject};
use crate::check::history::{Consistency, Item, Op, Operation, Outcome, Violation};
use crate::check::linearizability::{self, Verdict};
use crate::check::log_order::{self, Entry, NO_PHANTOM, kv_model};
use crate::check::revision_order::{self, Evidence, LogWrite};
use crate::plan::Workload;
use crate::platform::SimPlatform;
use crate::rng::SplitMix;

/// Steps that the search for a linearization may take for each key.
const SEARCH_STEPS: u64 = 200_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kv;

impl Subject for Kv {
    type Service = Router;
    type Op = Op;
    type Outcome = Outcome;

    const NOT_APPLIED: Outcome = Outcome::NotApplied;

    fn machine(&self) -> Arc<dyn StateMachine> {
        Arc::new(kv::Kv)
    }

    fn serve(&self, node: &Node<SimPlatform>) -> Router {
        quorate::app(node.clone(), Limits::default())
    }

    fn draw(&self, workload: &Workload, rng: &mut SplitMix, serials: &mut Serials) -> Op {
        let key = format!("k{}", rng.below(u64::from(workload.keys)));
        if rng.chance(workload.read_per_mille) {
            let stale = rng.chance(workload.stale_per_mille);
            let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
            return if rng.chance(100) {
                Op::List { prefix: "k".to_owned(), consistency }
            } else {
                Op::Get { key, consistency }
            };
        }
        if rng.chance(workload.delete_per_mille) {
            return Op::Delete { key };
        }
        Op::Put { key, value: value(serials, workload.padding_bytes) }
    }

    fn again(&self, op: Op, workload: &Workload, serials: &mut Serials) -> Op {
        match op {
            Op::Put { key, .. } => Op::Put { key, value: value(serials, workload.padding_bytes) },
            other => other,
        }
    }

    fn probe_write(&self, _rng: &mut SplitMix, serials: &mut Serials) -> Op {
        Op::Put { key: "alive".to_owned(), value: value(serials, 0) }
    }

    fn probe_read(&self, _rng: &mut SplitMix, _serials: &mut Serials) -> Option<Op> {
        Some(Op::List { prefix: String::new(), consistency: Consistency::Linearizable })
    }

    fn is_write(op: &Op) -> bool {
        op.is_write()
    }

    fn fate(outcome: &Outcome) -> Fate {
        match outcome {
            Outcome::NotApplied => Fate::NotApplied,
            Outcome::Unknown => Fate::Unknown,
            _ => Fate::Done,
        }
    }

    async fn ask(app: Router, op: Op) -> Answer<Outcome> {
        ask(app, op).await
    }

    fn judge(&self, history: &[Operation], log: &[Committed]) -> Judgement {
        let decoded: Vec<Decoded> = match log.iter().map(decode).collect() {
            Ok(decoded) => decoded,
            Err(violation) => return Judgement { violation: Some(violation), inconclusive: 0 },
        };
        let writes: Vec<LogWrite> = decoded.iter().filter_map(effective).collect();
        let evidence = Evidence { log: Some(&writes), base_revision: 0 };
        let mut violation = revision_order::check(history, evidence).err();
        violation = violation.or_else(|| follows(&decoded).err());
        let mut inconclusive = 0;
        match linearizability::check(history, SEARCH_STEPS) {
            Verdict::Linearizable => {}
            Verdict::Violation(found) => violation = violation.or(Some(found)),
            Verdict::Inconclusive { keys } => inconclusive = keys.len() as u64,
        }
        Judgement { violation, inconclusive }
    }
}

/// A value that no other put has.
fn value(serials: &mut Serials, padding_bytes: usize) -> String {
    let serial = serials.take();
    format!("\"c{}-{serial}{}\"", serials.client, "x".repeat(padding_bytes))
}

/// A command of the log, and the value that it puts.
type Decoded = (Entry<kv_model::Command, kv_model::Response>, Option<String>);

/// # Errors
/// No client of the store could have sent that.
fn decode(committed: &Committed) -> Result<Decoded, Violation> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (index, term) = (committed.at.index, committed.at.term);
    let phantom = |what: &str| {
        Violation::new(NO_PHANTOM, format!("what was applied at {term}.{index} has a {what} of nobody"), [])
    };
    let response = kv::Response::decode(&committed.response).map_err(|_| phantom("response"))?;
    let revision = response.revision;
    let response = match response.outcome {
        kv::Outcome::Put { create_revision, version } => kv_model::Response::Put { revision, create_revision, version },
        kv::Outcome::Delete { deleted } => kv_model::Response::Delete { revision, deleted },
        kv::Outcome::Invalid { reason } => kv_model::Response::Other(reason),
    };
    let command = kv::Command::decode(&committed.command).map_err(|_| phantom("command"))?;
    let (command, value) = match command {
        kv::Command::Put { key, document } => (kv_model::Command::Put(text(&key)), Some(text(&document.bytes()))),
        kv::Command::Delete { key } => (kv_model::Command::Delete(text(&key)), None),
    };
    Ok((Entry { index, term, serial: index, command, response }, value))
}

/// What a command did to the store, as it answered, if it did something.
fn effective((entry, value): &Decoded) -> Option<LogWrite> {
    match (&entry.command, &entry.response) {
        (kv_model::Command::Put(key), kv_model::Response::Put { revision, .. }) => {
            Some(LogWrite { revision: *revision, key: key.clone(), value: value.clone() })
        }
        (kv_model::Command::Delete(key), kv_model::Response::Delete { revision, deleted: true }) => {
            Some(LogWrite { revision: *revision, key: key.clone(), value: None })
        }
        _ => None,
    }
}

/// Every response follows from the log before it.
fn follows(log: &[Decoded]) -> Result<(), Violation> {
    let log: Vec<_> = log.iter().map(|(entry, _)| entry.clone()).collect();
    log_order::replay(&kv_model::KvModel, &log, &[])
}

async fn ask(app: Router, op: Op) -> Answer<Outcome> {
    let (method, uri, body) = match &op {
        Op::Put { key, value } => ("PUT", format!("/kv/{key}"), value.clone()),
        Op::Delete { key } => ("DELETE", format!("/kv/{key}"), String::new()),
        Op::Get { key, consistency } => ("GET", format!("/kv/{key}?consistency={}", word(*consistency)), String::new()),
        Op::List { prefix, consistency } => {
            ("GET", format!("/kv?prefix={prefix}&limit=1000&consistency={}", word(*consistency)), String::new())
        }
    };
    let request = Request::builder().method(method).uri(uri).body(Body::from(body)).expect("a well-formed request");
    let response = app.oneshot(request).await.expect("the router does not fail");
    if op.is_write() && response.status() == StatusCode::INSUFFICIENT_STORAGE {
        // Whatever the body says: a full disk is refused before consensus hears of the command.
        return Answer { outcome: Outcome::NotApplied, disk_full: true };
    }
    let (head, body) = response.into_parts();
    // Part of an answer is none.
    let Ok(body) = body.collect().await.map(Collected::to_bytes) else {
        return Answer { outcome: lost(&op), disk_full: false };
    };
    let outcome = learn(&op, &head, &body)
        .unwrap_or_else(|| panic!("{op} was answered {} with what makes no sense: {body:?}", head.status));
    Answer { outcome, disk_full: false }
}

fn word(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Stale => "stale",
    }
}

/// Of an operation that got no answer.
fn lost(op: &Op) -> Outcome {
    if op.is_write() { Outcome::Unknown } else { Outcome::NotApplied }
}

/// What a response says; `None` if it is none that the server gives.
fn learn(op: &Op, head: &response::Parts, body: &[u8]) -> Option<Outcome> {
    let header = |name: &str| head.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let found = head.status == StatusCode::OK;
    let absent = head.status == StatusCode::NOT_FOUND && matches!(op, Op::Get { .. });
    if !(found || absent) {
        let problem: Value = serde_json::from_slice(body).ok()?;
        return match problem.get("outcome").map(Value::as_str) {
            None => (!op.is_write()).then(|| lost(op)),
            Some(Some("not-applied")) => Some(Outcome::NotApplied),
            Some(Some("unknown")) => Some(Outcome::Unknown),
            Some(_) => None,
        };
    }
    match op {
        Op::Get { key, .. } => {
            let item = found.then(|| {
                Some(Item {
                    key: key.clone(),
                    value: String::from_utf8_lossy(body).into_owned(),
                    mod_revision: header("quorate-mod-revision")?,
                    create_revision: header("quorate-create-revision"),
                    version: header("quorate-version"),
                })
            });
            let item = match item {
                Some(item) => Some(item?),
                None => None,
            };
            Some(Outcome::Get { revision: header("quorate-revision")?, item })
        }
        Op::List { .. } => {
            let page: Value = serde_json::from_slice(body).ok()?;
            let items = page.get("items")?.as_array()?.iter().map(|item| {
                Some(Item {
                    key: item.get("key")?.as_str()?.to_owned(),
                    value: item.get("value")?.to_string(),
                    mod_revision: item.get("mod_revision")?.as_u64()?,
                    create_revision: item.get("create_revision")?.as_u64(),
                    version: item.get("version")?.as_u64(),
                })
            });
            Some(Outcome::List { revision: page.get("revision")?.as_u64()?, items: items.collect::<Option<_>>()? })
        }
        Op::Put { .. } => {
            let done: Value = serde_json::from_slice(body).ok()?;
            Some(Outcome::Put {
                revision: done.get("revision")?.as_u64()?,
                create_revision: done.get("create_revision")?.as_u64(),
                version: done.get("version")?.as_u64(),
            })
        }
        Op::Delete { .. } => {
            let done: Value = serde_json::from_slice(body).ok()?;
            Some(Outcome::Delete {
                revision: done.get("revision")?.as_u64()?,
                deleted: done.get("deleted")?.as_bool()?,
            })
        }
    }
}

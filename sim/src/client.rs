//! Clients: sequential processes that talk to production's router and remember what they learnt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures_channel::oneshot;
use http_body_util::BodyExt;
use openraft_rt::AsyncRuntime;
use serde_json::Value;
use tower::ServiceExt;

use crate::Trace;
use crate::check::history::{Consistency, Item, Op, Operation, Outcome, Recorder};
use crate::cluster::Live;
use crate::plan::Workload;
use crate::platform::{Machine, SimRuntime, global_now};
use crate::rng::SplitMix;
use crate::trace::Event;
use crate::witness::Working;

/// A client gives up on an answer after this long; what it asked for may still happen.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all clients of a run share.
#[derive(Clone)]
pub struct Journal {
    recorder: Arc<Mutex<Recorder>>,
    forwarded: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    working: Working,
    trace: Trace,
}

impl Journal {
    /// An empty one.
    pub fn new(trace: Trace, working: Working) -> Self {
        Self { recorder: Arc::default(), forwarded: Arc::default(), refused: Arc::default(), working, trace }
    }

    fn invoke(&self, client: u64, op: Op) -> usize {
        self.working.fetch_add(1, Ordering::Relaxed);
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).invoke(client, global_now(), op)
    }

    fn complete(&self, client: u64, index: usize, outcome: Outcome) {
        self.working.fetch_sub(1, Ordering::Relaxed);
        let text = format!("{outcome:?}");
        let (at, numbers) = (global_now(), [client, index as u64]);
        self.trace.event(Event { at, node: 0, kind: "client", subject: "", numbers, payload: text.as_bytes() });
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).complete(index, global_now(), outcome);
    }

    /// Acknowledged writes that were sent to a node that did not lead.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Writes that were not taken because a disk was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Everything that was recorded.
    pub fn finish(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.recorder.lock().unwrap_or_else(PoisonError::into_inner)).finish()
    }
}

/// One client.
pub struct Client {
    /// Its number.
    pub number: u64,
    /// Where it records.
    pub journal: Journal,
    rng: SplitMix,
    serial: u64,
}

impl Client {
    /// A client of a run.
    pub fn new(seed: u64, number: u64, journal: Journal) -> Self {
        Self { number, journal, rng: SplitMix::labelled(seed, &format!("client {number}")), serial: 0 }
    }

    /// Draws the next pause within a burst.
    pub fn pause(&mut self, workload: &Workload) -> Duration {
        Duration::from_micros(self.rng.skewed(1, workload.pause_ms_max * 1000))
    }

    /// Draws a node.
    pub fn node(&mut self, nodes: usize) -> usize {
        self.rng.below(nodes as u64) as usize
    }

    /// Draws the next operation.
    pub fn draw(&mut self, workload: &Workload) -> Op {
        let key = format!("k{}", self.rng.below(u64::from(workload.keys)));
        if self.rng.chance(workload.read_per_mille) {
            let stale = self.rng.chance(workload.stale_per_mille);
            let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
            return if self.rng.chance(100) {
                Op::List { prefix: "k".to_owned(), consistency }
            } else {
                Op::Get { key, consistency }
            };
        }
        if self.rng.chance(workload.delete_per_mille) {
            return Op::Delete { key };
        }
        Op::Put { key, value: self.value(workload.padding_bytes) }
    }

    /// A value that no other put has.
    pub fn value(&mut self, padding_bytes: usize) -> String {
        self.serial += 1;
        format!("\"c{}-{}{}\"", self.number, self.serial, "x".repeat(padding_bytes))
    }

    /// Performs an operation on a node and records it. The request runs in the node's process; the way there and back
    /// takes time, and a process that dies takes the answer with it.
    pub async fn perform(&mut self, machine: &Machine, live: &Live, op: Op) -> Outcome {
        let index = self.journal.invoke(self.number, op.clone());
        SimRuntime::sleep(Duration::from_micros(self.rng.skewed(50, 2_000))).await;
        let (sender, receiver) = oneshot::channel();
        let (app, request) = (live.app.clone(), op.clone());
        let forwarded = op.is_write() && !live.node.leadership().current().is_local;
        let refused = self.journal.refused.clone();
        let task = machine.spawn(async move {
            // Nobody may be waiting any more.
            let _ = sender.send(ask(app, request, &refused).await);
        });
        let outcome = match task {
            // Nobody listens there: the connection is refused.
            None => Outcome::NotApplied,
            Some(_) => match SimRuntime::timeout(PATIENCE, receiver).await {
                Ok(Ok(outcome)) => outcome,
                _ if op.is_write() => Outcome::Unknown,
                _ => Outcome::NotApplied,
            },
        };
        SimRuntime::sleep(Duration::from_micros(self.rng.skewed(50, 2_000))).await;
        if forwarded && matches!(outcome, Outcome::Put { .. } | Outcome::Delete { .. }) {
            self.journal.forwarded.fetch_add(1, Ordering::Relaxed);
        }
        self.journal.complete(self.number, index, outcome.clone());
        outcome
    }
}

async fn ask(app: Router, op: Op, refused: &AtomicU64) -> Outcome {
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
        refused.fetch_add(1, Ordering::Relaxed);
        // Whatever the body says: a full disk is refused before consensus hears of the command.
        return Outcome::NotApplied;
    }
    learn(&op, response).await.unwrap_or(if op.is_write() { Outcome::Unknown } else { Outcome::NotApplied })
}

fn word(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Stale => "stale",
    }
}

/// What a response says; `None` if it does not say.
async fn learn(op: &Op, response: Response<Body>) -> Option<Outcome> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let header = |name: &str| head.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let found = head.status == StatusCode::OK;
    let absent = head.status == StatusCode::NOT_FOUND && matches!(op, Op::Get { .. });
    if !(found || absent) {
        let problem: Value = serde_json::from_slice(&body).ok()?;
        return (problem.get("outcome")? == "not-applied").then_some(Outcome::NotApplied);
    }
    match op {
        Op::Get { key, .. } => {
            let item = found.then(|| {
                Some(Item {
                    key: key.clone(),
                    value: String::from_utf8_lossy(&body).into_owned(),
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
            let page: Value = serde_json::from_slice(&body).ok()?;
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
            let done: Value = serde_json::from_slice(&body).ok()?;
            Some(Outcome::Put {
                revision: done.get("revision")?.as_u64()?,
                create_revision: done.get("create_revision")?.as_u64(),
                version: done.get("version")?.as_u64(),
            })
        }
        Op::Delete { .. } => {
            let done: Value = serde_json::from_slice(&body).ok()?;
            Some(Outcome::Delete {
                revision: done.get("revision")?.as_u64()?,
                deleted: done.get("deleted")?.as_bool()?,
            })
        }
    }
}

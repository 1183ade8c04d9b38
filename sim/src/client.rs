//! Clients: sequential processes that ask nodes and remember what they learnt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use openraft_rt::AsyncRuntime;

use crate::Trace;
use crate::check::history::{Operation, Recorder};
use crate::cluster::{Door, Live};
use crate::plan::Workload;
use crate::platform::{SimRuntime, global_now};
use crate::rng::SplitMix;
use crate::subject::{Fate, Serials, Subject};
use crate::trace::Event;
use crate::witness::Working;

/// A client gives up on an answer after this long; what it asked for may still happen.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client that is to crash does so within this time after it has asked.
const CRASH_WITHIN: Duration = Duration::from_millis(30);
/// By so much the number of the client that goes on is higher than that of the one that crashed.
const NEXT_NUMBER: u64 = 1_000;

/// What clients of a subject did and saw.
pub type History<S> = Vec<Operation<<S as Subject>::Op, <S as Subject>::Outcome>>;

/// What all clients of a run share.
pub struct Journal<S: Subject>(Arc<Shared<S>>);

/// For each node the interface to a process of it, and which process that was: making one takes longer than a request.
type Services<S> = Vec<Option<(u64, <S as Subject>::Service)>>;

struct Shared<S: Subject> {
    recorder: Mutex<Recorder<S::Op, S::Outcome>>,
    forwarded: AtomicU64,
    refused: AtomicU64,
    crashed: AtomicU64,
    retried: AtomicU64,
    services: Mutex<Services<S>>,
    working: Working,
    trace: Trace,
}

impl<S: Subject> Clone for Journal<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Subject> Journal<S> {
    /// An empty one.
    pub fn new(trace: Trace, working: Working) -> Self {
        let (forwarded, refused, crashed, retried) = Default::default();
        let (recorder, services) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { recorder, forwarded, refused, crashed, retried, services, working, trace }))
    }

    /// `node` is who is asked.
    fn invoke(&self, client: u64, node: u32, op: S::Op) -> usize {
        self.0.working.fetch_add(1, Ordering::Relaxed);
        let text = op.to_string();
        let index = self.0.recorder.lock().unwrap_or_else(PoisonError::into_inner).invoke(client, global_now(), op);
        self.event(node, "client invoke", [client, index as u64], &text);
        index
    }

    fn event(&self, node: u32, kind: &'static str, numbers: [u64; 2], text: &str) {
        self.0.trace.event(Event { at: global_now(), node, kind, subject: text, numbers, payload: &[] });
    }

    fn complete(&self, client: u64, index: usize, outcome: S::Outcome) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
        let kind = match S::fate(&outcome) {
            Fate::NotApplied => "client not-applied",
            Fate::Unknown => "client unknown",
            Fate::Done => "client ok",
        };
        self.event(0, kind, [client, index as u64], &outcome.to_string());
        self.0.recorder.lock().unwrap_or_else(PoisonError::into_inner).complete(index, global_now(), outcome);
    }

    /// Acknowledged writes that were sent to a node that did not lead.
    pub fn forwarded(&self) -> u64 {
        self.0.forwarded.load(Ordering::Relaxed)
    }

    /// Writes that were not taken because a disk was full.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Operations that a client began and crashed before it learnt what came of them.
    pub fn crashed(&self) -> u64 {
        self.0.crashed.load(Ordering::Relaxed)
    }

    /// Writes of unknown outcome that were tried once more.
    pub fn retried(&self) -> u64 {
        self.0.retried.load(Ordering::Relaxed)
    }

    fn services(&self) -> MutexGuard<'_, Services<S>> {
        self.0.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was recorded.
    pub fn finish(&self) -> History<S> {
        std::mem::take(&mut *self.0.recorder.lock().unwrap_or_else(PoisonError::into_inner)).finish()
    }
}

/// One client.
pub struct Client<S: Subject> {
    subject: S,
    journal: Journal<S>,
    rng: SplitMix,
    serials: Serials,
    /// When it crashes and whether it tries again, in a stream of its own.
    habits: SplitMix,
    crash_per_mille: u32,
}

impl<S: Subject> Client<S> {
    /// A client of a run, with a number of its own.
    pub fn new(subject: S, seed: u64, number: u64, journal: Journal<S>) -> Self {
        let stream = |label| SplitMix::labelled(seed, &format!("{label} {number}"));
        let (rng, habits) = (stream("client"), stream("habits of client"));
        let serials = Serials::new(number);
        Self { subject, journal, rng, serials, habits, crash_per_mille: 0 }
    }

    /// From now on it crashes in so many of 1000 operations, and goes on under another number.
    pub fn crashes(&mut self, per_mille: u32) {
        self.crash_per_mille = per_mille;
    }

    /// The operation to try instead of one with this outcome, if any: a new one, since the other may still happen.
    pub fn again(&mut self, op: S::Op, outcome: &S::Outcome, workload: &Workload) -> Option<S::Op> {
        if S::fate(outcome) != Fate::Unknown || !self.habits.chance(workload.retry_per_mille) {
            return None;
        }
        self.journal.0.retried.fetch_add(1, Ordering::Relaxed);
        Some(self.subject.again(op, workload, &mut self.serials))
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
    pub fn draw(&mut self, workload: &Workload) -> S::Op {
        self.subject.draw(workload, &mut self.rng, &mut self.serials)
    }

    /// See [`Subject::probe_write`].
    pub fn probe_write(&mut self) -> S::Op {
        self.subject.probe_write(&mut self.rng, &mut self.serials)
    }

    /// See [`Subject::probe_read`].
    pub fn probe_read(&mut self) -> Option<S::Op> {
        self.subject.probe_read(&mut self.rng, &mut self.serials)
    }

    /// The interface to the process that runs.
    fn service(&self, node: u32, live: &Live) -> S::Service {
        let at = node as usize;
        let mut services = self.journal.services();
        if services.len() <= at {
            services.resize_with(at + 1, || None);
        }
        let known = services[at].take().filter(|(incarnation, _)| *incarnation == live.incarnation);
        let (incarnation, service) = known.unwrap_or_else(|| (live.incarnation, self.subject.serve(&live.node)));
        services[at] = Some((incarnation, service.clone()));
        service
    }

    /// Lets go of all processes, so that what they hold is freed.
    pub fn hang_up(&self) {
        self.journal.services().clear();
    }

    /// Performs an operation on a node and records it. The request runs in the node's process; the way there and back
    /// takes time, and a process that dies takes the answer with it.
    pub async fn perform(&mut self, (machine, _): &Door, live: &Live, op: S::Op) -> S::Outcome {
        let client = self.serials.client;
        let index = self.journal.invoke(client, machine.node(), op.clone());
        SimRuntime::sleep(Duration::from_micros(self.rng.skewed(50, 2_000))).await;
        let (sender, receiver) = oneshot::channel();
        let service = self.service(machine.node(), live);
        let is_write = S::is_write(&op);
        let forwarded = is_write && !live.node.leadership().current().is_local;
        let task = machine.spawn(async move {
            // Nobody may be waiting any more.
            let _ = sender.send(S::ask(service, op).await);
        });
        let crashes = self.habits.chance(self.crash_per_mille);
        let patience = match crashes {
            true => Duration::from_micros(self.habits.skewed(1, CRASH_WITHIN.as_micros() as u64)),
            false => PATIENCE,
        };
        let outcome = match task {
            // Nobody listens there: the connection is refused.
            None => S::NOT_APPLIED,
            Some(_) => match SimRuntime::timeout(patience, receiver).await {
                Ok(Ok(answer)) => {
                    self.journal.0.refused.fetch_add(u64::from(answer.disk_full), Ordering::Relaxed);
                    answer.outcome
                }
                _ if is_write => S::Outcome::default(),
                _ => S::NOT_APPLIED,
            },
        };
        SimRuntime::sleep(Duration::from_micros(self.rng.skewed(50, 2_000))).await;
        if forwarded && S::fate(&outcome) == Fate::Done {
            self.journal.0.forwarded.fetch_add(1, Ordering::Relaxed);
        }
        self.journal.complete(client, index, outcome.clone());
        if crashes && S::fate(&outcome) == Fate::Unknown {
            self.journal.0.crashed.fetch_add(1, Ordering::Relaxed);
            self.serials.client += NEXT_NUMBER;
        }
        outcome
    }
}

//! A trial as what is under test: its machine through the node's own interface.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_core::{LogId, StateMachine, StateMut};
use quorate_io::{Node, Reason, WriteError};

use super::{Ask, Trial};
use crate::check::history::{Consistency, Operation, Violation};
use crate::check::log_order::{self, Entry, Learnt, Model, NO_PHANTOM, Request};
use crate::plan::Workload;
use crate::platform::SimPlatform;
use crate::rng::SplitMix;
use crate::subject::{Answer, Committed, Fate, Judgement, Serials, Subject};

/// In front of every command: its serial.
const SERIAL_BYTES: usize = 8;

/// A workload that draws no write in so many attempts has none.
const DRAWS: usize = 10_000;

/// A [`Trial`] as a [`Subject`].
pub struct Tried<T>(Arc<T>);

impl<T> Tried<T> {
    /// For [`crate::run::run_subject`].
    pub fn new(trial: T) -> Self {
        Self(Arc::new(trial))
    }
}

impl<T> Clone for Tried<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Tried<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tried")
    }
}

/// The user's machine, without the serial that is in front of its commands here.
struct Enveloped<M>(M);

impl<M: StateMachine> StateMachine for Enveloped<M> {
    fn apply(&self, at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        self.0.apply(at, &command.slice(SERIAL_BYTES.min(command.len())..), state)
    }
}

/// A node, and who answers queries from its state.
pub struct Service<T> {
    node: Node<SimPlatform>,
    trial: Arc<T>,
}

impl<T> Clone for Service<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), trial: self.trial.clone() }
    }
}

impl<T: Trial> Subject for Tried<T> {
    type Service = Service<T>;
    type Op = Request<Bytes, T::Query>;
    type Outcome = Learnt<Bytes, T::Answer>;

    const NOT_APPLIED: Self::Outcome = Learnt::NotApplied;

    fn machine(&self) -> Arc<dyn StateMachine> {
        Arc::new(Enveloped(self.0.machine()))
    }

    fn serve(&self, node: &Node<SimPlatform>) -> Service<T> {
        Service { node: node.clone(), trial: self.0.clone() }
    }

    fn draw(&self, workload: &Workload, rng: &mut SplitMix, serials: &mut Serials) -> Self::Op {
        let ask = self.0.draw(rng);
        let stale = matches!(ask, Ask::Read(_)) && rng.chance(workload.stale_per_mille);
        request(ask, if stale { Consistency::Stale } else { Consistency::Linearizable }, serials)
    }

    fn again(&self, op: Self::Op, _workload: &Workload, serials: &mut Serials) -> Self::Op {
        match op {
            Request::Write { command, .. } => Request::Write { serial: serial(serials), command },
            read => read,
        }
    }

    fn probe_write(&self, rng: &mut SplitMix, serials: &mut Serials) -> Self::Op {
        let mut draws = (0..DRAWS).map(|_| self.0.draw(rng));
        let write = draws.find(|ask| matches!(ask, Ask::Write(_)));
        request(write.expect("the workload draws a write now and then"), Consistency::Linearizable, serials)
    }

    fn probe_read(&self, rng: &mut SplitMix, serials: &mut Serials) -> Option<Self::Op> {
        let mut draws = (0..DRAWS).map(|_| self.0.draw(rng));
        let read = draws.find(|ask| matches!(ask, Ask::Read(_)))?;
        Some(request(read, Consistency::Linearizable, serials))
    }

    fn is_write(op: &Self::Op) -> bool {
        matches!(op, Request::Write { .. })
    }

    fn fate(outcome: &Self::Outcome) -> Fate {
        match outcome {
            Learnt::NotApplied => Fate::NotApplied,
            Learnt::Unknown => Fate::Unknown,
            Learnt::Written { .. } | Learnt::Read { .. } => Fate::Done,
        }
    }

    async fn ask(service: Service<T>, op: Self::Op) -> Answer<Self::Outcome> {
        let Service { node, trial } = service;
        match op {
            Request::Write { serial, command } => write(&node, serial, &command).await,
            Request::Read { query, consistency } => {
                let outcome = read(&node, &*trial, &query, consistency).await;
                Answer { outcome: outcome.unwrap_or(Learnt::NotApplied), disk_full: false }
            }
        }
    }

    fn judge(&self, history: &[Operation<Self::Op, Self::Outcome>], log: &[Committed]) -> Judgement {
        let entries: Result<Vec<_>, Violation> = log.iter().map(decode).collect();
        let checked = entries.and_then(|entries| log_order::check(&Specified(&*self.0), &entries, history));
        Judgement { violation: checked.err(), inconclusive: 0 }
    }
}

/// Of no other operation.
fn serial(serials: &mut Serials) -> u64 {
    serials.client << 32 | serials.take()
}

fn request<Q>(ask: Ask<Q>, consistency: Consistency, serials: &mut Serials) -> Request<Bytes, Q> {
    match ask {
        Ask::Write(command) => Request::Write { serial: serial(serials), command },
        Ask::Read(query) => Request::Read { query, consistency },
    }
}

async fn write<A>(node: &Node<SimPlatform>, serial: u64, command: &Bytes) -> Answer<Learnt<Bytes, A>> {
    let mut enveloped = BytesMut::with_capacity(SERIAL_BYTES + command.len());
    enveloped.put_u64_le(serial);
    enveloped.put_slice(command);
    let (outcome, disk_full) = match node.write(enveloped.freeze()).await {
        Ok(written) => {
            let (index, term) = (written.log_id.index, written.log_id.term);
            (Learnt::Written { index, term, response: written.response }, false)
        }
        Err(WriteError::NotApplied(reason)) => (Learnt::NotApplied, reason == Reason::DiskFull),
        Err(WriteError::Unknown(_)) => (Learnt::Unknown, false),
    };
    Answer { outcome, disk_full }
}

async fn read<T: Trial>(
    node: &Node<SimPlatform>,
    trial: &T,
    query: &T::Query,
    consistency: Consistency,
) -> Option<Learnt<Bytes, T::Answer>> {
    let consistency = match consistency {
        Consistency::Linearizable => quorate_io::Consistency::Linearizable,
        Consistency::Stale => quorate_io::Consistency::Stale,
    };
    let view = node.read(consistency).await.ok()?;
    let answer = trial.query(&view, query);
    view.check().ok()?;
    Some(Learnt::Read { applied: view.applied().map(|applied| applied.index), answer })
}

fn decode(committed: &Committed) -> Result<Entry<Bytes, Bytes>, Violation> {
    let (index, term) = (committed.at.index, committed.at.term);
    let Some((serial, _)) = committed.command.split_first_chunk::<SERIAL_BYTES>() else {
        let explanation = format!("{:?} was applied at {term}.{index}, and no client issues such", committed.command);
        return Err(Violation::new(NO_PHANTOM, explanation, []));
    };
    let (serial, command) = (u64::from_le_bytes(*serial), committed.command.slice(SERIAL_BYTES..));
    Ok(Entry { index, term, serial, command, response: committed.response.clone() })
}

/// What a trial says is right.
struct Specified<'a, T>(&'a T);

impl<T: Trial> Model for Specified<'_, T> {
    type Command = Bytes;
    type Response = Bytes;
    type Query = T::Query;
    type Answer = T::Answer;
    type State = T::State;

    fn initial(&self) -> T::State {
        T::State::default()
    }

    fn write(&self, state: &mut T::State, command: &Bytes) -> Bytes {
        self.0.expect_write(state, command)
    }

    fn read(&self, state: &T::State, query: &T::Query) -> T::Answer {
        self.0.expect_read(state, query)
    }
}

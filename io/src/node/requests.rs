//! Writes and reads, from any node: what this node cannot do itself it hands to the leader.
//!
//! A write is tried again only while it is certain that it was not applied; the first uncertain attempt ends it as
//! *unknown* (design: FoundationDB's `commit_unknown_result`).

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::type_config::alias::InstantOf;
use openraft::{Instant, ReadPolicy};
use openraft_rt::{AsyncRuntime, Select2};
use quorate_core::wire::{Failure, Fault, ForwardWrite, LeaderHint, Request, Response};
use quorate_core::{LogId, NodeId};

use super::Node;
use super::status::ServerMetrics;
use crate::error::{Consistency, ReadError, Reason, WriteError, Written};
use crate::platform::Platform;
use crate::store::View;
use crate::transport::{CallError, Target};
use crate::types::{Command, Types, log_id_from};

/// First and longest pause before a request that was not applied is tried again.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(200);

/// One attempt's outcome.
#[derive(Clone)]
pub(super) enum Attempt<T, E = WriteError> {
    Done(T),
    /// Certainly not applied; worth another try.
    Again(Reason),
    Failed(E),
}

/// The pauses between attempts at one request.
pub(super) struct Retry<P: Platform> {
    node: Node<P>,
    metrics: ServerMetrics<P>,
    /// Who led when the last attempt began.
    leader: Option<NodeId>,
    deadline: InstantOf<Types<P::Runtime>>,
    pause: Duration,
}

impl<P: Platform> Retry<P> {
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(InstantOf::<Types<P::Runtime>>::now())
    }

    /// Waits for news of a leader, or a little while: an unreachable one is worth another try soon.
    pub(super) async fn pause(&mut self, reason: Reason) -> Result<(), WriteError> {
        let left = self.left();
        if left.is_zero() {
            return Err(WriteError::NotApplied(reason));
        }
        let known = self.leader;
        let news = self.metrics.wait_until(|m| m.current_leader != known);
        // Out of time is no news, and as good a reason to try again.
        if let Ok(Err(_)) = P::Runtime::timeout(self.pause.min(left), news).await {
            // Consensus has ended: there will be no news any more, and no pause either.
            let why = self.node.failure().map_or(Reason::Stopping, |error| Reason::Storage(error.to_string()));
            return Err(WriteError::NotApplied(why));
        }
        self.leader = self.metrics.borrow_and_update().current_leader;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        if self.node.is_stopping() {
            return Err(WriteError::NotApplied(Reason::Stopping));
        }
        // What has no time is not begun: its outcome would be unknown.
        if self.left().is_zero() { Err(WriteError::NotApplied(reason)) } else { Ok(()) }
    }
}

/// What those who work together have found out.
async fn found_within<P: Platform>(
    found: futures_channel::oneshot::Receiver<Attempt<LogId>>,
    timeout: Duration,
) -> Attempt<LogId> {
    match P::Runtime::timeout(timeout, found).await {
        Err(_) => Attempt::Again(Reason::Timeout),
        // Whoever did the work was stopped with the node.
        Ok(found) => found.unwrap_or(Attempt::Again(Reason::Stopping)),
    }
}

impl<P: Platform> Node<P> {
    /// Commits a command and returns the state machine's response. Any node takes it.
    ///
    /// # Errors
    /// [`WriteError::NotApplied`] is safe to retry, [`WriteError::Unknown`] may apply twice if retried.
    pub async fn write(&self, command: Bytes) -> Result<Written, WriteError> {
        self.admit_write(command.len())?;
        let _in_flight = self.begin_write(command.len())?;
        let mut retry = self.retry()?;
        loop {
            let attempt = match self.leads() {
                true => self.propose(command.clone(), retry.left()).await,
                false => self.forward_write(command.clone(), retry.left()).await,
            };
            match attempt {
                Attempt::Done(written) => return Ok(written),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(reason) => retry.pause(reason).await?,
            }
        }
    }

    /// A consistent, immutable view of the state.
    ///
    /// # Errors
    /// Reads change nothing: trying again is always safe.
    pub async fn read(&self, consistency: Consistency) -> Result<View, ReadError> {
        if let Some(error) = self.failure() {
            return Err(ReadError(Reason::Storage(error.to_string())));
        }
        if consistency == Consistency::Stale {
            return Ok(self.inner.store.view());
        }
        let error = |e: WriteError| ReadError(e.reason().clone());
        let mut retry = self.retry().map_err(error)?;
        loop {
            let attempt = match self.leads() {
                true => self.read_index(retry.left()).await,
                false => self.read_index_there(retry.left()).await,
            };
            match attempt {
                Attempt::Done(index) => {
                    self.wait_applied(index, retry.left()).await.map_err(ReadError)?;
                    return Ok(self.inner.store.view());
                }
                Attempt::Failed(failed) => return Err(error(failed)),
                Attempt::Again(reason) => retry.pause(reason).await.map_err(error)?,
            }
        }
    }

    /// A write that another node forwarded; tried here only.
    pub(super) async fn handle_write(&self, forwarded: ForwardWrite) -> Response {
        let bytes = forwarded.command.len();
        let admitted = self.admit_write(bytes).and_then(|()| self.begin_write(bytes));
        let _in_flight = match admitted {
            Ok(in_flight) => in_flight,
            Err(e) => return Response::Failed(failure(&e)),
        };
        let timeout = Duration::from_millis(forwarded.deadline_ms).min(self.inner.config.request_timeout);
        match self.propose(forwarded.command, timeout).await {
            Attempt::Done(written) => Response::Written { log_id: written.log_id, response: written.response },
            Attempt::Again(_) => Response::NotLeader(self.leader_hint()),
            Attempt::Failed(e) => Response::Failed(failure(&e)),
        }
    }

    /// A read index that another node asks for.
    pub(super) async fn handle_read_index(&self) -> Response {
        match self.read_index(self.inner.config.request_timeout).await {
            Attempt::Done(index) => Response::ReadIndex(index),
            Attempt::Again(_) => Response::NotLeader(self.leader_hint()),
            Attempt::Failed(e) => Response::Failed(failure(&e)),
        }
    }

    pub(super) fn retry(&self) -> Result<Retry<P>, WriteError> {
        if self.is_stopping() {
            return Err(WriteError::NotApplied(Reason::Stopping));
        }
        let mut metrics = self.inner.raft.server_metrics();
        let leader = metrics.borrow_and_update().current_leader;
        let deadline = InstantOf::<Types<P::Runtime>>::now() + self.inner.config.request_timeout;
        Ok(Retry { node: self.clone(), metrics, leader, deadline, pause: RETRY_MIN })
    }

    fn admit_write(&self, bytes: usize) -> Result<(), WriteError> {
        let bytes_max = self.inner.config.command_bytes_max;
        if bytes > bytes_max {
            let (bytes, bytes_max) = (bytes as u64, bytes_max as u64);
            return Err(WriteError::NotApplied(Reason::TooLarge { bytes, bytes_max }));
        }
        if let Some(error) = self.failure() {
            return Err(WriteError::NotApplied(Reason::Storage(error.to_string())));
        }
        // The disk does not keep up: four times what asks for a snapshot, or too much that others may have committed
        // while this node's own flush hangs.
        let config = &self.inner.config;
        if self.inner.store.dirty_bytes() > config.store.dirty_bytes_max.saturating_mul(4)
            || self.inner.log.unflushed_bytes() > config.in_flight_bytes_max()
        {
            return Err(WriteError::NotApplied(Reason::Overloaded));
        }
        Ok(())
    }

    pub(super) fn leader(&self) -> Option<(NodeId, Target)> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.get_node(&id)?;
        Some((id, Target { node: Some(id), addrs: member.peer_addrs.clone() }))
    }

    fn other_leader(&self) -> Option<(NodeId, Target)> {
        self.leader().filter(|(id, _)| *id != self.node_id())
    }

    pub(super) fn leads(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.current_leader == Some(metrics.id)
    }

    pub(super) fn leader_hint(&self) -> Option<LeaderHint> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader.filter(|id| *id != metrics.id)?;
        let member = metrics.membership_config.get_node(&id)?.as_ref().clone();
        Some(LeaderHint { id, member })
    }

    async fn propose(&self, command: Bytes, timeout: Duration) -> Attempt<Written> {
        let unknown = |reason| Attempt::Failed(WriteError::Unknown(reason));
        // Before openraft sees it: an entry that it has been given must be written.
        if self.no_space_to_commit() && self.leads() {
            return Attempt::Failed(WriteError::NotApplied(Reason::DiskFull));
        }
        let proposal = self.inner.raft.client_write(Command(command));
        match P::Runtime::timeout(timeout, proposal).await {
            Err(_) => unknown(Reason::Timeout),
            Ok(Ok(written)) => {
                Attempt::Done(Written { log_id: log_id_from(&written.log_id), response: written.data.0 })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => Attempt::Again(forwarded(&to)),
            Ok(Err(RaftError::APIError(ClientWriteError::PreconditionFailed(e)))) => {
                Attempt::Failed(WriteError::NotApplied(Reason::Invalid(e.to_string())))
            }
            Ok(Err(RaftError::APIError(_))) => unknown(Reason::LeaderChanged),
            Ok(Err(RaftError::Fatal(fatal))) => unknown(stopped(&fatal)),
        }
    }

    async fn forward_write(&self, command: Bytes, left: Duration) -> Attempt<Written> {
        let Some((_, target)) = self.other_leader() else { return Attempt::Again(Reason::NoLeader) };
        let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Write(ForwardWrite { origin: self.node_id(), hops: 1, deadline_ms, command });
        match self.inner.peers.call(&target, &request, left).await {
            Ok(Response::Written { log_id, response }) => Attempt::Done(Written { log_id, response }),
            Ok(Response::NotLeader(_)) => Attempt::Again(Reason::NoLeader),
            Ok(Response::Failed(e)) if e.unknown => Attempt::Failed(WriteError::Unknown(reason(e.fault))),
            Ok(Response::Failed(e)) => match e.fault {
                Fault::TooLarge { .. } | Fault::Invalid(_) | Fault::DiskFull => {
                    Attempt::Failed(WriteError::NotApplied(reason(e.fault)))
                }
                fault => Attempt::Again(reason(fault)),
            },
            Ok(_) => Attempt::Failed(WriteError::Unknown(Reason::Invalid("an answer to another question".into()))),
            Err(CallError::NotSent(e)) => Attempt::Again(Reason::Unreachable(e.to_string())),
            Err(CallError::Unknown(e)) => Attempt::Failed(WriteError::Unknown(Reason::Unreachable(e.to_string()))),
        }
    }

    /// From where it may be read, as this node knows if it leads.
    pub(super) async fn read_index(&self, timeout: Duration) -> Attempt<LogId> {
        let (found, begins) = self.inner.reads_here.join();
        if begins {
            let node = self.clone();
            self.spawn(async move { node.inner.reads_here.work(|| node.ask_quorum()).await });
        }
        found_within::<P>(found, timeout).await
    }

    async fn ask_quorum(&self) -> Attempt<LogId> {
        let asked = self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match P::Runtime::timeout(self.together_within(), asked).await {
            Err(_) => Attempt::Again(Reason::Timeout),
            Ok(Ok((index, _))) => Attempt::Done(log_id_from(index.log_id())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => Attempt::Again(forwarded(&to)),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e)))) => {
                Attempt::Again(Reason::Unreachable(e.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Attempt::Failed(WriteError::NotApplied(stopped(&fatal))),
        }
    }

    /// From where it may be read, as another node knows that leads.
    async fn read_index_there(&self, timeout: Duration) -> Attempt<LogId> {
        let (found, begins) = self.inner.reads_there.join();
        if begins {
            let node = self.clone();
            self.spawn(async move { node.inner.reads_there.work(|| node.forward_read_index()).await });
        }
        found_within::<P>(found, timeout).await
    }

    async fn forward_read_index(&self) -> Attempt<LogId> {
        let Some((_, target)) = self.other_leader() else { return Attempt::Again(Reason::NoLeader) };
        match self.inner.peers.call(&target, &Request::ReadIndex, self.together_within()).await {
            Ok(Response::ReadIndex(index)) => Attempt::Done(index),
            Ok(Response::NotLeader(_)) => Attempt::Again(Reason::NoLeader),
            Ok(Response::Failed(e)) => Attempt::Again(reason(e.fault)),
            Ok(_) => Attempt::Again(Reason::Invalid("an answer to another question".into())),
            Err(e) => Attempt::Again(Reason::Unreachable(e.to_string())),
        }
    }

    /// How long one round may keep those waiting who came after it had begun: without an answer for so long there is a
    /// new leader.
    fn together_within(&self) -> Duration {
        Duration::from_millis(self.inner.config.timing.election_timeout_max_ms())
    }

    /// Waits until this node has applied `index`.
    async fn wait_applied(&self, index: LogId, timeout: Duration) -> Result<(), Reason> {
        if self.inner.store.applied() >= Some(index) {
            return Ok(());
        }
        let (mut applied, mut server) = (self.inner.store.applied_watch(), self.inner.raft.server_metrics());
        let reached = applied.wait_until(|applied| *applied >= Some(index));
        // These metrics end when consensus does: nothing is applied any more.
        let ended = async { while server.changed().await.is_ok() {} };
        match P::Runtime::timeout(timeout, P::Runtime::select2(reached, ended)).await {
            Ok(Select2::First(_)) => Ok(()),
            Ok(Select2::Second(())) => Err(Reason::Stopping),
            Err(_) => Err(Reason::Timeout),
        }
    }
}

pub(super) fn forwarded<R: AsyncRuntime>(to: &ForwardToLeader<Types<R>>) -> Reason {
    match to.reason {
        ForwardReason::NotLeader => Reason::NoLeader,
        ForwardReason::LeadershipTransfer => Reason::LeaderChanged,
        ForwardReason::LeaseExpired => Reason::Unreachable("the leader has lost touch with its quorum".to_owned()),
    }
}

pub(super) fn stopped<R: AsyncRuntime>(fatal: &Fatal<Types<R>>) -> Reason {
    match fatal {
        Fatal::StorageError(e) => Reason::Storage(e.to_string()),
        Fatal::Stopped | Fatal::Panicked => Reason::Stopping,
    }
}

pub(super) fn reason(fault: Fault) -> Reason {
    match fault {
        Fault::NoLeader => Reason::NoLeader,
        Fault::LeaderChanged => Reason::LeaderChanged,
        Fault::Timeout => Reason::Timeout,
        Fault::Overloaded => Reason::Overloaded,
        Fault::DiskFull => Reason::DiskFull,
        Fault::TooLarge { bytes, bytes_max } => Reason::TooLarge { bytes, bytes_max },
        Fault::Stopping => Reason::Stopping,
        Fault::NotReady(text) | Fault::Unreachable(text) | Fault::Other(text) => Reason::Unreachable(text),
        Fault::Storage(text) => Reason::Storage(text),
        Fault::Invalid(text) => Reason::Invalid(text),
    }
}

pub(super) fn failure(error: &WriteError) -> Failure {
    let fault = match error.reason().clone() {
        Reason::NoLeader => Fault::NoLeader,
        Reason::LeaderChanged => Fault::LeaderChanged,
        Reason::Timeout => Fault::Timeout,
        Reason::Overloaded => Fault::Overloaded,
        Reason::DiskFull => Fault::DiskFull,
        Reason::TooLarge { bytes, bytes_max } => Fault::TooLarge { bytes, bytes_max },
        Reason::Stopping => Fault::Stopping,
        Reason::Unreachable(text) => Fault::Unreachable(text),
        Reason::Storage(text) => Fault::Storage(text),
        Reason::Invalid(text) => Fault::Invalid(text),
    };
    Failure { unknown: matches!(error, WriteError::Unknown(_)), fault }
}

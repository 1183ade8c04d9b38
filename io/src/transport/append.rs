//! The dialling side of an append stream.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft_rt::{AsyncRuntime, Instant, Select3};
use quorate_core::LogId;
use quorate_core::wire::{AppendRequest, AppendResponse, ENTRIES_MAX, FRAME_BYTES_MAX};

use super::config::{TransportConfig, ms};
use super::connection::Lane;
use super::{CallError, Lost};

/// How long a follower may wait to be told that what it has is committed: as long as a timer is exact.
const COMMIT_WAITS: Duration = Duration::from_millis(1);

/// A pipelined stream of appends: see [`Peers::open_append_stream`](super::Peers::open_append_stream).
///
/// Requests are taken from the input while less than a window of them is unanswered, and are sent at once. Every
/// answer belongs to the oldest unanswered request; one that cannot is an error.
///
/// An answer that also fits the next request, which then has no entries of its own, is not handed on: the next answer says
/// at least as much. openraft credits an answer to every request that it took and that ends at or before what the answer
/// acknowledges (`InflightAppendQueue::drain_acked`), and takes the time at which the last of them was sent for the time
/// at which the peer followed this leader. So a late answer to old entries would confirm reads of a leader that is none
/// any more (found by seed 18855 of the simulator). Requests are taken by whoever asks for the next answer, so none is
/// taken between this decision and openraft's.
///
/// openraft sends a request without entries whenever something was committed and nothing is there to be sent: with few
/// clients half of all messages. Such a request waits for a millisecond, and is dropped when one with entries comes, which
/// says the same. It does not wait if an answer may be outstanding that something is committed by. openraft goes on
/// waiting for its answer, so an answer that would be taken for it is not handed on before that of the one that came.
pub struct AppendStream<R: AsyncRuntime, S> {
    lane: Option<Lane>,
    input: Option<S>,
    /// Pieces of the last request that the window had no room for.
    pieces: VecDeque<AppendRequest>,
    /// A request that tells only what is committed, and until when it waits for one with entries.
    held: Option<(AppendRequest, R::Instant)>,
    /// What the one that was dropped for the first of `pieces` ended at.
    dropped: Option<Option<LogId>>,
    /// The last entry that was sent, once something was.
    sent: Option<Option<LogId>>,
    window: VecDeque<Sent>,
    window_bytes: usize,
    /// When the oldest unanswered request began to be the oldest.
    waiting_since: R::Instant,
    idle_max: Duration,
    requests_max: usize,
    bytes_max: usize,
    piece_bytes_max: usize,
    runtime: PhantomData<fn() -> R>,
}

/// What an answer must fit.
struct Sent {
    prev: Option<LogId>,
    last: Option<LogId>,
    /// Where the first request ends that it is an answer to: it may stand for one that was dropped.
    first_last: Option<LogId>,
    bytes: usize,
}

impl<R: AsyncRuntime, S> fmt::Debug for AppendStream<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendStream").field("unanswered", &self.window.len()).finish_non_exhaustive()
    }
}

impl<R: AsyncRuntime, S: Stream<Item = AppendRequest> + Send + Unpin> AppendStream<R, S> {
    pub(super) fn new(lane: Lane, input: S, config: &TransportConfig) -> Self {
        Self {
            lane: Some(lane),
            input: Some(input),
            pieces: VecDeque::new(),
            held: None,
            dropped: None,
            sent: None,
            window: VecDeque::new(),
            window_bytes: 0,
            waiting_since: R::Instant::now(),
            idle_max: ms(config.append_idle_ms),
            requests_max: config.stream_requests_max,
            bytes_max: config.stream_bytes_max,
            piece_bytes_max: config.append_bytes_max.min(FRAME_BYTES_MAX / 2),
            runtime: PhantomData,
        }
    }

    /// The next answer; `None` when the input has ended and everything is answered. After an error, and after an
    /// answer that is no success, the stream is over.
    pub async fn next(&mut self) -> Option<Result<AppendResponse, CallError>> {
        let result = self.step().await;
        if !matches!(result, Some(Ok(AppendResponse::Success(_)))) {
            // Ends the stream on the peer.
            self.lane = None;
            self.input = None;
        }
        result
    }

    /// As a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<AppendResponse, CallError>> {
        futures_util::stream::unfold(self, |mut this| async move { this.next().await.map(|item| (item, this)) })
    }

    fn has_room(&self) -> bool {
        self.window.len() < self.requests_max && self.window_bytes < self.bytes_max
    }

    async fn step(&mut self) -> Option<Result<AppendResponse, CallError>> {
        loop {
            if let Err(e) = self.send_pieces() {
                return Some(Err(e));
            }
            let lane = self.lane.as_ref()?;
            let mut input = self.input.as_mut().filter(|_| {
                self.pieces.is_empty() && self.window.len() < self.requests_max && self.window_bytes < self.bytes_max
            });
            if input.is_none() && self.window.is_empty() {
                return None;
            }
            let idle_at = (!self.window.is_empty()).then_some(self.waiting_since + self.idle_max);
            let held_until = self.held.as_ref().map(|(_, until)| *until);
            let next_request = async {
                match &mut input {
                    Some(input) => input.next().await,
                    None => pending().await,
                }
            };
            let timeout = async {
                match held_until.into_iter().chain(idle_at).min() {
                    Some(at) => R::sleep_until(at).await,
                    None => pending().await,
                }
            };
            match R::select3(lane.recv(), next_request, timeout).await {
                Select3::First(Ok((_, payload))) => match self.answer(payload) {
                    Ok(AppendResponse::Success(matching)) if self.next_is_told_by(matching) => {}
                    answer => return Some(answer),
                },
                Select3::First(Err(e)) => return Some(Err(e)),
                Select3::Second(Some(request)) if self.may_wait(&request) => self.hold(request),
                Select3::Second(Some(request)) => self.take(request),
                Select3::Second(None) => {
                    self.input = None;
                    self.send_held();
                }
                Select3::Third(()) if held_until.is_some_and(|until| until <= R::Instant::now()) => self.send_held(),
                Select3::Third(()) => return Some(Err(CallError::Unknown(Lost::Timeout))),
            }
        }
    }

    fn send_pieces(&mut self) -> Result<(), CallError> {
        while self.has_room() {
            let (Some(piece), Some(lane)) = (self.pieces.pop_front(), &mut self.lane) else { break };
            let payload = piece.encode();
            let bytes = payload.iter().map(|part| part.len()).sum();
            lane.send(0, payload)?;
            if self.window.is_empty() {
                self.waiting_since = R::Instant::now();
            }
            let (prev, last) = (piece.prev, piece.last());
            self.sent = Some(last);
            self.window.push_back(Sent { prev, last, first_last: self.dropped.take().unwrap_or(last), bytes });
            self.window_bytes += bytes;
        }
        Ok(())
    }

    /// Whether the request says nothing new but what is committed, and no answer is outstanding that matters to that.
    fn may_wait(&self, request: &AppendRequest) -> bool {
        let only_commits = request.entries.is_empty() && self.sent == Some(request.prev);
        only_commits && (self.window.is_empty() || request.leader_commit >= request.prev)
    }

    /// Whatever is held is told by this one.
    fn take(&mut self, request: AppendRequest) {
        self.dropped = self.held.take().map(|(held, _)| held.last());
        split(request, self.piece_bytes_max, &mut self.pieces);
    }

    fn hold(&mut self, request: AppendRequest) {
        let until = self.held.take().map_or_else(|| R::Instant::now() + COMMIT_WAITS, |(_, until)| until);
        self.held = Some((request, until));
    }

    fn send_held(&mut self) {
        self.pieces.extend(self.held.take().map(|(request, _)| request));
    }

    /// Whether the oldest request that is unanswered, or not sent yet, or was dropped, ends at or before `matching`.
    fn next_is_told_by(&self, matching: Option<LogId>) -> bool {
        let unsent = self.pieces.front().or(self.held.as_ref().map(|(held, _)| held)).map(AppendRequest::last);
        let next = self.window.front().map(|sent| sent.first_last).or(self.dropped).or(unsent);
        next.is_some_and(|last| last <= matching)
    }

    /// Checks an answer against the request it must belong to.
    fn answer(&mut self, payload: bytes::Bytes) -> Result<AppendResponse, CallError> {
        let malformed = |why: String| CallError::Unknown(Lost::Malformed(why));
        let response = AppendResponse::decode(payload).map_err(|e| malformed(e.to_string()))?;
        let sent = self.window.pop_front().ok_or_else(|| malformed("an answer to no request".to_owned()))?;
        self.window_bytes -= sent.bytes;
        self.waiting_since = R::Instant::now();
        check_answer(sent.prev, sent.last, &response).map_err(|why| malformed(why.to_owned()))?;
        Ok(response)
    }
}

/// Whether a response can be the answer to a request with this `prev` and this last entry.
pub(crate) fn check_answer(
    prev: Option<LogId>,
    last: Option<LogId>,
    response: &AppendResponse,
) -> Result<(), &'static str> {
    match response {
        AppendResponse::Success(matching) if *matching < prev || *matching > last => {
            Err("success for entries that were not sent")
        }
        AppendResponse::Conflict(id) if Some(*id) != prev => Err("conflict at an entry that was not asked for"),
        _ => Ok(()),
    }
}

/// Splits a request so that no piece has much more than `bytes_max` bytes of entries, unless it is a single entry.
fn split(request: AppendRequest, bytes_max: usize, pieces: &mut VecDeque<AppendRequest>) {
    let AppendRequest { vote, prev, leader_commit, entries } = request;
    let mut piece = AppendRequest { vote, prev, leader_commit, entries: Vec::new() };
    let mut piece_bytes = 0;
    for entry in entries {
        let bytes = AppendRequest::entry_bytes(&entry);
        if !piece.entries.is_empty() && (piece_bytes + bytes > bytes_max || piece.entries.len() == ENTRIES_MAX) {
            let next = AppendRequest { vote, prev: piece.last(), leader_commit, entries: Vec::new() };
            pieces.push_back(std::mem::replace(&mut piece, next));
            piece_bytes = 0;
        }
        piece_bytes += bytes;
        piece.entries.push(entry);
    }
    pieces.push_back(piece);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_core::{Entry, NodeId, Payload, Vote};

    use super::*;

    #[test]
    fn a_large_request_is_split_into_requests_that_follow_each_other() {
        let entry =
            |index| Entry { log_id: LogId::new(2, index), payload: Payload::Command(Bytes::from(vec![0; 100])) };
        let vote = Vote { term: 2, node: NodeId(1), committed: true };
        let request = AppendRequest {
            vote,
            prev: Some(LogId::new(1, 4)),
            leader_commit: None,
            entries: (5..15).map(entry).collect(),
        };
        let mut pieces = VecDeque::new();
        split(request.clone(), 500, &mut pieces);
        assert!(pieces.len() >= 3);
        let mut last = request.prev;
        let mut entries = Vec::new();
        for piece in pieces {
            assert_eq!(piece.prev, last);
            assert!(!piece.entries.is_empty() && piece.entries.len() <= 5);
            last = piece.last();
            entries.extend(piece.entries);
        }
        assert_eq!(entries, request.entries);
    }

    /// Answers are handed on only if openraft can take them for nothing that it asked for later.
    #[test]
    fn an_answer_is_not_taken_for_that_to_a_request_that_was_dropped() {
        let request = |prev: u64, entries: std::ops::Range<u64>| AppendRequest {
            vote: Vote { term: 1, node: NodeId(1), committed: true },
            prev: Some(LogId::new(1, prev)),
            leader_commit: Some(LogId::new(1, prev)),
            entries: entries.map(|index| Entry { log_id: LogId::new(1, index), payload: Payload::Blank }).collect(),
        };
        let at = |index| Some(LogId::new(1, index));
        let sent = |request: &AppendRequest, first_last| Sent {
            prev: request.prev,
            last: request.last(),
            first_last,
            bytes: 0,
        };
        let stream = || {
            let input = None::<futures_util::stream::Empty<AppendRequest>>;
            let (pieces, window) = (VecDeque::new(), VecDeque::from([sent(&request(4, 5..6), at(5))]));
            AppendStream::<crate::tokio::TokioRuntime, _> {
                lane: None,
                input,
                pieces,
                held: None,
                dropped: None,
                sent: Some(at(5)),
                window,
                window_bytes: 0,
                waiting_since: <crate::tokio::TokioRuntime as AsyncRuntime>::Instant::now(),
                idle_max: Duration::from_secs(1),
                requests_max: 4,
                bytes_max: 1 << 20,
                piece_bytes_max: 1 << 20,
                runtime: PhantomData,
            }
        };
        // Entry 5 is on its way, is committed meanwhile, and that it is waits to be told.
        let (commit, next) = (request(5, 6..6), request(5, 6..7));
        let mut held = stream();
        assert!(held.may_wait(&commit));
        held.hold(commit.clone());
        held.window.pop_front();
        assert!(held.next_is_told_by(at(5)), "what is held is asked for later");

        let mut dropped = stream();
        dropped.hold(commit);
        dropped.take(next.clone());
        dropped.window.pop_front();
        assert!(dropped.next_is_told_by(at(5)), "what was dropped was asked for later");
        let first_last = dropped.dropped.take().expect("it was dropped");
        dropped.window.push_back(sent(&next, first_last));
        dropped.pieces.clear();
        assert!(dropped.next_is_told_by(at(5)), "also when the next is on its way");
        dropped.window.pop_front();
        assert!(!dropped.next_is_told_by(at(6)), "the answer to the next is one to both");

        let mut neither = stream();
        neither.take(next.clone());
        neither.window.pop_front();
        assert!(!neither.next_is_told_by(at(5)));
    }

    #[test]
    fn an_answer_must_fit_its_request() {
        let (prev, last) = (Some(LogId::new(1, 4)), Some(LogId::new(1, 6)));
        assert!(check_answer(prev, last, &AppendResponse::Success(last)).is_ok());
        assert!(check_answer(prev, last, &AppendResponse::Success(prev)).is_ok());
        assert!(check_answer(prev, last, &AppendResponse::Success(Some(LogId::new(1, 7)))).is_err());
        assert!(check_answer(prev, last, &AppendResponse::Success(None)).is_err());
        assert!(check_answer(prev, last, &AppendResponse::Conflict(LogId::new(1, 4))).is_ok());
        assert!(check_answer(None, last, &AppendResponse::Conflict(LogId::new(0, 0))).is_err());
    }
}

//! The dialling side of one connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use openraft_rt::{AsyncRuntime, Select2};
use quorate_core::ClusterId;
use quorate_core::wire::{
    FRAME_BYTES_MAX, Frame, FrameError, FrameKind, Request, Response, decode_frame, encode_frame,
};

use super::config::{TransportConfig, ms};
use super::handshake::{Dialled, PeerIdentity, small_frame};
use super::queue::{PushError, Queue, Signal, detach, lock};
use super::{CallError, Lost, NotSent};
use crate::net::{Net, ReadHalf, WriteHalf};

/// Frames that wait to be written.
pub(super) type Outbox = Queue<Vec<Bytes>>;

/// One connection to a peer, and what is in flight on it.
pub(super) struct Connection {
    pub(super) peer: PeerIdentity,
    /// What this node said of its cluster in the handshake.
    pub(super) local_cluster: ClusterId,
    outbox: Outbox,
    table: Mutex<Table>,
    closed: Signal,
    /// Whether anything was received since the last look.
    heard: AtomicBool,
    /// Whether anything was sent since the last look.
    spoke: AtomicBool,
    stream_requests_max: usize,
}

#[derive(Default)]
struct Table {
    /// Requests and streams are numbered together.
    id_last: u64,
    calls: BTreeMap<u64, oneshot::Sender<Result<Response, CallError>>>,
    lanes: BTreeMap<u64, Arc<Replies>>,
    /// Why the connection is down.
    down: Option<String>,
}

/// Received replies of a stream: what and payload.
type Replies = Queue<(u8, Bytes)>;

impl Connection {
    /// Starts the tasks of a connection. They end when it breaks or is [closed](Self::close).
    pub(super) fn start<R: AsyncRuntime, N: Net>(dialled: Dialled<N>, config: &TransportConfig) -> Arc<Self> {
        let Dialled { read, write, buf, peer, local_cluster } = dialled;
        let connection = Arc::new(Self {
            peer,
            local_cluster,
            outbox: Queue::new(config.queue_frames_max, config.queue_bytes_max),
            table: Mutex::default(),
            closed: Signal::new(),
            heard: AtomicBool::new(true),
            spoke: AtomicBool::new(false),
            stream_requests_max: config.stream_requests_max,
        });
        detach::<R>(connection.clone().read_frames::<R>(read, buf));
        let writer = connection.clone();
        detach::<R>(async move {
            if let Err(e) = write_frames::<R>(&writer.outbox, &writer.closed, write).await {
                writer.close(&e);
            }
        });
        detach::<R>(connection.clone().keep_alive::<R>(ms(config.ping_ms), ms(config.silence_ms_max)));
        connection
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_down(&self) -> bool {
        self.closed.is_set()
    }

    /// Ends it: everything in flight becomes unknown.
    pub(super) fn close(&self, reason: &str) {
        let (calls, lanes) = {
            let mut table = lock(&self.table);
            if table.down.is_some() {
                return;
            }
            table.down = Some(reason.to_owned());
            (std::mem::take(&mut table.calls), std::mem::take(&mut table.lanes))
        };
        tracing::debug!(peer = %self.peer.node_id, reason, "connection closed");
        self.closed.set();
        self.outbox.close();
        for (_, call) in calls {
            // The caller may have given up.
            let _ = call.send(Err(CallError::Unknown(Lost::Disconnected(reason.to_owned()))));
        }
        for (_, lane) in lanes {
            lane.close();
        }
    }

    fn down_reason(&self) -> String {
        lock(&self.table).down.clone().unwrap_or_else(|| "the peer ended the stream".to_owned())
    }

    fn push(&self, frame: Result<Vec<Bytes>, FrameError>) -> Result<(), CallError> {
        let frame = frame.map_err(|e| CallError::NotSent(too_large(e)))?;
        let bytes = frame.iter().map(Bytes::len).sum();
        self.spoke.store(true, Ordering::Relaxed);
        self.outbox.push(frame, bytes).map_err(|e| {
            CallError::NotSent(match e {
                PushError::Full => NotSent::Overloaded,
                PushError::Closed => NotSent::Unreachable(self.down_reason()),
            })
        })
    }

    /// Sends a request and waits for its response.
    pub(super) async fn call<R: AsyncRuntime>(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut table = lock(&self.table);
            if let Some(reason) = &table.down {
                return Err(CallError::NotSent(NotSent::Unreachable(reason.clone())));
            }
            table.id_last += 1;
            let id = table.id_last;
            table.calls.insert(id, sender);
            id
        };
        // Also when this future is dropped: the response is then nobody's.
        let _forget = Forget { connection: self, id };
        let (what, payload) = request.encode();
        self.push(encode_frame(FrameKind::Request, what, id, payload))?;
        match R::timeout(timeout, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(oneshot::Canceled)) => Err(CallError::Unknown(Lost::Disconnected(self.down_reason()))),
            Err(_) => Err(CallError::Unknown(Lost::Timeout)),
        }
    }

    /// Opens a stream.
    pub(super) fn open_lane(self: &Arc<Self>) -> Result<Lane, CallError> {
        let replies = Arc::new(Queue::new(self.stream_requests_max + 1, usize::MAX));
        let mut table = lock(&self.table);
        if let Some(reason) = &table.down {
            return Err(CallError::NotSent(NotSent::Unreachable(reason.clone())));
        }
        table.id_last += 1;
        let id = table.id_last;
        table.lanes.insert(id, replies.clone());
        drop(table);
        Ok(Lane { connection: self.clone(), id, replies, used: false })
    }

    async fn read_frames<R: AsyncRuntime>(self: Arc<Self>, mut read: impl ReadHalf, mut buf: BytesMut) {
        let mut closed = self.closed.subscribe();
        let reason = loop {
            match decode_frame(&mut buf, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => match self.handle(frame) {
                    Ok(()) => continue,
                    Err(reason) => break reason,
                },
                Ok(None) => {}
                Err(e) => break e.to_string(),
            }
            match R::select2(&mut closed, read.read(&mut buf)).await {
                Select2::First(_) => return,
                Select2::Second(Ok(0)) => break "closed by the peer".to_owned(),
                Select2::Second(Ok(_)) => self.heard.store(true, Ordering::Relaxed),
                Select2::Second(Err(e)) => break e.to_string(),
            }
        };
        self.close(&reason);
    }

    /// Delivers a frame. What belongs to nobody (any more) is dropped.
    fn handle(&self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            FrameKind::Response => {
                let Some(call) = lock(&self.table).calls.remove(&frame.id) else { return Ok(()) };
                let response = Response::decode(frame.what, frame.payload)
                    .map_err(|e| CallError::Unknown(Lost::Malformed(e.to_string())));
                // The caller may have given up.
                let _ = call.send(response);
            }
            FrameKind::StreamReply => {
                let Some(lane) = lock(&self.table).lanes.get(&frame.id).cloned() else { return Ok(()) };
                if lane.push((frame.what, frame.payload), 0) == Err(PushError::Full) {
                    return Err("more replies than requests".to_owned());
                }
            }
            FrameKind::StreamEnd => {
                let lane = lock(&self.table).lanes.remove(&frame.id);
                if let Some(lane) = lane {
                    lane.close();
                }
            }
            FrameKind::Pong => {}
            kind => return Err(format!("unexpected frame of kind {kind:?}")),
        }
        Ok(())
    }

    /// Pings a silent peer, and gives it up if it stays silent: so a half-open connection does not last.
    async fn keep_alive<R: AsyncRuntime>(self: Arc<Self>, ping: Duration, silence_max: Duration) {
        let mut closed = self.closed.subscribe();
        let mut silence = Duration::ZERO;
        loop {
            match R::select2(&mut closed, R::sleep(ping)).await {
                Select2::First(_) => return,
                Select2::Second(()) => {}
            }
            silence = if self.heard.swap(false, Ordering::Relaxed) { Duration::ZERO } else { silence + ping };
            if silence >= silence_max {
                return self.close("the peer is silent");
            }
            if !self.spoke.swap(false, Ordering::Relaxed) || !silence.is_zero() {
                let frame = small_frame(FrameKind::Ping, 0, 0, vec![]);
                // Closed: the loop ends next time.
                let _ = self.outbox.push_always(frame, 0);
            }
        }
    }
}

fn too_large(e: FrameError) -> NotSent {
    match e {
        FrameError::TooLarge { bytes, bytes_max } => NotSent::TooLarge { bytes, bytes_max },
        other => NotSent::Unreachable(other.to_string()),
    }
}

/// Removes a call from the table when dropped.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.connection.table).calls.remove(&self.id);
    }
}

/// The dialling side of one stream. Dropping it ends the stream on the peer.
pub(super) struct Lane {
    connection: Arc<Connection>,
    id: u64,
    replies: Arc<Replies>,
    /// Whether the peer knows of it.
    used: bool,
}

impl Lane {
    /// Queues the next request of the stream.
    pub(super) fn send(&mut self, what: u8, payload: Vec<Bytes>) -> Result<(), CallError> {
        self.connection.push(encode_frame(FrameKind::StreamItem, what, self.id, payload))?;
        self.used = true;
        Ok(())
    }

    /// Waits for the next reply. Cancel safe.
    pub(super) async fn recv(&self) -> Result<(u8, Bytes), CallError> {
        match self.replies.pop().await {
            Some(reply) => Ok(reply),
            None => Err(CallError::Unknown(Lost::Disconnected(self.connection.down_reason()))),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let known = lock(&self.connection.table).lanes.remove(&self.id).is_some();
        if known && self.used {
            let frame = small_frame(FrameKind::StreamEnd, 0, self.id, vec![]);
            // Closed: the peer knows by then.
            let _ = self.connection.outbox.push_always(frame, 0);
        }
    }
}

/// Writes what is queued, as much as there is at a time, until `closed`.
pub(super) async fn write_frames<R: AsyncRuntime>(
    outbox: &Outbox,
    closed: &Signal,
    mut write: impl WriteHalf,
) -> Result<(), String> {
    let mut closed = closed.subscribe();
    while let Some(frames) = outbox.pop_all().await {
        match R::select2(&mut closed, write.write(coalesce(frames))).await {
            Select2::First(_) => return Ok(()),
            Select2::Second(result) => result.map_err(|e| e.to_string())?,
        }
    }
    Ok(())
}

/// Joins neighbouring small pieces, so that many small frames become one write.
fn coalesce(frames: VecDeque<(Vec<Bytes>, usize)>) -> Vec<Bytes> {
    const JOIN_BYTES_MAX: usize = 4096;
    let is_small = |part: &Bytes| part.len() < JOIN_BYTES_MAX;
    let small = frames.iter().flat_map(|(frame, _)| frame).filter(|part| is_small(part));
    let mut joined = BytesMut::with_capacity(small.map(Bytes::len).sum());
    let mut parts = Vec::new();
    for part in frames.into_iter().flat_map(|(frame, _)| frame) {
        if is_small(&part) {
            joined.extend_from_slice(&part);
            continue;
        }
        if !joined.is_empty() {
            parts.push(joined.split().freeze());
        }
        parts.push(part);
    }
    if !joined.is_empty() {
        parts.push(joined.freeze());
    }
    parts
}

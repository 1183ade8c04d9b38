//! The accepting side of the transport.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use openraft_rt::{AsyncRuntime, Select2};
use quorate_core::wire::{
    AppendRequest, AppendResponse, FRAME_BYTES_MAX, Failure, Fault, Frame, FrameError, FrameKind, Hello, PullRequest,
    PulledPart, Refusal, RefusalCode, Request, Response, SnapshotPart, SnapshotReply, Welcome, decode_frame,
    encode_frame,
};
use quorate_core::{LogId, NodeId, Vote};

use super::config::{TransportConfig, ms};
use super::connection::{Outbox, write_frames};
use super::handshake::{Identity, PeerIdentity, clusters_differ, read_handshake, small_frame};
use super::queue::{PushError, Queue, Signal, detach, lock};
use crate::Platform;
use crate::net::{Listener, Net, ReadHalf, WriteHalf};

/// What a node does for its peers.
pub trait PeerService: Send + Sync + 'static {
    /// Whether the sender of `hello` may talk to this node at all. Versions, clusters that differ, and an expectation
    /// that this is another node, have been checked; whether one of the two may belong to no cluster, has not.
    ///
    /// # Errors
    /// The reason, which is sent to the peer.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;

    /// Works on one request. Dropped when the connection breaks.
    fn call(&self, from: PeerIdentity, request: Request) -> impl Future<Output = Response> + Send;

    /// Works on one stream of appends: one response per request, in order. The stream may end after a response that
    /// is no success. Dropped when the connection breaks.
    fn append(
        &self,
        from: PeerIdentity,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendResponse>;

    /// Receives one snapshot and returns this node's vote. A part is acknowledged when it is taken from the stream;
    /// if that ends before [`SnapshotPart::End`], the snapshot was abandoned. Dropped when the connection breaks.
    fn snapshot(
        &self,
        from: PeerIdentity,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> impl Future<Output = Result<Vote, Failure>> + Send;

    /// The last connection that a peer had dialled is closed.
    fn gone(&self, peer: NodeId);

    /// The parts of this node's newest snapshot, for a peer that pulls one; [`PulledPart::Failed`] if that is older
    /// than `at_least`. Polled for a part only when the peer has room for it. Dropped when the connection breaks.
    fn pull(&self, from: PeerIdentity, at_least: LogId) -> BoxStream<'static, PulledPart>;
}

/// Accepts connections until it is shut down or dropped.
pub struct Server {
    addr: String,
    shared: Arc<Shared>,
}

struct Shared {
    closed: Signal,
    handshakes: AtomicUsize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    id_last: u64,
    open: BTreeMap<u64, (NodeId, Arc<Accepted>)>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Server {
    /// Listens at `addr` and serves every peer that the service admits.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start<P: Platform, S: PeerService>(
        platform: &P,
        addr: &str,
        identity: Identity,
        config: TransportConfig,
        service: Arc<S>,
    ) -> io::Result<Self> {
        let listener = platform.net().listen(addr).await?;
        let addr = listener.local_addr()?;
        let connections = Mutex::default();
        let shared = Arc::new(Shared { closed: Signal::new(), handshakes: AtomicUsize::new(0), connections });
        let context = Arc::new(Context { identity, config, service, shared: shared.clone() });
        detach::<P::Runtime>(accept::<P, S>(listener, context));
        Ok(Self { addr, shared })
    }

    /// The address that is bound.
    pub fn local_addr(&self) -> &str {
        &self.addr
    }

    /// Closes the connections that a node has dialled: it is no member any more, or was seen with a newer boot epoch.
    pub fn disconnect(&self, node: NodeId) {
        let connections = lock(&self.shared.connections);
        for (id, connection) in connections.open.values() {
            if *id == node {
                connection.close();
            }
        }
    }

    /// Stops listening and closes all connections. The tasks end.
    pub fn shutdown(&self) {
        self.shared.closed.set();
        for (_, connection) in lock(&self.shared.connections).open.values() {
            connection.close();
        }
    }
}

struct Context<S> {
    identity: Identity,
    config: TransportConfig,
    service: Arc<S>,
    shared: Arc<Shared>,
}

/// Counts down when dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept<P: Platform, S: PeerService>(mut listener: <P::Net as Net>::Listener, context: Arc<Context<S>>) {
    /// Time for file descriptors to become free.
    const PAUSE_MS: u64 = 50;
    let mut closed = context.shared.closed.subscribe();
    loop {
        let (read, write, from) = match P::Runtime::select2(&mut closed, listener.accept()).await {
            Select2::First(_) => return,
            Select2::Second(Ok(accepted)) => accepted,
            Select2::Second(Err(e)) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                P::Runtime::sleep(ms(PAUSE_MS)).await;
                continue;
            }
        };
        let shared = &context.shared;
        let full = lock(&shared.connections).open.len() >= context.config.connections_max;
        if full || shared.handshakes.load(Ordering::SeqCst) >= context.config.handshakes_max {
            tracing::warn!(from, "too many connections");
            continue;
        }
        shared.handshakes.fetch_add(1, Ordering::SeqCst);
        let context = context.clone();
        detach::<P::Runtime>(async move {
            let shared = context.shared.clone();
            let handshake = Counted(&shared.handshakes);
            let mut closed = shared.closed.subscribe();
            let limit = ms(context.config.handshake_ms);
            let welcome = P::Runtime::timeout(limit, welcome(&context, read, write));
            let welcomed = match P::Runtime::select2(&mut closed, welcome).await {
                Select2::First(_) => return,
                Select2::Second(Ok(Ok(welcomed))) => welcomed,
                Select2::Second(Ok(Err(e))) => return tracing::debug!(from, error = %e, "connection refused"),
                Select2::Second(Err(_)) => return tracing::debug!(from, "no handshake in time"),
            };
            drop(handshake);
            serve::<P::Runtime, S>(context, welcomed, from).await;
        });
    }
}

/// A connection after the handshake.
struct Welcomed<R, W> {
    read: R,
    write: W,
    buf: BytesMut,
    peer: PeerIdentity,
}

/// Shakes hands.
async fn welcome<S: PeerService, R: ReadHalf, W: WriteHalf>(
    context: &Context<S>,
    mut read: R,
    mut write: W,
) -> Result<Welcomed<R, W>, String> {
    let mut buf = BytesMut::new();
    let frame = read_handshake(&mut read, &mut buf).await.map_err(|e| e.to_string())?;
    if frame.kind != FrameKind::Hello {
        return Err("not a handshake".to_owned());
    }
    let hello = Hello::decode(frame.payload).map_err(|e| e.to_string())?;
    let version = match judge(context, &hello) {
        Ok(version) => version,
        Err(refusal) => {
            let frame = small_frame(FrameKind::Refused, 0, 0, refusal.encode());
            write.write(frame).await.map_err(|e| e.to_string())?;
            return Err(format!("node {} ({}): {refusal}", hello.node_id, hello.name));
        }
    };
    let local = context.identity.get();
    let welcome = Welcome {
        version,
        cluster_id: local.cluster_id,
        node_id: local.node_id,
        boot_epoch: local.boot_epoch,
        name: local.name,
    };
    write.write(small_frame(FrameKind::Welcome, 0, 0, welcome.encode())).await.map_err(|e| e.to_string())?;
    let Hello { cluster_id, node_id, boot_epoch, name, .. } = hello;
    Ok(Welcomed { read, write, buf, peer: PeerIdentity { node_id, cluster_id, boot_epoch, name } })
}

/// The protocol version to speak with the sender of a hello.
fn judge<S: PeerService>(context: &Context<S>, hello: &Hello) -> Result<u32, Refusal> {
    let version = hello.version()?;
    let local = context.identity.get();
    let differ = clusters_differ(hello.cluster_id, local.cluster_id);
    let admitted = if differ { Ok(()) } else { context.service.admit(hello) };
    // Whoever was removed may know nobody by the id of today, and has to hear of it all the same.
    if admitted.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::Removed) {
        return admitted.map(|()| version);
    }
    if hello.expect.is_some_and(|id| id != local.node_id) {
        return Err(Refusal::new(RefusalCode::NotThisNode, format!("this is node {}", local.node_id)));
    }
    if differ {
        let text = format!("this node belongs to cluster {}, you to {}", local.cluster_id, hello.cluster_id);
        return Err(Refusal::new(RefusalCode::OtherCluster, text));
    }
    admitted.map(|()| version)
}

/// The accepting side of one stream.
struct LaneIn {
    /// Received requests: what and payload.
    items: Queue<(u8, Bytes)>,
    /// Set when the peer wants no more answers.
    ended: Signal,
}

impl LaneIn {
    fn end(&self) {
        self.items.close();
        self.ended.set();
    }
}

/// The accepting side of one connection.
struct Accepted {
    outbox: Outbox,
    closed: Signal,
    lanes: Mutex<Lanes>,
    in_flight: AtomicUsize,
}

#[derive(Default)]
struct Lanes {
    /// Ids rise, so anything up to here that is not open has ended.
    id_last: u64,
    open: BTreeMap<u64, Arc<LaneIn>>,
}

impl Accepted {
    fn close(&self) {
        self.closed.set();
        self.outbox.close();
        let lanes = std::mem::take(&mut lock(&self.lanes).open);
        for lane in lanes.into_values() {
            lane.end();
        }
    }

    /// Sends a frame. A peer that lets its answers pile up is disconnected.
    fn push(&self, frame: Vec<Bytes>) {
        let bytes = frame.iter().map(Bytes::len).sum();
        if self.outbox.push(frame, bytes) == Err(PushError::Full) {
            self.close();
        }
    }

    fn respond(&self, id: u64, response: &Response) {
        let encode = |response: &Response| {
            let (what, payload) = response.encode();
            encode_frame(FrameKind::Response, what, id, payload)
        };
        match encode(response) {
            Ok(frame) => self.push(frame),
            Err(e) => {
                let failure = Failure::unknown(Fault::Other(format!("the response: {e}")));
                self.push(encode(&Response::Failed(failure)).expect("a failure is small"));
            }
        }
    }

    fn end_lane(&self, id: u64) {
        let lane = lock(&self.lanes).open.remove(&id);
        if let Some(lane) = lane {
            lane.end();
            self.push(small_frame(FrameKind::StreamEnd, 0, id, vec![]));
        }
    }
}

async fn serve<R: AsyncRuntime, S: PeerService>(
    context: Arc<Context<S>>,
    welcomed: Welcomed<impl ReadHalf, impl WriteHalf>,
    from: String,
) {
    let Welcomed { read, write, buf, peer } = welcomed;
    let connection = Arc::new(Accepted {
        outbox: Queue::new(context.config.queue_frames_max, context.config.queue_bytes_max),
        closed: Signal::new(),
        lanes: Mutex::default(),
        in_flight: AtomicUsize::new(0),
    });
    let id = {
        let mut connections = lock(&context.shared.connections);
        connections.id_last += 1;
        let id = connections.id_last;
        connections.open.insert(id, (peer.node_id, connection.clone()));
        id
    };
    if context.shared.closed.is_set() {
        connection.close();
    }
    let writer = connection.clone();
    detach::<R>(async move {
        // The reader says why the connection broke.
        let _ = write_frames::<R>(&writer.outbox, &writer.closed, write).await;
        writer.close();
    });
    if let Err(reason) = receive::<R, S>(&context, &connection, &peer, read, buf).await {
        tracing::debug!(from, peer = %peer.node_id, reason, "connection closed");
    }
    connection.close();
    let is_gone = {
        let mut connections = lock(&context.shared.connections);
        connections.open.remove(&id);
        connections.open.values().all(|(node, _)| *node != peer.node_id)
    };
    if is_gone && !context.shared.closed.is_set() {
        context.service.gone(peer.node_id);
    }
}

/// Reads frames until the connection breaks; the error says why.
async fn receive<R: AsyncRuntime, S: PeerService>(
    context: &Arc<Context<S>>,
    connection: &Arc<Accepted>,
    peer: &PeerIdentity,
    mut read: impl ReadHalf,
    mut buf: BytesMut,
) -> Result<(), String> {
    let mut closed = connection.closed.subscribe();
    let idle_max = ms(context.config.idle_ms_max);
    loop {
        while let Some(frame) = decode_frame(&mut buf, FRAME_BYTES_MAX).map_err(|e: FrameError| e.to_string())? {
            handle::<R, S>(context, connection, peer, frame)?;
        }
        match R::select2(&mut closed, R::timeout(idle_max, read.read(&mut buf))).await {
            Select2::First(_) => return Ok(()),
            Select2::Second(Ok(Ok(0))) => return Err("closed by the peer".to_owned()),
            Select2::Second(Ok(Ok(_))) => {}
            Select2::Second(Ok(Err(e))) => return Err(e.to_string()),
            Select2::Second(Err(_)) => return Err("the peer is silent".to_owned()),
        }
    }
}

fn handle<R: AsyncRuntime, S: PeerService>(
    context: &Arc<Context<S>>,
    connection: &Arc<Accepted>,
    peer: &PeerIdentity,
    frame: Frame,
) -> Result<(), String> {
    match frame.kind {
        FrameKind::Ping => connection.push(small_frame(FrameKind::Pong, 0, frame.id, vec![])),
        FrameKind::Request => match Request::decode(frame.what, frame.payload) {
            Ok(request) => start_call::<R, S>(context, connection, peer, frame.id, request),
            Err(e) => {
                tracing::warn!(peer = %peer.node_id, error = %e, "invalid request");
                let failure = Failure::not_applied(Fault::Invalid(e.to_string()));
                connection.respond(frame.id, &Response::Failed(failure));
            }
        },
        FrameKind::StreamItem => {
            let lane = match lane::<R, S>(context, connection, peer, &frame) {
                Some(lane) => lane,
                None => return Ok(()),
            };
            let bytes = frame.payload.len();
            if lane.items.push((frame.what, frame.payload), bytes) == Err(PushError::Full) {
                return Err("more unanswered requests in a stream than agreed".to_owned());
            }
        }
        FrameKind::StreamEnd => {
            let lane = lock(&connection.lanes).open.remove(&frame.id);
            if let Some(lane) = lane {
                lane.end();
            }
        }
        kind => return Err(format!("unexpected frame of kind {kind:?}")),
    }
    Ok(())
}

fn start_call<R: AsyncRuntime, S: PeerService>(
    context: &Arc<Context<S>>,
    connection: &Arc<Accepted>,
    peer: &PeerIdentity,
    id: u64,
    request: Request,
) {
    // Raft's own requests are few, and must not starve behind those of clients.
    let of_raft =
        !matches!(request, Request::Write(_) | Request::ReadIndex | Request::Founding(_) | Request::Member(_));
    let under_way = connection.in_flight.fetch_add(1, Ordering::SeqCst);
    if !of_raft && under_way >= context.config.requests_max {
        connection.in_flight.fetch_sub(1, Ordering::SeqCst);
        return connection.respond(id, &Response::Failed(Failure::not_applied(Fault::Overloaded)));
    }
    let (context, connection, peer) = (context.clone(), connection.clone(), peer.clone());
    detach::<R>(async move {
        let _counted = Counted(&connection.in_flight);
        let mut closed = connection.closed.subscribe();
        // In memory of its own: it takes kilobytes, which would be moved each time that this task is.
        let call = Box::pin(context.service.call(peer, request));
        if let Select2::Second(response) = R::select2(&mut closed, call).await {
            connection.respond(id, &response);
        }
    });
}

/// The stream that a frame belongs to, opened if it is the first; `None` if the stream has ended.
fn lane<R: AsyncRuntime, S: PeerService>(
    context: &Arc<Context<S>>,
    connection: &Arc<Accepted>,
    peer: &PeerIdentity,
    frame: &Frame,
) -> Option<Arc<LaneIn>> {
    let (id, config) = (frame.id, &context.config);
    let mut lanes = lock(&connection.lanes);
    if id <= lanes.id_last {
        return lanes.open.get(&id).cloned();
    }
    lanes.id_last = id;
    if lanes.open.len() >= config.streams_max {
        drop(lanes);
        tracing::warn!(peer = %peer.node_id, "too many streams on a connection");
        connection.push(small_frame(FrameKind::StreamEnd, 0, id, vec![]));
        return None;
    }
    let items = Queue::new(config.stream_requests_max, config.stream_bytes_max + FRAME_BYTES_MAX);
    let lane = Arc::new(LaneIn { items, ended: Signal::new() });
    lanes.open.insert(id, lane.clone());
    drop(lanes);
    let (context, connection, peer, source) = (context.clone(), connection.clone(), peer.clone(), lane.clone());
    let what = frame.what;
    detach::<R>(async move {
        let (closed, ended) = (connection.closed.subscribe(), source.ended.subscribe());
        let work = async {
            match what {
                0 => serve_appends(&context, &connection, peer, id, source).await,
                what if PullRequest::opens(what) => serve_pull::<R, S>(&context, &connection, peer, id, source).await,
                _ => serve_snapshot(&context, &connection, peer, id, source).await,
            }
        };
        R::select3(closed, ended, work).await;
        connection.end_lane(id);
    });
    Some(lane)
}

async fn serve_appends<S: PeerService>(
    context: &Context<S>,
    connection: &Accepted,
    peer: PeerIdentity,
    id: u64,
    source: Arc<LaneIn>,
) {
    let node_id = peer.node_id;
    let requests = unfold(source, move |source| async move {
        let (_, payload) = source.items.pop().await?;
        match AppendRequest::decode(payload) {
            Ok(request) => Some((request, source)),
            Err(e) => {
                tracing::warn!(peer = %node_id, error = %e, "invalid append");
                None
            }
        }
    });
    let mut responses = context.service.append(peer, requests.boxed());
    while let Some(response) = responses.next().await {
        connection.push(small_frame(FrameKind::StreamReply, 0, id, response.encode()));
    }
}

async fn serve_snapshot<S: PeerService>(
    context: &Context<S>,
    connection: &Arc<Accepted>,
    peer: PeerIdentity,
    id: u64,
    source: Arc<LaneIn>,
) {
    let reply = move |connection: &Accepted, reply: SnapshotReply| {
        let (what, payload) = reply.encode();
        connection.push(small_frame(FrameKind::StreamReply, what, id, payload));
    };
    let node_id = peer.node_id;
    let parts = unfold((source, connection.clone()), move |(source, connection)| async move {
        let (what, payload) = source.items.pop().await?;
        match SnapshotPart::decode(what, payload) {
            Ok(part) => {
                reply(&connection, SnapshotReply::Taken);
                Some((part, (source, connection)))
            }
            Err(e) => {
                tracing::warn!(peer = %node_id, error = %e, "invalid part of a snapshot");
                None
            }
        }
    });
    let last = match context.service.snapshot(peer, parts.boxed()).await {
        Ok(vote) => SnapshotReply::Installed(vote),
        Err(failure) => SnapshotReply::Failed(failure),
    };
    reply(connection, last);
}

async fn serve_pull<R: AsyncRuntime, S: PeerService>(
    context: &Context<S>,
    connection: &Accepted,
    peer: PeerIdentity,
    id: u64,
    source: Arc<LaneIn>,
) {
    let mut parts = None;
    // A peer that asks for nothing must not hold on to a snapshot for ever.
    while let Ok(Some((what, payload))) = R::timeout(ms(context.config.chunk_idle_ms), source.items.pop()).await {
        let parts = match (PullRequest::decode(what, payload), &mut parts) {
            (Ok(PullRequest::Begin { at_least }), None) => parts.insert(context.service.pull(peer.clone(), at_least)),
            (Ok(PullRequest::Next), Some(parts)) => parts,
            _ => return tracing::warn!(peer = %peer.node_id, "invalid request in a pull of a snapshot"),
        };
        let Some(part) = parts.next().await else { return };
        let (what, payload) = part.encode();
        match encode_frame(FrameKind::StreamReply, what, id, payload) {
            Ok(frame) => connection.push(frame),
            Err(error) => return tracing::warn!(peer = %peer.node_id, %error, "a part of a snapshot"),
        }
        if part.is_last() {
            return;
        }
    }
}

//! The transport over a network in memory, on tokio.

mod memory;
mod streams;

use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::stream::{BoxStream, StreamExt};
use openraft_rt::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use quorate_core::wire::{
    AppendRequest, AppendResponse, FRAME_BYTES_MAX, Failure, Fault, FrameKind, Hello, PulledPart, Refusal, RefusalCode,
    Request, Response, SnapshotPart, Welcome,
};
use quorate_core::{ClusterId, LogId, NodeId, Vote};
use tokio::sync::watch;

use self::memory::{MemoryNet, TestPlatform};
use super::handshake::{read_handshake, small_frame};
use super::*;
use crate::net::{Listener, Net, ReadHalf, WriteHalf};

const CLUSTER: ClusterId = ClusterId(77);
const SERVER: NodeId = NodeId(2);
const SECONDS: Duration = Duration::from_secs(10);

/// Runs a test on tokio; none may hang.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    TokioRuntime::new(2).block_on(async {
        TokioRuntime::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    });
}

/// Answers founding messages: `hang` never, everything else with the same bytes.
struct TestService {
    refuse: Mutex<Option<Refusal>>,
    hellos: Mutex<Vec<Hello>>,
    /// Peers whose last connection has closed.
    gone: watch::Sender<u64>,
    /// Append requests or chunks taken, of all streams.
    taken: watch::Sender<u64>,
    /// Streams that have ended.
    ended: watch::Sender<u64>,
    /// An append stream takes a request only once this is above the number of those taken.
    allowed: watch::Sender<u64>,
}

impl TestService {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            refuse: Mutex::new(None),
            hellos: Mutex::default(),
            gone: watch::Sender::new(0),
            taken: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            allowed: watch::Sender::new(u64::MAX),
        })
    }
}

/// Counts an ended stream, however it ends.
struct Ended(Arc<watch::Sender<u64>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n += 1);
    }
}

async fn reaches(sender: &watch::Sender<u64>, wanted: u64) {
    let mut receiver = sender.subscribe();
    receiver.wait_for(|n| *n >= wanted).await.unwrap();
}

impl PeerService for TestService {
    fn pull(&self, _: PeerIdentity, at_least: LogId) -> BoxStream<'static, PulledPart> {
        let last = match at_least.index {
            0 => PulledPart::Failed(Failure::not_applied(Fault::NotReady("none".to_owned()))),
            _ => PulledPart::End(Bytes::new()),
        };
        let chunk = |n: u64| PulledPart::Chunk(n.to_le_bytes().to_vec().into());
        futures_util::stream::iter((0..at_least.index).map(chunk).chain([last])).boxed()
    }

    fn gone(&self, _: NodeId) {
        self.gone.send_modify(|n| *n += 1);
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self.hellos.lock().unwrap().push(hello.clone());
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn call(&self, _from: PeerIdentity, request: Request) -> Response {
        match request {
            Request::Founding(message) if &message[..] == b"hang" => pending().await,
            Request::Founding(message) => Response::Founding(message),
            _ => Response::NotLeader(None),
        }
    }

    fn append(
        &self,
        _from: PeerIdentity,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendResponse> {
        let (taken, allowed) = (self.taken.clone(), self.allowed.clone());
        let ended = Ended(Arc::new(self.ended.clone()));
        requests
            .then(move |request| {
                let _ended = &ended;
                let (taken, allowed) = (taken.clone(), allowed.clone());
                async move {
                    let next = *taken.borrow() + 1;
                    reaches(&allowed, next).await;
                    taken.send_modify(|n| *n += 1);
                    AppendResponse::Success(request.last())
                }
            })
            .boxed()
    }

    async fn snapshot(
        &self,
        _from: PeerIdentity,
        mut parts: BoxStream<'static, SnapshotPart>,
    ) -> Result<Vote, Failure> {
        let _ended = Ended(Arc::new(self.ended.clone()));
        let mut begun = None;
        loop {
            let next = *self.taken.borrow() + 1;
            reaches(&self.allowed, next).await;
            match parts.next().await {
                Some(SnapshotPart::Begin { vote, .. }) => begun = Some(vote),
                Some(SnapshotPart::Chunk(_)) => self.taken.send_modify(|n| *n += 1),
                Some(SnapshotPart::End(trailer)) if &trailer[..] == b"good" => return Ok(begun.unwrap()),
                _ => return Err(Failure::not_applied(Fault::Invalid("bad trailer".to_owned()))),
            }
        }
    }
}

fn identity(node: u64, cluster_id: ClusterId) -> Identity {
    let (node_id, name) = (NodeId(node), format!("n{node}"));
    Identity::new(LocalIdentity { cluster_id, node_id, boot_epoch: 1, name, membership: None })
}

/// One node that accepts and one that dials.
struct Pair {
    net: MemoryNet,
    service: Arc<TestService>,
    server: Server,
    peers: Peers<TestPlatform>,
    target: Target,
}

async fn pair(config: TransportConfig) -> Pair {
    let net = MemoryNet::new();
    let platform = TestPlatform(net.clone());
    let service = TestService::new();
    let server = Server::start(&platform, "b:1", identity(2, CLUSTER), config.clone(), service.clone()).await.unwrap();
    let peers = Peers::new(platform, identity(1, CLUSTER), config);
    Pair { net, service, server, peers, target: target() }
}

fn target() -> Target {
    Target { node: Some(SERVER), addrs: vec!["b:1".to_owned()] }
}

fn founding(text: &str) -> Request {
    Request::Founding(Bytes::copy_from_slice(text.as_bytes()))
}

impl Pair {
    async fn echo(&self, text: &str) -> Result<(), CallError> {
        match self.peers.call(&self.target, &founding(text), SECONDS).await? {
            Response::Founding(bytes) => assert_eq!(bytes, text.as_bytes()),
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

#[test]
fn requests_are_in_flight_together_and_get_their_own_responses() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let hang = founding("hang");
        let mut hanging = Box::pin(pair.peers.call(&pair.target, &hang, SECONDS));
        assert!(futures_util::poll!(&mut hanging).is_pending());
        let calls = (0..200).map(|i| {
            let pair = &pair;
            async move { pair.echo(&format!("message {i}")).await }
        });
        assert!(join_all(calls).await.into_iter().all(|result| result.is_ok()));
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 1);
        assert_eq!(pair.peers.peer_identity(SERVER).unwrap().name, "n2");
        pair.echo(&"large ".repeat(1_000_000)).await.unwrap();
    });
}

#[test]
fn a_deadline_leaves_the_outcome_unknown_and_the_connection_usable() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let result = pair.peers.call(&pair.target, &founding("hang"), Duration::from_millis(50)).await;
        assert_eq!(result, Err(CallError::Unknown(Lost::Timeout)));
        pair.echo("again").await.unwrap();
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 1);
    });
}

#[test]
fn a_request_that_fits_no_frame_is_not_sent() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let request = Request::Founding(Bytes::from(vec![0; FRAME_BYTES_MAX]));
        let result = pair.peers.call(&pair.target, &request, SECONDS).await;
        assert!(matches!(result, Err(CallError::NotSent(NotSent::TooLarge { .. }))));
        pair.echo("again").await.unwrap();
    });
}

#[test]
fn a_broken_connection_leaves_the_outcome_unknown_and_is_replaced() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        pair.echo("first").await.unwrap();
        let hang = founding("hang");
        let mut hanging = Box::pin(pair.peers.call(&pair.target, &hang, SECONDS));
        assert!(futures_util::poll!(&mut hanging).is_pending());
        pair.net.cut_all();
        assert!(matches!(hanging.await, Err(CallError::Unknown(Lost::Disconnected(_)))));
        pair.echo("second").await.unwrap();
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 2);
    });
}

#[test]
fn an_unreachable_peer_fails_fast_and_is_dialled_again() {
    run(async {
        let net = MemoryNet::new();
        let platform = TestPlatform(net.clone());
        let peers = Peers::new(platform.clone(), identity(1, CLUSTER), TransportConfig::default());
        for _ in 0..3 {
            let result = peers.call(&target(), &founding("x"), SECONDS).await;
            assert!(matches!(result, Err(CallError::NotSent(NotSent::Unreachable(_)))));
        }
        let config = TransportConfig::default();
        let _server = Server::start(&platform, "b:1", identity(2, CLUSTER), config, TestService::new()).await.unwrap();
        while peers.call(&target(), &founding("x"), SECONDS).await.is_err() {
            TokioRuntime::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn the_next_address_is_tried() {
    run(async {
        let mut pair = pair(TransportConfig::default()).await;
        pair.target.addrs.insert(0, "nobody:1".to_owned());
        pair.echo("x").await.unwrap();
    });
}

#[test]
fn refusals_arrive_with_their_reason() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let dial = |cluster, target: Target| {
            let peers = Peers::new(TestPlatform(pair.net.clone()), identity(3, cluster), TransportConfig::default());
            async move {
                match peers.call(&target, &founding("x"), SECONDS).await {
                    Err(CallError::NotSent(NotSent::Refused(refusal))) => Some(refusal.code),
                    Ok(_) => None,
                    Err(e) => panic!("{e}"),
                }
            }
        };
        assert_eq!(dial(ClusterId(5), target()).await, Some(RefusalCode::OtherCluster));
        let other = Target { node: Some(NodeId(9)), ..target() };
        assert_eq!(dial(CLUSTER, other.clone()).await, Some(RefusalCode::NotThisNode));
        assert_eq!(dial(ClusterId::NONE, Target { node: None, ..target() }).await, None);
        *pair.service.refuse.lock().unwrap() = Some(Refusal::new(RefusalCode::Removed, "gone"));
        assert_eq!(dial(CLUSTER, target()).await, Some(RefusalCode::Removed));
        assert_eq!(dial(CLUSTER, other).await, Some(RefusalCode::Removed), "whomever it looked for");
        assert_eq!(dial(ClusterId(5), target()).await, Some(RefusalCode::OtherCluster));
    });
}

#[test]
fn an_older_boot_epoch_is_refused() {
    run(async {
        let net = MemoryNet::new();
        let platform = TestPlatform(net.clone());
        let peers = Peers::new(platform.clone(), identity(1, CLUSTER), TransportConfig::default());
        let mut listener = net.listen("b:1").await.unwrap();
        let epochs = async {
            for boot_epoch in [5, 4] {
                let (mut read, mut write, _) = listener.accept().await.unwrap();
                read_handshake(&mut read, &mut BytesMut::new()).await.unwrap();
                let welcome =
                    Welcome { version: 1, cluster_id: CLUSTER, node_id: SERVER, boot_epoch, name: String::new() };
                write.write(small_frame(FrameKind::Welcome, 0, 0, welcome.encode())).await.unwrap();
            }
        };
        let calls = async {
            // Admitted, and then disconnected, before or after the request was sent.
            let result = peers.call(&target(), &founding("x"), SECONDS).await;
            let disconnected = matches!(
                result,
                Err(CallError::Unknown(Lost::Disconnected(_)) | CallError::NotSent(NotSent::Unreachable(_)))
            );
            assert!(disconnected, "{result:?}");
            let result = peers.call(&target(), &founding("x"), SECONDS).await;
            let Err(CallError::NotSent(NotSent::Refused(refusal))) = result else { panic!("{result:?}") };
            assert_eq!(refusal.code, RefusalCode::StaleEpoch);
        };
        futures_util::future::join(epochs, calls).await;
    });
}

#[test]
fn joining_a_cluster_means_a_new_handshake() {
    run(async {
        let net = MemoryNet::new();
        let platform = TestPlatform(net.clone());
        let (service, config) = (TestService::new(), TransportConfig::default());
        let here = identity(1, ClusterId::NONE);
        let there = identity(2, ClusterId::NONE);
        let server = Server::start(&platform, "b:1", there, config.clone(), service.clone()).await.unwrap();
        let peers = Peers::new(platform, here.clone(), config);
        let pair = Pair { net, service, server, peers, target: target() };
        pair.echo("blank").await.unwrap();
        here.set_cluster(CLUSTER);
        pair.echo("member").await.unwrap();
        let clusters: Vec<_> = pair.service.hellos.lock().unwrap().iter().map(|hello| hello.cluster_id).collect();
        assert_eq!(clusters, [ClusterId::NONE, CLUSTER]);
    });
}

#[test]
fn garbage_closes_the_connection_and_nothing_else() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            cluster_id: CLUSTER,
            node_id: NodeId(6),
            boot_epoch: 1,
            name: String::new(),
            expect: None,
            purpose: quorate_core::wire::Purpose::Control,
            membership: None,
        };
        let hello = small_frame(FrameKind::Hello, 0, 0, hello.encode()).concat();
        let huge = u32::MAX.to_le_bytes().to_vec();
        let unexpected = small_frame(FrameKind::Welcome, 0, 0, vec![]).concat();
        let openings = [vec![0; 4096], huge.clone(), b"GET / HTTP/1.1\r\n\r\n".repeat(300), unexpected.clone()];
        let late = [vec![7; 100], huge, unexpected].map(|garbage| [hello.clone(), garbage].concat());
        for garbage in openings.into_iter().chain(late) {
            let (mut read, mut write) = pair.net.connect("b:1").await.unwrap();
            // The peer may have hung up before it has read everything.
            let _ = write.write(vec![garbage.into()]).await;
            let mut buf = BytesMut::new();
            while !matches!(read.read(&mut buf).await, Ok(0) | Err(_)) {}
        }
        // A request that cannot be understood is answered, as is what follows it.
        let (mut read, mut write) = pair.net.connect("b:1").await.unwrap();
        let request = small_frame(FrameKind::Request, 99, 1, vec![]).concat();
        write.write(vec![[hello, request].concat().into()]).await.unwrap();
        let mut buf = BytesMut::new();
        assert_eq!(read_handshake(&mut read, &mut buf).await.unwrap().kind, FrameKind::Welcome);
        let frame = read_handshake(&mut read, &mut buf).await.unwrap();
        let response = Response::decode(frame.what, frame.payload);
        assert!(matches!(response, Ok(Response::Failed(Failure { unknown: false, fault: Fault::Invalid(_) }))));
        pair.echo("still there").await.unwrap();
    });
}

/// Accepts one connection, shakes hands, and then neither reads nor writes.
async fn stalled_peer(net: &MemoryNet) -> impl Future<Output = (memory::MemoryRead, memory::MemoryWrite)> + use<> {
    let mut listener = net.listen("b:1").await.unwrap();
    async move {
        let (mut read, mut write, _) = listener.accept().await.unwrap();
        read_handshake(&mut read, &mut BytesMut::new()).await.unwrap();
        let welcome = Welcome { version: 1, cluster_id: CLUSTER, node_id: SERVER, boot_epoch: 1, name: String::new() };
        write.write(small_frame(FrameKind::Welcome, 0, 0, welcome.encode())).await.unwrap();
        (read, write)
    }
}

#[test]
fn a_full_send_queue_refuses() {
    run(async {
        let net = MemoryNet::new();
        let stalled = stalled_peer(&net).await;
        let config = TransportConfig { queue_frames_max: 4, ..Default::default() };
        let peers = Peers::new(TestPlatform(net.clone()), identity(1, CLUSTER), config);
        let calls = async {
            let request = founding(&"x".repeat(10_000));
            let target = target();
            let calls = (0..20).map(|_| peers.call(&target, &request, Duration::from_millis(300)));
            let results = join_all(calls).await;
            let refused = |r: &&Result<_, _>| **r == Err(CallError::NotSent(NotSent::Overloaded));
            let unknown = |r: &&Result<_, _>| **r == Err(CallError::Unknown(Lost::Timeout));
            assert!(results.iter().filter(refused).count() >= 10);
            assert!(results.iter().filter(unknown).count() >= 4);
        };
        futures_util::future::join(calls, stalled).await;
    });
}

#[test]
fn a_silent_connection_is_given_up() {
    run(async {
        let net = MemoryNet::new();
        let stalled = stalled_peer(&net).await;
        let config = TransportConfig { ping_ms: 20, silence_ms_max: 100, ..Default::default() };
        let peers = Peers::new(TestPlatform(net.clone()), identity(1, CLUSTER), config);
        let (target, request) = (target(), founding("x"));
        let call = peers.call(&target, &request, SECONDS);
        let (result, _halves) = futures_util::future::join(call, stalled).await;
        assert!(matches!(result, Err(CallError::Unknown(Lost::Disconnected(why))) if why.contains("silent")));
    });
}

#[test]
fn pings_keep_an_idle_connection_open() {
    run(async {
        let config = TransportConfig { ping_ms: 20, silence_ms_max: 200, idle_ms_max: 200, ..Default::default() };
        let pair = pair(config).await;
        pair.echo("first").await.unwrap();
        TokioRuntime::sleep(Duration::from_millis(700)).await;
        pair.echo("second").await.unwrap();
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 1);
    });
}

#[test]
fn too_many_requests_at_once_are_refused_as_not_applied() {
    run(async {
        let pair = pair(TransportConfig { requests_max: 2, ..Default::default() }).await;
        let (hang, target) = (founding("hang"), target());
        let calls = (0..5).map(|_| pair.peers.call(&target, &hang, Duration::from_millis(300)));
        let results = join_all(calls).await;
        let refused = Ok(Response::Failed(Failure::not_applied(Fault::Overloaded)));
        assert_eq!(results.iter().filter(|r| **r == refused).count(), 3);
    });
}

#[test]
fn handshakes_are_limited_in_number_and_time() {
    run(async {
        let pair = pair(TransportConfig { handshakes_max: 1, handshake_ms: 100, ..Default::default() }).await;
        let (mut first, _write) = pair.net.connect("b:1").await.unwrap();
        let (mut second, _write) = pair.net.connect("b:1").await.unwrap();
        let mut buf = BytesMut::new();
        assert_eq!(second.read(&mut buf).await.unwrap(), 0);
        assert_eq!(first.read(&mut buf).await.unwrap(), 0);
        pair.echo("now there is room").await.unwrap();
    });
}

#[test]
fn shutdown_ends_everything() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        pair.echo("first").await.unwrap();
        let hang = founding("hang");
        let mut hanging = Box::pin(pair.peers.call(&pair.target, &hang, SECONDS));
        assert!(futures_util::poll!(&mut hanging).is_pending());
        pair.server.shutdown();
        assert!(matches!(hanging.await, Err(CallError::Unknown(Lost::Disconnected(_)))));
        pair.peers.shutdown();
        assert_eq!(pair.echo("later").await, Err(CallError::NotSent(NotSent::Stopped)));
        while pair.net.halves() > 0 {
            TokioRuntime::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn dropping_the_last_handle_ends_the_tasks() {
    run(async {
        let Pair { net, server, peers, target, .. } = pair(TransportConfig::default()).await;
        peers.call(&target, &founding("x"), SECONDS).await.unwrap();
        assert_eq!(net.halves(), 4);
        drop(peers.clone());
        peers.call(&target, &founding("x"), SECONDS).await.unwrap();
        drop(peers);
        while net.halves() > 0 {
            TokioRuntime::sleep(Duration::from_millis(1)).await;
        }
        drop(server);
    });
}

//! openraft over the transport: three nodes with stores in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeBounds;

use futures_util::TryStreamExt;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{Config, SnapshotPolicy};
use openraft_rt::WatchReceiver;
use openraft_rt_tokio::TokioInstant;
use quorate_core::Member;
use quorate_core::wire::ForwardWrite;

use super::*;
use crate::peer_service::{NodeService, RaftPeerService, SnapshotReceive, SnapshotSink};
use crate::raft_network::{NetworkFactory, SnapshotChunks, SnapshotSource};
use crate::types::{Command, Types, log_id_from, raft};

type T = Types<TokioRuntime>;
type Raft = openraft::Raft<T, Store>;
type Service = RaftPeerService<TestPlatform, Store, Sink, Node>;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<LogInner>>);

#[derive(Default)]
struct LogInner {
    vote: Option<raft::Vote>,
    purged: Option<raft::LogId>,
    entries: BTreeMap<u64, raft::Entry>,
}

impl RaftLogReader<T> for Log {
    async fn try_get_log_entries<B: RangeBounds<u64> + Clone + std::fmt::Debug + Send>(
        &mut self,
        range: B,
    ) -> io::Result<Vec<raft::Entry>> {
        Ok(self.0.lock().unwrap().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<raft::Vote>> {
        Ok(self.0.lock().unwrap().vote)
    }
}

impl RaftLogStorage<T> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<T>> {
        let log = self.0.lock().unwrap();
        let last = log.entries.values().last().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &raft::Vote) -> io::Result<()> {
        self.0.lock().unwrap().vote = Some(*vote);
        Ok(())
    }

    async fn append<I: IntoIterator<Item = raft::Entry> + Send>(
        &mut self,
        entries: I,
        callback: IOFlushed<T>,
    ) -> io::Result<()> {
        self.0.lock().unwrap().entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<raft::LogId>) -> io::Result<()> {
        self.0.lock().unwrap().entries.split_off(&last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: raft::LogId) -> io::Result<()> {
        let mut log = self.0.lock().unwrap();
        log.entries = log.entries.split_off(&(upto.index + 1));
        log.purged = Some(upto);
        Ok(())
    }
}

/// The commands so far.
#[derive(Clone, Default)]
struct State {
    meta: raft::SnapshotMeta,
    commands: Vec<Bytes>,
}

#[derive(Clone, Default)]
struct Store {
    state: Arc<Mutex<State>>,
    snapshot: Arc<Mutex<Option<State>>>,
}

impl SnapshotSource for State {
    type Chunks = std::vec::IntoIter<Bytes>;

    fn chunks(&self) -> Self::Chunks {
        self.commands.clone().into_iter()
    }
}

impl SnapshotChunks for std::vec::IntoIter<Bytes> {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.next())
    }

    fn trailer(&self) -> Bytes {
        Bytes::from_static(b"end")
    }
}

type OpenraftSnapshot =
    openraft::Snapshot<openraft::vote::leader_id_std::CommittedLeaderId<u64>, NodeId, Member, State>;

fn snapshot_of(state: State) -> OpenraftSnapshot {
    openraft::Snapshot { meta: state.meta.clone(), snapshot: state }
}

impl RaftSnapshotBuilder<T> for Store {
    type SnapshotData = State;

    async fn build_snapshot(&mut self) -> io::Result<OpenraftSnapshot> {
        let state = self.state.lock().unwrap().clone();
        *self.snapshot.lock().unwrap() = Some(state.clone());
        Ok(snapshot_of(state))
    }
}

impl RaftStateMachine<T> for Store {
    type SnapshotData = State;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<raft::LogId>, raft::StoredMembership)> {
        let meta = self.state.lock().unwrap().meta.clone();
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: futures_util::Stream<Item = io::Result<EntryResponder<T>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut state = self.state.lock().unwrap();
            state.meta.last_log_id = Some(entry.log_id);
            match entry.payload {
                raft::Payload::Normal(command) => state.commands.push(command.0),
                raft::Payload::Membership(m) => {
                    state.meta.last_membership = raft::StoredMembership::new(Some(entry.log_id), m);
                }
                raft::Payload::Blank => {}
            }
            if let Some(responder) = responder {
                responder.send(Default::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &raft::SnapshotMeta, snapshot: State) -> io::Result<()> {
        let state = State { meta: meta.clone(), commands: snapshot.commands };
        *self.snapshot.lock().unwrap() = Some(state.clone());
        *self.state.lock().unwrap() = state;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OpenraftSnapshot>> {
        Ok(self.snapshot.lock().unwrap().clone().map(snapshot_of))
    }
}

struct Sink;

impl SnapshotSink<State> for Sink {
    type Receiver = State;

    async fn begin(&self, meta: raft::SnapshotMeta) -> io::Result<State> {
        Ok(State { meta, commands: Vec::new() })
    }
}

impl SnapshotReceive<State> for State {
    async fn chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.commands.push(chunk);
        Ok(())
    }

    async fn finish(self, _trailer: Bytes) -> io::Result<State> {
        Ok(self)
    }
}

struct Node;

impl NodeService for Node {
    fn admit(&self, _hello: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    async fn write(&self, _from: PeerIdentity, _write: ForwardWrite) -> Response {
        Response::NotLeader(None)
    }

    async fn read_index(&self, _from: PeerIdentity) -> Response {
        Response::NotLeader(None)
    }

    async fn founding(&self, _from: PeerIdentity, message: Bytes) -> Response {
        Response::Founding(message)
    }
}

struct Running {
    raft: Raft,
    store: Store,
    _server: Server,
}

fn member(id: u64) -> Member {
    Member { name: format!("n{id}"), peer_addrs: vec![format!("node:{id}")], api_addrs: vec![] }
}

async fn start(net: &MemoryNet, id: u64, quiet_until: TokioInstant) -> Running {
    let (platform, config) = (TestPlatform(net.clone()), TransportConfig::default());
    let identity = identity(id, CLUSTER);
    let service: Arc<Service> = Arc::new(RaftPeerService::new(identity.clone(), quiet_until, Sink, Node));
    let addr = format!("node:{id}");
    let server = Server::start(&platform, &addr, identity.clone(), config.clone(), service.clone()).await.unwrap();
    let peers = Peers::new(platform, identity, config);
    let raft_config = Config {
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        heartbeat_interval: 50,
        election_timeout_min: 300,
        election_timeout_max: 600,
        ..Default::default()
    };
    let store = Store::default();
    let network = NetworkFactory::new(peers);
    let raft = Raft::new(NodeId(id), Arc::new(raft_config), network, Log::default(), store.clone()).await.unwrap();
    service.set_raft(raft.clone());
    Running { raft, store, _server: server }
}

fn now() -> TokioInstant {
    openraft_rt::Instant::now()
}

async fn leader(nodes: &[Running]) -> &Running {
    loop {
        for node in nodes {
            if node.raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex).await.is_ok() {
                return node;
            }
        }
        TokioRuntime::sleep(Duration::from_millis(10)).await;
    }
}

async fn write(nodes: &[Running], command: Bytes) {
    while leader(nodes).await.raft.client_write(Command(command.clone())).await.is_err() {}
}

#[test]
fn a_cluster_elects_replicates_survives_cuts_and_sends_snapshots() {
    run(async {
        let net = MemoryNet::new();
        let mut nodes = vec![start(&net, 1, now()).await, start(&net, 2, now()).await, start(&net, 3, now()).await];
        let members: BTreeMap<_, _> = (1..=3).map(|id| (NodeId(id), member(id))).collect();
        nodes[0].raft.initialize(members).await.unwrap();
        for i in 0..60_u8 {
            write(&nodes, Bytes::from(vec![i; if i % 20 == 0 { 3_000_000 } else { 10 }])).await;
            if i % 10 == 5 {
                net.cut_all();
            }
        }

        // A learner that starts when the log is gone needs the snapshot.
        let at = leader(&nodes).await;
        at.raft.trigger().snapshot().await.unwrap();
        at.raft.wait(Some(SECONDS)).metrics(|m| m.purged.is_some(), "purged").await.unwrap();
        nodes.push(start(&net, 4, now()).await);
        while leader(&nodes).await.raft.add_learner(NodeId(4), member(4), true).await.is_err() {}
        write(&nodes, Bytes::from_static(b"last")).await;

        let last = leader(&nodes).await.raft.metrics().borrow_watched().last_applied.unwrap();
        let expected = leader(&nodes).await.store.state.lock().unwrap().commands.clone();
        for node in &nodes {
            let reached = |m: &openraft::RaftMetrics<T>| m.last_applied >= Some(last);
            node.raft.wait(Some(SECONDS)).metrics(reached, "applied").await.unwrap();
            let got = node.store.state.lock().unwrap().commands.clone();
            assert!(got == expected, "states differ at {}", log_id_from(&last));
        }

        // Leadership is handed over.
        let target =
            (1..=3).map(NodeId).find(|id| nodes[0].raft.metrics().borrow_watched().current_leader != Some(*id));
        let target = target.unwrap();
        leader(&nodes).await.raft.trigger().transfer_leader(target).await.unwrap();
        let changed = |m: &openraft::RaftMetrics<T>| m.current_leader == Some(target);
        nodes[0].raft.wait(Some(SECONDS)).metrics(changed, "transferred").await.unwrap();
        for node in nodes {
            node.raft.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_vote_is_asked_only_for_oneself_in_ones_cluster_and_not_too_soon() {
    run(async {
        let net = MemoryNet::new();
        let quiet_until = now() + Duration::from_millis(400);
        let _node = start(&net, 1, quiet_until).await;
        let voter = Target { node: Some(NodeId(1)), addrs: vec!["node:1".to_owned()] };
        let ask = |cluster, vote_for: u64| {
            let peers = Peers::new(TestPlatform(net.clone()), identity(2, cluster), TransportConfig::default());
            let voter = voter.clone();
            let vote = Vote { term: 1, node: NodeId(vote_for), committed: false };
            let request = quorate_core::wire::VoteRequest { vote, last_log_id: None, leadership_transfer: false };
            async move { peers.call(&voter, &Request::Vote(request), SECONDS).await.unwrap() }
        };
        let early = ask(CLUSTER, 2).await;
        assert!(matches!(early, Response::Failed(Failure { unknown: false, fault: Fault::NotReady(_) })));
        TokioRuntime::sleep(Duration::from_millis(450)).await;
        assert!(matches!(ask(CLUSTER, 3).await, Response::Failed(Failure { fault: Fault::Invalid(_), .. })));
        assert!(matches!(ask(ClusterId::NONE, 2).await, Response::Failed(Failure { fault: Fault::NotReady(_), .. })));
        let Response::Vote(response) = ask(CLUSTER, 2).await else { panic!("no vote") };
        assert!(response.granted);
    });
}

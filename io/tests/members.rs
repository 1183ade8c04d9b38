//! Changes of the membership, on real nodes in one process.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests on real files, real sockets, real time"
)]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, NodeId, NodeStatus, StateMachine, StateMut, StateRef};
use quorate_io::node::exit_code;
use quorate_io::tokio::{TokioPlatform, TokioRuntime};
use quorate_io::{Consistency, InitialState, MemberError, NewMember, Node, NodeConfig, StopError, Storage, WriteError};

type TestNode = Node<TokioPlatform>;

/// Every command is a key of eight bytes; its value counts how often it came.
struct Keys;

impl StateMachine for Keys {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let times = state.get(command).map_or(0, |value| value[0]) + 1;
        state.put(command.clone(), vec![times].into());
        Bytes::new()
    }
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("quorate-members-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn config(&self, name: &str, addr: &str) -> NodeConfig {
        let mut config = NodeConfig::new(name, Storage::Dir(self.0.join(name)), addr);
        config.reserve_bytes = 32 << 20;
        config.store.cache_bytes = 1 << 20;
        config
    }

    fn joining(&self, name: &str, addr: &str, join: &[&String]) -> NodeConfig {
        NodeConfig { join: join.iter().map(|addr| (*addr).clone()).collect(), ..self.config(name, addr) }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    });
}

/// Addresses that were free a moment ago.
fn addrs(count: usize) -> Vec<String> {
    let bound: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    bound.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn list(names: &[&str], addrs: &[String]) -> FoundingList {
    let members = names.iter().zip(addrs).map(|(name, addr)| ((*name).to_owned(), vec![addr.clone()])).collect();
    FoundingList { token: "members".to_owned(), members }
}

async fn start(config: NodeConfig) -> TestNode {
    Node::start(TokioPlatform::default(), config, Keys).await.unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..1500 {
        if done().await {
            return;
        }
        TokioRuntime::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn voters(node: &TestNode) -> BTreeSet<NodeId> {
    node.cluster().nodes.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

fn names(node: &TestNode) -> BTreeSet<String> {
    node.cluster().nodes.into_iter().map(|member| member.member.name).collect()
}

fn ids(nodes: &[&TestNode]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| node.node_id()).collect()
}

/// All of them are the voters, as each of them knows, and each is ready.
async fn are_the_voters(nodes: &[&TestNode]) {
    let expected = ids(nodes);
    until("the voters", async || {
        nodes.iter().all(|node| voters(node) == expected && node.health().ready.is_ok() && !is_joint(node))
    })
    .await;
}

fn is_joint(node: &TestNode) -> bool {
    node.raft().metrics().borrow_watched().membership_config.membership().get_joint_config().len() > 1
}

async fn removed(node: &TestNode) {
    let error = TokioRuntime::timeout(Duration::from_secs(20), node.stopped()).await.unwrap();
    assert!(matches!(error, StopError::Removed(_)), "{error}");
    assert_eq!(error.exit_code(), exit_code::NOT_A_MEMBER);
    assert!(error.to_string().contains("empty data directory"), "{error}");
    assert_eq!(node.stop().await, Err(error));
}

/// Writes without end, each key until it is acknowledged; unknown outcomes are sent again.
struct Writer {
    ends: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(node: &TestNode) -> Self {
        let (ends, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (node, stop, count) = (node.clone(), ends.clone(), written.clone());
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let key = count.load(Ordering::Relaxed).to_be_bytes().to_vec();
                match node.write(key.into()).await {
                    Ok(_) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(WriteError::NotApplied(_) | WriteError::Unknown(_)) => {}
                }
                TokioRuntime::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { ends, written, task }
    }

    /// A few more are written, and then no more; how many were.
    async fn end(self) -> u64 {
        let before = self.written.load(Ordering::Relaxed);
        until("more writes", async || self.written.load(Ordering::Relaxed) > before + 20).await;
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

/// Every key that was acknowledged is there.
async fn has_all(node: &TestNode, written: u64) {
    let view = node.read(Consistency::Linearizable).await.unwrap();
    let missing: Vec<_> = (0..written).filter(|key| view.get(&key.to_be_bytes()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} of {written}");
}

fn member(name: &str, addr: &str) -> NewMember {
    NewMember { name: name.to_owned(), peer_addrs: vec![addr.to_owned()], learner: false }
}

#[test]
fn one_becomes_three_becomes_five_becomes_three_while_it_writes() {
    run(async {
        let (dir, addrs) = (Dir::new("grow"), addrs(5));
        let one = start(dir.config("n0", &addrs[0])).await;
        let writer = Writer::start(&one);
        // One joins by itself, through an address of which only the second is right; one is added.
        let join = [&addrs[4], &addrs[0]];
        let two = start(dir.joining("n1", &addrs[1], &join)).await;
        let existing = InitialState::Existing;
        let three = start(NodeConfig { initial_state: existing, ..dir.config("n2", &addrs[2]) }).await;
        assert!(three.health().ready.unwrap_err().contains("waits to be admitted"));
        // From any node: this one may not even be a member yet.
        until("added", async || two.add_member(member("n2", &addrs[2])).await.is_ok()).await;
        are_the_voters(&[&one, &two, &three]).await;
        // Asked again, it says that it is done.
        assert!(matches!(one.add_member(member("n2", &addrs[2])).await, Err(MemberError::Conflict(_))));

        let four = start(dir.joining("n3", &addrs[3], &[&addrs[1]])).await;
        let five = start(dir.joining("n4", &addrs[4], &[&addrs[2]])).await;
        are_the_voters(&[&one, &two, &three, &four, &five]).await;

        // The leader goes first, by itself; then another one, by id.
        let all = [&one, &two, &three, &four, &five];
        let leader = one.leadership().current().leader.unwrap();
        let leader = *all.iter().find(|node| node.node_id() == leader).unwrap();
        let name = one.cluster().nodes.iter().find(|m| m.id == leader.node_id()).unwrap().member.name.clone();
        let removed_id = leader.remove_member(&name, false).await.unwrap();
        assert_eq!(removed_id, leader.node_id(), "it answers first");
        removed(leader).await;
        let mut left: Vec<_> = all.into_iter().filter(|node| node.node_id() != removed_id).collect();
        are_the_voters(&left).await;
        // The writer writes through the first node, as long as that is a member.
        let gone = left.pop().unwrap();
        let by = left.iter().copied().find(|node| node.node_id() != gone.node_id()).unwrap();
        until("removed", async || {
            match by.remove_member(&gone.node_id().to_string(), false).await {
                Ok(_) | Err(MemberError::NotFound(_)) => true,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        removed(gone).await;
        are_the_voters(&left).await;
        let written = if leader.node_id() == one.node_id() {
            writer.ends.store(true, Ordering::Relaxed);
            writer.task.await.unwrap();
            writer.written.load(Ordering::Relaxed)
        } else {
            writer.end().await
        };
        assert!(written > 0);
        for node in &left {
            has_all(node, written).await;
        }
        for node in left {
            node.stop().await.unwrap();
        }
    });
}

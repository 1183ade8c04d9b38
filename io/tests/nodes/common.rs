//! Nodes on real disks and sockets, in this process.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, StateMachine, StateMut};
use quorate_io::node::StartError;
use quorate_io::tokio::{TokioPlatform, TokioRuntime};
use quorate_io::{Node, NodeConfig, Storage};

pub type TestNode = Node<TokioPlatform>;

pub const PAIRS: u32 = 600;

/// Every command is a key of four bytes and its value.
pub struct Pairs;

impl StateMachine for Pairs {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        state.put(command.slice(..4), command.slice(4..));
        Bytes::new()
    }
}

pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("quorate-io-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    });
}

/// Addresses that were free a moment ago.
pub fn addrs(count: usize) -> Vec<String> {
    let bound: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    bound.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

pub fn config(n: usize, addrs: &[String], dir: &Path) -> NodeConfig {
    let name = |n: usize| format!("n{n}");
    let mut config = NodeConfig::new(&name(n), Storage::Dir(dir.join(name(n))), &addrs[n]);
    let members = addrs.iter().enumerate().map(|(n, addr)| (name(n), vec![addr.clone()])).collect();
    config.founding = FoundingList { token: "test".to_owned(), members };
    config.reserve_bytes = 32 << 20;
    config.store.cache_bytes = 1 << 20;
    config
}

pub async fn start(n: usize, addrs: &[String], dir: &Path) -> Result<TestNode, StartError> {
    Node::start(TokioPlatform::default(), config(n, addrs, dir), Pairs).await
}

pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if done().await {
            return;
        }
        TokioRuntime::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

pub async fn write_all(node: &TestNode, tag: u8) {
    for n in 0..PAIRS {
        let mut command = n.to_be_bytes().to_vec();
        // More than fits into the cache.
        command.extend([tag.wrapping_add(n as u8); 5000]);
        node.write(command.into()).await.unwrap();
    }
}

/// All that is applied is in the store, and the log has nothing of it any more.
pub async fn snapshot_and_purge(node: &TestNode, purge: bool) -> LogId {
    let applied = node.store().applied().unwrap();
    node.raft().trigger().snapshot().await.unwrap();
    until("a snapshot", async || node.store().durable() >= Some(applied)).await;
    if purge {
        node.raft().trigger().purge_log(applied.index).await.unwrap();
        let purged = || node.raft().metrics().borrow_watched().purged.as_ref().map(|id| id.index);
        until("a purge", async || purged() >= Some(applied.index)).await;
    }
    applied
}

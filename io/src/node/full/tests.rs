//! Three nodes in one process, whose disks fill up and get space again, or hang.

use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, MemberStatus, NodeStatus, StateMachine, StateMut, StateRef};

use crate::error::{Consistency, Reason, WriteError};
use crate::log_store::TestDir;
use crate::node::{Node, NodeConfig, Storage};
use crate::small_disk::{SmallDisk, SmallPlatform};
use crate::tokio::TokioRuntime;
use crate::types::Command;

const AMPLE: u64 = 1 << 30;
const VALUE: usize = 20_000;

/// A command is a key byte and a value.
struct Keys;

impl StateMachine for Keys {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        state.put(command.slice(..8), command.slice(8..));
        Bytes::new()
    }
}

fn command(key: u64) -> Bytes {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(VALUE, 7);
    bytes.into()
}

struct Cluster {
    nodes: Vec<Node<SmallPlatform>>,
    disks: Vec<SmallDisk>,
    dirs: Vec<TestDir>,
    addrs: Vec<String>,
    /// Keys that were acknowledged.
    written: u64,
}

impl Cluster {
    async fn start(count: usize) -> Self {
        // Free just now, which is as good as it gets: the founding list needs them before anybody listens.
        let sockets: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs = sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
        drop(sockets);
        let disks = (0..count).map(|_| SmallDisk::new(AMPLE)).collect();
        let dirs = (0..count).map(|_| TestDir::new()).collect();
        let mut cluster = Self { nodes: Vec::new(), disks, dirs, addrs, written: 0 };
        for number in 0..count {
            let node = cluster.boot(number).await;
            cluster.nodes.push(node);
        }
        cluster.leader().await;
        cluster
    }

    async fn boot(&self, number: usize) -> Node<SmallPlatform> {
        let members = self.addrs.iter().enumerate().map(|(n, addr)| (format!("n{n}"), vec![addr.clone()])).collect();
        let name = format!("n{number}");
        let mut config = NodeConfig::new(&name, Storage::Dir(self.dirs[number].0.clone()), &self.addrs[number]);
        config.founding = FoundingList { token: "full".to_owned(), members };
        config.reserve_bytes = 4 << 20;
        config.log.options.segment_bytes = 256 << 10;
        config.log.cache_bytes = 64 << 10;
        config.command_bytes_max = 64 << 10;
        config.request_timeout = Duration::from_secs(4);
        (config.transport.append_bytes_max, config.transport.stream_bytes_max) = (64 << 10, 256 << 10);
        Node::start(SmallPlatform::new(&self.disks[number]), config, Keys).await.unwrap()
    }

    /// The one that leads and says so itself.
    async fn leader(&self) -> usize {
        eventually("a leader", || self.nodes.iter().position(|node| node.leadership().current().is_local)).await
    }

    async fn write(&mut self, through: usize) -> Result<(), WriteError> {
        self.nodes[through].write(command(self.written)).await?;
        self.written += 1;
        Ok(())
    }

    /// All acknowledged keys, as `node` reads them.
    async fn check(&self, node: usize) {
        let view = self.nodes[node].read(Consistency::Linearizable).await.unwrap();
        let mut found = Vec::new();
        view.range(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            assert_eq!(value.len(), VALUE - 8);
            found.push(u64::from_be_bytes(key[..].try_into().unwrap()));
            true
        });
        let missing: Vec<_> = (0..self.written).filter(|key| found.binary_search(key).is_err()).collect();
        assert!(missing.is_empty(), "{missing:?} of {} are missing", self.written);
    }

    /// Whether `node` shows just these with full disks.
    fn shows_full(&self, node: usize, full: &[usize]) -> bool {
        let full = full.iter().map(|&n| self.nodes[n].node_id()).collect();
        self.nodes[node].cluster().disk_full == full
    }

    async fn stop(self) {
        for node in &self.nodes {
            node.stop().await.unwrap();
        }
    }
}

async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(15), "not within 15 s: {what}");
        TokioRuntime::sleep(Duration::from_millis(10)).await;
    }
}

fn refused(result: Result<(), WriteError>) -> bool {
    match result {
        Ok(()) => false,
        Err(WriteError::NotApplied(Reason::DiskFull)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_full_follower_takes_no_commands_and_catches_up_when_there_is_space() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let term = cluster.nodes[leader].cluster().term;
        cluster.disks[follower].fill();
        for _ in 0..100 {
            cluster.write(follower).await.unwrap();
        }
        let node = &cluster.nodes[follower];
        assert!(node.disk_full());
        let stuck = node.log().last_index();
        eventually("the leader knows", || cluster.shows_full(leader, &[follower]).then_some(())).await;
        for _ in 0..20 {
            cluster.write(leader).await.unwrap();
        }
        assert!(stuck.is_some() && cluster.nodes[follower].log().last_index() == stuck, "it takes commands");
        let health = cluster.nodes[follower].health();
        assert!(health.live.is_ok() && health.ready.is_ok(), "{health:?}");
        assert_eq!(cluster.nodes[leader].cluster().term, term, "heartbeats went on");

        let freed = Instant::now();
        cluster.disks[follower].set_capacity(AMPLE);
        let last = cluster.nodes[leader].log().last_index();
        eventually("it catches up", || (cluster.nodes[follower].log().last_index() >= last).then_some(())).await;
        assert!(freed.elapsed() < Duration::from_secs(4), "after {:?}", freed.elapsed());
        eventually("the leader knows", || cluster.shows_full(leader, &[]).then_some(())).await;
        cluster.check(follower).await;
        assert_eq!(cluster.nodes[leader].cluster().term, term);
        cluster.stop().await;
    });
}

#[test]
fn a_full_leader_hands_over_and_does_not_campaign() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(3).await;
        let old = cluster.leader().await;
        cluster.disks[old].fill();
        let mut refusals = 0;
        let start = Instant::now();
        while cluster.leader().await == old {
            refusals += u32::from(refused(cluster.write(old).await));
            assert!(start.elapsed() < Duration::from_secs(15), "it still leads");
            TokioRuntime::sleep(Duration::from_millis(5)).await;
        }
        assert!(refusals > 0);
        // Each leader goes in turn. Whoever is full has the whole log and could win; it waits for the others to campaign.
        // On a machine that is too busy it may win all the same, and hands over again.
        let (mut leader, mut won) = (cluster.leader().await, 0);
        for _ in 0..3 {
            let last = cluster.nodes[leader].log().last_index();
            let everybody = |node: &Node<_>| node.log().last_index() == last;
            eventually("the whole log", || cluster.nodes.iter().all(everybody).then_some(())).await;
            cluster.nodes[leader].stop().await.unwrap();
            let other = 3 - old - leader;
            let next = eventually("another leader", || {
                [old, other].into_iter().find(|&n| cluster.nodes[n].leadership().current().is_local)
            });
            won += u32::from(next.await == old);
            eventually("the other one leads", || cluster.nodes[other].leadership().current().is_local.then_some(()))
                .await;
            cluster.nodes[leader] = cluster.boot(leader).await;
            leader = other;
        }
        assert!(won <= 1, "the full node won {won} of 3 elections");
        for _ in 0..20 {
            cluster.write(old).await.unwrap();
        }
        let (new, other) = (leader, 3 - old - leader);
        cluster.nodes[new].stop().await.unwrap();
        let led = |n: usize| cluster.nodes[n].leadership().current().is_local;
        eventually("another leader", || led(other).then_some(())).await;
        eventually("the leader knows", || {
            let lost = |m: &MemberStatus| m.status == NodeStatus::Unreachable;
            let lost = cluster.nodes[other].cluster().nodes.iter().filter(|m| lost(m)).count() == 1;
            (lost && cluster.shows_full(other, &[old])).then_some(())
        })
        .await;
        assert!(refused(cluster.write(other).await), "two of three, and one of them full");
        cluster.disks[old].set_capacity(AMPLE);
        eventually("space", || (!cluster.nodes[old].disk_full()).then_some(())).await;
        eventually("the leader knows", || cluster.shows_full(other, &[]).then_some(())).await;
        cluster.write(old).await.unwrap();
        cluster.check(old).await;
        for node in [old, other] {
            cluster.nodes[node].stop().await.unwrap();
        }
    });
}

#[test]
fn where_all_are_full_reads_go_on_after_restarts_too() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        for _ in 0..5 {
            cluster.write(leader).await.unwrap();
        }
        cluster.disks.iter().for_each(SmallDisk::fill);
        let mut unknown = 0;
        for _ in 0..60 {
            match cluster.write(leader).await {
                Ok(()) => {}
                Err(WriteError::NotApplied(Reason::DiskFull)) => break,
                Err(WriteError::Unknown(_)) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(unknown < 3, "{unknown} writes were taken without space for them");
        eventually("everybody is full", || (0..3).all(|n| cluster.shows_full(n, &[0, 1, 2])).then_some(())).await;
        for through in 0..3 {
            let start = Instant::now();
            assert!(refused(cluster.write(through).await));
            assert!(start.elapsed() < Duration::from_secs(1), "refused after {:?}", start.elapsed());
            cluster.check(through).await;
        }
        for node in &cluster.nodes {
            node.stop().await.unwrap();
        }
        for number in 0..3 {
            cluster.nodes[number] = cluster.boot(number).await;
        }
        cluster.leader().await;
        for through in 0..3 {
            cluster.check(through).await;
            assert!(refused(cluster.write(through).await));
        }
        cluster.disks.iter().for_each(|disk| disk.set_capacity(AMPLE));
        eventually("nobody is full", || (0..3).all(|n| cluster.shows_full(n, &[])).then_some(())).await;
        for through in 0..3 {
            cluster.write(through).await.unwrap();
            cluster.check(through).await;
        }
        cluster.stop().await;
    });
}

/// What a leader had taken before it knew that the others are full stands before the first entry of any new leader.
#[test]
fn entries_of_earlier_terms_reach_full_followers_so_that_a_new_leader_can_serve() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        others.iter().for_each(|&n| cluster.disks[n].fill());
        while !others.iter().all(|&n| cluster.nodes[n].disk_full()) {
            let _ = cluster.write(leader).await;
        }
        let raft = cluster.nodes[leader].raft().clone();
        let late = raft.client_write(Command(command(1_000_000)));
        assert!(TokioRuntime::timeout(Duration::from_millis(300), late).await.is_err(), "without a quorum with space");
        cluster.nodes[leader].stop().await.unwrap();
        cluster.nodes[leader] = cluster.boot(leader).await;
        cluster.leader().await;
        cluster.check(leader).await;
        let view = cluster.nodes[leader].read(Consistency::Linearizable).await.unwrap();
        assert!(view.get(&1_000_000_u64.to_be_bytes()).is_some(), "nobody has a longer log");
        cluster.stop().await;
    });
}

#[test]
fn a_lone_node_starts_on_a_full_disk_and_serves_reads() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(1).await;
        cluster.write(0).await.unwrap();
        cluster.disks[0].fill();
        cluster.nodes[0].stop().await.unwrap();
        cluster.nodes[0] = cluster.boot(0).await;
        assert!(cluster.nodes[0].disk_full());
        cluster.leader().await;
        cluster.check(0).await;
        assert!(refused(cluster.write(0).await));
        cluster.disks[0].set_capacity(AMPLE);
        eventually("space", || (!cluster.nodes[0].disk_full()).then_some(())).await;
        cluster.write(0).await.unwrap();
        cluster.check(0).await;
        cluster.stop().await;
    });
}

#[test]
fn a_reserve_too_small_for_what_is_under_way_is_refused() {
    let mut config = NodeConfig::new("n1", Storage::Dir("data".into()), "127.0.0.1:0");
    assert!(config.check_reserve().is_ok(), "the defaults");
    assert_eq!(config.in_flight_bytes_max(), 40 << 20);
    config.reserve_bytes = 28 << 20;
    assert!(config.check_reserve().is_ok(), "as the documentation of the field says");
    config.reserve_bytes = 27 << 20;
    let error = config.check_reserve().unwrap_err().to_string();
    assert!(error.contains("reserve_bytes is 28311552") && error.contains("segment_bytes (16777216)"), "{error}");
    config.storage = Storage::Memory;
    assert!(config.check_reserve().is_ok(), "memory needs none");
}

#[test]
fn a_leader_whose_disk_hangs_hands_over() {
    TokioRuntime::run(async {
        let mut cluster = Cluster::start(3).await;
        let old = cluster.leader().await;
        let other = (old + 1) % 3;
        cluster.write(other).await.unwrap();
        cluster.disks[old].hang(true);
        // The others are a quorum: this is committed, and its own disk has it not.
        cluster.write(other).await.unwrap();
        let next = eventually("another leader", || {
            (0..3).find(|&n| n != old && cluster.nodes[n].leadership().current().is_local)
        });
        let next = next.await;
        cluster.write(next).await.unwrap();
        // It can follow nobody before it has written down whom.
        cluster.disks[old].hang(false);
        eventually("it follows", || (!cluster.nodes[old].leadership().current().is_local).then_some(())).await;
        cluster.write(old).await.unwrap();
        cluster.check(old).await;
        cluster.stop().await;
    });
}

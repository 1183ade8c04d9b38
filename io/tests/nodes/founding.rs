//! Founding a cluster from a list of which not all are there, on real files and sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{self, Dir, Pairs, TestNode, addrs, config, run, until};
use openraft_rt::AsyncRuntime;
use quorate_core::founding::{Card, Decision, Founding, PROMISE_FILE_NAME};
use quorate_core::{ClusterId, NodeId};
use quorate_io::node::exit_code;
use quorate_io::tokio::{TokioPlatform, TokioRuntime};
use quorate_io::{Consistency, InitialState, Node, NodeConfig, StartError, Storage};

async fn start(n: usize, addrs: &[String], dir: &Dir, grace_ms: u64) -> TestNode {
    let config = NodeConfig { founding_grace: Duration::from_millis(grace_ms), ..config(n, addrs, &dir.0) };
    Node::start(TokioPlatform::default(), config, Pairs).await.unwrap()
}

fn voters(node: &TestNode) -> BTreeSet<NodeId> {
    node.cluster().nodes.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

async fn are_the_voters(nodes: &[TestNode]) {
    let all: BTreeSet<_> = nodes.iter().map(Node::node_id).collect();
    let cluster = || nodes.iter().map(|node| node.cluster().cluster_id).collect::<BTreeSet<_>>();
    until("the voters", async || nodes.iter().all(|node| node.health().ready.is_ok() && voters(node) == all)).await;
    assert!(cluster().len() == 1 && !cluster().contains(&ClusterId::NONE));
}

#[test]
fn two_of_three_found_after_the_grace_and_the_third_joins_as_a_voter_by_itself() {
    run(async {
        let (dir, addrs) = (Dir::new("two-of-three"), addrs(3));
        // Not the first by name.
        let mut nodes = vec![start(2, &addrs, &dir, 1000).await, start(1, &addrs, &dir, 1000).await];
        are_the_voters(&nodes).await;
        nodes[0].write(b"key1value".as_slice().into()).await.unwrap();
        nodes.push(start(0, &addrs, &dir, 1000).await);
        are_the_voters(&nodes).await;
        assert!(nodes[2].read(Consistency::Linearizable).await.is_ok());
        assert!(dir.0.join("n0/admission").exists() && !dir.0.join("n0/founding").exists());
        // It is a cluster like any other: who is lost is not missed, and all find their way back.
        nodes.remove(0).stop().await.unwrap();
        nodes[0].write(b"key2value".as_slice().into()).await.unwrap();
        nodes.push(start(2, &addrs, &dir, 1000).await);
        are_the_voters(&nodes).await;
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn all_that_are_there_are_waited_for() {
    run(async {
        let (dir, addrs) = (Dir::new("all-of-three"), addrs(3));
        // Long enough for a machine that is busy.
        let mut nodes = vec![start(0, &addrs, &dir, 60_000).await, start(1, &addrs, &dir, 60_000).await];
        TokioRuntime::sleep(Duration::from_secs(1)).await;
        assert!(nodes.iter().all(|node| node.cluster().cluster_id == ClusterId::NONE));
        // Started again in the middle of it.
        nodes.remove(0).stop().await.unwrap();
        nodes.push(start(2, &addrs, &dir, 60_000).await);
        nodes.push(start(0, &addrs, &dir, 60_000).await);
        are_the_voters(&nodes).await;
        assert!((0..3).all(|n| dir.0.join(format!("n{n}/founding")).exists()));
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn of_five_two_found_nothing_and_four_do() {
    run(async {
        let (dir, addrs) = (Dir::new("of-five"), addrs(5));
        let mut nodes = vec![start(4, &addrs, &dir, 200).await, start(1, &addrs, &dir, 200).await];
        // Many times the grace.
        TokioRuntime::sleep(Duration::from_secs(4)).await;
        for node in &nodes {
            assert!(node.cluster().cluster_id == ClusterId::NONE && node.health().ready.is_err());
        }
        nodes.push(start(3, &addrs, &dir, 200).await);
        nodes.push(start(2, &addrs, &dir, 200).await);
        are_the_voters(&nodes).await;
        nodes.push(start(0, &addrs, &dir, 200).await);
        are_the_voters(&nodes).await;
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn in_memory_two_of_three_found_nothing() {
    run(async {
        let (dir, addrs) = (Dir::new("memory-of-three"), addrs(3));
        let in_memory = async |n| {
            let founding_grace = Duration::from_millis(200);
            let config = NodeConfig { storage: Storage::Memory, founding_grace, ..config(n, &addrs, &dir.0) };
            Node::start(TokioPlatform::default(), config, Pairs).await.unwrap()
        };
        let mut nodes = vec![in_memory(0).await, in_memory(1).await];
        TokioRuntime::sleep(Duration::from_secs(4)).await;
        assert!(nodes.iter().all(|node| node.cluster().cluster_id == ClusterId::NONE));
        nodes.push(in_memory(2).await);
        are_the_voters(&nodes).await;
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn a_promise_of_another_node_or_a_damaged_one_is_refused_until_there_is_a_cluster() {
    run(async {
        let (dir, addrs) = (Dir::new("promises"), addrs(1));
        let config = NodeConfig { initial_state: InitialState::Existing, ..config(0, &addrs, &dir.0) };
        let node = Node::start(TokioPlatform::default(), config.clone(), Pairs).await.unwrap();
        node.stop().await.unwrap();
        let card = Card { name: "n0".to_owned(), node_id: 77, ..Card::default() };
        let other = Founding::new(config.founding.clone(), card, None, Duration::ZERO).unwrap();
        let Decision::Keep(promise) = other.decide() else { panic!("it is alone") };
        let path = dir.0.join("n0").join(PROMISE_FILE_NAME);
        std::fs::write(&path, promise.to_file()).unwrap();
        let error = common::start(0, &addrs, &dir.0).await.unwrap_err();
        assert!(matches!(error, StartError::MixedUp(_)), "{error}");
        std::fs::write(&path, b"garbage").unwrap();
        let error = common::start(0, &addrs, &dir.0).await.unwrap_err();
        assert!(matches!(error, StartError::Record { .. }), "{error}");
        assert_eq!(error.exit_code(), exit_code::DAMAGED);
        std::fs::remove_file(&path).unwrap();
        are_the_voters(&[start(0, &addrs, &dir, 200).await]).await;
    });
}

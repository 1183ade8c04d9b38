//! `--force-new-cluster`: the survivor of a majority that is lost for ever, on real files and sockets.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::common::{Dir, PAIRS, Pairs, TestNode, addrs, config, run, snapshot_and_purge, start, until, write_all};
use quorate_core::founding::{FILE_NAME, FoundingRecord};
use quorate_core::wire::{RefusalCode, Request};
use quorate_core::{ClusterId, NodeId, StateRef};
use quorate_io::node::exit_code;
use quorate_io::tokio::TokioPlatform;
use quorate_io::transport::{Identity, LocalIdentity, Peers, Target, TransportConfig};
use quorate_io::{Consistency, Node, NodeConfig, StartError, Storage};

async fn forced(config: &NodeConfig) -> Result<TestNode, StartError> {
    let config = NodeConfig { force_new_cluster: true, ..config.clone() };
    Node::start(TokioPlatform::default(), config, Pairs).await
}

async fn is_ready(node: &TestNode) {
    until("ready", async || node.health().ready.is_ok()).await;
}

async fn has(node: &TestNode, tags: &[&'static str]) {
    let view = node.read(Consistency::Linearizable).await.unwrap();
    assert!((0..PAIRS).all(|n| view.get(&n.to_be_bytes()).is_some_and(|value| value.len() == 5000)));
    let missing: Vec<_> = tags.iter().filter(|tag| view.get(tag.as_bytes()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

async fn write(node: &TestNode, tag: &'static str) {
    assert_eq!(tag.len(), 4);
    node.write(format!("{tag} is written").into()).await.unwrap();
}

fn members(node: &TestNode) -> BTreeSet<(String, NodeId, bool)> {
    node.cluster().nodes.into_iter().map(|member| (member.member.name, member.id, member.voter)).collect()
}

async fn are_voters(nodes: &[&TestNode], names: &[&str]) {
    let expected: BTreeSet<_> =
        names.iter().zip(nodes).map(|(name, node)| ((*name).to_owned(), node.node_id(), true)).collect();
    until("the voters", async || nodes.iter().all(|node| members(node) == expected)).await;
}

/// What a node of this identity hears at the address.
async fn refusal(addr: &str, node_id: NodeId, cluster_id: ClusterId) -> (RefusalCode, String) {
    let identity = LocalIdentity { cluster_id, node_id, boot_epoch: 100, name: "n1".to_owned(), membership: None };
    let peers = Peers::new(TokioPlatform::default(), Identity::new(identity), TransportConfig::default());
    let target = Target { node: None, addrs: vec![addr.to_owned()] };
    let request = Request::Founding(Default::default());
    let error = peers.call(&target, &request, Duration::from_secs(5)).await.unwrap_err();
    peers.shutdown();
    let refusal = error.refusal().unwrap_or_else(|| panic!("{error}"));
    (refusal.code, refusal.text.clone())
}

#[test]
fn the_survivor_of_three_goes_on_with_all_it_has_and_the_old_cluster_is_kept_out() {
    run(async {
        let (dir, addrs) = (Dir::new("force"), addrs(3));
        let mut nodes = Vec::new();
        for n in 0..3 {
            nodes.push(start(n, &addrs, &dir.0).await.unwrap());
        }
        write_all(&nodes[0], 1).await;
        // Some of it in the store, some in the log only.
        let upto = snapshot_and_purge(&nodes[0], true).await;
        write(&nodes[1], "tail").await;
        until("applied", async || nodes[0].store().applied() >= nodes[1].store().applied()).await;
        assert!(nodes[0].store().applied() > Some(upto));
        let (old, ids) = (nodes[0].cluster().cluster_id, nodes.iter().map(Node::node_id).collect::<Vec<_>>());
        for node in nodes {
            node.stop().await.unwrap();
        }

        // Alone it refuses, however often it is started.
        let survivor = config(0, &addrs, &dir.0);
        let quick = NodeConfig { request_timeout: Duration::from_secs(2), ..survivor.clone() };
        let node = Node::start(TokioPlatform::default(), quick, Pairs).await.unwrap();
        assert!(node.write("lone write".into()).await.is_err());
        assert!(node.read(Consistency::Linearizable).await.is_err());
        assert!(node.health().ready.is_err());
        node.stop().await.unwrap();

        let node = forced(&survivor).await.unwrap();
        is_ready(&node).await;
        has(&node, &["tail"]).await;
        let new = node.cluster().cluster_id;
        assert!(new != old && new != ClusterId::NONE);
        assert_eq!(members(&node), [("n0".to_owned(), ids[0], true)].into());
        write(&node, "anew").await;

        // One of the old ones: it is refused with the reason, and has no quorum.
        let gone = start(1, &addrs, &dir.0).await.unwrap();
        let (code, text) = refusal(&addrs[0], ids[1], old).await;
        assert_eq!(code, RefusalCode::OtherCluster);
        assert!(text.contains(&old.to_string()) && text.contains(&new.to_string()), "{text}");
        assert!(gone.health().ready.is_err() && gone.node_id() == ids[1]);
        gone.stop().await.unwrap();

        // Left on by mistake, at first alone, then with others: nothing happens.
        node.stop().await.unwrap();
        let node = forced(&survivor).await.unwrap();
        is_ready(&node).await;
        assert_eq!(node.cluster().cluster_id, new);
        for n in [1, 2] {
            std::fs::remove_dir_all(dir.0.join(format!("n{n}"))).unwrap();
        }
        // One joins; one comes with the old list.
        let joining = NodeConfig { join: vec![addrs[0].clone()], ..config(1, &addrs, &dir.0) };
        let second = Node::start(TokioPlatform::default(), joining, Pairs).await.unwrap();
        let third = start(2, &addrs, &dir.0).await.unwrap();
        are_voters(&[&node, &second, &third], &["n0", "n1", "n2"]).await;
        node.stop().await.unwrap();
        let node = forced(&survivor).await.unwrap();
        are_voters(&[&node, &second, &third], &["n0", "n1", "n2"]).await;
        is_ready(&node).await;
        assert_eq!(node.cluster().cluster_id, new);
        has(&third, &["tail", "anew"]).await;

        // The majority is lost once more: one start without it makes it work again. An admitted node does it, too.
        for node in [node, second, third] {
            node.stop().await.unwrap();
        }
        let node = start(0, &addrs, &dir.0).await.unwrap();
        node.stop().await.unwrap();
        let mut clusters = BTreeSet::from([old, new]);
        for n in [0, 2] {
            let node = forced(&config(n, &addrs, &dir.0)).await.unwrap();
            is_ready(&node).await;
            has(&node, &["tail", "anew"]).await;
            assert_eq!(members(&node).len(), 1);
            assert!(clusters.insert(node.cluster().cluster_id));
            assert!(!dir.0.join(format!("n{n}/admission")).exists());
            node.stop().await.unwrap();
        }
    });
}

fn founding(dir: &Path) -> FoundingRecord {
    FoundingRecord::from_file(&std::fs::read(dir.join(FILE_NAME)).unwrap()).unwrap()
}

#[test]
fn what_a_crash_leaves_half_done_is_finished_by_any_start() {
    run(async {
        let (dir, addrs) = (Dir::new("force-crash"), addrs(3));
        let mut nodes = Vec::new();
        for n in 0..3 {
            nodes.push(start(n, &addrs, &dir.0).await.unwrap());
        }
        write_all(&nodes[0], 1).await;
        let (id, old) = (nodes[0].node_id(), nodes[0].cluster().cluster_id);
        until("applied", async || nodes[2].store().applied() == nodes[0].store().applied()).await;
        for node in nodes {
            node.stop().await.unwrap();
        }
        // The record is durable, the log is as it was; later: the log is changed, and that is not written down.
        let (config, home) = (config(0, &addrs, &dir.0), dir.0.join("n0"));
        let begun = FoundingRecord::forced(old, 77, "test", "n0", id, &addrs[..1]);
        for round in 0..3 {
            std::fs::write(home.join(FILE_NAME), begun.to_file()).unwrap();
            let node = match round {
                1 => forced(&config).await.unwrap(),
                _ => start(0, &addrs, &dir.0).await.unwrap(),
            };
            is_ready(&node).await;
            has(&node, &[]).await;
            assert_eq!(node.cluster().cluster_id, begun.cluster_id());
            assert_eq!(members(&node), [("n0".to_owned(), id, true)].into());
            assert_eq!(founding(&home), begun.done());
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn without_data_or_in_memory_it_is_refused() {
    run(async {
        let (dir, addrs) = (Dir::new("force-empty"), addrs(1));
        let config = config(0, &addrs, &dir.0);
        let error = forced(&config).await.unwrap_err();
        assert!(matches!(error, StartError::NothingToForce(_)), "{error}");
        assert_eq!(error.exit_code(), exit_code::FAILED);
        assert!(error.to_string().contains("n0"), "{error}");
        let error = forced(&NodeConfig { storage: Storage::Memory, ..config.clone() }).await.unwrap_err();
        assert!(matches!(error, StartError::Config(_)), "{error}");
        // The directory is as good as empty.
        let node = start(0, &addrs, &dir.0).await.unwrap();
        is_ready(&node).await;
        node.stop().await.unwrap();
        // A store that is damaged, of a log that does not reach back: nobody has it, and nothing is forced.
        let node = start(0, &addrs, &dir.0).await.unwrap();
        write_all(&node, 1).await;
        snapshot_and_purge(&node, true).await;
        let old = node.cluster().cluster_id;
        node.stop().await.unwrap();
        std::fs::write(dir.0.join("n0/store/damaged-1"), "by a test").unwrap();
        let error = forced(&config).await.unwrap_err();
        assert!(matches!(error, StartError::StateLost { .. }), "{error}");
        assert_eq!(founding(&dir.0.join("n0")).cluster_id(), old);
    });
}

//! A backup of a running cluster, and new clusters from it.

use std::io;
use std::path::Path;

use crate::common::{Dir, PAIRS, Pairs, TestNode, addrs, config, run, start, until, write_all};
use bytes::Bytes;
use futures_util::stream;
use quorate_core::{NodeId, StateRef};
use quorate_io::node::{RestoreError, Restored, exit_code, restore};
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Consistency, NodeConfig, Storage};

async fn backup(node: &TestNode) -> Vec<Bytes> {
    let (mut parts, mut all) = (node.backup(Consistency::Linearizable).await.unwrap(), Vec::new());
    while let Some(bytes) = parts.next_bytes().unwrap() {
        all.push(bytes);
    }
    all
}

async fn restored(config: &NodeConfig, backup: Vec<io::Result<Bytes>>) -> Result<Restored, RestoreError> {
    restore(&TokioPlatform::default(), config, stream::iter(backup)).await
}

fn config_at(dir: &Path, addrs: &[String]) -> NodeConfig {
    NodeConfig { storage: Storage::Dir(dir.to_owned()), ..config(0, addrs, dir) }
}

#[test]
fn a_backup_of_a_cluster_under_load_makes_a_new_one() {
    run(async {
        let (dir, addresses) = (Dir::new("backup"), addrs(3));
        let mut nodes = Vec::new();
        for n in 0..3 {
            nodes.push(start(n, &addresses, &dir.0).await.unwrap());
        }
        write_all(&nodes[0], 1).await;
        // What is acknowledged before a backup begins is in it, whoever is asked for it, and writes go on meanwhile.
        nodes[1].write(b"last: acknowledged".as_slice().into()).await.unwrap();
        let writer = nodes[0].clone();
        let (bytes, ()) = futures_util::join!(backup(&nodes[2]), write_all(&writer, 2));
        assert!(bytes.len() > 3, "{} parts", bytes.len());
        let ids: Vec<NodeId> = nodes.iter().map(quorate_io::Node::node_id).collect();
        let cluster = nodes[0].cluster().cluster_id;

        let alone = addrs(1);
        let config = config_at(&dir.0.join("restored"), &alone);
        let made = restored(&config, bytes.iter().cloned().map(Ok).collect()).await.unwrap();
        assert_eq!(made.pairs, u64::from(PAIRS) + 1);
        assert!(made.cluster_id != cluster && !ids.contains(&made.node_id));
        let again = restored(&config, bytes.iter().cloned().map(Ok).collect()).await.unwrap_err();
        assert!(matches!(again, RestoreError::NotEmpty(_)), "{again}");

        // It outlives the old cluster, takes writes, and is still there after a restart.
        for node in nodes {
            node.stop().await.unwrap();
        }
        for round in 0..2 {
            let node = start_at(&config).await;
            assert_eq!((node.node_id(), node.cluster().cluster_id), (made.node_id, made.cluster_id));
            until("a leader", async || node.health().ready.is_ok()).await;
            let view = node.read(Consistency::Linearizable).await.unwrap();
            assert_eq!(view.get(b"last").unwrap(), ": acknowledged");
            assert!((0..PAIRS).all(|n| view.get(&n.to_be_bytes()).is_some_and(|value| value.len() == 5000)));
            assert_eq!(view.get(b"anew").is_some(), round > 0);
            node.write(b"anew".as_slice().into()).await.unwrap();
            drop(view);
            node.stop().await.unwrap();
        }
    });
}

async fn start_at(config: &NodeConfig) -> TestNode {
    TestNode::start(TokioPlatform::default(), config.clone(), Pairs).await.unwrap()
}

#[test]
fn what_is_no_whole_backup_makes_no_node() {
    run(async {
        let (dir, addresses) = (Dir::new("no-backup"), addrs(1));
        let node = start(0, &addresses, &dir.0).await.unwrap();
        write_all(&node, 1).await;
        let whole = backup(&node).await;
        node.stop().await.unwrap();
        let mut flipped = whole.clone();
        let mut chunk = flipped[1].to_vec();
        chunk[1000] ^= 1;
        flipped[1] = chunk.into();
        let cases: [(&str, Vec<io::Result<Bytes>>, u8); 4] = [
            ("flipped", flipped.into_iter().map(Ok).collect(), exit_code::DAMAGED),
            ("cut", whole[..whole.len() - 1].iter().cloned().map(Ok).collect(), exit_code::DAMAGED),
            ("empty", Vec::new(), exit_code::DAMAGED),
            ("unreadable", vec![Ok(whole[0].clone()), Err(io::Error::other("the source is gone"))], exit_code::FAILED),
        ];
        for (name, parts, code) in cases {
            let config = config_at(&dir.0.join(name), &addresses);
            let error = restored(&config, parts).await.unwrap_err();
            assert_eq!(error.exit_code(), code, "{name}: {error}");
            assert!(error.to_string().contains("Remove"), "{name}: {error}");
            // As after a crash at that point: it neither starts nor is it taken for an empty directory.
            let start = TestNode::start(TokioPlatform::default(), config, Pairs).await.unwrap_err();
            assert_eq!(start.exit_code(), exit_code::DAMAGED, "{name}: {start}");
        }
        // A crash just before the log is there.
        let config = config_at(&dir.0.join("no-log"), &addresses);
        restored(&config, whole.into_iter().map(Ok).collect()).await.unwrap();
        let path = dir.0.join("no-log");
        std::fs::remove_file(path.join("identity")).unwrap();
        let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|file| file.extension().is_some_and(|e| e == "seg"))
            .for_each(|file| std::fs::remove_file(file).unwrap());
        let start = TestNode::start(TokioPlatform::default(), config, Pairs).await.unwrap_err();
        assert_eq!(start.exit_code(), exit_code::DAMAGED, "{start}");
    });
}

//! Nodes on real disks whose stores are damaged, at rest and while they run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Dir, PAIRS, TestNode, addrs, run, snapshot_and_purge, start, until, write_all};
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use quorate_core::StateRef;
use quorate_io::Consistency;
use quorate_io::node::{StartError, exit_code};
use quorate_io::tokio::TokioRuntime;

fn store_file(dir: &Path, n: usize) -> PathBuf {
    let dir = dir.join(format!("n{n}/store"));
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut stores: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "db")).collect();
    assert_eq!(stores.len(), 1, "{stores:?}");
    stores.remove(0)
}

/// A byte of every block, the header's excepted.
fn damage(dir: &Path, n: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(store_file(dir, n)).unwrap();
    for at in (20_480..file.metadata().unwrap().len()).step_by(4096) {
        let mut byte = [0];
        if file.read_at(&mut byte, at + 77).unwrap() == 1 {
            file.write_at(&[byte[0] ^ 4], at + 77).unwrap();
        }
    }
}

fn term(node: &TestNode) -> u64 {
    node.raft().metrics().borrow_watched().current_term
}

async fn same_state(one: &TestNode, other: &TestNode) {
    until("the same state", async || {
        one.store().applied() == other.store().applied()
            && one.store().state_hash().is_ok_and(|hash| other.store().state_hash().is_ok_and(|o| o == hash))
    })
    .await;
}

#[test]
fn a_member_rebuilds_its_damaged_store_from_a_peer_and_stays_who_it_is() {
    run(async {
        let (dir, addrs) = (Dir::new("three"), addrs(3));
        let mut nodes = Vec::new();
        for n in 0..3 {
            nodes.push(start(n, &addrs, &dir.0).await.unwrap());
        }
        write_all(&nodes[0], 1).await;
        until("all have all", async || nodes.iter().all(|n| n.store().applied() == nodes[0].store().applied())).await;
        for node in &nodes {
            snapshot_and_purge(node, true).await;
        }
        // Above the snapshot: that stays in the log, and is not in what is pulled.
        nodes[0].write(b"tail: in the log".as_slice().into()).await.unwrap();
        same_state(&nodes[0], &nodes[2]).await;

        // At rest.
        let victim = nodes.pop().unwrap();
        let (id, term_before, last) = (victim.node_id(), term(&victim), victim.store().applied());
        victim.stop().await.unwrap();
        damage(&dir.0, 2);
        let victim = start(2, &addrs, &dir.0).await.unwrap();
        assert_eq!(victim.node_id(), id);
        assert!(term(&victim) >= term_before);
        assert!(victim.raft().metrics().borrow_watched().last_log_index >= last.map(|id| id.index));
        same_state(&nodes[0], &victim).await;
        write_all(&victim, 2).await;
        same_state(&nodes[0], &victim).await;
        for node in nodes.iter().chain([&victim]) {
            snapshot_and_purge(node, true).await;
        }

        // While it runs: a restart, so that no page is in the cache, then damage, then a read.
        victim.stop().await.unwrap();
        let victim = start(2, &addrs, &dir.0).await.unwrap();
        damage(&dir.0, 2);
        let reader = victim.clone();
        let view = reader.read(Consistency::Stale).await.unwrap();
        let found = (0..PAIRS).filter(|n| view.get(&n.to_be_bytes()).is_some()).count();
        assert!(found < PAIRS as usize && view.check().is_err(), "{found}");
        let stopped = TokioRuntime::timeout(Duration::from_secs(10), victim.stopped()).await.unwrap();
        assert_eq!(stopped.exit_code(), exit_code::STORE_DAMAGED, "{stopped}");
        assert_eq!(victim.stop().await.unwrap_err(), stopped);
        drop((view, reader, victim));
        let victim = start(2, &addrs, &dir.0).await.unwrap();
        assert_eq!(victim.node_id(), id);
        same_state(&nodes[0], &victim).await;
        write_all(&victim, 3).await;
        same_state(&nodes[0], &victim).await;
        nodes.push(victim);
        for node in nodes {
            node.stop().await.unwrap();
        }
        let names = std::fs::read_dir(dir.0.join("n2/store")).unwrap().map(|e| e.unwrap().file_name());
        let names: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("damaged")).collect();
        assert_eq!(names.len(), 0, "{names:?}");
    });
}

#[test]
fn a_lone_node_replays_its_log_or_says_what_to_do() {
    run(async {
        let (dir, addrs) = (Dir::new("lone"), addrs(1));
        let node = start(0, &addrs, &dir.0).await.unwrap();
        write_all(&node, 1).await;
        let applied = snapshot_and_purge(&node, false).await;
        let (id, hash) = (node.node_id(), node.store().state_hash().unwrap());
        node.stop().await.unwrap();
        damage(&dir.0, 0);
        let node = start(0, &addrs, &dir.0).await.unwrap();
        assert_eq!(node.node_id(), id);
        until("the log is replayed", async || node.store().applied() >= Some(applied)).await;
        assert_eq!(node.store().state_hash().unwrap(), hash);
        snapshot_and_purge(&node, true).await;
        node.stop().await.unwrap();
        damage(&dir.0, 0);
        let before = std::fs::read(store_file(&dir.0, 0)).unwrap();
        for _ in 0..2 {
            let error = start(0, &addrs, &dir.0).await.unwrap_err();
            assert!(matches!(error, StartError::StateLost { .. }), "{error}");
            assert_eq!(error.exit_code(), exit_code::DAMAGED);
            assert!(error.to_string().contains("Restore"), "{error}");
        }
        // redb's header may have been written again, as it was; nothing else.
        assert_eq!(std::fs::read(store_file(&dir.0, 0)).unwrap()[16_384..], before[16_384..]);
    });
}

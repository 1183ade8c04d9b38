//! A store on a full disk: nothing fails, nothing is lost, and it goes on when there is space.

use std::time::Duration;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use quorate_core::{LogId, StateRef};

use super::rig::{Change, CutDisk, Rig, TempDir, block_on, manifest, pairs};
use crate::snapshot::SnapshotReceiver;

fn put(n: u8, value: u8) -> Change {
    (vec![n], Some(vec![value; 500]))
}

fn changes(value: u8) -> Vec<Change> {
    (0..100).map(|n| put(n, value)).collect()
}

#[test]
fn a_commit_waits_for_space_and_nothing_counts_before() {
    block_on(async {
        let (dir, disk) = (TempDir::new(), CutDisk::never());
        let mut rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        rig.apply(1, &changes(1)).await;
        rig.build().await.unwrap();
        disk.set_full(true);
        rig.apply(2, &changes(2)).await;
        let mut builder = rig.store.get_snapshot_builder().await;
        let waiting = ::tokio::time::timeout(Duration::from_millis(1200), builder.build_snapshot()).await;
        assert!(waiting.is_err(), "it is full: {waiting:?}");
        assert_eq!(rig.store.durable(), Some(LogId::new(1, 1)));
        assert!(rig.store.fault().is_none());
        // Reads and writes go on, and the builder that was dropped leaves nothing behind.
        rig.apply(3, &[put(0, 3)]).await;
        assert_eq!(rig.store.view().get(&[0]).unwrap()[0], 3);
        assert_eq!(rig.store.view().get(&[1]).unwrap()[0], 2);
        disk.set_full(false);
        let snapshot = rig.build().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id.unwrap().index(), 2);
        assert_eq!(rig.store.view().get(&[0]).unwrap()[0], 3);
        rig.build().await.unwrap();
        let expected = pairs(&rig.store.view());
        disk.cut_after(0);
        rig.close().await;
        let rig = Rig::open(Some((&CutDisk::never(), &dir))).await.unwrap();
        assert_eq!((rig.store.applied(), pairs(&rig.store.view())), (Some(LogId::new(1, 3)), expected));
    });
}

#[test]
fn a_restart_on_a_full_disk_has_the_commit_before() {
    block_on(async {
        let (dir, disk) = (TempDir::new(), CutDisk::never());
        let mut rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        rig.apply(1, &changes(1)).await;
        rig.build().await.unwrap();
        let expected = pairs(&rig.store.view());
        disk.set_full(true);
        rig.apply(2, &changes(2)).await;
        let mut builder = rig.store.get_snapshot_builder().await;
        let store = rig.store.clone();
        let (built, ()) = futures_util::join!(builder.build_snapshot(), async {
            ::tokio::time::sleep(Duration::from_millis(100)).await;
            store.close().await;
        });
        assert!(built.unwrap_err().to_string().contains("stopped"), "closing ends the wait");
        drop((builder, store));
        rig.close().await;
        disk.set_full(false);
        let mut rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        assert_eq!((rig.store.applied(), pairs(&rig.store.view())), (Some(LogId::new(1, 1)), expected));
        // redb writes when it is opened: it must not find the disk full either, and what comes later needs it written.
        disk.set_full(true);
        rig.apply(2, &changes(3)).await;
        let mut builder = rig.store.get_snapshot_builder().await;
        let waiting = ::tokio::time::timeout(Duration::from_millis(100), builder.build_snapshot()).await;
        assert!(waiting.is_err());
        disk.set_full(false);
        rig.build().await.unwrap();
        let expected = pairs(&rig.store.view());
        rig.close().await;
        let rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        assert_eq!(pairs(&rig.store.view()), expected);
    });
}

#[test]
fn a_transfer_is_refused_and_leaves_nothing_behind() {
    block_on(async {
        let (dir, disk) = (TempDir::new(), CutDisk::never());
        let mut rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        let mut leader = Rig::open(None).await.unwrap();
        leader.apply(9, &changes(9)).await;
        let snapshot = leader.build().await.unwrap();
        let mut reader = snapshot.snapshot.chunks().unwrap();
        let chunk = reader.next_chunk().unwrap().unwrap();
        for full_at_chunk in [true, false] {
            let mut receiver = SnapshotReceiver::new(&rig.store, manifest(&snapshot));
            disk.set_full(full_at_chunk);
            let refused = match receiver.chunk(chunk.clone()).await {
                Ok(()) => {
                    disk.set_full(true);
                    receiver.finish(reader.trailer()).await.map(drop)
                }
                refused => refused,
            };
            // A small chunk may wait in redb's cache until the end.
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            disk.set_full(false);
            rig.store.staging_place().unwrap().0.jobs.run(|_| ()).await.unwrap();
            assert_eq!(dir.names(), ["CURRENT", "store-1.db"]);
        }
        assert!(rig.store.fault().is_none());
        let data = rig.receive(&snapshot).await;
        rig.store.install_snapshot(&snapshot.meta, data).await.unwrap();
        assert_eq!(rig.store.state_hash().unwrap(), leader.store.state_hash().unwrap());
    });
}

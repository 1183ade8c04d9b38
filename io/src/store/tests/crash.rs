//! A process that dies between any two changes to the disk leaves a store that opens, at one state or the other.

use openraft::storage::RaftStateMachine;
use quorate_core::LogId;

use super::rig::{Change, CutDisk, Pairs, Rig, TempDir, block_on, change_model, manifest, pairs};
use crate::store::StoreError;

fn changes(tag: u8, count: u8) -> Vec<Change> {
    (0..count).map(|n| (vec![n], (n % 7 != tag).then(|| vec![tag; 700]))).collect()
}

fn model(all: &[&[Change]]) -> Pairs {
    let mut model = Pairs::new();
    all.iter().for_each(|changes| change_model(&mut model, changes));
    model
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    FirstOpen,
    Commit,
    Install,
    Reopen,
}

/// Does `doing` on a disk that is cut off after so many changes; whether it went through.
async fn interrupted(dir: &TempDir, doing: Doing, changes_made: i64) -> bool {
    let disk = CutDisk::never();
    if let Doing::FirstOpen = doing {
        disk.cut_after(changes_made);
        return Rig::open(Some((&disk, dir))).await.is_ok();
    }
    let mut rig = Rig::open(Some((&disk, dir))).await.unwrap();
    rig.apply(1, &changes(1, 40)).await;
    rig.build().await.unwrap();
    rig.apply(2, &changes(2, 60)).await;
    let done = match doing {
        Doing::Commit => {
            disk.cut_after(changes_made);
            rig.build().await.is_ok()
        }
        Doing::Install => {
            let mut leader = Rig::open(None).await.unwrap();
            leader.apply(9, &changes(3, 90)).await;
            let snapshot = leader.build().await.unwrap();
            disk.cut_after(changes_made);
            let mut receiver = crate::snapshot::SnapshotReceiver::new(&rig.store, manifest(&snapshot));
            let mut reader = snapshot.snapshot.chunks().unwrap();
            let chunk = reader.next_chunk().unwrap().unwrap();
            let received = match receiver.chunk(chunk).await {
                Ok(()) => {
                    assert_eq!(reader.next_chunk().unwrap(), None);
                    receiver.finish(reader.trailer()).await
                }
                Err(error) => Err(error),
            };
            match received {
                Ok(data) => rig.store.install_snapshot(&snapshot.meta, data).await.is_ok(),
                Err(_) => false,
            }
        }
        Doing::FirstOpen | Doing::Reopen => {
            // Dies without a word, so that opening has to repair.
            disk.cut_after(0);
            rig.close().await;
            disk.cut_after(changes_made);
            return Rig::open(Some((&disk, dir))).await.is_ok();
        }
    };
    // Nothing of what happens from here on reaches the disk.
    disk.cut_after(0);
    rig.close().await;
    done
}

fn every_cut(doing: Doing) {
    block_on(async {
        let before = match doing {
            Doing::FirstOpen => (None, Pairs::new()),
            _ => (Some(LogId::new(1, 1)), model(&[&changes(1, 40)])),
        };
        let after = match doing {
            Doing::Commit => (Some(LogId::new(1, 2)), model(&[&changes(1, 40), &changes(2, 60)])),
            Doing::Install => (Some(LogId::new(1, 9)), model(&[&changes(3, 90)])),
            Doing::FirstOpen | Doing::Reopen => before.clone(),
        };
        let mut cut = 0;
        loop {
            let dir = TempDir::new();
            let done = interrupted(&dir, doing, cut).await;
            let rig = Rig::open(Some((&CutDisk::never(), &dir))).await;
            let rig = rig.unwrap_or_else(|error| panic!("{doing:?} cut after {cut}: {error}"));
            let found = (rig.store.applied(), pairs(&rig.store.view()));
            assert!(found == after || (!done && found == before), "{doing:?} cut after {cut}: {:?}", found.0);
            let stores = dir.names().iter().filter(|name| name.starts_with("store-")).count();
            assert_eq!(stores, 1, "{:?}", dir.names());
            rig.close().await;
            if done {
                assert!(cut > 2, "{doing:?} was cut {cut} times only");
                return;
            }
            cut += 1;
        }
    });
}

#[test]
fn first_open_interrupted() {
    every_cut(Doing::FirstOpen);
}

#[test]
fn commit_interrupted() {
    every_cut(Doing::Commit);
}

#[test]
fn install_interrupted() {
    every_cut(Doing::Install);
}

#[test]
fn reopen_interrupted() {
    every_cut(Doing::Reopen);
}

#[test]
fn a_failed_commit_is_not_tried_again() {
    block_on(async {
        let (dir, disk) = (TempDir::new(), CutDisk::never());
        let mut rig = Rig::open(Some((&disk, &dir))).await.unwrap();
        rig.apply(1, &changes(1, 40)).await;
        disk.cut_after(3);
        rig.build().await.unwrap_err();
        disk.cut_after(i64::MAX);
        rig.build().await.unwrap_err();
        assert!(matches!(rig.store.fault(), Some(StoreError::Io { .. })), "{:?}", rig.store.fault());
        assert_eq!(rig.store.durable(), None);
    });
}

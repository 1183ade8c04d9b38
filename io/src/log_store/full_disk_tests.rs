//! The log store on a disk that has no space left.

use std::io;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;
use quorate_core::log::format::LogIdentity;
use quorate_core::log::writer::LogOptions;
use quorate_core::{LogId, NodeId, Payload};

use super::tests::TempDir;
use super::{LogConfig, LogDir, LogStore, OpenError, Opened, open};
use crate::jobs::Jobs;
use crate::node::{StartError, exit_code};
use crate::reserve::{self, Reserve};
use crate::small_disk::{SmallDisk, SmallPlatform};
use crate::tokio::TokioRuntime;
use crate::types::{Types, entry_to, log_id_to, raft};

type C = Types<TokioRuntime>;

const SEGMENT: u64 = 256 << 10;
const RESERVE: u64 = 2 << 20;
const AMPLE: u64 = 1 << 30;

struct Rig {
    dir: TempDir,
    disk: SmallDisk,
    reserve: Reserve<SmallDisk>,
}

impl Rig {
    fn new() -> Self {
        let (dir, disk) = (TempDir::new(), SmallDisk::new(AMPLE));
        let reserve = Reserve::open(&disk, &dir.0, RESERVE, SEGMENT).unwrap();
        assert!(!reserve.is_full());
        Self { dir, disk, reserve }
    }

    async fn open(&self) -> Result<Opened<SmallPlatform>, OpenError> {
        let (durable, _) = C::watch_channel(None);
        let jobs = Jobs::start(&self.disk, "log reads");
        let fresh = LogIdentity { uuid: 77, node_id: NodeId(1) };
        let place = LogDir { disk: &self.disk, jobs: &jobs, path: &self.dir.0, reserve: &self.reserve };
        let options = LogOptions { segment_bytes: SEGMENT, ..LogOptions::default() };
        open(place, LogConfig { options, ..LogConfig::default() }, fresh, None, durable).await
    }

    /// As a start of the node does it.
    async fn restart(&mut self) -> Result<Opened<SmallPlatform>, OpenError> {
        self.reserve = Reserve::open(&self.disk, &self.dir.0, RESERVE, SEGMENT).unwrap();
        self.open().await
    }

    fn reserved(&self) -> u64 {
        self.disk.len_of(reserve::FILE_NAME)
    }

    fn segment_lens(&self) -> Vec<u64> {
        let names = self.disk.list(&self.dir.0).unwrap();
        names.iter().filter(|name| name.starts_with("log-")).map(|name| self.disk.len_of(name)).collect()
    }
}

fn vote(term: u64) -> raft::Vote {
    raft::Vote::new(term, NodeId(1))
}

async fn append(store: &mut LogStore<SmallPlatform>, indexes: std::ops::Range<u64>) -> io::Result<()> {
    let command = |index| Payload::Command(Bytes::from(vec![index as u8; 10_000]));
    let entry =
        |index| entry_to(quorate_core::Entry { log_id: LogId::new(1, index), payload: command(index) }).unwrap();
    let (sender, flushed) = C::oneshot();
    store.append(indexes.map(entry), IOFlushed::signal(sender)).await?;
    flushed.await.unwrap()
}

#[test]
fn what_openraft_was_given_is_written_from_the_reserve() {
    TokioRuntime::run(async {
        let rig = Rig::new();
        let mut store = rig.open().await.unwrap().store;
        append(&mut store, 0..5).await.unwrap();
        rig.disk.fill();
        append(&mut store, 5..15).await.unwrap();
        assert!(!rig.reserve.is_full(), "a segment has room for these");
        for index in (15..75).step_by(10) {
            append(&mut store, index..index + 10).await.unwrap();
        }
        assert!(rig.reserve.is_full());
        assert!(rig.reserved() < RESERVE && rig.reserved() > RESERVE / 2, "{} are left", rig.reserved());
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 75);
    });
}

#[test]
fn votes_are_saved_and_the_node_starts_again_and_again_on_a_full_disk() {
    TokioRuntime::run(async {
        let mut rig = Rig::new();
        let mut store = rig.open().await.unwrap().store;
        append(&mut store, 0..30).await.unwrap();
        rig.disk.fill();
        let mut term = 1;
        for boot in 2..12 {
            for _ in 0..5 {
                term += 1;
                store.save_vote(&vote(term)).await.unwrap();
            }
            store.close().await.unwrap();
            drop(store);
            let opened = rig.restart().await.unwrap();
            assert!(rig.reserve.is_full());
            assert_eq!(opened.boot_epoch, boot);
            store = opened.store;
            let mut reader = store.get_log_reader().await;
            assert_eq!(reader.read_vote().await.unwrap(), Some(vote(term)));
            assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 30);
        }
        let lens = rig.segment_lens();
        assert!(lens.len() > 10 && lens.iter().rev().take(10).all(|len| *len <= 64 << 10), "{lens:?}");
        assert!(rig.reserved() > RESERVE / 8, "{} are left", rig.reserved());

        rig.disk.set_capacity(AMPLE);
        rig.reserve.refill().unwrap();
        assert!(!rig.reserve.is_full() && rig.reserved() == RESERVE);
        append(&mut store, 30..40).await.unwrap();
        let lens = rig.segment_lens();
        assert!(
            lens.iter().rev().take(1).all(|len| *len == SEGMENT),
            "segments have their full length again: {lens:?}"
        );
    });
}

#[test]
fn a_reserve_that_is_used_up_stops_the_node_and_loses_nothing() {
    TokioRuntime::run(async {
        let mut rig = Rig::new();
        let mut store = rig.open().await.unwrap().store;
        // Otherwise no segment but the last would be needed.
        append(&mut store, 0..1).await.unwrap();
        rig.disk.fill();
        let mut term = 0;
        let failed = loop {
            match store.save_vote(&vote(term + 1)).await {
                Ok(()) => term += 1,
                Err(error) => break error,
            }
            assert!(term < 10_000);
        };
        assert!(term > 100, "the reserve was good for {term} votes");
        assert_eq!((failed.kind(), rig.reserved()), (io::ErrorKind::StorageFull, 0));
        assert!(store.save_vote(&vote(term + 1)).await.is_err() && store.close().await.is_err(), "it went on");
        drop(store);
        // What the failed creation took may be enough for one more segment, once it is removed.
        rig.disk.fill();
        let mut refused = rig.restart().await;
        for _ in 0..3 {
            let Ok(opened) = refused else { break };
            opened.store.close().await.unwrap();
            rig.disk.fill();
            refused = rig.restart().await;
        }
        let error = StartError::from(refused.unwrap_err());
        assert_eq!(error.exit_code(), exit_code::DISK_FAILED);
        assert!(error.to_string().contains(&format!("free {} bytes", RESERVE + SEGMENT)), "{error}");

        rig.disk.set_capacity(AMPLE);
        let mut store = rig.restart().await.unwrap().store;
        let found = store.get_log_reader().await.read_vote().await.unwrap();
        assert!(found >= Some(vote(term)), "{found:?} after {term}");
    });
}

#[test]
fn segments_that_are_kept_for_later_are_given_back() {
    TokioRuntime::run(async {
        let rig = Rig::new();
        let mut store = rig.open().await.unwrap().store;
        for index in (0..100).step_by(10) {
            append(&mut store, index..index + 10).await.unwrap();
        }
        store.purge(log_id_to(LogId::new(1, 95))).await.unwrap();
        append(&mut store, 100..101).await.unwrap();
        append(&mut store, 101..102).await.unwrap();
        let kept = rig.segment_lens().len();
        rig.reserve.mark_full();
        store.make_room();
        store.save_vote(&vote(1)).await.unwrap();
        assert!(kept > 4 && rig.segment_lens().len() < 4, "{kept}, then {:?}", rig.segment_lens());
        assert_eq!(store.get_log_reader().await.try_get_log_entries(..).await.unwrap().len(), 6);
    });
}

/// No flapping: the disk is full until there is room for the reserve and for the next segment; and while there is not,
/// trying takes nothing from others.
#[test]
fn the_reserve_is_refilled_when_there_is_room_for_a_segment_too() {
    let rig = Rig::new();
    rig.disk.fill();
    rig.reserve.mark_full();
    for (room, full) in [(0, true), (SEGMENT - 1, true), (SEGMENT, false)] {
        rig.disk.set_capacity(RESERVE + room);
        rig.reserve.refill().unwrap();
        assert_eq!((rig.reserve.is_full(), rig.reserved(), rig.disk.room()), (full, RESERVE, room), "{room}");
    }
    let mut left = RESERVE;
    rig.disk.fill();
    let spent = rig.reserve.spend(|| {
        left = left.min(rig.reserved());
        if left > RESERVE / 3 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    spent.unwrap();
    assert!(rig.reserve.is_full() && !rig.reserve.has_half() && left > RESERVE / 4);
    rig.reserve.refill().unwrap();
    assert_eq!((rig.reserved(), rig.disk.room()), (left, RESERVE - left));
}

/// Whatever the errno says, nothing is known about the data after a sync that failed.
#[test]
fn a_sync_that_fails_for_want_of_space_is_final() {
    TokioRuntime::run(async {
        let rig = Rig::new();
        let mut store = rig.open().await.unwrap().store;
        append(&mut store, 0..5).await.unwrap();
        rig.disk.fail_syncs();
        assert!(append(&mut store, 5..6).await.is_err());
        assert!(store.failure().is_some());
        assert_eq!(rig.reserved(), RESERVE, "no space can make up for it");
    });
}

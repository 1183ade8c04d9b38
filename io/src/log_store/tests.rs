//! The log store against openraft's own suite, and what that suite does not ask: restarts, the cache, errors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};
use openraft_rt::AsyncRuntime;
use quorate_core::disk::File;
use quorate_core::identity::FILE_NAME;
use quorate_core::log::format::{BLOCK_BYTES, LogIdentity};
use quorate_core::log::writer::LogOptions;
use quorate_core::{LogId, NodeId, Payload, StateMachine, StateMut};

use super::{LogConfig, LogDir, LogStore, OpenError, Opened, open};
use crate::jobs::{Jobs, lock};
use crate::reserve::Reserve;
use crate::state_machine::{Location, StateMachineStore, StoreConfig};
use crate::tokio::{RealDisk, RealFile, TokioPlatform, TokioRuntime};
use crate::types::{Types, entry_to, log_id_to, raft};

type C = Types<TokioRuntime>;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: LogId, _: &Bytes, _: &mut dyn StateMut) -> Bytes {
        Bytes::new()
    }
}

/// A directory under the system's temporary one, removed at the end.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("quorate-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small segments and next to no cache, so that the suite reads from disk and rolls.
fn config() -> LogConfig {
    let options = LogOptions { segment_bytes: 8 * BLOCK_BYTES, batch_bytes_max: 8192 };
    LogConfig { options, cache_bytes: 300, ..LogConfig::default() }
}

async fn open_in(dir: &TempDir, applied: Option<LogId>) -> Result<Opened<TokioPlatform>, OpenError> {
    let (durable, _) = C::watch_channel(None);
    let jobs = Jobs::start(&RealDisk::default(), "log reads");
    let reserve = Reserve::open(&RealDisk::default(), &dir.0, 1 << 20, 1 << 16).unwrap();
    let fresh = LogIdentity { uuid: 77, node_id: NodeId(1) };
    let place = LogDir { disk: &RealDisk::default(), jobs: &jobs, path: &dir.0, reserve: &reserve };
    open(place, config(), fresh, applied, durable).await
}

/// A state machine for which any log is durable: the suite builds snapshots of entries that it never appended.
async fn machine() -> StateMachineStore<TokioPlatform> {
    let (sender, durable) = C::watch_channel(Some(LogId::new(u64::MAX, u64::MAX)));
    std::mem::forget(sender);
    StateMachineStore::open(Location::Memory, StoreConfig::default().dirty_bytes_max, Arc::new(Nothing), durable)
        .await
        .unwrap()
}

struct OnDisk;
struct InMemory;

impl StoreBuilder<C, LogStore<TokioPlatform>, StateMachineStore<TokioPlatform>, TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore<TokioPlatform>, StateMachineStore<TokioPlatform>), StorageError<C>> {
        let dir = TempDir::new();
        let opened = open_in(&dir, None).await.unwrap();
        Ok((dir, opened.store, machine().await))
    }
}

impl StoreBuilder<C, LogStore<TokioPlatform>, StateMachineStore<TokioPlatform>> for InMemory {
    async fn build(&self) -> Result<((), LogStore<TokioPlatform>, StateMachineStore<TokioPlatform>), StorageError<C>> {
        let (durable, _) = C::watch_channel(None);
        Ok(((), LogStore::in_memory(config(), durable), machine().await))
    }
}

#[test]
fn openraft_suite_on_disk() {
    TokioRuntime::run(Suite::test_all(OnDisk)).unwrap();
}

#[test]
fn openraft_suite_in_memory() {
    TokioRuntime::run(Suite::test_all(InMemory)).unwrap();
}

fn entry(term: u64, index: u64) -> raft::Entry {
    let payload = Payload::Command(Bytes::from(vec![index as u8; 500]));
    entry_to(quorate_core::Entry { log_id: LogId::new(term, index), payload }).unwrap()
}

async fn append(store: &mut LogStore<TokioPlatform>, entries: Vec<raft::Entry>) {
    let (sender, flushed) = C::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

#[test]
fn a_restart_brings_back_what_was_flushed_and_counts_itself() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let first = open_in(&dir, None).await.unwrap();
        assert_eq!((first.boot_epoch, first.has_history), (1, false));
        let mut store = first.store;
        append(&mut store, (0..100).map(|i| entry(1, i)).collect()).await;
        let mut vote = raft::Vote::new(4, NodeId(9));
        vote.committed = true;
        store.save_vote(&vote).await.unwrap();
        store.truncate_after(Some(log_id_to(LogId::new(1, 89)))).await.unwrap();
        append(&mut store, vec![entry(4, 90)]).await;
        store.close().await.unwrap();
        drop(store);

        let again = open_in(&dir, Some(LogId::new(1, 10))).await.unwrap();
        assert_eq!((again.boot_epoch, again.has_history, again.identity), (2, true, first.identity));
        let mut store = again.store;
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
        let entries = reader.try_get_log_entries(..).await.unwrap();
        let expected: Vec<_> = (0..90).map(|i| entry(1, i)).chain([entry(4, 90)]).collect();
        assert_eq!(entries, expected);
        assert_eq!(reader.limited_get_log_entries(88, 91).await.unwrap(), expected[88..]);
    });
}

#[test]
fn damage_to_synced_entries_is_refused_with_file_and_offset() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let mut store = open_in(&dir, None).await.unwrap().store;
        for index in 0..5 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        store.close().await.unwrap();
        drop(store);
        let path = dir.0.join(quorate_core::log::format::segment_name(1));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(500).position(|w| w == [2; 500]).unwrap();
        bytes[at + 7] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let refused = open_in(&dir, None).await.unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, OpenError::Damage { .. }), "{text}");
        assert!(text.contains("log-0000000000000001.seg at offset"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is changed");

        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open_in(&dir, None).await, Err(OpenError::Damage { .. })), "a lost log is not an empty one");
        std::fs::write(dir.0.join(FILE_NAME), b"garbage").unwrap();
        assert!(matches!(open_in(&dir, None).await, Err(OpenError::Identity { .. })));
    });
}

/// Rot that comes while the log is open, in an entry that has left the cache.
#[test]
fn an_entry_that_rots_under_a_running_log_is_not_handed_out() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let mut store = open_in(&dir, None).await.unwrap().store;
        append(&mut store, (0..5).map(|i| entry(1, i)).collect()).await;
        let path = dir.0.join(quorate_core::log::format::segment_name(1));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(500).position(|w| w == [2; 500]).unwrap();
        bytes[at + 7] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(0..2).await.unwrap(), [entry(1, 0), entry(1, 1)]);
        assert!(store.failure().is_none());
        let refused = reader.limited_get_log_entries(0, 5).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData);
        let record = at - 17 - quorate_core::log::record::RECORD_HEADER_BYTES;
        let expected = format!("log-0000000000000001.seg at offset {record}: entry 1.2 is not what was written");
        assert_eq!(refused.to_string(), expected);
        assert_eq!(store.failure().unwrap().to_string(), refused.to_string());
        let (sender, _flushed) = C::oneshot();
        assert!(store.append([entry(1, 5)], IOFlushed::signal(sender)).await.is_err(), "the log goes on");
    });
}

/// A sparse file can claim any length: it is refused before anybody reserves memory for it.
#[test]
fn a_segment_of_absurd_length_is_damage() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        open_in(&dir, None).await.unwrap().store.close().await.unwrap();
        let path = dir.0.join(quorate_core::log::format::segment_name(1));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = open_in(&dir, None).await.unwrap_err();
        assert!(matches!(refused, OpenError::Damage { .. }), "{refused}");
        assert!(refused.to_string().contains("1099511627776 bytes"), "{refused}");
    });
}

/// The files of a log's segments, told apart by what the file system calls them.
fn segment_files(dir: &TempDir) -> Vec<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(&dir.0).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().ino())).collect();
    files.retain(|(name, _)| name.starts_with("log-"));
    files.sort();
    files
}

#[test]
fn purged_segments_become_new_ones_and_a_start_removes_those_that_have_not() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let mut store = open_in(&dir, None).await.unwrap().store;
        for index in 0..60 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        let before = segment_files(&dir);
        store.purge(log_id_to(LogId::new(1, 55))).await.unwrap();
        for index in 60..100 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        let after = segment_files(&dir);
        assert!(before.len() > 8 && after.len() <= before.len() + 3, "{before:?}, then {after:?}");
        let again = after.iter().filter(|(name, ino)| before.iter().any(|(old, of)| of == ino && old != name)).count();
        assert!(again > 4, "{again} were used again: {before:?}, then {after:?}");
        store.close().await.unwrap();
        drop(store);

        let mut store = open_in(&dir, Some(LogId::new(1, 55))).await.unwrap().store;
        let expected: Vec<_> = (56..100).map(|i| entry(1, i)).collect();
        assert_eq!(store.get_log_reader().await.try_get_log_entries(..).await.unwrap(), expected);
        // What was recovered is used again like what was written here.
        store.purge(log_id_to(LogId::new(1, 99))).await.unwrap();
        for index in 100..120 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        assert!(segment_files(&dir).len() <= after.len() + 3, "{after:?}, then {:?}", segment_files(&dir));
        store.purge(log_id_to(LogId::new(1, 119))).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        open_in(&dir, Some(LogId::new(1, 119))).await.unwrap().store.close().await.unwrap();
        assert!(segment_files(&dir).len() < 4, "{:?}", segment_files(&dir));
    });
}

/// A segment that nothing needs must not become the log's last one because the last one is gone.
#[test]
fn a_log_never_goes_on_from_a_spare_segment() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let mut store = open_in(&dir, None).await.unwrap().store;
        for index in 0..60 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        store.purge(log_id_to(LogId::new(1, 59))).await.unwrap();
        store.save_vote(&raft::Vote::new(2, quorate_core::NodeId(1))).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let (spare, mut live): (Vec<_>, Vec<_>) =
            segment_files(&dir).into_iter().map(|(name, _)| name).partition(|name| name.ends_with(".spare"));
        let last = live.pop().unwrap();
        assert!(spare.len() > 8 && live.is_empty(), "{spare:?}, {live:?}");
        std::fs::remove_file(dir.0.join(last)).unwrap();
        let refused = open_in(&dir, Some(LogId::new(1, 59))).await.unwrap_err();
        assert!(matches!(refused, OpenError::Damage { .. }), "{refused}");
    });
}

/// Whoever reads a segment has its file, and may go on reading when the segment is purged.
#[test]
fn a_segment_that_is_still_read_does_not_become_another_one() {
    TokioRuntime::run(async {
        let dir = TempDir::new();
        let mut store = open_in(&dir, None).await.unwrap().store;
        for index in 0..60 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        let reading: Vec<_> = lock(&store.shared.state).files.values().cloned().collect();
        let content = || -> Vec<Vec<u8>> {
            let whole = |file: &Arc<RealFile>| {
                let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                file.read_at(0, &mut bytes).unwrap();
                bytes
            };
            reading.iter().map(whole).collect()
        };
        let before = content();
        store.purge(log_id_to(LogId::new(1, 55))).await.unwrap();
        for index in 60..100 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        // The last ones were not purged, and written to.
        let kept = before.len() - 4;
        assert!(kept > 4, "{kept}");
        assert!(content()[..kept] == before[..kept], "what is read has changed");
        let names = segment_files(&dir);
        drop(reading);
        store.purge(log_id_to(LogId::new(1, 95))).await.unwrap();
        for index in 100..140 {
            append(&mut store, vec![entry(1, index)]).await;
        }
        let used_again = segment_files(&dir)
            .into_iter()
            .filter(|(name, ino)| names.iter().any(|(old, of)| of == ino && old != name));
        assert!(used_again.count() > 4, "{names:?}, then {:?}", segment_files(&dir));
    });
}

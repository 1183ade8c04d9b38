//! A backup of a running cluster, and a new cluster from one.
//!
//! A backup is a snapshot as one sequence of bytes ([`quorate_core::snapshot::PartReader`]), of a state that has every
//! write in it that was acknowledged before the backup began; or, of a cluster that has lost its quorum, of what one node
//! has.
//!
//! Restoring founds a cluster of one node: a new identity, a new cluster id, and the state under a log id of term 0, so
//! that every entry of the new cluster is newer. Others join it. The order of what is written makes a restore that was
//! interrupted no node: its directory is refused at a start.
//!
//! ```text
//! founding record ──► store with the state ──► log and identity
//!   without a log it is   without a log it is      complete: opening resets the empty log to the store, as after
//!   somebody else's       damaged                  any snapshot that was installed
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;
use quorate_core::founding::{FILE_NAME, FoundingRecord};
use quorate_core::snapshot::{Manifest, Part, PartReader, SnapshotError};
use quorate_core::{ClusterId, LogId, NodeId, StoredMembership};

use super::start::{fresh_identity, lock_dir, open_reserve};
use super::{Node, NodeConfig, StartError, Storage, exit_code};
use crate::error::{Consistency, ReadError, Reason};
use crate::jobs::Jobs;
use crate::log_store::{self, LogDir};
use crate::platform::Platform;
use crate::reserve::{Reserve, replace_spending};
use crate::snapshot::{Received, SnapshotParts, SnapshotReceiver};
use crate::store::StoreError;
use crate::store::redb::Home;
use crate::types::Types;

/// Longest wait for the state to be durable up to where a backup begins.
const DURABLE_WITHIN: Duration = Duration::from_secs(60);
/// Between two snapshots that are asked for, if the first was of an older state.
const ASK_EVERY: Duration = Duration::from_millis(200);

impl<P: Platform> Node<P> {
    /// A consistent backup: what [`SnapshotParts::next_bytes`] returns, one behind the other. Any node gives one. As long as
    /// it is held, the space of what is written meanwhile is not used again. If it is linearizable it has every write that
    /// was acknowledged before; if it is stale, what this node has applied: that asks nobody and needs no quorum.
    ///
    /// # Errors
    /// As of a read; or the state does not become durable, say because the disk is full.
    pub async fn backup(&self, consistency: Consistency) -> Result<SnapshotParts, ReadError> {
        let wanted = self.read(consistency).await?.applied();
        let mut metrics = self.inner.raft.metrics();
        let deadline = InstantOf::<Types<P::Runtime>>::now() + DURABLE_WITHIN;
        loop {
            let state = self.inner.store.durable_state();
            if state.0.applied >= wanted {
                return Ok(SnapshotParts::new(state));
            }
            if InstantOf::<Types<P::Runtime>>::now() >= deadline {
                return Err(ReadError(Reason::Timeout));
            }
            self.inner.raft.trigger().snapshot().await.map_err(|_| ReadError(Reason::Stopping))?;
            let index = wanted.map(|id| id.index);
            let built = metrics.wait_until(|m| m.snapshot.as_ref().map(|id| id.index) >= index);
            if let Ok(Err(_)) = P::Runtime::timeout(ASK_EVERY, built).await {
                return Err(ReadError(Reason::Stopping));
            }
        }
    }
}

/// Why a backup cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory holds something.
    #[error(
        "{} is not empty; a backup is restored into an empty directory, or one that does not exist", .0.display()
    )]
    NotEmpty(PathBuf),
    /// The bytes are no whole backup.
    #[error("the backup cannot be used: {error}. Remove {} before the next attempt", dir.display())]
    Backup {
        /// The data directory, in which something may have been written.
        dir: PathBuf,
        /// What is wrong.
        error: SnapshotError,
    },
    /// The backup cannot be read.
    #[error("the backup cannot be read: {error}. Remove {} before the next attempt", dir.display())]
    Read {
        /// The data directory, in which something may have been written.
        dir: PathBuf,
        /// What its source says.
        error: io::Error,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] StartError),
}

impl RestoreError {
    /// The exit code for a process that only restores: see [`exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotEmpty(_) | Self::Read { .. } => exit_code::FAILED,
            Self::Backup { .. } => exit_code::DAMAGED,
            Self::Dir(error) => error.exit_code(),
        }
    }
}

/// What was made of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Its only member.
    pub node_id: NodeId,
    /// How many pairs the state has.
    pub pairs: u64,
}

/// Makes the data directory of `config`, which must be empty, from a backup: of a node that is alone in a new cluster.
/// Of `config` counts what the directory needs: its storage, name, peer addresses and token.
///
/// # Errors
/// See [`RestoreError`]. What has been written by then is no node's.
pub async fn restore<P: Platform>(
    platform: &P,
    config: &NodeConfig,
    backup: impl Stream<Item = io::Result<Bytes>>,
) -> Result<Restored, RestoreError> {
    let Storage::Dir(dir) = &config.storage else {
        return Err(StartError::Config("a backup is restored into a data directory, not into memory".to_owned()).into());
    };
    config.check_reserve()?;
    let jobs = Jobs::start(platform.disk(), "store");
    let _lock = lock_dir::<P>(&jobs, dir).await?;
    let (listed, io_error) = (dir.clone(), |error| StartError::Io { path: dir.clone(), error });
    let names = jobs.run(move |disk| disk.list(&listed)).await.map_err(io::Error::other).flatten();
    // The lock's file is there already.
    if names.map_err(io_error)?.len() > 1 {
        return Err(RestoreError::NotEmpty(dir.clone()));
    }
    let reserve = open_reserve::<P>(&jobs, dir, config).await?;
    let fresh = fresh_identity::<P>();
    let record = FoundingRecord::alone(&config.founding.token, &config.name, fresh.node_id, &config.peer_addrs);
    let home = Home {
        jobs: jobs.clone(),
        dir: dir.join("store"),
        reserve: Some(reserve.clone()),
        cache_bytes: config.store.cache_bytes,
    };
    let (path, bytes, spent, store) = (dir.join(FILE_NAME), record.to_file(), reserve.clone(), home.dir.clone());
    let kept = jobs.run(move |disk| {
        replace_spending(disk, Some(&spent), &path, &bytes)?;
        disk.create_dir_all(&store)
    });
    kept.await.map_err(io::Error::other).flatten().map_err(io_error)?;
    let pairs = take_backup::<P>(&home, dir, &record, backup).await?;
    make_log(platform, config, dir, &reserve, fresh).await?;
    Ok(Restored { cluster_id: record.cluster_id(), node_id: fresh.node_id, pairs })
}

/// Puts the state of a backup into a new store, as the state of the cluster that `record` founds. Says how many pairs.
async fn take_backup<P: Platform>(
    home: &Home<P::Disk>,
    dir: &Path,
    record: &FoundingRecord,
    backup: impl Stream<Item = io::Result<Bytes>>,
) -> Result<u64, RestoreError> {
    let damaged = |error| RestoreError::Backup { dir: dir.to_owned(), error };
    let failed = |error: StoreError| match error {
        StoreError::Snapshot(error) => damaged(error),
        error => RestoreError::Dir(error.into()),
    };
    let mut backup = pin!(backup);
    let mut reader = PartReader::default();
    let (mut receiver, mut received) = (None, None);
    while let Some(bytes) = backup.next().await {
        reader.push(&bytes.map_err(|error| RestoreError::Read { dir: dir.to_owned(), error })?);
        while let Some(part) = reader.next_part().map_err(damaged)? {
            match (part, receiver.take()) {
                (Part::Manifest(manifest), _) => {
                    let manifest = anew(&manifest, record);
                    receiver = Some(SnapshotReceiver::<P>::into_file(home.clone(), 1, manifest));
                }
                (Part::Chunk(chunk), Some(mut taking)) => {
                    taking.take(chunk).await.map_err(failed)?;
                    receiver = Some(taking);
                }
                (Part::Trailer(trailer), Some(taking)) => {
                    received = Some((taking.complete(trailer).await.map_err(failed)?, trailer.pairs));
                }
                // The reader returns the manifest first, and nothing behind the trailer.
                (Part::Chunk(_) | Part::Trailer(_), None) => {}
            }
        }
    }
    reader.finish().map_err(damaged)?;
    let Some((Received::File(built), pairs)) = received else {
        return Err(failed(StoreError::Stopped));
    };
    let owner = home.clone();
    let installed = home.jobs.run(move |disk| built.install(disk, &owner).map(drop)).await;
    installed.map_err(StoreError::from).flatten().map_err(failed)?;
    Ok(pairs)
}

/// What the state covers in the new cluster: an entry before its first, and the membership that founds it.
fn anew(manifest: &Manifest, record: &FoundingRecord) -> Manifest {
    let applied = Some(LogId::new(0, manifest.applied.map_or(0, |id| id.index)));
    Manifest { applied, membership: StoredMembership { log_id: applied, membership: record.membership() } }
}

/// Only now is the directory a node's.
async fn make_log<P: Platform>(
    platform: &P,
    config: &NodeConfig,
    dir: &Path,
    reserve: &Reserve<P::Disk>,
    fresh: quorate_core::log::format::LogIdentity,
) -> Result<(), StartError> {
    let readers = Jobs::start(platform.disk(), "log reads");
    let (durable, _) = Types::<P::Runtime>::watch_channel(None::<LogId>);
    let place = LogDir { disk: platform.disk(), jobs: &readers, path: dir, reserve };
    let log = log_store::open::<P>(place, config.log, fresh, None, durable).await?;
    log.store.close().await.map_err(|error| StartError::Io { path: dir.to_owned(), error })
}

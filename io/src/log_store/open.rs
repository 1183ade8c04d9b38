//! Opens the log of a data directory: scan, decide, make the recovered state durable.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::disk::{Disk, File, OpenMode, read_file};
use quorate_core::identity::{self, IdentityError};
use quorate_core::log::format::{LogIdentity, SEGMENT_BYTES_MAX, parse_segment_name, parse_spare_name, segment_name};
use quorate_core::log::record::{self, Record};
use quorate_core::log::recovery::{DamageKind, Recovered, SegmentFacts, recover, scan_segment};
use quorate_core::log::writer::{LogOptions, Place};
use quorate_core::log::{Damage, LogWriter};
use quorate_core::{LogId, Membership, Payload};

use super::worker::{LogWorker, Segments};
use super::{DurableSender, LogConfig, LogStore, Slot, State};
use crate::jobs::Jobs;
use crate::platform::Platform;
use crate::reserve::{Reserve, replace_spending};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Durable data is damaged. Nothing was changed.
    #[error(
        "{}: {damage}. Nothing was changed. Do not start this node with this directory again: remove the node from the \
         cluster, move the directory away, and join it anew with an empty one", dir.display()
    )]
    Damage {
        /// The data directory.
        dir: PathBuf,
        /// What is damaged.
        damage: Damage,
    },
    /// The identity file is damaged. Nothing was changed.
    #[error("{}: {error}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: IdentityError,
    },
    /// An I/O error.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened<P: Platform> {
    /// The log store, ready.
    pub store: LogStore<P>,
    /// Who the directory belongs to.
    pub identity: LogIdentity,
    /// Counts starts of this node on this directory, this one included.
    pub boot_epoch: u64,
    /// Whether this node has a vote or a log from an earlier start.
    pub has_history: bool,
}

/// Where a log is.
#[derive(Debug)]
pub struct LogDir<'a, D: Disk> {
    /// The disk.
    pub disk: &'a D,
    /// Reads entries.
    pub jobs: &'a Jobs<D>,
    /// The data directory, which exists and is locked by this process.
    pub path: &'a Path,
    /// What segments are made from when the disk is full.
    pub reserve: &'a Reserve<D>,
}

/// Opens the log of a directory. `fresh` is the identity that an empty one gets; `applied` is what the store has
/// durably applied; `durable` is told up to which entry the log is durable.
///
/// # Errors
/// See [`OpenError`].
pub async fn open<P: Platform>(
    place: LogDir<'_, P::Disk>,
    config: LogConfig,
    fresh: LogIdentity,
    applied: Option<LogId>,
    durable: DurableSender<P>,
) -> Result<Opened<P>, OpenError> {
    let LogDir { disk, jobs, path: dir, reserve } = place;
    let (job_dir, reserve) = (dir.to_owned(), reserve.clone());
    let recovery = move |disk: &P::Disk| recover_dir::<P>(disk, &job_dir, reserve, config, fresh, applied);
    let stopped = |e| OpenError::Io { path: dir.to_owned(), error: io::Error::other(e) };
    let (state, writer, segments, identity) = jobs.run(recovery).await.map_err(stopped)??;
    let opened_epoch = writer.boot_epoch();
    let has_history = state.vote.is_some() || state.purged.is_some() || !state.slots.is_empty();
    let store = LogStore::new(state, config, Some(jobs.clone()), durable);
    let wake = disk.start("log", LogWorker::<P>::new(&store.shared, writer, segments));
    // Nobody else has the store yet, so nothing was set before.
    let _ = store.shared.wake.set(wake);
    store.start_sealer();
    Ok(Opened { store, identity, boot_epoch: opened_epoch, has_history })
}

/// What a log says before it is opened.
#[derive(Debug)]
pub(crate) struct Peeked {
    pub(crate) identity: LogIdentity,
    /// Of the last start; opening the log makes it one more.
    pub(crate) boot_epoch: u64,
    /// This node had a snapshot up to here, and the log does not have all that was in it.
    pub(crate) snapshot: Option<LogId>,
    /// The newest membership in it.
    pub(crate) membership: Option<Membership>,
}

/// Reads the log in `dir` without changing anything, for a node that has lost the state its log goes on from; `None`
/// if there is no log.
///
/// # Errors
/// See [`OpenError`].
pub(crate) async fn peek<D: Disk>(jobs: &Jobs<D>, dir: &Path) -> Result<Option<Peeked>, OpenError> {
    let (job_dir, path) = (dir.to_owned(), dir.to_owned());
    let stopped = |e| OpenError::Io { path, error: io::Error::other(e) };
    jobs.run(move |disk| peek_dir(disk, &job_dir)).await.map_err(stopped)?
}

fn peek_dir<D: Disk>(disk: &D, dir: &Path) -> Result<Option<Peeked>, OpenError> {
    let known = read_identity(disk, dir)?;
    let facts = scan_dir(disk, dir, known)?;
    let damaged = |damage| OpenError::Damage { dir: dir.to_owned(), damage };
    // The state is to come: it will have what was purged.
    let recovered = recover(&facts, known, None).or_else(|damage| match damage.kind {
        DamageKind::StoreBehindPurge { purged, .. } => recover(&facts, known, Some(purged)),
        _ => Err(damage),
    });
    let recovered = recovered.map_err(damaged)?;
    let Some(identity) = known.or(recovered.log) else { return Ok(None) };
    let mut membership = None;
    if let Some((_, place, _)) = recovered.entries.iter().rfind(|(.., membership)| *membership) {
        let path = dir.join(segment_name(place.segment));
        let bytes = read_exactly(disk, &path, place.offset, place.len.into())?;
        if let Ok(Record::Entry(entry)) = record::decode_one(&bytes.into())
            && let Payload::Membership(found) = entry.payload
        {
            membership = Some(found);
        }
    }
    let base = recovered.resume.base;
    let installed = base.committed.filter(|committed| Some(*committed) > base.last);
    Ok(Some(Peeked { identity, boot_epoch: base.boot_epoch, snapshot: base.purged.max(installed), membership }))
}

type Parts<P> = (super::StateOf<P>, LogWriter, Segments<<P as Platform>::Disk>, LogIdentity);

fn recover_dir<P: Platform>(
    disk: &P::Disk,
    dir: &Path,
    reserve: Reserve<P::Disk>,
    config: LogConfig,
    fresh: LogIdentity,
    applied: Option<LogId>,
) -> Result<Parts<P>, OpenError> {
    let known = read_identity(disk, dir)?;
    let mut facts = scan_dir(disk, dir, known)?;
    let damaged = |damage| OpenError::Damage { dir: dir.to_owned(), damage };
    let recovered = recover(&facts, known, applied).map_err(damaged)?;
    facts.clear();
    let identity = known.or(recovered.log).unwrap_or(fresh);
    report(dir, &recovered);
    remove_spares(disk, dir)?;
    let Recovered { mut resume, last_batch_at, entries, .. } = recovered;
    if let Some((segment, offset, len)) = last_batch_at {
        let bytes = read_exactly(disk, &dir.join(segment_name(segment)), offset, len)?;
        resume.last_batch = Some((segment, offset, bytes));
    }
    let base = resume.base.clone();
    let mut segments = Segments::new(disk.clone(), dir.to_owned(), reserve.clone(), config.options.segment_bytes);
    let options = LogOptions { segment_bytes: segments.segment_bytes(), ..config.options };
    let (mut writer, first) = LogWriter::open(identity, options, resume);
    let io_error = |path: &Path, error| OpenError::Io { path: path.to_owned(), error };
    segments.perform(&first.steps).map_err(|e| io_error(dir, e))?;
    writer.on_done();
    if known.is_none() {
        let path = dir.join(identity::FILE_NAME);
        let content = identity::encode(identity);
        replace_spending(disk, Some(&reserve), &path, &content).map_err(|e| io_error(&path, e))?;
    }
    let mut files = BTreeMap::new();
    for (_, place, _) in &entries {
        if let Entry::Vacant(vacant) = files.entry(place.segment) {
            let path = dir.join(segment_name(place.segment));
            vacant.insert(Arc::new(disk.open(&path, OpenMode::Read).map_err(|e| io_error(&path, e))?));
        }
    }
    files.extend(segments.take_new_files());
    let slots = entries.into_iter().map(|(id, place, _)| recovered_slot(id, place)).collect();
    let state = State::recovered(&base, slots, files);
    Ok((state, writer, segments, identity))
}

/// Segments that the last process kept to use them again. Their numbers may be given out again, too.
fn remove_spares<D: Disk>(disk: &D, dir: &Path) -> Result<(), OpenError> {
    let names = disk.list(dir).map_err(|error| OpenError::Io { path: dir.to_owned(), error })?;
    for path in names.iter().filter(|name| parse_spare_name(name).is_some()).map(|name| dir.join(name)) {
        disk.remove(&path).map_err(|error| OpenError::Io { path, error })?;
    }
    Ok(())
}

fn recovered_slot(id: LogId, place: Place) -> Slot {
    Slot { id, ticket: 0, size: place.len as usize, place: Some(place), entry: None }
}

fn read_identity<D: Disk>(disk: &D, dir: &Path) -> Result<Option<LogIdentity>, OpenError> {
    let path = dir.join(identity::FILE_NAME);
    match read_file(disk, &path) {
        Ok(bytes) => identity::decode(&bytes).map(Some).map_err(|error| OpenError::Identity { path, error }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Io { path, error }),
    }
}

/// Reads one segment after another, never more than one at a time.
pub(crate) fn scan_dir<D: Disk>(
    disk: &D,
    dir: &Path,
    known: Option<LogIdentity>,
) -> Result<BTreeMap<u64, SegmentFacts>, OpenError> {
    let names = disk.list(dir).map_err(|error| OpenError::Io { path: dir.to_owned(), error })?;
    let mut facts = BTreeMap::new();
    for number in names.iter().filter_map(|name| parse_segment_name(name)) {
        let path = dir.join(segment_name(number));
        let io_error = |error| OpenError::Io { path: path.clone(), error };
        let len = disk.open(&path, OpenMode::Read).and_then(|file| file.len()).map_err(io_error)?;
        if len > SEGMENT_BYTES_MAX {
            let damage = Damage { segment: number, offset: SEGMENT_BYTES_MAX, kind: DamageKind::TooLong(len) };
            return Err(OpenError::Damage { dir: dir.to_owned(), damage });
        }
        let bytes = read_file(disk, &path).map_err(io_error)?;
        facts.insert(number, scan_segment(number, &Bytes::from(bytes), known));
    }
    Ok(facts)
}

fn read_exactly<D: Disk>(disk: &D, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>, OpenError> {
    let io_error = |error| OpenError::Io { path: path.to_owned(), error };
    let file = disk.open(path, OpenMode::Read).map_err(io_error)?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|e| io_error(io::Error::other(e)))?];
    let got = file.read_at(offset, &mut bytes).map_err(io_error)?;
    if got < bytes.len() {
        return Err(io_error(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

fn report(dir: &Path, recovered: &Recovered) {
    let base = &recovered.resume.base;
    if let Some((segment, offset)) = recovered.cut {
        let segment = segment_name(segment);
        tracing::info!(%segment, offset, "cut a torn tail: a flush that was never acknowledged");
    }
    if recovered.reset {
        let last = base.last.map(|id| id.to_string());
        tracing::info!(last, "reset the log to the snapshot that was installed last");
    }
    if recovered.log.is_some() {
        let (entries, vote) = (recovered.entries.len(), base.vote.map(|v| v.to_string()));
        tracing::info!(dir = %dir.display(), entries, vote, last = base.last.map(|id| id.to_string()), "log recovered");
    }
}

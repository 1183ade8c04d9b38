//! Writes the log: takes what was pushed, performs the flush that [`LogWriter`] makes of it, and tells who waited.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use openraft::async_runtime::watch::WatchSender;
use quorate_core::disk::{Disk, File, OpenMode, Step, Worker};
use quorate_core::log::format::{segment_name, spare_name};
use quorate_core::log::{Flush, LogWriter, WriteStep};

use super::{Shared, Waiter};
use crate::jobs::{Jobs, lock};
use crate::platform::Platform;
use crate::reserve::Reserve;

/// Room for the votes of some elections.
const SEGMENT_BYTES_WHEN_FULL: u64 = 64 << 10;
/// So many segments that nothing needs any more are kept, to become new ones.
const SPARES_MAX: usize = 16;

/// Performs flush steps on a directory.
///
/// Once it [reuses](Self::reuse), a segment that is to be deleted becomes a *spare* one: its file gets a name under which
/// recovery only deletes it, until it is cleared, synced and renamed to be a new segment. So it never has bytes of its former
/// life under its new name, and the log never goes on from it. Freeing and reserving space, which it saves, makes syncs of
/// other files wait: 20 ms for a segment where the file system is mounted with `discard`.
pub(super) struct Segments<D: Disk> {
    disk: D,
    dir: PathBuf,
    reserve: Reserve<D>,
    segment_bytes: u64,
    current: Option<(u64, Arc<D::File>)>,
    new_files: Vec<(u64, Arc<D::File>)>,
    reuses: bool,
    /// Of the flush that is under way: until it has been performed, they may be read.
    retiring: BTreeSet<u64>,
    /// With the file that whoever still reads one shares, if it was open.
    spares: Vec<(u64, Option<Arc<D::File>>)>,
}

impl<D: Disk> Segments<D> {
    pub(super) fn new(disk: D, dir: PathBuf, reserve: Reserve<D>, segment_bytes: u64) -> Self {
        let (retiring, spares) = (BTreeSet::new(), Vec::new());
        Self {
            disk,
            dir,
            reserve,
            segment_bytes,
            current: None,
            new_files: Vec::new(),
            reuses: false,
            retiring,
            spares,
        }
    }

    /// From now on. Not while a log is recovered: the number of what is deleted then may be given out again.
    pub(super) fn reuse(&mut self) {
        self.reuses = true;
    }

    /// Nobody can begin to read `segment` any more. Gives the file back if the segment is not kept.
    fn retire(&mut self, segment: u64, file: Option<Arc<D::File>>) -> Option<Arc<D::File>> {
        if !self.retiring.remove(&segment) {
            return file;
        }
        self.spares.push((segment, file));
        None
    }

    /// One that nobody reads any more.
    fn take_spare(&mut self) -> Option<u64> {
        let unread = |(_, file): &(u64, Option<Arc<D::File>>)| file.as_ref().is_none_or(|f| Arc::strong_count(f) == 1);
        let at = self.spares.iter().position(unread)?;
        Some(self.spares.remove(at).0)
    }

    fn keeps_another(&self) -> bool {
        self.reuses && !self.reserve.is_full() && self.spares.len() + self.retiring.len() < SPARES_MAX
    }

    /// Space is needed more than segments to come. Gives back the files, which have it until they are closed.
    fn delete_spares_if_full(&mut self) -> Vec<Arc<D::File>> {
        if self.spares.is_empty() || !self.reserve.is_full() {
            return Vec::new();
        }
        let mut deleted = Vec::new();
        for (segment, file) in std::mem::take(&mut self.spares) {
            let path = self.spare_path(segment);
            match self.disk.remove(&path) {
                Ok(()) => deleted.extend(file),
                // Nothing depends on it: it stays a spare one, and the next start deletes it, if nobody does before.
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%error, %path, "the disk is full, and a file that nothing needs cannot be deleted");
                    self.spares.push((segment, file));
                }
            }
        }
        deleted
    }

    /// How long new segments should be: short ones on a full disk, so that the reserve lasts for many of them.
    pub(super) fn segment_bytes(&self) -> u64 {
        if self.reserve.is_full() { self.segment_bytes.min(SEGMENT_BYTES_WHEN_FULL) } else { self.segment_bytes }
    }

    /// The segments that were created since the last call, to be read from. One flush can create two: one for space
    /// and, if it purges, one that lets older ones go.
    pub(super) fn take_new_files(&mut self) -> Vec<(u64, Arc<D::File>)> {
        std::mem::take(&mut self.new_files)
    }

    fn file(&mut self, segment: u64) -> io::Result<Arc<D::File>> {
        match &self.current {
            Some((number, file)) if *number == segment => Ok(file.clone()),
            _ => {
                let file = Arc::new(self.disk.open(&self.path(segment), OpenMode::Existing)?);
                self.current = Some((segment, file.clone()));
                Ok(file)
            }
        }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(segment_name(segment))
    }

    fn spare_path(&self, segment: u64) -> PathBuf {
        self.dir.join(spare_name(segment))
    }

    /// Performs the steps in order, up to the first error.
    pub(super) fn perform(&mut self, steps: &[WriteStep]) -> io::Result<()> {
        steps.iter().try_for_each(|step| {
            let segment = match step {
                WriteStep::Create { segment, .. }
                | WriteStep::Write { segment, .. }
                | WriteStep::Sync { segment }
                | WriteStep::Trim { segment, .. }
                | WriteStep::Delete { segment } => *segment,
            };
            self.step(step).map_err(|e| named(&self.path(segment), &e))
        })
    }

    /// A new file with space for `len` bytes.
    fn created(&self, path: &Path, len: u64) -> io::Result<D::File> {
        let mut file = None;
        self.reserve.spend(|| {
            if file.is_none() {
                file = Some(self.disk.open(path, OpenMode::CreateNew)?);
            }
            file.as_ref().map_or(Ok(()), |file| file.allocate(len))
        })?;
        Ok(file.ok_or(io::ErrorKind::NotFound)?)
    }

    /// The same of a file that is there.
    fn cleared(&self, path: &Path, len: u64) -> io::Result<D::File> {
        let cleared = self.disk.open(path, OpenMode::Existing).and_then(|file| {
            self.reserve.spend(|| file.clear(len))?;
            Ok(file)
        });
        cleared.map_err(|e| named(path, &e))
    }

    fn step(&mut self, step: &WriteStep) -> io::Result<()> {
        match step {
            WriteStep::Create { segment, len, header } => {
                let path = self.path(*segment);
                let spare = self.take_spare().map(|spare| self.spare_path(spare));
                let file = Arc::new(match &spare {
                    Some(spare) => self.cleared(spare, *len)?,
                    None => self.created(&path, *len)?,
                });
                // From here on a lack of space is an error like any other: the space is ours.
                file.write_at(0, header)?;
                file.sync()?;
                if let Some(spare) = spare {
                    self.reserve.spend(|| self.disk.rename(&spare, &path))?;
                }
                self.disk.sync_dir(&self.dir)?;
                self.new_files.push((*segment, file.clone()));
                self.current = Some((*segment, file));
                Ok(())
            }
            WriteStep::Write { segment, offset, bytes } => self.file(*segment)?.write_at(*offset, bytes),
            WriteStep::Sync { segment } => self.file(*segment)?.sync(),
            // What is reserved behind its end is of use when the segment becomes another one.
            WriteStep::Trim { .. } if self.reuses && !self.reserve.is_full() => Ok(()),
            // Not through `file`: the current segment stays the current one.
            WriteStep::Trim { segment, len } => self.disk.open(&self.path(*segment), OpenMode::Existing)?.set_len(*len),
            WriteStep::Delete { segment } if self.keeps_another() => {
                self.retiring.insert(*segment);
                self.reserve.spend(|| self.disk.rename(&self.path(*segment), &self.spare_path(*segment)))
            }
            WriteStep::Delete { segment } => self.disk.remove(&self.path(*segment)),
        }
    }
}

fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// The log's [`Worker`].
pub(super) struct LogWorker<P: Platform> {
    shared: Weak<Shared<P>>,
    writer: LogWriter,
    segments: Segments<P::Disk>,
    /// Who waits for which ticket, in order.
    waiting: VecDeque<(u64, Waiter<P::Runtime>)>,
    failed: bool,
}

/// A flush that has been performed.
pub(super) struct Flushed<F> {
    flush: Flush,
    created: Vec<(u64, Arc<F>)>,
    result: io::Result<()>,
}

impl<P: Platform> LogWorker<P> {
    pub(super) fn new(shared: &Arc<Shared<P>>, writer: LogWriter, mut segments: Segments<P::Disk>) -> Self {
        segments.reuse();
        Self { shared: Arc::downgrade(shared), writer, segments, waiting: VecDeque::new(), failed: false }
    }

    /// Fails everybody who waits or will wait: what is on the disk after an I/O error is unknown, and a second sync
    /// could succeed for pages that the first one lost.
    fn fail(&mut self, shared: &Shared<P>, error: &io::Error) {
        self.failed = true;
        let mut orphans: Vec<_> = self.waiting.drain(..).map(|(_, waiter)| waiter).collect();
        {
            let mut state = lock(&shared.state);
            state.failed = Some((error.kind(), error.to_string()));
            orphans.extend(state.inbox.drain(..).filter_map(|(_, waiter)| waiter));
        }
        for waiter in orphans {
            waiter.tell(Err(io::Error::new(error.kind(), error.to_string())));
        }
    }
}

/// Closes files that were deleted, which frees their space. That takes a disk some 20 ms for a segment: neither a task nor
/// the log waits for it.
fn close<P: Platform>(shared: &Shared<P>, deleted: Vec<Arc<<P::Disk as Disk>::File>>) {
    if let Some(jobs) = shared.jobs.as_ref().filter(|_| !deleted.is_empty()) {
        close_in_turn(jobs.clone(), deleted);
    }
}

/// Reads that are asked for meanwhile come between two files.
fn close_in_turn<D: Disk>(jobs: Jobs<D>, mut deleted: Vec<Arc<D::File>>) {
    let Some(file) = deleted.pop() else { return };
    jobs.clone().post(move |_| {
        drop(file);
        close_in_turn(jobs, deleted);
    });
}

impl<P: Platform> Worker for LogWorker<P> {
    type Done = Flushed<<P::Disk as Disk>::File>;

    fn work(&mut self) -> Step<Self::Done> {
        let Some(shared) = self.shared.upgrade() else { return Step::Stop };
        if self.failed {
            return Step::Stop;
        }
        let (inbox, seal, closing) = {
            let mut state = lock(&shared.state);
            (std::mem::take(&mut state.inbox), std::mem::take(&mut state.seal), state.closing)
        };
        for (record, waiter) in inbox {
            let ticket = self.writer.push(record);
            self.waiting.extend(waiter.map(|waiter| (ticket, waiter)));
        }
        if seal {
            self.writer.push_seal();
        }
        close(&shared, self.segments.delete_spares_if_full());
        self.writer.set_segment_bytes(self.segments.segment_bytes());
        let Some(mut flush) = self.writer.next_batch() else {
            return if closing { Step::Stop } else { Step::Idle };
        };
        let result = self.segments.perform(&flush.steps);
        let created = self.segments.take_new_files();
        // The bytes are of no use any more; the numbers in the steps are.
        flush.steps.retain(|s| matches!(s, WriteStep::Delete { .. }));
        Step::Done(Flushed { flush, created, result })
    }

    fn done(&mut self, Flushed { flush, created, result }: Self::Done) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Err(e) = result {
            tracing::error!(error = %e, "writing the log failed: this node stops");
            self.fail(&shared, &e);
            return;
        }
        self.writer.on_done();
        let mut deleted = Vec::new();
        {
            let mut state = lock(&shared.state);
            // In this order: one flush can create a segment and delete it again.
            state.files.extend(created);
            for step in &flush.steps {
                if let WriteStep::Delete { segment } = step {
                    deleted.extend(self.segments.retire(*segment, state.files.remove(segment)));
                }
            }
            let first = state.first_index();
            for (ticket, id, place) in &flush.placed {
                let slot = id.index.checked_sub(first).and_then(|at| state.slots.get_mut(at as usize));
                // The entry may have been truncated since, and another be in its place: credit by ticket.
                if let Some(slot) = slot.filter(|slot| slot.ticket == *ticket) {
                    slot.place = Some(*place);
                }
            }
            while let Some(slot) = state.slots.get(state.durable).filter(|slot| slot.place.is_some()) {
                state.unflushed_bytes -= slot.size;
                state.durable += 1;
            }
            state.evict(shared.config.cache_bytes);
            shared.publish(&state);
        }
        close(&shared, deleted);
        lock(&shared.unsealed).send_if_different(if flush.sealed { 0 } else { flush.through });
        while self.waiting.front().is_some_and(|(ticket, _)| *ticket <= flush.through) {
            if let Some((_, waiter)) = self.waiting.pop_front() {
                waiter.tell(Ok(()));
            }
        }
    }
}

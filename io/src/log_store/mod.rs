//! The replicated log: openraft's log storage over segment files, or in memory only.
//!
//! Appends return at once; the entries are readable from then on and become durable in flush batches that a worker of
//! its own writes (`worker`): while one batch is being synced the next one gathers (group commit), and when the log
//! is idle a single append is written without waiting. `save_vote` waits for its flush, which by the order of the
//! stream implies that everything before it is durable. `committed`, `truncate` and `purge` only take their place in
//! the stream.

#[cfg(test)]
mod full_disk_tests;
mod open;
mod reader;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchSenderOf;
use openraft_rt::AsyncRuntime;
use quorate_core::disk::{Disk, Wake};
use quorate_core::log::record::{Base, Record};
use quorate_core::log::writer::{LogOptions, Place};
use quorate_core::{LogId, Vote};

use crate::jobs::{Jobs, lock};
use crate::platform::Platform;
use crate::types::{self, Types, entry_from, log_id_from, log_id_to, raft, vote_from};

pub use open::{LogDir, OpenError, Opened, open};
pub(crate) use open::{Peeked, peek, scan_dir};
pub use reader::LogReader;
#[cfg(test)]
pub(crate) use tests::TempDir as TestDir;

/// How the log store behaves.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Segment and batch sizes.
    pub options: LogOptions,
    /// Durable entries are kept in memory up to this many bytes of commands, the newest ones; older ones are read from
    /// their segment.
    pub cache_bytes: usize,
    /// How long the log must be idle before its last batch is sealed.
    pub seal_after: Duration,
    /// One read returns about this many bytes of commands at most.
    pub read_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            options: LogOptions::default(),
            cache_bytes: 8 << 20,
            seal_after: Duration::from_millis(10),
            read_bytes_max: 1 << 20,
        }
    }
}

/// Who waits for a record to become durable.
enum Waiter<R: AsyncRuntime> {
    Append(IOFlushed<Types<R>>),
    Record(futures_channel::oneshot::Sender<io::Result<()>>),
}

impl<R: AsyncRuntime> Waiter<R> {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Append(callback) => callback.io_completed(result),
            // Whoever waited may have been cancelled; the record is durable all the same.
            Self::Record(sender) => drop(sender.send(result)),
        }
    }
}

/// One entry of the log.
struct Slot {
    id: LogId,
    ticket: u64,
    /// About how many bytes it takes, in memory or on disk.
    size: usize,
    /// Where it is on disk, once it is.
    place: Option<Place>,
    /// Its content, while it is cached; always while it is not on disk.
    entry: Option<raft::Entry>,
}

impl Slot {
    /// What it takes of the cache.
    fn cached(&self) -> usize {
        if self.entry.is_some() { self.size } else { 0 }
    }
}

/// A rough size: commands dominate.
fn entry_bytes(entry: &raft::Entry) -> usize {
    match &entry.payload {
        raft::Payload::Normal(command) => command.0.len() + 64,
        _ => 256,
    }
}

/// What the log holds now, durable or not.
struct State<R: AsyncRuntime, F> {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Consecutive entries after `purged`.
    slots: VecDeque<Slot>,
    /// How many slots from the front are durable.
    durable: usize,
    /// How many slots from the front have left the cache.
    evicted: usize,
    cached_bytes: usize,
    /// Bytes of entries that are not durable yet.
    unflushed_bytes: usize,
    /// Records that the worker has not taken yet, and who waits for each.
    inbox: Vec<(Record, Option<Waiter<R>>)>,
    /// Ticket of the last record.
    pushed: u64,
    seal: bool,
    closing: bool,
    /// The first I/O error. Nothing is written after it and nobody is told that anything is durable.
    failed: Option<(io::ErrorKind, String)>,
    /// The segment files that may be read.
    files: BTreeMap<u64, Arc<F>>,
}

impl<R: AsyncRuntime, F> State<R, F> {
    /// What a log begins with: all `slots` are on disk and none is cached.
    fn recovered(base: &Base, slots: VecDeque<Slot>, files: BTreeMap<u64, Arc<F>>) -> Self {
        Self {
            vote: base.vote,
            committed: base.committed,
            purged: base.purged,
            durable: slots.len(),
            evicted: slots.len(),
            slots,
            cached_bytes: 0,
            unflushed_bytes: 0,
            inbox: Vec::new(),
            pushed: 0,
            seal: false,
            closing: false,
            failed: None,
            files,
        }
    }

    fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    fn first_index(&self) -> u64 {
        self.slots.front().map_or(0, |slot| slot.id.index)
    }

    fn durable_id(&self) -> Option<LogId> {
        match self.durable.checked_sub(1) {
            Some(last) => self.slots.get(last).map(|slot| slot.id),
            None => self.purged,
        }
    }

    fn push(&mut self, record: Record, waiter: Option<Waiter<R>>) -> u64 {
        self.inbox.push((record, waiter));
        self.pushed += 1;
        self.pushed
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None if self.closing => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the log store is closed")),
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    fn evict(&mut self, cache_bytes: usize) {
        while self.cached_bytes > cache_bytes && self.evicted < self.durable {
            let slot = &mut self.slots[self.evicted];
            self.cached_bytes -= slot.cached();
            slot.entry = None;
            self.evicted += 1;
        }
    }
}

impl<P: Platform> Drop for Shared<P> {
    fn drop(&mut self) {
        // The worker ends when it finds nobody left.
        self.wake();
    }
}

type StateOf<P> = State<<P as Platform>::Runtime, <<P as Platform>::Disk as Disk>::File>;
/// Publishes up to which entry the local log is durable.
pub type DurableSender<P> = WatchSenderOf<Types<<P as Platform>::Runtime>, Option<LogId>>;

struct Shared<P: Platform> {
    state: Mutex<StateOf<P>>,
    config: LogConfig,
    /// Only under the state's lock, so that it never goes back by a race. (A watch sender need not be `Sync`.)
    durable: Mutex<DurableSender<P>>,
    /// Ticket of the last unsealed flush; 0 when sealed.
    unsealed: Mutex<WatchSenderOf<Types<P::Runtime>, u64>>,
    wake: OnceLock<<P::Disk as Disk>::Wake>,
    /// Reads of entries that have left the cache; none in memory mode.
    jobs: Option<Jobs<P::Disk>>,
}

impl<P: Platform> Shared<P> {
    fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake.wake();
        }
    }

    /// Publishes the durable id; call it with the state locked.
    fn publish(&self, state: &StateOf<P>) {
        lock(&self.durable).send_if_different(state.durable_id());
    }

    /// In memory everything is as durable as it gets: there is no worker.
    fn settle_in_memory(&self, state: &mut StateOf<P>) -> Vec<Waiter<P::Runtime>> {
        if self.jobs.is_some() {
            return Vec::new();
        }
        state.durable = state.slots.len();
        state.unflushed_bytes = 0;
        self.publish(state);
        state.inbox.drain(..).filter_map(|(_, waiter)| waiter).collect()
    }
}

/// The log store. Cheap to clone; all clones are the same log.
pub struct LogStore<P: Platform> {
    shared: Arc<Shared<P>>,
}

impl<P: Platform> Clone for LogStore<P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<P: Platform> Debug for LogStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogStore")
    }
}

impl<P: Platform> LogStore<P> {
    fn new(state: StateOf<P>, config: LogConfig, jobs: Option<Jobs<P::Disk>>, durable: DurableSender<P>) -> Self {
        durable.send_if_different(state.durable_id());
        let (unsealed, _) = Types::<P::Runtime>::watch_channel(0);
        let shared = Shared {
            state: Mutex::new(state),
            config,
            durable: Mutex::new(durable),
            unsealed: Mutex::new(unsealed),
            wake: OnceLock::new(),
            jobs,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A log that lives in memory only, for `--store memory`. It forgets votes: the node must get a new identity at
    /// every start.
    pub fn in_memory(config: LogConfig, durable: DurableSender<P>) -> Self {
        let state = State::recovered(&Base::default(), VecDeque::new(), BTreeMap::new());
        Self::new(state, config, None, durable)
    }

    /// The first I/O error, if there was one: the log writes nothing any more.
    pub fn failure(&self) -> Option<io::Error> {
        let state = lock(&self.shared.state);
        state.failed.as_ref().map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    /// Index of the last entry, durable or not; of the last purged one if there is none.
    pub fn last_index(&self) -> Option<u64> {
        lock(&self.shared.state).last().map(|id| id.index)
    }

    /// Whether the log holds this very entry, or has purged it, so that appending it again takes no space.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        let state = lock(&self.shared.state);
        let at = id.index.checked_sub(state.first_index()).and_then(|at| usize::try_from(at).ok());
        let held = at.and_then(|at| state.slots.get(at)).is_some_and(|slot| slot.id == id);
        held || state.purged.is_some_and(|purged| id.index <= purged.index)
    }

    /// The disk is full: what the log keeps for later is given back.
    pub(crate) fn make_room(&self) {
        self.shared.wake();
    }

    /// Where its reads from disk are done; none in memory mode.
    pub(crate) fn jobs(&self) -> Option<&Jobs<P::Disk>> {
        self.shared.jobs.as_ref()
    }

    /// Bytes of entries that were appended and are not durable yet. Large if the disk does not keep up.
    pub fn unflushed_bytes(&self) -> usize {
        lock(&self.shared.state).unflushed_bytes
    }

    /// The first entry that is not durable yet; `None` if all are.
    pub(crate) fn first_unflushed(&self) -> Option<LogId> {
        let state = lock(&self.shared.state);
        state.slots.get(state.durable).map(|slot| slot.id)
    }

    /// Makes it durable that a snapshot up to this entry is there: if the store is lost, what the log has is not all.
    ///
    /// # Errors
    /// The log failed, or was closed.
    pub(crate) async fn record_snapshot(&self, upto: LogId) -> io::Result<()> {
        self.write_through(Record::Committed(upto), |state| state.committed = state.committed.max(Some(upto))).await
    }

    /// Returns once a record is durable; `note` says in memory what it says.
    async fn write_through(&self, record: Record, note: impl FnOnce(&mut StateOf<P>)) -> io::Result<()> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        let settled = {
            let mut state = lock(&self.shared.state);
            state.check()?;
            note(&mut state);
            state.push(record, Some(Waiter::Record(sender)));
            self.shared.settle_in_memory(&mut state)
        };
        settled.into_iter().for_each(|waiter| waiter.tell(Ok(())));
        self.shared.wake();
        receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Returns once the log is durable up to this entry, or purged, which it is up to what a snapshot holds.
    ///
    /// # Errors
    /// The log was closed.
    pub(crate) async fn wait_durable(&self, upto: LogId) -> io::Result<()> {
        let mut durable = lock(&self.shared.durable).subscribe();
        durable.wait_until(|durable| *durable >= Some(upto)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(())
    }

    /// The last entry to purge so that the newest `keep_bytes` of entries stay; `None` if the log is no longer than
    /// that.
    pub fn excess(&self, keep_bytes: usize) -> Option<u64> {
        let state = lock(&self.shared.state);
        let mut kept = 0;
        let over = state.slots.iter().rev().find(|slot| {
            kept += slot.size;
            kept > keep_bytes
        });
        over.map(|slot| slot.id.index)
    }

    /// Seals the last batch whenever the log has been idle for a while.
    fn start_sealer(&self) {
        let shared = Arc::downgrade(&self.shared);
        let mut unsealed = lock(&self.shared.unsealed).subscribe();
        let seal_after = self.shared.config.seal_after;
        drop(P::Runtime::spawn(async move {
            while let Ok(ticket) = unsealed.wait_until(|ticket| *ticket != 0).await {
                P::Runtime::sleep(seal_after).await;
                if *unsealed.borrow_watched() != ticket {
                    continue;
                }
                let Some(shared) = shared.upgrade() else { return };
                lock(&shared.state).seal = true;
                shared.wake();
                drop(shared);
                if unsealed.wait_until(|now| *now != ticket).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// Stops the worker once everything pushed so far is durable (or has failed).
    ///
    /// # Errors
    /// The I/O error that the log ended with.
    pub async fn close(&self) -> io::Result<()> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        {
            let mut state = lock(&self.shared.state);
            if state.closing || state.failed.is_some() || self.shared.jobs.is_none() {
                return state.failed.as_ref().map_or(Ok(()), |(kind, text)| Err(io::Error::new(*kind, text.clone())));
            }
            state.closing = true;
            // Any record will do to wait behind; the committed id says nothing new.
            let committed = state.committed.unwrap_or_default();
            let record = if state.committed.is_some() { Record::Committed(committed) } else { no_op(&state) };
            state.push(record, Some(Waiter::Record(sender)));
        }
        self.shared.wake();
        receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

/// A record that changes nothing.
fn no_op<R: AsyncRuntime, F>(state: &State<R, F>) -> Record {
    state.vote.map_or(Record::Truncate(state.last()), Record::Vote)
}

impl<P: Platform> RaftLogStorage<Types<P::Runtime>> for LogStore<P> {
    type LogReader = LogReader<P>;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<P::Runtime>>> {
        let state = lock(&self.shared.state);
        Ok(LogState { last_purged_log_id: state.purged.map(log_id_to), last_log_id: state.last().map(log_id_to) })
    }

    async fn get_log_reader(&mut self) -> LogReader<P> {
        LogReader::new(self.shared.clone())
    }

    async fn save_vote(&mut self, vote: &raft::Vote) -> io::Result<()> {
        let vote = vote_from(vote);
        self.write_through(Record::Vote(vote), |state| state.vote = Some(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<raft::LogId>) -> io::Result<()> {
        let Some(committed) = committed.as_ref().map(log_id_from) else { return Ok(()) };
        let mut state = lock(&self.shared.state);
        state.check()?;
        if state.committed == Some(committed) {
            return Ok(());
        }
        state.committed = Some(committed);
        // Not worth a flush of its own: it goes with the next one.
        state.push(Record::Committed(committed), None);
        let settled = self.shared.settle_in_memory(&mut state);
        debug_assert!(settled.is_empty(), "a settled log has no waiters left");
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<raft::LogId>> {
        Ok(lock(&self.shared.state).committed.map(log_id_to))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<P::Runtime>>) -> io::Result<()>
    where
        I: IntoIterator<Item = raft::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let settled = {
            let mut state = lock(&self.shared.state);
            if let Err(e) = state.check() {
                drop(state);
                callback.io_completed(Err(io::Error::new(e.kind(), e.to_string())));
                return Err(e);
            }
            let mut waiter = Some(Waiter::Append(callback));
            let mut entries = entries.into_iter().peekable();
            while let Some(entry) = entries.next() {
                let record = Record::Entry(entry_from(&entry));
                let waiter = if entries.peek().is_none() { waiter.take() } else { None };
                let ticket = state.push(record, waiter);
                let size = entry_bytes(&entry);
                state.cached_bytes += size;
                state.unflushed_bytes += size;
                let id = log_id_from(&entry.log_id);
                state.slots.push_back(Slot { id, ticket, size, place: None, entry: Some(entry) });
            }
            let mut settled = self.shared.settle_in_memory(&mut state);
            // An append of nothing is durable as soon as what came before it; nothing asks for that.
            settled.extend(waiter);
            settled
        };
        settled.into_iter().for_each(|waiter| waiter.tell(Ok(())));
        self.shared.wake();
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<raft::LogId>) -> io::Result<()> {
        let after = last_log_id.as_ref().map(log_id_from);
        let mut state = lock(&self.shared.state);
        state.check()?;
        while state.slots.back().is_some_and(|slot| Some(slot.id.index) > after.map(|id| id.index)) {
            let durable = state.durable >= state.slots.len();
            if let Some(slot) = state.slots.pop_back() {
                state.cached_bytes -= slot.cached();
                state.unflushed_bytes -= if durable { 0 } else { slot.size };
            }
        }
        let len = state.slots.len();
        state.durable = state.durable.min(len);
        state.evicted = state.evicted.min(len);
        state.push(Record::Truncate(after), None);
        self.shared.publish(&state);
        self.shared.settle_in_memory(&mut state);
        Ok(())
    }

    async fn purge(&mut self, log_id: raft::LogId) -> io::Result<()> {
        let upto = log_id_from(&log_id);
        {
            let mut state = lock(&self.shared.state);
            state.check()?;
            while state.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
                let durable = state.durable > 0;
                if let Some(slot) = state.slots.pop_front() {
                    state.cached_bytes -= slot.cached();
                    state.unflushed_bytes -= if durable { 0 } else { slot.size };
                    state.durable = state.durable.saturating_sub(1);
                    state.evicted = state.evicted.saturating_sub(1);
                }
            }
            state.purged = Some(upto);
            state.push(Record::Purge(upto), None);
            self.shared.publish(&state);
            self.shared.settle_in_memory(&mut state);
        }
        self.shared.wake();
        Ok(())
    }
}

/// Conversions that the submodules share.
fn entry_to_raft(entry: quorate_core::Entry) -> io::Result<raft::Entry> {
    types::entry_to(entry).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

//! Short histories, run through production code on a recording disk, and what the outside was told when.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingRecord;
use quorate_core::log::record::Record;
use quorate_core::{Entry, LogId, Member, Membership, NodeId, Payload, Vote};

use super::Plant;
use super::content::Image;
use super::disk::{Point, RecordingDisk};
use super::model::{Mark, Model, apply_entry};
use super::node::{CrashPlatform, Recovered, Storage, StoreState, fresh};
use crate::platform::SimRuntime;

/// How a process ends before the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It closes its log.
    Closed,
    /// It is killed; what it wrote stays in the cache.
    Killed,
    /// The power goes, and everything with it that was not synced.
    PowerLost,
}

/// What a script does next. Entries are (term, index).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Appends commands of one term from the first index to before the second, each of about so many bytes.
    Append(u64, u64, u64, usize),
    /// Appends so many commands of this term behind what there is, each of about so many bytes.
    Next(u64, u64, usize),
    /// Appends a leader's blank entry.
    Blank(u64, u64),
    /// Appends a membership.
    Membership(u64, u64),
    /// Saves a vote: term, node, whether it won.
    Vote(u64, u64, bool),
    /// Says what is committed.
    Committed(u64, u64),
    /// Removes the entries after this one, or all.
    Truncate(Option<(u64, u64)>),
    /// Removes the entries up to this one.
    Purge(u64, u64),
    /// Applies the entries up to this index.
    Apply(u64),
    /// Builds a snapshot: makes what is applied durable.
    Snapshot,
    /// Receives and installs a peer's snapshot.
    Install(u64, u64),
    /// Receives a peer's snapshot and gives up before installing it.
    Abandon(u64, u64),
    /// Keeps the founding record: accepted, or founded.
    Found(bool),
    /// Does nothing until the log has been sealed.
    Idle,
    /// Hands all of these to the log before its worker gets to run.
    Together(&'static [Step]),
    /// Ends the process and starts the next.
    Restart(End),
    /// The process dies so many operations after this step began.
    DiesAfter(u64, &'static Step),
    /// Of the syncs of this step, of files and directories, the one after so many fails.
    SyncFails(u64, &'static Step),
}

/// A script with its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) name: &'static str,
    /// Without one, the log is all there is.
    pub(crate) store: bool,
    /// What happens after the first start and before anything is recorded; `None` if there is no start before.
    pub(crate) setup: Option<&'static [Step]>,
    pub(crate) steps: &'static [Step],
}

/// A history that has been run.
pub(crate) struct Recording {
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    /// Operations on the disk while recording.
    pub(crate) operations: u64,
    /// The disk once the log was idle, as the last process left it in the cache.
    pub(crate) end: Image,
}

#[derive(Clone)]
struct Marks {
    disk: RecordingDisk,
    list: Arc<Mutex<Vec<Mark>>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Marks {
    fn push(&self, mark: Mark) {
        let text = mark.to_string();
        lock(&self.list).push(mark);
        self.disk.mark(&text);
    }
}

/// Something under way, and what the outside is told when it is done.
type Task = (Pin<Box<dyn Future<Output = io::Result<()>> + Send>>, Option<Mark>);

struct Driver {
    disk: RecordingDisk,
    marks: Marks,
    storage: Option<Storage>,
    with_store: bool,
    /// The log as pushed.
    model: Model,
    /// What is applied.
    applied: StoreState,
    starts: u64,
}

/// Runs a history.
///
/// # Errors
/// Production refused something or lost something at a restart: text.
pub(crate) async fn record(history: &History, plant: Option<Plant>) -> Result<Recording, String> {
    let disk = RecordingDisk::new(&Image::default(), plant);
    let marks = Marks { disk: disk.clone(), list: Arc::default() };
    let mut driver = Driver {
        disk: disk.clone(),
        marks,
        storage: None,
        with_store: history.store,
        model: Model::new(history.store),
        applied: StoreState::default(),
        starts: 0,
    };
    if let Some(setup) = history.setup {
        driver.start().await?;
        for step in setup {
            driver.step(step).await.map_err(|e| format!("{step:?}: {e}"))?;
        }
    }
    let before = disk.operations();
    disk.record();
    for step in history.steps {
        driver.step(step).await.map_err(|e| format!("{step:?}: {e}"))?;
    }
    let (points, operations) = (disk.take_points(), disk.operations() - before);
    // So that the last batch is sealed in the image that damage is done to.
    driver.step(&Step::Idle).await.map_err(|e| e.to_string())?;
    driver.disk.kill();
    drop(driver.storage.take());
    let end = disk.medium().cached();
    let marks = std::mem::take(&mut *lock(&driver.marks.list));
    Ok(Recording { points, marks, operations, end })
}

impl Driver {
    async fn start(&mut self) -> Result<(), String> {
        self.starts += 1;
        let platform = CrashPlatform::new(self.disk.clone());
        let storage = Storage::open(platform, self.with_store, fresh(self.starts)).await;
        let storage = storage.map_err(|e| format!("start {}: {}", self.starts, e.text))?;
        let recovered = storage.recovered().await?;
        self.model.check(&recovered).map_err(|e| format!("start {}: {e}", self.starts))?;
        self.mark(Mark::Started(Box::new(recovered.clone())));
        self.applied = recovered.store.clone().unwrap_or_default();
        self.storage = Some(storage);
        Ok(())
    }

    fn mark(&mut self, mark: Mark) {
        self.model.mark(&mark);
        self.marks.push(mark);
    }

    fn storage(&self) -> io::Result<&Storage> {
        self.storage.as_ref().ok_or_else(|| io::Error::other("there is no process"))
    }

    fn push(&mut self, records: Vec<Record>) -> usize {
        self.mark(Mark::Pushed(records));
        self.model.pushed()
    }

    /// What a log step pushes, and the future that ends when it is done.
    fn log_step(&mut self, step: &Step) -> io::Result<Option<Task>> {
        let (records, entries) = match *step {
            Step::Append(term, from, to, bytes) => (Vec::new(), (from..to).map(|i| command(term, i, bytes)).collect()),
            Step::Next(term, count, bytes) => {
                let from = self.model.log().last.map_or(0, |id| id.index + 1);
                (Vec::new(), (from..from + count).map(|i| command(term, i, bytes)).collect())
            }
            Step::Blank(term, index) => (Vec::new(), vec![entry(term, index, Payload::Blank)]),
            Step::Membership(term, index) => {
                (Vec::new(), vec![entry(term, index, Payload::Membership(membership(index)))])
            }
            Step::Vote(term, node, won) => {
                (vec![Record::Vote(Vote { term, node: NodeId(node), committed: won })], vec![])
            }
            Step::Committed(term, index) => (vec![Record::Committed(LogId::new(term, index))], vec![]),
            Step::Truncate(after) => (vec![Record::Truncate(after.map(|(t, i)| LogId::new(t, i)))], vec![]),
            Step::Purge(term, index) => (vec![Record::Purge(LogId::new(term, index))], vec![]),
            _ => return Ok(None),
        };
        let storage = self.storage()?.clone();
        let pushed: Vec<Record> = records.iter().cloned().chain(entries.iter().cloned().map(Record::Entry)).collect();
        let done = Some(Mark::Acknowledged(self.push(pushed)));
        let task: Task = match records.into_iter().next() {
            None => (Box::pin(async move { storage.append(entries).await }), done),
            Some(Record::Vote(vote)) => (Box::pin(async move { storage.vote(vote).await }), done),
            // These only take their place in the stream: when they return, nothing is durable.
            Some(Record::Committed(id)) => (Box::pin(async move { storage.committed(id).await }), None),
            Some(Record::Truncate(after)) => (Box::pin(async move { storage.truncate(after).await }), None),
            Some(Record::Purge(upto)) => (Box::pin(async move { storage.purge(upto).await }), None),
            Some(Record::Entry(_)) => return Ok(None),
        };
        Ok(Some(task))
    }

    async fn step(&mut self, step: &Step) -> io::Result<()> {
        if let Some((task, done)) = self.log_step(step)? {
            settle(task).await?;
            done.into_iter().for_each(|mark| self.mark(mark));
            return Ok(());
        }
        match *step {
            Step::Apply(upto) => settle(self.apply(upto)?).await,
            Step::Snapshot => {
                let (task, done) = self.snapshot()?;
                settle(task).await?;
                done.into_iter().for_each(|mark| self.mark(mark));
                Ok(())
            }
            Step::Install(term, index) => {
                let entries: Vec<Entry> = (0..=index).map(|i| command(term, i, 40)).collect();
                let mut state = StoreState::default();
                entries.iter().for_each(|entry| apply_entry(&mut state, entry));
                self.applied = state.clone();
                self.mark(Mark::StoreBegun { state, installed: true });
                settle(self.storage()?.install(entries, false)).await?;
                self.mark(Mark::StoreDone);
                Ok(())
            }
            Step::Abandon(term, index) => {
                let entries = (0..=index).map(|i| command(term, i, 40)).collect();
                settle(self.storage()?.install(entries, true)).await
            }
            Step::Found(founded) => {
                let record = founding(founded);
                self.mark(Mark::FoundingBegun(record.clone()));
                settle(self.storage()?.keep_founding(&record)).await?;
                self.mark(Mark::FoundingDone);
                Ok(())
            }
            Step::Idle => {
                SimRuntime::sleep(Duration::from_millis(50)).await;
                Ok(())
            }
            Step::Together(steps) => self.together(steps),
            Step::Restart(end) => self.restart(end).await,
            Step::DiesAfter(operations, Step::Restart(end)) => {
                self.end(*end).await?;
                self.disk.kill_after(operations);
                expect_failure(self.start().await)
            }
            Step::DiesAfter(operations, step) => {
                self.disk.kill_after(operations);
                expect_failure(Box::pin(self.step(step)).await)
            }
            Step::SyncFails(syncs, Step::Restart(end)) => {
                self.end(*end).await?;
                self.disk.fail_sync_after(syncs);
                expect_failure(self.start().await)
            }
            Step::SyncFails(syncs, step) => {
                self.disk.fail_sync_after(syncs);
                expect_failure(Box::pin(self.step(step)).await)
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, upto: u64) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
        let mut new = self.model.log().entries;
        let applied = self.applied.applied.map(|id| id.index);
        new.retain(|entry| Some(entry.log_id.index) > applied && entry.log_id.index <= upto);
        new.iter().for_each(|entry| apply_entry(&mut self.applied, entry));
        let storage = self.storage()?.clone();
        Ok(async move { storage.apply(new).await })
    }

    fn snapshot(&mut self) -> io::Result<Task> {
        let storage = self.storage()?.clone();
        self.mark(Mark::StoreBegun { state: self.applied.clone(), installed: false });
        Ok((Box::pin(async move { storage.build_snapshot().await }), Some(Mark::StoreDone)))
    }

    fn together(&mut self, steps: &[Step]) -> io::Result<()> {
        self.disk.hold();
        let mut tasks = Vec::new();
        for step in steps {
            let task = match *step {
                Step::Apply(upto) => Some((Box::pin(self.apply(upto)?) as Pin<Box<_>>, None)),
                Step::Snapshot => Some(self.snapshot()?),
                _ => self.log_step(step)?,
            };
            let mut task = task.ok_or_else(|| io::Error::other("this cannot be held"))?;
            if task.0.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                tasks.push(task);
            }
        }
        let tasks = Arc::new(Mutex::new(tasks));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (marks, waiting, tell) = (self.marks.clone(), tasks.clone(), told.clone());
        self.disk.set_hook(Arc::new(move || {
            let Ok(mut tasks) = waiting.try_lock() else { return };
            tasks.retain_mut(|(task, done)| {
                let ready = task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
                if let Some(mark) = done.take_if(|_| ready) {
                    marks.push(mark.clone());
                    lock(&tell).push(mark);
                }
                !ready
            });
        }));
        self.disk.release();
        self.disk.set_hook(Arc::new(|| {}));
        lock(&told).iter().for_each(|mark| self.model.mark(mark));
        let left = lock(&tasks).len();
        if left == 0 { Ok(()) } else { Err(io::Error::other("a held step does not come to its end")) }
    }

    async fn restart(&mut self, end: End) -> io::Result<()> {
        self.end(end).await?;
        self.start().await.map_err(io::Error::other)
    }

    async fn end(&mut self, end: End) -> io::Result<()> {
        if end == End::Closed {
            settle(self.storage()?.close()).await?;
        }
        self.disk = match end {
            End::PowerLost => {
                let image = self.disk.medium().choices().all_lost();
                self.disk.power_loss(&image)
            }
            _ => self.disk.kill(),
        };
        drop(self.storage.take());
        // Its tasks end.
        SimRuntime::sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

fn expect_failure<E>(result: Result<(), E>) -> io::Result<()> {
    match result {
        Ok(()) => Err(io::Error::other("it should have failed")),
        Err(_) => Ok(()),
    }
}

/// Nothing that a script does takes long, and nothing may hang.
pub(crate) async fn settle<T>(what: impl Future<Output = io::Result<T>> + Send) -> io::Result<T> {
    let done = SimRuntime::timeout(Duration::from_secs(60), what).await;
    done.unwrap_or_else(|_| Err(io::Error::other("it takes for ever")))
}

/// Goes on after a recovery: an entry and a vote. Returns what must be there then.
pub(crate) async fn go_on(storage: &Storage, recovered: &Recovered) -> io::Result<Recovered> {
    let mut after = recovered.clone();
    let vote_term = recovered.log.vote.map_or(0, |vote| vote.term);
    let term = recovered.log.last.map_or(0, |id| id.term).max(vote_term) + 1;
    let entry = command(term, recovered.log.last.map_or(0, |id| id.index + 1), 40);
    after.log.last = Some(entry.log_id);
    after.log.entries.push(entry.clone());
    let vote = Vote { term, node: NodeId(77), committed: false };
    after.log.vote = Some(vote);
    settle(storage.append(vec![entry])).await?;
    settle(storage.vote(vote)).await?;
    Ok(after)
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry { log_id: LogId::new(term, index), payload }
}

/// A command whose bytes nobody else writes.
fn command(term: u64, index: u64, bytes: usize) -> Entry {
    let mut text = format!("k{}=term {term} index {index} ", index % 3);
    if index % 5 == 4 {
        text = format!("-k{};{text}", (index + 1) % 3);
    }
    while text.len() < bytes {
        text.push(char::from(b'a' + ((term * 7 + index + text.len() as u64) % 26) as u8));
    }
    entry(term, index, Payload::Command(Bytes::from(text)))
}

fn membership(index: u64) -> Membership {
    let members = (1..=3).map(|n| (NodeId(n), Member { name: format!("n{n} of {index}"), ..Member::default() }));
    Membership { configs: vec![(1..=3).map(NodeId).collect()], members: members.collect() }
}

fn founding(founded: bool) -> FoundingRecord {
    let mut record = FoundingRecord::alone("t", "n1", NodeId(101), &["n1:1".to_owned()]);
    record.founded = founded;
    record
}

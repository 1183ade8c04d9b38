//! The state of a disk: directories, and the journal of operations that have not taken effect.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::image::{Change, Content, Undo};
use super::points::{Act, Deed, FileClass};
use super::{DiskCounters, DiskProfile, Harm, SimWake};
use crate::{Event, SplitMix, Trace};

use faults::Cut;
pub use faults::{Failure, Trap, TrapKind};

/// A file, whatever its name. It lives as long as an entry, an operation or an open file refers to it.
#[derive(Debug)]
pub(super) struct Inode {
    id: u64,
    /// The path it was created under.
    label: String,
    /// Of that path.
    class: FileClass,
    content: Mutex<Content>,
}

impl Inode {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Entries = BTreeMap<String, Arc<Inode>>;

#[derive(Debug, Default)]
struct Directory {
    cache: Entries,
    durable: Entries,
    /// Changes that took effect since the last sync of the directory that did, in order.
    unsynced: Vec<EntryChange>,
}

#[derive(Clone, Debug)]
enum EntryChange {
    Create { name: String, inode: Arc<Inode> },
    Remove { name: String, inode: Arc<Inode> },
    Rename { from: String, to: String, inode: Arc<Inode>, replaced: Option<Arc<Inode>> },
}

impl EntryChange {
    fn apply(&self, entries: &mut Entries) {
        match self {
            Self::Create { name, inode } => _ = entries.insert(name.clone(), inode.clone()),
            Self::Remove { name, .. } => _ = entries.remove(name),
            Self::Rename { from, to, inode, .. } => {
                entries.remove(from);
                entries.insert(to.clone(), inode.clone());
            }
        }
    }

    fn undo(&self, entries: &mut Entries) {
        match self {
            Self::Create { name, .. } => _ = entries.remove(name),
            Self::Remove { name, inode } => _ = entries.insert(name.clone(), inode.clone()),
            Self::Rename { from, to, inode, replaced } => {
                match replaced {
                    Some(replaced) => _ = entries.insert(to.clone(), replaced.clone()),
                    None => _ = entries.remove(to),
                }
                entries.insert(from.clone(), inode.clone());
            }
        }
    }

    fn names(&self) -> [&String; 2] {
        match self {
            Self::Create { name, .. } | Self::Remove { name, .. } => [name, name],
            Self::Rename { from, to, .. } => [from, to],
        }
    }

    fn inode(&self) -> &Arc<Inode> {
        match self {
            Self::Create { inode, .. } | Self::Remove { inode, .. } | Self::Rename { inode, .. } => inode,
        }
    }

    fn act(&self) -> Act {
        match self {
            Self::Create { .. } => Act::Create,
            Self::Remove { .. } => Act::Remove,
            Self::Rename { .. } => Act::Rename,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Create { .. } => "disk create",
            Self::Remove { .. } => "disk remove",
            Self::Rename { .. } => "disk rename",
        }
    }
}

impl Directory {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Lets an arbitrary part of the unsynced changes reach the medium. The changes of one name survive in order: one
    /// that builds on a lost one is lost.
    fn scatter(&mut self, rng: &mut SplitMix, counters: &mut DiskCounters) {
        let changes = std::mem::take(&mut self.unsynced);
        let fate = if changes.is_empty() { 0 } else { rng.below(4) };
        let mut lost = BTreeSet::new();
        for change in changes {
            let keep = fate == 1 || (fate > 1 && rng.chance(500));
            if keep && !change.names().iter().any(|name| lost.contains(*name)) {
                change.apply(&mut self.durable);
            } else {
                lost.extend(change.names().map(String::clone));
                counters.entries_lost += 1;
            }
        }
    }
}

/// An operation that was executed and has not taken effect.
#[derive(Debug)]
struct Op {
    step: u64,
    start: u64,
    due: u64,
    deed: Deed,
    /// The operation before it in the same step.
    previous: Option<Deed>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Change { inode: Arc<Inode>, change: Change, undo: Undo },
    Sync { inode: Arc<Inode>, fails: bool },
    Entry { dir: PathBuf, change: EntryChange },
    SyncDir { dir: PathBuf, fails: bool },
}

impl Action {
    fn inode(&self) -> Option<&Arc<Inode>> {
        match self {
            Self::Change { inode, .. } | Self::Sync { inode, .. } => Some(inode),
            Self::Entry { .. } | Self::SyncDir { .. } => None,
        }
    }

    fn deed(&self) -> Deed {
        let (act, class) = match self {
            Self::Change { inode, change: Change::Write { offset, .. }, .. } => (Act::Write, inode.class.at(*offset)),
            Self::Change { inode, .. } => (Act::SetLen, inode.class),
            Self::Sync { inode, .. } => (Act::Sync, inode.class),
            Self::Entry { change, .. } => (change.act(), change.inode().class),
            Self::SyncDir { .. } => (Act::SyncDir, FileClass::Other),
        };
        Deed { act, class }
    }
}

/// The step that a worker is executing.
#[derive(Debug)]
struct Active {
    step: u64,
    /// When the next operation starts.
    cursor: u64,
    unsynced_bytes: u64,
    previous: Option<Deed>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) node: u32,
    /// Of the process that runs, or ran last. Handles of another are dead.
    pub(super) generation: u64,
    pub(super) profile: DiskProfile,
    pub(super) counters: DiskCounters,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) fail_syncs: u32,
    pub(super) fail_writes: u32,
    pub(super) traps: Vec<Trap>,
    /// Syncs of this class take so much longer until then, in nanoseconds.
    pub(super) slow_syncs: Option<(FileClass, u64, u64)>,
    /// Nothing takes effect after it: the process or the power is about to end.
    pub(super) cut: Option<Cut>,
    pub(super) failures: Vec<Failure>,
    pub(super) harms: Vec<Harm>,
    /// Rung when somebody outside has to look here.
    pub(super) bell: SimWake,
    /// A directory could not be synced: the file system's journal has failed, and nothing can be written any more
    /// before it is mounted again.
    read_only: bool,
    trace: Trace,
    rng: SplitMix,
    dirs: BTreeMap<PathBuf, Directory>,
    /// By sequence number, which is the order of execution.
    pending: BTreeMap<u64, Op>,
    /// The last number given to an operation, a step or a file.
    last_number: u64,
    active: Option<Active>,
    stalled_until: u64,
}

/// A step that was cut looks again after so many nanoseconds; by then its process has ended.
const LONG: u64 = 1_000_000_000;

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn split(path: &Path) -> io::Result<(&Path, String)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("")), name.to_string_lossy().into_owned()))
}

impl State {
    pub(super) fn new(node: u32, seed: u64, profile: DiskProfile, trace: Trace) -> Self {
        Self {
            node,
            generation: 0,
            profile,
            counters: DiskCounters::default(),
            locks: BTreeSet::new(),
            fail_syncs: 0,
            fail_writes: 0,
            traps: Vec::new(),
            slow_syncs: None,
            cut: None,
            failures: Vec::new(),
            harms: Vec::new(),
            bell: SimWake::default(),
            read_only: false,
            trace,
            rng: SplitMix::labelled(seed, &format!("disk {node}")),
            dirs: BTreeMap::from([(PathBuf::from("/"), Directory::default()), (PathBuf::new(), Directory::default())]),
            pending: BTreeMap::new(),
            last_number: 0,
            active: None,
            stalled_until: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn event(&self, at: u64, kind: &'static str, subject: &str, numbers: [u64; 2], payload: &[u8]) {
        self.trace.event(Event { at, node: self.node, kind, subject, numbers, payload });
    }

    /// The operation that the step executes now does not succeed.
    fn refusal(&self, kind: &'static str, subject: &str) {
        let at = self.active.as_ref().map_or(0, |active| active.cursor);
        self.event(at, kind, subject, [0, 0], &[]);
    }

    // Steps

    pub(super) fn begin_step(&mut self, now: u64) -> u64 {
        let step = self.number();
        self.active = Some(Active { step, cursor: now.max(self.stalled_until), unsynced_bytes: 0, previous: None });
        step
    }

    pub(super) fn end_step(&mut self) {
        self.active = None;
    }

    /// Settles what is due; when the last operation of `step` will be, if it is not.
    pub(super) fn settle_step(&mut self, now: u64, step: u64) -> Option<u64> {
        self.settle(now);
        let due = self.pending.values().filter(|op| op.step == step).map(|op| op.due).max();
        match &self.cut {
            // Nobody learns any more what became of the step.
            Some(cut) if cut.at <= now => Some(now + LONG),
            _ => due,
        }
    }

    /// Enters an executed operation into the journal.
    fn record(&mut self, duration: u64, action: Action) {
        let number = self.number();
        let active = self.active.as_mut().expect("checked before the operation was executed");
        let start = active.cursor;
        active.cursor += duration;
        let (due, deed) = (active.cursor, action.deed());
        let previous = active.previous.replace(deed);
        self.pending.insert(number, Op { step: active.step, start, due, deed, previous, action });
        self.spring_cut(start, due, previous, deed);
    }

    fn check_in_step(&self, what: &str, path: &str) {
        assert!(self.active.is_some(), "harness bug: {what} of {path} on n{} outside a disk worker's step", self.node);
    }

    fn settle(&mut self, now: u64) {
        let now = self.cut.as_ref().map_or(now, |cut| cut.at.min(now));
        let due = self.pending.iter().filter(|(_, op)| op.due <= now);
        let mut due: Vec<_> = due.map(|(number, op)| (op.due, *number)).collect();
        due.sort_unstable();
        for (_, number) in due {
            let op = self.pending.remove(&number).expect("it was there a moment ago");
            self.take_effect(op);
        }
    }

    fn take_effect(&mut self, op: Op) {
        let at = op.due;
        match op.action {
            Action::Change { inode, change, .. } => {
                match &change {
                    Change::Write { offset, data } => {
                        self.event(at, "disk write", &inode.label, [*offset, data.len() as u64], data);
                    }
                    Change::SetLen(len) => self.event(at, "disk length", &inode.label, [*len, 0], &[]),
                }
                self.counters.writes += 1;
                inode.content().take_effect(change);
            }
            Action::Sync { inode, fails } => {
                self.event(at, "disk sync", &inode.label, [u64::from(!fails), op.start], &[]);
                if fails {
                    inode.content().scatter(&mut self.rng, &mut self.counters);
                } else {
                    self.counters.syncs += 1;
                    self.sync_content(at, &inode);
                }
            }
            Action::Entry { dir, change } => {
                let [from, to] = change.names();
                self.event(at, change.kind(), from, [change.inode().id, 0], to.as_bytes());
                self.dirs.entry(dir).or_default().unsynced.push(change);
            }
            Action::SyncDir { dir, fails } => {
                self.event(at, "disk sync", &dir.to_string_lossy(), [u64::from(!fails), op.start], &[]);
                let dir = self.dirs.entry(dir).or_default();
                if fails {
                    dir.scatter(&mut self.rng, &mut self.counters);
                } else {
                    self.counters.syncs += 1;
                    dir.sync();
                }
            }
        }
    }

    // Operations of a process

    pub(super) fn find(&self, path: &Path) -> io::Result<Arc<Inode>> {
        let (dir, name) = split(path)?;
        let dir = self.dirs.get(dir).ok_or(io::ErrorKind::NotFound)?;
        dir.cache.get(&name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn durable_files(&self) -> Vec<(PathBuf, Arc<Inode>)> {
        let dirs = self.dirs.iter();
        dirs.flat_map(|(dir, e)| e.durable.iter().map(|(name, inode)| (dir.join(name), inode.clone()))).collect()
    }

    pub(super) fn has_file(&self, id: u64) -> bool {
        self.dirs.values().any(|dir| dir.cache.values().chain(dir.durable.values()).any(|inode| inode.id == id))
    }

    /// An open file is closed. If it has no name any more, that is when the disk takes its space back, which takes a
    /// real one tens of milliseconds: no task may wait for it, and nobody who holds a lock that tasks take.
    pub(super) fn check_close(&self, inode: &Inode) {
        if !self.dirs.values().any(|dir| dir.cache.values().any(|named| named.id == inode.id)) {
            self.check_in_step("closing", &inode.label);
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = self.dirs.get(dir).ok_or(io::ErrorKind::NotFound)?;
        let subdirs = self.dirs.keys().filter(|path| path.parent() == Some(dir)).filter_map(|path| path.file_name());
        let mut names: BTreeSet<String> = subdirs.map(|name| name.to_string_lossy().into_owned()).collect();
        names.extend(entries.cache.keys().cloned());
        Ok(names.into_iter().collect())
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.dirs.iter().flat_map(|(dir, entries)| entries.cache.keys().map(|name| dir.join(name))).collect()
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) {
        for dir in dir.ancestors() {
            self.dirs.entry(dir.to_owned()).or_default();
        }
    }

    /// Makes a directory change visible and enters it into the journal.
    fn change_entry(&mut self, dir: &Path, change: EntryChange) {
        let entries = self.dirs.get_mut(dir).expect("the caller looked");
        change.apply(&mut entries.cache);
        let duration = self.rng.skewed(self.profile.op_ns, self.profile.op_ns * 4);
        self.record(duration, Action::Entry { dir: dir.to_owned(), change });
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Arc<Inode>> {
        let (dir, name) = split(path)?;
        if !self.dirs.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let label = path.to_string_lossy().into_owned();
        self.check_in_step("create", &label);
        self.check_writable()?;
        let inode = Arc::new(Inode { id: self.number(), label, class: FileClass::of(path), content: Mutex::default() });
        self.change_entry(dir, EntryChange::Create { name, inode: inode.clone() });
        Ok(inode)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.check_in_step("remove", &path.to_string_lossy());
        self.check_writable()?;
        let inode = self.find(path)?;
        let (dir, name) = split(path)?;
        self.change_entry(dir, EntryChange::Remove { name, inode });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_in_step("rename", &from.to_string_lossy());
        self.check_writable()?;
        let (inode, replaced) = (self.find(from)?, self.find(to).ok());
        let ((dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        if dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        if from != to {
            self.change_entry(dir, EntryChange::Rename { from, to, inode, replaced });
        }
        Ok(())
    }

    pub(super) fn change(&mut self, inode: &Arc<Inode>, change: Change, reserve: u64) -> io::Result<()> {
        self.check_in_step("write", &inode.label);
        self.check_writable()?;
        let mut change = change;
        let mut result = Ok(());
        if let Some(capacity) = self.profile.capacity_bytes
            && let needed = self.space_after(inode, &change, reserve)
            && needed > capacity
            && needed > self.space_of_others(None)
        {
            self.counters.refused_for_space += 1;
            self.refusal("disk full", &inode.label);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = 0;
        if let Change::Write { data, .. } = &mut change {
            if self.write_fails(inode) {
                data.truncate(self.rng.below(data.len() as u64 + 1) as usize);
                result = Err(eio());
            }
            bytes = data.len() as u64;
        }
        let undo = {
            let mut content = inode.content();
            content.reserve(reserve);
            content.execute(&change)
        };
        if let Some(active) = &mut self.active {
            active.unsynced_bytes += bytes;
        }
        let base = self.profile.op_ns + bytes * self.profile.write_ns_per_kib / 1024;
        let duration = self.rng.skewed(base, base * 4);
        self.record(duration, Action::Change { inode: inode.clone(), change, undo });
        result
    }

    fn space_after(&self, inode: &Arc<Inode>, change: &Change, reserve: u64) -> u64 {
        self.space_of_others(Some(inode)) + inode.content().space_after(Some(change)).max(reserve)
    }

    /// Bytes of disk space that all files but one take.
    pub(super) fn space_of_others(&self, but: Option<&Arc<Inode>>) -> u64 {
        let files = self.dirs.values().flat_map(|dir| dir.cache.values());
        let files = files.filter(|file| but.is_none_or(|but| but.id != file.id));
        files.map(|file| file.content().space_after(None)).sum()
    }

    fn check_writable(&self) -> io::Result<()> {
        // EROFS.
        if self.read_only { Err(io::Error::from_raw_os_error(30)) } else { Ok(()) }
    }

    fn sync_duration(&mut self, bytes: u64) -> u64 {
        let profile = &self.profile;
        let mut duration = self.rng.skewed(profile.sync_ns_min, profile.sync_ns_max);
        duration += bytes * profile.flush_ns_per_kib / 1024;
        if self.rng.chance(profile.stall_per_mille) {
            self.counters.stalls += 1;
            duration += self.rng.below(profile.stall_ns_max + 1);
        }
        duration
    }

    pub(super) fn sync(&mut self, inode: &Arc<Inode>) -> io::Result<()> {
        self.check_in_step("sync", &inode.label);
        self.check_writable()?;
        let fails = self.sync_fails(Some(inode));
        let in_step = self.active.as_mut().map_or(0, |active| std::mem::take(&mut active.unsynced_bytes));
        let mut duration = self.sync_duration(in_step + inode.content().unsynced_bytes() as u64);
        if let (Some((class, longer, until)), Some(active)) = (self.slow_syncs, &self.active)
            && class == inode.class
        {
            duration += longer.min(until.saturating_sub(active.cursor));
        }
        self.record(duration, Action::Sync { inode: inode.clone(), fails });
        if fails { Err(eio()) } else { Ok(()) }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.check_in_step("sync", &dir.to_string_lossy());
        if !self.dirs.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.check_writable()?;
        let fails = self.sync_fails(None);
        let duration = self.sync_duration(0);
        self.record(duration, Action::SyncDir { dir: dir.to_owned(), fails });
        if fails { Err(eio()) } else { Ok(()) }
    }
}

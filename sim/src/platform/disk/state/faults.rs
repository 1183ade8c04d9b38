//! What goes wrong with a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::disk::Wake;

use super::super::image::Change;
use super::super::points::{Act, CRASH_POINTS, CrashPoint, Deed, FileClass};
use super::super::{Garble, Harm};
use super::{Action, Directory, EntryChange, Inode, State};

/// Something that waits for an operation of some kind.
#[derive(Clone, Debug)]
pub struct Trap {
    /// It goes off at the n-th such operation, from 1.
    pub nth: u32,
    /// What it waits for and does.
    pub kind: TrapKind,
}

/// What a [`Trap`] waits for and does.
#[derive(Clone, Debug)]
pub enum TrapKind {
    /// Nothing takes effect beyond this point: see [`Drive::cut`](super::super::Drive::cut).
    Cut(&'static CrashPoint),
    /// The write or sync fails.
    Fail {
        /// [`Act::Write`] or [`Act::Sync`].
        act: Act,
        /// Of what; of anything if `None`, directories too.
        class: Option<FileClass>,
    },
    /// A sync leaves one block on the medium as it was; what belongs there is written to another place of the same
    /// file if `elsewhere`.
    Lose {
        /// Of what.
        class: FileClass,
        /// Whether it is misdirected rather than lost.
        elsewhere: bool,
    },
}

/// Where the journal is cut.
#[derive(Clone, Debug)]
pub struct Cut {
    /// When, nanoseconds.
    pub at: u64,
    /// Where.
    pub point: &'static CrashPoint,
}

/// A write or sync that failed by injection.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In which boot of the disk.
    pub generation: u64,
    /// What failed.
    pub act: Act,
    /// Of what; a directory is [`FileClass::Other`].
    pub class: FileClass,
    /// The name under which the file was created; empty for a directory.
    pub path: PathBuf,
    /// Its process has opened the file anew since.
    pub over: bool,
}

/// The size of what a misdirected or lost write is made of.
const BLOCK: u64 = 4096;

impl State {
    /// Counts the operation down for the traps that fit it; takes those that go off.
    fn spring(&mut self, fits: impl Fn(&TrapKind) -> bool) -> Option<TrapKind> {
        let mut sprung = None;
        self.traps.retain_mut(|trap| {
            if sprung.is_some() || !fits(&trap.kind) {
                return true;
            }
            trap.nth = trap.nth.saturating_sub(1);
            if trap.nth == 0 {
                sprung = Some(trap.kind.clone());
            }
            trap.nth > 0
        });
        sprung
    }

    /// An operation was entered into the journal: is it where the journal is to be cut?
    pub(super) fn spring_cut(&mut self, start: u64, due: u64, previous: Option<Deed>, deed: Deed) {
        if self.cut.is_some() {
            return;
        }
        let fits = |point: &CrashPoint| match point.is_behind() {
            true => point.matches(Some(deed), None),
            false => point.matches(previous, Some(deed)),
        };
        if let Some(TrapKind::Cut(point)) = self.spring(|kind| matches!(kind, TrapKind::Cut(point) if fits(point))) {
            let at = if point.is_behind() { due } else { start };
            self.cut = Some(Cut { at, point });
            self.event(at, "disk cut", point.name, [0, 0], &[]);
            self.bell.wake();
        }
    }

    fn fails(&mut self, wanted: Act, of: FileClass) -> bool {
        let fits = |kind: &TrapKind| matches!(kind, TrapKind::Fail { act, class } if *act == wanted && class.is_none_or(|c| c == of));
        self.spring(fits).is_some()
    }

    fn failed(&mut self, act: Act, inode: Option<&Inode>) {
        let class = inode.map_or(FileClass::Other, |inode| inode.class);
        let path = inode.map(|inode| PathBuf::from(&inode.label)).unwrap_or_default();
        self.refusal("disk failure", &path.to_string_lossy());
        self.failures.push(Failure { generation: self.generation, act, class, path, over: false });
        self.bell.wake();
    }

    pub(super) fn write_fails(&mut self, inode: &Inode) -> bool {
        let counted = self.fail_writes > 0;
        self.fail_writes -= u32::from(counted);
        let fails = counted || self.fails(Act::Write, inode.class);
        if fails {
            self.counters.failed_writes += 1;
            self.failed(Act::Write, Some(inode));
        }
        fails
    }

    /// Of a file, or of a directory.
    pub(super) fn sync_fails(&mut self, inode: Option<&Arc<Inode>>) -> bool {
        let class = inode.map_or(FileClass::Other, |inode| inode.class);
        let counted = self.fail_syncs > 0;
        self.fail_syncs -= u32::from(counted);
        let fails = counted || self.fails(Act::Sync, class);
        if fails {
            self.counters.failed_syncs += 1;
            self.failed(Act::Sync, inode.map(|inode| &**inode));
            self.read_only |= inode.is_none();
        }
        fails
    }

    fn harm(&mut self, inode: &Inode, what: &'static str, offset: u64, len: u64) {
        let (path, class) = (PathBuf::from(&inode.label), inode.class);
        self.harms.push(Harm { path, class, file: inode.id, what, offset, len });
    }

    /// What a sync that succeeds does, by its own account.
    pub(super) fn sync_content(&mut self, at: u64, inode: &Arc<Inode>) {
        let fits = |kind: &TrapKind| matches!(kind, TrapKind::Lose { class, .. } if *class == inode.class);
        if self.traps.is_empty() || !inode.content().has_unsynced_writes() {
            return inode.content().sync();
        }
        let Some(TrapKind::Lose { elsewhere, .. }) = self.spring(fits) else {
            return inode.content().sync();
        };
        let Some((offset, block)) = inode.content().sync_but_one(&mut self.rng, BLOCK) else { return };
        self.counters.lost_writes += 1;
        self.harm(inode, "lost write", offset, BLOCK);
        let mut landed = 0;
        if elsewhere {
            let blocks = inode.content().medium.len / BLOCK;
            let other = self.rng.below(blocks) * BLOCK;
            if other != offset && inode.content().overwrite(other, &block) {
                self.counters.misdirected_writes += 1;
                self.harm(inode, "misdirected write", other, BLOCK);
                landed = other;
            }
        }
        self.event(at, "disk lost", &inode.label, [offset, landed], &[]);
        self.bell.wake();
    }

    /// Counts the points that a cut here and now is at.
    fn count_points(&mut self, now: u64) {
        let mut steps = BTreeSet::new();
        for op in self.pending.values() {
            if steps.insert(op.step) {
                for point in CRASH_POINTS.iter().filter(|p| !p.is_behind() && p.matches(op.previous, Some(op.deed))) {
                    *self.counters.points.entry(point.name).or_default() += 1;
                }
            }
        }
        if let Some(cut) = self.cut.take().filter(|cut| cut.at <= now && cut.point.is_behind()) {
            *self.counters.points.entry(cut.point.name).or_default() += 1;
        }
    }

    pub(in super::super) fn kill(&mut self, now: u64) {
        self.undo_pending(now);
        if self.read_only {
            // Before the next process starts, the file system has to be mounted again.
            self.lose_unsynced(now);
        }
    }

    fn undo_pending(&mut self, now: u64) {
        self.settle(now);
        self.count_points(now);
        let undone = self.pending.len() as u64;
        while let Some((_, op)) = self.pending.pop_last() {
            match op.action {
                Action::Change { inode, undo, .. } => inode.content().undo(undo),
                Action::Entry { dir, change } => change.undo(&mut self.dirs.entry(dir).or_default().cache),
                Action::Sync { .. } | Action::SyncDir { .. } => {}
            }
        }
        self.counters.undone += undone;
        self.active = None;
        self.locks.clear();
        self.generation += 1;
        self.event(now, "disk kill", "", [undone, self.generation], &[]);
    }

    pub(in super::super) fn power_loss(&mut self, now: u64) {
        self.settle(now);
        let cut = self.cut.as_ref().map_or(now, |cut| cut.at.min(now));
        let mut torn = Vec::new();
        for op in self.pending.values().filter(|op| op.start <= cut) {
            if let Action::Change { inode, change: Change::Write { offset, data }, .. } = &op.action {
                let cut = self.rng.below(data.len() as u64 + 1) as usize;
                torn.push((inode.clone(), Change::Write { offset: *offset, data: data.slice(..cut) }));
            }
        }
        self.undo_pending(now);
        self.counters.torn_writes += torn.len() as u64;
        for (inode, change) in torn {
            inode.content().take_effect(change);
        }
        self.lose_unsynced(now);
    }

    /// Of what was not synced, lets an arbitrary part reach the medium; the cache is gone.
    fn lose_unsynced(&mut self, now: u64) {
        let (mut lost, mut entries) = (0, 0);
        for inode in self.inodes() {
            let before = (self.counters.sectors_lost, self.counters.sectors_kept);
            let mut content = inode.content();
            content.scatter(&mut self.rng, &mut self.counters);
            content.forget_cache();
            let numbers = [self.counters.sectors_lost - before.0, self.counters.sectors_kept - before.1];
            lost += numbers[0];
            if numbers != [0, 0] {
                self.event(now, "disk unsynced", &inode.label, numbers, &[]);
            }
        }
        for dir in self.dirs.values_mut() {
            let before = self.counters.entries_lost;
            dir.scatter(&mut self.rng, &mut self.counters);
            dir.cache = dir.durable.clone();
            entries += self.counters.entries_lost - before;
        }
        self.read_only = false;
        self.event(now, "disk power loss", "", [lost, entries], &[]);
    }

    /// All files that have a name, had one on the medium, or are about to.
    fn inodes(&self) -> Vec<Arc<Inode>> {
        let mut inodes = BTreeMap::new();
        for dir in self.dirs.values() {
            let unsynced = dir.unsynced.iter().map(EntryChange::inode);
            for inode in dir.cache.values().chain(dir.durable.values()).chain(unsynced) {
                inodes.insert(inode.id, inode.clone());
            }
        }
        inodes.into_values().collect()
    }

    pub(in super::super) fn wipe(&mut self, now: u64) {
        self.kill(now);
        self.dirs =
            BTreeMap::from([(PathBuf::from("/"), Directory::default()), (PathBuf::new(), Directory::default())]);
        self.event(now, "disk wipe", "", [0, 0], &[]);
    }

    pub(in super::super) fn stall(&mut self, now: u64, duration: u64) {
        self.settle(now);
        for op in self.pending.values_mut() {
            op.due += duration;
            // What has not started waits; what has is only slower.
            if op.start > now {
                op.start += duration;
            }
        }
        if let Some(cut) = self.cut.as_mut().filter(|cut| cut.at > now) {
            cut.at += duration;
        }
        self.stalled_until = self.stalled_until.max(now + duration);
        self.counters.stalls += 1;
        self.event(now, "disk stall", "", [duration, 0], &[]);
    }

    /// Changes bytes behind everybody's back; returns which ones changed.
    pub(in super::super) fn damage(&mut self, now: u64, path: &Path, offset: u64, how: Garble, seen: bool) -> Vec<u64> {
        let Ok(inode) = self.find(path) else { return Vec::new() };
        let changed = inode.content().damage(offset, how, seen, &mut self.rng);
        let (Some(first), Some(last)) = (changed.first(), changed.last()) else { return changed };
        self.counters.damaged_bytes += changed.len() as u64;
        let len = last + 1 - first;
        self.harms.push(Harm {
            path: path.to_owned(),
            class: inode.class,
            file: inode.id,
            what: how.name(),
            offset: *first,
            len,
        });
        self.event(now, "disk damage", &path.to_string_lossy(), [*first, len], how.name().as_bytes());
        changed
    }

    /// Drops what is clean from the cache, as a kernel does when it needs memory.
    pub(in super::super) fn evict(&mut self, now: u64) {
        let busy: BTreeSet<u64> =
            self.pending.values().filter_map(|op| op.action.inode()).map(|inode| inode.id).collect();
        for inode in self.inodes() {
            if !busy.contains(&inode.id) {
                inode.content().evict();
            }
        }
        self.event(now, "disk evict", "", [0, 0], &[]);
    }
}

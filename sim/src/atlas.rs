//! What may be damaged, what was, and what that explains: so that red means bug.
//!
//! Damage is checked when it is about to be done:
//!
//! 1. At any time, the voters whose durable data is damaged or lost are a minority of every configuration that may be in
//!    force: the newest committed one and those that came after it. A log stays damaged; a store is whole again once
//!    it has been rebuilt, that is once no damaged file has a name any more and the node is up. What was lost counts until a
//!    committed configuration does without it: until the lost member was removed or replaced.
//! 2. In a log only what is sealed is damaged: batches that have a valid successor on the medium, or that a later
//!    segment's base vouches for. Rot in a batch without a successor cannot be told from a torn flush by anybody.
//! 3. Nothing is damaged before all nodes of the list belong to the cluster.
//! 4. A node that has lost its disk must stay out, as it has nothing of what it promised, until the others take it in
//!    under another id. Nobody relies on its new disk before that.
//! 5. A node that keeps everything in memory loses it with its process.
//!
//! Crashes, failed writes and full disks know no bounds.
//!
//! A node that refuses to start, or stops by itself, must have a reason that was injected there: the same node, kind,
//! file and place. Everything else is a violation, a damage report for data that is whole above all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::admission::{self, Admission};
use quorate_core::founding::{self, FoundingRecord};
use quorate_core::identity;
use quorate_core::log::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, parse_segment_name, segment_name};
use quorate_core::log::recovery::{SegmentFacts, scan_segment};
use quorate_io::log_store::OpenError;
use quorate_io::node::{StartError, StopError, exit_code};
use quorate_io::store::StoreError;

use crate::plan::{Place, Rot};
use crate::platform::{Drive, FileClass, Garble, Harm};
use crate::roster::Roster;

/// Where nodes keep their data.
pub const DATA_DIR: &str = "/data";

/// Data that was durable is never lost silently: what is damaged is found before it is used.
pub const DAMAGE_IS_FOUND: &str = "damage to durable data is found, named, and not used";

/// Whatever a crash leaves of a store is a store: only damage explains that a node builds it anew.
pub const KEEPS_WHOLE_STORES: &str = "a node gives up its store only when it is damaged";

/// Why a process ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// Its disk failed: it may be started again.
    DiskFailed,
    /// Its log or its papers are damaged: it never comes back.
    Gone,
    /// Its store is damaged: started again, it rebuilds it.
    StoreDamaged,
    /// It was removed from the cluster.
    Removed,
}

/// A stretch of a log file in which every byte that counts is checksummed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    path: PathBuf,
    start: u64,
    /// From the start, so many bytes are under a checksum.
    covered: u64,
    /// Up to the next.
    len: u64,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Nodes whose log or papers were damaged.
    log: BTreeSet<u32>,
    /// Nodes whose store was damaged, or may be at any time.
    store: BTreeSet<u32>,
    /// Nodes that run, and had started before.
    up: BTreeSet<u32>,
    /// How much of the harm to each node's store is over.
    mended: BTreeMap<u32, usize>,
    /// Where damage to a log must be reported: file, and offset of the batch.
    spots: BTreeSet<(u32, PathBuf, u64)>,
    /// Nodes that must not start, whatever they say.
    must_refuse: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    /// Nodes that have lost their disks.
    wiped: BTreeSet<u32>,
    /// Nodes with a new disk whose old identity is no member any more: they are to become members.
    expected: BTreeSet<u32>,
    /// The cluster was founded.
    founded: bool,
    counts: BTreeMap<&'static str, u64>,
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Atlas {
    /// How many nodes found the cluster.
    founders: u32,
    /// Whether nodes keep everything in memory.
    memory: bool,
    roster: Roster,
    ledger: Arc<Mutex<Ledger>>,
}

impl Atlas {
    /// Nothing is damaged yet.
    pub fn new(founders: u32, memory: bool, roster: Roster) -> Self {
        Self { founders, memory, roster, ledger: Arc::default() }
    }

    /// Who is who.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damages a node's log, papers or store, if that is allowed; otherwise says why it was not.
    ///
    /// # Errors
    /// Why nothing was damaged.
    pub fn damage(&self, drives: &[Drive], node: u32, place: Place, rot: Rot, pick: u64) -> Result<(), &'static str> {
        let suppressed = |why| {
            *self.lock().counts.entry("damage suppressed by the atlas").or_default() += 1;
            Err(why)
        };
        let drive = &drives[node as usize - 1];
        if !self.is_cluster_founded(drives) {
            return suppressed("the cluster is not founded yet");
        }
        if self.is_wiped(node) {
            return suppressed("a wiped node has promised nothing yet");
        }
        if !self.allows(drives, node) {
            return suppressed("more than a minority would be damaged");
        }
        let spots = match place {
            Place::Log | Place::RunningLog => sealed(drive),
            Place::Papers => papers(drive),
            Place::Store | Place::RunningStore => store_files(drive),
        };
        if spots.is_empty() {
            return suppressed("there is nothing that may be damaged");
        }
        let at = (pick % spots.len() as u64) as usize;
        let changed = strike(drive, &spots, at, rot, pick >> 32);
        let counts = |spot: &Spot| {
            let covered = spot.start..spot.start + spot.covered;
            changed.iter().any(|(path, byte)| *path == spot.path && covered.contains(byte))
        };
        let hit: Vec<&Spot> = spots.iter().filter(|spot| counts(spot)).collect();
        let mut ledger = self.lock();
        if changed.is_empty() {
            drop(ledger);
            return suppressed("nothing changed");
        }
        *ledger.counts.entry("damage done").or_default() += 1;
        if matches!(place, Place::Store | Place::RunningStore) {
            ledger.store.insert(node);
            return Ok(());
        }
        ledger.log.insert(node);
        if !hit.is_empty() && place != Place::RunningLog {
            ledger.must_refuse.insert(node);
        }
        ledger.spots.extend(hit.into_iter().map(|spot| (node, spot.path.clone(), spot.start)));
        Ok(())
    }

    /// Whether a write of this node's store may be lost.
    pub fn may_lose(&self, drives: &[Drive], node: u32) -> bool {
        let may = self.is_cluster_founded(drives) && !self.is_wiped(node) && self.allows(drives, node);
        let mut ledger = self.lock();
        if may {
            ledger.store.insert(node);
        } else {
            *ledger.counts.entry("damage suppressed by the atlas").or_default() += 1;
        }
        may
    }

    /// Whether a node may lose its disk.
    pub fn may_wipe(&self, drives: &[Drive], node: u32) -> bool {
        let may = self.is_cluster_founded(drives) && self.allows(drives, node) && !self.is_gone(node);
        if may {
            *self.lock().counts.entry("nodes wiped").or_default() += 1;
        } else {
            *self.lock().counts.entry("damage suppressed by the atlas").or_default() += 1;
        }
        may
    }

    /// A node's disk is emptied: whatever was wrong with it goes, and what the node promised is lost.
    pub fn empties_disk(&self, node: u32) {
        self.roster.lose(node);
        let mut ledger = self.lock();
        ledger.wiped.insert(node);
        ledger.expected.remove(&node);
        ledger.log.remove(&node);
        ledger.store.remove(&node);
        ledger.must_refuse.remove(&node);
        ledger.gone.remove(&node);
        ledger.spots.retain(|(of, ..)| *of != node);
    }

    /// A machine takes no part before an operator has it join.
    pub fn sets_aside(&self, node: u32) {
        let mut ledger = self.lock();
        ledger.wiped.insert(node);
        ledger.gone.insert(node);
    }

    /// Whether the process of a node may end; if it keeps everything in memory, that is lost then.
    pub fn may_end(&self, drives: &[Drive], node: u32) -> bool {
        if !self.memory {
            return true;
        }
        let may = self.is_cluster_founded(drives) && (self.roster.is_nobody(node) || self.allows(drives, node));
        let mut ledger = self.lock();
        if may {
            self.roster.lose(node);
            *ledger.counts.entry("memories lost").or_default() += 1;
        } else {
            *ledger.counts.entry("ends of processes suppressed by the atlas").or_default() += 1;
        }
        may
    }

    /// Whether a member may be taken out of the membership, and a machine lose what it has: the others must do without
    /// them, and without those of them that are damaged.
    pub fn may_remove(&self, drives: &[Drive], id: u64, loses: Option<u32>) -> bool {
        if self.roster.is_leaving() {
            return false;
        }
        self.roster.set_leaving(Some(id));
        let may = self.is_cluster_founded(drives) && self.allows(drives, loses.unwrap_or(0));
        if !may {
            self.roster.set_leaving(None);
        }
        may
    }

    /// Whether a node has lost what it kept, and does not vote again yet.
    pub fn is_wiped(&self, node: u32) -> bool {
        self.lock().wiped.contains(&node) && !self.roster.votes(node)
    }

    /// A node's disk is empty, and nothing hinders it from becoming a member again.
    pub fn expect(&self, node: u32) {
        self.lock().expected.insert(node);
    }

    /// Whether something may be demanded of a node: its log is whole, and it is, or is to become, a member.
    pub fn is_sound(&self, node: u32) -> bool {
        let is_wiped = self.is_wiped(node);
        let ledger = self.lock();
        let is_lost = is_wiped && !ledger.expected.contains(&node);
        !ledger.log.contains(&node) && !ledger.gone.contains(&node) && !is_lost
    }

    /// Rule 3.
    pub(crate) fn is_cluster_founded(&self, drives: &[Drive]) -> bool {
        let is_founded = |node: u32, drive: &Drive| match self.memory {
            true => self.roster.has_entered(node),
            false => is_settled(drive) || self.lock().wiped.contains(&node),
        };
        let before = self.lock().founded;
        let founded = before || (1..=self.founders).zip(drives).all(|(node, drive)| is_founded(node, drive));
        self.lock().founded = founded;
        founded
    }

    /// Rule 1, if this node were damaged, too; 0 is none.
    fn allows(&self, drives: &[Drive], node: u32) -> bool {
        let mut ledger = self.lock();
        for (number, drive) in (1..).zip(drives) {
            if ledger.up.contains(&number) {
                ledger.mend(number, drive, "damaged stores replaced by a snapshot");
            }
        }
        let damaged: BTreeSet<u32> = ledger.log.union(&ledger.store).copied().chain([node]).collect();
        // Nobody votes before there is a configuration.
        self.roster.are_a_minority(&damaged).unwrap_or(false)
    }

    /// Whether the log or the papers of a node were damaged, so that nothing may be demanded of it.
    pub fn has_damaged_log(&self, node: u32) -> bool {
        self.lock().log.contains(&node)
    }

    /// Whether everything in a node's store can be read.
    pub fn has_whole_store(&self, node: u32) -> bool {
        !self.lock().store.contains(&node)
    }

    /// Whether a node has refused its damaged data: it is never started again.
    pub fn is_gone(&self, node: u32) -> bool {
        self.lock().gone.contains(&node)
    }

    /// A process is about to start.
    pub fn booting(&self, node: u32) {
        self.lock().up.remove(&node);
    }

    /// A node has started. An error if it must not have.
    ///
    /// # Errors
    /// What it did not find.
    pub fn started(&self, node: u32, drive: &Drive) -> Result<(), String> {
        let mut ledger = self.lock();
        ledger.up.insert(node);
        // A start that failed to write to a store would not get here, unless it was one that it had just built, and let
        // go of before it opened it.
        drive.opened_anew(FileClass::Store);
        ledger.mend(node, drive, "stores rebuilt");
        if !ledger.must_refuse.contains(&node) {
            return Ok(());
        }
        let spots: Vec<_> = ledger.spots.iter().filter(|(of, ..)| *of == node).collect();
        Err(format!("n{node} starts, and has not found the damage at {spots:?}"))
    }

    /// Whether a node may give up its store and build another: it was damaged, or may be.
    pub fn may_rebuild(&self, node: u32) -> bool {
        self.lock().store.contains(&node)
    }

    /// What explains that a node did not start; `None` if nothing does.
    pub fn explain_start(&self, node: u32, error: &StartError, drive: &Drive) -> Option<Fall> {
        let harms = drive.harms();
        let harmed = |path: &Path| harms.iter().any(|harm| harm.path == path);
        let code = error.exit_code();
        let explained = match error {
            StartError::Log(OpenError::Damage { damage, .. }) => {
                let path = Path::new(DATA_DIR).join(segment_name(damage.segment));
                self.lock().spots.contains(&(node, path, damage.offset))
            }
            StartError::Log(OpenError::Identity { path, .. }) | StartError::Record { path, .. } => harmed(path),
            // It has been rebuilt, and what was built is damaged again.
            StartError::Store(StoreError::Damaged { file, .. }) => harmed(file) && self.lock().store.contains(&node),
            StartError::Consensus(error) => return self.explain_stop(node, error, drive),
            _ => false,
        };
        if code == exit_code::NOT_A_MEMBER {
            return self.stays_out(node);
        }
        if code == exit_code::DAMAGED {
            return explained.then(|| self.gone(node, "damaged nodes that refused to start"));
        }
        if code != exit_code::DISK_FAILED {
            return None;
        }
        // Nothing is set aside for a store that is built anew.
        let rebuilds = is_full(error) && self.lock().store.contains(&node);
        self.disk_failed(drive, rebuilds || (is_full(error) && reserve_is_spent(drive)))
    }

    /// What explains that a node stopped by itself; `None` if nothing does.
    pub fn explain_stop(&self, node: u32, error: &StopError, drive: &Drive) -> Option<Fall> {
        match error {
            StopError::LogDamaged { .. } => {
                let explained = self.lock().log.contains(&node);
                explained.then(|| self.gone(node, "damaged nodes that stopped"))
            }
            StopError::StoreDamaged(_) => {
                let mut ledger = self.lock();
                let explained = ledger.store.contains(&node) && drive.harms().iter().any(|harm| is_store(harm.class));
                if explained {
                    *ledger.counts.entry("nodes that stopped because their store was damaged").or_default() += 1;
                }
                explained.then_some(Fall::StoreDamaged)
            }
            StopError::Storage(_) => self.disk_failed(drive, reserve_is_spent(drive)),
            StopError::Founding(_) => self.stays_out(node),
            StopError::Removed(_) => {
                // Nobody takes out a node that runs but an operator: least of all an earlier life of its machine.
                let explained = self.roster.has_left(node) && self.roster.is_dismissed(node);
                explained.then(|| {
                    self.out(node, "removed nodes that stopped");
                    Fall::Removed
                })
            }
            StopError::Raft(_) => None,
        }
    }

    /// It never comes back with what it has.
    fn gone(&self, node: u32, what: &'static str) -> Fall {
        self.lock().log.insert(node);
        self.out(node, what);
        Fall::Gone
    }

    /// It is no member, and is not started again.
    fn out(&self, node: u32, what: &'static str) {
        let mut ledger = self.lock();
        ledger.gone.insert(node);
        ledger.must_refuse.remove(&node);
        *ledger.counts.entry(what).or_default() += 1;
    }

    /// It has found out that it is no member; a reason to do so is that it lost its disk.
    fn stays_out(&self, node: u32) -> Option<Fall> {
        let is_expected = self.lock().expected.contains(&node);
        (self.is_wiped(node) && !is_expected).then(|| {
            self.out(node, "wiped nodes that stayed out");
            Fall::Gone
        })
    }

    fn disk_failed(&self, drive: &Drive, had_no_space: bool) -> Option<Fall> {
        let what = match (drive.failures().is_empty(), had_no_space) {
            (false, _) => "nodes that stopped because their disk failed",
            (true, true) => "nodes that stopped for want of space",
            (true, false) => return None,
        };
        *self.lock().counts.entry(what).or_default() += 1;
        Some(Fall::DiskFailed)
    }

    /// What was done and what was not, for statistics.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }
}

impl Ledger {
    /// A node that runs: its store is whole if nothing that was harmed is left, and nothing is to be.
    fn mend(&mut self, node: u32, drive: &Drive, how: &'static str) {
        let harms: Vec<Harm> = drive.harms().into_iter().filter(|harm| is_store(harm.class)).collect();
        if drive.awaits_loss() || harms.iter().any(|harm| drive.has_file(harm.file)) || !self.store.remove(&node) {
            return;
        }
        if self.mended.insert(node, harms.len()).unwrap_or(0) < harms.len() {
            *self.counts.entry(how).or_default() += 1;
        }
    }
}

fn is_store(class: FileClass) -> bool {
    matches!(class, FileClass::Store | FileClass::Current)
}

fn is_full(error: &StartError) -> bool {
    let kind = match error {
        StartError::Io { error, .. } | StartError::Log(OpenError::Io { error, .. }) => error.kind(),
        StartError::Store(StoreError::Io { source, .. }) => source.kind(),
        _ => return false,
    };
    kind == io::ErrorKind::StorageFull
}

/// Whether a node has used up the space that it had set aside, so that it may stop for want of more.
fn reserve_is_spent(drive: &Drive) -> bool {
    let left = drive.content(&Path::new(DATA_DIR).join("reserve"));
    drive.counters().refused_for_space > 0 && left.is_none_or(|content| content.is_empty())
}

/// The store file that counts, as far as the next process will see.
fn current_store(drive: &Drive) -> Option<PathBuf> {
    let dir = Path::new(DATA_DIR).join("store");
    let current = drive.content(&dir.join("CURRENT"))?;
    let generation = u64::from_le_bytes(current.get(8..16)?.try_into().ok()?);
    Some(dir.join(format!("store-{generation}.db")))
}

/// Whether something failed that the process that runs must not survive. A store file that does not count is a
/// snapshot that could not be received, and a node that marks its store as damaged stops anyway.
pub fn is_vital_failure(drive: &Drive) -> bool {
    let current = current_store(drive);
    drive.failures().iter().any(|failure| match failure.class {
        FileClass::Store => !failure.over && current.as_ref() == Some(&failure.path),
        class => class != FileClass::Marker,
    })
}

/// Whether a node has it on its medium that its cluster is founded.
fn is_founded(drive: &Drive) -> bool {
    let path = Path::new(DATA_DIR).join(founding::FILE_NAME);
    let record = drive.durable_of(FileClass::Founding).into_iter().find(|(found, _)| *found == path);
    record.is_some_and(|(_, bytes)| FoundingRecord::from_file(&bytes).is_ok_and(|record| record.founded))
}

/// Whether a node has it on its medium that it belongs to a cluster.
pub fn is_settled(drive: &Drive) -> bool {
    let path = Path::new(DATA_DIR).join(admission::FILE_NAME);
    let admission = drive.durable_of(FileClass::Founding).into_iter().find(|(found, _)| *found == path);
    is_founded(drive) || admission.is_some_and(|(_, bytes)| Admission::from_file(&bytes).is_ok())
}

/// Changes bytes in one of the spots; returns which.
fn strike(drive: &Drive, spots: &[Spot], at: usize, rot: Rot, pick: u64) -> Vec<(PathBuf, u64)> {
    const SECTOR: u64 = 512;
    let spot = &spots[at];
    let within = spot.start + pick % spot.covered;
    let sector = within / SECTOR * SECTOR;
    let harm = |offset, how| {
        let changed = drive.damage(&spot.path, offset, how, true);
        changed.into_iter().map(|byte| (spot.path.clone(), byte)).collect::<Vec<_>>()
    };
    match rot {
        Rot::Bit => harm(within, Garble::Flip(pick as u32)),
        Rot::Bits => {
            let mut bytes: Vec<u64> = (0..3).map(|n| spot.start + (pick / 7 * n + pick) % spot.covered).collect();
            bytes.dedup();
            bytes.into_iter().flat_map(|byte| harm(byte, Garble::Flip(pick as u32))).collect()
        }
        Rot::ZeroSector => harm(sector, Garble::Zero(SECTOR)),
        Rot::NoiseSector => harm(sector, Garble::Noise(SECTOR)),
        Rot::LostWrite => harm(spot.start, Garble::Zero(spot.len)),
        Rot::Misdirected => {
            let from = spots[..at].iter().rev().find(|other| other.path == spot.path);
            let Some(from) = from else { return harm(sector, Garble::Noise(SECTOR)) };
            let mut changed = harm(spot.start, Garble::Copy(from.start));
            changed.extend(harm(from.start, Garble::Zero(BLOCK_BYTES)));
            changed
        }
    }
}

/// The identity and the record of the founding or the admission, whole; not one that a power loss would put another in the place of.
fn papers(drive: &Drive) -> Vec<Spot> {
    let names =
        [identity::FILE_NAME, founding::FILE_NAME, admission::FILE_NAME].map(|name| Path::new(DATA_DIR).join(name));
    let spot = |path: PathBuf| {
        let len = drive.content(&path)?.len() as u64;
        Some(Spot { path, start: 0, covered: len, len })
    };
    names.into_iter().filter(|path| drive.is_name_durable(path)).filter_map(spot).filter(|spot| spot.len > 0).collect()
}

/// What is written of the store that counts, in blocks, and the file that says so.
fn store_files(drive: &Drive) -> Vec<Spot> {
    let counts = current_store(drive);
    let mut files = drive.durable_of(FileClass::Store);
    files.retain(|(path, _)| Some(path) == counts.as_ref());
    files.extend(drive.durable_of(FileClass::Current).into_iter().filter(|(path, _)| path.ends_with("CURRENT")));
    let mut spots = Vec::new();
    for (path, bytes) in files {
        let written = bytes.chunks(BLOCK_BYTES as usize).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0));
        spots.extend(written.map(|(number, block)| {
            let (start, len) = (number as u64 * BLOCK_BYTES, block.len() as u64);
            Spot { path: path.clone(), start, covered: len, len }
        }));
    }
    spots
}

/// What rule 2 allows in a log: sealed on the medium, and needed as far as the next process will see.
fn sealed(drive: &Drive) -> Vec<Spot> {
    let seen = drive.files().into_iter().filter(|path| FileClass::of(path) == FileClass::Segment);
    let seen = spots(seen.filter_map(|path| drive.content(&path).map(|bytes| (path, bytes))));
    let durable = spots(drive.durable_of(FileClass::Segment).into_iter());
    durable.intersection(&seen).cloned().collect()
}

fn spots(files: impl Iterator<Item = (PathBuf, Vec<u8>)>) -> BTreeSet<Spot> {
    let facts: BTreeMap<u64, (PathBuf, SegmentFacts)> = files
        .filter_map(|(path, bytes)| {
            let number = parse_segment_name(path.file_name()?.to_str()?)?;
            Some((number, (path, scan_segment(number, &bytes.into(), None))))
        })
        .collect();
    let newest = facts.iter().rev().find_map(|(number, (_, f))| f.base.as_ref().map(|base| (*number, base)));
    let Some((newest, base)) = newest else { return BTreeSet::new() };
    let mut spots = BTreeSet::new();
    for (number, (path, facts_here)) in facts.range(base.first_segment..=newest) {
        // 52 bytes of it are used.
        spots.insert(Spot { path: path.clone(), start: 0, covered: 52, len: BLOCK_BYTES });
        let successor = facts.get(&(number + 1)).and_then(|(_, next)| next.base.as_ref());
        let end = match successor {
            Some(next) if *number < newest => next.previous_end,
            // The last batch has no successor.
            _ => facts_here.batches.last().map_or(0, |batch| batch.header.offset),
        };
        for batch in facts_here.batches.iter().filter(|batch| batch.header.end() <= end) {
            let (start, covered) = (batch.header.offset, BATCH_HEADER_BYTES as u64 + u64::from(batch.header.body_len));
            spots.insert(Spot { path: path.clone(), start, covered, len: batch.header.end() - start });
        }
    }
    spots
}

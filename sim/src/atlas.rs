//! What may be damaged, what was, and what that explains: so that red means bug.
//!
//! Damage is checked when it is about to be done:
//!
//! 1. At any time, nodes whose durable data is damaged are a minority. A log stays damaged; a store is whole again once
//!    it has been rebuilt, that is once no damaged file has a name any more.
//! 2. In a log only what is sealed is damaged: batches that have a valid successor on the medium, or that a later
//!    segment's base vouches for. Rot in a batch without a successor cannot be told from a torn flush by anybody.
//! 3. Nothing is damaged before the cluster is founded: that takes all its members.
//!
//! Crashes, failed writes and full disks know no bounds.
//!
//! A node that refuses to start, or stops by itself, must have a reason that was injected there: the same node, kind,
//! file and place. Everything else is a violation, a damage report for data that is whole above all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::founding::{self, FoundingRecord};
use quorate_core::identity;
use quorate_core::log::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, parse_segment_name, segment_name};
use quorate_core::log::recovery::{DamageKind, SegmentFacts, scan_segment};
use quorate_io::log_store::OpenError;
use quorate_io::node::{StartError, StopError, exit_code};
use quorate_io::store::StoreError;

use crate::plan::{Place, Rot};
use crate::platform::{Drive, FileClass, Garble, Harm};

/// Where nodes keep their data.
pub const DATA_DIR: &str = "/data";

/// Data that was durable is never lost silently: what is damaged is found before it is used.
pub const DAMAGE_IS_FOUND: &str = "damage to durable data is found, named, and not used";

/// Why a process ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// Its disk failed: it may be started again.
    DiskFailed,
    /// Its log or its papers are damaged: it never comes back.
    Gone,
    /// Its store is damaged: started again, it rebuilds it.
    StoreDamaged,
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
    /// Nodes whose store was damaged.
    store: BTreeSet<u32>,
    /// Where damage to a log must be reported: file, and offset of the batch.
    spots: BTreeSet<(u32, PathBuf, u64)>,
    /// Nodes that must not start, whatever they say.
    must_refuse: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    counts: BTreeMap<&'static str, u64>,
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Atlas {
    nodes: u32,
    ledger: Arc<Mutex<Ledger>>,
}

impl Atlas {
    /// Nothing is damaged yet.
    pub fn new(nodes: u32) -> Self {
        Self { nodes, ledger: Arc::default() }
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
        if !drives.iter().all(is_founded) {
            return suppressed("the cluster is not founded yet");
        }
        if !self.allows(drives, node) {
            return suppressed("more than a minority would be damaged");
        }
        let spots = match place {
            Place::Log | Place::RunningLog => sealed(drive),
            Place::Papers => papers(drive),
            Place::Store => store_files(drive),
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
        if place == Place::Store {
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
        let may = drives.iter().all(is_founded) && self.allows(drives, node);
        let mut ledger = self.lock();
        if may {
            ledger.store.insert(node);
        } else {
            *ledger.counts.entry("damage suppressed by the atlas").or_default() += 1;
        }
        may
    }

    /// Rule 1.
    fn allows(&self, drives: &[Drive], node: u32) -> bool {
        let mut ledger = self.lock();
        // A lost write is ordered long before it happens: until the trap has gone off the node counts.
        ledger.store.retain(|node| {
            let drive = &drives[*node as usize - 1];
            let harms = drive.harms();
            let mut harms = harms.iter().filter(|harm| is_store(harm.class)).peekable();
            harms.peek().is_none() || harms.any(|harm| drive.has_file(harm.file))
        });
        let damaged: BTreeSet<u32> = ledger.log.union(&ledger.store).copied().chain([node]).collect();
        damaged.len() as u32 <= (self.nodes - 1) / 2
    }

    /// Whether the log or the papers of a node were damaged, so that nothing may be demanded of it.
    pub fn has_damaged_log(&self, node: u32) -> bool {
        self.lock().log.contains(&node)
    }

    /// Whether a node has refused its damaged data: it is never started again.
    pub fn is_gone(&self, node: u32) -> bool {
        self.lock().gone.contains(&node)
    }

    /// A node has started. An error if it must not have.
    ///
    /// # Errors
    /// What it did not find.
    pub fn started(&self, node: u32) -> Result<(), String> {
        let ledger = self.lock();
        if !ledger.must_refuse.contains(&node) {
            return Ok(());
        }
        let spots: Vec<_> = ledger.spots.iter().filter(|(of, ..)| *of == node).collect();
        Err(format!("n{node} starts, and has not found the damage at {spots:?}"))
    }

    /// What explains that a node did not start; `None` if nothing does.
    pub fn explain_start(&self, node: u32, error: &StartError, drive: &Drive) -> Option<Fall> {
        let harms = drive.harms();
        let harmed = |path: &Path| harms.iter().any(|harm| harm.path == path);
        let damaged = error.exit_code() == exit_code::DAMAGED;
        let explained = match error {
            StartError::Log(OpenError::Damage { damage, .. }) => {
                let path = Path::new(DATA_DIR).join(segment_name(damage.segment));
                let offset = if damage.kind == DamageKind::NoBase { BLOCK_BYTES } else { damage.offset };
                self.lock().spots.contains(&(node, path, offset))
            }
            StartError::Log(OpenError::Identity { path, .. }) | StartError::Record { path, .. } => harmed(path),
            StartError::Store(StoreError::Damaged { file, .. }) => harmed(file),
            _ => false,
        };
        if damaged && explained {
            let mut ledger = self.lock();
            ledger.gone.insert(node);
            ledger.must_refuse.remove(&node);
            *ledger.counts.entry("damaged nodes that refused to start").or_default() += 1;
            return Some(Fall::Gone);
        }
        self.disk_failed(!damaged && error.exit_code() == exit_code::DISK_FAILED, drive)
    }

    /// What explains that a node stopped by itself; `None` if nothing does.
    pub fn explain_stop(&self, node: u32, error: &StopError, drive: &Drive) -> Option<Fall> {
        let text = error.to_string();
        let named = |harm: &Harm| harm.path.file_name().is_some_and(|name| text.contains(&*name.to_string_lossy()));
        let harms = drive.harms();
        let ledger = self.lock();
        if ledger.log.contains(&node) && harms.iter().any(|harm| harm.class == FileClass::Segment && named(harm)) {
            drop(ledger);
            let mut ledger = self.lock();
            ledger.gone.insert(node);
            *ledger.counts.entry("damaged nodes that stopped").or_default() += 1;
            return Some(Fall::Gone);
        }
        drop(ledger);
        if harms.iter().any(|harm| is_store(harm.class) && named(harm) && drive.has_file(harm.file)) {
            return Some(Fall::StoreDamaged);
        }
        self.disk_failed(matches!(error, StopError::Storage(_)), drive)
    }

    fn disk_failed(&self, says_so: bool, drive: &Drive) -> Option<Fall> {
        let explained = says_so && drive.failures().iter().any(|failure| failure.class.is_vital());
        if explained {
            *self.lock().counts.entry("nodes that stopped because their disk failed").or_default() += 1;
        }
        explained.then_some(Fall::DiskFailed)
    }

    /// What was done and what was not, for statistics.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }
}

fn is_store(class: FileClass) -> bool {
    matches!(class, FileClass::Store | FileClass::Current)
}

fn is_founded(drive: &Drive) -> bool {
    let path = Path::new(DATA_DIR).join(founding::FILE_NAME);
    let record = drive.durable_of(FileClass::Founding).into_iter().find(|(found, _)| *found == path);
    record.is_some_and(|(_, bytes)| FoundingRecord::from_file(&bytes).is_ok_and(|record| record.founded))
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

/// The identity and the founding record, whole.
fn papers(drive: &Drive) -> Vec<Spot> {
    let names = [identity::FILE_NAME, founding::FILE_NAME].map(|name| Path::new(DATA_DIR).join(name));
    let spot = |path: PathBuf| {
        let len = drive.content(&path)?.len() as u64;
        Some(Spot { path, start: 0, covered: len, len })
    };
    names.into_iter().filter_map(spot).filter(|spot| spot.len > 0).collect()
}

/// The blocks of the store that counts, and the file that says so.
fn store_files(drive: &Drive) -> Vec<Spot> {
    let files = [FileClass::Store, FileClass::Current].into_iter().flat_map(|class| drive.durable_of(class));
    let blocks = |(path, bytes): (PathBuf, Vec<u8>)| {
        let len = bytes.len() as u64;
        (0..len.div_ceil(BLOCK_BYTES)).map(move |block| {
            let start = block * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(len - start);
            Spot { path: path.clone(), start, covered: len, len }
        })
    };
    files.flat_map(blocks).collect()
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

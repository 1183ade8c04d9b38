//! What goes wrong with disks beyond crashes, and where crashes are to come: its own stream, its own weights.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::draw::{in_a_burst, weighted};
use super::{Fault, FaultKind, Victim};
use crate::platform::{Act, CRASH_POINTS, CrashPoint, FileClass};
use crate::rng::SplitMix;

/// A fault of a disk, or a crash at a named point of what a disk does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum DiskFault {
    /// The n-th write or sync from now on fails; the node must stop. It is started again after the fault's time.
    Fail {
        /// Whose.
        victim: Victim,
        /// [`Act::Write`] or [`Act::Sync`].
        act: Act,
        /// Of what; `None` if of anything.
        #[serde(default)]
        class: Option<FileClass>,
        /// Which one, from 1.
        nth: u32,
        /// For so long the process that hosts the node goes on after it has stopped, in milliseconds.
        linger_ms: u64,
        /// Whether the power is taken, too. If not, the next process sees what the cache holds.
        power: bool,
    },
    /// There is room for so many bytes more, until the fault ends.
    Full {
        /// Whose.
        victim: Victim,
        /// In KiB.
        room_kib: u64,
        /// Whether the process is killed and started again meanwhile.
        restart: bool,
    },
    /// Everything takes so many times as long, until the fault ends.
    Slow {
        /// Whose.
        victim: Victim,
        /// How many times.
        factor: u64,
    },
    /// Every sync of a class of files takes so much longer, until the fault ends: as if these files had a device, or a
    /// part of one, that is slow.
    SlowSyncs {
        /// Whose.
        victim: Victim,
        /// Of what.
        class: FileClass,
        /// How much longer, in milliseconds.
        ms: u64,
    },
    /// What was durable changes.
    Rot {
        /// Whose.
        victim: Victim,
        /// In what.
        place: Place,
        /// How.
        rot: Rot,
        /// Picks one of the possible places, and an offset in it.
        pick: u64,
        /// Whether the power was taken when it happens to a node that is down.
        power: bool,
    },
    /// Of the n-th sync of a store from now on, a block is lost.
    LoseWrite {
        /// Whose.
        victim: Victim,
        /// Whether it gets to another place instead.
        elsewhere: bool,
        /// Which one, from 1.
        nth: u32,
    },
    /// The node loses its disk and all that was on it, and starts again with an empty one.
    Wipe {
        /// Whose.
        victim: Victim,
    },
    /// The process or the power ends at the n-th time that the disk is there.
    CrashPoint {
        /// Whose.
        victim: Victim,
        /// Where: in a file, its name.
        #[serde(with = "by_name")]
        point: &'static CrashPoint,
        /// Which time, from 1.
        nth: u32,
        /// Whether it is the power.
        power: bool,
    },
}

/// Where something rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In what the log has sealed, while the node is down.
    Log,
    /// The same while it runs.
    RunningLog,
    /// In the identity or the founding record, while it is down.
    Papers,
    /// In the store that counts, or in what says which one does, while the node is down.
    Store,
    /// The same while it runs.
    RunningStore,
}

/// How something rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rot {
    /// A bit turns over.
    Bit,
    /// Three bits turn over.
    Bits,
    /// A sector is zero.
    ZeroSector,
    /// A sector holds something arbitrary.
    NoiseSector,
    /// A whole write is not there: what was there before is.
    LostWrite,
    /// A block overwrites another of the same file and is not where it belongs.
    Misdirected,
}

/// A class of disk faults and how much of a run's may be of it at most, in the order of `draw_kind`. This is the one
/// place that switches classes on and off: 0 is off.
pub(super) const CLASSES: [(&str, u64); 13] = [
    ("failed sync", 10),
    ("failed write", 6),
    ("full disk", 4),
    ("slow disk", 5),
    ("rot in a log", 3),
    ("rot in a running log", 3),
    ("rot in identity or founding record", 1),
    ("rot in a store", 4),
    ("rot in a running store", 4),
    ("lost write", 4),
    ("misdirected write", 4),
    ("crash point", 30),
    ("wipe", 4),
];

/// A class that only incidents have.
pub(super) const SLOW_SYNCS: &str = "slow syncs";

/// Of 1000 runs so many have no fault of a disk but crashes at random instants.
const NONE_PER_MILLE: u32 = 250;

/// Crash points that a node passes only when it is new come at the very beginning in so many of 1000 cases.
const AT_START_PER_MILLE: u32 = 250;

pub(super) fn draw(rng: &mut SplitMix, nodes: u32, heal_ms: u64, bursts_ms: &[u64]) -> Vec<Fault> {
    if rng.chance(NONE_PER_MILLE) {
        return Vec::new();
    }
    let weights: Vec<u64> =
        CLASSES.iter().map(|(_, most)| if rng.chance(500) { rng.below(most + 1) } else { 0 }).collect();
    if weights.iter().all(|weight| *weight == 0) {
        return Vec::new();
    }
    let every_ms = rng.skewed(300, 5_000);
    let for_ms_max = rng.skewed(100, 4_000);
    let (mut at_ms, mut faults) = (rng.between(0, 2_500), Vec::new());
    while at_ms < heal_ms {
        let mut kind = draw_kind(rng, &weights, nodes);
        let away = send_away(rng, &mut kind, nodes, heal_ms, bursts_ms);
        let at_start = matches!(kind, DiskFault::CrashPoint { .. } | DiskFault::Fail { .. });
        let begins = match &away {
            _ if at_start && rng.chance(AT_START_PER_MILLE) => 0,
            // Not what a new node does when it makes its first store.
            Some(away) => away.at_ms,
            None if rng.chance(500) => in_a_burst(rng, bursts_ms),
            None => at_ms,
        };
        let for_ms = match kind {
            // It takes some writes to notice, and a second to recover.
            DiskFault::Full { .. } => rng.between(500, 5_000),
            _ => rng.skewed(5, for_ms_max),
        };
        let for_ms = for_ms.min(heal_ms - begins);
        faults.extend(away);
        faults.push(Fault { at_ms: begins, for_ms, kind: FaultKind::Disk(kind) });
        at_ms += rng.between(1, 2 * every_ms);
    }
    faults
}

fn is_of_an_install(kind: &DiskFault) -> bool {
    matches!(kind, DiskFault::CrashPoint { point, .. } if point.is_of_an_install())
}

/// A node installs a snapshot if it was away for so long that the others have purged what it lacks: without this, few
/// would get to where a fault waits for that.
fn send_away(rng: &mut SplitMix, kind: &mut DiskFault, nodes: u32, heal_ms: u64, bursts_ms: &[u64]) -> Option<Fault> {
    if !is_of_an_install(kind) {
        return None;
    }
    let victim = Victim::Node(1 + rng.below(u64::from(nodes)) as u32);
    if let DiskFault::CrashPoint { victim: whose, nth, point, .. } = kind {
        // Its start is the first to get there.
        (*whose, *nth) = (victim, if point.is_of_every_start() { 2 } else { 1 });
    }
    let begins = bursts_ms[rng.below(bursts_ms.len() as u64) as usize].saturating_sub(rng.below(200));
    let for_ms = rng.between(1_500, 6_000).min((heal_ms - begins).saturating_sub(500));
    Some(Fault { at_ms: begins, for_ms, kind: FaultKind::Kill(victim) })
}

fn draw_kind(rng: &mut SplitMix, weights: &[u64], nodes: u32) -> DiskFault {
    let class = weighted(rng, weights);
    let node = Victim::Node(1 + rng.below(u64::from(nodes)) as u32);
    let victim = if rng.chance(300) { Victim::Leader } else { node };
    match class {
        0 | 1 => DiskFault::Fail {
            victim,
            act: if class == 0 { Act::Sync } else { Act::Write },
            class: [None, Some(FileClass::Segment), Some(FileClass::Segment), Some(FileClass::Store)]
                [rng.below(4) as usize],
            nth: rng.skewed(1, 30) as u32,
            linger_ms: if rng.chance(700) { 0 } else { rng.below(500) },
            power: rng.chance(400),
        },
        2 => DiskFault::Full { victim, room_kib: rng.skewed(0, 500), restart: rng.chance(400) },
        3 => DiskFault::Slow { victim, factor: rng.between(3, 40) },
        4 => draw_rot(rng, victim, Place::Log),
        5 => draw_rot(rng, victim, Place::RunningLog),
        6 => draw_rot(rng, victim, Place::Papers),
        7 => draw_rot(rng, victim, Place::Store),
        8 => draw_rot(rng, victim, Place::RunningStore),
        9 | 10 => DiskFault::LoseWrite { victim, elsewhere: class == 10, nth: rng.skewed(1, 8) as u32 },
        12 => DiskFault::Wipe { victim },
        _ => DiskFault::CrashPoint {
            victim,
            point: &CRASH_POINTS[rng.below(CRASH_POINTS.len() as u64) as usize],
            nth: rng.skewed(1, 6) as u32,
            power: rng.chance(600),
        },
    }
}

fn draw_rot(rng: &mut SplitMix, victim: Victim, place: Place) -> DiskFault {
    let rot = [Rot::Bit, Rot::Bits, Rot::ZeroSector, Rot::NoiseSector, Rot::LostWrite, Rot::Misdirected]
        [rng.below(6) as usize];
    DiskFault::Rot { victim, place, rot, pick: rng.next(), power: rng.chance(500) }
}

/// A crash point in a file.
mod by_name {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::platform::{CRASH_POINTS, CrashPoint};

    pub(super) fn serialize<S: Serializer>(point: &&'static CrashPoint, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(point.name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static CrashPoint, D::Error> {
        let name = String::deserialize(deserializer)?;
        CRASH_POINTS.iter().find(|point| point.name == name).ok_or_else(|| {
            let names = CRASH_POINTS.iter().map(|point| format!("{:?}", point.name)).collect::<Vec<_>>().join(", ");
            serde::de::Error::custom(format!("there is no crash point {name:?}; there are {names}"))
        })
    }
}

impl DiskFault {
    /// Whom it befalls.
    pub fn victim(&self) -> Victim {
        match self {
            Self::Fail { victim, .. }
            | Self::Full { victim, .. }
            | Self::Slow { victim, .. }
            | Self::SlowSyncs { victim, .. }
            | Self::Rot { victim, .. }
            | Self::LoseWrite { victim, .. }
            | Self::Wipe { victim }
            | Self::CrashPoint { victim, .. } => *victim,
        }
    }

    pub(super) fn class(&self) -> &'static str {
        let at = match self {
            Self::Fail { act: Act::Sync, .. } => 0,
            Self::Fail { .. } => 1,
            Self::Full { .. } => 2,
            Self::Slow { .. } => 3,
            Self::Rot { place: Place::Log, .. } => 4,
            Self::Rot { place: Place::RunningLog, .. } => 5,
            Self::Rot { place: Place::Papers, .. } => 6,
            Self::Rot { place: Place::Store, .. } => 7,
            Self::Rot { place: Place::RunningStore, .. } => 8,
            Self::LoseWrite { elsewhere: false, .. } => 9,
            Self::LoseWrite { .. } => 10,
            Self::CrashPoint { .. } => 11,
            Self::Wipe { .. } => 12,
            Self::SlowSyncs { .. } => return SLOW_SYNCS,
        };
        CLASSES[at].0
    }
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crash = |power: &bool| if *power { "power loss" } else { "kill" };
        match self {
            Self::Fail { victim, act, class, nth, linger_ms, power } => {
                let what = class.map_or("anything".to_owned(), |class| format!("{class:?}"));
                let then = crash(power);
                write!(f, "fail {act:?} {nth} of {what} at {victim}, {linger_ms} ms later a {then}")
            }
            Self::Full { victim, room_kib, restart } => {
                write!(f, "disk of {victim} full but for {room_kib} KiB{}", if *restart { ", restarted" } else { "" })
            }
            Self::Slow { victim, factor } => write!(f, "disk of {victim} takes {factor} times as long"),
            Self::SlowSyncs { victim, class, ms } => write!(f, "syncs of {class:?} at {victim} take {ms} ms longer"),
            Self::Rot { victim, place, rot, pick, power } => {
                write!(f, "{rot:?} in {place:?} of {victim}, pick {pick:016x}")?;
                match place {
                    Place::RunningLog | Place::RunningStore => Ok(()),
                    _ => write!(f, ", behind a {}", crash(power)),
                }
            }
            Self::LoseWrite { victim, elsewhere, nth } => {
                let what = if *elsewhere { "misdirect" } else { "lose" };
                write!(f, "{what} a block of sync {nth} of the store of {victim}")
            }
            Self::Wipe { victim } => write!(f, "{victim} loses its disk"),
            Self::CrashPoint { victim, point, nth, power } => {
                write!(f, "{} at {victim} {}, time {nth}", crash(power), point.name)
            }
        }
    }
}

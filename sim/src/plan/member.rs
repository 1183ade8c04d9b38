//! What operators do to nodes and to the membership: its own stream, its own weights.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::draw::{in_a_burst, weighted};
use super::{DiskFault, Fault, FaultKind, Setup, Victim};
use crate::rng::SplitMix;

/// Something that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberFault {
    /// The process is asked to stop, and started again when the fault ends.
    Restart(Victim),
    /// The member is taken out; when the fault ends, its machine joins again with an empty disk.
    Remove(Victim),
    /// If the node has lost what it kept, or its data is damaged for good, or it never took part: its member is taken out,
    /// and its machine joins with an empty disk.
    Replace(u32),
    /// The node is asked to lead.
    Transfer(u32),
    /// The process is killed, and started again under another address when the fault ends. From then on whoever starts is
    /// told of it.
    Move(Victim),
    /// The same of everybody at once.
    MoveAll,
}

/// The classes, in the order of `draw_kind`.
pub(super) const CLASSES: [&str; 6] =
    ["orderly restart", "removal", "replacement", "leadership transfer", "new address", "new addresses of all"];

/// Of 1000 runs so many have operators at work.
const PER_MILLE: u32 = 250;
/// Of 1000 runs so many keep everything in memory.
const MEMORY_PER_MILLE: u32 = 100;
/// Of 1000 runs so many end with everything that is lost being replaced.
const REPAIRS_PER_MILLE: u32 = 500;

impl MemberFault {
    pub(super) fn class(self) -> &'static str {
        CLASSES[match self {
            Self::Restart(_) => 0,
            Self::Remove(_) => 1,
            Self::Replace(_) => 2,
            Self::Transfer(_) => 3,
            Self::Move(_) => 4,
            Self::MoveAll => 5,
        }]
    }

    /// Whom it befalls, unless that is everybody.
    pub(super) fn victim(self) -> Option<Victim> {
        match self {
            Self::Restart(victim) | Self::Remove(victim) | Self::Move(victim) => Some(victim),
            Self::Replace(node) | Self::Transfer(node) => Some(Victim::Node(node)),
            Self::MoveAll => None,
        }
    }
}

impl fmt::Display for MemberFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart(victim) => write!(f, "restart {victim} in good order"),
            Self::Remove(victim) => write!(f, "remove {victim} from the cluster"),
            Self::Replace(node) => write!(f, "replace n{node} if it is lost"),
            Self::Transfer(node) => write!(f, "have n{node} lead"),
            Self::Move(victim) => write!(f, "{victim} gets another address"),
            Self::MoveAll => f.write_str("everybody gets another address"),
        }
    }
}

/// What is drawn for a run.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    pub(super) faults: Vec<Fault>,
    /// Machines that are no founders.
    pub(super) spares: u32,
}

/// Whether the run is to keep everything in memory.
pub(super) fn draw_memory(rng: &mut SplitMix) -> bool {
    rng.chance(MEMORY_PER_MILLE)
}

/// Draws what operators do.
pub(super) fn draw(rng: &mut SplitMix, nodes: u32, heal_ms: u64, bursts_ms: &[u64], setup: &mut Setup) -> Drawn {
    setup.repairs = rng.chance(REPAIRS_PER_MILLE);
    if !rng.chance(PER_MILLE) {
        return Drawn::default();
    }
    let spares = if rng.chance(500) { rng.between(1, 2) as u32 } else { 0 };
    let weights: Vec<u64> = [6, 6, 8, 3, 3, 1].map(|most| if rng.chance(600) { rng.below(most + 1) } else { 0 }).into();
    let weights = if weights.iter().all(|weight| *weight == 0) { vec![0, 1, 1, 0, 0, 0] } else { weights };
    let every_ms = rng.skewed(300, 3_000);
    let for_ms_max = rng.skewed(100, 4_000);
    let (mut at_ms, mut faults) = (rng.between(800, 2_500), Vec::new());
    while at_ms < heal_ms {
        let kind = draw_kind(rng, &weights, nodes, nodes + spares);
        let begins = if rng.chance(400) { in_a_burst(rng, bursts_ms) } else { at_ms };
        let for_ms = rng.skewed(5, for_ms_max).min(heal_ms - begins);
        if let MemberFault::Replace(node) = kind
            && node <= nodes
            && !setup.memory
            && rng.chance(700)
        {
            let kind = FaultKind::Disk(DiskFault::Wipe { victim: Victim::Node(node) });
            let sooner = begins.saturating_sub(rng.skewed(1, 2_000)).max(1);
            faults.push(Fault { at_ms: sooner, for_ms: for_ms.min(begins - sooner), kind });
        }
        faults.push(Fault { at_ms: begins, for_ms, kind: FaultKind::Member(kind) });
        at_ms += rng.between(1, 2 * every_ms);
    }
    Drawn { faults, spares }
}

fn draw_kind(rng: &mut SplitMix, weights: &[u64], nodes: u32, machines: u32) -> MemberFault {
    let class = weighted(rng, weights);
    let node = 1 + rng.below(u64::from(nodes)) as u32;
    let machine = 1 + rng.below(u64::from(machines)) as u32;
    let victim = if rng.chance(350) { Victim::Leader } else { Victim::Node(machine) };
    match class {
        0 => MemberFault::Restart(victim),
        1 => MemberFault::Remove(victim),
        // Spares take part only by this.
        2 if machines > nodes && rng.chance(400) => MemberFault::Replace(machine.max(nodes + 1)),
        2 => MemberFault::Replace(node),
        3 => MemberFault::Transfer(machine),
        4 => MemberFault::Move(victim),
        _ => MemberFault::MoveAll,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_class_is_drawn_and_spares_join() {
        let (mut classes, mut joined) = (BTreeMap::new(), 0);
        let mut rng = SplitMix::new(1);
        for spares in (0..3).cycle().take(3_000) {
            let kind = draw_kind(&mut rng, &[1; CLASSES.len()], 3, 3 + spares);
            *classes.entry(kind.class()).or_insert(0) += 1;
            joined += u32::from(FaultKind::Member(kind).nodes().iter().any(|node| *node > 3));
        }
        assert_eq!(classes.len(), CLASSES.len(), "{classes:?}");
        assert!(classes.values().all(|count| *count > 300) && joined > 300, "{classes:?} {joined}");
    }
}

//! What a run does, as data: drawn from a seed, printed, then run.
//!
//! Every concern draws from a stream of its own, so that a change to one leaves the others as they were. Weights are
//! drawn too (swarm testing, Groce et al., ISSTA 2012): a class of faults may be absent from a run altogether, which
//! lets the others reach states that a mixture of everything never would.

mod disk;

use std::fmt;

pub use disk::{DiskFault, Place, Rot};

use crate::rng::SplitMix;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed it was drawn from; also of everything that is random while it runs.
    pub seed: u64,
    /// How many nodes found the cluster.
    pub nodes: u32,
    /// How the nodes are set up.
    pub setup: Setup,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong, in the order of time.
    pub faults: Vec<Fault>,
    /// When the faults end and everything heals, in milliseconds.
    pub heal_ms: u64,
    /// Node 1 applies some commands twice: a bug on purpose, to see that it is found. Never drawn.
    pub canary: bool,
}

/// Settings of the nodes that the simulator varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// A snapshot after so many entries.
    pub snapshot_every_entries: u64,
    /// Entries that stay in the log below it.
    pub keep_entries: u64,
    /// Segment length, in KiB.
    pub segment_kib: u64,
    /// Entries that stay in memory, in bytes.
    pub cache_bytes: usize,
    /// What redb keeps of the store in memory, in bytes.
    pub store_cache_bytes: usize,
    /// One way over a link takes at least this, in microseconds.
    pub latency_us: u64,
    /// Milliseconds between heartbeats; election timeouts are five to ten times that.
    pub heartbeat_ms: u64,
    /// A sync takes at most about this, in microseconds.
    pub sync_us_max: u64,
    /// A write, and what a sync has to write, take so long for each KiB, in microseconds.
    pub us_per_kib: u64,
    /// How many of 1000 syncs stall, for up to 200 ms.
    pub sync_stall_per_mille: u32,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Sequential clients.
    pub clients: u32,
    /// Distinct keys.
    pub keys: u32,
    /// When all clients begin to work, in milliseconds; between these bursts they rest.
    pub bursts_ms: Vec<u64>,
    /// Operations of a client in a burst.
    pub burst_ops: u32,
    /// Longest pause between two operations of a burst, in milliseconds.
    pub pause_ms_max: u64,
    /// Of 1000 operations so many are reads.
    pub read_per_mille: u32,
    /// Of 1000 reads so many may be stale.
    pub stale_per_mille: u32,
    /// Of 1000 writes so many are deletes.
    pub delete_per_mille: u32,
    /// Bytes that pad each value.
    pub padding_bytes: usize,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, in milliseconds.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    pub for_ms: u64,
    /// What it is.
    pub kind: FaultKind,
}

/// Whom a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// This node, from 1.
    Node(u32),
    /// Whoever leads when it happens; node 1 if nobody does.
    Leader,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// These nodes and the others cannot reach each other.
    Partition(Vec<u32>),
    /// The leader cannot reach the others, nor they it.
    IsolateLeader,
    /// Nothing gets from the first to the second; the other way is open.
    OneWay(u32, u32),
    /// Nothing gets out of the leader, but it hears the others (`true`), or the other way round (`false`).
    LeaderHalfDeaf(bool),
    /// Nothing gets between two nodes.
    Link(u32, u32),
    /// Bytes between two nodes stand still and arrive when it ends.
    Stall(u32, u32),
    /// All links take so many milliseconds.
    Latency(u64),
    /// The connections between two nodes are reset, possibly in the middle of a frame.
    Reset(u32, u32),
    /// `kill -9`; the process starts again when it ends.
    Kill(Victim),
    /// The power fails; unsynced writes are lost in part. The process starts again when it ends.
    PowerLoss(Victim),
    /// The power fails at these nodes, a majority, at one instant.
    PowerLossMajority(Vec<u32>),
    /// The power fails everywhere.
    PowerLossAll,
    /// `kill -9` everywhere.
    KillAll,
    /// The process stands still.
    Pause(Victim),
    /// The disk stands still.
    DiskStall(Victim),
    /// Something else that disks do.
    Disk(DiskFault),
}

impl FaultKind {
    /// Its class, for statistics and weights.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Partition(_) => "partition",
            Self::IsolateLeader => "isolate leader",
            Self::OneWay(..) => "one-way link",
            Self::LeaderHalfDeaf(_) => "leader half deaf",
            Self::Link(..) => "link",
            Self::Stall(..) => "stall",
            Self::Latency(_) => "latency",
            Self::Reset(..) => "reset",
            Self::Kill(Victim::Leader) => "kill leader",
            Self::Kill(_) => "kill",
            Self::PowerLoss(Victim::Leader) => "power loss of leader",
            Self::PowerLoss(_) => "power loss",
            Self::PowerLossMajority(_) => "power loss of majority",
            Self::PowerLossAll => "power loss of all",
            Self::KillAll => "kill all",
            Self::Pause(Victim::Leader) => "pause leader",
            Self::Pause(_) => "pause",
            Self::DiskStall(_) => "disk stall",
            Self::Disk(fault) => fault.class(),
        }
    }
}

/// The classes a run may have, as the drawing sees them.
const CLASSES: u64 = 18;

/// Every class of faults that some run has.
pub fn fault_classes() -> Vec<&'static str> {
    let mut classes = vec![
        "partition",
        "isolate leader",
        "one-way link",
        "leader half deaf",
        "link",
        "stall",
        "latency",
        "reset",
        "kill",
        "kill leader",
        "power loss",
        "power loss of leader",
        "power loss of majority",
        "power loss of all",
        "kill all",
        "pause",
        "pause leader",
        "disk stall",
    ];
    classes.extend(disk::CLASSES.iter().filter(|(_, most)| *most > 0).map(|(class, _)| *class));
    classes
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64) -> Self {
        let mut shape = SplitMix::labelled(seed, "shape");
        let nodes = if shape.chance(600) { 3 } else { 5 };
        let heal_ms = shape.between(5_000, 15_000);
        let workload = Workload::draw(&mut SplitMix::labelled(seed, "workload"), heal_ms);
        let mut faults = draw_faults(&mut SplitMix::labelled(seed, "faults"), nodes, heal_ms, &workload.bursts_ms);
        faults.extend(disk::draw(&mut SplitMix::labelled(seed, "disk faults"), nodes, heal_ms, &workload.bursts_ms));
        faults.sort_by_key(|fault| fault.at_ms);
        Self {
            seed,
            nodes,
            setup: Setup::draw(&mut SplitMix::labelled(seed, "setup")),
            faults,
            workload,
            heal_ms,
            canary: false,
        }
    }
}

impl Setup {
    fn draw(rng: &mut SplitMix) -> Self {
        let often = rng.chance(600);
        Self {
            snapshot_every_entries: if often { rng.between(3, 40) } else { rng.between(200, 2_000) },
            keep_entries: if often { rng.below(8) } else { rng.below(200) },
            segment_kib: [32, 32, 32, 64, 64, 64, 128, 256][rng.below(8) as usize],
            cache_bytes: if rng.chance(500) { 1 << 20 } else { rng.below(8_000) as usize },
            latency_us: rng.skewed(50, 5_000),
            heartbeat_ms: if rng.chance(400) { 50 } else { rng.between(50, 150) },
            sync_us_max: [(200, 2_000), (2_000, 20_000), (20_000, 50_000)].map(|(low, high)| rng.between(low, high))
                [[0, 0, 1, 1, 2][rng.below(5) as usize]],
            us_per_kib: if rng.chance(400) { 0 } else { rng.between(5, 300) },
            sync_stall_per_mille: if rng.chance(300) { rng.between(1, 30) as u32 } else { 0 },
            store_cache_bytes: if rng.chance(600) { rng.below(32 << 10) as usize } else { 1 << 20 },
        }
    }
}

impl Workload {
    fn draw(rng: &mut SplitMix, heal_ms: u64) -> Self {
        let clients = rng.between(2, 10);
        let mut bursts_ms: Vec<u64> = (0..rng.between(2, 10)).map(|_| rng.between(500, heal_ms - 200)).collect();
        bursts_ms.sort_unstable();
        let operations = rng.between(60, 300);
        Self {
            clients: clients as u32,
            keys: rng.between(1, 8) as u32,
            burst_ops: (operations / (clients * bursts_ms.len() as u64)).max(1) as u32,
            bursts_ms,
            pause_ms_max: if rng.chance(500) { 0 } else { rng.skewed(1, 400) },
            read_per_mille: rng.between(100, 700) as u32,
            stale_per_mille: if rng.chance(500) { 200 } else { 0 },
            delete_per_mille: rng.between(0, 300) as u32,
            padding_bytes: if rng.chance(400) { rng.skewed(200, 16_000) as usize } else { 0 },
        }
    }
}

/// How long after the beginning of a burst a fault that goes for it comes, in milliseconds.
const IN_BURST_MS: u64 = 120;

/// Half of the faults come when clients are busy: what they break is under way then.
fn draw_faults(rng: &mut SplitMix, nodes: u32, heal_ms: u64, bursts_ms: &[u64]) -> Vec<Fault> {
    let mut weights: Vec<u64> = (0..CLASSES).map(|_| if rng.chance(450) { rng.between(1, 10) } else { 0 }).collect();
    if weights.iter().all(|w| *w == 0) {
        weights[10] = 1;
    }
    let every_ms = rng.skewed(100, 3_000);
    let for_ms_max = if rng.chance(300) { rng.between(2_000, 6_000) } else { rng.skewed(50, 4_000) };
    let (mut at_ms, mut faults) = (rng.between(100, 2_500), Vec::new());
    while at_ms < heal_ms {
        let kind = draw_kind(rng, &weights, nodes);
        let begins = match rng.chance(500) {
            true => bursts_ms[rng.below(bursts_ms.len() as u64) as usize] + rng.skewed(1, IN_BURST_MS),
            false => at_ms,
        };
        let for_ms = rng.skewed(5, for_ms_max).min(heal_ms - begins);
        faults.push(Fault { at_ms: begins, for_ms, kind });
        at_ms += rng.between(1, 2 * every_ms);
    }
    faults
}

/// Draws an index by weight; the weights are not all 0.
fn weighted(rng: &mut SplitMix, weights: &[u64]) -> usize {
    let mut ticket = rng.below(weights.iter().sum());
    let drawn = weights.iter().position(|&weight| {
        let here = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        here
    });
    drawn.unwrap_or(0)
}

fn draw_kind(rng: &mut SplitMix, weights: &[u64], nodes: u32) -> FaultKind {
    let class = weighted(rng, weights);
    let node = 1 + rng.below(u64::from(nodes)) as u32;
    let other = 1 + (node + rng.below(u64::from(nodes) - 1) as u32) % nodes;
    match class {
        0 => FaultKind::Partition(some_nodes(rng, nodes, (nodes - 1) / 2)),
        1 => FaultKind::Partition(some_nodes(rng, nodes, nodes / 2 + 1)),
        2 => FaultKind::IsolateLeader,
        3 => FaultKind::OneWay(node, other),
        4 => FaultKind::LeaderHalfDeaf(rng.chance(500)),
        5 => FaultKind::Link(node, other),
        6 => FaultKind::Stall(node, other),
        7 => FaultKind::Latency(rng.skewed(5, 400)),
        8 => FaultKind::Reset(node, other),
        9 => FaultKind::Kill(Victim::Node(node)),
        10 => FaultKind::Kill(Victim::Leader),
        11 => FaultKind::PowerLoss(Victim::Node(node)),
        12 => FaultKind::PowerLoss(Victim::Leader),
        13 => FaultKind::PowerLossAll,
        14 => FaultKind::KillAll,
        15 => FaultKind::PowerLossMajority(some_nodes(rng, nodes, nodes / 2 + 1)),
        16 => FaultKind::Pause(if rng.chance(500) { Victim::Leader } else { Victim::Node(node) }),
        _ => FaultKind::DiskStall(if rng.chance(500) { Victim::Leader } else { Victim::Node(node) }),
    }
}

fn some_nodes(rng: &mut SplitMix, nodes: u32, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (1..=nodes).collect();
    while all.len() > count as usize {
        all.remove(rng.below(all.len() as u64) as usize);
    }
    all
}

fn names(nodes: &[u32]) -> String {
    nodes.iter().map(|n| format!("n{n}")).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{node}"),
            Self::Leader => f.write_str("the leader"),
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(side) => write!(f, "partition {} from the others", names(side)),
            Self::IsolateLeader => f.write_str("isolate the leader"),
            Self::OneWay(from, to) => write!(f, "block n{from} -> n{to}"),
            Self::LeaderHalfDeaf(true) => f.write_str("block everything from the leader"),
            Self::LeaderHalfDeaf(false) => f.write_str("block everything to the leader"),
            Self::Link(a, b) => write!(f, "block n{a} <-> n{b}"),
            Self::Stall(a, b) => write!(f, "stall n{a} <-> n{b}"),
            Self::Latency(ms) => write!(f, "latency {ms} ms"),
            Self::Reset(a, b) => write!(f, "reset n{a} <-> n{b}"),
            Self::Kill(victim) => write!(f, "kill {victim}"),
            Self::PowerLoss(victim) => write!(f, "power loss at {victim}"),
            Self::PowerLossMajority(nodes) => write!(f, "power loss at {}", names(nodes)),
            Self::PowerLossAll => f.write_str("power loss everywhere"),
            Self::KillAll => f.write_str("kill everybody"),
            Self::Pause(victim) => write!(f, "pause {victim}"),
            Self::DiskStall(victim) => write!(f, "disk of {victim} stands still"),
            Self::Disk(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} nodes, heals at {} ms", self.seed, self.nodes, self.heal_ms)?;
        if self.canary {
            writeln!(f, "  a bug on purpose: n1 applies some commands twice")?;
        }
        writeln!(f, "  {:?}", self.setup)?;
        writeln!(f, "  {:?}", self.workload)?;
        for fault in &self.faults {
            writeln!(f, "  at {:>6} ms for {:>5} ms: {}", fault.at_ms, fault.for_ms, fault.kind)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_one_plan_and_seeds_differ() {
        assert_eq!(Plan::draw(7), Plan::draw(7));
        let distinct: BTreeSet<String> = (0..100).map(|seed| Plan::draw(seed).to_string()).collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn some_seed_draws_each_class_and_some_seed_lacks_it() {
        let plans: Vec<Plan> = (0..300).map(Plan::draw).collect();
        let classes: BTreeSet<&str> = plans.iter().flat_map(|p| &p.faults).map(|f| f.kind.class()).collect();
        assert_eq!(classes, fault_classes().into_iter().collect(), "switched off means absent");
        for class in classes {
            let lacks = |plan: &&Plan| plan.faults.iter().all(|f| f.kind.class() != class);
            assert!(plans.iter().filter(lacks).count() > 20, "{class} is nearly everywhere");
        }
    }

    #[test]
    fn faults_name_nodes_that_exist_and_end_before_the_healing() {
        for plan in (0..300).map(Plan::draw) {
            for fault in &plan.faults {
                assert!(fault.at_ms + fault.for_ms <= plan.heal_ms);
                let named = match &fault.kind {
                    FaultKind::Partition(nodes) | FaultKind::PowerLossMajority(nodes) => nodes.clone(),
                    FaultKind::OneWay(a, b)
                    | FaultKind::Link(a, b)
                    | FaultKind::Stall(a, b)
                    | FaultKind::Reset(a, b) => {
                        assert_ne!(a, b);
                        vec![*a, *b]
                    }
                    _ => vec![],
                };
                assert!(named.iter().all(|n| (1..=plan.nodes).contains(n)), "{fault:?}");
            }
        }
    }
}

//! What a run does, as data: drawn from a seed or read from a file, printed, then run.
//!
//! Every concern draws from a stream of its own, so that a change to one leaves the others as they were. Weights are
//! drawn too (swarm testing, Groce et al., ISSTA 2012): a class of faults may be absent from a run altogether, which
//! lets the others reach states that a mixture of everything never would.

mod check;
mod clock;
mod connection;
mod core;
mod disk;
mod draw;
mod incident;
mod member;
mod strategy;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use clock::Clock;
pub use core::{Ailment, Core};
pub use disk::{DiskFault, Place, Rot};
pub use member::MemberFault;
pub use strategy::{PlanTree, Plans, plans};
pub use text::PlanError;

/// A whole run. [`Plan::to_text`] and [`Plan::parse`] say what it looks like in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The seed it was drawn from; also of everything that is random while it runs.
    pub seed: u64,
    /// How many nodes found the cluster.
    pub nodes: u32,
    /// How many machines more there are, which take part only if an operator has them join.
    #[serde(default, skip_serializing_if = "is_none")]
    pub spares: u32,
    /// When the faults end and everything heals, in milliseconds.
    pub heal_ms: u64,
    /// Node 1 applies some commands twice: a bug on purpose, to see that it is found. Never drawn.
    #[serde(default, skip_serializing_if = "is_false")]
    pub canary: bool,
    /// How the nodes are set up.
    #[serde(default)]
    pub setup: Setup,
    /// What clients do.
    #[serde(default)]
    pub workload: Workload,
    /// What goes wrong, in the order of time.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Who must serve alone before everything heals.
    #[serde(default, skip_serializing_if = "Core::is_empty")]
    pub core: Core,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Settings of the nodes that the simulator varies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// The nodes' clocks, from node 1; one that is not listed is exact.
    pub clocks: Vec<Clock>,
    /// Nodes keep everything in memory: one whose process ends has lost it all.
    pub memory: bool,
    /// When everything has healed, operators replace what is lost, and demand that it serves.
    pub repairs: bool,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// In so many of 1000 operations the client crashes: it never learns what came of it, and another one goes on.
    pub crash_per_mille: u32,
    /// Of 1000 writes of unknown outcome so many are tried once more, as a new operation with a new value.
    pub retry_per_mille: u32,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, in milliseconds.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    #[serde(default)]
    pub for_ms: u64,
    /// What it is.
    pub kind: FaultKind,
}

/// Whom a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Victim {
    /// This node, from 1.
    Node(u32),
    /// Whoever leads when it happens; node 1 if nobody does.
    Leader,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The same between a node and all others. Several of them that begin and end in different orders are FoundationDB's
    /// swizzled clogs (Will Wilson, "Testing Distributed Systems with Deterministic Simulation", Strange Loop 2014).
    Clog(u32),
    /// All links take so many milliseconds.
    Latency(u64),
    /// The connections between two nodes are reset, possibly in the middle of a frame.
    Reset(u32, u32),
    /// A firewall forgets the connections between two nodes: for ever they carry nothing, and neither end is told. New
    /// ones work.
    HalfOpen(u32, u32),
    /// New connections between two nodes hang; those that there are work.
    ConnectHang(u32, u32),
    /// What the first sends to the second on the connections that there are stands still. After half of the time the
    /// first is told that they are broken, and connects anew; when it ends the old bytes arrive.
    LateBytes(u32, u32),
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
    /// The clock jumps forward by so many milliseconds.
    ClockStep(Victim, u64),
    /// The clock is fast by so many parts in a million, or slow if that is negative, until it ends.
    ClockDrift(Victim, i64),
    /// Something else that disks do.
    Disk(DiskFault),
    /// Something that an operator does.
    Member(MemberFault),
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
            Self::Clog(_) => "swizzled clog",
            Self::Reset(..) => "reset",
            Self::HalfOpen(..) => "forgotten connections",
            Self::ConnectHang(..) => "hanging connects",
            Self::LateBytes(..) => "late bytes",
            Self::ClockStep(..) => "clock step",
            Self::ClockDrift(..) => "clock drift",
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
            Self::Member(fault) => fault.class(),
        }
    }

    /// Whom it befalls; nobody in particular if that is everybody.
    pub fn victims(&self) -> Vec<Victim> {
        match self {
            Self::Partition(nodes) | Self::PowerLossMajority(nodes) => {
                nodes.iter().map(|node| Victim::Node(*node)).collect()
            }
            Self::OneWay(a, b)
            | Self::Link(a, b)
            | Self::Stall(a, b)
            | Self::Reset(a, b)
            | Self::HalfOpen(a, b)
            | Self::ConnectHang(a, b)
            | Self::LateBytes(a, b) => vec![Victim::Node(*a), Victim::Node(*b)],
            Self::Clog(node) => vec![Victim::Node(*node)],
            Self::Kill(victim)
            | Self::PowerLoss(victim)
            | Self::Pause(victim)
            | Self::DiskStall(victim)
            | Self::ClockStep(victim, _)
            | Self::ClockDrift(victim, _) => vec![*victim],
            Self::Disk(fault) => vec![fault.victim()],
            Self::Member(fault) => fault.victim().into_iter().collect(),
            Self::IsolateLeader | Self::LeaderHalfDeaf(_) => vec![Victim::Leader],
            Self::Latency(_) | Self::PowerLossAll | Self::KillAll => vec![],
        }
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<u32> {
        let named = |victim: Victim| match victim {
            Victim::Node(node) => Some(node),
            Victim::Leader => None,
        };
        self.victims().into_iter().filter_map(named).collect()
    }
}

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
    classes.extend(clock::CLASSES);
    classes.extend(connection::CLASSES);
    classes.extend(member::CLASSES);
    classes.extend(disk::CLASSES.iter().filter(|(_, most)| *most > 0).map(|(class, _)| *class));
    classes.push(disk::SLOW_SYNCS);
    classes
}

impl Plan {
    /// How many machines there are.
    pub fn machines(&self) -> u32 {
        self.nodes + self.spares
    }

    /// Whether some clock is not exact at some time.
    pub fn has_clocks(&self) -> bool {
        let is_clocks = |fault: &Fault| matches!(fault.kind, FaultKind::ClockStep(..) | FaultKind::ClockDrift(..));
        !self.setup.clocks.is_empty() || self.faults.iter().any(is_clocks)
    }

    /// The longest stretch before the healing in which nothing is wrong, in milliseconds.
    pub fn quiet_ms(&self) -> u64 {
        let (mut longest, mut over) = (0, 0);
        for fault in &self.faults {
            longest = longest.max(fault.at_ms.saturating_sub(over));
            over = over.max(fault.at_ms + fault.for_ms);
        }
        longest.max(self.heal_ms.saturating_sub(over))
    }
}

/// What a file that does not say otherwise gets, and what a shrunk plan tends to: nothing happens too often, nothing
/// takes long.
impl Default for Setup {
    fn default() -> Self {
        Self {
            snapshot_every_entries: 1_000,
            keep_entries: 100,
            segment_kib: 128,
            cache_bytes: 1 << 20,
            store_cache_bytes: 1 << 20,
            latency_us: 100,
            heartbeat_ms: 50,
            sync_us_max: 1_000,
            us_per_kib: 0,
            sync_stall_per_mille: 0,
            clocks: vec![],
            memory: false,
            repairs: false,
        }
    }
}

/// One burst of a few clients.
impl Default for Workload {
    fn default() -> Self {
        Self {
            clients: 3,
            keys: 4,
            bursts_ms: vec![1_000],
            burst_ops: 10,
            pause_ms_max: 5,
            read_per_mille: 400,
            stale_per_mille: 0,
            delete_per_mille: 100,
            padding_bytes: 0,
            crash_per_mille: 0,
            retry_per_mille: 0,
        }
    }
}

impl Workload {
    /// How many operations all clients together may get to.
    pub fn operations(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.burst_ops) * self.bursts_ms.len() as u64
    }
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
            Self::Clog(node) => write!(f, "stall everything from and to n{node}"),
            Self::Reset(a, b) => write!(f, "reset n{a} <-> n{b}"),
            Self::HalfOpen(a, b) => write!(f, "forget the connections n{a} <-> n{b}"),
            Self::ConnectHang(a, b) => write!(f, "new connections n{a} <-> n{b} hang"),
            Self::LateBytes(a, b) => write!(f, "break the connections n{a} -> n{b}, their bytes arrive late"),
            Self::ClockStep(victim, ms) => write!(f, "clock of {victim} jumps by {ms} ms"),
            Self::ClockDrift(victim, ppm) => write!(f, "clock of {victim} drifts by {ppm} ppm"),
            Self::Kill(victim) => write!(f, "kill {victim}"),
            Self::PowerLoss(victim) => write!(f, "power loss at {victim}"),
            Self::PowerLossMajority(nodes) => write!(f, "power loss at {}", names(nodes)),
            Self::PowerLossAll => f.write_str("power loss everywhere"),
            Self::KillAll => f.write_str("kill everybody"),
            Self::Pause(victim) => write!(f, "pause {victim}"),
            Self::DiskStall(victim) => write!(f, "disk of {victim} stands still"),
            Self::Disk(fault) => fault.fmt(f),
            Self::Member(fault) => fault.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::draw::keep_quiet;
    use super::*;
    use crate::rng::SplitMix;

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
        for (what, has) in [
            ("clocks that are not exact", (|plan| !plan.setup.clocks.is_empty()) as fn(&Plan) -> bool),
            ("clients that crash", |plan| plan.workload.crash_per_mille > 0),
            ("clients that try again", |plan| plan.workload.retry_per_mille > 0),
            ("a quiet second", |plan| plan.quiet_ms() > 1_000),
        ] {
            let count = plans.iter().filter(|plan| has(plan)).count();
            assert!((50..290).contains(&count), "{what}: {count} of 300");
        }
    }

    #[test]
    fn a_quiet_stretch_has_no_fault() {
        let kill = |at_ms, for_ms| Fault { at_ms, for_ms, kind: FaultKind::KillAll };
        let mut kept = 0;
        for seed in 0..200 {
            let faults: Vec<Fault> = (0..100).map(|n| kill(n * 100, 250)).collect();
            let mut plan = Plan { heal_ms: 10_250, faults: faults.clone(), ..Plan::draw(seed) };
            assert_eq!(plan.quiet_ms(), 100);
            keep_quiet(&mut SplitMix::new(seed), &mut plan.faults, plan.heal_ms);
            kept += u32::from(plan.faults == faults);
            assert!(plan.faults == faults || plan.quiet_ms() >= 1_000, "{:?}", plan.faults);
            assert!(plan.check().is_ok());
        }
        assert!((80..160).contains(&kept), "{kept} of 200");
    }

    #[test]
    fn faults_name_nodes_that_exist_and_end_before_the_healing() {
        for plan in (0..300).map(Plan::draw) {
            for fault in &plan.faults {
                assert!(fault.at_ms + fault.for_ms <= plan.heal_ms);
                let named = fault.kind.nodes();
                assert!(named.iter().all(|n| (1..=plan.machines()).contains(n)), "{fault:?}");
            }
        }
    }
}

//! How a seed becomes a plan.

use super::{Core, Fault, FaultKind, Plan, Setup, Victim, Workload, clock, connection, disk, incident, member};
use crate::rng::SplitMix;

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64) -> Self {
        let mut shape = SplitMix::labelled(seed, "shape");
        let nodes = if shape.chance(600) { 3 } else { 5 };
        let heal_ms = shape.between(5_000, 15_000);
        let mut workload = Workload::draw(&mut SplitMix::labelled(seed, "workload"), heal_ms);
        workload.draw_habits(&mut SplitMix::labelled(seed, "client habits"));
        workload.draw_bulk(&mut SplitMix::labelled(seed, "bulk"));
        let mut setup = Setup::draw(&mut SplitMix::labelled(seed, "setup"));
        setup.clocks = clock::draw_setup(&mut SplitMix::labelled(seed, "clocks"), nodes);
        let mut incident = SplitMix::labelled(seed, "incident");
        let incident = incident::draw(&mut incident, nodes, heal_ms, &mut setup, &mut workload);
        let concerns: [(&str, DrawFaults); 5] = [
            ("faults", draw_faults),
            ("disk faults", disk::draw),
            ("clock faults", clock::draw),
            ("connection faults", connection::draw),
            ("founding", draw_absence),
        ];
        let drawn = concerns
            .map(|(label, draw)| draw(&mut SplitMix::labelled(seed, label), nodes, heal_ms, &workload.bursts_ms));
        let mut faults = if incident.is_alone { Vec::new() } else { drawn.concat() };
        faults.sort_by_key(|fault| fault.at_ms);
        keep_quiet(&mut SplitMix::labelled(seed, "quiet"), &mut faults, heal_ms);
        faults.extend(incident.faults);
        let mut members = SplitMix::labelled(seed, "members");
        setup.memory |= member::draw_memory(&mut members) && !incident.needs_disks;
        let members = member::draw(&mut members, nodes, heal_ms, &workload.bursts_ms, &mut setup);
        faults.extend(members.faults);
        if setup.memory {
            // There are no disks.
            faults.retain(|fault| !matches!(fault.kind, FaultKind::Disk(_) | FaultKind::DiskStall(_)));
        }
        faults.sort_by_key(|fault| fault.at_ms);
        let core = Core::draw(seed, nodes);
        Self { seed, nodes, spares: members.spares, heal_ms, canary: false, setup, workload, faults, core }
    }
}

/// The classes a run may have, as the drawing sees them.
const CLASSES: u64 = 18;

/// What draws one concern's faults: from its stream, for so many nodes, until the healing, around these bursts.
type DrawFaults = fn(&mut SplitMix, u32, u64, &[u64]) -> Vec<Fault>;

/// Of 1000 runs so many have a stretch in which nothing goes wrong, so that the cluster recovers and the next fault
/// hits it as it has become.
const QUIET_PER_MILLE: u32 = 400;

/// Of 1000 runs so many begin without one of the listed nodes.
const ABSENCES_PER_MILLE: u32 = 80;

/// A node of the list that is down while the others found the cluster, or most of that time.
fn draw_absence(rng: &mut SplitMix, nodes: u32, heal_ms: u64, _: &[u64]) -> Vec<Fault> {
    if !rng.chance(ABSENCES_PER_MILLE) {
        return Vec::new();
    }
    let node = 1 + rng.below(u64::from(nodes)) as u32;
    let (at_ms, for_ms) = (rng.skewed(0, 100), rng.between(1_000, heal_ms / 2));
    vec![Fault { at_ms, for_ms, kind: FaultKind::Kill(Victim::Node(node)) }]
}

/// Takes the faults out of such a stretch; those that go on into it end before.
pub(super) fn keep_quiet(rng: &mut SplitMix, faults: &mut Vec<Fault>, heal_ms: u64) {
    if !rng.chance(QUIET_PER_MILLE) {
        return;
    }
    let for_ms = rng.between(1_000, 4_000).min(heal_ms / 2);
    let begins = rng.between(500, heal_ms - for_ms);
    faults.retain(|fault| !(begins..begins + for_ms).contains(&fault.at_ms));
    for fault in faults.iter_mut().filter(|fault| fault.at_ms < begins) {
        fault.for_ms = fault.for_ms.min(begins - fault.at_ms);
    }
}

impl Setup {
    fn draw(rng: &mut SplitMix) -> Self {
        let often = rng.chance(600);
        Self {
            snapshot_every_entries: if often { rng.between(3, 40) } else { rng.between(200, 2_000) },
            keep_entries: if often { rng.below(8) } else { rng.below(200) },
            segment_kib: [32, 32, 32, 64, 64, 64, 128, 256][rng.below(8) as usize],
            cache_bytes: [1 << 20, 1 << 20, rng.below(8_000), rng.below(200)][rng.below(4) as usize] as usize,
            latency_us: rng.skewed(50, 5_000),
            heartbeat_ms: if rng.chance(400) { 50 } else { rng.between(50, 150) },
            sync_us_max: [(200, 2_000), (2_000, 20_000), (20_000, 50_000)].map(|(low, high)| rng.between(low, high))
                [[0, 0, 1, 1, 2][rng.below(5) as usize]],
            us_per_kib: if rng.chance(400) { 0 } else { rng.between(5, 300) },
            sync_stall_per_mille: if rng.chance(300) { rng.between(1, 30) as u32 } else { 0 },
            store_cache_bytes: if rng.chance(600) { rng.below(32 << 10) as usize } else { 1 << 20 },
            ..Setup::default()
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
            crash_per_mille: 0,
            retry_per_mille: 0,
        }
    }

    /// Some states are larger than one chunk of a snapshot.
    fn draw_bulk(&mut self, rng: &mut SplitMix) {
        if rng.chance(80) {
            self.keys = rng.between(24, 60) as u32;
            self.padding_bytes = rng.between(8_000, 30_000) as usize;
        }
    }

    fn draw_habits(&mut self, rng: &mut SplitMix) {
        self.crash_per_mille = if rng.chance(400) { rng.between(5, 150) as u32 } else { 0 };
        self.retry_per_mille = if rng.chance(500) { rng.between(200, 1_000) as u32 } else { 0 };
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
        let begins = if rng.chance(500) { in_a_burst(rng, bursts_ms) } else { at_ms };
        let for_ms = rng.skewed(5, for_ms_max).min(heal_ms - begins);
        faults.push(Fault { at_ms: begins, for_ms, kind });
        at_ms += rng.between(1, 2 * every_ms);
    }
    faults
}

/// A moment at which clients are busy.
pub(super) fn in_a_burst(rng: &mut SplitMix, bursts_ms: &[u64]) -> u64 {
    bursts_ms[rng.below(bursts_ms.len() as u64) as usize] + rng.skewed(1, IN_BURST_MS)
}

/// Draws an index by weight; the weights are not all 0.
pub(super) fn weighted(rng: &mut SplitMix, weights: &[u64]) -> usize {
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
    let (node, other) = two_nodes(rng, nodes);
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

pub(super) fn some_nodes(rng: &mut SplitMix, nodes: u32, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (1..=nodes).collect();
    while all.len() > count as usize {
        all.remove(rng.below(all.len() as u64) as usize);
    }
    all
}

/// Two different nodes.
pub(super) fn two_nodes(rng: &mut SplitMix, nodes: u32) -> (u32, u32) {
    let node = 1 + rng.below(u64::from(nodes)) as u32;
    (node, 1 + (node + rng.below(u64::from(nodes) - 1) as u32) % nodes)
}

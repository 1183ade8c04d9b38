//! Incidents: faults that come together because one thing went wrong, while clients are at work and with settings in
//! which it matters. Faults that are drawn one by one seldom meet like this: a node that was away so long that it needs a
//! snapshot and then loses its power while it installs it, a majority that loses its power in the middle of an election.
//!
//! An incident is made of the ordinary kinds of faults, so that a plan says all of it and `sim shrink` takes it apart.

mod disks;
mod leaders;
mod members;

use std::ops::Range;

use super::draw::{two_nodes, weighted};
use super::{DiskFault, Fault, FaultKind, Setup, Victim, Workload};
use crate::platform::{CRASH_POINTS, CrashPoint};
use crate::rng::SplitMix;

/// Of 1000 runs so many have an incident.
const PER_MILLE: u32 = 600;
/// Of 1000 incidents so many are all that goes wrong in their run, if they say nothing else.
const ALONE_PER_MILLE: u32 = 400;
/// Of 1000 bursts so many are moved to where the incident is.
const MOVED_PER_MILLE: u32 = 650;

/// What is drawn for a run.
#[derive(Debug, Default)]
pub(super) struct Incident {
    pub(super) faults: Vec<Fault>,
    /// It would be none without disks.
    pub(super) needs_disks: bool,
    /// Nothing else goes wrong.
    pub(super) is_alone: bool,
}

/// Draws one thing that goes wrong, at about that time.
type Draws = fn(&mut Scene<'_>, Range<u64>);

/// What may go wrong, and how often of all.
const KINDS: [(u64, Draws); 16] = [
    (6, |scene, time| scene.left_behind(time)),
    (4, |scene, time| scene.rots_while_away(time)),
    (4, |scene, time| scene.full_and_behind(time)),
    (4, |scene, time| scene.slow_follower(time)),
    (3, |scene, time| scene.slow_log_away(time)),
    (6, |scene, time| scene.slow_log_damaged(time)),
    (5, |scene, time| scene.slow_log_led(time)),
    (3, |scene, time| scene.slow_log_behind(time)),
    (5, |scene, time| scene.busy_store(time)),
    (9, |scene, time| scene.taken_over(time)),
    (5, |scene, time| scene.handed_over_and_back(time)),
    (4, |scene, time| scene.lost_election(time)),
    (5, |scene, time| scene.jumping_clocks(time)),
    (2, |scene, time| scene.replaced_meanwhile(time)),
    (5, |scene, time| scene.asks_again(time)),
    (2, |scene, time| scene.ends_again_and_again(time)),
];

/// Draws an incident, or none, and makes the run one in which it matters.
pub(super) fn draw(
    rng: &mut SplitMix,
    nodes: u32,
    heal_ms: u64,
    setup: &mut Setup,
    workload: &mut Workload,
) -> Incident {
    if !rng.chance(PER_MILLE) {
        return Incident::default();
    }
    let begins = rng.between(1_000, heal_ms - 3_500);
    let time = begins..begins + rng.between(1_200, 3_500);
    for burst in &mut workload.bursts_ms {
        if rng.chance(MOVED_PER_MILLE) {
            *burst = begins - 50 + rng.below(time.end - begins);
        }
    }
    let mut scene = Scene { rng, nodes, setup, workload, faults: Vec::new(), alone_per_mille: ALONE_PER_MILLE };
    let kind = weighted(scene.rng, &KINDS.map(|(weight, _)| weight));
    KINDS[kind].1(&mut scene, time);
    let (mut faults, alone_per_mille) = (scene.faults, scene.alone_per_mille);
    workload.bursts_ms.sort_unstable();
    for fault in &mut faults {
        fault.at_ms = fault.at_ms.min(heal_ms);
        fault.for_ms = fault.for_ms.min(heal_ms - fault.at_ms);
    }
    let needs_disks = faults.iter().any(|fault| matches!(fault.kind, FaultKind::Disk(_)));
    Incident { faults, needs_disks, is_alone: rng.chance(alone_per_mille) }
}

/// An incident in the making.
struct Scene<'a> {
    rng: &'a mut SplitMix,
    nodes: u32,
    setup: &'a mut Setup,
    workload: &'a mut Workload,
    faults: Vec<Fault>,
    alone_per_mille: u32,
}

impl Scene<'_> {
    fn add(&mut self, time: Range<u64>, kind: FaultKind) {
        self.faults.push(Fault { at_ms: time.start, for_ms: time.end.saturating_sub(time.start), kind });
    }

    fn node(&mut self) -> u32 {
        1 + self.rng.below(u64::from(self.nodes)) as u32
    }

    /// Three different ones.
    fn three_nodes(&mut self) -> [u32; 3] {
        let (one, other) = two_nodes(self.rng, self.nodes);
        let rest: Vec<u32> = (1..=self.nodes).filter(|node| ![one, other].contains(node)).collect();
        [one, other, rest[self.rng.below(rest.len() as u64) as usize]]
    }

    fn within(&mut self, time: &Range<u64>) -> u64 {
        self.rng.between(time.start, time.end)
    }

    /// Many clients begin to work at these moments, too, and each wants little: who waits for an answer has no part in
    /// what comes next.
    fn busy_at<const N: usize>(&mut self, moments: [u64; N]) {
        self.workload.bursts_ms.extend(moments);
        self.workload.clients = self.workload.clients.max(self.rng.between(5, 10) as u32);
        self.workload.burst_ops = self.rng.between(1, 3) as u32;
        self.workload.pause_ms_max = self.rng.below(10);
    }

    /// Clients that do not wait for long: what they leave behind piles up where nobody can finish it.
    fn impatient(&mut self) {
        self.workload.crash_per_mille = self.rng.between(300, 800) as u32;
        self.workload.burst_ops = self.rng.between(2, 8) as u32;
        self.workload.read_per_mille = self.rng.between(0, 300) as u32;
    }

    /// Whoever misses a few entries needs a snapshot.
    fn purges_soon(&mut self) {
        self.setup.snapshot_every_entries = self.rng.between(2, 8);
        self.setup.keep_entries = self.rng.below(2);
    }

    /// Nobody hears of a node for a while. Returns whether it starts again at the end of it.
    fn send_away(&mut self, node: u32, time: Range<u64>) -> bool {
        let whom = Victim::Node(node);
        let kind = match self.rng.below(5) {
            0 => FaultKind::Kill(whom),
            1 => FaultKind::PowerLoss(whom),
            2 => FaultKind::Clog(node),
            3 => FaultKind::Pause(whom),
            _ => FaultKind::Partition(vec![node]),
        };
        let starts_again = matches!(kind, FaultKind::Kill(_) | FaultKind::PowerLoss(_));
        self.add(time, kind);
        starts_again
    }

    /// A node does not get through with the next snapshot that it installs.
    fn crash_while_installing(&mut self, victim: Victim, from: u64) {
        self.crash_in_an_install(victim, from, false, CrashPoint::is_of_an_install);
    }

    /// The same of a node that starts before it installs it.
    fn crash_while_installing_after_start(&mut self, victim: Victim, from: u64) {
        self.crash_in_an_install(victim, from, true, CrashPoint::is_of_an_install);
    }

    /// The same, once the store that was received counts.
    fn crash_after_installing(&mut self, victim: Victim, from: u64) {
        self.crash_in_an_install(victim, from, false, CrashPoint::is_at_the_end_of_an_install);
    }

    fn crash_in_an_install(&mut self, victim: Victim, from: u64, starts: bool, fits: fn(&CrashPoint) -> bool) {
        let points: Vec<&CrashPoint> = CRASH_POINTS.iter().filter(|point| fits(point)).collect();
        let point = points[self.rng.below(points.len() as u64) as usize];
        let (power, down_ms) = (self.rng.chance(600), self.rng.skewed(5, 1_000));
        let nth = if starts && point.is_of_every_start() { 2 } else { 1 };
        let kind = FaultKind::Disk(DiskFault::CrashPoint { victim, point, nth, power });
        self.add(from..from + down_ms, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn incidents_are_within_their_run_and_change_what_they_need() {
        let (mut incidents, mut alone, mut moved) = (0, 0, 0);
        for seed in 0..400 {
            let mut plan = Plan { faults: Vec::new(), ..Plan::draw(seed) };
            plan.setup.memory = false;
            plan.workload.bursts_ms = vec![600; 4];
            let mut rng = SplitMix::new(seed);
            let incident = draw(&mut rng, plan.nodes, plan.heal_ms, &mut plan.setup, &mut plan.workload);
            incidents += u32::from(!incident.faults.is_empty());
            alone += u32::from(incident.is_alone);
            moved += u32::from(plan.workload.bursts_ms != [600; 4]);
            plan.faults = incident.faults;
            if plan.setup.memory {
                plan.faults.retain(|fault| !matches!(fault.kind, FaultKind::Disk(_)));
            }
            plan.faults.sort_by_key(|fault| fault.at_ms);
            plan.check().expect("it can be run");
        }
        assert!(
            (200..280).contains(&incidents) && moved > incidents / 2,
            "{incidents} incidents, {moved} with clients"
        );
        assert!((40..incidents / 2).contains(&alone), "{alone} alone of {incidents}");
    }
}

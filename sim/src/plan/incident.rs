//! Incidents: faults that come together because one thing went wrong, while clients are at work and with settings in
//! which it matters. Faults that are drawn one by one seldom meet like this: a node that was away so long that it needs a
//! snapshot and then loses its power while it installs it, a majority that loses its power in the middle of an election.
//!
//! An incident is made of the ordinary kinds of faults, so that a plan says all of it and `sim shrink` takes it apart.

use std::ops::Range;

use super::draw::{some_nodes, two_nodes};
use super::{DiskFault, Fault, FaultKind, Place, Rot, Setup, Victim};
use crate::platform::{CRASH_POINTS, CrashPoint, FileClass};
use crate::rng::SplitMix;

/// Of 1000 runs so many have an incident.
const PER_MILLE: u32 = 400;
/// Of 1000 runs without one so many have one of those that came later: drawn apart, so that the others stay where they are.
const LATER_PER_MILLE: u32 = 300;
/// Of 1000 incidents so many are all that goes wrong in their run.
const ALONE_PER_MILLE: u32 = 350;
/// Of 1000 bursts so many are moved to where the incident is.
const MOVED_PER_MILLE: u32 = 650;

/// What is drawn for a run.
#[derive(Debug, Default)]
pub(super) struct Incident {
    pub(super) faults: Vec<Fault>,
    /// Nothing else goes wrong.
    pub(super) is_alone: bool,
}

/// Draws an incident, or none, and makes the run one in which it matters.
pub(super) fn draw(rng: &mut SplitMix, nodes: u32, heal_ms: u64, setup: &mut Setup, bursts_ms: &mut [u64]) -> Incident {
    let is_usual = rng.chance(PER_MILLE);
    if !is_usual && !rng.chance(LATER_PER_MILLE) {
        return Incident::default();
    }
    let begins = rng.between(1_000, heal_ms - 3_500);
    let time = begins..begins + rng.between(1_200, 3_500);
    for burst in bursts_ms.iter_mut() {
        if rng.chance(MOVED_PER_MILLE) {
            *burst = begins - 50 + rng.below(time.end - begins);
        }
    }
    bursts_ms.sort_unstable();
    let mut scene = Scene { rng, nodes, setup, faults: Vec::new() };
    match scene.rng.below(8) {
        0 | 1 if !is_usual => scene.asks_again(time),
        _ if !is_usual => scene.slow_log(time),
        0 | 1 => scene.left_behind(time),
        2 => scene.rots_while_away(time),
        3 => scene.taken_over(time),
        4 => scene.jumping_clocks(time),
        5 => scene.lost_election(time),
        6 => scene.full_and_behind(time),
        _ => scene.slow_follower(time),
    }
    let mut faults = scene.faults;
    for fault in &mut faults {
        fault.at_ms = fault.at_ms.min(heal_ms);
        fault.for_ms = fault.for_ms.min(heal_ms - fault.at_ms);
    }
    Incident { faults, is_alone: rng.chance(ALONE_PER_MILLE) }
}

/// An incident in the making.
struct Scene<'a> {
    rng: &'a mut SplitMix,
    nodes: u32,
    setup: &'a mut Setup,
    faults: Vec<Fault>,
}

impl Scene<'_> {
    fn add(&mut self, time: Range<u64>, kind: FaultKind) {
        self.faults.push(Fault { at_ms: time.start, for_ms: time.end.saturating_sub(time.start), kind });
    }

    fn node(&mut self) -> u32 {
        1 + self.rng.below(u64::from(self.nodes)) as u32
    }

    fn within(&mut self, time: &Range<u64>) -> u64 {
        self.rng.between(time.start, time.end)
    }

    /// Whoever misses a few entries needs a snapshot.
    fn purges_soon(&mut self) {
        self.setup.snapshot_every_entries = self.rng.between(2, 8);
        self.setup.keep_entries = self.rng.below(2);
    }

    /// Nobody hears of a node for a while.
    fn send_away(&mut self, node: u32, time: Range<u64>) {
        let whom = Victim::Node(node);
        let kind = match self.rng.below(5) {
            0 => FaultKind::Kill(whom),
            1 => FaultKind::PowerLoss(whom),
            2 => FaultKind::Clog(node),
            3 => FaultKind::Pause(whom),
            _ => FaultKind::Partition(vec![node]),
        };
        self.add(time, kind);
    }

    /// A node needs a snapshot, and does not get through with it at the first attempt.
    fn left_behind(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (node, back) = (self.node(), time.end);
        self.send_away(node, time.clone());
        for _ in 0..self.rng.between(1, 2) {
            self.crash_while_installing(Victim::Node(node), back - 1);
        }
    }

    /// A node does not get through with the next snapshot that it installs.
    fn crash_while_installing(&mut self, victim: Victim, from: u64) {
        let points: Vec<&CrashPoint> = CRASH_POINTS.iter().filter(|point| point.is_of_an_install()).collect();
        let point = points[self.rng.below(points.len() as u64) as usize];
        let (power, down_ms) = (self.rng.chance(600), self.rng.skewed(5, 1_000));
        let kind = FaultKind::Disk(DiskFault::CrashPoint { victim, point, nth: 1, power });
        self.add(from..from + down_ms, kind);
    }

    /// What a node lacks has left the caches of the others, and rots before they read it again for it.
    fn rots_while_away(&mut self, time: Range<u64>) {
        self.setup.snapshot_every_entries = self.rng.between(200, 2_000);
        self.setup.cache_bytes = self.rng.below(300) as usize;
        let (away, other) = two_nodes(self.rng, self.nodes);
        self.send_away(away, time.clone());
        let victim = if self.rng.chance(700) { Victim::Leader } else { Victim::Node(other) };
        for _ in 0..self.rng.between(1, 6) {
            let rot = [Rot::Bit, Rot::Bits, Rot::NoiseSector][self.rng.below(3) as usize];
            let (place, pick, at) = (Place::RunningLog, self.rng.next(), self.within(&time));
            let kind = FaultKind::Disk(DiskFault::Rot { victim, place, rot, pick, power: false });
            self.add(at..at, kind);
        }
    }

    /// A leader hears nothing any more, and soon is not heard either; when it is back, the others have gone on without it.
    fn taken_over(&mut self, time: Range<u64>) {
        self.purges_soon();
        self.setup.heartbeat_ms = 50;
        let cut_off = time.start + self.rng.skewed(2, 400);
        // Soon enough for who waits for an answer of it.
        let end = time.start + self.rng.between(1_200, 2_400);
        self.add(time.start..end, FaultKind::LeaderHalfDeaf(false));
        self.add(cut_off..end, FaultKind::IsolateLeader);
        // It has entries of its own by then, perhaps more than the snapshot that it gets covers.
        if self.rng.chance(500) {
            self.crash_while_installing(Victim::Leader, time.start);
        }
    }

    /// Machines on one host are suspended together: the others do not hear of them, and when they go on time has passed.
    fn jumping_clocks(&mut self, time: Range<u64>) {
        let count = self.rng.between(u64::from(self.nodes / 2 + 1), u64::from(self.nodes) - 1) as u32;
        let side = some_nodes(self.rng, self.nodes, count);
        let at = time.start + self.rng.below(100);
        for node in &side {
            let (step_ms, at) = (self.rng.between(500, 5_000), at + self.rng.skewed(0, 50));
            self.add(at..at, FaultKind::ClockStep(Victim::Node(*node), step_ms));
        }
        self.add(time, FaultKind::Partition(side));
    }

    /// The leader is cut off, and whoever may have won the election of another one is lost over it, perhaps for good;
    /// perhaps the others lose their power, too.
    fn lost_election(&mut self, time: Range<u64>) {
        let (begins, beat) = (time.start, self.setup.heartbeat_ms);
        self.add(begins..time.end.max(begins + 40 * beat), FaultKind::IsolateLeader);
        let over = begins + self.rng.between(10 * beat, 25 * beat);
        let (is_far, is_slow) = (self.rng.chance(500), self.rng.chance(500));
        if is_far {
            let latency_ms = self.rng.between(20, 2 * beat);
            self.add(begins + 2 * beat..over + 5 * beat, FaultKind::Latency(latency_ms));
        }
        let mut victims = some_nodes(self.rng, self.nodes, self.nodes - 1);
        let winner = Victim::Node(victims.remove(self.rng.below(victims.len() as u64) as usize));
        let (rot, pick) = (Rot::NoiseSector, self.rng.next());
        let lost = DiskFault::Rot { victim: winner, place: Place::Log, rot, pick, power: true };
        let lost = if self.rng.chance(700) { FaultKind::Disk(lost) } else { FaultKind::PowerLoss(winner) };
        self.add(over..over + 2_000, lost);
        let all_fall = self.rng.chance(500);
        for victim in victims.into_iter().map(Victim::Node) {
            if is_slow {
                let factor = self.rng.between(3, 20);
                self.add(begins + 5 * beat..over + beat, FaultKind::Disk(DiskFault::Slow { victim, factor }));
            }
            if all_fall {
                let at = over + self.rng.skewed(0, 100);
                let down = at..at + self.rng.skewed(50, 2_000);
                self.add(down, FaultKind::PowerLoss(victim));
            }
        }
    }

    /// A node's disk is full until what it lacks is gone from the logs of the others.
    fn full_and_behind(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (victim, room_kib) = (Victim::Node(self.node()), self.rng.skewed(0, 100));
        let kind = FaultKind::Disk(DiskFault::Full { victim, room_kib, restart: self.rng.chance(150) });
        self.add(time, kind);
    }

    /// A node whose log is slow needs a snapshot: its store has it long before its log has what came before. It may have
    /// led until then, with entries that nobody else has; and it may not get through with it.
    fn slow_log(&mut self, time: Range<u64>) {
        self.purges_soon();
        self.setup.heartbeat_ms = 50;
        let node = self.node();
        let (led, class, ms) = (self.rng.chance(500), FileClass::Segment, self.rng.skewed(50, 2_500));
        let victim = if led { Victim::Leader } else { Victim::Node(node) };
        let slow = time.start..time.end + self.rng.between(500, 3_000);
        self.add(slow, FaultKind::Disk(DiskFault::SlowSyncs { victim, class, ms }));
        if led {
            self.add(time.clone(), FaultKind::IsolateLeader);
        } else {
            let away = time.start + self.rng.skewed(20, 1_000);
            let back = away + self.rng.between(300, 2_000);
            let kind = if self.rng.chance(500) { FaultKind::Clog(node) } else { FaultKind::Partition(vec![node]) };
            self.add(away..back, kind);
        }
        if self.rng.chance(500) {
            self.crash_while_installing(victim, time.start);
        }
    }

    /// A node that keeps nothing starts again and again while nobody can admit it: what it asked for as who it was is still on
    /// its way when it asks as who it is.
    fn asks_again(&mut self, time: Range<u64>) {
        self.setup.memory = true;
        let node = self.node();
        match self.rng.below(3) {
            0 => self.add(time.clone(), FaultKind::IsolateLeader),
            1 => self.add(time.clone(), FaultKind::Pause(Victim::Leader)),
            _ => {
                let latency_ms = self.rng.between(50, 400);
                self.add(time.clone(), FaultKind::Latency(latency_ms));
            }
        }
        for _ in 0..self.rng.between(2, 6) {
            let at = self.within(&time);
            let down = at..at + self.rng.skewed(5, 300);
            self.add(down, FaultKind::Kill(Victim::Node(node)));
        }
    }

    /// Everything hangs on a follower whose disk is slow, and loses its power.
    fn slow_follower(&mut self, time: Range<u64>) {
        let (slow, away) = two_nodes(self.rng, self.nodes);
        let victim = Victim::Node(slow);
        if self.rng.chance(500) {
            self.purges_soon();
        }
        let kind = match self.rng.chance(600) {
            true => FaultKind::Disk(DiskFault::Slow { victim, factor: self.rng.between(5, 40) }),
            false => FaultKind::DiskStall(victim),
        };
        self.add(time.clone(), kind);
        self.send_away(away, time.start.saturating_sub(100)..time.end);
        let at = self.within(&time);
        let down = at..at + self.rng.skewed(50, 1_000);
        self.add(down, FaultKind::PowerLoss(victim));
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
            let incident = draw(&mut rng, plan.nodes, plan.heal_ms, &mut plan.setup, &mut plan.workload.bursts_ms);
            incidents += u32::from(!incident.faults.is_empty());
            alone += u32::from(incident.is_alone);
            moved += u32::from(plan.workload.bursts_ms != [600; 4]);
            plan.faults = incident.faults;
            plan.faults.sort_by_key(|fault| fault.at_ms);
            plan.check().expect("it can be run");
        }
        assert!(
            (160..300).contains(&incidents) && moved > incidents / 2,
            "{incidents} incidents, {moved} with clients"
        );
        assert!((20..incidents / 2).contains(&alone), "{alone} alone of {incidents}");
    }
}

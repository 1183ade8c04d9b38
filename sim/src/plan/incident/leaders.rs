//! Incidents around leaders that are deposed, and elections.

use std::ops::Range;

use super::Scene;
use crate::plan::draw::some_nodes;
use crate::plan::{DiskFault, FaultKind, MemberFault, Place, Rot, Victim};
use crate::platform::FileClass;

impl Scene<'_> {
    /// A leader hears nothing any more, and soon is not heard either; when it is back, the others have gone on without it,
    /// and the answers that it missed arrive.
    pub(super) fn taken_over(&mut self, time: Range<u64>) {
        if self.rng.chance(600) {
            self.purges_soon();
        }
        self.setup.heartbeat_ms = 50;
        let cut_off = time.start + self.rng.skewed(2, 400);
        // Soon enough for who waits for an answer of it, and mostly before it gives up the connections that it had.
        let end = time.start
            + if self.rng.chance(700) { self.rng.between(1_450, 1_950) } else { self.rng.between(1_200, 2_400) };
        self.add(time.start..end, FaultKind::LeaderHalfDeaf(false));
        self.add(cut_off..end, FaultKind::IsolateLeader);
        // Before, while it is still heard, and when somebody else leads and it is about to be back.
        let before = time.start - self.rng.below(20);
        let heard = time.start + self.rng.below(cut_off - time.start);
        let late = [end - self.rng.between(150, 600), end - self.rng.between(20, 300), end - self.rng.below(100)];
        self.busy_at([before, heard, late[0], late[1], late[2]]);
        self.workload.read_per_mille = self.rng.between(300, 600) as u32;
        self.alone_per_mille = 700;
        // It has entries of its own by then, perhaps more than the snapshot that it gets covers.
        if self.rng.chance(300) {
            self.crash_while_installing(Victim::Leader, time.start);
        }
    }

    /// A leader hands over, and gets it back soon; meanwhile a follower whose log is slow could not be reached, and answers
    /// what the leader sent it before, on the connection on which it is asked anew.
    pub(super) fn handed_over_and_back(&mut self, time: Range<u64>) {
        self.purges_soon();
        self.setup.heartbeat_ms = 50;
        let [leader, follower, other] = self.three_nodes();
        let begins = time.start + 400;
        self.add(time.start..time.start, FaultKind::Member(MemberFault::Transfer(leader)));
        let (victim, class, ms) = (Victim::Node(follower), FileClass::Segment, self.rng.between(30, 150));
        self.add(begins - 100..begins + 2_000, FaultKind::Disk(DiskFault::SlowSyncs { victim, class, ms }));
        self.add(begins..begins, FaultKind::Member(MemberFault::Transfer(other)));
        // Not before: a leader hands over only when it hears from all.
        let stalls = begins + self.rng.between(2, 40);
        // Not so long that the connection is given up.
        let for_ms = self.rng.between(400, 1_200);
        self.add(stalls..stalls + for_ms, FaultKind::Stall(leader, follower));
        let back = begins + self.rng.between(100, 300);
        self.add(back..back, FaultKind::Member(MemberFault::Transfer(leader)));
        self.busy_at([begins - 20, begins + 150, begins + 350]);
    }

    /// Machines on one host are suspended together: the others do not hear of them, and when they go on time has passed.
    pub(super) fn jumping_clocks(&mut self, time: Range<u64>) {
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
    pub(super) fn lost_election(&mut self, time: Range<u64>) {
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
}

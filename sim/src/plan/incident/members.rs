//! Incidents in which members come and go while something else is wrong.

use std::ops::Range;

use super::Scene;
use crate::plan::{DiskFault, FaultKind, MemberFault, Victim};
use crate::platform::FileClass;

impl Scene<'_> {
    /// While a leader is cut off, another node loses its disk and is replaced by the others. What comes in its place asks
    /// the former leader, too, which takes its time to find out what has become of it: its log is slow.
    pub(super) fn replaced_meanwhile(&mut self, time: Range<u64>) {
        if self.nodes < 5 {
            // Of three, those that are left are no majority.
            return self.taken_over(time);
        }
        self.setup.heartbeat_ms = 50;
        // Who asks for a place begins with the first.
        let (leader, node) = (1, self.rng.between(2, u64::from(self.nodes)) as u32);
        let begins = time.start + 400;
        self.add(time.start..time.start, FaultKind::Member(MemberFault::Transfer(leader)));
        let victim = Victim::Node(leader);
        let class = FileClass::Segment;
        let ms = self.rng.between(50, 800);
        let lost = begins + self.rng.between(0, 600);
        let replaced = lost + self.rng.between(10, 500);
        let end = replaced + self.rng.between(300, 1_800);
        self.add(begins..end + 1_000, FaultKind::Disk(DiskFault::SlowSyncs { victim, class, ms }));
        let kind = match self.rng.below(3) {
            0 => FaultKind::Clog(leader),
            _ => FaultKind::Partition(vec![leader]),
        };
        self.add(begins..end, kind);
        self.add(lost..lost + 10, FaultKind::Disk(DiskFault::Wipe { victim: Victim::Node(node) }));
        self.add(replaced..replaced + 10, FaultKind::Member(MemberFault::Replace(node)));
    }

    /// A node that keeps nothing starts again and again while it takes long to admit it, or to make it a voter, or nobody can:
    /// what it asked for as who it was is still on its way when it asks as who it is.
    pub(super) fn asks_again(&mut self, time: Range<u64>) {
        self.setup.memory = true;
        let node = self.node();
        match self.rng.below(5) {
            0 => self.add(time.clone(), FaultKind::IsolateLeader),
            1 => self.add(time.clone(), FaultKind::Pause(Victim::Leader)),
            _ => {
                let latency_ms = self.rng.between(20, 300);
                self.add(time.start..time.end + 1_500, FaultKind::Latency(latency_ms));
            }
        }
        for _ in 0..self.rng.between(3, 8) {
            let at = self.within(&time);
            let down = at..at + self.rng.skewed(5, 300);
            self.add(down, FaultKind::Kill(Victim::Node(node)));
        }
    }

    /// A node that keeps nothing, and was told where to ask, ends soon after it has started, again and again. It reaches
    /// only one of the others, and the leader does not reach it: each life leaves a request behind that the other has passed on.
    pub(super) fn ends_again_and_again(&mut self, time: Range<u64>) {
        self.setup.memory = true;
        let node = self.rng.between(2, u64::from(self.nodes)) as u32;
        let others: Vec<u32> = (2..=self.nodes).filter(|other| *other != node).collect();
        let leader = others[self.rng.below(others.len() as u64) as usize];
        // From then on it asks to be admitted at once, at the first.
        let back = time.start + self.rng.skewed(1, 200);
        self.add(time.start..back, FaultKind::Member(MemberFault::Remove(Victim::Node(node))));
        let begins = back + self.rng.between(500, 1_200);
        self.add(begins - 300..begins - 300, FaultKind::Member(MemberFault::Transfer(leader)));
        let end = begins + self.rng.between(2_000, 5_000);
        for other in others {
            self.add(begins..end, FaultKind::Link(node, other));
        }
        let mut at = begins + self.rng.between(1, 100);
        for _ in 0..self.rng.between(2, 6) {
            let up = at + self.rng.skewed(2, 60);
            self.add(at..up, FaultKind::Kill(Victim::Node(node)));
            at = up + self.rng.between(20, 400);
        }
    }
}

//! Incidents around disks, and around the snapshots that a node needs when it was behind.

use std::ops::Range;

use super::Scene;
use crate::plan::draw::two_nodes;
use crate::plan::{DiskFault, FaultKind, Place, Rot, Victim};
use crate::platform::FileClass;

impl Scene<'_> {
    /// A node needs a snapshot, and does not get through with it at the first attempt.
    pub(super) fn left_behind(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (node, back) = (self.node(), time.end);
        let starts = self.send_away(node, time);
        for _ in 0..self.rng.between(1, 2) {
            match starts {
                true => self.crash_while_installing_after_start(Victim::Node(node), back - 1),
                false => self.crash_while_installing(Victim::Node(node), back - 1),
            }
        }
    }

    /// What a node lacks has left the caches of the others, and rots before they read it again for it.
    pub(super) fn rots_while_away(&mut self, time: Range<u64>) {
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

    /// A node's disk is full until what it lacks is gone from the logs of the others.
    pub(super) fn full_and_behind(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (victim, room_kib) = (Victim::Node(self.node()), self.rng.skewed(0, 100));
        let kind = FaultKind::Disk(DiskFault::Full { victim, room_kib, restart: self.rng.chance(150) });
        self.add(time, kind);
    }

    /// Everything hangs on a follower whose disk is slow, and loses its power.
    pub(super) fn slow_follower(&mut self, time: Range<u64>) {
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

    /// Syncs of a class of a node's files are slow from the beginning of `time` until some time after its end.
    fn slow_syncs(&mut self, time: &Range<u64>, victim: Victim, class: FileClass, ms: u64) {
        let slow = time.start..time.end + self.rng.between(500, 3_000);
        self.add(slow, FaultKind::Disk(DiskFault::SlowSyncs { victim, class, ms }));
    }

    /// A node whose log is slow was away and needs a snapshot: its store has it long before its log has what came before,
    /// or has heard of it. It may not get through with it.
    pub(super) fn slow_log_away(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (node, ms) = (self.node(), self.rng.between(1_000, 2_500));
        let gone = self.slow_and_away(&time, node, ms);
        // What it gets just before, its log does not have when it is back; of what it misses there will be a snapshot.
        let moments = [gone.start - 20, self.within(&gone), gone.end - 100];
        self.busy_at(moments);
        if self.rng.chance(300) {
            self.crash_while_installing(Victim::Node(node), time.start);
        }
    }

    /// The same of a node that has heard of little before, so that its log has all that there was; its store is damaged soon
    /// after it has the snapshot, and is built anew from what the log says.
    pub(super) fn slow_log_damaged(&mut self, time: Range<u64>) {
        let (node, ms) = (self.node(), self.rng.between(300, 2_500));
        let victim = Victim::Node(node);
        let gone = self.slow_and_away(&time, node, ms);
        self.setup.snapshot_every_entries = self.rng.between(6, 16);
        self.setup.keep_entries = self.rng.below(2);
        // Nothing is in the snapshots of anybody before that.
        self.workload.bursts_ms.retain(|burst| *burst > gone.start);
        let moments = [self.within(&gone), self.within(&gone), self.within(&gone)];
        self.busy_at(moments);
        // When it has the snapshot is not known: it has to be heard of first, and its log has to have the new vote.
        for _ in 0..self.rng.between(1, 3) {
            let at = gone.end + self.rng.between(20, 1_800);
            let rot = [Rot::NoiseSector, Rot::LostWrite, Rot::LostWrite][self.rng.below(3) as usize];
            let (place, pick) = (Place::Store, self.rng.next());
            let down = at..at + self.rng.skewed(5, 500);
            self.add(down, FaultKind::Disk(DiskFault::Rot { victim, place, rot, pick, power: true }));
        }
    }

    /// A node's log is slow, and nobody hears of it for a part of that time, which is returned.
    fn slow_and_away(&mut self, time: &Range<u64>, node: u32, ms: u64) -> Range<u64> {
        self.setup.heartbeat_ms = 50;
        self.slow_syncs(time, Victim::Node(node), FileClass::Segment, ms);
        let away = time.start + self.rng.skewed(20, 1_000);
        let back = away + self.rng.between(300, 2_000);
        // What is sent to it does not wait for it to be back: whoever leads finds out anew what it has.
        for other in (1..=self.nodes).filter(|other| *other != node) {
            self.add(away..away, FaultKind::Reset(node, other));
        }
        let kind = if self.rng.chance(500) { FaultKind::Clog(node) } else { FaultKind::Partition(vec![node]) };
        self.add(away..back, kind);
        away..back
    }

    /// A leader whose log is slow is cut off, and goes on taking what it cannot commit. What it needs when it is back is a
    /// snapshot of something else at the same places; it may not get through with it.
    pub(super) fn slow_log_led(&mut self, time: Range<u64>) {
        self.purges_soon();
        self.setup.heartbeat_ms = 50;
        let ms = self.rng.skewed(50, 2_500);
        self.slow_syncs(&time, Victim::Leader, FileClass::Segment, ms);
        let end = time.start + self.rng.between(900, 2_500);
        self.add(time.start..end, FaultKind::IsolateLeader);
        let (early, later) = (time.start + self.rng.between(1, 100), end - self.rng.between(0, 400));
        self.busy_at([early, later]);
        self.impatient();
        match self.rng.below(4) {
            0 => {}
            1 => self.crash_while_installing(Victim::Leader, time.start),
            _ => self.crash_after_installing(Victim::Leader, time.start),
        }
    }

    /// A follower whose log is slow is so far behind with its answers that it is sent snapshots of what it has, or nearly
    /// has; and loses its power.
    pub(super) fn slow_log_behind(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (victim, ms) = (Victim::Node(self.node()), self.rng.between(100, 1_500));
        self.slow_syncs(&time, victim, FileClass::Segment, ms);
        let moments = [time.start + self.rng.below(100), self.within(&time), self.within(&time)];
        self.busy_at(moments);
        for _ in 0..self.rng.between(1, 3) {
            let at = self.within(&time);
            let down = at..at + self.rng.skewed(5, 500);
            self.add(down, FaultKind::PowerLoss(victim));
        }
    }

    /// A store commits all the time, slowly, and its node loses its power again and again.
    pub(super) fn busy_store(&mut self, time: Range<u64>) {
        self.purges_soon();
        let (victim, ms) = (Victim::Node(self.node()), self.rng.between(5, 150));
        self.slow_syncs(&time, victim, FileClass::Store, ms);
        let moments = [self.within(&time), self.within(&time), self.within(&time)];
        self.busy_at(moments);
        for _ in 0..self.rng.between(3, 6) {
            let at = self.within(&time);
            let down = at..at + self.rng.skewed(5, 300);
            self.add(down, FaultKind::PowerLoss(victim));
        }
    }
}

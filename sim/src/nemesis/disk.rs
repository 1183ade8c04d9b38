//! Faults of disks, and crashes at named points.

use std::time::Duration;

use super::{Ending, Nemesis, down, victim};
use crate::atlas::is_settled;
use crate::cluster::Cluster;
use crate::plan::{DiskFault, Place, Rot};
use crate::platform::{FileClass, Trap, TrapKind, global_now};
use crate::trace::Event;

impl Nemesis<'_> {
    pub(super) fn begin_disk(&mut self, cluster: &mut Cluster, fault: &DiskFault, for_ms: u64) -> Option<Ending> {
        let index = victim(cluster, fault.victim());
        let drive = cluster.members[index].machine.drive().clone();
        match fault {
            DiskFault::Fail { act, class, nth, .. } => {
                drive.set_trap(Trap { nth: *nth, kind: TrapKind::Fail { act: *act, class: *class } });
                self.order(index, fault, for_ms);
                None
            }
            DiskFault::CrashPoint { point, nth, .. } => {
                drive.set_trap(Trap { nth: *nth, kind: TrapKind::Cut(point) });
                self.order(index, fault, for_ms);
                None
            }
            DiskFault::LoseWrite { elsewhere, nth, .. } => {
                let node = cluster.members[index].machine.node();
                if cluster.atlas.may_lose(&cluster.drives(), node) {
                    let kind = TrapKind::Lose { class: FileClass::Store, elsewhere: *elsewhere };
                    drive.set_trap(Trap { nth: *nth, kind });
                }
                None
            }
            DiskFault::Slow { factor, .. } => {
                cluster.slow_down(index, *factor);
                Some(Ending::Speed(index))
            }
            DiskFault::SlowSyncs { class, ms, .. } => {
                drive.slow_syncs(*class, Duration::from_millis(*ms), Duration::from_millis(for_ms));
                None
            }
            DiskFault::Wipe { .. } => {
                if cluster.atlas.may_wipe(&cluster.drives(), cluster.members[index].machine.node()) {
                    cluster.wipe(index);
                    return Some(Ending::Boot(vec![index]));
                }
                None
            }
            // Nothing is set aside for a node that is yet to make its first files.
            DiskFault::Full { .. } if !is_settled(&drive) => None,
            DiskFault::Full { room_kib, restart, .. } => {
                cluster.limit(index, Some(drive.used_bytes() + (room_kib << 10)));
                if *restart {
                    self.later(for_ms / 3, Ending::Bury { index, power: false, for_ms: for_ms / 6 });
                }
                Some(Ending::Space(index))
            }
            DiskFault::Rot { place: place @ (Place::RunningLog | Place::RunningStore), rot, pick, .. } => {
                damage(cluster, index, *place, *rot, *pick);
                None
            }
            DiskFault::Rot { place, rot, pick, power, .. } => {
                let ending = down(cluster, vec![index], *power);
                damage(cluster, index, *place, *rot, *pick);
                Some(ending)
            }
        }
    }

    fn order(&mut self, index: usize, fault: &DiskFault, for_ms: u64) {
        self.orders.push((index, fault.clone(), for_ms));
    }

    /// The first of the orders for a node that fits, which is done with.
    fn take_order(&mut self, index: usize, fits: impl Fn(&DiskFault) -> bool) -> Option<(DiskFault, u64)> {
        let at = self.orders.iter().position(|(whose, fault, _)| *whose == index && fits(fault))?;
        let (_, fault, for_ms) = self.orders.remove(at);
        Some((fault, for_ms))
    }

    /// A node has stopped because its disk failed.
    pub(super) fn disk_failed(&mut self, index: usize) {
        let order = self.take_order(index, |fault| matches!(fault, DiskFault::Fail { .. }));
        let (linger, power, for_ms) = match order {
            Some((DiskFault::Fail { linger_ms, power, .. }, for_ms)) => (linger_ms, power, for_ms),
            _ => (0, false, 100),
        };
        self.later(linger, Ending::Bury { index, power, for_ms });
    }

    /// The journal of a disk was cut: what does so is a kill or a power loss at that very instant.
    pub(super) fn cut(&mut self, cluster: &mut Cluster, index: usize) {
        let Some((at, point)) = cluster.members[index].machine.drive().cut() else { return };
        if at > global_now() && at < self.plan.heal_ms * super::MS {
            // The disk stood still meanwhile.
            self.at(at, Ending::Cut(index));
            return;
        }
        let fits = |fault: &DiskFault| matches!(fault, DiskFault::CrashPoint { point: at, .. } if **at == *point);
        let (power, for_ms) = match self.take_order(index, fits) {
            Some((DiskFault::CrashPoint { power, .. }, for_ms)) => (power, for_ms),
            _ => (false, 0),
        };
        if point.is_of_an_install() && cluster.members[index].live().is_some() {
            // Not in a start, which gets to some of these, too.
            cluster.witness().reached("crashes while a snapshot was received or installed");
        }
        let ending = down(cluster, vec![index], power);
        self.later(for_ms, ending);
    }
}

fn damage(cluster: &Cluster, index: usize, place: Place, rot: Rot, pick: u64) {
    let node = cluster.members[index].machine.node();
    let done = cluster.atlas.damage(&cluster.drives(), node, place, rot, pick);
    let (at, subject) = (global_now(), done.err().unwrap_or("done"));
    cluster.world.trace().event(Event { at, node, kind: "atlas", subject, numbers: [0, 0], payload: &[] });
}

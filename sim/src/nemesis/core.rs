//! Leaves a core with all that it needs, and the others with what ails them, until everything heals.

use super::{Ending, Nemesis};
use crate::atlas::is_settled;
use crate::cluster::Cluster;
use crate::plan::{Ailment, Core};
use crate::platform::global_now;
use crate::trace::Event;

impl Nemesis<'_> {
    /// From now on nothing is wrong with the members of `core`, nor with any link but those that an outsider's ailment
    /// closes; what is wrong with the processes and disks of outsiders does not end. Nothing new goes wrong, either.
    pub fn settle(&mut self, cluster: &mut Cluster, core: &Core) {
        cluster.world.network().heal_all();
        self.end(cluster, Ending::Latency);
        for index in 0..cluster.members.len() {
            self.note_cut(cluster, index);
            cluster.members[index].machine.drive().disarm();
        }
        let inside = |index: usize| core.members.contains(&(index as u32 + 1));
        let is_due = |ending: &Ending| match ending {
            Ending::Open(_) | Ending::Flow(_) | Ending::Free(_) | Ending::Latency => true,
            Ending::Connect(..) | Ending::Strand(..) | Ending::Arrive(_) => true,
            // A disk that was cut has no power any more.
            Ending::Cut(_) => true,
            // A host that lingers is not waited for.
            Ending::Bury { index, .. } => inside(*index),
            _ => false,
        };
        while let Some(at) = self.agenda.iter().find(|(_, ending)| is_due(ending)).map(|(at, _)| *at) {
            if let Some(ending) = self.agenda.remove(&at) {
                self.end(cluster, ending);
            }
        }
        let members: Vec<usize> = (0..cluster.members.len()).filter(|index| inside(*index)).collect();
        members.iter().for_each(|index| self.mend(cluster, *index));
        cluster.raise_of(inside);
        members.into_iter().for_each(|index| cluster.boot(index));
        core.outsiders.iter().for_each(|(node, ailment)| ail(cluster, *node, *ailment));
    }
}

fn ail(cluster: &mut Cluster, node: u32, ailment: Ailment) {
    let (at, subject) = (global_now(), ailment.class());
    cluster.world.trace().event(Event { at, node, kind: "fault", subject, numbers: [0, 0], payload: &[] });
    let index = node as usize - 1;
    let machine = cluster.members[index].machine.clone();
    if ailment == Ailment::AsItWas {
        return;
    }
    // A paused process must be able to end.
    machine.resume();
    match ailment {
        Ailment::AsItWas => {}
        Ailment::Dead | Ailment::Off => {
            cluster.end(index, ailment == Ailment::Off);
        }
        Ailment::Paused => machine.pause(),
        Ailment::CutOff => link(cluster, node, false, false),
        Ailment::Deaf => link(cluster, node, true, false),
        Ailment::Mute => link(cluster, node, false, true),
        Ailment::Slow(times) => {
            cluster.slow_down(index, times);
            link(cluster, node, true, true);
        }
        Ailment::Full => {
            // Nothing is set aside for a node that is yet to make its first files.
            if is_settled(machine.drive()) {
                cluster.limit(index, Some(machine.drive().used_bytes()));
            }
            link(cluster, node, true, true);
        }
    }
    if !matches!(ailment, Ailment::Dead | Ailment::Off | Ailment::Paused) {
        cluster.boot(index);
    }
}

/// Whether a node is heard, and whether it hears.
fn link(cluster: &Cluster, node: u32, heard: bool, hears: bool) {
    let network = cluster.world.network();
    let set = |from: u32, to: u32, open: bool| match open {
        true => {
            network.unblock(from, to);
            network.unclog(from, to);
        }
        false => network.block(from, to),
    };
    for other in (1..=cluster.members.len() as u32).filter(|other| *other != node) {
        set(node, other, heard);
        set(other, node, hears);
    }
}

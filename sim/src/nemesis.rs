//! Makes a plan's faults happen, and end.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::cluster::Cluster;
use crate::plan::{Fault, FaultKind, Plan, Victim};
use crate::platform::{LinkProfile, SimRuntime, global_now};
use crate::trace::Event;

/// A fault that is to end.
enum Ending {
    Open(Vec<(u32, u32)>),
    Flow(Vec<(u32, u32)>),
    Latency,
    Boot(Vec<usize>),
    Resume(usize),
}

/// Runs the plan's faults against the cluster, until the time of healing. Returns how many there were of each class.
pub async fn torment(plan: &Plan, cluster: &mut Cluster) -> BTreeMap<&'static str, u64> {
    let mut endings: Vec<(u64, Ending)> = Vec::new();
    let mut counts = BTreeMap::new();
    let mut faults = plan.faults.iter().peekable();
    loop {
        let next_fault = faults.peek().map_or(plan.heal_ms, |fault| fault.at_ms);
        let next_ending = endings.iter().map(|(at, _)| *at).min().unwrap_or(plan.heal_ms);
        let next = next_fault.min(next_ending).min(plan.heal_ms);
        let now_ms = global_now() / 1_000_000;
        SimRuntime::sleep(Duration::from_millis(next.saturating_sub(now_ms))).await;
        if next >= plan.heal_ms {
            return counts;
        }
        let (due, later): (Vec<_>, Vec<_>) = endings.into_iter().partition(|(at, _)| *at <= next);
        endings = later;
        for (_, ending) in due {
            end(plan, cluster, ending);
        }
        while let Some(fault) = faults.next_if(|fault| fault.at_ms <= next) {
            *counts.entry(fault.kind.class()).or_default() += 1;
            let text = fault.kind.to_string();
            let (at, numbers) = (global_now(), [fault.for_ms, 0]);
            cluster.world.trace().event(Event { at, node: 0, kind: "fault", subject: &text, numbers, payload: &[] });
            endings.extend(begin(cluster, fault).map(|ending| (fault.at_ms + fault.for_ms, ending)));
        }
    }
}

/// Ends everything that is wrong: links open, machines run.
pub fn heal(plan: &Plan, cluster: &mut Cluster) {
    cluster.world.network().heal_all();
    end(plan, cluster, Ending::Latency);
    for index in 0..cluster.members.len() {
        end(plan, cluster, Ending::Resume(index));
    }
    cluster.boot_all();
}

fn begin(cluster: &mut Cluster, fault: &Fault) -> Option<Ending> {
    let nodes = cluster.members.len() as u32;
    let leader = cluster.leader().unwrap_or(0);
    let index = |victim: &Victim| match victim {
        Victim::Node(node) => *node as usize - 1,
        Victim::Leader => leader,
    };
    let leader = leader as u32 + 1;
    let others = (1..=nodes).filter(|n| *n != leader);
    match &fault.kind {
        FaultKind::Partition(side) => {
            let across = (1..=nodes).filter(|n| !side.contains(n)).flat_map(|b| side.iter().map(move |a| (*a, b)));
            Some(block(cluster, across.flat_map(both).collect()))
        }
        FaultKind::IsolateLeader => Some(block(cluster, others.map(|n| (leader, n)).flat_map(both).collect())),
        FaultKind::OneWay(from, to) => Some(block(cluster, vec![(*from, *to)])),
        FaultKind::LeaderHalfDeaf(mute) => {
            Some(block(cluster, others.map(|n| if *mute { (leader, n) } else { (n, leader) }).collect()))
        }
        FaultKind::Link(a, b) => Some(block(cluster, both((*a, *b)).collect())),
        FaultKind::Stall(a, b) => {
            let links: Vec<_> = both((*a, *b)).collect();
            links.iter().for_each(|(from, to)| cluster.world.network().clog(*from, *to));
            Some(Ending::Flow(links))
        }
        FaultKind::Latency(ms) => {
            let slow = LinkProfile { latency_ns: ms * 1_000_000, ..LinkProfile::default() };
            cluster.world.network().set_profile(&slow);
            Some(Ending::Latency)
        }
        FaultKind::Reset(a, b) => {
            cluster.world.network().reset(*a, *b);
            None
        }
        FaultKind::Kill(victim) => Some(down(cluster, vec![index(victim)], false)),
        FaultKind::PowerLoss(victim) => Some(down(cluster, vec![index(victim)], true)),
        FaultKind::PowerLossMajority(nodes) => {
            Some(down(cluster, nodes.iter().map(|node| *node as usize - 1).collect(), true))
        }
        FaultKind::PowerLossAll => Some(down(cluster, (0..nodes as usize).collect(), true)),
        FaultKind::KillAll => Some(down(cluster, (0..nodes as usize).collect(), false)),
        FaultKind::Pause(victim) => {
            cluster.members[index(victim)].machine.pause();
            Some(Ending::Resume(index(victim)))
        }
        FaultKind::DiskStall(victim) => {
            cluster.members[index(victim)].machine.drive().stall(Duration::from_millis(fault.for_ms));
            None
        }
    }
}

fn end(plan: &Plan, cluster: &mut Cluster, ending: Ending) {
    let network = cluster.world.network();
    match ending {
        Ending::Open(links) => links.iter().for_each(|(from, to)| network.unblock(*from, *to)),
        Ending::Flow(links) => links.iter().for_each(|(from, to)| network.unclog(*from, *to)),
        Ending::Latency => {
            let usual = LinkProfile { latency_ns: plan.setup.latency_us * 1_000, ..LinkProfile::default() };
            network.set_profile(&usual);
        }
        Ending::Boot(indexes) => indexes.into_iter().for_each(|index| cluster.boot(index)),
        Ending::Resume(index) => cluster.members[index].machine.resume(),
    }
}

fn both((a, b): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    [(a, b), (b, a)].into_iter()
}

fn block(cluster: &Cluster, links: Vec<(u32, u32)>) -> Ending {
    links.iter().for_each(|(from, to)| cluster.world.network().block(*from, *to));
    Ending::Open(links)
}

fn down(cluster: &Cluster, indexes: Vec<usize>, power: bool) -> Ending {
    for index in &indexes {
        let machine = &cluster.members[*index].machine;
        // A paused process must be able to end.
        machine.resume();
        if power { machine.power_loss() } else { machine.kill() }
    }
    Ending::Boot(indexes)
}

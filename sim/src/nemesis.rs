//! Makes a plan's faults happen, and end.

mod disk;

use std::collections::BTreeMap;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::atlas::Fall;
use crate::cluster::Cluster;
use crate::plan::{DiskFault, Fault, FaultKind, Plan, Victim};
use crate::platform::{LinkProfile, SimRuntime, global_now};
use crate::trace::Event;

const MS: u64 = 1_000_000;

/// A fault that is to end, or goes on.
enum Ending {
    Open(Vec<(u32, u32)>),
    Flow(Vec<(u32, u32)>),
    Latency,
    Boot(Vec<usize>),
    Resume(usize),
    /// The host of a node that has stopped by itself ends, with its power if the plan says so.
    Bury {
        index: usize,
        power: bool,
        for_ms: u64,
    },
    /// The journal of its disk has been cut.
    Cut(usize),
    Space(usize),
    Speed(usize),
}

/// Makes the faults of a plan happen.
pub struct Nemesis<'a> {
    plan: &'a Plan,
    /// When what ends: nanoseconds, and a number that keeps the order of those that end together.
    agenda: BTreeMap<(u64, u64), Ending>,
    last_number: u64,
    /// How many faults of each class there were.
    pub counts: BTreeMap<&'static str, u64>,
    /// What the plan has in store for nodes whose disk is to fail, and for those that are to be cut.
    orders: Vec<(usize, DiskFault, u64)>,
}

impl<'a> Nemesis<'a> {
    /// Sets the traps that are there before the first process starts.
    pub fn new(plan: &'a Plan, cluster: &mut Cluster) -> Self {
        let mut nemesis =
            Self { plan, agenda: BTreeMap::new(), last_number: 0, counts: BTreeMap::new(), orders: Vec::new() };
        for fault in plan.faults.iter().filter(|fault| fault.at_ms == 0) {
            nemesis.begin(cluster, fault);
        }
        nemesis
    }

    /// Runs the faults against the cluster, until the time of healing.
    pub async fn torment(&mut self, cluster: &mut Cluster) {
        let plan = self.plan;
        let mut faults = plan.faults.iter().filter(|fault| fault.at_ms > 0).peekable();
        let heal = plan.heal_ms * MS;
        loop {
            let next_fault = faults.peek().map_or(heal, |fault| fault.at_ms * MS);
            let next_ending = self.agenda.first_key_value().map_or(heal, |((at, _), _)| *at);
            let next = next_fault.min(next_ending).min(heal);
            let bell = cluster.bell.clone();
            // Over early if somebody rings.
            let rest = Duration::from_nanos(next.saturating_sub(global_now()));
            let _ = SimRuntime::timeout(rest, bell.wait()).await;
            self.look(cluster);
            let now = global_now();
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
                let ending = entry.remove();
                self.end(cluster, ending);
            }
            if now >= heal {
                return;
            }
            while let Some(fault) = faults.next_if(|fault| fault.at_ms * MS <= now) {
                self.begin(cluster, fault);
            }
        }
    }

    /// Ends everything that is wrong: links open, disks work, machines run.
    pub fn heal(&mut self, cluster: &mut Cluster) {
        cluster.world.network().heal_all();
        self.end(cluster, Ending::Latency);
        for index in 0..cluster.members.len() {
            self.end(cluster, Ending::Resume(index));
            self.end(cluster, Ending::Space(index));
            self.end(cluster, Ending::Speed(index));
            cluster.members[index].machine.drive().disarm();
            self.end(cluster, Ending::Cut(index));
        }
        // A host that lingers is not waited for.
        for ending in std::mem::take(&mut self.agenda).into_values() {
            self.end(cluster, ending);
        }
        cluster.raise();
        cluster.boot_all();
    }

    fn at(&mut self, at: u64, ending: Ending) {
        self.last_number += 1;
        self.agenda.insert((at, self.last_number), ending);
    }

    fn later(&mut self, for_ms: u64, ending: Ending) {
        self.at(global_now() + for_ms * MS, ending);
    }

    /// Processes that have ended by themselves, and disks that are about to stand still.
    fn look(&mut self, cluster: &mut Cluster) {
        for index in 0..cluster.members.len() {
            let member = &mut cluster.members[index];
            let running = member.machine.is_running();
            match member.take_fall().filter(|_| running) {
                Some(Fall::DiskFailed) => self.disk_failed(index),
                Some(Fall::StoreDamaged) => self.later(0, Ending::Bury { index, power: false, for_ms: 50 }),
                Some(Fall::Gone) => member.machine.kill(),
                None => {}
            }
            let cut = cluster.members[index].machine.drive().cut().map(|(at, _)| at);
            let known = self.agenda.values().any(|ending| matches!(ending, Ending::Cut(known) if *known == index));
            if let Some(at) = cut.filter(|_| !known) {
                self.at(at, Ending::Cut(index));
            }
        }
    }

    fn begin(&mut self, cluster: &mut Cluster, fault: &Fault) {
        *self.counts.entry(fault.kind.class()).or_default() += 1;
        let text = fault.kind.to_string();
        let (at, numbers) = (global_now(), [fault.for_ms, 0]);
        cluster.world.trace().event(Event { at, node: 0, kind: "fault", subject: &text, numbers, payload: &[] });
        let ending = match &fault.kind {
            FaultKind::Disk(kind) => self.begin_disk(cluster, kind, fault.for_ms),
            _ => begin(cluster, fault),
        };
        if let Some(ending) = ending {
            self.later(fault.for_ms, ending);
        }
    }

    fn end(&mut self, cluster: &mut Cluster, ending: Ending) {
        let network = cluster.world.network();
        match ending {
            Ending::Open(links) => links.iter().for_each(|(from, to)| network.unblock(*from, *to)),
            Ending::Flow(links) => links.iter().for_each(|(from, to)| network.unclog(*from, *to)),
            Ending::Latency => {
                let usual = LinkProfile { latency_ns: self.plan.setup.latency_us * 1_000, ..LinkProfile::default() };
                network.set_profile(&usual);
            }
            Ending::Boot(indexes) => indexes.into_iter().for_each(|index| cluster.boot(index)),
            Ending::Resume(index) => cluster.members[index].machine.resume(),
            Ending::Bury { index, power, for_ms } => {
                let ending = down(cluster, vec![index], power);
                self.later(for_ms, ending);
            }
            Ending::Cut(index) => self.cut(cluster, index),
            Ending::Space(index) => cluster.limit(index, None),
            Ending::Speed(index) => cluster.slow_down(index, 1),
        }
    }
}

fn victim(cluster: &Cluster, victim: Victim) -> usize {
    match victim {
        Victim::Node(node) => node as usize - 1,
        Victim::Leader => cluster.leader().unwrap_or(0),
    }
}

fn begin(cluster: &Cluster, fault: &Fault) -> Option<Ending> {
    let nodes = cluster.members.len() as u32;
    let index = |whom: &Victim| victim(cluster, *whom);
    let leader = index(&Victim::Leader) as u32 + 1;
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
        // Elsewhere.
        FaultKind::Disk(_) => None,
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

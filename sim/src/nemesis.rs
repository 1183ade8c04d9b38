//! Makes a plan's faults happen, and end.

mod core;
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::atlas::Fall;
use crate::cluster::Cluster;
use crate::plan::{DiskFault, Fault, FaultKind, MemberFault, Plan, Victim};
use crate::platform::{Detained, LinkProfile, SimRuntime, global_now};
use crate::trace::Event;

const MS: u64 = 1_000_000;

/// A fault that is to end, or goes on.
enum Ending {
    Open(Vec<(u32, u32)>),
    Flow(Vec<(u32, u32)>),
    Latency,
    /// A node is no longer clogged.
    Free(u32),
    /// Connects work again.
    Connect(u32, u32),
    /// The sender learns that its connections are broken; so many milliseconds later its bytes arrive.
    Strand(Detained, u64),
    Arrive(Detained),
    /// A clock drifts as it did at first.
    Rate(usize),
    Boot(Vec<usize>),
    /// A process that was asked to stop has had its time: whose, and which of the machine's it was.
    Again(usize, u64),
    /// A machine whose member is out may come back.
    Back,
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
    /// Nodes with all links clogged.
    clogged: BTreeSet<u32>,
}

impl<'a> Nemesis<'a> {
    /// Sets the traps that are there before the first process starts.
    pub fn new(plan: &'a Plan, cluster: &mut Cluster) -> Self {
        let mut nemesis = Self {
            plan,
            agenda: BTreeMap::new(),
            last_number: 0,
            counts: BTreeMap::new(),
            orders: Vec::new(),
            clogged: BTreeSet::new(),
        };
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
        let (at, kind) = (global_now(), "fault heal");
        cluster.world.trace().event(Event { at, node: 0, kind, subject: "", numbers: [0, 0], payload: &[] });
        cluster.world.network().heal_all();
        self.end(cluster, Ending::Latency);
        (0..cluster.members.len()).for_each(|index| self.mend(cluster, index));
        // A host that lingers is not waited for; what an ending leads to is over, too.
        while !self.agenda.is_empty() {
            for ending in std::mem::take(&mut self.agenda).into_values() {
                self.end(cluster, ending);
            }
        }
        cluster.raise();
        cluster.boot_all();
    }

    /// Ends everything that is wrong with a machine, and with what runs on it.
    fn mend(&mut self, cluster: &mut Cluster, index: usize) {
        self.end(cluster, Ending::Resume(index));
        self.end(cluster, Ending::Space(index));
        self.end(cluster, Ending::Speed(index));
        self.end(cluster, Ending::Rate(index));
        cluster.members[index].machine.drive().disarm();
        self.end(cluster, Ending::Cut(index));
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
                Some(Fall::Gone | Fall::Removed) => member.machine.kill(),
                None => {}
            }
            self.note_cut(cluster, index);
        }
        cluster.attend(global_now());
    }

    /// A disk that is cut, or is about to be, is soon without power.
    fn note_cut(&mut self, cluster: &Cluster, index: usize) {
        let cut = cluster.members[index].machine.drive().cut().map(|(at, _)| at);
        let known = self.agenda.values().any(|ending| matches!(ending, Ending::Cut(known) if *known == index));
        if let Some(at) = cut.filter(|_| !known) {
            self.at(at, Ending::Cut(index));
        }
    }

    fn begin(&mut self, cluster: &mut Cluster, fault: &Fault) {
        *self.counts.entry(fault.kind.class()).or_default() += 1;
        let text = fault.kind.to_string();
        let struck: Vec<String> = struck(cluster, &fault.kind).into_iter().map(|node| format!("n{node}")).collect();
        let (at, numbers, payload) = (global_now(), [fault.for_ms, 0], struck.join(" "));
        let payload = payload.as_bytes();
        cluster.world.trace().event(Event { at, node: 0, kind: "fault", subject: &text, numbers, payload });
        let ending = match &fault.kind {
            FaultKind::Disk(kind) => self.begin_disk(cluster, kind, fault.for_ms),
            FaultKind::Member(kind) => begin_member(cluster, *kind, fault.for_ms),
            FaultKind::Clog(node) => Some(self.clog(cluster, *node)),
            FaultKind::LateBytes(from, to) => {
                let detained = cluster.world.network().detain(*from, *to);
                self.later(fault.for_ms / 2, Ending::Strand(detained, fault.for_ms.div_ceil(2)));
                None
            }
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
            Ending::Free(node) => {
                self.clogged.remove(&node);
                for other in (1..=self.plan.machines()).filter(|other| !self.clogged.contains(other)) {
                    both((node, other)).for_each(|(from, to)| network.unclog(from, to));
                }
            }
            Ending::Connect(a, b) => both((a, b)).for_each(|(from, to)| network.connect_again(from, to)),
            Ending::Strand(detained, for_ms) => {
                network.strand(&detained);
                self.later(for_ms, Ending::Arrive(detained));
            }
            Ending::Arrive(detained) => network.let_go(&detained),
            Ending::Rate(index) => {
                if self.plan.has_clocks() {
                    let usual = self.plan.setup.clocks.get(index).map_or(0, |clock| clock.drift_ppm);
                    cluster.members[index].machine.set_clock_drift(usual);
                }
            }
            Ending::Boot(indexes) => indexes.into_iter().for_each(|index| cluster.boot(index)),
            Ending::Again(index, incarnation) => cluster.stopped_long_enough(index, incarnation),
            Ending::Back => cluster.attend(global_now()),
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

impl Nemesis<'_> {
    fn clog(&mut self, cluster: &Cluster, node: u32) -> Ending {
        self.clogged.insert(node);
        for other in (1..=self.plan.machines()).filter(|other| *other != node) {
            both((node, other)).for_each(|(from, to)| cluster.world.network().clog(from, to));
        }
        Ending::Free(node)
    }
}

fn victim(cluster: &Cluster, victim: Victim) -> usize {
    match victim {
        Victim::Node(node) => node as usize - 1,
        Victim::Leader => cluster.leader().unwrap_or(0),
    }
}

/// The nodes that a fault befalls, as things stand.
fn struck(cluster: &Cluster, kind: &FaultKind) -> Vec<u32> {
    match kind {
        FaultKind::Latency(_)
        | FaultKind::PowerLossAll
        | FaultKind::KillAll
        | FaultKind::Member(MemberFault::MoveAll) => (1..=cluster.members.len() as u32).collect(),
        kind => kind.victims().into_iter().map(|whom| victim(cluster, whom) as u32 + 1).collect(),
    }
}

fn begin(cluster: &mut Cluster, fault: &Fault) -> Option<Ending> {
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
        FaultKind::HalfOpen(a, b) => {
            cluster.world.network().forget_connections(*a, *b);
            None
        }
        FaultKind::ConnectHang(a, b) => {
            both((*a, *b)).for_each(|(from, to)| cluster.world.network().refuse(from, to));
            Some(Ending::Connect(*a, *b))
        }
        FaultKind::ClockStep(victim, ms) => {
            cluster.members[index(victim)].machine.step_clock(Duration::from_millis(*ms));
            None
        }
        FaultKind::ClockDrift(victim, ppm) => {
            cluster.members[index(victim)].machine.set_clock_drift(*ppm);
            Some(Ending::Rate(index(victim)))
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
        FaultKind::Disk(_) | FaultKind::Clog(_) | FaultKind::LateBytes(..) | FaultKind::Member(_) => None,
    }
}

fn both((a, b): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    [(a, b), (b, a)].into_iter()
}

fn block(cluster: &Cluster, links: Vec<(u32, u32)>) -> Ending {
    links.iter().for_each(|(from, to)| cluster.world.network().block(*from, *to));
    Ending::Open(links)
}

fn down(cluster: &mut Cluster, mut indexes: Vec<usize>, power: bool) -> Ending {
    indexes.retain(|index| cluster.end(*index, power));
    Ending::Boot(indexes)
}

fn begin_member(cluster: &mut Cluster, fault: MemberFault, for_ms: u64) -> Option<Ending> {
    match fault {
        MemberFault::Restart(whom) => {
            let index = victim(cluster, whom);
            cluster.ask_to_stop(index).map(|incarnation| Ending::Again(index, incarnation))
        }
        MemberFault::Remove(whom) => {
            let index = victim(cluster, whom);
            let back_ns = global_now() + for_ms * MS;
            cluster.order_removal(index, back_ns).then_some(Ending::Back)
        }
        MemberFault::Replace(node) => {
            cluster.order_replacement(node as usize - 1);
            Some(Ending::Back)
        }
        MemberFault::Transfer(node) => {
            cluster.ask_to_lead(node);
            None
        }
        MemberFault::Move(whom) => {
            let index = victim(cluster, whom);
            Some(move_house(cluster, vec![index]))
        }
        MemberFault::MoveAll => Some(move_house(cluster, (0..cluster.members.len()).collect())),
    }
}

fn move_house(cluster: &mut Cluster, mut indexes: Vec<usize>) -> Ending {
    // A founding list is the same everywhere: nobody moves in the middle of that.
    indexes.retain(|index| cluster.is_founded() && cluster.end(*index, false));
    cluster.move_house(&indexes);
    Ending::Boot(indexes)
}

//! Whole foundings, with crashes at any point, lost disks, broken links and nodes that come late, in any order.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::decide::promises_needed;
use super::*;
use crate::types::NodeId;

const GRACE: Duration = Duration::from_secs(10);

/// What a node has on its disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    promise: Option<Promise>,
    founded: Option<FoundingRecord>,
    joined: Option<ClusterId>,
}

#[derive(Debug)]
struct Node {
    name: String,
    id: u64,
    disk: Disk,
    /// While it runs and belongs to no cluster.
    process: Option<Founding>,
    running: bool,
    /// Of this start.
    age: Duration,
}

/// A step of a run. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    /// The first looks at the second.
    See(usize, usize),
    /// The first cannot reach the second.
    Miss(usize, usize),
    Act(usize),
    /// It acts, and crashes: before it is durable, or before anybody is told.
    ActAndCrash(usize, bool),
    Crash(usize),
    Start(usize),
    Wipe(usize),
    /// Time passes for one.
    Wait(usize),
}

#[derive(Debug)]
struct World {
    list: FoundingList,
    nodes: Vec<Node>,
    /// All records that were founded.
    founded: Vec<FoundingRecord>,
    /// Ids whose disk is lost.
    wiped: BTreeSet<u64>,
    next_id: u64,
}

impl World {
    fn new(size: usize) -> Self {
        let names: Vec<_> = (0..size).map(|n| format!("n{n}")).collect();
        let members = names.iter().map(|name| (name.clone(), vec![format!("{name}:1")])).collect();
        let node = |(n, name)| {
            let (disk, age) = (Disk::default(), Duration::ZERO);
            // Not in the order of names.
            Node { name, id: 1000 - n as u64 * 7 % 5, disk, process: None, running: false, age }
        };
        let nodes = names.into_iter().enumerate().map(node).collect();
        let list = FoundingList { token: "t".to_owned(), members };
        Self { list, nodes, founded: Vec::new(), wiped: BTreeSet::new(), next_id: 2000 }
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.running {
            return;
        }
        (node.running, node.age) = (true, Duration::ZERO);
        if node.disk.founded.is_none() && node.disk.joined.is_none() {
            let card = Card { name: node.name.clone(), node_id: node.id, ..Card::default() };
            let kept = node.disk.promise.clone();
            node.process = Some(Founding::new(self.list.clone(), card, kept, GRACE).expect("it is listed"));
        }
    }

    fn crash(&mut self, at: usize) {
        (self.nodes[at].running, self.nodes[at].process) = (false, None);
    }

    fn wipe(&mut self, at: usize) {
        self.crash(at);
        let node = &mut self.nodes[at];
        self.wiped.insert(node.id);
        (node.id, node.disk) = (self.next_id, Disk::default());
        self.next_id += 1;
    }

    fn card(&self, at: usize) -> Option<Card> {
        let node = &self.nodes[at];
        let base = Card { name: node.name.clone(), node_id: node.id, ..Card::default() };
        match (&node.process, &node.disk) {
            _ if !node.running => None,
            (Some(process), _) => Some(process.card().clone()),
            (None, Disk { founded: Some(record), .. }) => {
                Some(Card { cluster: record.cluster_id().0, record: Some(record.clone()), ..base })
            }
            (None, Disk { joined: Some(cluster), .. }) => Some(Card { cluster: cluster.0, ..base }),
            (None, _) => None,
        }
    }

    fn see(&mut self, at: usize, other: usize) {
        let (card, name) = (self.card(other), self.nodes[other].name.clone());
        let Some(process) = &mut self.nodes[at].process else { return };
        if at == other {
            return;
        }
        match card.map(|card| process.handle_card(&name, card)) {
            None => process.handle_silence(&name),
            Some(Ok(())) => {}
            Some(Err(_)) if !matches!(process.decide(), Decision::Ask { .. }) => {}
            // It stops itself: an operator has to act.
            Some(Err(FoundingError::Changed(_))) => self.crash(at),
            Some(Err(error)) => panic!("{error}"),
        }
    }

    /// One thing that it decides; `durable` says whether that gets onto the disk.
    fn act(&mut self, at: usize, durable: bool) -> bool {
        let node = &mut self.nodes[at];
        let Some(process) = &mut node.process else { return false };
        match process.decide() {
            Decision::Ask { .. } => return false,
            Decision::Keep(promise) if durable => {
                node.disk.promise = Some(promise.clone());
                process.kept(promise);
            }
            Decision::Found(record) => {
                // It is, whether this node gets to write it down or not.
                if durable {
                    (node.disk.founded, node.process) = (Some(record.clone()), None);
                }
                self.founded.push(record);
            }
            Decision::Join { cluster, .. } if durable => (node.disk.joined, node.process) = (Some(cluster), None),
            Decision::Keep(_) | Decision::Join { .. } => {}
        }
        true
    }

    fn step(&mut self, step: &Step) {
        let size = self.nodes.len();
        let at = |n: usize| n % size;
        match *step {
            Step::See(a, b) => self.see(at(a), at(b)),
            Step::Miss(a, b) => {
                let (a, b) = (at(a), at(b));
                let name = self.nodes[b].name.clone();
                if let Some(process) = self.nodes[a].process.as_mut().filter(|_| a != b) {
                    process.handle_silence(&name);
                }
            }
            Step::Act(a) => _ = self.act(at(a), true),
            Step::ActAndCrash(a, durable) => {
                let a = at(a);
                self.act(a, durable);
                self.crash(a);
            }
            Step::Crash(a) => self.crash(at(a)),
            Step::Start(a) => self.start(at(a)),
            Step::Wipe(a) => self.wipe(at(a)),
            Step::Wait(a) => {
                let node = &mut self.nodes[at(a)];
                node.age += GRACE / 2;
                let age = node.age;
                if let Some(process) = &mut node.process {
                    process.handle_time(age);
                }
            }
        }
    }

    /// Everybody who runs sees everybody, and acts; time passes.
    fn round(&mut self) {
        for at in 0..self.nodes.len() {
            self.step(&Step::Wait(at));
            (0..self.nodes.len()).for_each(|other| self.see(at, other));
            while self.act(at, true) {}
        }
    }

    /// Whether so many founders of the first record have lost their disk that nothing is promised any more.
    fn is_beyond(&self) -> bool {
        let founders = self.founded.first().map(|record| record.membership().members).unwrap_or_default();
        let wiped = founders.keys().filter(|NodeId(id)| self.wiped.contains(id)).count();
        wiped > founders.len().saturating_sub(1) / 2
    }

    fn clusters(&self) -> BTreeSet<ClusterId> {
        self.founded.iter().map(FoundingRecord::cluster_id).collect()
    }

    fn outside(&self) -> usize {
        self.nodes.iter().filter(|node| node.running && node.process.is_some()).count()
    }
}

/// `wipes` is the weight of lost disks.
fn steps(wipes: u32) -> impl Strategy<Value = Vec<Step>> {
    let n = 0..60_usize;
    let step = prop_oneof![
        30 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::See(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Miss(a, b)),
        20 => n.clone().prop_map(Step::Act),
        2 => (n.clone(), any::<bool>()).prop_map(|(a, durable)| Step::ActAndCrash(a, durable)),
        1 => n.clone().prop_map(Step::Crash),
        6 => n.clone().prop_map(Step::Start),
        wipes => n.clone().prop_map(Step::Wipe),
        5 => n.prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..400)
}

fn some_running(world: &mut World, running: u8) {
    (0..world.nodes.len()).filter(|n| running & (1 << n) != 0).for_each(|n| world.start(n));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever happens, there is one cluster, unless the founders of the first have lost more disks than they may. Where
    /// no disk was lost, all nodes come into it when they are up for a while.
    #[test]
    fn no_two_are_founded_and_in_the_end_all_are_in(
        size in 1..8_usize,
        running in any::<u8>(),
        steps in prop_oneof![steps(0), steps(1)],
    ) {
        let mut world = World::new(size);
        some_running(&mut world, running);
        for step in &steps {
            world.step(step);
            prop_assert!(world.clusters().len() < 2 || world.is_beyond(), "{:?}", world);
        }
        if world.wiped.is_empty() {
            (0..size).for_each(|at| world.start(at));
            (0..12).for_each(|_| world.round());
            prop_assert_eq!(world.clusters().len(), 1, "{:?}", world);
            prop_assert_eq!(world.outside(), 0, "{:?}", world);
        }
    }

    /// So many that reach each other are enough, whatever the others do before they stop, as long as none of those was
    /// asked to be a founder.
    #[test]
    fn as_many_as_are_needed_found_in_the_end(size in 1..8_usize, shift in 0..8_usize, steps in steps(0)) {
        let mut world = World::new(size);
        let up: Vec<_> = (0..promises_needed(size)).map(|n| (n + shift) % size).collect();
        up.iter().for_each(|at| world.start(*at));
        // The steps are theirs alone; they are not started again by others' numbers.
        for step in &steps {
            let mine = |n: &usize| up.contains(&(n % size));
            let theirs = match step {
                Step::See(a, b) | Step::Miss(a, b) => mine(a) && mine(b),
                Step::Act(a) | Step::ActAndCrash(a, _) | Step::Crash(a) | Step::Start(a) | Step::Wipe(a) | Step::Wait(a) => mine(a),
            };
            if theirs {
                world.step(step);
            }
        }
        up.iter().for_each(|at| world.start(*at));
        (0..12).for_each(|_| world.round());
        prop_assert_eq!(world.clusters().len(), 1, "{:?}", world);
        prop_assert_eq!(world.outside(), 0, "{:?}", world);
    }
}

/// The limit that the module's documentation names, step by step: so a second cluster is something that this model sees.
#[test]
fn of_two_founders_one_that_is_wiped_may_found_again_with_a_third_that_nobody_had_seen() {
    let mut world = World::new(3);
    [0, 1].iter().for_each(|at| world.start(*at));
    (0..6).for_each(|_| world.round());
    assert_eq!(world.clusters().len(), 1);
    world.wipe(1);
    world.crash(0);
    [1, 2].iter().for_each(|at| world.start(*at));
    (0..6).for_each(|_| world.round());
    assert!(world.clusters().len() == 2 && world.is_beyond());
}

/// Where all three are founders it may not: not even before the third has learnt of the founding.
#[test]
fn of_three_founders_one_that_is_wiped_founds_nothing_with_another_one() {
    for (wiped, other, away) in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)] {
        let mut world = World::new(3);
        (0..3).for_each(|at| world.start(at));
        while world.founded.is_empty() {
            for at in 0..3 {
                (0..3).for_each(|other| world.see(at, other));
                world.act(at, true);
            }
        }
        world.wipe(wiped);
        world.crash(away);
        world.crash(other);
        [wiped, other].iter().for_each(|at| world.start(*at));
        (0..9).for_each(|_| world.round());
        assert!(world.clusters().len() == 1 && !world.is_beyond());
    }
}

//! The nodes of a run: machines that boot production's [`Node`], and boot it again after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftLogReader, ServerState, storage::RaftLogStorage};
use openraft_rt::AsyncRuntime;
use quorate_core::StateMachine;
use quorate_core::config::Timing;
use quorate_core::disk::Wake;
use quorate_core::founding::FoundingList;
use quorate_io::types::vote_from;
use quorate_io::{Node, NodeConfig, Storage};

use crate::atlas::{Atlas, DAMAGE_IS_FOUND, DATA_DIR, Fall, KEEPS_WHOLE_STORES, is_vital_failure};
use crate::check::history::Violation;
use crate::check::raft::LogEntry;
use crate::operator::Order;
use crate::plan::Plan;
use crate::platform::{
    DiskProfile, Drive, FileClass, LinkProfile, Machine, SimPlatform, SimRuntime, SimWake, World, WorldConfig,
    global_now,
};
use crate::witness::{NO_SPONTANEOUS_STOP, Observed, Witness, hash};
use crate::{Event, Trace};

/// A process that is up.
#[derive(Clone)]
pub struct Live {
    /// Production's node.
    pub node: Node<SimPlatform>,
    /// Which of the machine's processes it is, from 1.
    pub incarnation: u64,
}

/// A machine, and the process that is up on it, if any.
pub type Door = (Machine, Arc<dyn Fn() -> Option<Live> + Send + Sync>);

/// One machine and what runs on it.
pub struct Member {
    /// Its hardware.
    pub machine: Machine,
    config: NodeConfig,
    live: Arc<Mutex<Option<Live>>>,
    boots: u64,
    /// Why the process that runs, or the last one, has ended by itself.
    fallen: Arc<Mutex<Option<Fall>>>,
    /// The same, for the next process to be known as one that came back.
    last_fall: Option<Fall>,
    /// How much slower its disk is than it should be.
    slowness: u64,
    capacity_bytes: Option<u64>,
    /// Its node has noticed that its disk was full, and has not been seen to recover.
    was_full: bool,
    /// How often its address has changed.
    moves: u32,
    /// The same of every member, when its process started.
    moves_at_start: Vec<u32>,
}

impl Member {
    /// The process, once it is up and as long as it is.
    pub fn live(&self) -> Option<Live> {
        self.door().1()
    }

    /// A way to this machine that outlives restarts.
    pub fn door(&self) -> Door {
        let (machine, live) = (self.machine.clone(), self.live.clone());
        let running = machine.clone();
        let process =
            move || live.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| running.is_running());
        (machine, Arc::new(process))
    }

    fn host(&self) -> String {
        match self.moves {
            0 => self.config.name.clone(),
            moves => format!("{}-{moves}", self.config.name),
        }
    }

    /// Why its process has ended by itself, if it has and nobody was told.
    pub fn take_fall(&mut self) -> Option<Fall> {
        let fall = self.fallen.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.last_fall = fall.or(self.last_fall);
        fall
    }

    /// Whether the process that runs has met a failure of its disk that it must not survive.
    pub fn must_stop(&self) -> bool {
        self.machine.is_running() && is_vital_failure(self.machine.drive())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the state machine of a process that starts.
pub type Machines = Box<dyn Fn() -> Arc<dyn StateMachine> + Send>;

/// All machines of a run.
pub struct Cluster {
    /// Where they are.
    pub world: World,
    /// In order, from node 1.
    pub members: Vec<Member>,
    /// What may be damaged and what was.
    pub atlas: Atlas,
    /// Rung when a member or its disk needs to be looked at.
    pub bell: SimWake,
    witness: Witness,
    disk: DiskProfile,
    machines: Machines,
    /// Whether nodes keep everything in memory.
    memory: bool,
    /// What operators are about.
    orders: Vec<Order>,
    canary: bool,
}

impl Cluster {
    /// Machines that are switched off.
    pub fn new(plan: &Plan, machines: Machines, (witness, atlas): (Witness, Atlas), trace: Trace) -> Self {
        let disk = DiskProfile {
            sync_ns_max: plan.setup.sync_us_max * 1_000,
            sync_ns_min: plan.setup.sync_us_max * 200,
            write_ns_per_kib: 60 + plan.setup.us_per_kib * 1_000,
            flush_ns_per_kib: 500 + plan.setup.us_per_kib * 1_000,
            stall_per_mille: plan.setup.sync_stall_per_mille,
            stall_ns_max: 200_000_000,
            ..DiskProfile::default()
        };
        let link = LinkProfile { latency_ns: plan.setup.latency_us * 1_000, ..LinkProfile::default() };
        let world = World::new(WorldConfig { seed: plan.seed, disk: disk.clone(), link, trace });
        let bell = SimWake::default();
        let members = (1..=plan.machines()).map(|n| {
            let machine = world.machine(&format!("n{n}"));
            machine.drive().set_bell(bell.clone());
            if plan.has_clocks() {
                let clock = plan.setup.clocks.get(n as usize - 1).copied().unwrap_or_default();
                machine.set_clock_drift(clock.drift_ppm);
                machine.step_clock(Duration::from_millis(clock.offset_ms));
            }
            Member {
                machine,
                config: config(plan, n),
                live: Arc::default(),
                boots: 0,
                fallen: Arc::default(),
                last_fall: None,
                slowness: 1,
                capacity_bytes: None,
                was_full: false,
                moves: 0,
                moves_at_start: Vec::new(),
            }
        });
        let members = members.collect();
        (plan.nodes + 1..=plan.machines()).for_each(|spare| atlas.sets_aside(spare));
        let (memory, canary) = (plan.setup.memory, plan.canary);
        Self { world, members, atlas, bell, witness, disk, machines, memory, orders: Vec::new(), canary }
    }

    /// All disks, from node 1.
    pub fn drives(&self) -> Vec<Drive> {
        self.members.iter().map(|member| member.machine.drive().clone()).collect()
    }

    /// From now on a disk is so many times slower than it should be.
    pub fn slow_down(&mut self, index: usize, times: u64) {
        self.members[index].slowness = times;
        self.set_profile(index);
    }

    /// From now on a disk holds so much; `None` is endless.
    pub fn limit(&mut self, index: usize, capacity_bytes: Option<u64>) {
        let member = &mut self.members[index];
        let limited = std::mem::replace(&mut member.capacity_bytes, capacity_bytes).is_some();
        if limited && member.live().is_some_and(|live| live.node.disk_full()) {
            member.was_full = true;
            self.witness.reached("disks that were full for a while");
        }
        self.set_profile(index);
    }

    /// Everything is as it should be again, on the disks that were full too.
    pub fn recovered(&mut self) {
        for member in &mut self.members {
            if std::mem::take(&mut member.was_full) && member.live().is_some() {
                self.witness.reached("nodes that recovered from a full disk");
            }
        }
    }

    fn set_profile(&self, index: usize) {
        let (member, usual) = (&self.members[index], &self.disk);
        let profile = DiskProfile {
            op_ns: usual.op_ns * member.slowness,
            write_ns_per_kib: usual.write_ns_per_kib * member.slowness,
            sync_ns_min: usual.sync_ns_min * member.slowness,
            sync_ns_max: usual.sync_ns_max * member.slowness,
            flush_ns_per_kib: usual.flush_ns_per_kib * member.slowness,
            capacity_bytes: member.capacity_bytes,
            ..usual.clone()
        };
        member.machine.drive().set_profile(profile);
    }

    /// The members of whom something may be demanded.
    pub fn sound(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| self.atlas.is_sound(member.machine.node()))
    }

    /// Ends every process that has ended by itself, and starts it again if that makes sense; whether there was one.
    pub fn raise(&mut self) -> bool {
        self.raise_of(|_| true)
    }

    /// The same of some, by index.
    pub fn raise_of(&mut self, wanted: impl Fn(usize) -> bool) -> bool {
        let mut any = false;
        for index in (0..self.members.len()).filter(|index| wanted(*index)) {
            if self.members[index].take_fall().is_some() {
                any = true;
                self.members[index].machine.kill();
                self.boot(index);
            }
        }
        any
    }

    /// Starts every process that is not running.
    pub fn boot_all(&mut self) {
        for index in 0..self.members.len() {
            self.boot(index);
        }
    }

    /// Starts a process, if none is running there and the node is not gone.
    pub fn boot(&mut self, index: usize) {
        let moves = self.members.iter().map(|member| member.moves).collect();
        let member = &mut self.members[index];
        let number = member.machine.node();
        if member.machine.is_running() || self.atlas.is_gone(number) {
            return;
        }
        member.moves_at_start = moves;
        if self.memory && member.boots > 0 {
            self.witness.begin_life(number);
        }
        member.boots += 1;
        self.atlas.booting(number);
        *member.slot() = None;
        member.take_fall();
        let torn = if self.atlas.has_damaged_log(number) || self.memory {
            self.witness.discard(number);
            false
        } else {
            self.witness.booting(number, member.machine.drive())
        };
        let boot = Boot {
            number,
            incarnation: member.boots,
            torn,
            fell: member.last_fall.take(),
            machine: member.machine.clone(),
            live: member.live.clone(),
            fallen: member.fallen.clone(),
            atlas: self.atlas.clone(),
            bell: self.bell.clone(),
            witness: self.witness.clone(),
            trace: self.world.trace().clone(),
        };
        let (witness, machine) = (self.witness.clone(), (self.machines)());
        let (atlas, twice) = (self.atlas.clone(), self.canary && number == 1);
        let machine = Observed { node: number, witness, machine, atlas, twice };
        let config = member.config.clone();
        drop(member.machine.boot(move |platform| boot.run(platform, config, machine)));
    }

    /// Takes the process of a machine, or its power, unless too much would be lost with it; whether it is down.
    pub fn end(&mut self, index: usize, power: bool) -> bool {
        let machine = &self.members[index].machine;
        if machine.is_running() && !self.atlas.may_end(&self.drives(), machine.node()) {
            return false;
        }
        if self.leader() == Some(index) {
            let timing = self.members[index].config.timing;
            self.witness.leader_ends(timing.election_timeout_max_ms() * 1_000_000);
        }
        // A paused process must be able to end.
        machine.resume();
        if power {
            machine.power_loss()
        } else {
            machine.kill()
        }
        true
    }

    /// Asks a process to stop in good order, unless too much would be lost with it; which of the machine's processes it is,
    /// if it was asked.
    pub fn ask_to_stop(&mut self, index: usize) -> Option<u64> {
        let member = &self.members[index];
        let live = member.live().filter(|_| self.atlas.may_end(&self.drives(), member.machine.node()))?;
        let incarnation = live.incarnation;
        let witness = self.witness.clone();
        drop(member.machine.spawn(async move {
            if live.node.stop().await.is_ok() {
                witness.reached("nodes that were stopped in good order");
            }
        }));
        Some(incarnation)
    }

    /// A process that was asked to stop has had its time: it ends, and another one starts, unless that is so already.
    pub fn stopped_long_enough(&mut self, index: usize, incarnation: u64) {
        if self.members[index].boots == incarnation {
            self.start_again(index);
        }
    }

    /// Ends the process that runs, and starts another. What may be lost with it was asked before.
    fn start_again(&mut self, index: usize) {
        self.members[index].machine.resume();
        self.members[index].machine.kill();
        self.boot(index);
    }

    /// A machine loses its disk and what runs on it.
    pub fn wipe(&mut self, index: usize) {
        let machine = &self.members[index].machine;
        // A paused process must be able to end.
        machine.resume();
        machine.wipe();
        // What was still to befall the old disk befalls no other.
        machine.drive().disarm();
        self.atlas.empties_disk(machine.node());
        self.witness.begin_life(machine.node());
    }

    /// Whether all founders know that there is a cluster.
    pub fn is_founded(&self) -> bool {
        self.atlas.is_cluster_founded(&self.drives())
    }

    /// Machines that are down get other addresses, and whoever starts from now on is told.
    pub fn move_house(&mut self, indexes: &[usize]) {
        for index in indexes {
            let member = &mut self.members[*index];
            let (number, before) = (member.machine.node(), member.host());
            member.moves += 1;
            self.witness.reached("machines that got another address");
            let (host, network) = (member.host(), self.world.network());
            network.unmap(&before);
            network.map(&host, number);
            let addr = format!("{host}:2380");
            member.config.peer_listen.clone_from(&addr);
            member.config.peer_addrs = vec![addr];
        }
        let addrs = self.addrs();
        for index in 0..self.members.len() {
            let (rebuilds, waits) = (self.rebuilds(index), self.waits(index));
            let config = &mut self.members[index].config;
            config.founding.members.iter_mut().for_each(|(name, listed)| listed.clone_from(&addrs[name]));
            // The list names founders alone: who moves is told of the others, too.
            if rebuilds || !config.join.is_empty() || indexes.contains(&index) {
                config.join = addrs.values().flatten().cloned().collect();
            }
            if rebuilds || waits {
                self.start_again(index);
            }
        }
    }

    /// Whether a node waits to be admitted: known to nobody, it would ask at the old addresses for ever. A configuration that
    /// names it and is not committed may be lost with its leader.
    fn waits(&self, index: usize) -> bool {
        let (machine, roster) = (&self.members[index].machine, self.atlas.roster());
        machine.is_running() && (roster.is_nobody(machine.node()) || roster.has_left(machine.node()))
    }

    /// Whether a node that was a member does not serve yet. It may be building its store anew; it hears nobody then, and
    /// would ask at the old addresses for ever.
    fn rebuilds(&self, index: usize) -> bool {
        let member = &self.members[index];
        let entered = self.atlas.roster().has_entered(member.machine.node());
        !self.memory && entered && member.machine.is_running() && member.live().is_none()
    }

    /// Whether all members have moved since a node's process started: who is no member any more is told by nobody, and asks
    /// at the old addresses for ever.
    fn knows_nobody(&self, index: usize) -> bool {
        let others = self.members.iter().zip(&self.members[index].moves_at_start).enumerate();
        let is_member = |member: &Member| self.atlas.roster().present_member(member.machine.node()).is_some();
        let mut members = others.filter(|(other, (member, _))| *other != index && is_member(member));
        members.all(|(_, (member, moves))| member.moves != *moves)
    }

    /// Where everybody is, by name.
    fn addrs(&self) -> BTreeMap<String, Vec<String>> {
        self.members.iter().map(|m| (m.config.name.clone(), m.config.peer_addrs.clone())).collect()
    }

    /// An operator takes a member out; at `back_ns` its machine starts again with an empty disk. Whether that may be.
    pub fn order_removal(&mut self, index: usize, back_ns: u64) -> bool {
        let member = self.atlas.roster().present_member(self.members[index].machine.node());
        let Some(member) = member.filter(|_| !self.is_ordered(index)) else { return false };
        let may = self.atlas.may_remove(&self.drives(), member, None);
        if may {
            self.remove(index, back_ns, member);
        }
        may
    }

    /// Asks for the removal of a member that may be removed.
    fn remove(&mut self, index: usize, back_ns: u64, member: u64) {
        let (roster, bell) = (self.atlas.roster().clone(), self.bell.clone());
        let doors = self.members.iter().map(Member::door).collect();
        self.orders.push(Order::remove(index, back_ns, member, doors, roster, bell));
    }

    fn is_ordered(&self, index: usize) -> bool {
        self.orders.iter().any(|order| order.index == index)
    }

    /// An operator gives a machine that has no sound member an empty disk, and a lost member's place; whether that may be.
    pub fn order_replacement(&mut self, index: usize) -> bool {
        let number = self.members[index].machine.node();
        if self.atlas.is_sound(number) || self.is_ordered(index) {
            return false;
        }
        let member = self.atlas.roster().member_at(number);
        if member.is_some_and(|member| !self.atlas.may_remove(&self.drives(), member, Some(number))) {
            return false;
        }
        // It must not become a member by itself meanwhile.
        if !self.end(index, false) {
            self.atlas.roster().set_leaving(None);
            return false;
        }
        self.atlas.sets_aside(number);
        match member {
            Some(member) => self.remove(index, 0, member),
            None => self.orders.push(Order::fulfilled(index)),
        }
        true
    }

    /// Asks for a node to lead, wherever somebody hears it.
    pub fn ask_to_lead(&self, node: u32) {
        let asked = self.members.iter().find_map(|member| Some((member.machine.clone(), member.live()?)));
        let Some((machine, live)) = asked else { return };
        let witness = self.witness.clone();
        drop(machine.spawn(async move {
            if live.node.transfer_leadership(Some(&format!("n{node}"))).await.is_ok() {
                witness.reached("leaderships handed over on request");
            }
        }));
    }

    /// Machines whose members are out start again with an empty disk, if it is time.
    pub fn attend(&mut self, now: u64) {
        let is_due = |order: &Order| order.is_done() && order.back_ns <= now;
        while let Some(at) = self.orders.iter().position(is_due) {
            let order = self.orders.remove(at);
            let (index, number) = (order.index, self.members[order.index].machine.node());
            if order.is_overtaken(number, self.atlas.roster()) {
                self.atlas.expect(number);
                continue;
            }
            // What an earlier life had asked for may have been done without it.
            let former = self.atlas.roster().member_at(number).filter(|member| !order.is_of(*member));
            if let Some(member) = former.filter(|member| self.atlas.may_remove(&self.drives(), *member, Some(number))) {
                self.remove(index, order.back_ns, member);
                continue;
            }
            self.wipe(index);
            // Founders that were all exchanged would found another cluster: their list names nobody who knows this one.
            self.members[index].config.join = self.addrs().into_values().flatten().collect();
            self.atlas.expect(number);
            self.witness.reached("machines that joined with an empty disk");
            self.boot(index);
        }
    }

    /// Whether an operator is about something.
    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// A machine whose member is still to be taken out, or is out and has not noticed, and which of the two.
    pub fn unfinished_order(&self) -> Option<(u32, &'static str)> {
        self.orders.iter().find_map(|order| {
            let machine = &self.members[order.index].machine;
            let goes_on =
                machine.is_running() && self.atlas.roster().has_left(machine.node()) && !self.knows_nobody(order.index);
            match order.is_done() {
                false => Some((machine.node(), "is still a member, and was to be removed")),
                true => goes_on.then_some((machine.node(), "was removed, and has not stopped")),
            }
        })
    }

    /// The index of the node that leads, if one believes so; of several the one with the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leads = |member: &Member| {
            let leadership = member.live()?.node.leadership().current();
            leadership.is_local.then_some(leadership.term)
        };
        let terms = self.members.iter().enumerate().filter_map(|(index, m)| Some((leads(m)?, index)));
        terms.max().map(|(_, index)| index)
    }

    /// Compares the logs and states of the processes that are up.
    pub async fn inspect(&self) {
        for member in &self.members {
            let Some(Live { node, .. }) = member.live() else { continue };
            let (number, witness) = (member.machine.node(), self.witness.clone());
            let inspection = member.machine.spawn(async move {
                let view = node.store().view();
                if let (Some(applied), Ok(hash)) = (view.applied(), view.state_hash()) {
                    witness.confirmed(number, node.raft().metrics().borrow_watched().current_term, applied.index);
                    witness.state(number, applied.index, hash);
                }
                let mut reader = node.log().clone().get_log_reader().await;
                if let Ok(entries) = reader.try_get_log_entries(..).await {
                    let entries: Vec<LogEntry> = entries.iter().map(log_entry).collect();
                    witness.log(number, &entries);
                    witness.reached("logs compared at the end");
                }
            });
            if let Some(inspection) = inspection {
                // A machine that is paused or killed meanwhile has nothing to say.
                let _ = SimRuntime::timeout(Duration::from_millis(200), inspection).await;
            }
        }
    }

    /// Who notes what happens.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Switches everything off, and lets what waited for it end.
    pub async fn shut_down(&self) {
        for member in &self.members {
            member.machine.kill();
            *member.slot() = None;
        }
        SimRuntime::sleep(Duration::from_millis(2)).await;
    }

    /// How many boots there were beyond the first of each machine.
    pub fn restarts(&self) -> u64 {
        self.members.iter().map(|member| member.boots.saturating_sub(1)).sum()
    }
}

/// One process, from its start to its end.
struct Boot {
    number: u32,
    incarnation: u64,
    /// Its log ends in something that is to be cut.
    torn: bool,
    /// Why the one before it ended by itself, if it did.
    fell: Option<Fall>,
    machine: Machine,
    live: Arc<Mutex<Option<Live>>>,
    fallen: Arc<Mutex<Option<Fall>>>,
    atlas: Atlas,
    bell: SimWake,
    witness: Witness,
    trace: Trace,
}

/// The store files of a machine.
fn stores(machine: &Machine) -> BTreeSet<PathBuf> {
    machine.drive().files().into_iter().filter(|path| FileClass::of(path) == FileClass::Store).collect()
}

impl Boot {
    async fn run(self, platform: SimPlatform, config: NodeConfig, machine: Observed) {
        let (number, witness) = (self.number, &self.witness);
        let before = stores(&self.machine);
        let node = match Node::start(platform, config, machine).await {
            Ok(node) => node,
            Err(error) => {
                let explained = self.atlas.explain_start(number, &error, self.machine.drive());
                return self.fall(explained, || format!("n{number} does not start: {error}"));
            }
        };
        witness.is_called(number, node.node_id().0);
        if !stores(&self.machine).is_subset(&before) {
            // It was rebuilt: some of what was applied so far was applied to a store that could not be read.
            witness.discard(number);
            if !before.is_empty() && !self.atlas.may_rebuild(number) {
                let what = format!("n{number} has built its store anew, and nothing had happened to it");
                witness.report(Violation::new(KEEPS_WHOLE_STORES, what, vec![]));
            }
        }
        if let Err(missed) = self.atlas.started(number, self.machine.drive()) {
            witness.report(Violation::new(DAMAGE_IS_FOUND, missed, vec![]));
        }
        if !self.atlas.has_damaged_log(number)
            && let Ok(vote) = node.log().clone().get_log_reader().await.read_vote().await
        {
            witness.started(number, vote.as_ref().map(|vote| vote_from(vote).term));
        }
        if self.torn {
            witness.reached("torn tails cut");
        }
        if let Some(what) = self.fell.and_then(came_back) {
            witness.reached(what);
        }
        let live = Live { node: node.clone(), incarnation: self.incarnation };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
        self.detail("process up", "");
        let watch = watch_metrics(number, self.incarnation, node.clone(), self.atlas.clone(), witness.clone());
        drop(self.machine.spawn(watch));
        let error = node.stopped().await;
        let explained = self.atlas.explain_stop(number, &error, self.machine.drive());
        self.fall(explained, || format!("n{number} stopped by itself: {error}"));
    }

    fn detail(&self, kind: &'static str, subject: &str) {
        let (at, node) = (global_now(), self.number);
        self.trace.detail(Event { at, node, kind, subject, numbers: [self.incarnation, 0], payload: &[] });
    }

    /// The process has ended by itself.
    fn fall(&self, explained: Option<Fall>, what: impl Fn() -> String) {
        if self.trace.is_recording() {
            self.detail("process over", &what());
        }
        let Some(fall) = explained else {
            self.witness.report(Violation::new(NO_SPONTANEOUS_STOP, what(), vec![]));
            return;
        };
        *self.fallen.lock().unwrap_or_else(PoisonError::into_inner) = Some(fall);
        self.bell.wake();
    }
}

fn came_back(fall: Fall) -> Option<&'static str> {
    match fall {
        Fall::DiskFailed => Some("nodes that came back after their disk had failed"),
        Fall::StoreDamaged => Some("nodes that came back after their store was found damaged"),
        Fall::Gone | Fall::Removed => None,
    }
}

fn log_entry(entry: &quorate_io::types::raft::Entry) -> LogEntry {
    let ours = quorate_io::types::entry_from(entry);
    let payload_hash = match &ours.payload {
        quorate_core::Payload::Command(bytes) => hash(&[b"command", bytes]),
        other => hash(&[format!("{other:?}").as_bytes()]),
    };
    LogEntry { index: ours.log_id.index, term: ours.log_id.term, payload_hash }
}

/// Tells the witness of everything that a process says about itself, and shows it the log of each new leader.
async fn watch_metrics(number: u32, incarnation: u64, node: Node<SimPlatform>, atlas: Atlas, witness: Witness) {
    let mut metrics = node.raft().metrics();
    let mut led = 0;
    loop {
        let leads = {
            let metrics = metrics.borrow_and_update();
            witness.progress(number, incarnation, &metrics);
            (metrics.state == ServerState::Leader && metrics.current_term > led).then_some(metrics.current_term)
        };
        if let Some(term) = leads {
            led = term;
            show_log(number, term, &node, &atlas, &witness).await;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Shows the log of a leader. What cannot be read, or may be damaged, says nothing.
async fn show_log(number: u32, term: u64, node: &Node<SimPlatform>, atlas: &Atlas, witness: &Witness) {
    if atlas.has_damaged_log(number) {
        return;
    }
    let mut reader = node.log().clone().get_log_reader().await;
    let Ok(entries) = reader.try_get_log_entries(..).await else { return };
    // What is purged meanwhile only says less.
    let Ok(state) = node.log().clone().get_log_state().await else { return };
    let purged = state.last_purged_log_id.map(|purged| purged.index);
    let entries: Vec<LogEntry> = entries.iter().map(log_entry).collect();
    witness.leader(number, term, purged, &entries);
}

fn config(plan: &Plan, number: u32) -> NodeConfig {
    let addr = |n: u32| format!("n{n}:2380");
    let members: BTreeMap<_, _> = (1..=plan.nodes).map(|n| (format!("n{n}"), vec![addr(n)])).collect();
    let name = format!("n{number}");
    let storage = if plan.setup.memory { Storage::Memory } else { Storage::Dir(Path::new(DATA_DIR).into()) };
    let mut config = NodeConfig::new(&name, storage, &addr(number));
    if number > plan.nodes {
        config.join = members.values().flatten().cloned().collect();
    }
    config.founding = FoundingList { token: "simulated".to_owned(), members };
    config.founding_grace = Duration::from_secs(1);
    config.api_addrs = vec![format!("n{number}:8080")];
    let heartbeat = plan.setup.heartbeat_ms;
    config.timing = Timing::new(heartbeat, 5 * heartbeat, 10 * heartbeat).expect("the ratios are valid");
    config.request_timeout = Duration::from_secs(3);
    config.compaction.snapshot_every_entries = plan.setup.snapshot_every_entries;
    config.compaction.keep_entries = plan.setup.keep_entries;
    config.reserve_bytes = 1 << 20;
    (config.command_bytes_max, config.transport.append_bytes_max) = (64 << 10, 64 << 10);
    config.transport.stream_bytes_max = 256 << 10;
    config.log.options.segment_bytes = plan.setup.segment_kib << 10;
    config.log.cache_bytes = plan.setup.cache_bytes;
    config.store.cache_bytes = plan.setup.store_cache_bytes;
    config
}

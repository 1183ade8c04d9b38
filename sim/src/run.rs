//! One run: a plan, executed and judged.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::atlas::Atlas;
use crate::check::history::{Operation, Violation};
use crate::client::{Client, History, Journal};
use crate::cluster::{Cluster, Door, Member};
use crate::liveness;
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::platform::{DiskCounters, NetCounters, SimRuntime, global_now, run as in_simulation};
use crate::roster::Roster;
use crate::subject::{Fate, Kv, Subject};
use crate::trace::{Recorded, Trace};
use crate::witness::{Seen, Witness};

pub use crate::liveness::{CORE_LIVENESS, LIVENESS};

/// A client that finds nobody waits so long before it goes on.
const REFUSED: Duration = Duration::from_millis(5);

/// Nothing panics, whatever happens.
pub const NO_PANIC: &str = "no panic";

/// What a run amounted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Simulated nanoseconds.
    pub simulated_ns: u64,
    /// Operations of clients, by what they learnt.
    pub acknowledged: u64,
    /// Writes whose outcome stayed unknown.
    pub unknown: u64,
    /// Operations that failed without effect.
    pub not_applied: u64,
    /// Faults by class.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that were started again.
    pub restarts: u64,
    /// How often the runs reached what they are meant to reach.
    pub reached: BTreeMap<&'static str, u64>,
    /// Keys whose search for a linearization ran out of steps.
    pub inconclusive: u64,
    /// What happened to the disks.
    pub disk: BTreeMap<&'static str, u64>,
    /// How often the journal of a disk was cut at each named point.
    pub points: BTreeMap<&'static str, u64>,
    /// What happened to the network.
    pub net: BTreeMap<&'static str, u64>,
}

/// A run and its verdict: of the key-value store, if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<O = Operation> {
    /// The seed.
    pub seed: u64,
    /// What was run.
    pub plan: Plan,
    /// The file that it is from, as far as whoever runs it says so.
    pub file: Option<String>,
    /// The hash over everything that took effect: see [`crate::Trace`].
    pub hash: u64,
    /// How many events went into it.
    pub events: u64,
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// What clients did, for a report on the violation.
    pub history: Vec<O>,
    /// Figures.
    pub stats: Stats,
    /// The last events of the trace, if they were kept.
    pub tail: Vec<String>,
}

/// Runs a plan against the key-value store. `trace_keep` of the last events are kept as text.
pub fn run(plan: &Plan, trace_keep: usize) -> Report {
    run_subject(&Kv, plan, trace_keep)
}

/// Runs a plan and returns everything that happened, too. The report is that of [`run`], but for the history, which is
/// there even if no property was violated.
pub fn record(plan: &Plan) -> (Report, Vec<Recorded>) {
    let trace = Trace::recording();
    let report = run_into(&Kv, plan, &trace);
    (report, trace.take_recorded())
}

/// A run of a subject, and its verdict.
pub type ReportOf<S> = Report<Operation<<S as Subject>::Op, <S as Subject>::Outcome>>;

/// Runs a plan against whatever is under test.
pub fn run_subject<S: Subject>(subject: &S, plan: &Plan, trace_keep: usize) -> ReportOf<S> {
    run_into(subject, plan, &Trace::new(trace_keep))
}

fn run_into<S: Subject>(subject: &S, plan: &Plan, trace: &Trace) -> ReportOf<S> {
    let roster = Roster::default();
    let witness = Witness::new(roster.clone(), trace.clone());
    let (subject, seed, run, observers) = (subject.clone(), plan.seed, plan.clone(), (witness.clone(), trace.clone()));
    let caught = catch_unwind(AssertUnwindSafe(move || {
        in_simulation(seed, move || async move { execute(subject, run, roster, observers).await })
    }));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        // What was seen before it is why.
        let violation = witness.violation().or_else(|| Some(Violation::new(NO_PANIC, text, vec![])));
        let stats = Stats::default();
        let (hash, events, tail) = (trace.hash(), trace.events(), trace.tail());
        Report { seed, plan: plan.clone(), file: None, hash, events, violation, history: Vec::new(), stats, tail }
    })
}

async fn execute<S: Subject>(
    subject: S,
    plan: Plan,
    roster: Roster,
    (witness, trace): (Witness, Trace),
) -> ReportOf<S> {
    let atlas = Atlas::new(plan.nodes, plan.setup.memory, roster);
    let machines = subject.clone();
    let observers = (witness.clone(), atlas);
    let mut cluster = Cluster::new(&plan, Box::new(move || machines.machine()), observers, trace.clone());
    let journal = Journal::<S>::new(trace.clone(), witness.working());
    let mut nemesis = Nemesis::new(&plan, &mut cluster);
    cluster.boot_all();
    let until_ns = plan.heal_ms * 1_000_000;
    let clients: Vec<_> = (0..u64::from(plan.workload.clients))
        .map(|number| {
            let mut client = Client::new(subject.clone(), plan.seed, number + 1, journal.clone());
            client.crashes(plan.workload.crash_per_mille);
            SimRuntime::spawn(work(client, plan.clone(), cluster.members.iter().map(Member::door).collect(), until_ns))
        })
        .collect();
    nemesis.torment(&mut cluster).await;
    let mut last = Client::new(subject.clone(), plan.seed, 0, journal.clone());
    if let Err(violation) = liveness::of_core(&mut nemesis, &mut cluster, &mut last, &plan, &witness).await {
        witness.report(violation);
    }
    nemesis.heal(&mut cluster);
    let faults = std::mem::take(&mut nemesis.counts);
    for client in clients {
        // A client task does not fail; the simulation would have.
        let _ = client.await;
    }
    let converged = liveness::of_all(&mut cluster, &mut last, &plan).await;
    last.hang_up();
    cluster.inspect().await;
    for member in cluster.sound() {
        let node = member.machine.node();
        if !plan.setup.memory {
            witness.medium(node, member.machine.drive());
        }
        if let Some(live) = member.live().filter(|_| converged.is_ok()) {
            witness.at_rest(node, live.node.store().applied().map(|applied| applied.index));
        }
    }
    if let Err(violation) = converged {
        witness.report(violation);
    }
    let simulated_ns = global_now();
    let history = journal.finish();
    let judgement = subject.judge(&history, &witness.commands());
    if let Some(violation) = judgement.violation {
        witness.report(violation);
    }
    let inconclusive = judgement.inconclusive;
    let mut stats = Stats { simulated_ns, faults, restarts: cluster.restarts(), inconclusive, ..Stats::default() };
    for operation in &history {
        match S::fate(&operation.outcome) {
            Fate::NotApplied => stats.not_applied += 1,
            Fate::Unknown => stats.unknown += 1,
            // Who looks whether the cluster has healed is no client.
            Fate::Done => stats.acknowledged += u64::from(operation.client != 0),
        }
    }
    stats.reached = reached(&witness.seen(), &journal, plan.nodes);
    stats.reached.insert("runs with a quiet second", u64::from(plan.quiet_ms() >= 1_000));
    stats.reached.insert("runs in memory", u64::from(plan.setup.memory));
    let by_a_part = cluster.atlas.roster().founders().is_some_and(|founders| founders < plan.nodes as usize);
    stats.reached.insert("clusters founded by a part of the list", by_a_part.into());
    stats.reached.extend(cluster.atlas.counts());
    for drive in cluster.drives() {
        let counters = drive.counters();
        add_disk(&mut stats.disk, &counters);
        counters.points.iter().for_each(|(point, count)| *stats.points.entry(point).or_default() += count);
    }
    add_net(&mut stats.net, &cluster.world.network().counters());
    cluster.shut_down().await;
    let (hash, events, tail) = (trace.hash(), trace.events(), trace.tail());
    let violation = witness.violation();
    let history: History<S> = if violation.is_some() || trace.is_recording() { history } else { Vec::new() };
    Report { seed: plan.seed, plan, file: None, hash, events, violation, history, stats, tail }
}

async fn work<S: Subject>(mut client: Client<S>, plan: Plan, doors: Vec<Door>, until_ns: u64) {
    for begins_ms in &plan.workload.bursts_ms {
        let rest = (begins_ms * 1_000_000).saturating_sub(global_now());
        SimRuntime::sleep(Duration::from_nanos(rest)).await;
        for _ in 0..plan.workload.burst_ops {
            if global_now() >= until_ns {
                return;
            }
            SimRuntime::sleep(client.pause(&plan.workload)).await;
            let door = &doors[client.node(doors.len())];
            let Some(live) = door.1() else {
                SimRuntime::sleep(REFUSED).await;
                continue;
            };
            let op = client.draw(&plan.workload);
            let outcome = client.perform(door, &live, op.clone()).await;
            if let Some(op) = client.again(op, &outcome, &plan.workload) {
                let door = &doors[client.node(doors.len())];
                if let Some(live) = door.1() {
                    client.perform(door, &live, op).await;
                }
            }
        }
    }
}

fn reached<S: Subject>(seen: &Seen, journal: &Journal<S>, nodes: u32) -> BTreeMap<&'static str, u64> {
    let mut reached = BTreeMap::from([
        ("runs with 3 nodes", u64::from(nodes == 3)),
        ("runs with 5 nodes", u64::from(nodes == 5)),
        ("terms", seen.terms),
        ("leaders", seen.leaders.len() as u64),
        ("snapshots", seen.snapshots),
        ("snapshots installed", seen.installed),
        ("purges", seen.purges),
        ("torn tails at boot", seen.torn_tails),
        ("logs that got shorter", seen.truncations),
        ("forwarded writes", journal.forwarded()),
        ("writes refused for a full disk", journal.refused()),
        ("operations of clients that crashed", journal.crashed()),
        ("writes tried again", journal.retried()),
    ]);
    reached.extend(seen.others.iter().map(|(what, count)| (*what, *count)));
    reached
}

fn add_disk(sum: &mut BTreeMap<&'static str, u64>, c: &DiskCounters) {
    for (what, count) in [
        ("writes", c.writes),
        ("syncs", c.syncs),
        ("operations undone by a kill", c.undone),
        ("unsynced sectors kept", c.sectors_kept),
        ("unsynced sectors lost", c.sectors_lost),
        ("torn writes", c.torn_writes),
        ("directory entries lost", c.entries_lost),
        ("stalls", c.stalls),
        ("failed syncs", c.failed_syncs),
        ("failed writes", c.failed_writes),
        ("operations refused for want of space", c.refused_for_space),
        ("damaged bytes", c.damaged_bytes),
        ("lost writes", c.lost_writes),
        ("misdirected writes", c.misdirected_writes),
    ] {
        *sum.entry(what).or_default() += count;
    }
}

fn add_net(sum: &mut BTreeMap<&'static str, u64>, c: &NetCounters) {
    for (what, count) in [
        ("connects", c.connects),
        ("connects refused", c.refused),
        ("connects that hung", c.connects_hung),
        ("bytes delivered", c.bytes_delivered),
        ("bytes delayed by a fault", c.bytes_delayed),
        ("resets", c.resets),
        ("resets in mid-write", c.resets_mid_write),
        ("half-open connections", c.half_open),
        ("connections stranded", c.stranded),
        ("late bytes of old connections", c.late_bytes),
    ] {
        *sum.entry(what).or_default() += count;
    }
}

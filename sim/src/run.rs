//! One run: a plan, executed and judged.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::check::history::{Consistency, Op, Operation, Outcome, Violation};
use crate::check::linearizability::{self, Verdict};
use crate::check::revision_order::{self, Evidence};
use crate::client::{Client, Journal};
use crate::cluster::{Cluster, Door, Live, Member};
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::platform::{DiskCounters, Machine, NetCounters, SimRuntime, global_now, run as in_simulation};
use crate::witness::{STOPS_WHEN_DISK_FAILS, Seen, Witness};

/// The cluster must serve through every node so soon after everything healed.
const LIVENESS_WITHIN: Duration = Duration::from_secs(20);
/// Steps that the search for a linearization may take for each key.
const SEARCH_STEPS: u64 = 200_000;

/// A client that finds nobody waits so long before it goes on.
const REFUSED: Duration = Duration::from_millis(5);

/// After healing, every node serves and catches up in bounded time.
pub const LIVENESS: &str = "liveness after healing";
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

/// A run and its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was run.
    pub plan: Plan,
    /// The hash over everything that took effect: see [`crate::Trace`].
    pub hash: u64,
    /// How many events went into it.
    pub events: u64,
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// What clients did, for a report on the violation.
    pub history: Vec<Operation>,
    /// Figures.
    pub stats: Stats,
    /// The last events of the trace, if they were kept.
    pub tail: Vec<String>,
}

/// Runs a plan. `trace_keep` of the last events are kept as text.
pub fn run(plan: &Plan, trace_keep: usize) -> Report {
    let (seed, run) = (plan.seed, plan.clone());
    let caught = catch_unwind(AssertUnwindSafe(move || {
        in_simulation(seed, move || async move { execute(run, trace_keep).await })
    }));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let violation = Some(Violation::new(NO_PANIC, text, vec![]));
        let stats = Stats::default();
        let (plan, history, tail) = (plan.clone(), Vec::new(), Vec::new());
        Report { seed, plan, hash: 0, events: 0, violation, history, stats, tail }
    })
}

async fn execute(plan: Plan, trace_keep: usize) -> Report {
    let witness = Witness::default();
    let mut cluster = Cluster::new(&plan, witness.clone(), trace_keep);
    let trace = cluster.world.trace().clone();
    let journal = Journal::new(trace.clone(), witness.working());
    let mut nemesis = Nemesis::new(&plan, &mut cluster);
    cluster.boot_all();
    let until_ns = plan.heal_ms * 1_000_000;
    let clients: Vec<_> = (0..u64::from(plan.workload.clients))
        .map(|number| {
            let client = Client::new(plan.seed, number + 1, journal.clone());
            SimRuntime::spawn(work(client, plan.clone(), cluster.members.iter().map(Member::door).collect(), until_ns))
        })
        .collect();
    nemesis.torment(&mut cluster).await;
    nemesis.heal(&mut cluster);
    let faults = std::mem::take(&mut nemesis.counts);
    for client in clients {
        // A client task does not fail; the simulation would have.
        let _ = client.await;
    }
    let mut last = Client::new(plan.seed, 0, journal.clone());
    if let Err(violation) = converge(&mut cluster, &mut last).await {
        witness.report(violation);
    }
    cluster.inspect().await;
    for member in cluster.sound() {
        witness.votes(member.machine.node(), member.machine.drive());
    }
    let simulated_ns = global_now();
    let history = journal.finish();
    let inconclusive = judge(&history, &witness);
    let mut stats = Stats { simulated_ns, faults, restarts: cluster.restarts(), inconclusive, ..Stats::default() };
    for operation in &history {
        match operation.outcome {
            Outcome::NotApplied => stats.not_applied += 1,
            Outcome::Unknown => stats.unknown += 1,
            _ => stats.acknowledged += 1,
        }
    }
    stats.reached = reached(&witness.seen(), &journal, plan.nodes);
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
    let history = if violation.is_some() { history } else { Vec::new() };
    Report { seed: plan.seed, plan, hash, events, violation, history, stats, tail }
}

async fn work(mut client: Client, plan: Plan, doors: Vec<Door>, until_ns: u64) {
    for begins_ms in &plan.workload.bursts_ms {
        let rest = (begins_ms * 1_000_000).saturating_sub(global_now());
        SimRuntime::sleep(Duration::from_nanos(rest)).await;
        for _ in 0..plan.workload.burst_ops {
            if global_now() >= until_ns {
                return;
            }
            SimRuntime::sleep(client.pause(&plan.workload)).await;
            let (machine, live) = &doors[client.node(doors.len())];
            let Some(live) = live() else {
                SimRuntime::sleep(REFUSED).await;
                continue;
            };
            let op = client.draw(&plan.workload);
            client.perform(machine, &live, op).await;
        }
    }
}

fn reached(seen: &Seen, journal: &Journal, nodes: u32) -> BTreeMap<&'static str, u64> {
    let mut reached = BTreeMap::from([
        (if nodes == 3 { "runs with 3 nodes" } else { "runs with 5 nodes" }, 1),
        ("terms", seen.terms),
        ("leaders", seen.leaders.len() as u64),
        ("snapshots", seen.snapshots),
        ("snapshots installed", seen.installed),
        ("purges", seen.purges),
        ("torn tails at boot", seen.torn_tails),
        ("logs that got shorter", seen.truncations),
        ("forwarded writes", journal.forwarded()),
        ("writes refused for a full disk", journal.refused()),
    ]);
    reached.extend(seen.others.iter().map(|(what, count)| (*what, *count)));
    reached
}

/// Demands that a write through every node succeeds and that all nodes then hold the same. Nothing is demanded of a
/// node whose log is damaged.
async fn converge(cluster: &mut Cluster, client: &mut Client) -> Result<(), Violation> {
    let deadline = global_now() + LIVENESS_WITHIN.as_nanos() as u64;
    let late = |what: String| Violation::new(LIVENESS, format!("{what} within {LIVENESS_WITHIN:?} of healing"), vec![]);
    let doors: Vec<Door> = cluster.sound().map(Member::door).collect();
    for (machine, live) in &doors {
        loop {
            cluster.raise();
            if let Some(live) = live() {
                let op = Op::Put { key: "alive".to_owned(), value: client.value(0) };
                if matches!(client.perform(machine, &live, op).await, Outcome::Put { .. }) {
                    break;
                }
            }
            if global_now() > deadline {
                return Err(late(format!("no write through n{} succeeds", machine.node())));
            }
            SimRuntime::sleep(Duration::from_millis(50)).await;
        }
    }
    let all = Op::List { prefix: String::new(), consistency: Consistency::Linearizable };
    for (machine, live) in &doors {
        while !matches!(read(client, machine, live(), all.clone()).await, Outcome::List { .. }) {
            if global_now() > deadline {
                return Err(late(format!("n{} does not serve a read", machine.node())));
            }
            cluster.raise();
            SimRuntime::sleep(Duration::from_millis(50)).await;
        }
    }
    loop {
        cluster.raise();
        let applied: Vec<_> =
            doors.iter().map(|(_, live)| live().and_then(|live| live.node.store().applied())).collect();
        let ailing = cluster.members.iter().find(|member| member.must_stop());
        let is_full = |(_, live): &Door| live().is_some_and(|live| live.node.disk_full());
        let full = doors.iter().find(|door| is_full(door));
        let same = applied.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some());
        if same && ailing.is_none() && full.is_none() {
            cluster.recovered();
            return Ok(());
        }
        if global_now() > deadline {
            return Err(match ailing {
                Some(member) => {
                    let (node, failures) = (member.machine.node(), member.machine.drive().failures());
                    Violation::new(STOPS_WHEN_DISK_FAILS, format!("n{node} goes on after {failures:?}"), vec![])
                }
                None if same => {
                    late(format!("{:?} takes no note of the space", full.map(|(machine, _)| machine.node())))
                }
                None => late(format!("nodes have not applied the same: {applied:?}")),
            });
        }
        SimRuntime::sleep(Duration::from_millis(50)).await;
    }
}

async fn read(client: &mut Client, machine: &Machine, live: Option<Live>, op: Op) -> Outcome {
    match live {
        Some(live) => client.perform(machine, &live, op).await,
        None => Outcome::NotApplied,
    }
}

/// Checks the clients' history against the log; returns how many searches were inconclusive.
fn judge(history: &[Operation], witness: &Witness) -> u64 {
    let writes = witness.writes();
    let evidence = Evidence { log: Some(&writes), base_revision: 0 };
    if let Err(violation) = revision_order::check(history, evidence) {
        witness.report(violation);
    }
    match linearizability::check(history, SEARCH_STEPS) {
        Verdict::Linearizable => 0,
        Verdict::Violation(violation) => {
            witness.report(violation);
            0
        }
        Verdict::Inconclusive { keys } => keys.len() as u64,
    }
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
    ] {
        *sum.entry(what).or_default() += count;
    }
}

//! What is demanded once faults are over: first of a core alone, then of everybody.
//!
//! # The core
//!
//! TigerBeetle's VOPR heals a random quorum and makes the faults of the others permanent; so does a plan's
//! [`Core`]. Its members must serve writes and linearizable reads, each through itself, and apply the same, in bounded
//! time, and again after two election timeouts: an outsider that is heard and hears nobody must not go on disturbing.
//!
//! A core is made of nodes of whom something may be demanded. A drawn member whose log or store was damaged, or that is
//! gone, is exchanged for an outsider that is whole: a member that must build its store anew may need the state of a node
//! that is none, if the other members had not got so far. There is none if too few are left, or if a member has never heard that the
//! cluster was founded, or if the members were no quorum of it as it is; a stall is legitimate then, and is counted.
//!
//! The bound, with E the longest election timeout (ten heartbeats):
//!
//! ```text
//!   start and replay   40 syncs, 4 of which stall (200 ms), and the log through the disk once
//!   election           10 E: split votes, the quiet time after a start, a leader that finds out that it is none
//!   backoff            a half-open connection found dead (1.5 s), connect (1 s), handshake (2 s), backoff (0.5 s),
//!                      openraft's own (0.5 s)
//!   snapshot           a chunk stream that waits for a peer that is gone (2 s), and the state through two disks
//!   looks              that a disk has space again (1 s), that a peer has the state (1 s)
//!   requests           for every member one that runs into its deadline (3 s), since it was sent too early
//! ```
//!
//! It is a quarter longer where clocks drift.

use std::time::Duration;

use openraft_rt::AsyncRuntime;

use crate::atlas::is_settled;
use crate::check::history::Violation;
use crate::client::Client;
use crate::cluster::{Cluster, Door, Member};
use crate::nemesis::Nemesis;
use crate::plan::{Ailment, Core, Plan};
use crate::platform::{SimRuntime, global_now};
use crate::subject::{Fate, Subject};
use crate::witness::{STOPS_WHEN_DISK_FAILS, Witness};

/// After healing, every node serves and catches up in bounded time.
pub const LIVENESS: &str = "liveness after healing";
/// A whole quorum serves in bounded time, whatever is wrong with the others.
pub const CORE_LIVENESS: &str = "liveness of a core";

/// The cluster must serve through every node so soon after everything healed.
const LIVENESS_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The plan's core with the members that are fit for it, or why there is none.
fn fit(cluster: &Cluster, plan: &Plan) -> Result<Core, &'static str> {
    let atlas = &cluster.atlas;
    if cluster.has_orders() {
        return Err("cores while the membership was being changed");
    }
    let is_settled = |node: u32| is_settled(cluster.members[node as usize - 1].machine.drive());
    let is_member = |node: u32| atlas.roster().votes(node) || !atlas.is_wiped(node);
    let whole = |node: u32| atlas.is_sound(node) && is_member(node) && atlas.has_whole_store(node);
    let mut core = plan.core.clone();
    for member in &mut core.members {
        if whole(*member) {
            continue;
        }
        let substitute = core.outsiders.iter_mut().find(|(node, _)| whole(*node));
        let (node, _) = substitute.ok_or("cores that would have had a damaged member")?;
        std::mem::swap(node, member);
    }
    if !plan.setup.memory && !core.members.iter().all(|node| is_settled(*node)) {
        return Err("cores that were not founded");
    }
    // A plan that calls a minority a core is to be found out.
    let is_majority = core.members.len() as u32 > plan.nodes / 2;
    if is_majority && !atlas.roster().are_a_quorum(&core.members) {
        return Err("cores that were no quorum of the members");
    }
    match plan.setup.memory && core.outsiders.iter().any(|(_, ailment)| matches!(ailment, Ailment::Dead | Ailment::Off))
    {
        true => Err("cores whose outsiders would have lost their memory"),
        false => Ok(core),
    }
}

/// See the module.
fn bound(plan: &Plan, members: usize) -> Duration {
    let setup = &plan.setup;
    let value_kib = plan.workload.padding_bytes as u64 / 1024 + 1;
    let log_kib = value_kib * plan.workload.operations();
    let state_kib = value_kib * u64::from(plan.workload.keys + 1);
    let stalls_ms = if setup.sync_stall_per_mille > 0 { 4 * 200 } else { 0 };
    let replay_ms = 40 * setup.sync_us_max / 1_000 + stalls_ms + log_kib * setup.us_per_kib / 1_000;
    let election_ms = 10 * 10 * setup.heartbeat_ms;
    let backoff_ms = 1_500 + 1_000 + 2_000 + 500 + 500;
    let snapshot_ms = 2_000 + 2 * state_kib * setup.us_per_kib / 1_000;
    let looks_ms = 2 * 1_000;
    let requests_ms = 3_000 * members as u64;
    let all_ms = replay_ms + election_ms + backoff_ms + snapshot_ms + looks_ms + requests_ms;
    // Clocks are wrong by a tenth at most.
    Duration::from_millis(if plan.has_clocks() { all_ms * 5 / 4 } else { all_ms })
}

/// Demands that the plan's core serves while everybody else is out of order, if it has one.
///
/// # Errors
/// It does not.
pub async fn of_core<S: Subject>(
    nemesis: &mut Nemesis<'_>,
    cluster: &mut Cluster,
    client: &mut Client<S>,
    plan: &Plan,
    witness: &Witness,
) -> Result<(), Violation> {
    if plan.core.is_empty() {
        return Ok(());
    }
    let core = match fit(cluster, plan) {
        Ok(core) => core,
        Err(why) => {
            witness.reached(why);
            return Ok(());
        }
    };
    nemesis.settle(cluster, &core);
    let within = bound(plan, core.members.len());
    for _ in 0..2 {
        let demand = Demand::new(CORE_LIVENESS, &core.members, within);
        let members = &core.members;
        if let Err(Violation { property, explanation, .. }) = demand.served(cluster, client).await {
            let why = format!("{explanation}; the core is {members:?}, and the others {:?}", core.outsiders);
            return Err(Violation::new(property, why, []));
        }
        SimRuntime::sleep(Duration::from_millis(2 * 10 * plan.setup.heartbeat_ms)).await;
    }
    witness.reached("cores that served alone");
    core.outsiders.iter().for_each(|(_, ailment)| witness.reached(ailment.class()));
    Ok(())
}

/// Demands that a write and a read through every node succeed and that all nodes then hold the same, with their disks in
/// order. Nothing is demanded of a node whose log is damaged.
///
/// # Errors
/// What does not come to pass in time.
pub async fn of_all<S: Subject>(cluster: &mut Cluster, client: &mut Client<S>, plan: &Plan) -> Result<(), Violation> {
    orders(cluster).await?;
    for index in (0..plan.nodes as usize).filter(|_| plan.setup.repairs) {
        if cluster.order_replacement(index) {
            orders(cluster).await?;
        }
    }
    let sound: Vec<u32> = cluster.sound().map(|member| member.machine.node()).collect();
    let demand = Demand::new(LIVENESS, &sound, LIVENESS_WITHIN);
    demand.served(cluster, client).await?;
    loop {
        let doors = demand.doors(cluster);
        demand.level(cluster, &doors).await?;
        let ailing = cluster.members.iter().find(|member| member.must_stop());
        let full = doors.iter().find(|door| is_full(door));
        if ailing.is_none() && full.is_none() {
            cluster.recovered();
            return Ok(());
        }
        if demand.is_over() {
            return Err(match (ailing, full) {
                (Some(member), _) => {
                    let (node, failures) = (member.machine.node(), member.machine.drive().failures());
                    Violation::new(STOPS_WHEN_DISK_FAILS, format!("n{node} goes on after {failures:?}"), [])
                }
                (None, full) => {
                    let node = full.map(|(machine, _)| machine.node());
                    demand.late(&format!("{node:?} takes no note of the space"))
                }
            });
        }
        SimRuntime::sleep(LOOK_EVERY).await;
    }
}

/// Members that were to be taken out are, and have noticed; their machines come back.
async fn orders(cluster: &mut Cluster) -> Result<(), Violation> {
    let demand = Demand::new(LIVENESS, &[], LIVENESS_WITHIN);
    while let Some((node, what)) = cluster.unfinished_order() {
        cluster.raise();
        if demand.is_over() {
            return Err(demand.late(&format!("n{node} {what}")));
        }
        SimRuntime::sleep(LOOK_EVERY).await;
    }
    cluster.attend(u64::MAX);
    Ok(())
}

fn is_full((_, live): &Door) -> bool {
    live().is_some_and(|live| live.node.disk_full())
}

/// Something that some nodes must do in time.
struct Demand<'a> {
    property: &'static str,
    nodes: &'a [u32],
    within: Duration,
    deadline: u64,
}

impl<'a> Demand<'a> {
    fn new(property: &'static str, nodes: &'a [u32], within: Duration) -> Self {
        Self { property, nodes, within, deadline: global_now() + within.as_nanos() as u64 }
    }

    fn is_over(&self) -> bool {
        global_now() > self.deadline
    }

    fn late(&self, what: &str) -> Violation {
        Violation::new(self.property, format!("{what} within {:?} of healing", self.within), [])
    }

    fn doors(&self, cluster: &Cluster) -> Vec<Door> {
        let wanted = |member: &&Member| self.nodes.contains(&member.machine.node());
        cluster.members.iter().filter(wanted).map(Member::door).collect()
    }

    /// Starts again who has ended by itself.
    fn raise(&self, cluster: &mut Cluster) {
        match self.property {
            LIVENESS => cluster.raise(),
            _ => cluster.raise_of(|index| self.nodes.contains(&(index as u32 + 1))),
        };
    }

    async fn served<S: Subject>(&self, cluster: &mut Cluster, client: &mut Client<S>) -> Result<(), Violation> {
        let doors = self.doors(cluster);
        for door in &doors {
            let write = client.probe_write();
            self.answered(cluster, client, door, Some(write)).await?;
        }
        for door in &doors {
            let read = client.probe_read();
            self.answered(cluster, client, door, read).await?;
        }
        self.level(cluster, &doors).await
    }

    /// An operation succeeds through a node.
    async fn answered<S: Subject>(
        &self,
        cluster: &mut Cluster,
        client: &mut Client<S>,
        door: &Door,
        op: Option<S::Op>,
    ) -> Result<(), Violation> {
        let Some(mut op) = op else { return Ok(()) };
        loop {
            self.raise(cluster);
            let is_write = S::is_write(&op);
            if let Some(live) = door.1() {
                if S::fate(&client.perform(door, &live, op).await) == Fate::Done {
                    return Ok(());
                }
                let again = if is_write { Some(client.probe_write()) } else { client.probe_read() };
                let Some(again) = again else { return Ok(()) };
                op = again;
            }
            if self.is_over() {
                let what = if is_write { "write" } else { "read" };
                return Err(self.late(&format!("no {what} through n{} succeeds", door.0.node())));
            }
            SimRuntime::sleep(LOOK_EVERY).await;
        }
    }

    /// All have applied the same.
    async fn level(&self, cluster: &mut Cluster, doors: &[Door]) -> Result<(), Violation> {
        loop {
            self.raise(cluster);
            let applied: Vec<_> =
                doors.iter().map(|(_, live)| live().and_then(|live| live.node.store().applied())).collect();
            if applied.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some()) {
                return Ok(());
            }
            if self.is_over() {
                return Err(self.late(&format!("nodes have not applied the same: {applied:?}")));
            }
            SimRuntime::sleep(LOOK_EVERY).await;
        }
    }
}

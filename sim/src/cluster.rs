//! The nodes of a run: machines that boot production's [`Node`], and boot it again after a crash.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftLogReader, storage::RaftLogStorage};
use openraft_rt::AsyncRuntime;
use quorate_core::config::Timing;
use quorate_core::founding::FoundingList;
use quorate_core::kv::Limits;
use quorate_io::{Node, NodeConfig, Storage};

use crate::check::history::Violation;
use crate::check::raft::LogEntry;
use crate::plan::Plan;
use crate::platform::{DiskProfile, LinkProfile, Machine, SimPlatform, SimRuntime, World, WorldConfig};
use crate::witness::{NO_SPONTANEOUS_STOP, ObservedKv, Witness, hash};

/// A process that is up.
#[derive(Clone)]
pub struct Live {
    /// Production's node.
    pub node: Node<SimPlatform>,
    /// Production's REST interface.
    pub app: Router,
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

    fn slot(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All machines of a run.
pub struct Cluster {
    /// Where they are.
    pub world: World,
    /// In order, from node 1.
    pub members: Vec<Member>,
    witness: Witness,
    canary: bool,
}

impl Cluster {
    /// Machines that are switched off.
    pub fn new(plan: &Plan, witness: Witness, trace_keep: usize) -> Self {
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
        let world = World::new(WorldConfig { seed: plan.seed, disk, link, trace_keep });
        let members = (1..=plan.nodes).map(|n| Member {
            machine: world.machine(&format!("n{n}")),
            config: config(plan, n),
            live: Arc::default(),
            boots: 0,
        });
        let members = members.collect();
        Self { world, members, witness, canary: plan.canary }
    }

    /// Starts every process that is not running.
    pub fn boot_all(&mut self) {
        for index in 0..self.members.len() {
            self.boot(index);
        }
    }

    /// Starts a process, if none is running there.
    pub fn boot(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.machine.is_running() {
            return;
        }
        member.boots += 1;
        *member.slot() = None;
        let (number, incarnation) = (member.machine.node(), member.boots);
        self.witness.booting(number, member.machine.drive());
        let twice = self.canary && number == 1;
        let (config, live, witness) = (member.config.clone(), member.live.clone(), self.witness.clone());
        let machine = member.machine.clone();
        drop(member.machine.boot(move |platform| async move {
            let observed = ObservedKv { node: number, witness: witness.clone(), twice };
            let node = match Node::start(platform, config, observed).await {
                Ok(node) => node,
                Err(error) => {
                    let explanation = format!("n{number} does not start: {error}");
                    witness.report(Violation::new(NO_SPONTANEOUS_STOP, explanation, vec![]));
                    return;
                }
            };
            let app = quorate::app(node.clone(), Limits::default());
            *live.lock().unwrap_or_else(PoisonError::into_inner) = Some(Live { node: node.clone(), app });
            drop(machine.spawn(watch_metrics(number, incarnation, node.clone(), witness.clone())));
            let error = node.stopped().await;
            let explanation = format!("n{number} stopped by itself: {error}");
            witness.report(Violation::new(NO_SPONTANEOUS_STOP, explanation, vec![]));
        }));
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
                    witness.state(number, applied.index, hash);
                }
                let mut reader = node.log().clone().get_log_reader().await;
                if let Ok(entries) = reader.try_get_log_entries(..).await {
                    let entries: Vec<LogEntry> = entries.iter().map(log_entry).collect();
                    witness.log(number, &entries);
                }
            });
            if let Some(inspection) = inspection {
                // A machine that is paused or killed meanwhile has nothing to say.
                let _ = SimRuntime::timeout(Duration::from_millis(200), inspection).await;
            }
        }
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

fn log_entry(entry: &quorate_io::types::raft::Entry) -> LogEntry {
    let ours = quorate_io::types::entry_from(entry);
    let payload_hash = match &ours.payload {
        quorate_core::Payload::Command(bytes) => hash(&[b"command", bytes]),
        other => hash(&[format!("{other:?}").as_bytes()]),
    };
    LogEntry { index: ours.log_id.index, term: ours.log_id.term, payload_hash }
}

async fn watch_metrics(number: u32, incarnation: u64, node: Node<SimPlatform>, witness: Witness) {
    let mut metrics = node.raft().metrics();
    loop {
        witness.progress(number, incarnation, &metrics.borrow_and_update());
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn config(plan: &Plan, number: u32) -> NodeConfig {
    let addr = |n: u32| format!("n{n}:2380");
    let members: BTreeMap<_, _> = (1..=plan.nodes).map(|n| (format!("n{n}"), vec![addr(n)])).collect();
    let name = format!("n{number}");
    let mut config = NodeConfig::new(&name, Storage::Dir(Path::new("/data").into()), &addr(number));
    config.founding = FoundingList { token: "simulated".to_owned(), members };
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
    config
}

//! Clients write, read and delete while nodes are killed and restarted; then the history of what they saw is checked by
//! the simulator's two checkers. Once with three nodes and all kinds of attacks, once with a lone node that is killed two
//! hundred times, once while members come and go.
//!
//! `E2E_CHAOS_SECS` says for how long (60), `E2E_CHAOS_SEED` repeats the choices (not the timing) of a run.

// By path: linking the simulator would put its clock and its entropy source under this process.
#[allow(dead_code, unused_imports, reason = "the checkers of the simulator's own runs are in there too")]
#[path = "../../../sim/src/check/mod.rs"]
mod check;
mod members;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use check::history::{self, Consistency, Op, Operation, Outcome, Recorder};
use check::linearizability::{self, Verdict};
use check::revision_order::{self, Evidence};
use e2e::kv::{self, Answer};
use e2e::{Cluster, DEADLINE, Directory, Node, Random, Signal, eventually};

const CLIENTS: usize = 6;
const KEYS: usize = 12;
/// How often a lone node is killed.
const RESTARTS: usize = 200;
/// How long a client waits for an answer: less than the node does, so that some answers come too late.
const PATIENCE: Duration = Duration::from_secs(3);
/// For the search: per key.
const STEPS_MAX: u64 = 50_000_000;

fn variable(name: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| default(), |value| value.parse().expect("a number"))
}

/// The history, and the clock that it is written by.
struct Record {
    recorder: Mutex<Recorder>,
    start: Instant,
    over: AtomicBool,
}

impl Record {
    fn new() -> Self {
        Self { recorder: Mutex::default(), start: Instant::now(), over: AtomicBool::new(false) }
    }

    fn finish(self) -> Vec<Operation> {
        self.recorder.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("centuries fit")
    }

    fn invoke(&self, client: u64, op: Op) -> usize {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.invoke(client, self.now_ns(), op)
    }

    fn complete(&self, index: usize, at_ns: u64, outcome: Outcome) {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).complete(index, at_ns, outcome);
    }

    fn run(&self, client: u64, through: &mut kv::Client, op: Op) -> Outcome {
        let index = self.invoke(client, op.clone());
        let outcome = ask(through, &op);
        self.complete(index, self.now_ns(), outcome.clone());
        outcome
    }
}

fn ask(through: &mut kv::Client, op: &Op) -> Outcome {
    fn outcome<T>(answer: Answer<T>, done: impl FnOnce(T) -> Outcome) -> Outcome {
        match answer {
            Answer::Done(answer) => done(answer),
            Answer::NotApplied(_) => Outcome::NotApplied,
            Answer::Unknown(_) => Outcome::Unknown,
        }
    }
    let stale = op.is_stale_read();
    match op {
        Op::Put { key, value } => outcome(through.put(key, value), |kv::Put { revision, create_revision, version }| {
            Outcome::Put { revision, create_revision: Some(create_revision), version: Some(version) }
        }),
        Op::Delete { key } => {
            outcome(through.delete(key), |kv::Delete { revision, deleted }| Outcome::Delete { revision, deleted })
        }
        Op::Get { key, .. } => outcome(through.get(key, stale), |read| Outcome::Get {
            revision: read.revision,
            item: read.found.map(item),
        }),
        Op::List { prefix, .. } => outcome(through.list(prefix, stale), |read| Outcome::List {
            revision: read.revision,
            items: read.found.into_iter().map(item).collect(),
        }),
    }
}

fn item(item: kv::Item) -> history::Item {
    history::Item {
        create_revision: Some(item.create_revision),
        version: Some(item.version),
        ..history::Item::new(item.key, item.value, item.mod_revision)
    }
}

/// One client: it stays with a node until that one fails it, as clients do.
fn client(record: &Record, number: u64, ports: &[u16], mut random: Random) {
    let mut at = random.below(ports.len());
    let mut through = kv::Client::new(ports[at], PATIENCE);
    let mut serial = 0;
    while !record.over.load(Ordering::Relaxed) {
        let key = format!("k{:02}", random.below(KEYS));
        let consistency = if random.below(5) == 0 { Consistency::Stale } else { Consistency::Linearizable };
        let op = match random.below(100) {
            0..45 => {
                serial += 1;
                Op::Put { key, value: format!("\"{number}.{serial}\"") }
            }
            45..55 => Op::Delete { key },
            55..95 => Op::Get { key, consistency },
            _ => Op::List { prefix: format!("k{}", random.below(2)), consistency },
        };
        let outcome = record.run(number, &mut through, op);
        let failed = matches!(outcome, Outcome::NotApplied | Outcome::Unknown);
        if failed || random.below(200) == 0 {
            at = random.below(ports.len());
            through = kv::Client::new(ports[at], PATIENCE);
        }
        // A bounded history: think for a while, longer where nobody listens.
        e2e::pause(Duration::from_millis(if failed { 20 } else { 2 + random.number() % 6 }));
    }
}

#[derive(Debug, Default)]
struct Done {
    kills: usize,
    kills_of_all: usize,
    terminations: usize,
    pauses: usize,
}

/// Breaks things until the time is up; leaves all nodes running.
fn chaos(cluster: &mut Cluster, random: &mut Random, until: Instant) -> Done {
    let mut done = Done::default();
    let pause = |random: &mut Random, least_ms: u64, most_ms: u64| {
        let wait = Duration::from_millis(least_ms + random.number() % (most_ms - least_ms));
        e2e::pause(wait.min(until.saturating_duration_since(Instant::now())));
    };
    while Instant::now() < until {
        pause(random, 300, 2500);
        // The leader is worth more than its third of the attacks.
        let victim = match (random.below(3), cluster.leader()) {
            (0, Ok(leader)) => leader,
            _ => random.below(cluster.nodes.len()),
        };
        match random.below(10) {
            0 => {
                let order = random.shuffled((0..cluster.nodes.len()).collect());
                order.iter().for_each(|index| cluster.nodes[*index].kill());
                done.kills += order.len();
                done.kills_of_all += 1;
                for index in random.shuffled(order) {
                    pause(random, 0, 500);
                    cluster.start(index);
                }
            }
            1 => {
                let status = cluster.nodes[victim].stop(Signal::TERM);
                assert!(status.success(), "{} on SIGTERM: {status}", cluster.nodes[victim].name);
                done.terminations += 1;
                pause(random, 0, 1000);
                cluster.start(victim);
            }
            2 | 3 => {
                cluster.nodes[victim].process().signal(Signal::STOP);
                done.pauses += 1;
                pause(random, 50, 3000);
                cluster.nodes[victim].process().signal(Signal::CONT);
            }
            _ => {
                cluster.nodes[victim].kill();
                done.kills += 1;
                pause(random, 0, 3000);
                cluster.start(victim);
            }
        }
        for node in &mut cluster.nodes {
            let ended = node.process().ended();
            assert_eq!(ended, None, "{} ended by itself", node.name);
        }
    }
    done
}

/// Runs `attack` while clients are at work.
fn under_load<T>(record: &Record, ports: &[u16], random: &mut Random, attack: impl FnOnce(&mut Random) -> T) -> T {
    let done = thread::scope(|scope| {
        for number in 0..CLIENTS {
            let number = u64::try_from(number).expect("few");
            let random = Random::new(random.number());
            scope.spawn(move || client(record, number, ports, random));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack(random)));
        record.over.store(true, Ordering::Relaxed);
        result
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The ground truth: everything that is left, read through each node after all else.
fn read_everything<'a>(record: &Record, nodes: impl IntoIterator<Item = &'a Node>) {
    let everything = Op::List { prefix: String::new(), consistency: Consistency::Linearizable };
    for (number, node) in nodes.into_iter().enumerate() {
        let mut through = node.client();
        let number = u64::try_from(CLIENTS + number).expect("few");
        eventually("a list of everything", DEADLINE, || match record.run(number, &mut through, everything.clone()) {
            Outcome::List { .. } => Ok(()),
            failed => Err(failed.to_string()),
        });
    }
}

#[test]
fn the_history_of_a_cluster_under_attack_is_linearizable() {
    let secs = variable("E2E_CHAOS_SECS", || 60);
    let seed = variable("E2E_CHAOS_SEED", Random::any_seed);
    println!("chaos for {secs} s from seed {seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::started("chaos", 3);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.api_port).collect();
    let record = Record::new();

    let done = under_load(&record, &ports, &mut random, |random| {
        let until = Instant::now() + Duration::from_secs(secs);
        chaos(&mut cluster, random, until)
    });

    let healed = Instant::now();
    cluster.wait_leader();
    println!("all nodes agree {:?} after the last attack", healed.elapsed());
    read_everything(&record, &cluster.nodes);
    for node in &mut cluster.nodes {
        let log = node.process().log();
        let errors = log.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).count();
        println!("{}: {} log lines, {errors} of level error", node.name, log.lines().count());
        assert!(!log.contains("panicked"), "a task of {} panicked", node.name);
    }
    let history = record.finish();
    print(&history, &done);
    judge(&history, cluster.directory());
}

/// Killed at any moment: in the middle of a flush, of a snapshot, of its own recovery.
#[test]
fn the_history_of_a_lone_node_that_is_killed_two_hundred_times_is_linearizable() {
    let seed = variable("E2E_CHAOS_SEED", Random::any_seed);
    println!("{RESTARTS} kills from seed {seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::new("restarts", 1);
    let timing = ["--heartbeat-ms", "10", "--election-timeout-min-ms", "30", "--election-timeout-max-ms", "60"];
    cluster.flags = timing.map(str::to_owned).to_vec();
    cluster.start(0);
    cluster.wait_leader();
    let ports = [cluster.nodes[0].api_port];
    let record = Record::new();
    let mut done = Done::default();
    under_load(&record, &ports, &mut random, |random| {
        for _ in 0..RESTARTS {
            let node = &mut cluster.nodes[0];
            // One in five dies before it serves.
            if random.below(5) > 0 {
                node.wait_ready();
            }
            e2e::pause(Duration::from_millis(random.number() % 200));
            assert_eq!(node.process().ended(), None, "{} ended by itself", node.name);
            node.kill();
            done.kills += 1;
            cluster.start(0);
        }
        cluster.nodes[0].wait_ready();
    });
    read_everything(&record, &cluster.nodes);
    let log = cluster.nodes[0].process().log();
    assert!(!log.contains("panicked"), "a task of the node panicked");
    println!("torn tails cut: {}", log.matches("cut a torn tail").count());
    let history = record.finish();
    print(&history, &done);
    judge(&history, cluster.directory());
}

fn print(history: &[Operation], done: &Done) {
    let count = |is: &dyn Fn(&&Operation) -> bool| history.iter().filter(is).count();
    let writes = count(&|operation| operation.op.is_write());
    let unknown = count(&|operation| operation.is_unknown_write());
    let not_applied = count(&|operation| operation.op.is_write() && operation.outcome == Outcome::NotApplied);
    let reads_failed = count(&|operation| !operation.op.is_write() && operation.outcome.revision().is_none());
    println!(
        "{} operations: {writes} writes, {} acknowledged, {not_applied} not applied, {unknown} unknown; {} reads, \
         {reads_failed} failed",
        history.len(),
        writes - unknown - not_applied,
        history.len() - writes,
    );
    println!("{done:?}");
}

fn judge(history: &[Operation], directory: &Directory) {
    let fail = |violation: &history::Violation| {
        let file = directory.path().join("history.txt");
        std::fs::write(&file, history::render(history)).expect("the test's directory is writable");
        panic!("{}the history is in {}", violation.render(history), file.display());
    };
    match revision_order::check(history, Evidence::default()) {
        Ok(summary) => println!(
            "revision order: {} acknowledged writes up to revision {}, {} unknown writes seen, {} revisions hidden",
            summary.acknowledged,
            summary.last_revision,
            summary.unknown_applied.len(),
            summary.hidden
        ),
        Err(violation) => fail(&violation),
    }
    let start = Instant::now();
    match linearizability::check(history, STEPS_MAX) {
        Verdict::Linearizable => println!("linearizable, key by key; searched for {:?}", start.elapsed()),
        Verdict::Violation(violation) => fail(&violation),
        Verdict::Inconclusive { keys } => panic!("the search ran out of steps for {keys:?}: not shown to be right"),
    }
}

//! A correct store with concurrent clients, simulated: where a request takes effect, fails or lingers is drawn.

use std::collections::BTreeMap;

use sim::check::history::{Consistency, Item, Op, Operation, Outcome, Recorder};
use sim::check::revision_order::LogWrite;

use super::support::Random;

#[derive(Clone, Copy)]
pub struct Options {
    pub clients: usize,
    pub keys: usize,
    pub operations: usize,
    /// Of all writes, how many have an unknown outcome, and how many are not applied.
    pub failed_percent: usize,
    /// Of all reads.
    pub stale_percent: usize,
    pub lists: bool,
}

/// The model: an etcd-like store.
#[derive(Clone, Default)]
pub struct Store {
    pub revision: u64,
    pub items: BTreeMap<String, Item>,
    pub log: Vec<LogWrite>,
}

impl Store {
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Put { key, value } => {
                self.revision += 1;
                let old = self.items.get(key);
                let create_revision = old.map_or(Some(self.revision), |item| item.create_revision);
                let version = old.map_or(Some(1), |item| item.version.map(|version| version + 1));
                let (key, value, mod_revision) = (key.clone(), value.clone(), self.revision);
                self.log.push(LogWrite { revision: self.revision, key: key.clone(), value: Some(value.clone()) });
                self.items.insert(key.clone(), Item { key, value, mod_revision, create_revision, version });
                Outcome::Put { revision: self.revision, create_revision, version }
            }
            Op::Delete { key } => {
                let deleted = self.items.remove(key).is_some();
                if deleted {
                    self.revision += 1;
                    self.log.push(LogWrite { revision: self.revision, key: key.clone(), value: None });
                }
                Outcome::Delete { revision: self.revision, deleted }
            }
            Op::Get { key, .. } => Outcome::Get { revision: self.revision, item: self.items.get(key).cloned() },
            Op::List { prefix, .. } => {
                let items = self.items.values().filter(|item| item.key.starts_with(prefix)).cloned().collect();
                Outcome::List { revision: self.revision, items }
            }
        }
    }
}

/// A client's request: not sent, in flight with the operation's index, or answered but not yet received.
enum Client {
    Idle,
    Waiting(usize),
    Answered(usize, Outcome),
}

pub struct Run {
    pub history: Vec<Operation>,
    pub log: Vec<LogWrite>,
}

/// Runs random clients; the last operation is a list of the whole store, after all else, if `lists`.
pub fn run(seed: u64, options: Options) -> Run {
    let mut random = Random(seed);
    let mut store = Store::default();
    let mut past = vec![Store::default()];
    let mut recorder = Recorder::new();
    let mut clients: Vec<Client> = (0..options.clients).map(|_| Client::Idle).collect();
    let mut lingering: Vec<Op> = Vec::new();
    let mut serial = 0;
    let mut now = 0;
    while recorder.operations().len() < options.operations || !clients.iter().all(|c| matches!(c, Client::Idle)) {
        now += 1 + random.below(3) as u64;
        if !lingering.is_empty() && random.percent(10) {
            let op = lingering.swap_remove(random.below(lingering.len()));
            store.apply(&op);
        }
        let index = random.below(clients.len());
        clients[index] = match std::mem::replace(&mut clients[index], Client::Idle) {
            Client::Idle if recorder.operations().len() < options.operations => {
                serial += 1;
                Client::Waiting(recorder.invoke(index as u64, now, draw(&mut random, options, serial)))
            }
            Client::Idle => Client::Idle,
            Client::Waiting(operation) => {
                let op = recorder.operations()[operation].op.clone();
                if op.is_write() && random.percent(options.failed_percent) {
                    let outcome = if random.percent(50) { Outcome::NotApplied } else { Outcome::Unknown };
                    if outcome == Outcome::Unknown && random.percent(70) {
                        lingering.push(op);
                    }
                    Client::Answered(operation, outcome)
                } else if op.is_stale_read() {
                    Client::Answered(operation, past[random.below(past.len())].clone().apply(&op))
                } else {
                    Client::Answered(operation, store.apply(&op))
                }
            }
            Client::Answered(operation, outcome) => {
                recorder.complete(operation, now, outcome);
                Client::Idle
            }
        };
        if options.stale_percent > 0 && past.last().is_some_and(|last| last.revision < store.revision) {
            past.push(store.clone());
        }
    }
    if options.lists {
        let op = Op::List { prefix: String::new(), consistency: Consistency::Linearizable };
        let outcome = store.apply(&op);
        let operation = recorder.invoke(options.clients as u64, now, op);
        recorder.complete(operation, now, outcome);
    }
    Run { history: recorder.finish(), log: store.log }
}

fn draw(random: &mut Random, options: Options, serial: u64) -> Op {
    let key = format!("k{}", random.below(options.keys));
    let stale = random.percent(options.stale_percent);
    let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    match random.below(10) {
        0..4 => Op::Put { key, value: format!("v{serial}") },
        4 | 5 => Op::Delete { key },
        6 if options.lists => Op::List { prefix: "k".to_owned(), consistency },
        _ => Op::Get { key, consistency },
    }
}

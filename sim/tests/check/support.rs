//! Short ways to write a history down. Times are `(invoked, completed)` in nanoseconds.

use sim::check::history::{Consistency, Item, Op, Operation, Outcome};
use sim::check::revision_order::LogWrite;

pub type Times = (u64, u64);

fn operation(client: u64, times: Times, op: Op, outcome: Outcome) -> Operation {
    Operation { client, invoke_ns: times.0, complete_ns: Some(times.1), op, outcome }
}

fn op_put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

pub fn put(client: u64, times: Times, key: &str, value: &str, revision: u64) -> Operation {
    let outcome = Outcome::Put { revision, create_revision: None, version: None };
    operation(client, times, op_put(key, value), outcome)
}

pub fn put_version(client: u64, times: Times, key: &str, value: &str, said: (u64, u64, u64)) -> Operation {
    let (revision, create_revision, version) = said;
    let outcome = Outcome::Put { revision, create_revision: Some(create_revision), version: Some(version) };
    operation(client, times, op_put(key, value), outcome)
}

pub fn put_unknown(client: u64, times: Times, key: &str, value: &str) -> Operation {
    operation(client, times, op_put(key, value), Outcome::Unknown)
}

pub fn put_not_applied(client: u64, times: Times, key: &str, value: &str) -> Operation {
    operation(client, times, op_put(key, value), Outcome::NotApplied)
}

pub fn delete(client: u64, times: Times, key: &str, revision: u64) -> Operation {
    operation(client, times, Op::Delete { key: key.into() }, Outcome::Delete { revision, deleted: true })
}

pub fn delete_nothing(client: u64, times: Times, key: &str, revision: u64) -> Operation {
    operation(client, times, Op::Delete { key: key.into() }, Outcome::Delete { revision, deleted: false })
}

pub fn delete_failed(client: u64, times: Times, key: &str, outcome: Outcome) -> Operation {
    operation(client, times, Op::Delete { key: key.into() }, outcome)
}

/// `item`: (value, mod_revision).
pub fn get(client: u64, times: Times, key: &str, item: Option<(&str, u64)>, revision: u64) -> Operation {
    let item = item.map(|(value, mod_revision)| Item::new(key, value, mod_revision));
    let op = Op::Get { key: key.into(), consistency: Consistency::Linearizable };
    operation(client, times, op, Outcome::Get { revision, item })
}

pub fn stale(mut read: Operation) -> Operation {
    if let Op::Get { consistency, .. } | Op::List { consistency, .. } = &mut read.op {
        *consistency = Consistency::Stale;
    }
    read
}

pub fn linearizable(mut read: Operation) -> Operation {
    if let Op::Get { consistency, .. } | Op::List { consistency, .. } = &mut read.op {
        *consistency = Consistency::Linearizable;
    }
    read
}

/// `items`: (key, value, mod_revision).
pub fn list(client: u64, times: Times, prefix: &str, items: &[(&str, &str, u64)], revision: u64) -> Operation {
    let items = items.iter().map(|(key, value, mod_revision)| Item::new(*key, *value, *mod_revision)).collect();
    let op = Op::List { prefix: prefix.into(), consistency: Consistency::Linearizable };
    operation(client, times, op, Outcome::List { revision, items })
}

/// A log from revision 1 on: (key, value or delete).
pub fn log(writes: &[(&str, Option<&str>)]) -> Vec<LogWrite> {
    let writes = (1..).zip(writes);
    writes
        .map(|(revision, (key, value))| LogWrite { revision, key: (*key).into(), value: value.map(Into::into) })
        .collect()
}

/// A small generator (SplitMix64), so that a seed means the same for ever.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

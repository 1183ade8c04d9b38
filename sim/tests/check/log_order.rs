//! Planted histories for the check in the order of the log: a register that adds, and the key-value store's log.

use sim::check::history::{Consistency, Operation, Violation};
use sim::check::log_order::kv_model::{Command, KvModel, Response};
use sim::check::log_order::{
    Call, DURABILITY, EXACTLY_ONCE, Entry, FOLLOWS, LOG_ASCENDS, Learnt, Model, NO_PHANTOM, NOT_APPLIED_INVISIBLE,
    READ_YOUR_WRITES, READS_FOLLOW, REAL_TIME, Request, check, replay,
};

/// Adds, and answers the sum; a query asks for the sum times something.
struct Sum;

impl Model for Sum {
    type Command = u64;
    type Response = u64;
    type Query = u64;
    type Answer = u64;
    type State = u64;

    fn initial(&self) -> u64 {
        0
    }

    fn write(&self, state: &mut u64, command: &u64) -> u64 {
        *state += command;
        *state
    }

    fn read(&self, state: &u64, query: &u64) -> u64 {
        state * query
    }
}

type Times = (u64, u64);
type Logged = Entry<u64, u64>;

fn call(client: u64, times: Times, op: Request<u64, u64>, outcome: Learnt<u64, u64>) -> Call<Sum> {
    Operation { client, invoke_ns: times.0, complete_ns: Some(times.1), op, outcome }
}

/// (serial, what is added); (term, index), the answer.
fn add(client: u64, times: Times, (serial, command): (u64, u64), outcome: Learnt<u64, u64>) -> Call<Sum> {
    call(client, times, Request::Write { serial, command }, outcome)
}

fn at(term: u64, index: u64, response: u64) -> Learnt<u64, u64> {
    Learnt::Written { index, term, response }
}

fn read(client: u64, times: Times, query: u64, applied: Option<u64>, answer: u64) -> Call<Sum> {
    let op = Request::Read { query, consistency: Consistency::Linearizable };
    call(client, times, op, Learnt::Read { applied, answer })
}

fn stale(mut read: Call<Sum>) -> Call<Sum> {
    if let Request::Read { consistency, .. } = &mut read.op {
        *consistency = Consistency::Stale;
    }
    read
}

/// (term, index, serial, command, response).
fn log(entries: &[(u64, u64, u64, u64, u64)]) -> Vec<Logged> {
    let entry = |&(term, index, serial, command, response)| Entry { index, term, serial, command, response };
    entries.iter().map(entry).collect()
}

/// Three commands with blank entries between them.
fn usual() -> Vec<Logged> {
    log(&[(1, 2, 11, 5, 5), (1, 3, 21, 7, 12), (3, 6, 12, 1, 13)])
}

/// Two clients and a reader, all well.
fn usual_calls() -> Vec<Call<Sum>> {
    vec![
        add(1, (10, 20), (11, 5), at(1, 2, 5)),
        add(2, (15, 40), (21, 7), at(1, 3, 12)),
        read(3, (25, 35), 2, Some(3), 24),
        add(1, (50, 60), (12, 1), Learnt::Unknown),
        read(1, (70, 80), 1, Some(7), 13),
        read(2, (70, 80), 1, Some(6), 13),
        add(2, (90, 95), (22, 100), Learnt::NotApplied),
        add(3, (90, 95), (31, 100), Learnt::Unknown),
        stale(read(3, (96, 97), 3, Some(2), 15)),
        stale(read(3, (98, 99), 3, None, 0)),
    ]
}

fn property(result: Result<(), Violation>) -> &'static str {
    result.expect_err("a violation").property
}

/// The usual history, with one call exchanged.
fn with(at: usize, other: Call<Sum>) -> Vec<Call<Sum>> {
    let mut calls = usual_calls();
    calls[at] = other;
    calls
}

#[test]
fn what_is_right_is_right() {
    check(&Sum, &usual(), &usual_calls()).expect("a sequential history with an unknown write that took effect");
    check(&Sum, &[], &[]).expect("nothing happened");
    check(&Sum, &[], &[read(1, (1, 2), 1, None, 0)]).expect("an empty state was read");
}

#[test]
fn the_log_ascends() {
    for other in [log(&[(1, 2, 11, 5, 5), (1, 2, 21, 7, 12)]), log(&[(2, 2, 11, 5, 5), (1, 3, 21, 7, 12)])] {
        assert_eq!(property(check(&Sum, &other, &usual_calls())), LOG_ASCENDS);
    }
}

#[test]
fn phantoms() {
    // Nobody issued it.
    let mut entries = usual();
    entries.push(Entry { index: 9, term: 3, serial: 99, command: 1, response: 14 });
    assert_eq!(property(check(&Sum, &entries, &usual_calls())), NO_PHANTOM);
    // Somebody did, but something else.
    let calls = with(3, add(1, (50, 60), (12, 2), Learnt::Unknown));
    assert_eq!(property(check(&Sum, &usual(), &calls)), NO_PHANTOM);
    // A read has no command.
    let calls = with(3, read(1, (50, 60), 1, Some(6), 13));
    assert_eq!(property(check(&Sum, &usual(), &calls)), NO_PHANTOM);
}

#[test]
fn not_applied_is_a_promise() {
    let calls = with(3, add(1, (50, 60), (12, 1), Learnt::NotApplied));
    assert_eq!(property(check(&Sum, &usual(), &calls)), NOT_APPLIED_INVISIBLE);
}

#[test]
fn one_serial_has_one_place() {
    let mut entries = usual();
    entries.push(Entry { index: 9, term: 3, serial: 12, command: 1, response: 14 });
    let found = check(&Sum, &entries, &usual_calls()).expect_err("applied twice");
    assert_eq!((found.property, found.operations), (EXACTLY_ONCE, vec![3]));
}

#[test]
fn acknowledged_is_in_the_log() {
    for other in [
        // Another place, another term, another answer, and nowhere.
        add(2, (15, 40), (21, 7), at(1, 2, 12)),
        add(2, (15, 40), (21, 7), at(2, 3, 12)),
        add(2, (15, 40), (21, 7), at(1, 3, 7)),
        add(2, (15, 40), (21, 7), at(3, 8, 12)),
    ] {
        assert_eq!(property(check(&Sum, &usual(), &with(1, other))), DURABILITY);
    }
    let calls = with(7, add(3, (90, 95), (31, 100), at(3, 9, 113)));
    assert_eq!(property(check(&Sum, &usual(), &calls)), DURABILITY, "acknowledged, and lost at the end");
}

#[test]
fn the_order_of_the_log_is_that_of_time() {
    // Invoked after what is behind it had completed.
    let calls = with(0, add(1, (45, 48), (11, 5), at(1, 2, 5)));
    assert_eq!(property(check(&Sum, &usual(), &calls)), REAL_TIME);
    // The same of a write of unknown outcome.
    let calls = with(3, add(4, (85, 86), (12, 1), Learnt::Unknown));
    assert_eq!(property(check(&Sum, &usual(), &calls)), REAL_TIME);
    // A read that does not see what another client was told.
    let calls = with(5, read(2, (85, 88), 1, Some(2), 5));
    assert_eq!(property(check(&Sum, &usual(), &calls)), REAL_TIME);
    // Stale reads may fall behind, but what they show is there for everybody else.
    let calls = with(2, stale(read(3, (25, 35), 2, Some(2), 10)));
    check(&Sum, &usual(), &calls).expect("a stale read");
    let mut calls = usual_calls();
    calls.insert(4, stale(read(4, (62, 63), 1, Some(6), 13)));
    calls[5] = read(1, (70, 80), 1, Some(3), 12);
    assert_eq!(property(check(&Sum, &usual(), &calls)), REAL_TIME);
}

#[test]
fn clients_read_what_they_wrote() {
    let mut calls = usual_calls();
    calls.push(add(5, (100, 110), (51, 4), at(3, 8, 17)));
    calls.push(read(5, (120, 130), 1, Some(7), 13));
    let mut entries = usual();
    entries.push(Entry { index: 8, term: 3, serial: 51, command: 4, response: 17 });
    let found = check(&Sum, &entries, &calls).expect_err("its own write is missing");
    assert_eq!((found.property, found.operations), (READ_YOUR_WRITES, vec![10, 11]));
}

#[test]
fn responses_follow_from_the_log() {
    let mut entries = usual();
    entries[2].response = 12;
    let found = check(&Sum, &entries, &usual_calls()).expect_err("a lost update");
    assert_eq!((found.property, found.operations), (FOLLOWS, vec![3]));
}

#[test]
fn reads_follow_from_the_log() {
    for other in [
        read(2, (70, 80), 1, Some(6), 12),
        // The right answer of another place.
        read(2, (70, 80), 1, Some(6), 5),
        stale(read(2, (70, 80), 1, Some(5), 13)),
    ] {
        let found = check(&Sum, &usual(), &with(5, other)).expect_err("a wrong answer");
        assert_eq!((found.property, found.operations), (READS_FOLLOW, vec![5]));
    }
}

#[test]
fn the_chain_of_revisions() {
    let put = |key: &str, revision, create_revision, version| {
        (Command::Put(key.to_owned()), Response::Put { revision, create_revision, version })
    };
    let delete =
        |key: &str, revision, deleted| (Command::Delete(key.to_owned()), Response::Delete { revision, deleted });
    let chain = vec![
        put("a", 1, 1, 1),
        put("b", 2, 2, 1),
        put("a", 3, 1, 2),
        delete("a", 4, true),
        delete("a", 4, false),
        put("a", 5, 5, 1),
    ];
    let follows = |chain: &[(Command, Response)]| {
        let entry = |(index, (command, response)): (u64, &(Command, Response))| {
            let (command, response) = (command.clone(), response.clone());
            Entry { index, term: 1, serial: index, command, response }
        };
        let log: Vec<_> = (1..).zip(chain).map(entry).collect();
        replay(&KvModel, &log, &[])
    };
    follows(&chain).expect("as the store counts");
    let broken = [
        (2, put("a", 2, 1, 2)),
        (2, put("a", 4, 1, 2)),
        (2, put("a", 3, 3, 2)),
        (2, put("a", 3, 1, 1)),
        (3, delete("a", 4, false)),
        (4, delete("a", 5, true)),
        (5, put("a", 5, 1, 3)),
        (5, (Command::Put("a".to_owned()), Response::Other("what".to_owned()))),
    ];
    for (at, other) in broken {
        let mut chain = chain.clone();
        chain[at] = other;
        assert_eq!(property(follows(&chain)), FOLLOWS, "{chain:?}");
    }
}

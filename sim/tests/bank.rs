//! A state machine of one's own in the simulator: a bank whose transfers keep the total, and what becomes of it with a
//! bug on purpose. [`sim::harness`] explains what is checked; `SIM_SEED=7 cargo test a_bank_keeps_its_total` runs one seed.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_core::{LogId, StateMachine, StateMut, StateRef};
use sim::SplitMix;
use sim::check::log_order::FOLLOWS;
use sim::check::raft::STATE_MACHINE_EQUALITY;
use sim::harness::{Ask, Trial, check, find};
use sim::plan::Plan;
use sim::run::{NO_PANIC, run_subject};

const ACCOUNTS: u64 = 5;
const TOTAL: u64 = 100 * ACCOUNTS;

/// What is wrong with a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Takes what is not there.
    Overdraft,
    /// Now and then what is paid in is forgotten.
    LostUpdate,
    /// Answers with the time.
    Clock,
    /// Counts in a static that all replicas share.
    Counter,
    /// Charges the first account that a `HashMap` happens to name.
    HashOrder,
    /// Does not expect one of its commands.
    Panic,
}

/// Commands are `from to amount`, responses `ok` or `no`; a balance is under its account's number.
struct Bank(Bug);

static TRANSFERS: AtomicU64 = AtomicU64::new(0);

fn balance(state: &dyn StateRef, account: u64) -> u64 {
    let stored = state.get(account.to_string().as_bytes());
    stored.map_or(100, |text| String::from_utf8_lossy(&text).parse().expect("a balance is a number"))
}

fn parse(command: &Bytes) -> (u64, u64, u64) {
    let text = String::from_utf8_lossy(command);
    let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("three numbers");
    (next(), next(), next())
}

impl StateMachine for Bank {
    fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let (mut from, to, amount) = parse(command);
        let set = |state: &mut dyn StateMut, account: u64, balance: u64| {
            state.put(account.to_string().into(), balance.to_string().into());
        };
        if self.0 == Bug::HashOrder {
            from = first_of_a_hash_map();
        }
        if from == to || (balance(state, from) < amount && self.0 != Bug::Overdraft) {
            return Bytes::from_static(b"no");
        }
        assert!(amount < 80 || self.0 != Bug::Panic, "so much");
        let (left, right) = (balance(state, from), balance(state, to));
        set(state, from, left.saturating_sub(amount));
        if self.0 != Bug::LostUpdate || !right.is_multiple_of(7) {
            set(state, to, right + amount);
        }
        match self.0 {
            Bug::Clock => now(),
            Bug::Counter => TRANSFERS.fetch_add(1, Ordering::Relaxed).to_string().into(),
            _ => Bytes::from_static(b"ok"),
        }
    }
}

#[expect(clippy::disallowed_types, reason = "the bug on purpose: its order differs from map to map")]
fn first_of_a_hash_map() -> u64 {
    let accounts: std::collections::HashMap<u64, ()> = (0..ACCOUNTS).map(|account| (account, ())).collect();
    *accounts.keys().next().expect("there are accounts")
}

#[expect(clippy::disallowed_methods, reason = "the bug on purpose: replicas apply at different times")]
fn now() -> Bytes {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string().into()
}

/// Clients transfer, and look at one account or at the sum of all.
struct Clerks(Bug);

impl Trial for Clerks {
    type Machine = Bank;
    /// `None` asks for the sum of all accounts.
    type Query = Option<u64>;
    type Answer = u64;
    type State = BTreeMap<u64, u64>;

    fn machine(&self) -> Bank {
        Bank(self.0)
    }

    fn draw(&self, rng: &mut SplitMix) -> Ask<Option<u64>> {
        match rng.below(10) {
            0..2 => Ask::Read(None),
            2..4 => Ask::Read(Some(rng.below(ACCOUNTS))),
            _ => {
                let (from, to, amount) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS), rng.below(90));
                Ask::Write(format!("{from} {to} {amount}").into())
            }
        }
    }

    fn query(&self, state: &dyn StateRef, query: &Option<u64>) -> u64 {
        match query {
            Some(account) => balance(state, *account),
            None => {
                let mut sum = 0;
                let mut accounts = 0;
                state.range(Bound::Unbounded, Bound::Unbounded, &mut |_, balance| {
                    sum += String::from_utf8_lossy(balance).parse::<u64>().expect("a balance is a number");
                    accounts += 1;
                    true
                });
                sum + 100 * (ACCOUNTS - accounts)
            }
        }
    }

    fn expect_write(&self, state: &mut BTreeMap<u64, u64>, command: &Bytes) -> Bytes {
        let (from, to, amount) = parse(command);
        let has = *state.entry(from).or_insert(100);
        if from == to || has < amount {
            return Bytes::from_static(b"no");
        }
        state.insert(from, has - amount);
        *state.entry(to).or_insert(100) += amount;
        Bytes::from_static(b"ok")
    }

    fn expect_read(&self, state: &BTreeMap<u64, u64>, query: &Option<u64>) -> u64 {
        query.map_or(TOTAL, |account| state.get(&account).copied().unwrap_or(100))
    }
}

#[test]
fn a_bank_keeps_its_total() {
    check(Clerks(Bug::None), 0..60);
}

/// What finds the bug, within so many seeds; which seed it was.
fn found(bug: Bug, seeds: u64) -> (&'static str, u64) {
    let report = find(Clerks(bug), 0..seeds).unwrap_or_else(|| panic!("{bug:?} is not found in {seeds} seeds"));
    let violation = report.violation.expect("it was found");
    println!("{bug:?}: seed {}, {violation}", report.seed);
    (violation.property, report.seed)
}

/// The model says no, or something else is read than was written.
#[test]
fn a_bank_that_loses_money_is_found() {
    for bug in [Bug::Overdraft, Bug::LostUpdate] {
        let (property, _) = found(bug, 20);
        assert!([FOLLOWS, sim::check::log_order::READS_FOLLOW].contains(&property), "{bug:?}: {property}");
    }
}

/// Replicas differ. The clock and the entropy are those of the run, so such a bug replays.
#[test]
fn a_bank_that_is_not_deterministic_is_found_and_replays() {
    for bug in [Bug::Clock, Bug::HashOrder] {
        let (property, seed) = found(bug, 20);
        assert_eq!(property, STATE_MACHINE_EQUALITY, "{bug:?}");
        let run = || run_subject(&sim::harness::Tried::new(Clerks(bug)), &Plan::draw(seed), 0);
        let (one, other) = (run(), run());
        assert_eq!((one.hash, &one.violation), (other.hash, &other.violation), "{bug:?}");
    }
}

/// A panic ends a run at once; what was before it is the same in each.
#[test]
fn a_bank_that_panics_is_found_and_replays() {
    let (property, seed) = found(Bug::Panic, 20);
    assert_eq!(property, NO_PANIC);
    let run = || run_subject(&sim::harness::Tried::new(Clerks(Bug::Panic)), &Plan::draw(seed), 0);
    let (one, other) = (run(), run());
    assert!(one.events > 100, "{} events", one.events);
    assert_eq!((one.hash, one.events, &one.violation), (other.hash, other.events, &other.violation));
}

/// A static outlives the run, so that each replay counts on from somewhere else; but replicas differ in each.
#[test]
fn a_bank_that_counts_in_a_static_is_found() {
    assert_eq!(found(Bug::Counter, 20).0, STATE_MACHINE_EQUALITY);
}

//! Planted histories for the check by revisions: right ones that look odd, and for each property wrong ones.

use sim::check::history::{Operation, Outcome, WELL_FORMED};
use sim::check::revision_order::{
    DURABILITY, EXACTLY_ONCE, Evidence, LOG_CONSECUTIVE, LogWrite, NO_PHANTOM, NOT_APPLIED_INVISIBLE, READ_STATE,
    REAL_TIME, REPLAY, Summary, UNIQUE_REVISIONS, check,
};

use super::support::*;

fn right(history: &[Operation]) -> Summary {
    check(history, Evidence::default()).unwrap_or_else(|violation| panic!("{}", violation.render(history)))
}

fn right_with(history: &[Operation], log: &[LogWrite]) -> Summary {
    let evidence = Evidence { log: Some(log), base_revision: 0 };
    check(history, evidence).unwrap_or_else(|violation| panic!("{}", violation.render(history)))
}

fn found(found: Result<Summary, sim::check::history::Violation>) -> (&'static str, Vec<usize>) {
    found.map_or_else(|violation| (violation.property, violation.operations), |summary| panic!("passed: {summary:?}"))
}

fn wrong(history: &[Operation]) -> (&'static str, Vec<usize>) {
    found(check(history, Evidence::default()))
}

fn wrong_with(history: &[Operation], log: &[LogWrite]) -> (&'static str, Vec<usize>) {
    found(check(history, Evidence { log: Some(log), base_revision: 0 }))
}

#[test]
fn an_empty_history_is_right() {
    assert_eq!(right(&[]), Summary::default());
    assert_eq!(right_with(&[], &[]), Summary::default());
}

#[test]
fn concurrent_operations_may_come_in_any_order() {
    // Both puts overlap; the read overlaps both and saw only the second revision's predecessor.
    right(&[
        put(1, (0, 90), "a", "x", 2),
        put(2, (10, 80), "a", "y", 1),
        get(3, (20, 70), "a", Some(("y", 1)), 1),
        get(4, (20, 70), "a", Some(("x", 2)), 2),
        get(4, (95, 99), "a", Some(("x", 2)), 2),
    ]);
}

#[test]
fn an_unknown_write_may_take_effect_late() {
    let history = [
        put_unknown(1, (0, 10), "a", "x"),
        get(1, (20, 30), "a", None, 0),
        put(2, (40, 50), "a", "y", 1),
        get(1, (60, 70), "a", Some(("x", 2)), 2),
    ];
    assert_eq!(right(&history).unknown_applied, [(2, 0)]);
    let summary = right_with(&history, &log(&[("a", Some("y")), ("a", Some("x"))]));
    assert_eq!(summary.unknown_applied, [(2, 0)]);
}

#[test]
fn an_unknown_write_may_never_take_effect() {
    let history = [
        put(1, (0, 10), "a", "x", 1),
        put_unknown(1, (20, 30), "a", "y"),
        delete_failed(2, (20, 30), "a", Outcome::Unknown),
        get(1, (40, 50), "a", Some(("x", 1)), 1),
    ];
    assert_eq!(right(&history).hidden, 0);
    assert_eq!(right_with(&history, &log(&[("a", Some("x"))])).unknown_applied, []);
}

#[test]
fn an_unknown_write_may_hide_in_a_gap() {
    // Revision 2 was the unknown put, overwritten before anyone looked; the version tells of it too.
    let history = [
        put_version(1, (0, 10), "a", "x", (1, 1, 1)),
        put_unknown(1, (20, 30), "a", "y"),
        put_version(1, (40, 50), "a", "z", (3, 1, 3)),
    ];
    assert_eq!(right(&history).hidden, 1);
    let summary = right_with(&history, &log(&[("a", Some("x")), ("a", Some("y")), ("a", Some("z"))]));
    assert_eq!((summary.hidden, summary.unknown_applied), (0, vec![(2, 1)]));
}

#[test]
fn a_gap_needs_an_unknown_write_that_was_invoked_before() {
    let history = [put(1, (0, 10), "a", "x", 2), put_unknown(2, (20, 30), "b", "y")];
    assert_eq!(wrong(&history), (NO_PHANTOM, vec![0]));
}

#[test]
fn an_unknown_delete_may_explain_a_missing_key_but_only_once() {
    let history = [
        put(1, (0, 10), "a", "x", 1),
        delete_failed(2, (5, 20), "a", Outcome::Unknown),
        get(1, (30, 40), "a", None, 2),
        put_unknown(2, (40, 45), "b", "p"),
        put(1, (50, 60), "a", "y", 3),
        get(1, (70, 80), "a", Some(("y", 3)), 3),
    ];
    assert_eq!(right(&history).hidden, 1);
    let log = log(&[("a", Some("x")), ("a", None), ("a", Some("y"))]);
    assert_eq!(right_with(&history, &log).unknown_applied, [(2, 1)]);
    let mut again = history.to_vec();
    again[5] = get(1, (70, 80), "a", None, 4);
    assert_eq!(wrong(&again), (READ_STATE, vec![4, 5]));
    let mut back = history.to_vec();
    back[5] = get(1, (70, 80), "a", Some(("x", 1)), 3);
    assert_eq!(wrong(&back).0, READ_STATE);
}

#[test]
fn a_stale_read_may_be_old_but_not_wrong() {
    let writes = [put(1, (0, 10), "a", "x", 1), delete(1, (20, 30), "a", 2), put(1, (40, 50), "a", "y", 3)];
    let with = |read: Operation| [&writes[..], &[read]].concat();
    right(&with(stale(get(2, (60, 70), "a", Some(("x", 1)), 1))));
    right(&with(stale(get(2, (60, 70), "a", None, 2))));
    right(&with(stale(get(2, (60, 70), "a", None, 0))));
    // Not at this revision, never at all, and not yet.
    assert_eq!(wrong(&with(stale(get(2, (60, 70), "a", Some(("x", 1)), 2)))), (READ_STATE, vec![1, 3]));
    assert_eq!(wrong(&with(stale(list(2, (60, 70), "", &[], 3)))), (READ_STATE, vec![2, 3]));
    assert_eq!(wrong(&with(stale(get(2, (31, 35), "a", Some(("y", 3)), 3)))), (REAL_TIME, vec![2, 3]));
}

#[test]
fn a_stale_read_binds_what_comes_after_it() {
    let history =
        [put(1, (0, 90), "a", "x", 1), stale(get(2, (10, 20), "a", Some(("x", 1)), 1)), get(3, (30, 40), "a", None, 0)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![1, 2]));
}

#[test]
fn a_linearizable_read_must_not_be_stale() {
    let history = [put(1, (0, 10), "a", "x", 1), get(2, (20, 30), "a", None, 0)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![0, 1]));
    // Reads see what earlier reads saw.
    let history =
        [put(1, (0, 90), "a", "x", 1), get(2, (10, 20), "a", Some(("x", 1)), 1), get(3, (30, 40), "a", None, 0)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![1, 2]));
    // A delete that finds nothing is a read.
    let history = [put(1, (0, 10), "a", "x", 1), delete_nothing(2, (20, 30), "a", 0)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![0, 1]));
}

#[test]
fn revisions_follow_the_order_in_time() {
    let history = [put(1, (0, 10), "a", "x", 2), put(2, (20, 30), "b", "y", 1)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![0, 1]));
    assert_eq!(wrong_with(&history, &log(&[("b", Some("y")), ("a", Some("x"))])), (REAL_TIME, vec![0, 1]));
}

#[test]
fn nothing_comes_from_the_future() {
    // Read before it was written.
    let history = [get(2, (0, 10), "a", Some(("x", 1)), 1), put(1, (20, 30), "a", "x", 1)];
    assert_eq!(wrong(&history), (REAL_TIME, vec![0, 1]));
    let history = [get(2, (0, 10), "a", Some(("x", 1)), 1), put_unknown(1, (20, 30), "a", "x")];
    assert_eq!(wrong(&history), (REAL_TIME, vec![0, 1]));
    // A revision that nobody made.
    let history = [put(1, (0, 10), "a", "x", 1), get(2, (20, 30), "a", Some(("x", 1)), 7)];
    assert_eq!(wrong(&history), (NO_PHANTOM, vec![1]));
    assert_eq!(wrong_with(&history, &log(&[("a", Some("x"))])), (READ_STATE, vec![1]));
    let history = [put(1, (0, 10), "a", "x", u64::MAX), delete(2, (20, 30), "a", u64::MAX)];
    assert_eq!(wrong(&history).0, UNIQUE_REVISIONS);
    // An item newer than the state that it is in.
    let history = [put(1, (0, 90), "a", "x", 2), get(2, (20, 30), "a", Some(("x", 2)), 1)];
    assert_eq!(wrong(&history), (READ_STATE, vec![1]));
}

#[test]
fn acknowledged_writes_are_not_lost() {
    let history = [put(1, (0, 10), "a", "x", 1), put(1, (20, 30), "a", "y", 2)];
    assert_eq!(wrong_with(&history, &log(&[("a", Some("x"))])), (DURABILITY, vec![1]));
    assert_eq!(wrong_with(&history, &[]), (DURABILITY, vec![0]));
    // The revision was given to another write.
    let history = [put(1, (0, 10), "a", "x", 1), put_unknown(2, (0, 30), "b", "y")];
    assert_eq!(wrong_with(&history, &log(&[("b", Some("y"))])), (DURABILITY, vec![0, 1]));
    let history = [put(1, (0, 10), "a", "x", 1), put(2, (20, 30), "b", "y", 1)];
    assert_eq!(wrong(&history), (UNIQUE_REVISIONS, vec![0, 1]));
    let history =
        [put_unknown(1, (0, 10), "a", "x"), put(2, (0, 10), "b", "y", 1), get(1, (20, 30), "a", Some(("x", 1)), 1)];
    assert_eq!(wrong(&history), (UNIQUE_REVISIONS, vec![0, 1, 2]));
    // Without a log the final read tells.
    let history =
        [put(1, (0, 10), "a", "x", 1), put(1, (20, 30), "b", "y", 2), list(2, (40, 50), "", &[("b", "y", 2)], 2)];
    assert_eq!(wrong(&history), (READ_STATE, vec![0, 2]));
    let lost_delete = [put(1, (0, 10), "a", "x", 1), delete(1, (20, 30), "a", 2)];
    assert_eq!(wrong_with(&lost_delete, &log(&[("a", Some("x"))])), (DURABILITY, vec![1]));
}

#[test]
fn a_lost_update_is_found() {
    // The second put answered as if the first had not been there.
    let history = [put_version(1, (0, 10), "a", "x", (1, 1, 1)), put_version(2, (20, 30), "a", "y", (2, 2, 1))];
    assert_eq!(wrong(&history), (REPLAY, vec![0, 1]));
    let history = [put_version(1, (0, 10), "a", "x", (1, 1, 1)), put_version(2, (20, 30), "a", "y", (2, 1, 3))];
    assert_eq!(wrong(&history), (REPLAY, vec![0, 1]));
    let history = [delete(1, (0, 10), "a", 1)];
    assert_eq!(wrong(&history), (REPLAY, vec![0]));
    let history = [put(1, (0, 10), "a", "x", 1), delete_nothing(1, (20, 30), "a", 1)];
    assert_eq!(wrong(&history), (READ_STATE, vec![0, 1]));
}

#[test]
fn phantoms_are_found() {
    let history = [get(1, (0, 10), "a", Some(("never put", 1)), 1)];
    assert_eq!(wrong(&history), (NO_PHANTOM, vec![0]));
    let history = [put(1, (0, 10), "a", "x", 1), get(1, (20, 30), "b", Some(("x", 1)), 1)];
    assert_eq!(wrong(&history), (NO_PHANTOM, vec![0, 1]));
    assert_eq!(wrong_with(&[], &log(&[("a", Some("never put"))])), (NO_PHANTOM, vec![]));
    let history = [put(1, (0, 10), "a", "x", 1)];
    assert_eq!(wrong_with(&history, &log(&[("a", Some("x")), ("a", None)])), (NO_PHANTOM, vec![]));
    // An answer to another question.
    let mut history = [put(1, (0, 10), "a", "x", 1), get(2, (20, 30), "a", Some(("x", 1)), 1)];
    history[1].op = get(2, (0, 0), "b", None, 0).op;
    assert_eq!(wrong(&history), (READ_STATE, vec![1]));
}

#[test]
fn what_was_not_applied_is_never_visible() {
    let refused = put_not_applied(1, (0, 10), "a", "x");
    let history = [refused.clone(), get(2, (20, 30), "a", Some(("x", 1)), 1)];
    assert_eq!(wrong(&history), (NOT_APPLIED_INVISIBLE, vec![0, 1]));
    assert_eq!(wrong_with(&[refused], &log(&[("a", Some("x"))])), (NOT_APPLIED_INVISIBLE, vec![0]));
    let history = [put(1, (0, 10), "a", "x", 1), delete_failed(1, (20, 30), "a", Outcome::NotApplied)];
    right_with(&history, &log(&[("a", Some("x"))]));
    assert_eq!(wrong_with(&history, &log(&[("a", Some("x")), ("a", None)])), (NOT_APPLIED_INVISIBLE, vec![1]));
}

#[test]
fn nothing_takes_effect_twice() {
    let history =
        [put(1, (0, 10), "a", "x", 1), put(1, (20, 30), "a", "y", 2), get(1, (40, 50), "a", Some(("x", 3)), 3)];
    assert_eq!(wrong(&history), (EXACTLY_ONCE, vec![0, 2]));
    let twice = log(&[("a", Some("x")), ("a", Some("y")), ("a", Some("x"))]);
    assert_eq!(wrong_with(&history[..2], &twice), (EXACTLY_ONCE, vec![0]));
    let unknown = [put_unknown(1, (0, 10), "a", "x"), put(1, (20, 30), "a", "y", 2)];
    assert_eq!(wrong_with(&unknown, &twice), (EXACTLY_ONCE, vec![0]));
    let seen = [
        unknown[0].clone(),
        put_unknown(2, (0, 10), "b", "y"),
        get(1, (20, 30), "a", Some(("x", 1)), 1),
        get(1, (40, 50), "a", Some(("x", 2)), 2),
    ];
    assert_eq!(wrong(&seen), (EXACTLY_ONCE, vec![0, 3]));
    // One unknown delete explains one delete.
    let deleted = log(&[("a", Some("x")), ("a", None), ("a", Some("y")), ("a", None)]);
    let history =
        [put(1, (0, 10), "a", "x", 1), delete_failed(2, (0, 10), "a", Outcome::Unknown), put(1, (20, 30), "a", "y", 3)];
    assert_eq!(wrong_with(&history, &deleted), (NO_PHANTOM, vec![]));
    right_with(&history, &deleted[..3]);
}

#[test]
fn lists_show_all_and_nothing_else() {
    let writes = [put(1, (0, 10), "a1", "x", 1), put(1, (20, 30), "a2", "y", 2), put(1, (40, 50), "b", "z", 3)];
    let with = |read: Operation| [&writes[..], &[read]].concat();
    right(&with(list(2, (60, 70), "a", &[("a1", "x", 1), ("a2", "y", 2)], 3)));
    right(&with(list(2, (60, 70), "", &[("a1", "x", 1), ("a2", "y", 2), ("b", "z", 3)], 3)));
    right(&with(list(2, (60, 70), "c", &[], 3)));
    assert_eq!(wrong(&with(list(2, (60, 70), "a", &[("a2", "y", 2)], 3))), (READ_STATE, vec![0, 3]));
    assert_eq!(wrong(&with(list(2, (60, 70), "a", &[("a1", "x", 1), ("a1", "x", 1)], 3))), (READ_STATE, vec![3]));
    assert_eq!(wrong(&with(list(2, (60, 70), "a", &[("b", "z", 3)], 3))), (READ_STATE, vec![3]));
}

#[test]
fn a_history_may_start_from_a_base() {
    let history = [put(1, (0, 10), "a", "x", 8)];
    let log = [LogWrite { revision: 8, key: "a".into(), value: Some("x".into()) }];
    let at = |base_revision, log| check(&history, Evidence { log, base_revision });
    assert!(at(7, None).is_ok() && at(7, Some(&log)).is_ok());
    assert_eq!(found(at(8, None)), (REAL_TIME, vec![0]));
    assert_eq!(found(at(6, None)), (NO_PHANTOM, vec![0]));
    assert_eq!(found(at(6, Some(&log))), (LOG_CONSECUTIVE, vec![]));
}

#[test]
fn a_broken_recorder_is_not_the_stores_fault() {
    let mut no_time = put(1, (0, 10), "a", "x", 1);
    no_time.complete_ns = None;
    assert_eq!(wrong(&[no_time]), (WELL_FORMED, vec![0]));
    assert_eq!(wrong(&[put(1, (10, 0), "a", "x", 1)]), (WELL_FORMED, vec![0]));
    assert_eq!(wrong(&[put(1, (0, 10), "a", "x", 1), put(1, (9, 20), "a", "y", 2)]), (WELL_FORMED, vec![0, 1]));
    assert_eq!(wrong(&[put(1, (0, 10), "a", "x", 1), put(2, (9, 20), "a", "x", 2)]), (WELL_FORMED, vec![0, 1]));
    let mut other = put(1, (0, 10), "a", "x", 1);
    other.outcome = get(1, (0, 10), "a", None, 1).outcome;
    assert_eq!(wrong(&[other]), (WELL_FORMED, vec![0]));
}

#[test]
fn reports_name_the_operations() {
    let history = [put(1, (0, 10), "a", "x", 1), get(2, (20, 30), "a", None, 0)];
    let violation = check(&history, Evidence::default()).expect_err("a stale read");
    assert_eq!(
        violation.render(&history),
        "real-time order: #1 has revision 0, but #0 came before it with 1\n  \
         #0 c1 [0..10] put a=x -> revision 1\n  \
         #1 c2 [20..30] get a -> nothing at revision 0\n"
    );
}

//! Planted histories for the search. It ignores revisions, so all are 0 here.

use sim::check::history::{Operation, Outcome};
use sim::check::linearizability::{LINEARIZABLE, Verdict, check};

use super::support::*;

const STEPS_MAX: u64 = 100_000;

fn is_right(history: &[Operation]) {
    assert_eq!(check(history, STEPS_MAX), Verdict::Linearizable);
}

fn wrong(history: &[Operation]) -> Vec<usize> {
    match check(history, STEPS_MAX) {
        Verdict::Violation(violation) if violation.property == LINEARIZABLE => violation.operations,
        other => panic!("{other:?}"),
    }
}

#[test]
fn right_histories() {
    is_right(&[]);
    // Concurrent puts, seen in both orders by reads that overlap them: x, then y.
    is_right(&[
        put(1, (0, 90), "a", "x", 0),
        put(2, (10, 80), "a", "y", 0),
        get(3, (20, 30), "a", Some(("x", 0)), 0),
        get(3, (40, 50), "a", Some(("y", 0)), 0),
    ]);
    // An unknown put takes effect late, another never, an unknown delete in between.
    is_right(&[
        put_unknown(1, (0, 10), "a", "x"),
        put_unknown(2, (0, 10), "a", "never"),
        get(1, (20, 30), "a", None, 0),
        put(2, (40, 50), "a", "y", 0),
        get(1, (60, 70), "a", Some(("x", 0)), 0),
        delete_failed(2, (60, 80), "a", Outcome::Unknown),
        get(1, (90, 95), "a", None, 0),
    ]);
    // Nobody saw the unknown put, but something was there to delete.
    is_right(&[put_unknown(1, (0, 10), "a", "x"), delete(2, (20, 30), "a", 0), delete_nothing(2, (40, 50), "a", 0)]);
    // Stale reads are not looked at.
    is_right(&[put(1, (0, 10), "a", "x", 0), stale(get(1, (20, 30), "a", None, 0))]);
}

#[test]
fn a_stale_read_is_found() {
    let history = [
        put(1, (0, 10), "a", "x", 0),
        put(1, (20, 30), "a", "y", 0),
        get(2, (40, 50), "a", Some(("x", 0)), 0),
        get(2, (60, 70), "b", None, 0),
    ];
    assert_eq!(wrong(&history), [0, 1, 2]);
    let history = [put(1, (0, 10), "a", "x", 0), list(2, (20, 30), "", &[], 0)];
    assert_eq!(wrong(&history), [0, 1]);
}

#[test]
fn reads_do_not_go_back() {
    let history =
        [put(1, (0, 90), "a", "x", 0), get(2, (10, 20), "a", Some(("x", 0)), 0), get(3, (30, 40), "a", None, 0)];
    assert_eq!(wrong(&history), [0, 2]);
}

#[test]
fn lost_and_duplicate_writes_are_found() {
    assert_eq!(wrong(&[put(1, (0, 10), "a", "x", 0), delete_nothing(1, (20, 30), "a", 0)]), [0, 1]);
    let twice = [
        put_unknown(1, (0, 10), "a", "x"),
        get(2, (20, 30), "a", Some(("x", 0)), 0),
        put(2, (40, 50), "a", "y", 0),
        get(2, (60, 70), "a", Some(("y", 0)), 0),
        get(2, (80, 90), "a", Some(("x", 0)), 0),
    ];
    assert_eq!(wrong(&twice), [0, 2, 4]);
    // One unknown delete, but the key vanished twice.
    let history = [
        put(1, (0, 10), "a", "x", 0),
        delete_failed(2, (0, 10), "a", Outcome::Unknown),
        get(1, (20, 30), "a", None, 0),
        put(1, (40, 50), "a", "y", 0),
        get(1, (60, 70), "a", None, 0),
    ];
    assert_eq!(wrong(&history), [3, 4]);
}

#[test]
fn phantoms_and_refused_writes_are_found() {
    assert_eq!(wrong(&[get(1, (0, 10), "a", Some(("x", 0)), 0)]), [0]);
    assert_eq!(wrong(&[put_not_applied(1, (0, 10), "a", "x"), get(1, (20, 30), "a", Some(("x", 0)), 0)]), [1]);
    // Read before it was put.
    assert_eq!(wrong(&[get(1, (0, 10), "a", Some(("x", 0)), 0), put(1, (20, 30), "a", "x", 0)]), [0]);
    // Put under another key.
    let history = [put(1, (0, 10), "a", "x", 0), list(1, (20, 30), "b", &[("b", "x", 0)], 0)];
    assert_eq!(wrong(&history), [1]);
}

#[test]
fn a_spent_budget_is_not_a_success() {
    let history = [put(1, (0, 10), "a", "x", 0), put(2, (0, 10), "b", "y", 0)];
    assert_eq!(check(&history, 0), Verdict::Inconclusive { keys: vec!["a".to_owned(), "b".to_owned()] });
    assert_eq!(check(&history, 1), Verdict::Linearizable);
    // A violation on another key is still one.
    let history = [0, 1, 2].map(|n| put(n, (0, 10), "a", &format!("x{n}"), 0)).into_iter().chain([get(
        3,
        (0, 10),
        "b",
        Some(("z", 0)),
        0,
    )]);
    let history: Vec<Operation> = history.collect();
    assert!(matches!(check(&history[..3], 2), Verdict::Inconclusive { .. }));
    assert!(matches!(check(&history, 2), Verdict::Violation(_)));
}

/// Without the order among interchangeable writes this takes 2⁶⁰ steps.
#[test]
fn many_unknown_writes_do_not_explode() {
    let mut history: Vec<Operation> = (0..30)
        .flat_map(|n| {
            [put_unknown(n, (n, 100), "a", &format!("u{n}")), delete_failed(100 + n, (n, 100), "a", Outcome::Unknown)]
        })
        .collect();
    for n in 0..60 {
        let times = (200 + 20 * n, 210 + 20 * n);
        history.push(if n % 2 == 0 { delete(200, times, "a", 0) } else { get(200, times, "a", None, 0) });
    }
    is_right(&history);
    history.push(delete(200, (2_000, 2_010), "a", 0));
    wrong(&history);
}

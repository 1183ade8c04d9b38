//! A disk that fails under a running node: strace makes system calls of the real process fail.
//!
//! A write or a sync that failed is never tried again and never acknowledged: the node stops itself with exit code 4,
//! and what it had acknowledged is there at the next start.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::kv::Answer;
use e2e::{Cluster, can_trace, quorate};

/// Of each thread of the process this is the first call that fails; all later ones do too.
const FAILS_FROM: usize = 40;
/// The node must have failed before so many writes.
const WRITES_MAX: usize = 2_000;

/// Starts a node whose calls of this name fail after a while.
fn start_failing(cluster: &mut Cluster, index: usize, call: &str, error: &str) {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
    command.arg(format!("inject={call}:error={error}:when={FAILS_FROM}+")).arg(quorate().get_program());
    cluster.add_flags(&mut command, index);
    cluster.nodes[index].start(command);
}

/// Writes through node 0 until a write is not acknowledged; returns what was acknowledged, and the last answer.
fn write_until_it_fails(cluster: &Cluster) -> (BTreeMap<String, String>, Answer<e2e::kv::Put>) {
    let mut client = cluster.nodes[0].client();
    let mut acknowledged = BTreeMap::new();
    for number in 0..WRITES_MAX {
        let (key, value) = (format!("k{:03}", number % 400), format!("\"{number}\""));
        match client.put(&key, &value) {
            Answer::Done(_) => _ = acknowledged.insert(key, value),
            failed => return (acknowledged, failed),
        }
    }
    panic!("{WRITES_MAX} writes were acknowledged by a node whose disk fails");
}

fn a_failing_call_stops_the_node(test: &str, call: &str, error: &str) {
    if !can_trace() {
        return;
    }
    let mut cluster = Cluster::new(test, 1);
    start_failing(&mut cluster, 0, call, error);
    cluster.nodes[0].wait_ready();
    let (acknowledged, last) = write_until_it_fails(&cluster);
    println!("{test}: {} keys acknowledged, then {last:?}", acknowledged.len());
    assert!(!acknowledged.is_empty(), "it failed before it served");
    assert!(matches!(last, Answer::Unknown(_)), "the write was handed to the log: {last:?}");
    let status = cluster.nodes[0].ended();
    let log = std::fs::read_to_string(&cluster.nodes[0].log).expect("it has logged");
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("storage failed") && !log.contains("panicked"), "{log}");

    cluster.start(0);
    cluster.wait_leader();
    let found: BTreeMap<_, _> = cluster.list(0).found.into_iter().map(|item| (item.key, item.value)).collect();
    // The one write of unknown outcome may be there.
    let number = |value: &String| value.trim_matches('"').parse::<usize>().expect("a number");
    let unknown = acknowledged.values().map(number).max().map_or(0, |last| last + 1);
    for (key, value) in &acknowledged {
        let kept = number(found.get(key).unwrap_or_else(|| panic!("{key} is lost")));
        assert!(kept == number(value) || kept == unknown, "{key}: {kept}, acknowledged {value}");
    }
}

#[test]
fn a_failed_sync_stops_the_node_with_exit_code_4_and_loses_nothing() {
    a_failing_call_stops_the_node("eio-sync", "fdatasync", "EIO");
}

/// A sync that fails for want of space has lost pages like any other (ext4 does this with delayed allocation).
#[test]
fn a_sync_that_fails_for_want_of_space_is_not_tried_again_either() {
    a_failing_call_stops_the_node("enospc-sync", "fdatasync", "ENOSPC");
}

#[test]
fn a_failed_write_stops_the_node_with_exit_code_4_and_loses_nothing() {
    a_failing_call_stops_the_node("eio-write", "pwrite64", "EIO");
}

/// The others do not need it, and take it back when its disk works again.
#[test]
fn a_cluster_goes_on_without_a_node_whose_disk_failed() {
    if !can_trace() {
        return;
    }
    let mut cluster = Cluster::new("eio-cluster", 3);
    start_failing(&mut cluster, 2, "fdatasync", "EIO");
    (0..2).for_each(|index| cluster.start(index));
    cluster.wait_leader();
    let mut numbers = 1..;
    let mut write = |cluster: &Cluster| {
        let number: usize = numbers.next().expect("it has no end");
        cluster.put(0, &format!("k{number}"), &number.to_string());
        number
    };
    while cluster.nodes[2].process().ended().is_none() {
        assert!(write(&cluster) < WRITES_MAX, "the node runs on with a disk that fails");
    }
    assert_eq!(cluster.nodes[2].ended().code(), Some(4));
    let written = (0..20).map(|_| write(&cluster)).max().expect("twenty");
    cluster.start(2);
    cluster.wait_leader();
    assert_eq!(cluster.list(2).found.len(), written, "every write was acknowledged in the end");
}

//! A disk without space: writes are refused before anything is done, all else goes on, and space is all it takes to
//! recover.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use e2e::kv::Answer;
use e2e::{Cluster, DEADLINE, SmallDisk, eventually, http};

/// Of the small disk, and what the node sets aside of it.
const DISK_MIB: u64 = 128;
const RESERVE_MIB: u64 = 32;
/// A megabyte, nearly: the longest document.
const BIG: usize = 1_000_000;
/// Documents of that size that a cluster writes while a member's disk is full.
const WRITES: u64 = 48;

fn command(cluster: &Cluster, index: usize, disk: &SmallDisk) -> Command {
    disk.command(&cluster.command(index))
}

/// Writes until a write is refused for want of space; notes what is acknowledged.
fn fill_by_writing(cluster: &Cluster, through: usize, acknowledged: &mut BTreeMap<String, String>) {
    let mut client = cluster.nodes[through].client();
    let value = format!("\"{}\"", "x".repeat(BIG));
    for number in 0..2 * DISK_MIB {
        let key = format!("big{number}");
        match client.put(&key, &value) {
            Answer::Done(_) => _ = acknowledged.insert(key, value.clone()),
            Answer::NotApplied(why) => {
                assert!(why.starts_with("507 ") && why.contains("urn:quorate:problem:disk-full"), "{why}");
                return;
            }
            Answer::Unknown(why) => panic!("a full disk leaves no doubt: {why}"),
        }
    }
    panic!("{} MB went to a disk of {DISK_MIB} MiB", 2 * DISK_MIB);
}

fn all_there(cluster: &Cluster, through: usize, acknowledged: &BTreeMap<String, String>) {
    let mut client = cluster.nodes[through].client();
    for (key, value) in acknowledged {
        let read = eventually("a read", DEADLINE, || client.get(key, false).done());
        assert_eq!(read.found.map(|item| item.value).as_ref(), Some(value), "{key}");
    }
}

#[test]
fn a_lone_node_on_a_full_disk_refuses_writes_reads_restarts_and_recovers() {
    let mut cluster = Cluster::new("full-lone", 1);
    cluster.flags = ["--reserve-mib".to_owned(), RESERVE_MIB.to_string()].to_vec();
    let Some(disk) = SmallDisk::mount(&cluster.nodes[0].data_dir, DISK_MIB) else { return };
    let start = command(&cluster, 0, &disk);
    cluster.nodes[0].start(start);
    cluster.wait_leader();
    let mut acknowledged = BTreeMap::new();
    for number in 0..20 {
        let (key, value) = (format!("k{number}"), number.to_string());
        cluster.put(0, &key, &value);
        acknowledged.insert(key, value);
    }
    disk.fill();
    fill_by_writing(&cluster, 0, &mut acknowledged);
    println!("{} writes acknowledged", acknowledged.len());
    all_there(&cluster, 0, &acknowledged);
    let ready = http::get(cluster.nodes[0].api_port, "/readyz").expect("it answers");
    assert_eq!(ready.status, 200, "it serves reads: {}", ready.text());

    for life in 0..5 {
        // What a restart gives back is filled again: by others, as far as it can know.
        disk.fill();
        cluster.nodes[0].kill();
        let start = command(&cluster, 0, &disk);
        cluster.nodes[0].start(start);
        cluster.nodes[0].wait_ready();
        all_there(&cluster, 0, &acknowledged);
        let refused = cluster.nodes[0].client().put("more", "1");
        assert!(matches!(&refused, Answer::NotApplied(why) if why.starts_with("507 ")), "life {life}: {refused:?}");
    }

    disk.free();
    cluster.put(0, "more", "1");
    acknowledged.insert("more".to_owned(), "1".to_owned());
    cluster.nodes[0].kill();
    let start = command(&cluster, 0, &disk);
    cluster.nodes[0].start(start);
    cluster.nodes[0].wait_ready();
    all_there(&cluster, 0, &acknowledged);
    let log = cluster.nodes[0].process().log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_leader_on_a_full_disk_hands_over_and_catches_up_when_there_is_space() {
    let mut cluster = Cluster::new("full-leader", 3);
    cluster.flags = ["--reserve-mib".to_owned(), RESERVE_MIB.to_string()].to_vec();
    let mut disks = Vec::new();
    for index in 0..3 {
        let Some(disk) = SmallDisk::mount(&cluster.nodes[index].data_dir, 4 * DISK_MIB) else { return };
        let start = command(&cluster, index, &disk);
        cluster.nodes[index].start(start);
        disks.push(disk);
    }
    let full = cluster.wait_leader();
    let other = (full + 1) % 3;
    disks[full].fill();
    // Through another node: whoever leads, the write goes there.
    let mut acknowledged = BTreeMap::new();
    let value = format!("\"{}\"", "x".repeat(BIG));
    for number in 0..WRITES {
        let key = format!("big{number}");
        cluster.put(other, &key, &value);
        acknowledged.insert(key, value.clone());
    }
    assert_ne!(cluster.wait_leader(), full, "the node on the full disk leads no more");
    assert_eq!(cluster.nodes[full].process().ended(), None, "it runs");
    let name = cluster.nodes[full].name.clone();
    let port = cluster.nodes[other].api_port;
    eventually("the others know that its disk is full", DEADLINE, || {
        let nodes = http::get(port, "/cluster/nodes")?.json();
        let node = nodes["nodes"].as_array().expect("a list").iter().find(|node| node["name"] == *name).cloned();
        let node = node.expect("it is a member");
        if node["disk_full"] == true { Ok(()) } else { Err(node.to_string()) }
    });

    disks[full].free();
    println!("{} MB written meanwhile", acknowledged.len());
    let mut stale = cluster.nodes[full].client();
    let last = format!("big{}", WRITES - 1);
    eventually("the node catches up", Duration::from_secs(60), || {
        let found = stale.get(&last, true).done()?.found;
        found.map(drop).ok_or_else(|| "it has not the last write".to_owned())
    });
    all_there(&cluster, full, &acknowledged);
}

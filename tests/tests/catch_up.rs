//! A member that was away for long comes back by a snapshot, while the others go on writing.
//!
//! `cargo test -p e2e --release --test catch_up -- --ignored --nocapture` does it with 1 GiB of data and says how much
//! memory the nodes took; with `E2E_DATA_MIB` of another size.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::kv::Answer;
use e2e::{Cluster, DEADLINE, eventually};

const CLIENTS: u64 = 32;

/// What is written while the member is away, and goes on to be written when it is back.
struct Load {
    writes: u64,
    keys: u64,
    value_bytes: usize,
}

impl Load {
    fn key(&self, number: u64) -> String {
        format!("k{:07}", number % self.keys)
    }

    fn value(&self, number: u64) -> String {
        format!("\"{number:>0$}\"", self.value_bytes - 2)
    }

    /// Writes numbers from `next` on, through the first two nodes, until `enough` says so. Every write must be
    /// acknowledged.
    fn write(&self, cluster: &Cluster, next: &AtomicU64, enough: &(dyn Fn(u64) -> bool + Sync)) {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let mut through = cluster.nodes[client as usize % 2].client();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if enough(number) {
                            return;
                        }
                        match through.put(&self.key(number), &self.value(number)) {
                            Answer::Done(_) => {}
                            failed => panic!("write {number}: {failed:?}"),
                        }
                    }
                });
            }
        });
    }
}

/// The most memory that a process has held, in MiB.
fn peak_mib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// The last node misses `load`, comes back, and catches up while the others go on. Returns the most memory that a node
/// took, in MiB.
fn miss_and_catch_up(test: &str, load: &Load) -> u64 {
    let mut cluster = Cluster::started(test, 3);
    cluster.put(0, "first", "1");
    cluster.nodes[2].kill();
    cluster.wait_leader();
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    load.write(&cluster, &next, &|number| number >= load.writes);
    println!("{} writes in {:.1?}", load.writes, begun.elapsed());

    next.store(load.writes, Ordering::Relaxed);
    let caught_up = AtomicBool::new(false);
    cluster.start(2);
    let returned = Instant::now();
    thread::scope(|scope| {
        let (others, next, caught_up) = (&cluster, &next, &caught_up);
        scope.spawn(move || load.write(others, next, &|_| caught_up.load(Ordering::Relaxed)));
        let mut stale = cluster.nodes[2].client();
        // The last of the numbers that it missed, or a later one.
        let key = load.key(load.writes - 1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the member has what it missed", Duration::from_secs(300), || {
                let item = stale.get(&key, true).done()?.found.ok_or("the key is not there")?;
                let number: u64 = item.value.trim_matches('"').trim().parse().expect("a number");
                if number >= load.writes - 1 { Ok(()) } else { Err(format!("it has {number}")) }
            });
        }));
        caught_up.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("caught up {:.1?} after its start", returned.elapsed());
    let log = cluster.nodes[2].process().log();
    assert!(log.contains("installed a snapshot"), "it caught up by a snapshot");
    for number in (0..load.keys).step_by(97) {
        let read = |node: usize| {
            let mut client = cluster.nodes[node].client();
            eventually("a read", DEADLINE, || client.get(&load.key(number), false).done()).found
        };
        assert_eq!(read(2), read(0), "they hold the same");
    }
    let peaks = cluster.nodes.iter_mut().map(|node| peak_mib(node.process().id()));
    let peaks: Vec<u64> = peaks.collect();
    println!("most memory: {peaks:?} MiB");
    peaks.into_iter().max().expect("three nodes")
}

#[test]
fn a_member_that_missed_a_hundred_thousand_writes_catches_up_through_a_snapshot_under_load() {
    miss_and_catch_up("catch-up", &Load { writes: 100_000, keys: 20_000, value_bytes: 100 });
}

#[test]
#[ignore = "takes minutes; see the file's documentation"]
fn a_gibibyte_of_data_takes_less_than_400_mib_of_memory() {
    let mib = std::env::var("E2E_DATA_MIB").map_or(1024, |mib| mib.parse().expect("a number"));
    let load = Load { writes: mib << 10, keys: mib << 10, value_bytes: 1024 };
    let peak = miss_and_catch_up("large-data", &load);
    assert!(peak < 400, "{peak} MiB");
}

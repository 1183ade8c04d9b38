//! Three nodes from one static list: they found one cluster, agree on a leader, and go on when it dies.

use e2e::{Cluster, DEADLINE, Nodes, Random, Signal, eventually, voters};

fn ask(cluster: &Cluster, index: usize) -> Nodes {
    cluster.nodes[index].nodes().unwrap_or_else(|error| panic!("{}: {error}", cluster.nodes[index].name))
}

/// Every running node knows the same cluster.
fn same_cluster(cluster: &Cluster) -> String {
    let mut ids: Vec<String> = cluster.running().iter().map(|index| ask(cluster, *index).cluster_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "the nodes belong to different clusters: {ids:?}");
    ids.swap_remove(0)
}

#[test]
fn any_start_order_founds_one_cluster() {
    let seed = Random::any_seed();
    println!("start orders from seed {seed}");
    let mut random = Random::new(seed);
    for _ in 0..3 {
        let order = random.shuffled(vec![0, 1, 2]);
        let mut cluster = Cluster::new("cluster-order", 3);
        for &index in &order {
            // What an operator does: look at one, take time for the next.
            e2e::pause(std::time::Duration::from_secs(2));
            cluster.start(index);
        }
        let leader = cluster.wait_leader();
        println!("order {order:?}: the leader is {}", cluster.nodes[leader].name);
        same_cluster(&cluster);
        for index in 0..3 {
            let nodes = ask(&cluster, index);
            assert_eq!((nodes.with_status("leader").len(), nodes.with_status("follower").len()), (1, 2), "{nodes:?}");
            assert!(nodes.nodes.iter().all(|node| node.voter), "{nodes:?}");
        }
        cluster.put(leader, "a", "1");
    }
}

/// The last node to start may found the cluster with one of the others before the third hears of it.
#[test]
fn founding_leaves_nobody_behind() {
    let seed = Random::any_seed();
    println!("delays from seed {seed}");
    let mut random = Random::new(seed);
    for round in 0..20 {
        let mut cluster = Cluster::new("cluster-founding", 3);
        for index in random.shuffled(vec![0, 1, 2]) {
            cluster.start(index);
            e2e::pause(std::time::Duration::from_millis(random.number() % 400));
        }
        eventually(&format!("cluster {round} is founded"), DEADLINE, || {
            for node in &mut cluster.nodes {
                if let Some(status) = node.process().ended() {
                    panic!("{} has stopped while cluster {round} was founded: {status}", node.name);
                }
            }
            cluster.leader()
        });
    }
}

#[test]
fn one_of_three_founds_nothing_two_do_and_the_third_joins_and_a_majority_serves() {
    let mut cluster = Cluster::new("cluster-lone", 3);
    let refuses = |cluster: &Cluster| {
        let mut client = cluster.nodes[0].client();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < until {
            assert!(client.put("a", "1").done().is_err(), "a write was acknowledged");
            e2e::pause(e2e::STEP);
        }
    };
    cluster.start(0);
    refuses(&cluster);
    // They wait for the third, and then do without it.
    cluster.start(1);
    (0..2).for_each(|index| cluster.nodes[index].wait_ready());
    voters(&cluster.nodes[0], &["n1", "n2"]);
    cluster.put(1, "a", "1");
    cluster.start(2);
    voters(&cluster.nodes[2], &["n1", "n2", "n3"]);
    cluster.nodes[2].wait_ready();
    let leader = cluster.wait_leader();
    cluster.put(leader, "a", "2");
    (0..3).for_each(|index| cluster.nodes[index].kill());
    cluster.start(0);
    refuses(&cluster);
    cluster.start(1);
    cluster.put(0, "a", "3");
    assert_eq!(cluster.list(1).found.len(), 1);
}

#[test]
fn the_nodes_converge_and_fail_over() {
    let mut cluster = Cluster::started("cluster-failover", 3);
    let id = same_cluster(&cluster);
    let old = cluster.wait_leader();
    let before = cluster.put(old, "before", "1");
    let identity = ask(&cluster, old).node_id;
    cluster.nodes[old].kill();
    let new = cluster.wait_leader();
    assert_ne!(new, old);
    let after = cluster.put(new, "after", "2");
    assert!(after.revision > before.revision);
    for index in cluster.running() {
        let nodes = ask(&cluster, index);
        let gone = nodes.nodes.iter().find(|node| node.id == identity).expect("it is still a member");
        assert!(matches!(gone.status.as_str(), "unreachable" | "follower"), "{gone:?}");
    }
    let unreachable = |nodes: Nodes| match nodes.with_status("unreachable").len() {
        1 => Ok(()),
        _ => Err(format!("{nodes:?}")),
    };
    eventually("the leader sees the dead node", DEADLINE, || unreachable(cluster.nodes[new].nodes()?));

    cluster.start(old);
    let leader = cluster.wait_leader();
    assert_ne!(leader, old, "it was away, so it follows");
    assert_eq!(ask(&cluster, old).node_id, identity);
    assert_eq!(same_cluster(&cluster), id);
    let keys: Vec<String> = cluster.list(old).found.into_iter().map(|item| item.key).collect();
    assert_eq!(keys, ["after", "before"]);
}

#[test]
fn writes_and_reads_through_any_node() {
    let cluster = Cluster::started("cluster-followers", 3);
    let leader = cluster.wait_leader();
    let mut last = 0;
    for round in 0..20 {
        for through in 0..3 {
            let value = format!("\"{round} through {through}\"");
            let put = cluster.put(through, "k", &value);
            assert!(put.revision > last, "{put:?} after {last}");
            last = put.revision;
            for reader in 0..3 {
                let read = cluster.nodes[reader].client().get("k", false).done().expect("nothing is wrong");
                assert_eq!(read.found.expect("it was written").value, value, "read through {reader}");
            }
        }
    }
    let follower = (leader + 1) % 3;
    let deleted = cluster.nodes[follower].client().delete("k").done().expect("nothing is wrong");
    assert!(deleted.deleted);
    assert_eq!(cluster.nodes[leader].client().get("k", false).done().expect("nothing is wrong").found, None);
    let stale = || match cluster.nodes[follower].client().get("k", true).done()?.found {
        None => Ok(()),
        Some(item) => Err(format!("{item:?}")),
    };
    eventually("a stale read catches up", DEADLINE, stale);
}

#[test]
fn everything_stopped_and_started_again_is_the_same() {
    let mut cluster = Cluster::started("cluster-restart", 3);
    let id = same_cluster(&cluster);
    let ids: Vec<String> = (0..3).map(|index| ask(&cluster, index).node_id).collect();
    for index in 0..60 {
        cluster.put(index % 3, &format!("k{index:02}"), &format!("{index}"));
    }
    let before = cluster.list(0);
    for round in 0..3 {
        for index in 0..3 {
            if round == 1 {
                assert_eq!(cluster.nodes[index].stop(Signal::TERM).code(), Some(0));
            } else {
                cluster.nodes[index].kill();
            }
        }
        (0..3).rev().for_each(|index| cluster.start(index));
        cluster.wait_leader();
        assert_eq!(same_cluster(&cluster), id);
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(&ask(&cluster, index).node_id, id);
            assert_eq!(cluster.list(index), before);
        }
    }
}

/// Processor time of a process of ours so far, in seconds (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_secs(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after_name = stat.rsplit_once(')').expect("the name is in parentheses").1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("a number"));
    f64::from(ticks.sum::<u32>()) / 100.0
}

#[test]
fn a_dead_follower_is_tried_again_with_patience() {
    const SECS: u64 = 5;
    let mut cluster = Cluster::started("cluster-patience", 3);
    let leader = cluster.wait_leader();
    let pid = cluster.nodes[leader].process().id();
    cluster.nodes[(leader + 1) % 3].kill();
    cluster.put(leader, "a", "1");
    let (lines, cpu) = (cluster.nodes[leader].process().log().lines().count(), cpu_secs(pid));
    e2e::pause(std::time::Duration::from_secs(SECS));
    let lines = cluster.nodes[leader].process().log().lines().count() - lines;
    let cpu = cpu_secs(pid) - cpu;
    println!("with one follower dead, the idle leader logged {lines} lines and used {cpu:.2} s of CPU in {SECS} s");
    assert!(lines < 200, "{lines} lines in {SECS} s");
    assert!(cpu < 1.0, "{cpu} s of CPU in {SECS} s");
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over() {
    let mut cluster = Cluster::started("cluster-handover", 3);
    let old = cluster.wait_leader();
    cluster.put(old, "a", "1");
    assert_eq!(cluster.nodes[old].stop(Signal::TERM).code(), Some(0));
    let stopped = std::time::Instant::now();
    let survivor = (old + 1) % 3;
    cluster.put(survivor, "b", "2");
    println!("a write succeeded {:?} after the old leader's process had ended", stopped.elapsed());
    assert_ne!(cluster.wait_leader(), old);
    assert_eq!(cluster.list(survivor).found.len(), 2);
}

#[test]
fn memory_nodes_form_a_cluster_too() {
    let mut cluster = Cluster::new("cluster-memory", 3);
    cluster.flags = vec!["--store".to_owned(), "memory".to_owned()];
    (0..3).for_each(|index| cluster.start(index));
    let leader = cluster.wait_leader();
    cluster.put((leader + 1) % 3, "a", "1");
    assert_eq!(cluster.list((leader + 2) % 3).found.len(), 1);
}

//! Changing the members of running clusters through the REST API and the command line, and restarting them one by one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use e2e::{Cluster, DEADLINE, Directory, Node, Random, Signal, ask, done, eventually, http, kv, start_alone, voters};

fn peer(node: &Node) -> String {
    format!("127.0.0.1:{}", node.peer_port)
}

#[test]
fn from_one_to_three_and_back_by_the_command_line() {
    let directory = Directory::new("members-cli");
    let mut nodes: Vec<_> = (1..=4).map(|number| Node::new(&format!("n{number}"), &directory)).collect();
    start_alone(&mut nodes[0], &[]);
    nodes[0].wait_ready();
    nodes[0].client().put("a", "1").done().expect("nothing is wrong");

    // One joins by itself, one waits to be added.
    let first = peer(&nodes[0]);
    start_alone(&mut nodes[1], &["--join", &first]);
    voters(&nodes[0], &["n1", "n2"]);
    start_alone(&mut nodes[2], &["--initial-cluster-state", "existing"]);
    let printed = done(&nodes[1], &format!("member add n3 {}", peer(&nodes[2])));
    assert!(printed.starts_with("added n3 ("), "{printed}");
    voters(&nodes[0], &["n1", "n2", "n3"]);
    for node in &mut nodes[..3] {
        node.wait_ready();
        let found = node.client().get("a", false).done().expect("nothing is wrong").found;
        assert_eq!(found.expect("it was written").value, "1");
    }
    let (_, list, _) = ask(&nodes[2], "member list");
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.starts_with("ID") && list.contains(&peer(&nodes[1])), "{list}");

    // Leadership goes where it is told to.
    let printed = done(&nodes[0], "leader transfer n3");
    assert!(printed.starts_with("the leader is now ("), "{printed}");
    eventually("n3 leads", DEADLINE, || match nodes[0].nodes()?.with_status("leader").contains("n3") {
        true => Ok(()),
        false => Err("it does not yet".to_owned()),
    });

    // A learner that shall stay one is promoted when somebody says so.
    start_alone(&mut nodes[3], &["--initial-cluster-state", "existing"]);
    done(&nodes[0], &format!("member add n4 {} --learner", peer(&nodes[3])));
    eventually("n4 learns", DEADLINE, || match nodes[0].nodes()?.with_status("learner").contains("n4") {
        true => Ok(()),
        false => Err("it does not yet".to_owned()),
    });
    done(&nodes[0], "member promote n4");
    voters(&nodes[0], &["n1", "n2", "n3", "n4"]);

    // The leader is removed, then another; both stop by themselves and say why, now and when they are started again.
    for gone in [2, 3] {
        let name = nodes[gone].name.clone();
        done(&nodes[0], &format!("member remove {name}"));
        assert_eq!(nodes[gone].ended().code(), Some(5), "{name} was removed");
        start_alone(&mut nodes[gone], &["--initial-cluster-state", "existing"]);
        assert_eq!(nodes[gone].ended().code(), Some(5), "{name} is no member");
        let log = std::fs::read_to_string(&nodes[gone].log).expect("it logged");
        assert!(log.contains("removed"), "{log}");
    }
    voters(&nodes[0], &["n1", "n2"]);
    nodes[1].client().put("b", "2").done().expect("two of two are there");
}

#[test]
fn what_cannot_be_done_says_why() {
    let cluster = Cluster::started("members-refused", 3);
    let node = &cluster.nodes[0];
    let mut client = http::Client::new(node.api_port, Duration::from_secs(10));
    let mut refused = |method: &str, path: &str, body: Option<&str>, status: u16, problem: &str| {
        eventually(&format!("{method} {path}"), DEADLINE, || {
            let answer =
                client.send(method, path, body.map(str::as_bytes)).map_err(|failure| format!("{failure:?}"))?;
            let got = (answer.status, answer.problem());
            match got == (status, Some(problem.to_owned())) {
                true => {
                    assert_eq!(answer.json()["outcome"], "not-applied", "{}", answer.text());
                    assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.len() > 10));
                    Ok(())
                }
                false => Err(format!("{got:?} {}", answer.text())),
            }
        });
    };
    refused("DELETE", "/cluster/nodes/n9", None, 404, "member-not-found");
    refused("POST", "/cluster/nodes/n9/promote", None, 404, "member-not-found");
    refused("POST", "/cluster/leader", Some(r#"{"to": "n9"}"#), 404, "member-not-found");
    refused("POST", "/cluster/nodes/n2/promote", None, 409, "conflict");
    let nobody = format!(r#"{{"name": "n4", "peer_addrs": ["127.0.0.1:{}"]}}"#, e2e::free_port());
    refused("POST", "/cluster/nodes", Some(&nobody), 503, "unreachable");
    for member in &cluster.nodes {
        let taken = format!(r#"{{"name": "{}", "peer_addrs": ["{}"]}}"#, member.name, peer(member));
        refused("POST", "/cluster/nodes", Some(&taken), 409, "conflict");
    }

    let (code, stdout, stderr) = ask(node, "member remove n9");
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
    assert!(stderr.contains("n9") && stderr.contains("404"), "{stderr}");
    let (code, _, stderr) = {
        let nowhere = Node::new("nowhere", cluster.directory());
        ask(&nowhere, "member list")
    };
    assert!(code == 1 && stderr.contains("cannot connect") && stderr.contains("--api"), "{code} {stderr}");
}

#[test]
fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::started("members-quorum", 3);
    let leader = cluster.wait_leader();
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].kill();
    let remove = format!("/cluster/nodes/{}", cluster.nodes[other].name);
    let mut client = http::Client::new(cluster.nodes[leader].api_port, Duration::from_secs(10));
    // At once: the leader has to find out that the dead one is dead.
    let answer = client.send("DELETE", &remove, None).expect("the leader answers");
    assert_eq!((answer.status, answer.problem().as_deref()), (409, Some("would-lose-quorum")), "{}", answer.text());
    // The dead one may go: two of two are left.
    let gone = cluster.nodes[dead].name.clone();
    done(&cluster.nodes[leader], &format!("member remove {gone}"));
    let names = [cluster.nodes[leader].name.clone(), cluster.nodes[other].name.clone()];
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    voters(&cluster.nodes[leader], &names);
}

/// Writes until it is told to stop. What failed is sent once more; what fails again counts.
fn write_on(ports: &[u16], number: u64, stop: &AtomicBool, written: &AtomicU64) -> Vec<String> {
    let mut clients: Vec<_> = ports.iter().map(|port| kv::Client::new(*port, Duration::from_secs(10))).collect();
    let mut failures = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{number}-{count}");
        let through = Random::new(number << 32 | count).below(clients.len());
        let next = (through + 1) % clients.len();
        let first = clients[through].put(&key, "1").done();
        let result = first.or_else(|first| clients[next].put(&key, "1").done().map_err(|second| (first, second)));
        match result {
            Ok(_) => written.fetch_add(1, Ordering::Relaxed),
            Err((first, second)) => {
                failures.push(format!("{key}: {first} at {through}, then {second} at {next}"));
                0
            }
        };
        count += 1;
    }
    failures
}

#[test]
fn a_rolling_restart_fails_no_write_of_a_client_that_retries_once() {
    let mut cluster = Cluster::started("members-rolling", 3);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.api_port).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures: Vec<String> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let (ports, stop, written) = (&ports, &stop, &written);
                    move || write_on(ports, number, stop, written)
                })
            })
            .collect();
        for round in 0..2 {
            for index in 0..3 {
                let before = written.load(Ordering::Relaxed);
                assert_eq!(cluster.nodes[index].stop(Signal::TERM).code(), Some(0), "round {round}");
                cluster.start(index);
                cluster.nodes[index].wait_ready();
                cluster.wait_leader();
                eventually("writes go on", DEADLINE, || match written.load(Ordering::Relaxed) > before + 20 {
                    true => Ok(()),
                    false => Err("too few".to_owned()),
                });
            }
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().expect("it does not panic")).collect()
    });
    let written = written.into_inner();
    println!("six restarts under load: {written} writes, {} failed at both tries", failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
    let read = cluster.nodes[0].client().get("0-0", false).done().expect("nothing is wrong");
    assert!(read.found.is_some() && read.revision >= written, "{read:?} after {written} writes");
}

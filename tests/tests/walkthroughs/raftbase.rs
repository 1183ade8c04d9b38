//! raftbase's README: the targets, one node, three nodes on one host. Its container test is `containers.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Cluster, DEADLINE, Process, Walkthrough, eventually, output, quorate};
use serde_json::Value;

#[test]
fn make_run_and_two_curls() {
    // What `make run` runs is `quorate` without a flag; the variables give it ports and a directory of the test's own.
    let w = Walkthrough::new("raftbase-run", &[], &[8080, 2380]);
    let _node = w.start("run", "QUORATE_API_ADDR=:8080 QUORATE_PEER_URL=127.0.0.1:2380 raftbase");
    w.curl_until("curl -s localhost:8080/healthz", 200, "ok");
    eventually("it leads", DEADLINE, || match statuses(&w, 8080).as_slice() {
        [leader] if leader == "leader" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(w.directory().path().join("data").is_dir(), "the data is in ./data");
}

#[test]
fn three_members_on_one_host() {
    let w = Walkthrough::new("raftbase-three", &[], &[2379, 2380, 2381, 2382, 2383, 2384, 8080, 8081, 8082]);
    let cluster = "n1=http://127.0.0.1:2380,n2=http://127.0.0.1:2382,n3=http://127.0.0.1:2384";
    let start = |name: &str, line: &str| -> Process { w.start(name, &line.replace("$CLUSTER", cluster)) };
    let _nodes = [
        start(
            "n1",
            "raftbase -name n1 -data-dir ./data/n1 -client-url http://127.0.0.1:2379 -peer-url http://127.0.0.1:2380 \
             -api-addr :8080 -initial-cluster \"$CLUSTER\" -initial-cluster-token raftbase-demo",
        ),
        start(
            "n2",
            "raftbase -name n2 -data-dir ./data/n2 -client-url http://127.0.0.1:2381 -peer-url http://127.0.0.1:2382 \
             -api-addr :8081 -initial-cluster \"$CLUSTER\" -initial-cluster-token raftbase-demo",
        ),
        start(
            "n3",
            "raftbase -name n3 -data-dir ./data/n3 -client-url http://127.0.0.1:2383 -peer-url http://127.0.0.1:2384 \
             -api-addr :8082 -initial-cluster \"$CLUSTER\" -initial-cluster-token raftbase-demo",
        ),
    ];
    // "one node "leader", two "follower""
    for port in [8080, 8081, 8082, 2379] {
        eventually("one leader, two followers", DEADLINE, || match statuses(&w, port).as_slice() {
            [a, b, c] if [a, b, c] == ["follower", "follower", "leader"] => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// What the members are, in alphabetical order.
fn statuses(w: &Walkthrough, port: u16) -> Vec<String> {
    let answer = w.curl(&format!("curl -s localhost:{port}/cluster/nodes")).json();
    let nodes = answer["nodes"].as_array().expect("a list");
    let mut statuses: Vec<_> = nodes.iter().map(|node| node["status"].as_str().expect("text").to_owned()).collect();
    statuses.sort_unstable();
    statuses
}

#[test]
fn every_line_of_the_log_is_json() {
    let mut cluster = Cluster::started("raftbase-logs", 1);
    cluster.nodes[0].stop(e2e::Signal::INT);
    let log = fs::read_to_string(&cluster.nodes[0].log).expect("it logged");
    assert!(log.lines().count() > 2);
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn the_makefile_has_every_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for target in ["install", "run", "build", "test", "test-unit", "test-e2e", "lint", "fmt", "clean"] {
        let mut make = Command::new("make");
        make.current_dir(&root).args(["--dry-run", target]);
        let output = output(make);
        assert!(output.status.success(), "make {target}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut help = Command::new("make");
    help.current_dir(&root).arg("help");
    let help = output(help);
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    assert!(help.lines().count() >= 9 && help.contains("test-e2e"), "{help}");
}

#[test]
fn the_flags_of_its_help() {
    let mut command = quorate();
    command.arg("-h");
    let output = output(command);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let flags = "name data-dir client-url peer-url api-addr log-level initial-cluster initial-cluster-state \
                 initial-cluster-token advertise-client-url advertise-peer-url";
    for flag in flags.split_whitespace() {
        assert!(text.contains(&format!("--{flag} ")), "--{flag} is not in {text}");
    }
}

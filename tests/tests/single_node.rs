//! One node with nothing but defaults: it serves, it keeps what it acknowledged, it ends in an orderly way.

use e2e::{Directory, Node, Signal, eventually, free_port, http, output, quorate};
use serde_json::Value;

/// Runs plain `quorate` in a directory of its own. The two default ports may be taken, so those are flags.
fn start(directory: &Directory) -> Node {
    let mut node = Node::new("default", directory);
    restart(&mut node, directory);
    node
}

fn restart(node: &mut Node, directory: &Directory) {
    let mut command = quorate();
    command.current_dir(directory.path());
    command.args(["--api-addr", &format!("127.0.0.1:{}", node.api_port)]);
    command.args(["--peer-url", &format!("http://127.0.0.1:{}", node.peer_port)]);
    node.start(command);
    node.wait_ready();
}

/// Log lines of level error, and lines that are no log lines at all.
fn complaints(log: &str) -> Vec<&str> {
    let level = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["level"].as_str()?.to_owned());
    log.lines().filter(|line| level(line).is_none_or(|level| level == "ERROR")).collect()
}

#[test]
fn defaults_serve_put_get_delete_and_list() {
    let directory = Directory::new("single-defaults");
    let node = start(&directory);
    for path in ["/healthz", "/livez", "/readyz"] {
        let response = http::get(node.api_port, path).expect(path);
        assert_eq!((response.status, response.text()), (200, "ok"), "{path}");
    }
    assert!(directory.path().join("data").is_dir(), "the default data directory is ./data");
    let nodes = node.nodes().expect("it answers");
    assert_eq!(nodes.nodes.len(), 1);
    let member = &nodes.nodes[0];
    assert_eq!((member.name.as_str(), member.status.as_str(), member.voter), ("default", "leader", true));
    assert_eq!((&member.id, Some(&member.id)), (&nodes.node_id, nodes.leader.as_ref()));

    let mut client = node.client();
    let done = |revision, create_revision, version| e2e::kv::Put { revision, create_revision, version };
    let exact = r#"{"big":9007199254740993,"twice":1,"twice":2.50}"#;
    assert_eq!(client.put("a", exact).done(), Ok(done(1, 1, 1)));
    assert_eq!(client.put("b/c", "[]").done(), Ok(done(2, 2, 1)));
    assert_eq!(client.put("b/c", "null").done(), Ok(done(3, 2, 2)));
    for stale in [false, true] {
        let read = client.get("a", stale).done().expect("it answers");
        let item = read.found.expect("it is there");
        assert_eq!((read.revision, item.value.as_str(), item.mod_revision), (3, exact, 1));
    }
    let listed = client.list("", false).done().expect("it answers");
    assert_eq!(listed.found.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["a", "b/c"]);
    assert_eq!(client.list("b", false).done().expect("it answers").found.len(), 1);
    let deleted = client.delete("a").done().expect("it answers");
    assert_eq!((deleted.revision, deleted.deleted), (4, true));
    let deleted = client.delete("a").done().expect("it answers");
    assert_eq!((deleted.revision, deleted.deleted), (4, false));
    assert_eq!(client.get("a", false).done().expect("it answers").found, None);
}

#[test]
fn what_was_acknowledged_survives_kill_and_restart() {
    let directory = Directory::new("single-restart");
    let mut node = start(&directory);
    let identity = node.nodes().expect("it answers");
    let mut written = Vec::new();
    for life in 0..4 {
        let mut client = node.client();
        for index in 0..25 {
            let (key, value) = (format!("{life}-{index:02}"), format!("\"{life}.{index}\""));
            let put = client.put(&key, &value).done().expect("a single node answers");
            assert_eq!(put.revision, written.len() as u64 + 1, "one revision for each write, over restarts too");
            written.push((key, value, put.revision));
        }
        if life % 2 == 0 {
            node.kill();
        } else {
            assert!(node.stop(Signal::TERM).success());
        }
        restart(&mut node, &directory);
        let again = node.nodes().expect("it answers");
        assert_eq!((&again.cluster_id, &again.node_id), (&identity.cluster_id, &identity.node_id));
        let items = node.client().list("", false).done().expect("it answers").found;
        let items: Vec<_> = items.into_iter().map(|item| (item.key, item.value, item.mod_revision)).collect();
        assert_eq!(items, written);
    }
}

#[test]
fn signals_end_it_with_0_and_without_a_complaint() {
    for (name, signal) in [("SIGTERM", Signal::TERM), ("SIGINT", Signal::INT)] {
        let directory = Directory::new("single-signal");
        let mut node = start(&directory);
        node.client().put("a", "1").done().expect("a single node answers");
        // An idle connection must not hold it up.
        let _idle = http::connect(http::at(node.api_port), e2e::DEADLINE).expect("it listens");
        let asked = std::time::Instant::now();
        let status = node.stop(signal);
        let took = asked.elapsed();
        let log = std::fs::read_to_string(&node.log).expect("it has logged");
        assert_eq!(status.code(), Some(0), "{name}: {status}");
        assert_eq!(complaints(&log), Vec::<&str>::new(), "{name}");
        assert!(log.contains(name), "the log names the signal");
        println!("{name}: exit 0 after {took:?}");
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_the_first_serves_on() {
    let directory = Directory::new("single-locked");
    let node = start(&directory);
    node.client().put("a", "1").done().expect("a single node answers");
    let mut second = quorate();
    second.current_dir(directory.path()).args(["--api-addr", &format!("127.0.0.1:{}", free_port())]);
    second.args(["--peer-url", &format!("127.0.0.1:{}", free_port())]);
    let output = output(second);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success(), "{stderr}");
    let lines = complaints(&stderr);
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains("data") && lines[0].contains("another process"), "{}", lines[0]);
    let found = eventually("the first serves", e2e::DEADLINE, || node.client().get("a", false).done()).found;
    assert_eq!(found.expect("it is there").value, "1");
}

#[test]
fn bench_counts_what_it_did() {
    let directory = Directory::new("single-bench");
    let node = start(&directory);
    let bench = |flags: &str| {
        let mut command = quorate();
        command.args(["bench", "--api", &format!("127.0.0.1:{}", node.api_port)]).args(flags.split_whitespace());
        output(command)
    };
    let done = bench("--clients 3 --seconds 1 --warm-up 0 --reads 50 --keys 40 --value-bytes 100 --json");
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let rows: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let operations: Vec<_> = rows.as_array().expect("rows").iter().map(|row| row["operation"].as_str()).collect();
    assert_eq!(operations, [Some("put"), Some("get")]);
    let number = |row: usize, field: &str| rows[row][field].as_f64().expect("a number");
    for row in 0..2 {
        assert!(number(row, "succeeded") > 0.0 && number(row, "p50_ms") <= number(row, "p99_ms"), "{rows}");
        assert_eq!(number(row, "errors"), 0.0, "{rows}");
    }
    // Every put made a revision, those that wrote all keys first included.
    let listed = node.client().list("bench-", false).done().expect("it answers");
    assert_eq!((listed.found.len(), listed.found[0].value.len()), (40, 100));
    assert!(listed.revision as f64 >= number(0, "succeeded") + 40.0, "{} {rows}", listed.revision);

    let table = bench("--clients 1 --seconds 1 --warm-up 0");
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.starts_with("OPERATION") && table.lines().count() == 2, "{table}");

    drop(node);
    let nobody = quorate().args(["bench", "--api", &format!("127.0.0.1:{}", free_port())]).output().expect("it runs");
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!((nobody.status.code(), said.contains("set --api"), said.lines().count()), (Some(1), true, 1), "{said}");
}

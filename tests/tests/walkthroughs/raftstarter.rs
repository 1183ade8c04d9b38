//! raft-starter's README: settings from the environment, any JSON, and the Procfile. That every default is as documented
//! is shown by the unit tests of `server/src/dialect`, since defaults name ports that a test may not take.

use std::fs;
use std::path::Path;
use std::thread;

use e2e::{DEADLINE, Process, Signal, Walkthrough, eventually, free_port, http};

const PORTS: &[u16] = &[11001, 11002, 11003, 12001, 12002, 12003];

/// The lines of the Procfile, by process.
fn procfile() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Procfile");
    let text = fs::read_to_string(path).expect("it is there");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(": ").expect("name: command")).map(|(n, c)| (n.to_owned(), c.to_owned())).collect()
}

/// A document without the flag of the dialect, which the Procfile's lines have themselves.
fn walkthrough(test: &str) -> Walkthrough {
    Walkthrough::new(test, &[], PORTS)
}

/// Starts a line in a directory of the test's own.
fn start(w: &Walkthrough, name: &str, line: &str) -> Process {
    let state = w.directory().path().join(format!("state-{name}"));
    w.start(name, &format!("STATE_DIR={} {line}", state.display()))
}

#[test]
fn a_single_node_and_every_kind_of_value() {
    for store in ["boltdb", "memory"] {
        let w = walkthrough("raftstarter-single");
        let line = format!(
            "NODE_ID=node1 KV_STORE={store} HTTP_ADDR=127.0.0.1 HTTP_PORT=11001 RAFT_ADDR=127.0.0.1 RAFT_PORT=12001 \
             RAFT_ADVERTISE_ADDR=127.0.0.1 app --dialect raftstarter"
        );
        let mut node = start(&w, "node1", &line);
        // "When retrieving an inexistent key it returns JSON null instead of """
        w.curl_until("curl localhost:11001/key/missing", 200, r#"{"missing":null}"#);
        // "Supports numbers", "arrays", "dictionaries"
        for value in ["1", "9007199254740993", "1.5e-7", "[1,\"two\",[3]]", r#"{"a":{"b":[null,true]}}"#, "\"text\""] {
            w.curl_until(&format!("curl -XPOST localhost:11001/key -d '{{\"k\":{value}}}'"), 200, "");
            w.curl_until("curl -XGET localhost:11001/key/k", 200, &format!("{{\"k\":{value}}}"));
        }
        w.curl_until("curl -XDELETE localhost:11001/key/k", 200, "");
        w.curl_until("curl localhost:11001/key/k", 200, r#"{"k":null}"#);
        w.curl_until("curl -XPOST localhost:11001/key -d '{\"kept\":[1]}'", 200, "");
        // "Added correct signal support"
        node.signal(Signal::TERM);
        assert_eq!(node.wait().code(), Some(0));
        assert_eq!(w.directory().path().join("state-node1").exists(), store == "boltdb");
        let _node = start(&w, "node1", &line);
        let kept = if store == "boltdb" { r#"{"kept":[1]}"# } else { r#"{"kept":null}"# };
        w.curl_until("curl localhost:11001/key/kept", 200, kept);
    }
}

#[test]
fn the_procfile() {
    with_each_node_restarted("boltdb");
}

/// "more speed at the price of not storing your data at all on disk": it is in the others' memory.
#[test]
fn the_procfile_in_memory() {
    with_each_node_restarted("memory");
}

fn with_each_node_restarted(store: &str) {
    let w = walkthrough(&format!("raftstarter-procfile-{store}"));
    let lines = procfile();
    // Where the test asks whether a node is ready; raft-starter itself cannot be asked.
    let apis = [free_port(), free_port(), free_port()];
    let start = &|index: usize| {
        let (name, line) = &lines[index];
        let line = format!("KV_STORE={store} QUORATE_API_ADDR=127.0.0.1:{} {line}", apis[index]);
        let process = start(&w, name, &line);
        eventually(&format!("{name} is ready"), DEADLINE, || match http::get(apis[index], "/readyz")? {
            ready if ready.status == 200 => Ok(()),
            other => Err(other.text().to_owned()),
        });
        process
    };
    assert_eq!(lines.len(), 3);
    // They found the cluster together, so none is ready alone.
    let started: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|index| scope.spawn(move || start(index))).collect();
        starts.into_iter().map(|start| start.join().expect("it starts")).collect()
    });
    let mut nodes: Vec<_> = started.into_iter().map(Some).collect();
    w.curl_until(r#"curl -XPOST localhost:11001/key -d '{"user1":{"name":"batman"}}'"#, 200, "");
    for port in [11001, 11002, 11003] {
        w.curl_until(&format!("curl localhost:{port}/key/user1"), 200, r#"{"user1":{"name":"batman"}}"#);
    }
    // Any one of them may go, and comes back.
    for (index, (name, _)) in lines.iter().enumerate() {
        drop(nodes[index].take());
        let other = 11001 + (index + 1) % 3;
        w.curl_until(&format!("curl -XPOST localhost:{other}/key -d '{{\"without\":\"{name}\"}}'"), 200, "");
        nodes[index] = Some(start(index));
        let own = 11001 + index;
        w.curl_until(&format!("curl localhost:{own}/key/without"), 200, &format!("{{\"without\":\"{name}\"}}"));
        w.curl_until(&format!("curl localhost:{own}/key/user1"), 200, r#"{"user1":{"name":"batman"}}"#);
    }
}

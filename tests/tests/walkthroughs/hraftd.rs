//! hraftd's README: reading and writing keys, bringing up a cluster, tolerating failure.

use e2e::{DEADLINE, Walkthrough, eventually, free_port};

use crate::{voters, with_api};

#[test]
fn the_readme() {
    let w = Walkthrough::new("hraftd", &["--dialect", "hraftd"], &[11000, 11001, 11002, 12000, 12001, 12002]);

    // "Run your first hraftd node like so". Its ports are the defaults there; here they are free ones.
    let first_line = "hraftd -id node0 -haddr localhost:11000 -raddr localhost:12000 ./node0";
    let api = free_port();
    let mut first = with_api(&w, "node0", first_line, api);
    w.curl_until(r#"curl -XPOST localhost:11000/key -d '{"user1": "batman"}'"#, 200, "");
    w.curl_until("curl -XGET localhost:11000/key/user1", 200, r#"{"user1":"batman"}"#);

    // "Let's bring up 2 more nodes".
    let _second =
        w.start("node1", "hraftd -id node1 -haddr localhost:11001 -raddr localhost:12001 -join :11000 ./node1");
    let _third =
        w.start("node2", "hraftd -id node2 -haddr localhost:11002 -raddr localhost:12002 -join :11000 ./node2");
    for port in [11000, 11001, 11002] {
        w.curl_until(&format!("curl -XGET localhost:{port}/key/user1"), 200, r#"{"user1":"batman"}"#);
    }
    w.curl_until(r#"curl -XPOST localhost:11000/key -d '{"user2": "robin"}'"#, 200, "");
    for port in [11000, 11001, 11002] {
        w.curl_until(&format!("curl -XGET localhost:{port}/key/user2"), 200, r#"{"user2":"robin"}"#);
    }
    // Asked again, as every restart does: nothing happens.
    let again = w.ours(r#"{"addr": "localhost:12001", "id": "node1"}"#);
    w.curl_until(&format!("curl -XPOST localhost:11002/join -d '{again}'"), 200, "");
    eventually("three members", DEADLINE, || {
        let status = w.curl("curl localhost:11001/status").json();
        let me = w.ours("localhost:12001");
        let is_right = status["me"]["id"] == "node1"
            && status["me"]["address"] == me.as_str()
            && status["leader"]["id"] == "node0"
            && status["followers"].as_array().is_some_and(|followers| followers.len() == 2);
        if is_right { Ok(()) } else { Err(status.to_string()) }
    });

    // "Kill the leader process and watch one of the other nodes be elected leader." Both others must be voters by then.
    voters(api, &["node0", "node1", "node2"]);
    first.kill();
    w.curl_until(r#"curl -XPOST localhost:11001/key -d '{"user3": "alfred"}'"#, 200, "");
    w.curl_until("curl -XGET localhost:11002/key/user3", 200, r#"{"user3":"alfred"}"#);
    // "when the first node is restarted, it will rejoin the cluster and learn about any updates".
    let _first = w.start("node0", first_line);
    w.curl_until("curl -XGET localhost:11000/key/user3", 200, r#"{"user3":"alfred"}"#);
}

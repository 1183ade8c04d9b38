//! "Using etcd raftexample for Go".

use e2e::{Signal, Walkthrough, free_port};

use crate::{voters, with_api};

#[test]
fn the_article() {
    let w = Walkthrough::new("raftexample", &["--dialect", "raftexample"], &[12379, 12380, 22379, 22380, 32379, 32380]);

    // "Forming a Dynamic Replicated Cluster"
    let api = free_port();
    let first = "raftexample --id 1 --cluster http://127.0.0.1:12379 --port 12380";
    let _first = with_api(&w, "1", first, api);
    w.curl_until("curl -L http://127.0.0.1:12380/key -XPUT -d foo", 204, "");
    w.curl_until("curl -L http://127.0.0.1:12380/key", 200, "foo");

    // "To join second node …, we have to submit a POST request": before it runs. In the original what follows may panic.
    w.curl_until("curl -L http://127.0.0.1:12380/2 -XPOST -d http://127.0.0.1:22379", 204, "");
    let two = "raftexample --id 2 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379 --port 22380 --join";
    let mut second = w.start("2", two);
    w.curl_until("curl -L http://127.0.0.1:22380/key", 200, "foo");

    w.curl_until("curl -L http://127.0.0.1:12380/3 -XPOST -d http://127.0.0.1:32379", 204, "");
    let _third = w.start(
        "3",
        "raftexample --id 3 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379 --port 32380 \
         --join",
    );
    w.curl_until("curl -L http://127.0.0.1:32380/key", 200, "foo");

    // "Deleting a Node": "Try to stop the 2nd node (or any) and run the HTTP DELETE".
    voters(api, &["1", "2", "3"]);
    second.signal(Signal::INT);
    assert_eq!(second.wait().code(), Some(0));
    w.curl_until("curl -L http://127.0.0.1:12380/2 -XDELETE", 204, "");
    voters(api, &["1", "3"]);
    w.curl_until("curl -L http://127.0.0.1:32380/key -XPUT -d bar", 204, "");
    w.curl_until("curl -L http://127.0.0.1:12380/key", 200, "bar");

    // Started again, it says that it was removed, and ends.
    assert_eq!(w.start("2", two).wait().code(), Some(5));
}

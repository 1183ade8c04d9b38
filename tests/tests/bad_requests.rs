//! Requests that make no sense get an answer that does, and the node serves on.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use e2e::http::{self, Response};
use e2e::{Cluster, DEADLINE, eventually};

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest document, see `Limits`.
const VALUE_BYTES_MAX: usize = 1 << 20;

fn single(test: &str) -> (Cluster, u16) {
    let cluster = Cluster::started(test, 1);
    let port = cluster.nodes[0].api_port;
    (cluster, port)
}

fn connect(port: u16) -> TcpStream {
    http::connect(http::at(port), TIMEOUT).expect("it listens")
}

/// Sends bytes on a connection of their own and reads one answer.
fn raw(port: u16, bytes: &[u8]) -> std::io::Result<Response> {
    let mut stream = connect(port);
    // The answer may come, and the connection be closed, before everything is sent.
    let _ = stream.write_all(bytes);
    Response::read(&mut BufReader::new(stream))
}

fn serves_on(cluster: &Cluster) {
    let response = http::get(cluster.nodes[0].api_port, "/readyz").expect("it serves");
    assert_eq!((response.status, response.text()), (200, "ok"));
    cluster.put(0, "still", "true");
}

#[test]
fn problems_have_a_type_and_failed_writes_an_outcome() {
    let (cluster, port) = single("bad-requests");
    let mut client = http::Client::new(port, TIMEOUT);
    let long = format!("/kv/{}", "k".repeat(4097));
    for (method, target, body, status, problem) in [
        ("GET", "/nothing/here", None, 404, "not-found"),
        ("GET", "/kv/absent", None, 404, "key-not-found"),
        ("PATCH", "/kv/a", None, 405, "method-not-allowed"),
        ("DELETE", "/cluster/nodes", None, 405, "method-not-allowed"),
        ("GET", "/kv/%", None, 400, "invalid-key"),
        ("GET", "/kv/%zz", None, 400, "invalid-key"),
        ("PUT", "/kv/a%2", Some("1"), 400, "invalid-key"),
        ("DELETE", "/kv/%%", None, 400, "invalid-key"),
        ("PUT", "/kv/", Some("1"), 400, "invalid-key"),
        ("GET", "/kv?limit=0", None, 400, "invalid-query"),
        ("GET", "/kv?limit=many", None, 400, "invalid-query"),
        ("GET", "/kv?colour=red", None, 400, "invalid-query"),
        ("GET", "/kv?prefix=%e", None, 400, "invalid-query"),
        ("GET", "/kv/a?consistency=perfect", None, 400, "invalid-query"),
        ("PUT", "/kv/a", Some(""), 400, "invalid-json"),
        ("PUT", "/kv/a", Some("{\"a\":"), 400, "invalid-json"),
        ("PUT", "/kv/a", Some("1 2"), 400, "invalid-json"),
        ("PUT", "/kv/a", Some("NaN"), 400, "invalid-json"),
        ("PUT", "/kv/a", Some("\u{feff}1"), 400, "invalid-json"),
        ("PUT", &long, Some("1"), 413, "too-large"),
    ] {
        let response = client.send(method, target, body.map(str::as_bytes)).expect("an answer");
        let got = (response.status, response.problem());
        assert_eq!(got, (status, Some(problem.to_owned())), "{method} {target} {body:?}: {}", response.text());
        let writes = matches!(method, "PUT" | "DELETE") && target.starts_with("/kv/");
        let outcome = response.json()["outcome"].as_str().map(str::to_owned);
        assert_eq!(outcome.as_deref(), writes.then_some("not-applied"), "{method} {target}");
    }
    assert_eq!(cluster.list(0).revision, 0, "nothing was written");
    serves_on(&cluster);
}

#[test]
fn oversized_bodies_are_refused_and_the_connection_is_not_confused() {
    let (cluster, port) = single("bad-bodies");
    let document = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2)).into_bytes();
    let mut client = http::Client::new(port, TIMEOUT);
    let largest = client.send("PUT", "/kv/largest", Some(&document(VALUE_BYTES_MAX))).expect("an answer");
    assert_eq!(largest.status, 200, "{}", largest.text());
    assert_eq!(client.get("/kv/largest").expect("an answer").body.len(), VALUE_BYTES_MAX);

    for bytes in [VALUE_BYTES_MAX + 1, 4 << 20, 40 << 20] {
        let mut stream = connect(port);
        let mut answers = BufReader::new(stream.try_clone().expect("a socket"));
        let sent = stream.write_all(&http::request("PUT", "/kv/oversized", Some(&document(bytes))));
        let response = Response::read(&mut answers);
        let response = response.unwrap_or_else(|error| panic!("{bytes} bytes: no answer: {error}; sent: {sent:?}"));
        assert_eq!((response.status, response.problem().as_deref()), (413, Some("too-large")), "{bytes} bytes");
        assert_eq!(response.json()["outcome"], "not-applied");
        assert_eq!(response.json()["bytes_max"], VALUE_BYTES_MAX);
        // Either the connection is closed, or the rest of the body is not taken for a request.
        let next = stream.write_all(&http::request("GET", "/healthz", None));
        match next.and_then(|()| Response::read(&mut answers)) {
            Ok(next) => assert_eq!((next.status, next.text()), (200, "ok"), "after {bytes} bytes"),
            Err(error) => println!("after {bytes} bytes the connection was closed: {error}"),
        }
    }

    // A length that is only claimed, and chunks without an end.
    let claimed = "PUT /kv/oversized HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n";
    let response = raw(port, &[claimed.as_bytes(), &document(2 * VALUE_BYTES_MAX)].concat()).expect("an answer");
    assert_eq!(response.status, 413);
    let chunk = [b"10000\r\n".as_slice(), &vec![b'1'; 0x10000], b"\r\n"].concat();
    let head = b"PUT /kv/oversized HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let response = raw(port, &[head, &chunk.repeat(40)].concat()).expect("an answer");
    assert_eq!(response.status, 413);
    let keys: Vec<String> = cluster.list(0).found.into_iter().map(|item| item.key).collect();
    assert_eq!(keys, ["largest"]);
    serves_on(&cluster);
}

#[test]
fn what_is_no_http_gets_400_or_is_cut_off() {
    let (cluster, port) = single("bad-http");
    let huge_header = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2 << 20));
    let many = (0..2000).map(|index| format!("X-{index}: 1\r\n")).collect::<String>();
    let many_headers = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2 << 20));
    for (what, bytes) in [
        ("garbage", b"\x00\xff\x16\x03\x01 nonsense\r\n\r\n".as_slice()),
        ("no version", b"GET /healthz\r\n\r\n"),
        ("HTTP/9", b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n"),
        ("a space in the path", b"GET /kv/a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a bad length", b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n1"),
        ("two lengths", b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n11"),
        ("a bad chunk", b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n1\r\n0\r\n\r\n"),
        ("a huge header", huge_header.as_bytes()),
        ("many headers", many_headers.as_bytes()),
        ("a long request line", long_line.as_bytes()),
    ] {
        match raw(port, bytes) {
            Ok(response) => {
                println!("{what}: {}", response.status);
                assert!((400..500).contains(&response.status), "{what}: {response:?}");
            }
            Err(error) => println!("{what}: {error}"),
        }
    }
    assert_eq!(cluster.list(0).revision, 0, "nothing was written");
    serves_on(&cluster);
}

#[test]
fn clients_that_leave_in_the_middle_change_nothing() {
    let (cluster, port) = single("bad-clients");
    let request = http::request("PUT", "/kv/half", Some(b"[1,2,3,4,5,6,7,8,9]"));
    for bytes in 1..request.len() {
        let mut stream = connect(port);
        stream.write_all(&request[..bytes]).expect("it is connected");
        if bytes % 2 == 0 {
            stream.shutdown(Shutdown::Write).expect("it is connected");
            let mut answer = Vec::new();
            // Whatever it says, it must not be that the write was done.
            let _ = stream.take(64 << 10).read_to_end(&mut answer);
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    assert_eq!(cluster.list(0).revision, 0, "half a request was applied");
    serves_on(&cluster);
}

/// A node that cannot open a file of its log any more has to stop, and its clients are on all nodes.
#[test]
fn clients_that_take_all_connections_leave_files_to_the_node() {
    let mut cluster = Cluster::new("bad-crowd", 1);
    let quorate = cluster.command(0);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 700 && exec \"$0\" \"$@\""]).arg(quorate.get_program()).args(quorate.get_args());
    let vars = quorate.get_envs().filter_map(|(name, value)| Some((name, value?)));
    limited.envs(vars.collect::<Vec<_>>());
    cluster.nodes[0].start(limited);
    cluster.nodes[0].wait_ready();
    let port = cluster.nodes[0].api_port;
    let mut client = http::Client::new(port, TIMEOUT);
    client.get("/healthz").expect("it has a connection");
    // Connected by the operating system; whether anybody accepts them is another matter.
    let crowd: Vec<TcpStream> = (0..800).map_while(|_| http::connect(http::at(port), TIMEOUT).ok()).collect();
    assert!(crowd.len() > 250, "{} connections", crowd.len());
    // More than two segments of the log.
    let document = format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX - 2)).into_bytes();
    for key in 0..40 {
        let response = client.send("PUT", &format!("/kv/{key}"), Some(&document)).expect("an answer");
        assert_eq!(response.status, 200, "{}", response.text());
    }
    drop(crowd);
    serves_on(&cluster);
}

#[test]
fn clients_that_never_finish_do_not_stop_the_others_nor_the_end() {
    let (mut cluster, port) = single("bad-slow");
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(port)).collect();
    for (index, stream) in slow.iter_mut().enumerate() {
        let head = b"PUT /kv/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12";
        stream.write_all(&head[..index % head.len()]).expect("it is connected");
    }
    serves_on(&cluster);
    let what = "it ends though clients hang on";
    let asked = std::time::Instant::now();
    let status = cluster.nodes[0].stop(e2e::Signal::TERM);
    println!("{what}: {status} after {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0));
    drop(slow);
    cluster.start(0);
    eventually("it is back", DEADLINE, || cluster.leader());
    serves_on(&cluster);
}

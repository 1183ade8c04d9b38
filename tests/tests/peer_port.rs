//! Strangers at the peer port: whatever they send, the cluster serves on and takes nothing from them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use e2e::{Cluster, DEADLINE, Random, eventually, http};

const TIMEOUT: Duration = Duration::from_secs(20);

fn connect(port: u16) -> TcpStream {
    http::connect(http::at(port), TIMEOUT).expect("it listens")
}

/// Sends bytes, then reads until the node closes the connection. Returns what it said.
fn send(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    // It may hang up before it has everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("after {TIMEOUT:?} the node still listens to {} bytes of garbage", bytes.len());
        }
        _ => answer,
    }
}

/// Bit by bit, and so independent of the code under test: the checksum of RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// A frame as the wire format draws it: length, checksum, kind, message, 0, id, payload.
fn frame(kind: u8, what: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut checked = vec![kind, what, 0, 0];
    checked.extend(id.to_le_bytes());
    checked.extend(payload);
    let length = u32::try_from(checked.len() + 4).expect("small");
    [length.to_le_bytes().as_slice(), &crc32c(&checked).to_le_bytes(), &checked].concat()
}

fn serves_on(cluster: &Cluster) {
    for index in cluster.running() {
        cluster.put(index, "still", &format!("{index}"));
    }
}

/// No node has died meanwhile, nor is there another term.
fn unharmed(cluster: &mut Cluster, term: u64) {
    serves_on(cluster);
    cluster.wait_leader();
    for node in &mut cluster.nodes {
        assert_eq!(node.process().ended(), None);
        let log = node.process().log();
        assert!(!log.contains("panicked"), "a task of {} panicked", node.name);
        let now = node.nodes().expect("it answers").term;
        if now != term {
            println!("the term went from {term} to {now}: an election that a busy machine may cause");
        }
    }
}

fn started(test: &str) -> (Cluster, u64) {
    let cluster = Cluster::started(test, 3);
    let term = cluster.nodes[0].nodes().expect("it answers").term;
    (cluster, term)
}

#[test]
fn garbage_of_many_sizes() {
    let (mut cluster, term) = started("peer-garbage");
    let seed = Random::any_seed();
    println!("garbage from seed {seed}");
    let mut random = Random::new(seed);
    for size in [0, 1, 3, 4, 5, 8, 19, 20, 21, 100, 1 << 12, (1 << 16) + 1, 1 << 20, 20 << 20] {
        let garbage: Vec<u8> = (0..size).map(|_| random.number().to_le_bytes()[0]).collect();
        let port = cluster.nodes[random.below(3)].peer_port;
        send(port, &garbage);
        // Zeros are a length of nothing; ones a length of 4 GiB.
        send(port, &vec![0; size]);
        send(port, &vec![0xff; size]);
    }
    unharmed(&mut cluster, term);
}

#[test]
fn http_at_the_peer_port() {
    let (mut cluster, term) = started("peer-http");
    for node in &cluster.nodes {
        let answer = send(node.peer_port, &http::request("GET", "/cluster/nodes", None));
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        send(node.peer_port, &http::request("PUT", "/kv/a", Some(b"1")));
    }
    unharmed(&mut cluster, term);
    assert!(cluster.list(0).found.iter().all(|item| item.key == "still"));
}

#[test]
fn frames_that_are_whole_and_make_no_sense() {
    let (mut cluster, term) = started("peer-frames");
    let seed = Random::any_seed();
    println!("frames from seed {seed}");
    let mut random = Random::new(seed);
    for kind in 0..=12 {
        for size in [0, 1, 7, 64, 1000, 4096, 100_000] {
            let payload: Vec<u8> = (0..size).map(|_| random.number().to_le_bytes()[0]).collect();
            let whole = frame(kind, random.number().to_le_bytes()[0], random.number(), &payload);
            let port = cluster.nodes[random.below(3)].peer_port;
            send(port, &whole);
            send(port, &whole.repeat(3));
            send(port, &whole[..random.below(whole.len())]);
            let mut rotten = whole;
            let at = random.below(rotten.len());
            rotten[at] ^= 1 << random.below(8);
            send(port, &rotten);
        }
    }
    unharmed(&mut cluster, term);
}

#[test]
fn a_crowd_that_never_finishes_does_not_keep_peers_out() {
    let (mut cluster, _) = started("peer-slow");
    let leader = cluster.wait_leader();
    let mut crowd = Vec::new();
    for node in &cluster.nodes {
        for index in 0..150 {
            let mut stream = connect(node.peer_port);
            let hello = frame(1, 0, 0, &[0; 40]);
            // Nothing, or some bytes of what could become a handshake.
            let _ = stream.write_all(&hello[..index % hello.len()]);
            crowd.push(stream);
        }
    }
    serves_on(&cluster);
    // A node that comes back has to shake hands in that crowd.
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].kill();
    cluster.start(follower);
    let port = cluster.nodes[leader].peer_port;
    for index in 0..150 {
        // Whoever is thrown out is replaced.
        if let Ok(stream) = http::connect(http::at(port), TIMEOUT) {
            let place = index % crowd.len();
            crowd[place] = stream;
        }
    }
    let came_back = std::time::Instant::now();
    cluster.wait_leader();
    println!("the restarted node was back in the crowd after {:?}", came_back.elapsed());
    serves_on(&cluster);
    let closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).is_ok()
            && !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    eventually("strangers are thrown out in the end", DEADLINE, || match crowd.iter().filter(|s| !closed(s)).count() {
        0 => Ok(()),
        open => Err(format!("{open} of {} are still connected", crowd.len())),
    });
}

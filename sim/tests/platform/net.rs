//! The Net seam, and what happens to networks.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft_rt::{AsyncRuntime, Instant};
use quorate_io::net::{Listener, Net, ReadHalf, WriteHalf};
use sim::Trace;
use sim::platform::{LinkProfile, Network, SimInstant, SimNet, SimReadHalf, SimRuntime, SimWriteHalf, run};

const MS: Duration = Duration::from_millis(1);
type Stream = (SimReadHalf, SimWriteHalf);

struct Pair {
    network: Network,
    a: SimNet,
    near: Stream,
    far: Stream,
}

fn network(seed: u64) -> (Network, SimNet, SimNet) {
    let network = Network::new(seed, Trace::default());
    network.set_profile(&LinkProfile { spike_per_mille: 0, retransmit_ns_max: 0, ..LinkProfile::default() });
    network.map("a", 1);
    network.map("b", 2);
    let (a, b) = (network.boot(1), network.boot(2));
    (network, a, b)
}

async fn pair(seed: u64) -> Pair {
    let (network, a, b) = network(seed);
    let mut listener = b.listen("b:1").await.unwrap();
    let near = a.connect("b:1").await.unwrap();
    let (read, write, _) = listener.accept().await.unwrap();
    Pair { network, a, near, far: (read, write) }
}

async fn send(stream: &mut Stream, data: &'static [u8]) -> io::Result<()> {
    stream.1.write(vec![Bytes::from_static(data)]).await
}

/// What arrives until a while passes without anything, and how it ended: `None` if it did not.
async fn receive(stream: &mut Stream) -> (BytesMut, Option<io::Result<()>>) {
    let mut buf = BytesMut::new();
    loop {
        match SimRuntime::timeout(MS * 50, stream.0.read(&mut buf)).await {
            Err(_) => return (buf, None),
            Ok(Ok(0)) => return (buf, Some(Ok(()))),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return (buf, Some(Err(error))),
        }
    }
}

fn is_reset(end: Option<io::Result<()>>) -> bool {
    matches!(end, Some(Err(error)) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn conformance() {
    for seed in 0..5 {
        run(seed, move || async move {
            let (network, a, b) = network(seed);
            sim::conformance::net::suite::<_, SimRuntime>(a.clone(), b, "b:0").await;
            sim::conformance::net::suite::<_, SimRuntime>(a.clone(), a, "a:0").await;
            assert_eq!(network.connections(), 0, "nothing is left over");
        });
    }
}

#[test]
fn bytes_take_the_latency_of_their_link() {
    run(1, || async {
        let mut pair = pair(1).await;
        let slow = LinkProfile { latency_ns: 70_000_000, jitter_ns: 0, ..LinkProfile::default() };
        pair.network.set_link_profile(1, 2, slow);
        let start = SimInstant::now();
        send(&mut pair.near, b"there").await.unwrap();
        let mut buf = BytesMut::new();
        pair.far.0.read(&mut buf).await.unwrap();
        assert!(start.elapsed() >= MS * 70 && start.elapsed() < MS * 71, "{:?}", start.elapsed());
        let start = SimInstant::now();
        send(&mut pair.far, b"back").await.unwrap();
        pair.near.0.read(&mut buf).await.unwrap();
        assert!(start.elapsed() < MS * 2);
    });
}

#[test]
fn a_block_is_one_way_and_delays() {
    run(1, || async {
        let mut pair = pair(1).await;
        send(&mut pair.near, b"under way ").await.unwrap();
        pair.network.block(1, 2);
        send(&mut pair.near, b"after").await.unwrap();
        send(&mut pair.far, b"other way").await.unwrap();
        assert_eq!(receive(&mut pair.near).await.0, "other way");
        assert!(receive(&mut pair.far).await.0.is_empty());
        assert_eq!(pair.network.counters().bytes_delayed, 15);
        pair.network.heal_all();
        assert_eq!(receive(&mut pair.far).await.0, "under way after");
    });
}

#[test]
fn a_kill_resets_peers_and_its_handles_are_dead() {
    run(1, || async {
        let mut pair = pair(1).await;
        pair.network.kill(2);
        send(&mut pair.far, b"dead").await.expect_err("dead");
        assert!(is_reset(receive(&mut pair.near).await.1));
        send(&mut pair.near, b"x").await.expect_err("reset");
        assert_eq!(pair.a.connect("b:1").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        pair.network.kill(1);
        pair.a.connect("b:1").await.expect_err("dead");
        pair.a.listen("a:1").await.expect_err("dead");
    });
}

#[test]
fn a_kill_behind_a_block_leaves_a_half_open_connection() {
    run(1, || async {
        let mut pair = pair(1).await;
        pair.network.block(2, 1);
        pair.network.kill(2);
        drop(pair.far);
        assert!(receive(&mut pair.near).await.1.is_none(), "no reset, no end");
        pair.network.heal_all();
        assert!(receive(&mut pair.near).await.1.is_none(), "nobody repeats a reset");
        send(&mut pair.near, b"are you there").await.expect("it cannot know yet");
        assert!(is_reset(receive(&mut pair.near).await.1), "an answer to what was sent");
        assert_eq!(pair.network.counters().half_open, 1);
    });
}

#[test]
fn a_reset_under_way_when_the_link_blocks_is_lost() {
    run(1, || async {
        let mut pair = pair(1).await;
        pair.network.kill(2);
        pair.network.block(2, 1);
        assert!(receive(&mut pair.near).await.1.is_none());
        send(&mut pair.near, b"x").await.expect("half open");
        assert!(receive(&mut pair.near).await.1.is_none(), "the answer is blocked too");
        pair.network.unblock(2, 1);
        assert!(is_reset(receive(&mut pair.near).await.1));
    });
}

#[test]
fn an_end_behind_a_block_or_a_clog_and_a_reset_behind_a_clog_arrive_later() {
    run(1, || async {
        let mut blocked = pair(1).await;
        blocked.network.block(2, 1);
        drop(blocked.far);
        assert!(receive(&mut blocked.near).await.1.is_none());
        blocked.network.unblock(2, 1);
        assert!(matches!(receive(&mut blocked.near).await.1, Some(Ok(()))));

        let mut clogged = pair(2).await;
        clogged.network.clog(2, 1);
        clogged.network.kill(2);
        assert!(receive(&mut clogged.near).await.1.is_none());
        send(&mut clogged.near, b"x").await.expect("it cannot know yet");
        clogged.network.unclog(2, 1);
        assert!(is_reset(receive(&mut clogged.near).await.1));
        send(&mut clogged.near, b"x").await.expect_err("reset");
    });
}

#[test]
fn a_dead_machine_is_silent_until_it_boots() {
    run(1, || async {
        let mut pair = pair(1).await;
        pair.network.power_off(2);
        send(&mut pair.near, b"x").await.expect("it cannot know yet");
        assert!(receive(&mut pair.near).await.1.is_none());
        assert!(SimRuntime::timeout(MS * 1000, pair.a.connect("b:1")).await.is_err(), "connecting hangs");
        assert_eq!(pair.network.counters().connects_hung, 1);
        let _b = pair.network.boot(2);
        assert!(is_reset(receive(&mut pair.near).await.1));
        assert_eq!(pair.a.connect("b:1").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn connecting_hangs_while_either_way_is_closed() {
    for (from, to) in [(1, 2), (2, 1)] {
        run(1, move || async move {
            let (network, a, b) = network(1);
            let mut listener = b.listen("b:1").await.unwrap();
            network.block(from, to);
            let connecting = SimRuntime::spawn(async move { a.connect("b:1").await });
            SimRuntime::sleep(MS * 100).await;
            network.unblock(from, to);
            connecting.await.unwrap().expect("connected");
            listener.accept().await.unwrap();
        });
    }
}

#[test]
fn giving_up_a_connect_closes_what_the_server_accepted() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("b:1").await.unwrap();
        network.block(2, 1);
        let connecting = SimRuntime::spawn(async move { a.connect("b:1").await.err() });
        drop(SimRuntime::timeout(MS * 20, listener.accept()).await.map(|accepted| accepted.unwrap()));
        connecting.abort();
        SimRuntime::sleep(MS * 20).await;
        assert_eq!(network.connections(), 0);
    });
}

#[test]
fn a_reset_delivers_a_prefix_and_all_kinds_of_prefixes() {
    let (mut none, mut part, mut all) = (0, 0, 0);
    for seed in 0..60 {
        let (len, mid) = run(seed, move || async move {
            let mut pair = pair(seed).await;
            send(&mut pair.near, b"0123456789").await.unwrap();
            assert_eq!(pair.network.reset(2, 1), 1);
            let (got, end) = receive(&mut pair.far).await;
            assert!(is_reset(end) && b"0123456789".starts_with(&got));
            assert!(is_reset(receive(&mut pair.near).await.1));
            send(&mut pair.near, b"x").await.expect_err("reset");
            (got.len(), pair.network.counters().resets_mid_write)
        });
        assert_eq!(mid, u64::from(len > 0 && len < 10));
        match len {
            0 => none += 1,
            10 => all += 1,
            _ => part += 1,
        }
    }
    assert!(none > 0 && part > 0 && all > 0, "{none} {part} {all}");
}

#[test]
fn a_writer_that_waits_for_room_is_told_of_a_reset() {
    run(1, || async {
        let mut pair = pair(1).await;
        let network = pair.network.clone();
        let writing = SimRuntime::spawn(async move {
            loop {
                if let Err(error) = pair.near.1.write(vec![Bytes::from(vec![0; 100_000])]).await {
                    return error.kind();
                }
            }
        });
        SimRuntime::sleep(MS * 10).await;
        network.kill(2);
        assert_eq!(writing.await.unwrap(), ErrorKind::ConnectionReset);
        drop(pair.far);
    });
}

#[test]
fn late_bytes_of_an_old_connection_arrive_after_a_new_one_is_up() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("b:1").await.unwrap();
        let mut old = a.connect("b:1").await.unwrap();
        let (read, write, _) = listener.accept().await.unwrap();
        let mut old_far = (read, write);
        network.block(1, 2);
        send(&mut old, b"late").await.unwrap();
        network.set_link_profile(1, 2, LinkProfile { retransmit_ns_max: 900_000_000, ..LinkProfile::default() });
        network.unblock(1, 2);
        drop(old);
        let mut new = a.connect("b:1").await.unwrap();
        let (mut read, ..) = listener.accept().await.unwrap();
        send(&mut new, b"new").await.unwrap();
        let mut buf = BytesMut::new();
        read.read(&mut buf).await.unwrap();
        assert!(buf.starts_with(b"n"));
        assert!(SimRuntime::timeout(MS * 1000, old_far.0.read(&mut buf)).await.unwrap().unwrap() > 0);
    });
}

#[test]
fn a_host_name_can_move() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("0.0.0.0:1").await.unwrap();
        assert_eq!(a.connect("moving:1").await.unwrap_err().kind(), ErrorKind::Other);
        network.map("moving", 2);
        a.connect("moving:1").await.unwrap();
        listener.accept().await.unwrap();
        network.map("moving", 1);
        assert_eq!(a.connect("moving:1").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(b.listen("moving:2").await.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn forgotten_connections_carry_nothing_for_ever_and_new_ones_work() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("b:1").await.unwrap();
        let (mut near, (read, write, _)) = (a.connect("b:1").await.unwrap(), listener.accept().await.unwrap());
        let mut far = (read, write);
        send(&mut near, b"under way").await.unwrap();
        assert_eq!(network.forget_connections(1, 2), 1);
        assert_eq!(network.forget_connections(2, 1), 0, "they are forgotten already");
        send(&mut near, b"sent in vain").await.unwrap();
        let (bytes, end) = receive(&mut far).await;
        assert!(bytes.is_empty() && end.is_none(), "{bytes:?} {end:?}");
        network.heal_all();
        drop(near);
        assert!(receive(&mut far).await.1.is_none(), "nobody is told of the end");
        send(&mut far, b"to nobody").await.unwrap();
        assert!(receive(&mut far).await.1.is_none(), "no reset comes back");
        let mut again = a.connect("b:1").await.unwrap();
        let (read, write, _) = listener.accept().await.unwrap();
        send(&mut again, b"new").await.unwrap();
        assert_eq!(receive(&mut (read, write)).await.0, "new");
        drop((far, again, listener));
        SimRuntime::sleep(MS * 50).await;
        assert_eq!(network.connections(), 0, "nothing is left over");
    });
}

#[test]
fn a_connect_that_is_refused_hangs_while_the_others_work() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("b:1").await.unwrap();
        let (mut near, (read, write, _)) = (a.connect("b:1").await.unwrap(), listener.accept().await.unwrap());
        network.refuse(1, 2);
        let mut connecting = Box::pin(a.connect("b:1"));
        assert!(SimRuntime::timeout(MS * 1_000, &mut connecting).await.is_err());
        send(&mut near, b"works").await.unwrap();
        assert_eq!(receive(&mut (read, write)).await.0, "works");
        assert_eq!(network.counters().connects_hung, 1);
        network.connect_again(1, 2);
        connecting.await.expect("it goes on");
        network.refuse(1, 2);
        network.heal_all();
        a.connect("b:1").await.expect("healed");
    });
}

#[test]
fn bytes_of_an_old_connection_arrive_after_a_new_one_is_up() {
    run(1, || async {
        let (network, a, b) = network(1);
        let mut listener = b.listen("b:1").await.unwrap();
        let (mut old, (read, write, _)) = (a.connect("b:1").await.unwrap(), listener.accept().await.unwrap());
        let mut far = (read, write);
        send(&mut old, b"first ").await.unwrap();
        assert_eq!(receive(&mut far).await.0, "first ");
        let detained = network.detain(1, 2);
        send(&mut old, b"late").await.unwrap();
        send(&mut far, b"other way").await.unwrap();
        assert_eq!(receive(&mut old).await.0, "other way");
        network.strand(&detained);
        assert!(is_reset(receive(&mut old).await.1), "the sender is told");
        drop(old);
        let mut new = a.connect("b:1").await.unwrap();
        let (read, write, _) = listener.accept().await.unwrap();
        send(&mut new, b"new").await.unwrap();
        assert_eq!(receive(&mut (read, write)).await.0, "new");
        let (bytes, end) = receive(&mut far).await;
        assert!(bytes.is_empty() && end.is_none());
        network.let_go(&detained);
        let (bytes, end) = receive(&mut far).await;
        assert!(bytes == "late" && is_reset(end), "{bytes:?}");
        let counters = network.counters();
        assert_eq!((counters.stranded, counters.late_bytes), (1, 4));
    });
}

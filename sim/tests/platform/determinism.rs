//! A run is a function of its seed.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft_rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};
use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker};
use quorate_io::Platform;
use quorate_io::net::{Listener, Net, ReadHalf, WriteHalf};
use quorate_io::watch::OrderedWatch;
use rand::RngExt;
use sim::SplitMix;
use sim::platform::{Machine, SimDisk, SimPlatform, SimRuntime, World, WorldConfig, run};

const MACHINES: u32 = 3;

/// Appends what it is given to a file, and syncs.
struct Log {
    disk: SimDisk,
    queue: Arc<Mutex<Vec<Bytes>>>,
    durable: <OrderedWatch as Watch>::Sender<u64>,
}

impl Worker for Log {
    type Done = u64;

    fn work(&mut self) -> Step<u64> {
        let batch = std::mem::take(&mut *self.queue.lock().unwrap());
        if batch.is_empty() {
            return Step::Idle;
        }
        let file = self.disk.open(Path::new("/log"), OpenMode::Create).unwrap();
        for bytes in batch {
            file.write_at(file.len().unwrap(), &bytes).unwrap();
        }
        file.sync().unwrap();
        self.disk.sync_dir(Path::new("/")).unwrap();
        Step::Done(file.len().unwrap())
    }

    fn done(&mut self, len: u64) {
        let _ = self.durable.send(len);
    }
}

/// A process: whatever it receives it writes, and answers once that is durable.
async fn process(platform: SimPlatform, node: u32) {
    let (queue, (durable, watch)) = (Arc::default(), OrderedWatch::channel(0));
    let log = Log { disk: platform.disk().clone(), queue: Arc::clone(&queue), durable };
    let wake = platform.disk().start("log", log);
    for peer in (1..=MACHINES).filter(|peer| *peer != node) {
        SimRuntime::spawn(client(platform.clone(), peer));
    }
    let mut listener = platform.net().listen(&format!("n{node}:1")).await.unwrap();
    loop {
        let (mut read, mut write, _) = listener.accept().await.unwrap();
        let (queue, wake, mut watch) = (queue.clone(), wake.clone(), watch.clone());
        SimRuntime::spawn(async move {
            let mut buf = BytesMut::new();
            while let Ok(1..) = read.read(&mut buf).await {
                queue.lock().unwrap().push(buf.split().freeze());
                wake.wake();
                let _ = watch.changed().await;
                let len = *watch.borrow_watched();
                if write.write(vec![Bytes::copy_from_slice(&len.to_le_bytes())]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn client(platform: SimPlatform, peer: u32) {
    loop {
        SimRuntime::sleep(Duration::from_millis(SimRuntime::thread_rng().random_range(1..20))).await;
        let connect = platform.net().connect(&format!("n{peer}:1")).await;
        let Ok((mut read, mut write)) = connect else { continue };
        let mut buf = BytesMut::new();
        loop {
            let len = SimRuntime::thread_rng().random_range(1..2000);
            let byte = SimRuntime::thread_rng().random();
            if write.write(vec![Bytes::from(vec![byte; len])]).await.is_err() {
                break;
            }
            match SimRuntime::timeout(Duration::from_millis(100), read.read(&mut buf)).await {
                Ok(Ok(1..)) => buf.clear(),
                _ => break,
            }
        }
    }
}

fn boot(machine: &Machine) {
    let node = machine.node();
    drop(machine.boot(move |platform| process(platform, node)));
}

/// One run with faults; its hash, and how many events there were.
fn hash(seed: u64) -> (u64, u64) {
    run(seed, move || async move {
        let world = World::new(WorldConfig { seed, ..WorldConfig::default() });
        let machines: Vec<_> = (1..=MACHINES).map(|node| world.machine(&format!("n{node}"))).collect();
        machines.iter().for_each(boot);
        let mut rng = SplitMix::labelled(seed, "faults");
        for _ in 0..60 {
            SimRuntime::sleep(Duration::from_millis(rng.between(1, 200))).await;
            let machine = &machines[rng.below(3) as usize];
            let (a, b) = (1 + rng.below(3) as u32, 1 + rng.below(3) as u32);
            match rng.below(10) {
                0 => machine.kill(),
                1 => machine.power_loss(),
                2 => machine.pause(),
                3 => world.network().block(a, b),
                4 => world.network().clog(a, b),
                5 => _ = world.network().reset(a, b),
                6 => machine.drive().stall(Duration::from_millis(20)),
                _ => {
                    world.network().heal_all();
                    machines.iter().for_each(Machine::resume);
                    machines.iter().filter(|machine| !machine.is_running()).for_each(boot);
                }
            }
        }
        machines.iter().for_each(Machine::kill);
        SimRuntime::sleep(Duration::from_millis(1)).await;
        assert_eq!(world.network().connections(), 0, "destructors of all tasks ran");
        (world.trace().hash(), world.trace().events())
    })
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let (first, events) = hash(1);
    assert!(events > 1000, "{events} events");
    assert_eq!(hash(1), (first, events));
    assert_ne!(hash(2).0, first);
}

#[test]
fn many_seeds_repeat_beside_each_other() {
    let one_by_one: Vec<_> = (10..20).map(hash).collect();
    let threads: Vec<_> = (10..20).map(|seed| std::thread::spawn(move || hash(seed))).collect();
    let at_once: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(one_by_one, at_once);
}

/// Prints a hash for [`a_seed_repeats_in_a_fresh_process`].
#[test]
fn prints_its_hash() {
    let (hash, events) = hash(7);
    println!("hash {hash:016x} of {events} events");
}

#[test]
fn a_seed_repeats_in_a_fresh_process() {
    let print = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", "determinism::prints_its_hash", "--nocapture"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.find("hash ").map(|at| line[at..].to_owned())).expect("it prints a hash")
    };
    hash(3);
    let (hash, events) = hash(7);
    let here = format!("hash {hash:016x} of {events} events");
    assert_eq!([print(), print()], [here.clone(), here]);
}

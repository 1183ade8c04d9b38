//! One node becomes three, five, and three again, the leader leaves, and a backup is taken, all under load.

use std::time::{Duration, Instant};

use e2e::{DEADLINE, Directory, Node, Random, ask, done, eventually, output, quorate, start_alone, voters};

use super::check::history::{Consistency, Op, Outcome};
use super::{CLIENTS, Done, Record, item, judge, print, read_everything, under_load, variable};

const BACKUP: &str = "cluster.backup";

/// Takes a backup through a node. It has in it what a linearizable read in its place would have seen: which read that is
/// in the history, and when it was over.
fn back_up(record: &Record, node: &Node, directory: &Directory) -> (usize, u64) {
    let everything = Op::List { prefix: String::new(), consistency: Consistency::Linearizable };
    let index = record.invoke(u64::MAX, everything);
    let file = directory.path().join(BACKUP);
    let (code, stdout, stderr) = ask(node, &format!("backup {}", file.display()));
    assert!(code == 0 && stdout.contains(" keys, "), "{code} {stdout} {stderr}");
    (index, record.now_ns())
}

/// What a new cluster has that is made from the backup.
fn restored(directory: &Directory) -> Outcome {
    let mut node = Node::new("restored", directory);
    let restore = |file: &str| {
        let mut command = quorate();
        command.arg("restore").arg(directory.path().join(file)).args(["--name", "restored"]);
        command.args(["--peer-url", &format!("127.0.0.1:{}", node.peer_port), "--data-dir"]).arg(&node.data_dir);
        output(command)
    };
    let made = restore(BACKUP);
    let text = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success() && text.starts_with("restored "), "{made:?}");
    let again = restore(BACKUP);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");
    start_alone(&mut node, &[]);
    node.wait_ready();
    let read = node.client().list("", false).done().expect("nothing is wrong");
    let items = read.found.into_iter().map(item).collect();
    let seen = Outcome::List { revision: read.revision, items };
    // It is a cluster like any other: somebody joins, and gets the state.
    let mut second = Node::new("second", directory);
    start_alone(&mut second, &["--join", &format!("127.0.0.1:{}", node.peer_port)]);
    voters(&node, &["restored", "second"]);
    second.wait_ready();
    let revision = second.client().put("anew", "1").done().expect("nothing is wrong").revision;
    assert_eq!(revision, read.revision + 1);
    seen
}

#[test]
fn the_history_of_a_cluster_whose_members_come_and_go_is_linearizable() {
    let mut random = Random::new(variable("E2E_CHAOS_SEED", Random::any_seed));
    let directory = Directory::new("growth");
    let mut nodes: Vec<_> = (1..=5).map(|number| Node::new(&format!("n{number}"), &directory)).collect();
    start_alone(&mut nodes[0], &[]);
    nodes[0].wait_ready();
    let first = format!("127.0.0.1:{}", nodes[0].peer_port);
    let ports: Vec<u16> = nodes.iter().map(|node| node.api_port).collect();
    let record = Record::new();
    let mut changes = Done::default();
    let backup = under_load(&record, &ports, &mut random, |random| {
        let mut backup = None;
        for count in 2..=5 {
            e2e::pause(Duration::from_millis(random.number() % 1000));
            start_alone(&mut nodes[count - 1], &["--join", &first]);
            let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
            voters(&nodes[0], &names.iter().map(String::as_str).collect::<Vec<_>>());
            if count == 3 {
                backup = Some(back_up(&record, &nodes[random.below(3)], &directory));
            }
        }
        for left in [4, 3] {
            e2e::pause(Duration::from_millis(random.number() % 1000));
            let leader = eventually("a leader", DEADLINE, || {
                let known = nodes.iter().find(|node| node.is_started()).expect("some run").nodes()?;
                known.with_status("leader").first().map(|name| (*name).to_owned()).ok_or("none".to_owned())
            });
            let asked = nodes.iter().position(|node| node.is_started() && node.name != leader).expect("some follow");
            done(&nodes[asked], &format!("member remove {leader}"));
            let gone = nodes.iter_mut().find(|node| node.name == leader).expect("it is one of them");
            assert_eq!(gone.ended().code(), Some(5), "{leader} was removed");
            changes.terminations += 1;
            let names: Vec<String> =
                nodes.iter().filter(|node| node.is_started()).map(|node| node.name.clone()).collect();
            assert_eq!(names.len(), left);
            voters(&nodes[asked], &names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        e2e::pause(Duration::from_secs(1));
        backup.expect("it was taken")
    });
    read_everything(&record, nodes.iter().filter(|node| node.is_started()));
    let start = Instant::now();
    let (index, at_ns) = backup;
    record.complete(index, at_ns, restored(&directory));
    println!("restored, and joined by a second node, in {:?}", start.elapsed());
    let history = record.finish();
    assert!(history.len() > 100 * CLIENTS, "only {} operations", history.len());
    print(&history, &changes);
    judge(&history, &directory);
}

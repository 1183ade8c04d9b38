//! `--force-new-cluster`, and what to do where it cannot help.

use std::fs;

use e2e::{Cluster, DEADLINE, Directory, Signal, eventually, http, output, quorate, start_alone, voters};

#[test]
fn the_survivor_of_a_lost_majority_goes_on_only_when_it_is_forced() {
    let mut cluster = Cluster::started("force", 3);
    let survivor = cluster.wait_leader();
    cluster.put(survivor, "a", "1");
    let old = cluster.nodes[survivor].nodes().expect("it serves").cluster_id;
    (0..3).for_each(|index| cluster.nodes[index].kill());
    let [gone, other] = [(survivor + 1) % 3, (survivor + 2) % 3];

    // Without the flag: loudly nothing. With a wrong directory: nothing at all.
    cluster.start(survivor);
    let port = cluster.nodes[survivor].api_port;
    eventually("it runs", DEADLINE, || http::get(port, "/healthz").map(drop));
    assert_ne!(http::get(port, "/readyz").expect("it answers").status, 200);
    let answer = http::get(port, "/kv/a").expect("it answers");
    assert_eq!(answer.status, 503, "{}", answer.text());
    cluster.nodes[survivor].kill();
    let directory = Directory::new("force-empty");
    let mut wrong = quorate();
    wrong.current_dir(directory.path()).args(["--force-new-cluster", "--api-addr", "127.0.0.1:0"]);
    wrong.args(["--peer-url", &format!("127.0.0.1:{}", e2e::free_port())]);
    let output = output(wrong);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("./data has no data of a cluster"), "{said}");

    // With it, and with the list that it had: everything, in a cluster of its own. It may stay on.
    for _ in 0..2 {
        let mut command = cluster.command(survivor);
        command.arg("--force-new-cluster");
        cluster.nodes[survivor].start(command);
        cluster.nodes[survivor].wait_ready();
        assert_eq!(cluster.list(survivor).found.len(), 1);
        assert_eq!(cluster.nodes[survivor].stop(Signal::TERM).code(), Some(0));
    }
    let mut command = cluster.command(survivor);
    command.env("QUORATE_FORCE_NEW_CLUSTER", "true");
    cluster.nodes[survivor].start(command);
    cluster.nodes[survivor].wait_ready();
    let log = fs::read_to_string(&cluster.nodes[survivor].log).expect("it logs");
    assert_eq!(log.matches("is the only member of a new cluster now").count(), 1, "{log}");
    assert_eq!(log.matches("an earlier start has done it").count(), 2, "{log}");
    cluster.put(survivor, "b", "2");

    // One that comes back as it was is told why it cannot; wiped it joins, or comes with the old list.
    cluster.start(gone);
    let log = cluster.nodes[gone].log.clone();
    eventually("it is refused", DEADLINE, || {
        let log = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if log.contains("does not talk to this node") && log.contains(&format!("you to {old}")) {
            Ok(())
        } else {
            Err(log)
        }
    });
    cluster.nodes[gone].kill();
    for index in [gone, other] {
        fs::remove_dir_all(&cluster.nodes[index].data_dir).expect("it is there");
    }
    let first = format!("127.0.0.1:{}", cluster.nodes[survivor].peer_port);
    start_alone(&mut cluster.nodes[gone], &["--join", &first]);
    cluster.start(other);
    let mut names: Vec<_> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    let nodes = voters(&cluster.nodes[survivor], &names);
    assert_ne!(nodes.cluster_id, old);
    cluster.nodes[other].wait_ready();
    let found = cluster.nodes[other].client().get("b", false).done().expect("nothing is wrong").found;
    assert_eq!(found.expect("it was written").value, "2");
}

#[test]
fn a_node_in_memory_that_lost_its_majority_gives_a_backup() {
    let mut cluster = Cluster::new("force-memory", 3);
    cluster.flags = ["--store", "memory"].map(str::to_owned).to_vec();
    (0..3).for_each(|index| cluster.start(index));
    let survivor = cluster.wait_leader();
    cluster.put(survivor, "a", "1");
    for index in (0..3).filter(|index| *index != survivor) {
        cluster.nodes[index].kill();
    }
    let api = format!("127.0.0.1:{}", cluster.nodes[survivor].api_port);
    let (file, data) = (cluster.directory().path().join("backup"), cluster.directory().path().join("restored"));
    let run = |words: &[&str]| {
        let mut command = quorate();
        command.args(words);
        output(command)
    };
    let (file, data) = (file.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let refused = run(&["backup", file, "--api", &api]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(run(&["backup", file, "--api", &api, "--stale"]).status.code(), Some(0));
    let forced = run(&["--store", "memory", "--force-new-cluster", "--api-addr", "127.0.0.1:0"]);
    let said = String::from_utf8(forced.stderr).expect("UTF-8");
    assert!(forced.status.code() == Some(1) && said.contains("restore a backup"), "{said}");
    cluster.nodes[survivor].kill();
    assert_eq!(run(&["restore", file, "--data-dir", data]).status.code(), Some(0));
    let node = &mut cluster.nodes[survivor];
    node.data_dir = data.into();
    start_alone(node, &[]);
    node.wait_ready();
    let found = node.client().get("a", false).done().expect("nothing is wrong").found;
    assert_eq!(found.expect("it was written").value, "1");
}

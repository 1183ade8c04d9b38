//! The command lines of the seed's README: one dash, `-client-url` beside `-api-addr`, `:port` for every interface.

use e2e::{Cluster, DEADLINE, Directory, Node, eventually, free_port, http, output, quorate};

#[test]
fn three_nodes_started_as_the_seed_starts_them() {
    let mut cluster = Cluster::new("seed-cluster", 3);
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let list: Vec<String> =
        cluster.nodes.iter().map(|node| format!("{}=http://127.0.0.1:{}", node.name, node.peer_port)).collect();
    for (node, client_port) in cluster.nodes.iter_mut().zip(&ports) {
        let mut command = quorate();
        command.args(["-name", &node.name, "-data-dir"]).arg(&node.data_dir);
        command.args(["-client-url", &format!("http://127.0.0.1:{client_port}")]);
        command.args(["-peer-url", &format!("http://127.0.0.1:{}", node.peer_port)]);
        command.args(["-api-addr", &format!(":{}", node.api_port), "-initial-cluster", &list.join(",")]);
        command.args(["-initial-cluster-token", "raftbase-demo", "-initial-cluster-state=new", "-log-level", "debug"]);
        node.start(command);
    }
    let leader = cluster.wait_leader();
    for (node, client_port) in cluster.nodes.iter().zip(ports) {
        for port in [node.api_port, client_port] {
            let response = http::get(port, "/healthz").expect("it listens");
            assert_eq!((response.status, response.text()), (200, "ok"));
        }
    }
    cluster.put(leader, "a", "1");
}

#[test]
fn one_node_with_one_dash_and_its_data_where_it_was_told() {
    let directory = Directory::new("seed-single");
    let mut node = Node::new("n1", &directory);
    let mut command = quorate();
    command.args(["-name", "n1", "-data-dir"]).arg(&node.data_dir);
    command.args([&format!("-api-addr=:{}", node.api_port), "-peer-url", &format!(":{}", node.peer_port)]);
    node.start(command);
    node.wait_ready();
    let nodes = eventually("it leads", DEADLINE, || node.nodes());
    assert_eq!(nodes.with_status("leader").into_iter().collect::<Vec<_>>(), ["n1"]);
    assert!(node.data_dir.is_dir());
}

#[test]
fn help_lists_the_seeds_flags() {
    let mut command = quorate();
    command.arg("-h");
    let output = output(command);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let flags = "name data-dir client-url peer-url api-addr log-level initial-cluster initial-cluster-state \
                 initial-cluster-token advertise-client-url advertise-peer-url";
    for flag in flags.split_whitespace() {
        assert!(text.contains(&format!("--{flag} ")), "--{flag} is not in {text}");
    }
}

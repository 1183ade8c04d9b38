use quorate_io::{InitialState, NodeConfig, Storage};

use crate::config::{ConfigError, ServerConfig};

fn parse(args: &str) -> Result<ServerConfig, ConfigError> {
    ServerConfig::parse(std::iter::once("quorate").chain(args.split_whitespace()))
}

fn node(args: &str) -> (NodeConfig, String) {
    let config = parse(args).unwrap_or_else(|error| panic!("{args}: {error}"));
    let listen = config.front().expect("a dialect").listen.to_string();
    assert!(config.api_listen().is_empty(), "the REST API is served where it is asked for");
    (config.node_config(&[]), listen)
}

#[test]
fn raftstarter_needs_no_settings() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let (config, listen) = node("--dialect raftstarter --raft-advertise-addr 10.0.0.1");
    assert_eq!((config.name.as_str(), listen.as_str()), (host.trim(), "0.0.0.0:11000"));
    assert_eq!(config.storage, Storage::Dir(format!("/tmp/{}", host.trim()).into()));
    assert_eq!(
        (config.peer_listen.as_str(), config.peer_addrs.as_slice()),
        ("0.0.0.0:12000", &["10.0.0.1:12000".to_owned()][..])
    );
    assert_eq!(config.founding.members.len(), 1);
    assert_eq!(config.initial_state, InitialState::New);
}

#[test]
fn raftstarter_takes_its_address_from_its_peers() {
    let peers = "--dialect=raftstarter --peers node1@10.1.1.1:12000,node2@10.1.1.2:12001 --kv-store memory";
    let (config, _) = node(&format!("{peers} --node-id node2"));
    assert_eq!(config.peer_addrs, ["10.1.1.2:12001"]);
    assert_eq!(config.storage, Storage::Memory);
    assert_eq!(config.founding.members["node1"], ["10.1.1.1:12000"]);
    let (config, _) =
        node(&format!("{peers} --node-id node2 --raft-advertise-addr 10.1.1.2 --raft-advertise-port 12001"));
    assert_eq!(config.peer_addrs, ["10.1.1.2:12001"]);
}

#[test]
fn raftexample_numbers_its_nodes() {
    let (config, listen) = node("-dialect raftexample --id 1 --cluster http://127.0.0.1:12379 --port 12380");
    assert_eq!((config.name.as_str(), listen.as_str()), ("1", "0.0.0.0:12380"));
    assert_eq!(
        (config.peer_listen.as_str(), config.peer_addrs.as_slice()),
        ("127.0.0.1:12379", &["127.0.0.1:12379".to_owned()][..])
    );
    assert_eq!(config.storage, Storage::Dir("raftexample-1".into()));
    assert!(config.join.is_empty());
    let (config, _) =
        node("--dialect raftexample --id 2 --cluster http://a:1,http://b:2,http://c:3 --port 22380 --join");
    assert_eq!((config.name.as_str(), config.peer_addrs.as_slice()), ("2", &["b:2".to_owned()][..]));
    assert_eq!(config.join, ["a:1", "c:3"]);
    let (config, _) = node("--dialect raftexample --id 2 --cluster http://a:1,http://b:2");
    assert_eq!(config.founding.members, [("1".into(), vec!["a:1".into()]), ("2".into(), vec!["b:2".into()])].into());
}

#[test]
fn hraftd_asks_whom_it_is_told() {
    let (config, listen) = node("--dialect hraftd -id node0 ./node0");
    assert_eq!((config.name.as_str(), listen.as_str()), ("node0", "localhost:11000"));
    assert_eq!(config.peer_addrs, ["localhost:12000"]);
    assert_eq!(config.initial_state, InitialState::New);
    let config =
        parse("--dialect hraftd -haddr localhost:11001 -raddr localhost:12001 -join :11000 -inmem d").expect("valid");
    let (to, request) = config.front().and_then(|front| front.join.clone()).expect("it joins");
    assert_eq!(to.to_string(), "0.0.0.0:11000");
    assert_eq!(request, r#"{"addr":"localhost:12001","id":"localhost:12001"}"#);
    let config = config.node_config(&[]);
    assert_eq!((config.initial_state, config.storage), (InitialState::Existing, Storage::Memory));
}

#[test]
fn the_rest_api_stands_beside_a_dialect() {
    let config = parse("--dialect raftexample --api-addr :8081").expect("valid");
    assert_eq!(config.api_listen()[0].to_string(), "0.0.0.0:8081");
    assert_eq!(config.node_config(config.api_listen()).api_addrs, ["127.0.0.1:8081"]);
}

#[test]
fn what_is_wrong_is_one_line() {
    for (args, parts) in [
        ("--dialect etcd", &["--dialect", "etcd", "raftexample"][..]),
        ("--dialect", &["--dialect", "value"]),
        ("--dialect raftstarter --node-id a=b", &["NODE_ID", "a=b"]),
        ("--dialect raftstarter --node-id c --peers a@h:1,b@h:2", &["PEERS", "\"c\"", "NODE_ID"]),
        ("--dialect raftstarter --node-id a --peers a=h:1", &["PEERS", "name@address"]),
        ("--dialect raftstarter --node-id a --peers a@h:1 --raft-advertise-addr g", &["RAFT_ADVERTISE_ADDR", "h:1"]),
        ("--dialect raftstarter --raft-advertise-addr 0.0.0.0", &["RAFT_ADVERTISE_ADDR", "0.0.0.0"]),
        ("--dialect raftstarter --kv-store redb", &["redb", "boltdb, memory"]),
        ("--dialect raftstarter --http-port 99999", &["--http-port", "99999"]),
        ("--dialect raftexample --id 0", &["--id", "\"0\"", "--cluster"]),
        ("--dialect raftexample --id 2", &["--id", "\"2\"", "1 addresses"]),
        ("--dialect raftexample --cluster a:1,a:1", &["--cluster", "a:1", "twice"]),
        ("--dialect raftexample --join", &["--cluster", "--join"]),
        ("--dialect hraftd", &["RAFT_DATA_PATH"]),
        ("--dialect hraftd -raddr :12000 d", &["--raddr", "0.0.0.0:12000"]),
    ] {
        let Err(ConfigError::Usage(line)) = parse(args) else { panic!("{args} was taken") };
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in parts {
            assert!(line.contains(part), "{args}: {part:?} is not in {line:?}");
        }
    }
}

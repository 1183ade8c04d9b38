//! What cannot work is refused at the start: an exit code, and one line that says what and what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use e2e::{Directory, free_port, output, quorate};
use serde_json::Value;

/// Runs it to its end: the exit code, and the lines on stderr that are no log lines of an everyday level.
fn run(command: Command) -> (i32, Vec<String>) {
    let output = output(command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing goes to stdout");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let everyday = |line: &str| {
        serde_json::from_str::<Value>(line).is_ok_and(|line| matches!(line["level"].as_str(), Some("INFO" | "WARN")))
    };
    let lines = stderr.lines().filter(|line| !everyday(line)).map(str::to_owned).collect();
    (output.status.code().expect("it was not killed"), lines)
}

/// It fails with exactly one line that begins with its name and contains `parts`.
fn refused(what: &str, command: Command, code: i32, parts: &[&str]) {
    let (got, lines) = run(command);
    assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
    println!("{what}: exit {got}: {}", lines[0]);
    assert_eq!(got, code, "{what}: {}", lines[0]);
    assert!(lines[0].starts_with("quorate: "), "{what}: {}", lines[0]);
    for part in parts {
        assert!(lines[0].contains(part), "{what}: {part:?} is not in {:?}", lines[0]);
    }
}

/// A command with free ports and a directory of its own.
fn command(directory: &Directory) -> Command {
    let mut command = quorate();
    command.current_dir(directory.path());
    command.args(["--api-addr", &format!("127.0.0.1:{}", free_port())]);
    command.args(["--peer-url", &format!("127.0.0.1:{}", free_port())]);
    command
}

#[test]
fn usage_errors() {
    let directory = Directory::new("bad-usage");
    for (args, parts) in [
        (&["--colour", "red"][..], &["--colour"][..]),
        (&["-peer", "x"], &["--peer", "--peer-url"]),
        (&["serve"], &["serve"]),
        (&["--name"], &["--name", "value"]),
        (&["--advertise-peer-url", "tcp://127.0.0.1:1"], &["--advertise-peer-url", "tcp", "http://host:port"]),
        (&["--client-url", "127.0.0.1"], &["--client-url", "127.0.0.1", "port"]),
        (&["--client-url", "http://127.0.0.1:99999"], &["--client-url", "99999", "65535"]),
        (&["--heartbeat-ms", "fast"], &["--heartbeat-ms", "fast"]),
        (&["--heartbeat-ms", "-1"], &["--heartbeat-ms"]),
        (&["--election-timeout-min-ms", "99999999999999999999"], &["--election-timeout-min-ms"]),
        (&["--name", "n4", "--initial-cluster", "n1=127.0.0.1:1,n2=127.0.0.1:2"], &["\"n4\"", "--name"]),
        (&["--initial-cluster", "http://127.0.0.1:2380"], &["--initial-cluster", "name=address"]),
        (&["--initial-cluster-state", "old"], &["--initial-cluster-state", "old", "existing"]),
        (&["--log-level", "noisy"], &["--log-level", "noisy", "warn"]),
        (&["--store", "etcd"], &["--store", "etcd", "redb"]),
    ] {
        let mut command = command(&directory);
        command.args(args);
        refused(&args.join(" "), command, 2, parts);
    }
    assert!(!directory.path().join("data").exists(), "a usage error touches nothing");
}

#[test]
fn a_dialect_of_the_environment_is_a_nodes_alone() {
    let directory = Directory::new("bad-dialect");
    for (args, code, part) in
        [("member list --api 127.0.0.1:1", 1, "cannot connect"), ("inspect nowhere", 1, "nowhere")]
    {
        let mut command = quorate();
        command.current_dir(directory.path()).env("QUORATE_DIALECT", "hraftd").args(args.split(' '));
        refused(args, command, code, &[part]);
    }
}

#[test]
fn a_taken_port() {
    let directory = Directory::new("bad-port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut api = quorate();
    api.current_dir(directory.path()).args(["--api-addr", &address]);
    refused("the API's port is taken", api, 1, &[&address, "--api-addr"]);
    let mut peers = quorate();
    peers.current_dir(directory.path()).args(["--api-addr", &format!("127.0.0.1:{}", free_port())]);
    peers.args(["--peer-url", &address]);
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let mut example = quorate();
    example.current_dir(directory.path()).args(["--dialect", "raftexample", "--port", &port]);
    example.args(["--cluster", &format!("127.0.0.1:{}", free_port())]);
    refused("the port of a dialect is taken", example, 1, &[&port, "set --port"]);
    let mut starter = quorate();
    starter.current_dir(directory.path()).args(["--dialect", "raftstarter"]).env("PEERS", format!("n1@{address}"));
    starter.envs([("NODE_ID", "n1"), ("RAFT_PORT", &port), ("RAFT_ADDR", "127.0.0.1"), ("STATE_DIR", "state")]);
    starter.env("HTTP_PORT", free_port().to_string());
    refused("the peers' port of a dialect is taken", starter, 1, &[&address, "set RAFT_ADDR and RAFT_PORT"]);
    refused("the peers' port is taken", peers, 1, &[&address, "in use", "--peer-url"]);
}

#[test]
fn an_address_of_another_machine() {
    let directory = Directory::new("bad-address");
    let mut command = quorate();
    // TEST-NET-1 (RFC 5737): nobody's.
    command.current_dir(directory.path()).args(["--api-addr", "192.0.2.1:8080"]);
    refused("not this machine's address", command, 1, &["192.0.2.1:8080", "--api-addr"]);
}

#[test]
fn a_data_directory_that_cannot_be_one() {
    let directory = Directory::new("bad-data-dir");
    let file = directory.path().join("file");
    fs::write(&file, "I am no directory").expect("writable");
    let mut is_file = command(&directory);
    is_file.arg("--data-dir").arg(&file);
    refused("the data directory is a file", is_file, 4, &["file", "--data-dir"]);
    let mut below_file = command(&directory);
    below_file.arg("--data-dir").arg(file.join("data"));
    refused("the data directory is below a file", below_file, 4, &["file/data", "--data-dir"]);

    let sealed = directory.path().join("sealed");
    fs::create_dir(&sealed).expect("writable");
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o500)).expect("our directory");
    if fs::write(sealed.join("probe"), "").is_ok() {
        println!("SKIPPED the unwritable data directory: this user (root?) may write everywhere; trying /proc");
        let mut proc = command(&directory);
        proc.args(["--data-dir", "/proc/quorate"]);
        refused("an unwritable data directory", proc, 4, &["/proc/quorate", "--data-dir"]);
        return;
    }
    let mut unwritable = command(&directory);
    unwritable.arg("--data-dir").arg(sealed.join("data"));
    refused("an unwritable data directory", unwritable, 4, &["sealed/data", "--data-dir"]);
}

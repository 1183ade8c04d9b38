//! The binary's manners before anything is served: exit codes, and what it writes where.

use std::net::TcpListener;
use std::process::Command;

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).envs(env.iter().copied()).output();
    let output = output.expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn usage_errors_are_one_line_and_exit_with_2() {
    for (run, part) in [
        (run(&["--nme", "x"], &[]), "--nme"),
        (run(&["-api-addr", "nowhere"], &[]), "--api-addr"),
        (run(&["--initial-cluster", "a=:1"], &[]), "--initial-cluster"),
        (run(&[], &[("QUORATE_STORE", "boltdb")]), "boltdb"),
        (run(&[], &[("QUORATE_ELECTION_TIMEOUT_MAX_MS", "1")]), "--election-timeout-max-ms"),
    ] {
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.lines().count()), (Some(2), "", 1), "{}", run.stderr);
        assert!(run.stderr.starts_with("quorate: ") && run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn a_flag_wins_over_its_variable() {
    let run = run(&["--store", "boltdb"], &[("QUORATE_STORE", "memory")]);
    assert!(run.stderr.contains("boltdb"), "{}", run.stderr);
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = format!("quorate {}\n", env!("CARGO_PKG_VERSION"));
    for arg in ["--version", "-version", "-V", "--help"] {
        let run = run(&[arg], &[]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert_eq!(run.stdout == version, arg != "--help");
    }
}

#[test]
fn a_taken_port_is_one_line_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for run in [
        run(&["--api-addr", &address], &[]),
        run(&["--api-addr", "127.0.0.1:0", "--client-url", &format!("http://{address}")], &[]),
    ] {
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.lines().count()), (Some(1), "", 1), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("cannot listen at {address}")), "{}", run.stderr);
    }
}

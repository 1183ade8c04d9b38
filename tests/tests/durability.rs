//! No write is acknowledged before it is on disks: system calls of real nodes, seen by strace.
//!
//! For each `PUT` that was answered with 200, a node counts as a witness if it wrote the value to a file of its log and
//! an fdatasync (or fsync) of that file began after that write and had succeeded before the asked node began to write
//! the 200 to its client. One node must be a witness where there is one, two where there are three. Time stamps of
//! different processes on one machine are of one clock.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Cluster, DEADLINE, Signal, can_trace, eventually, quorate};

const WRITES: usize = 40;

/// Seconds since the epoch.
type Time = f64;

/// One system call that has returned.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    begin: Time,
    end: Time,
    name: String,
    /// What stands after the opening parenthesis, strings and the result included.
    rest: String,
}

impl Call {
    /// What its first argument is: strace writes `7</path>` or `9<TCP:[…]>`.
    fn file(&self) -> &str {
        let inside = self.rest.split_once('<').map_or("", |(_, rest)| rest);
        inside.split_once(['>', ',']).map_or("", |(file, _)| file)
    }

    fn result(&self) -> Option<i64> {
        self.rest.rsplit_once(") = ")?.1.split_whitespace().next()?.parse().ok()
    }

    fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fdatasync" | "fsync") && self.result() == Some(0)
    }

    fn is_file_write(&self) -> bool {
        self.name.contains("write") && self.file().starts_with('/')
    }
}

/// Parses what `strace -f -ttt -T -y` has written: `pid time call(…) = result <duration>`, a call that others came in
/// between being split into `… <unfinished ...>` and `<... call resumed>…`.
fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, (Time, String, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let mut words = line.splitn(2, char::is_whitespace);
        let (Some(thread), Some(rest)) = (words.next(), words.next()) else { continue };
        let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<Time>() else { continue };
        if let Some(resumed) = text.strip_prefix("<... ") {
            let Some((begin, name, first)) = unfinished.remove(thread) else { continue };
            let rest = resumed.split_once("resumed>").map_or("", |(_, rest)| rest);
            // The line is written when the call has returned.
            calls.push(Call { begin, end: time, name, rest: first + rest });
        } else if let Some((name, rest)) = text.split_once('(') {
            let (name, rest) = (name.to_owned(), rest.to_owned());
            if let Some(first) = rest.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, (time, name, first.to_owned()));
            } else {
                let duration = rest.rsplit_once('<').and_then(|(_, last)| last.strip_suffix('>')?.parse::<Time>().ok());
                calls.push(Call { begin: time, end: time + duration.unwrap_or(0.0), name, rest });
            }
        }
    }
    calls
}

#[test]
fn traces_are_understood() {
    let trace = "10 100.5 pwrite64(7</d/log/1>, \"ab<>\"..., 4096, 0) = 4096 <0.000100>\n\
                 11 100.6 fdatasync(7</d/log/1> <unfinished ...>\n\
                 10 100.7 sendto(9<TCP:[1:2->3:4]>, \"HTTP/1.1 200\", 12, 0, NULL, 0) = 12 <0.1>\n\
                 11 100.8 <... fdatasync resumed>) = 0 <0.2>\n\
                 10 100.9 --- SIGTERM {si_signo=SIGTERM} ---\n\
                 10 101.0 fsync(3</d>) = -1 EIO (Input/output error) <0.1>\n";
    let calls = parse(trace);
    assert_eq!(calls.len(), 4, "{calls:#?}");
    assert!(calls[0].is_file_write() && calls[0].file() == "/d/log/1" && calls[0].result() == Some(4096));
    assert!(!calls[1].is_file_write() && calls[1].file().starts_with("TCP"));
    assert!(calls[2].is_sync() && (calls[2].begin, calls[2].end) == (100.6, 100.8) && calls[2].file() == "/d/log/1");
    assert!(!calls[3].is_sync());
}

fn trace_file(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.directory().path().join(format!("{}.strace", cluster.nodes[index].name))
}

/// Starts a node as a child of ours with a tracer beside it (`-D`), so that signals go to the node.
fn start_traced(cluster: &mut Cluster, index: usize) {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "-ttt", "-T", "-y", "-s", "20000", "-e"]);
    command
        .arg("trace=fdatasync,fsync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,read,readv,recvfrom,recvmsg");
    command.arg("-o").arg(trace_file(cluster, index)).arg(quorate().get_program());
    cluster.add_flags(&mut command, index);
    cluster.nodes[index].start(command);
}

/// The calls of a node, once it has ended and its tracer has written the last of them.
fn traced(file: &Path) -> Vec<Call> {
    let trace = eventually("the tracer writes the end of the trace", DEADLINE, || {
        let trace = String::from_utf8_lossy(&fs::read(file).map_err(|error| error.to_string())?).into_owned();
        let ended = trace.lines().next_back().is_some_and(|line| line.contains("+++ exited with"));
        if ended { Ok(trace) } else { Err(trace.lines().next_back().unwrap_or_default().to_owned()) }
    });
    parse(&trace)
}

/// When the asked node began to write its answer to the request that brought `value`.
fn answered(calls: &[Call], value: &str) -> Time {
    let brings =
        |call: &Call| (call.name.starts_with("recv") || call.name.starts_with("read")) && call.rest.contains(value);
    let asked = calls.iter().position(brings).expect("the request was received");
    let socket = calls[asked].file().to_owned();
    let answer = calls[asked..].iter().find(|call| {
        let sends = matches!(call.name.as_str(), "write" | "writev" | "sendto" | "sendmsg");
        sends && call.file() == socket && call.rest.contains("\"HTTP/1.1 200")
    });
    answer.expect("the answer was sent").begin
}

/// When `value` was first both in the node's log and known to be durable there.
fn durable(calls: &[Call], value: &str) -> Option<Time> {
    let writes: Vec<&Call> = calls.iter().filter(|call| call.is_file_write() && call.rest.contains(value)).collect();
    let syncs = calls.iter().filter(|call| call.is_sync());
    let covers = |sync: &&Call| writes.iter().any(|write| write.file() == sync.file() && write.end <= sync.begin);
    syncs.filter(covers).map(|sync| sync.end).min_by(Time::total_cmp)
}

/// Writes through node `asked`, then stops all and counts witnesses.
fn every_acknowledged_write_has_witnesses(test: &str, size: usize, ask_leader: bool, witnesses_min: usize) {
    if !can_trace() {
        return;
    }
    let mut cluster = Cluster::new(test, size);
    // Traced nodes are slow: let that be no reason for elections.
    let timing = ["--heartbeat-ms", "500", "--election-timeout-min-ms", "2000", "--election-timeout-max-ms", "4000"];
    cluster.flags = timing.map(str::to_owned).to_vec();
    (0..size).for_each(|index| start_traced(&mut cluster, index));
    let leader = cluster.wait_leader();
    let asked = if ask_leader { leader } else { (leader + 1) % size };
    let mut client = cluster.nodes[asked].client();
    let written: Vec<(String, String)> = (0..WRITES)
        .map(|index| (format!("traced-{index:03}"), format!("distinctive-value-{index:03}-of-{test}")))
        .filter(|(key, value)| client.put(key, &format!("\"{value}\"")).done().is_ok())
        .collect();
    assert!(written.len() > WRITES / 2, "only {} of {WRITES} writes were acknowledged", written.len());
    // Together: the last of three has nobody to hand over to.
    (0..size).for_each(|index| cluster.nodes[index].process().signal(Signal::TERM));
    (0..size).for_each(|index| assert!(cluster.nodes[index].process().wait().success()));
    let traces: Vec<Vec<Call>> = (0..size).map(|index| traced(&trace_file(&cluster, index))).collect();

    let mut slack = Vec::new();
    for (key, value) in &written {
        let at = answered(&traces[asked], value);
        let mut durable: Vec<Time> = traces.iter().filter_map(|calls| durable(calls, value)).collect();
        durable.sort_by(Time::total_cmp);
        let witnesses = durable.iter().filter(|durable| **durable <= at).count();
        let early: Vec<String> = durable.iter().map(|durable| format!("{:+.6} s", durable - at)).collect();
        assert!(witnesses >= witnesses_min, "{key}: 200 with {witnesses} of {size} durable; relative to it: {early:?}");
        slack.push(at - durable[witnesses_min - 1]);
    }
    slack.sort_by(Time::total_cmp);
    println!(
        "{test}: {} writes, each durable on at least {witnesses_min} of {size} before its 200; that came after the \
         deciding fdatasync by {:.0} µs at least, {:.0} µs in the median",
        written.len(),
        slack[0] * 1e6,
        slack[slack.len() / 2] * 1e6
    );
}

#[test]
fn a_single_node_syncs_before_it_answers() {
    every_acknowledged_write_has_witnesses("durability-single", 1, true, 1);
}

#[test]
fn two_of_three_sync_before_the_leader_answers() {
    every_acknowledged_write_has_witnesses("durability-leader", 3, true, 2);
}

#[test]
fn two_of_three_sync_before_a_follower_answers() {
    every_acknowledged_write_has_witnesses("durability-follower", 3, false, 2);
}

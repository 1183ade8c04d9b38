//! Nodes that belong together.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;

use crate::binary::quorate;
use crate::directory::Directory;
use crate::eventually::{DEADLINE, eventually};
use crate::process::{Process, Signal};
use crate::{http, kv, ports};

/// One member, as `/cluster/nodes` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the API's names")]
pub struct Member {
    pub id: String,
    pub name: String,
    pub status: String,
    pub voter: bool,
}

/// The answer of `/cluster/nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the API's names")]
pub struct Nodes {
    pub cluster_id: String,
    pub node_id: String,
    pub term: u64,
    pub leader: Option<String>,
    pub nodes: Vec<Member>,
}

impl Nodes {
    /// The names of the members with this status.
    pub fn with_status(&self, status: &str) -> BTreeSet<&str> {
        self.nodes.iter().filter(|node| node.status == status).map(|node| node.name.as_str()).collect()
    }

    fn parse(body: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned();
        let nodes = body["nodes"].as_array().expect("nodes is a list").iter().map(|node| Member {
            id: text(&node["id"]),
            name: text(&node["name"]),
            status: text(&node["status"]),
            voter: node["voter"].as_bool().expect("voter is true or false"),
        });
        Self {
            cluster_id: text(&body["cluster_id"]),
            node_id: text(&body["node_id"]),
            term: body["term"].as_u64().expect("the term is a number"),
            leader: body["leader"].as_str().map(str::to_owned),
            nodes: nodes.collect(),
        }
    }
}

/// One node: where it is, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub api_port: u16,
    /// Where its peers find it.
    pub peer_port: u16,
    /// Its data.
    pub data_dir: PathBuf,
    /// Its log, over all its lives.
    pub log: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// A node that has not been started, with ports and a directory of its own.
    pub fn new(name: &str, directory: &Directory) -> Self {
        Self {
            name: name.to_owned(),
            api_port: ports::free_port(),
            peer_port: ports::free_port(),
            data_dir: directory.path().join(name),
            log: directory.path().join(format!("{name}.log")),
            process: None,
        }
    }

    /// Whether it was started and neither killed nor waited for.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} is not running", self.name))
    }

    /// Starts `command` as this node.
    pub fn start(&mut self, command: Command) {
        assert!(self.process.is_none(), "{} is running", self.name);
        self.process = Some(Process::start(command, &self.log));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Sends a signal that ends it, and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.process().signal(signal);
        let status = self.process().wait();
        self.process = None;
        status
    }

    /// Waits until it has ended by itself, and says how.
    pub fn ended(&mut self) -> ExitStatus {
        let status = self.process().wait();
        self.process = None;
        status
    }

    /// A client of its key-value API.
    pub fn client(&self) -> kv::Client {
        kv::Client::new(self.api_port, Duration::from_secs(10))
    }

    /// What it says about the cluster.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn nodes(&self) -> Result<Nodes, String> {
        let response = http::get(self.api_port, "/cluster/nodes")?;
        if response.status != 200 {
            return Err(format!("{} {}", response.status, response.text()));
        }
        Ok(Nodes::parse(&response.json()))
    }

    /// Waits until `/readyz` is ok.
    pub fn wait_ready(&mut self) {
        let what = format!("{} is ready", self.name);
        eventually(&what, DEADLINE, || {
            if let Some(status) = self.process().ended() {
                panic!("{} has ended: {status}", self.name);
            }
            let response = http::get(self.api_port, "/readyz")?;
            if response.status == 200 { Ok(()) } else { Err(response.text().to_owned()) }
        });
    }
}

/// A static cluster of nodes n1, n2, …; none is running at first.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Flags that every node gets.
    pub flags: Vec<String>,
    directory: Directory,
}

impl Cluster {
    /// A cluster of `size` nodes for a test.
    pub fn new(test: &str, size: usize) -> Self {
        let directory = Directory::new(test);
        let nodes = (1..=size).map(|number| Node::new(&format!("n{number}"), &directory)).collect();
        Self { nodes, flags: Vec::new(), directory }
    }

    /// A cluster of `size` nodes, all started and with a leader.
    pub fn started(test: &str, size: usize) -> Self {
        let mut cluster = Self::new(test, size);
        (0..size).for_each(|index| cluster.start(index));
        cluster.wait_leader();
        cluster
    }

    /// Where files of the test may be put.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The command that runs a node.
    pub fn command(&self, index: usize) -> Command {
        let mut command = quorate();
        self.add_flags(&mut command, index);
        command
    }

    /// The flags of a node, for a command that runs it in another way.
    pub fn add_flags(&self, command: &mut Command, index: usize) {
        let members = self.nodes.iter().map(|node| format!("{}=http://127.0.0.1:{}", node.name, node.peer_port));
        let node = &self.nodes[index];
        command.args(["--name", &node.name, "--api-addr", &format!("127.0.0.1:{}", node.api_port)]);
        command.args(["--peer-url", &format!("http://127.0.0.1:{}", node.peer_port), "--data-dir"]);
        command.arg(&node.data_dir).args(["--initial-cluster", &members.collect::<Vec<_>>().join(",")]);
        command.args(&self.flags);
    }

    /// Starts a node.
    pub fn start(&mut self, index: usize) {
        let command = self.command(index);
        self.nodes[index].start(command);
    }

    /// Indexes of the nodes that were started and not stopped.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_started()).collect()
    }

    /// Waits until all running nodes say the same: one of them is the leader, the others follow. Returns the leader.
    pub fn wait_leader(&self) -> usize {
        eventually("the running nodes agree on a leader", DEADLINE, || self.leader())
    }

    /// The leader, if all running nodes say the same: it is one of them, and the others follow.
    ///
    /// # Errors
    /// What somebody says instead.
    pub fn leader(&self) -> Result<usize, String> {
        let running = self.running();
        let mut agreed = None;
        for &index in &running {
            let nodes = self.nodes[index].nodes().map_err(|error| format!("{}: {error}", self.nodes[index].name))?;
            let leaders = nodes.with_status("leader");
            let leader = running.iter().copied().find(|other| leaders.contains(self.nodes[*other].name.as_str()));
            let followers = nodes.with_status("follower");
            let follows = |other: &usize| followers.contains(self.nodes[*other].name.as_str());
            let is_right = leaders.len() == 1
                && running.iter().filter(|other| Some(**other) != leader).all(follows)
                && nodes.nodes.len() == self.nodes.len()
                && *agreed.get_or_insert((leader, nodes.leader.clone())) == (leader, nodes.leader.clone());
            if leader.is_none() || !is_right {
                return Err(format!("{} says {nodes:?}; agreed until then: {agreed:?}", self.nodes[index].name));
            }
        }
        agreed.and_then(|(leader, _)| leader).ok_or_else(|| "no node is running".to_owned())
    }

    /// Writes through a node until it succeeds. The value may be written more than once.
    pub fn put(&self, through: usize, key: &str, value: &str) -> kv::Put {
        let mut client = self.nodes[through].client();
        let what = format!("a write through {}", self.nodes[through].name);
        eventually(&what, DEADLINE, || client.put(key, value).done())
    }

    /// Reads everything through a node, until it succeeds.
    pub fn list(&self, through: usize) -> kv::Read<Vec<kv::Item>> {
        let mut client = self.nodes[through].client();
        let what = format!("a list through {}", self.nodes[through].name);
        eventually(&what, DEADLINE, || client.list("", false).done())
    }
}

//! What an operator asks of a running cluster by the command line, and what nodes then say of their members.

use std::process::Command;

use crate::{DEADLINE, Node, Nodes, eventually, output, quorate};

/// `quorate` with these words, about the cluster of a node: exit code, stdout, stderr.
pub fn ask(node: &Node, words: &str) -> (i32, String, String) {
    let mut command = quorate();
    command.args(words.split_whitespace()).args(["--api", &format!("127.0.0.1:{}", node.api_port)]);
    let output = output(command);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

/// As [`ask`], until it succeeds: another change may still be under way. Returns what it printed.
pub fn done(node: &Node, words: &str) -> String {
    eventually(words, DEADLINE, || match ask(node, words) {
        (0, stdout, stderr) => {
            assert_eq!(stderr, "");
            Ok(stdout)
        }
        (code, _, stderr) => {
            assert!(code == 1 && stderr.starts_with("quorate: ") && stderr.lines().count() == 1, "{code} {stderr}");
            Err(stderr)
        }
    })
}

/// Starts a node that is on no list, with these flags beside those of every node.
pub fn start_alone(node: &mut Node, flags: &[&str]) {
    let mut command: Command = quorate();
    command.args(["--name", &node.name, "--api-addr", &format!("127.0.0.1:{}", node.api_port)]);
    command.args(["--peer-url", &format!("127.0.0.1:{}", node.peer_port), "--data-dir"]).arg(&node.data_dir);
    node.start({
        command.args(flags);
        command
    });
}

/// Waits until a node says that these are the voters, and no others are members.
pub fn voters(node: &Node, names: &[&str]) -> Nodes {
    eventually(&format!("{} says that {names:?} vote", node.name), DEADLINE, || {
        let nodes = node.nodes()?;
        let mut seen: Vec<_> = nodes.nodes.iter().map(|node| (node.name.as_str(), node.voter)).collect();
        seen.sort_unstable();
        match seen.into_iter().eq(names.iter().map(|name| (*name, true))) {
            true => Ok(nodes),
            false => Err(format!("{nodes:?}")),
        }
    })
}

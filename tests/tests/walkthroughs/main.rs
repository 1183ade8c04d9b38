//! The documents of the systems that Quorate can stand in for, command by command, and the output they promise. Where
//! we differ is in `server/docs/dialects.md`.

mod hraftd;
mod raftbase;
mod raftexample;
mod raftstarter;

use e2e::{DEADLINE, Process, Walkthrough, eventually, http, kv, quorate};

/// Starts a line of the document. A variable has it serve the REST API, too, where the test looks at the members.
fn with_api(w: &Walkthrough, name: &str, line: &str, port: u16) -> Process {
    let mut command = quorate();
    command.env("QUORATE_API_ADDR", format!("127.0.0.1:{port}"));
    w.line(&mut command, line);
    w.run(name, command)
}

/// Waits until these, and no others, vote, and do so by a committed membership: until then, a change needs a majority of
/// those who voted before it, too, and the documents are about to stop one of them.
fn voters(api: u16, names: &[&str]) {
    eventually(&format!("{names:?} are the voters"), DEADLINE, || {
        let answer = http::get(api, "/cluster/nodes")?.json();
        let nodes = answer["nodes"].as_array().into_iter().flatten();
        let mut voters: Vec<_> = nodes.map(|node| (node["name"].as_str(), node["voter"].as_bool())).collect();
        voters.sort_unstable();
        let is_right = voters.into_iter().eq(names.iter().map(|name| (Some(*name), Some(true))));
        if is_right { Ok(()) } else { Err(answer.to_string()) }
    });
    // What is in the log after the change is committed after it.
    kv::Client::new(api, DEADLINE).put("after-the-change", "1").done().expect("nothing is wrong");
}

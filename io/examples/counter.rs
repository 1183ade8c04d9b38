//! A replicated counter on three nodes in one process: tells who leads, loses the leader on purpose, and counts on.
//!
//! `cargo run -p quorate-io --example counter`
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "an application: it prints, and lives on tokio"
)]

use bytes::Bytes;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, StateMachine, StateMut, StateRef};
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Consistency, Node, NodeConfig, Storage};

type Error = Box<dyn std::error::Error>;

/// Every command is a number to add; the answer is the new sum.
struct Counter;

impl StateMachine for Counter {
    fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<i64>().ok();
        // A committed command cannot be refused any more, only answered.
        let Some(step) = number(command) else { return Bytes::from_static(b"not a number") };
        let sum = state.get(b"sum").and_then(|sum| number(&sum)).unwrap_or(0).wrapping_add(step);
        state.put(Bytes::from_static(b"sum"), sum.to_string().into());
        sum.to_string().into()
    }
}

fn main() -> Result<(), Error> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(count())
}

async fn count() -> Result<(), Error> {
    let peers = [("n1", "127.0.0.1:12381"), ("n2", "127.0.0.1:12382"), ("n3", "127.0.0.1:12383")];
    let members = peers.map(|(name, addr)| (name.to_owned(), vec![addr.to_owned()]));
    let mut nodes = Vec::new();
    for (name, addr) in peers {
        // `Storage::Dir` makes it durable.
        let mut config = NodeConfig::new(name, Storage::Memory, addr);
        config.founding = FoundingList { token: "counter".to_owned(), members: members.clone().into() };
        let node = Node::start(TokioPlatform::default(), config, Counter).await?;
        let mut leadership = node.leadership();
        // Ends when the node does.
        tokio::spawn(async move {
            while let Some(now) = leadership.changed().await {
                let leader = now.leader.map_or("nobody".to_owned(), |id| id.to_string());
                println!(
                    "{name}: in term {} {leader} leads{}",
                    now.term,
                    if now.is_local { ": that is me" } else { "" }
                );
            }
        });
        nodes.push(node);
    }
    // Any node takes a write, and waits for a leader if there is none yet.
    for (step, node) in ["1", "20", "300"].into_iter().zip(&nodes) {
        println!("+ {step} = {:?}", node.write(step.into()).await?.response);
    }
    let leads = |node: &Node<TokioPlatform>| node.leadership().current().is_local;
    let leader = nodes.iter().position(leads).ok_or("nobody leads just now")?;
    println!("{} stops", peers[leader].0);
    nodes.remove(leader).stop().await?;
    println!("+ 4000 = {:?}", nodes[0].write("4000".into()).await?.response);
    println!("the other node reads {:?}", nodes[1].read(Consistency::Linearizable).await?.get(b"sum"));
    for node in nodes {
        node.stop().await?;
    }
    Ok(())
}

//! What a request learns at a node that cannot serve it.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, StateMachine, StateMut};
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Consistency, Node, NodeConfig, Reason, Storage, WriteError};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: LogId, _: &Bytes, _: &mut dyn StateMut) -> Bytes {
        Bytes::new()
    }
}

/// Found by seed 8: there will be no news of a leader any more, so waiting for it is over at once, and for ever.
#[test]
fn a_request_at_a_node_whose_consensus_has_ended_fails_at_once() {
    let addrs: Vec<String> = {
        let bound: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        bound.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
    };
    let mut config = NodeConfig::new("n0", Storage::Memory, &addrs[0]);
    let members = addrs.iter().enumerate().map(|(n, addr)| (format!("n{n}"), vec![addr.clone()])).collect();
    config.founding = FoundingList { token: "alone".to_owned(), members };
    config.request_timeout = Duration::from_secs(20);
    // Two threads: the loop that this is about would never let the other one go on.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node: Node<TokioPlatform> = Node::start(TokioPlatform::default(), config, Nothing).await.unwrap();
        let reader = node.clone();
        let reading = tokio::spawn(async move { reader.read(Consistency::Linearizable).await.map(drop) });
        // It waits for a leader that will not come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!reading.is_finished());
        node.raft().shutdown().await.unwrap();
        let told = |reason: &Reason| matches!(reason, Reason::Stopping | Reason::Storage(_));
        let read = reading.await.unwrap().unwrap_err();
        assert!(told(&read.0), "{read}");
        let write = node.write(Bytes::from_static(b"command")).await.unwrap_err();
        assert!(matches!(&write, WriteError::NotApplied(reason) if told(reason)), "{write}");
        let _ = node.stop().await;
    });
}

//! The performing half of Quorate: a clustered service as one value, [`Node`].
//!
//! Bring a deterministic [`StateMachine`](quorate_core::StateMachine); a node replicates it with openraft's Raft, keeps
//! it through crashes, and answers from any member. What every user of openraft otherwise writes alone is here: log
//! store, vote persistence, state machine store, snapshots, peer transport, recovery, founding, forwarding. What can be
//! decided without doing anything is `quorate-core`; this crate does it.
//!
//! ```text
//!      write(command)        read(consistency)      leadership()  cluster()  health()  stopped()  stop()
//!  ────────┬───────────────────────┬──────────────────────────────────┬────────────────────────────────────
//!          ▼                       ▼              Node                │
//!   leader? ── no ──► forwarded to the leader                         │
//!          │ yes                   │ read index, then wait until      │ metrics
//!          ▼                       │ applied here                     │
//!   ┌───────────────────────── openraft ──────────────────────────────┴───────┐
//!   │ append, vote             │ apply, snapshot            append, vote, ...  │
//!   ▼                          ▼                                               ▼
//!  [log_store]             [state_machine], [store]      [raft_network], [transport] ◄──► peers
//!   flush batches           layers over redb or memory    frames, requests, streams
//!   │                          │                                               │
//!  ─┴───── Disk ───────────────┴──────────────── Runtime ────────────────────── Net ───────
//!                      [tokio]: the real three · the simulator brings its own
//! ```
//!
//! Everything above the lowest line is generic over [`Platform`], which names the three seams: tasks, time and
//! randomness ([`Platform::Runtime`], openraft's `AsyncRuntime`), files ([`quorate_core::disk::Disk`]), and byte
//! streams between peers ([`net::Net`]). Production binds them in [`mod@tokio`] and nowhere else; the simulator binds
//! them to its own world and runs the same code.
//!
//! # A node in your process
//!
//! ```
//! use bytes::Bytes;
//! use quorate_core::{LogId, StateMachine, StateMut, StateRef};
//! use quorate_io::tokio::TokioPlatform;
//! use quorate_io::{Consistency, Node, NodeConfig, Storage};
//!
//! /// Every command is a number to add; the answer is the new sum.
//! struct Counter;
//!
//! impl StateMachine for Counter {
//!     fn apply(&self, _at: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
//!         let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<i64>().ok();
//!         let Some(step) = number(command) else { return Bytes::from_static(b"not a number") };
//!         let sum = state.get(b"sum").and_then(|sum| number(&sum)).unwrap_or(0).wrapping_add(step);
//!         state.put(Bytes::from_static(b"sum"), sum.to_string().into());
//!         sum.to_string().into()
//!     }
//! }
//!
//! async fn count() -> Result<(), Box<dyn std::error::Error>> {
//!     // In memory and alone. `Storage::Dir` is durable; `NodeConfig::founding` lists the members of a larger cluster.
//!     let config = NodeConfig::new("n1", Storage::Memory, "127.0.0.1:0");
//!     let node = Node::start(TokioPlatform::default(), config, Counter).await?;
//!     assert_eq!(node.write("40".into()).await?.response, "40");
//!     assert_eq!(node.write("2".into()).await?.response, "42");
//!     let view = node.read(Consistency::Linearizable).await?;
//!     assert_eq!(view.get(b"sum").expect("it was written"), "42");
//!     assert!(node.leadership().current().is_local);
//!     Ok(node.stop().await?)
//! }
//!
//! ::tokio::runtime::Runtime::new()?.block_on(count())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `io/examples/counter.rs` is the same counter on three nodes that lose their leader, and follows who leads.
//!
//! # What to rely on
//!
//! - [`Node::write`] returns `Ok` when the command is in the logs of a majority, synced, and applied on the leader. An
//!   error says which of two things is true: [`WriteError::NotApplied`], try again at will, or [`WriteError::Unknown`],
//!   it may have happened or may happen yet.
//! - [`Node::read`] gives an immutable view. [`Consistency::Linearizable`] sees every write that was acknowledged
//!   before the read began; [`Consistency::Stale`] asks nobody and sees some earlier state.
//! - A node never ends its process. What goes wrong at the start is a [`StartError`], later a [`StopError`] from
//!   [`Node::stopped`]; both suggest an exit code. A failed sync or damaged data ends the node, never a retry.
//! - Dropping a node does not stop it, [`Node::stop`] does; it is bounded in time.
//!
//! # What is absent
//!
//! Outside of [`mod@tokio`]: no tokio, no `std::time`, no file, socket, thread or random number but through a seam, no
//! `select!`, no order that hashing decides, no statics; nowhere `unsafe`. `clippy.toml` and `tests/tests/absences` see
//! to it. Nothing durable or on the wire is a struct of openraft's: [`types`] is where the two meet.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        clippy::disallowed_macros,
        reason = "unit tests may use real files and tokio; clippy also checks the crate without them"
    )
)]

mod error;
mod inspect;
pub mod jobs;
pub mod log_store;
pub mod net;
pub mod node;
mod platform;
mod raft_config;
pub mod raft_network;
pub mod reserve;
#[cfg(test)]
mod small_disk;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod tokio;
pub mod transport;
pub mod types;
pub mod watch;

pub use error::{Consistency, ReadError, Reason, WriteError, Written};
pub use inspect::{Inspection, inspect};
pub use jobs::{Jobs, JobsStopped};
pub use node::{
    ClusterStatus, Health, InitialState, Leadership, LeadershipWatch, MemberError, NewMember, Node, NodeConfig,
    RestoreError, Restored, StartError, StopError, Storage, restore,
};
pub use platform::Platform;
pub use raft_config::{CompactionConfig, raft_config};

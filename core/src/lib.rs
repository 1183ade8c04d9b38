//! The pure half of Quorate: everything about a replicated state machine that can be decided without a clock, a
//! thread, a file, a socket or a random number.
//!
//! Consensus itself is openraft's. What every user of it has to get right around it is here, as functions from values
//! to values: which bytes an entry becomes, in which order they reach the disk, what a directory found after a crash
//! means, what peers say to each other, what a command does to the state. The half that performs these decisions is
//! `quorate-io`; it performs them on tokio, files and TCP in production, and on simulated ones in the simulator.
//!
//! ```text
//!              quorate-io: threads, files, sockets, timers (or simulated ones)
//!  ─────────────────┬──────────────────┬────────────────────┬──────────────────────
//!   bytes, steps    │ frames           │ cards              │ commands
//!                   ▼                  ▼                    ▼
//!   [log]  ── batches,          [wire] ── frames,    [founding] ── who     [StateMachine] ── your
//!   [snapshot] ── chunks,       handshake,           may begin a           `apply`, or [kv]: JSON
//!   [identity]                  messages             cluster, [membership] with revisions
//!                   │                  │                    │
//!                   └──────────────────┴──── [types] ───────┘
//!                            terms, votes, entries, memberships
//! ```
//!
//! # A state machine, without a cluster
//!
//! A machine is one function. Here is the key-value machine of the server, applied to a map:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::ops::Bound;
//!
//! use bytes::Bytes;
//! use quorate_core::kv::{self, Command, Document, Kv, Outcome, Response};
//! use quorate_core::{LogId, StateMachine, StateMut, StateRef};
//!
//! #[derive(Default)]
//! struct State(BTreeMap<Bytes, Bytes>);
//!
//! impl StateRef for State {
//!     fn get(&self, key: &[u8]) -> Option<Bytes> {
//!         self.0.get(key).cloned()
//!     }
//!     fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool) {
//!         let _ = self.0.range::<[u8], _>((from, to)).all(|(key, value)| each(key, value));
//!     }
//! }
//!
//! impl StateMut for State {
//!     fn put(&mut self, key: Bytes, value: Bytes) {
//!         self.0.insert(key, value);
//!     }
//!     fn delete(&mut self, key: &[u8]) {
//!         self.0.remove(key);
//!     }
//! }
//!
//! let document = Document::parse(&Bytes::from_static(b" 9007199254740993 ")).expect("it is JSON");
//! let command = Command::Put { key: Bytes::from_static(b"answer"), document }.encode();
//!
//! let mut state = State::default();
//! let answer = Kv.apply(LogId::new(1, 0), &command, &mut state);
//!
//! let answer = Response::decode(&answer).expect("the machine answers with a response");
//! assert_eq!(answer.outcome, Outcome::Put { create_revision: 1, version: 1 });
//! // Kept to the byte: no float has rounded it.
//! assert_eq!(kv::get(&state, b"answer").expect("it was put").value, "9007199254740993");
//! ```
//!
//! # What is absent
//!
//! No async, no thread, no I/O, no clock, no randomness, no order that hashing decides, no `unsafe`. Time and seeds are
//! arguments. `clippy.toml` and a test see to it. So every decision here can be tested by calling it, fuzzed by feeding
//! it, and repeated from its inputs.
//!
//! # Formats
//!
//! Everything durable and everything on the wire is drawn as byte boxes in the module that owns it ([`log`],
//! [`snapshot`], [`store_file`], [`wire`], [`identity`]), has a version, and is no struct of openraft's. A decoder returns an error, or
//! a value that keeps every promise of its type; whatever the bytes, it does not panic and allocates no more than a
//! small multiple of them.

pub mod admission;
pub mod config;
pub mod disk;
pub mod founding;
pub mod identity;
pub mod kv;
pub mod log;
pub mod membership;
pub mod snapshot;
pub mod store_file;
pub mod wire;

mod classify;
mod machine;
mod proto;
mod types;

// The words of Raft.
pub use types::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

// What a user brings, and what it is given.
pub use machine::{StateMachine, StateMut, StateRef};

// What a node says about every member.
pub use classify::{MemberStatus, NodeStatus, Observation, classify};

// What every decoder of peers' bytes may answer.
pub use proto::DecodeError;

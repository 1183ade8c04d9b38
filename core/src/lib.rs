//! quorate-core
mod classify;
pub mod config;
pub mod disk;
pub mod founding;
pub mod identity;
pub mod kv;
pub mod log;
mod machine;
mod proto;
pub mod snapshot;
mod types;
pub mod wire;

pub use classify::{MemberStatus, NodeStatus, Observation, classify};
pub use machine::{StateMachine, StateMut, StateRef};
pub use proto::DecodeError;
pub use types::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

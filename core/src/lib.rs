//! quorate-core
pub mod disk;
mod machine;
pub mod snapshot;
mod types;

pub use machine::{StateMachine, StateMut, StateRef};
pub use types::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

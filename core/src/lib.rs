//! quorate-core
pub mod disk;
mod machine;
mod proto;
mod types;
pub mod wire;

pub use machine::{StateMachine, StateMut, StateRef};
pub use proto::DecodeError;
pub use types::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

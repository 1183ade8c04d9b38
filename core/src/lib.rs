//! quorate-core
pub mod disk;
pub mod founding;
pub mod identity;
pub mod log;
mod machine;
mod proto;
pub mod snapshot;
mod types;

pub use machine::{StateMachine, StateMut, StateRef};
pub use proto::DecodeError;
pub use types::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote};

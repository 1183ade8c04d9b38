//! quorate-io
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
pub mod jobs;
pub mod log_store;
pub mod net;
pub mod node;
mod platform;
mod raft_config;
pub mod raft_network;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod tokio;
pub mod transport;
pub mod types;

pub use error::{Consistency, ReadError, Reason, WriteError, Written};
pub use jobs::{Jobs, JobsStopped};
pub use node::{
    ClusterStatus, Health, InitialState, Leadership, LeadershipWatch, Node, NodeConfig, StartError, StopError, Storage,
};
pub use platform::Platform;
pub use raft_config::{CompactionConfig, raft_config};

//! quorate-io
pub mod net;
pub mod peer_service;
mod platform;
pub mod raft_network;
pub mod transport;
pub mod types;
pub use platform::Platform;

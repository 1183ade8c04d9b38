//! The three seams in one type parameter.

use std::fmt::Debug;

use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;

use crate::net::Net;

/// What a node runs on: tokio, files and sockets in production, the simulator's world in a simulation. Everything
/// else in this crate is generic over it, and is the same code in both.
pub trait Platform: Clone + Debug + Send + Sync + 'static {
    /// Tasks, time, channels, randomness.
    type Runtime: AsyncRuntime;
    /// Files.
    type Disk: Disk;
    /// Streams between peers.
    type Net: Net;

    /// The disk that holds the data directory.
    fn disk(&self) -> &Self::Disk;

    /// The network that peers are on.
    fn net(&self) -> &Self::Net;
}

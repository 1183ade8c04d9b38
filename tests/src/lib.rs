//! The harness of the end-to-end tests: real `quorate` processes on real sockets and real disks.
//!
//! ```text
//! Cluster ── Node ── Process      started, signalled, waited for, killed when dropped
//!    └─ kv::Client ── http::Client    one request, and what its sender may conclude from how it ended
//! ```
//!
//! Nothing here sleeps to give something time to happen: [`eventually`] polls for it until a deadline. What belongs to
//! a test lives in one directory under the target directory, which is removed if the test succeeds; if it fails, the
//! ends of the processes' logs are printed.

mod admin;
mod binary;
mod cluster;
mod directory;
mod eventually;
pub mod http;
pub mod kv;
mod ports;
mod process;
mod random;
mod small_disk;
mod strace;
mod walkthrough;

pub use admin::{ask, done, start_alone, voters};
pub use binary::quorate;
pub use cluster::{Cluster, Member, Node, Nodes};
pub use directory::Directory;
pub use eventually::{DEADLINE, STEP, eventually, pause};
pub use ports::free_port;
pub use process::{Process, Signal, output};
pub use random::Random;
pub use small_disk::SmallDisk;
pub use strace::can_trace;
pub use walkthrough::Walkthrough;

//! Nodes on real disks and sockets, in this process: one binary, since each compiles the generic node again.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests on real files, real sockets, real time"
)]

mod backup;
mod common;
mod conformance;
mod force;
mod founding;
mod members;
mod rebuild;
mod requests;

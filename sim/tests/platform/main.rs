//! Tests of the simulated platform.
#![cfg(madsim)]
#![allow(clippy::unwrap_used)]

mod clock;
mod determinism;
mod disk;
mod disk_faults;
mod net;
mod runtime;

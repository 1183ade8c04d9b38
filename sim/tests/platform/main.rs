//! Tests of the simulated platform.
#![cfg(madsim)]
#![allow(clippy::unwrap_used)]

mod determinism;
mod disk;
mod net;
mod runtime;

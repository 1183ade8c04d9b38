//! Tests of the simulated platform.
#![cfg(madsim)]

mod determinism;
mod disk;
mod net;
mod runtime;

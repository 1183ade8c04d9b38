//! Tests of the simulated platform.
#![cfg(madsim)]

mod disk;
mod net;
mod runtime;

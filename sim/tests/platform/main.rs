//! Tests of the simulated platform.
#![cfg(madsim)]

mod disk;
mod runtime;

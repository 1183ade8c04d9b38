//! Tests of the simulated platform.
#![cfg(madsim)]

mod runtime;

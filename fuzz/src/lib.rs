//! The bodies of the fuzz targets: a function each, which panics if the code under test breaks a promise.
//!
//! `cargo fuzz run <target>` calls them with what libFuzzer invents. `tests/tests/fuzz_corpus.rs` includes this file
//! and calls them with the committed corpus, so that what a fuzzer once found stays found in an ordinary `cargo test`.

mod codec;
mod input;
mod kv;
mod log;
mod medium;
mod snapshot;
mod store_file;

pub use codec::{frame, message};
pub use kv::kv_command;
pub use log::log_recovery;
pub use snapshot::snapshot;
pub use store_file::store_file;

/// The body of a target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 6] = [
    ("frame", frame),
    ("message", message),
    ("log_recovery", log_recovery),
    ("snapshot", snapshot),
    ("store_file", store_file),
    ("kv_command", kv_command),
];

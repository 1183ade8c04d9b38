//! quorate-io
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        clippy::disallowed_macros,
        reason = "unit tests may use real files and tokio; clippy also checks the crate without them"
    )
)]

pub mod jobs;
pub mod log_store;
pub mod net;
mod platform;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod tokio;
pub mod types;
pub use jobs::{Jobs, JobsStopped};
pub use platform::Platform;

//! quorate-io
mod jobs;
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

//! quorate-io
pub mod jobs;
pub mod net;
mod platform;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod types;
pub use platform::Platform;

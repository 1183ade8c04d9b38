//! quorate-io
pub mod net;
mod platform;
pub mod tokio;
pub mod types;
pub use platform::Platform;

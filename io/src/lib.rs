//! quorate-io
pub mod net;
mod platform;
pub mod types;
pub use platform::Platform;

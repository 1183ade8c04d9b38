//! The Quorate server as a library: the REST API as a router, the command line as a configuration, logs.
//!
//! ```text
//! argv, environment ──Command::parse──▶ ServerConfig ──serve──▶ listeners, node, router, signals
//!
//! request ──▶ app(node, limits): axum::Router ──▶ Node::write / Node::read ──▶ response or problem+json
//! ```
//!
//! [`app`] is what to embed or to test: it needs no socket. [`serve()`] is what the `quorate` binary runs.
//!
//! ```
//! use quorate::ServerConfig;
//!
//! let config = ServerConfig::parse(["quorate", "-name", "n1", "-api-addr", ":8080"])?;
//! assert_eq!(config.api_listen()[0].to_string(), "0.0.0.0:8080");
//! # Ok::<(), quorate::ConfigError>(())
//! ```

mod address;
mod admin;
mod backup;
mod bench;
mod cli;
mod client;
mod clients;
mod cluster;
mod config;
pub mod dialect;
mod health;
mod kv;
mod percent;
pub mod problem;
mod query;
mod router;
mod serve;
pub mod telemetry;

pub use address::{Address, AddressError};
pub use admin::{AdminError, Request};
pub use backup::{BackupError, back_up, restore_from};
pub use bench::{Bench, BenchError};
pub use cli::Command;
pub use config::{ConfigError, LogFormat, LogLevel, ServerConfig};
pub use router::app;
pub use serve::{ServeError, serve};

//! The production binding of the three seams: tokio, files, TCP.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the one place that touches the real world; see clippy.toml"
)]

mod disk;
mod net;
mod runtime;

pub use disk::{RealDisk, RealFile};
pub use net::{TcpListener, TcpNet};
pub use runtime::TokioRuntime;

use crate::platform::Platform;

/// tokio, files, TCP.
#[derive(Clone, Debug, Default)]
pub struct TokioPlatform {
    disk: RealDisk,
    net: TcpNet,
}

impl TokioPlatform {
    /// With [`RealDisk::handing_over`]: for a multi-threaded runtime without a `LocalSet`.
    pub fn handing_over() -> Self {
        Self { disk: RealDisk::handing_over(), ..Self::default() }
    }
}

impl Platform for TokioPlatform {
    type Runtime = TokioRuntime;
    type Disk = RealDisk;
    type Net = TcpNet;

    fn disk(&self) -> &RealDisk {
        &self.disk
    }

    fn net(&self) -> &TcpNet {
        &self.net
    }
}

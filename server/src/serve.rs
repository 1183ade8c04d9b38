//! The process: listeners, a node, and an orderly end.

use std::future::IntoFuture;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use quorate_core::kv::{Kv, Limits};
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Node, Platform, StartError, StopError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::config::ServerConfig;
use crate::dialect::{self, Settings};
use crate::router::app;

/// How long requests that are under way get after a signal.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the server ended otherwise than it was asked to. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An API address is taken, or is not this machine's.
    #[error("cannot listen at {address}: {error}; stop what listens there, or set {setting}")]
    Bind {
        /// The address.
        address: Address,
        /// What the operating system says.
        error: io::Error,
        /// What names the address.
        setting: &'static str,
    },
    /// The operating system refuses something every process may have.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The node did not start.
    #[error("cannot start: {error}{}", advice(error, settings))]
    Start {
        /// Why.
        error: StartError,
        /// What names its addresses and its directory.
        settings: Settings,
    },
    /// The node stopped itself, or could not stop in an orderly way.
    #[error("the node failed: {0}")]
    Node(StopError),
}

/// What to do about it, where the library that says what happened knows no flags.
fn advice(error: &StartError, Settings { peers, data, .. }: &Settings) -> String {
    match error {
        StartError::Listen { .. } => format!("; stop what listens there, or set {peers}"),
        StartError::Locked(_) => format!("; stop that process, or set {data}"),
        StartError::Io { .. } => format!("; see to that file, or set {data} to a directory that this user may write"),
        _ => String::new(),
    }
}

impl ServeError {
    /// The process's exit code: 1, or what the node has to say (2 is a usage error).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind { .. } | Self::Signals(_) => 1,
            Self::Start { error, .. } => error.exit_code(),
            Self::Node(error) => error.exit_code(),
        }
    }
}

/// Serves until SIGINT or SIGTERM, or until the node stops by itself (it failed, or was removed from the cluster).
///
/// Sockets are bound before the node starts, so that a taken port costs nothing but a message. On a signal it stops
/// accepting, finishes the requests under way, for ten seconds at most, and stops the node, which hands leadership over
/// and flushes.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: &ServerConfig) -> Result<(), ServeError> {
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    let (native, settings) = (Settings::of(None), Settings::of(config.front().map(|front| front.dialect)));
    let api = config.api_listen().iter().map(|address| (address, native.clients));
    for (address, setting) in api.chain(config.front().map(|front| (&front.listen, settings.clients))) {
        let (listener, address) =
            bind(address).await.map_err(|error| ServeError::Bind { address: address.clone(), error, setting })?;
        listeners.push(listener);
        bound.push(address);
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut signalled = std::pin::pin!(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    });

    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let (api_bound, front_bound) = bound.split_at(config.api_listen().len());
    let starting = Node::start(TokioPlatform::handing_over(), config.node_config(api_bound), Kv);
    let node = tokio::select! {
        biased;
        node = starting => node.map_err(|error| ServeError::Start { error, settings })?,
        // A cluster whose other nodes are not there yet may keep a start waiting; nothing is served, nothing to stop.
        name = &mut signalled => {
            tracing::info!(signal = name, "stopped before the node had started");
            return Ok(());
        }
    };
    let (stop, stopping) = watch::channel(false);
    let mut servers = JoinSet::new();
    let api = api_bound.iter().map(|address| ("quorate", address, app(node.clone(), Limits::default())));
    let front = config.front().into_iter().zip(front_bound).map(|(front, address)| {
        (front.dialect.name(), address, dialect::app(front.dialect, node.clone(), Limits::default()))
    });
    for ((dialect, address, app), listener) in api.chain(front).zip(listeners) {
        tracing::info!(%address, dialect, "serving the API");
        servers.spawn(serve_listener(listener, app, stopping.clone()));
    }
    if let Some((address, request)) = config.front().and_then(|front| front.join.clone()) {
        let stopped = stopped(stopping);
        servers.spawn(async move {
            tokio::select! {
                biased;
                () = stopped => {}
                () = dialect::ask_to_join(address, request) => {}
            }
        });
    }

    let ended = tokio::select! {
        biased;
        name = &mut signalled => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        error = node.stopped() => Err(error),
    };
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "requests were still under way and are cut off");
        servers.shutdown().await;
    }
    finish(&node, ended).await.map_err(ServeError::Node)
}

/// A node that failed tells more by how it ended than by how it stops afterwards.
async fn finish<P: Platform>(node: &Node<P>, ended: Result<(), StopError>) -> Result<(), StopError> {
    let stopped = node.stop().await;
    ended.and(stopped)?;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: &Address) -> io::Result<(TcpListener, Address)> {
    let listener = TcpListener::bind(address.to_string()).await?;
    let port = listener.local_addr()?;
    // Keep the host as it was written: a name says more to others than what it resolved to here.
    let bound = if address.port() == 0 { Address::from_socket(port) } else { address.clone() };
    Ok((listener, bound))
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender outlives this; were it gone, stopping would be right too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn serve_listener(listener: TcpListener, app: Router, stopping: watch::Receiver<bool>) {
    let no_delay = |stream: &mut tokio::net::TcpStream| {
        // Only costs latency; a connection that is already gone fails here and then again at its first read.
        let _ = stream.set_nodelay(true);
    };
    let server = axum::serve(listener.tap_io(no_delay), app).with_graceful_shutdown(stopped(stopping));
    if let Err(error) = server.into_future().await {
        tracing::error!(%error, "the API listener failed");
    }
}

//! The process: listeners, a node, and an orderly end.

use std::future::IntoFuture;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use quorate_core::kv::{Kv, Limits};
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Node, Platform, StartError, StopError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::address::Address;
use crate::clients::{self, Clients};
use crate::config::ServerConfig;
use crate::dialect::{self, Settings};
use crate::problem::{Kind, Outcome, Problem};
use crate::router::app;

/// How long requests that are under way get after a signal.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a request waits for a node that starts.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

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
/// Sockets are bound before the node starts, so that a taken port costs nothing but a message. While it starts, which takes
/// long if it has to get its state from others, it says that it is alive and not ready. On a signal it stops accepting,
/// finishes the requests under way, for ten seconds at most, and stops the node, which hands leadership over and flushes.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: &ServerConfig) -> Result<(), ServeError> {
    let places = clients::places();
    let (mut listeners, mut twins, mut bound) = (Vec::new(), Vec::new(), Vec::new());
    let (native, settings) = (Settings::of(None), Settings::of(config.front().map(|front| front.dialect)));
    let api = config.api_listen().iter().map(|address| (address, native.clients));
    for (address, setting) in api.chain(config.front().map(|front| (&front.listen, settings.clients))) {
        let (listener, twin, address) =
            bind(address).await.map_err(|error| ServeError::Bind { address: address.clone(), error, setting })?;
        listeners.push(listener);
        twins.push(twin);
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
    let clients_at = |listener| Clients { listener, places: places.clone() };
    let (mut servers, mut doors) = (JoinSet::new(), Vec::new());
    for (twin, is_api) in twins.into_iter().zip((0..).map(|number| number < api_bound.len())) {
        let (door, app) = watch::channel(None);
        doors.push(door);
        servers.spawn(serve_listener(clients_at(twin), starting(app.clone(), is_api), until(app, Option::is_some)));
    }
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
    let api = api_bound.iter().map(|address| ("quorate", address, app(node.clone(), Limits::default())));
    let front = config.front().into_iter().zip(front_bound).map(|(front, address)| {
        (front.dialect.name(), address, dialect::app(front.dialect, node.clone(), Limits::default()))
    });
    for (((dialect, address, app), listener), door) in api.chain(front).zip(listeners).zip(doors) {
        tracing::info!(%address, dialect, "serving the API");
        door.send_replace(Some(app.clone()));
        servers.spawn(serve_listener(clients_at(listener), app, until(stopping.clone(), |stop| *stop)));
    }
    if let Some((address, request)) = config.front().and_then(|front| front.join.clone()) {
        let stopped = until(stopping, |stop| *stop);
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

/// The same socket twice: who accepts while the node starts stops when it has started, and nobody is turned away between.
async fn bind(address: &Address) -> io::Result<(TcpListener, TcpListener, Address)> {
    let listener = TcpListener::bind(address.to_string()).await?;
    let listener = listener.into_std()?;
    let twin = TcpListener::from_std(listener.try_clone()?)?;
    let listener = TcpListener::from_std(listener)?;
    let port = listener.local_addr()?;
    // Keep the host as it was written: a name says more to others than what it resolved to here.
    let bound = if address.port() == 0 { Address::from_socket(port) } else { address.clone() };
    Ok((listener, twin, bound))
}

async fn until<T>(mut value: watch::Receiver<T>, is_so: fn(&T) -> bool) {
    // The sender outlives this; were it gone, stopping would be right too.
    let _ = value.wait_for(is_so).await;
}

/// Answers while the node starts. It lives, and is not ready; whatever else is asked waits for `app`.
fn starting(app: watch::Receiver<Option<Router>>, is_api: bool) -> Router {
    Router::new().fallback(move |request| answer_while_starting(app.clone(), is_api, request))
}

async fn answer_while_starting(mut app: watch::Receiver<Option<Router>>, is_api: bool, request: Request) -> Response {
    let within = match request.uri().path() {
        // Of the API alone: a dialect may have keys of this name.
        "/livez" | "/healthz" if is_api => return "ok".into_response(),
        "/readyz" if is_api => Duration::ZERO,
        _ => STARTS_WITHIN,
    };
    let started = match tokio::time::timeout(within, app.wait_for(Option::is_some)).await {
        Ok(Ok(app)) => app.clone(),
        _ => None,
    };
    let problem = || Problem::new(Kind::NotReady, "the node is starting");
    match started {
        Some(app) => app.oneshot(request).await.into_response(),
        None if request.method() == Method::GET => problem().into_response(),
        None => problem().with_outcome(Outcome::NotApplied).into_response(),
    }
}

async fn serve_listener(listener: Clients, app: Router, stopping: impl Future<Output = ()> + Send + 'static) {
    let server = axum::serve(listener, app).with_graceful_shutdown(stopping);
    if let Err(error) = server.into_future().await {
        tracing::error!(%error, "the API listener failed");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::put;

    use super::*;

    async fn ask(app: &Router, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let response = app.clone().oneshot(request).await.into_response();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a short body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_starts_lives_and_is_not_ready_and_requests_wait_for_it() {
        let (door, app) = watch::channel(None);
        let (api, front) = (starting(app.clone(), true), starting(app, false));
        assert_eq!(ask(&api, Method::GET, "/livez").await, (200, "ok".to_owned()));
        let begun = tokio::time::Instant::now();
        assert_eq!(ask(&api, Method::GET, "/readyz").await.0, 503);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (status, body) = ask(&api, Method::PUT, "/kv/a").await;
        assert!(status == 503 && body.contains("\"not-applied\""), "{body}");
        let (status, body) = ask(&front, Method::GET, "/livez").await;
        assert!(status == 503 && !body.contains("outcome"), "{body}");
        assert_eq!(begun.elapsed(), STARTS_WITHIN * 2);

        let waits = tokio::spawn(async move { ask(&api, Method::PUT, "/kv/a").await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        door.send_replace(Some(Router::new().route("/kv/a", put("done"))));
        assert_eq!(waits.await.expect("it is answered"), (200, "done".to_owned()));
    }
}

//! A client of running nodes.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::address::Address;

/// Longer than a node takes for anything it is asked but a snapshot.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than a node takes until a snapshot begins, for which its state has to be durable.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(90);
const BODY_BYTES_MAX: usize = 16 << 20;

/// What a node answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether what was asked for may have been done all the same.
    pub(crate) fn is_unknown(&self) -> bool {
        serde_json::from_slice::<serde_json::Value>(&self.body).is_ok_and(|problem| problem["outcome"] == "unknown")
    }

    /// What went wrong, for people: the detail of a problem, or the whole body.
    pub(crate) fn complaint(&self) -> String {
        let problem = serde_json::from_slice::<serde_json::Value>(&self.body).unwrap_or_default();
        let text = String::from_utf8_lossy(&self.body);
        problem["detail"].as_str().unwrap_or_else(|| text.trim()).to_owned()
    }
}

/// Why there is no answer. The request may have been carried out all the same, unless there was no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    #[error("no answer from {0}: {1}")]
    Lost(Address, String),
    #[error("no answer from {0} within {seconds} s", seconds = .1.as_secs())]
    Timeout(Address, Duration),
    /// Whoever was to have the answer did not take it.
    #[error("{0}")]
    Taken(io::Error),
}

/// Sends one request with a JSON body, or with none, on a connection of its own.
pub(crate) async fn send(
    to: &Address,
    method: Method,
    target: &str,
    body: Option<Vec<u8>>,
) -> Result<Answer, ClientError> {
    let answered = exchange(to, method, target, body, TIMEOUT, async |response| collect(to, response).await);
    within(to, TIMEOUT, answered).await
}

/// Gets something large, which is handed over as it comes; `Some` is a refusal.
pub(crate) async fn download(
    to: &Address,
    target: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Option<Answer>, ClientError> {
    let taken = async |response: Response<Incoming>| {
        if !response.status().is_success() {
            return within(to, TIMEOUT, collect(to, response)).await.map(Some);
        }
        let mut body = response.into_body();
        while let Some(frame) = within(to, TIMEOUT, async { Ok(body.frame().await) }).await? {
            let frame = frame.map_err(|error| lost(to, &error))?;
            frame.data_ref().map_or(Ok(()), |bytes| take(bytes)).map_err(ClientError::Taken)?;
        }
        Ok(None)
    };
    exchange(to, Method::GET, target, None, SNAPSHOT_TIMEOUT, taken).await
}

fn lost(to: &Address, error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Lost(to.clone(), error.to_string())
}

async fn within<T>(
    to: &Address,
    time: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(ClientError::Timeout(to.clone(), time)))
}

async fn collect(to: &Address, response: Response<Incoming>) -> Result<Answer, ClientError> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| lost(to, &e))?;
    Ok(Answer { status, body: body.to_bytes() })
}

/// Connects; the second half moves the bytes, and has to be polled.
pub(crate) async fn connect(
    to: &Address,
) -> Result<(SendRequest<Body>, http1::Connection<TokioIo<TcpStream>, Body>), ClientError> {
    let opened = async {
        let stream = TcpStream::connect(to.dialled().to_string()).await;
        let stream = stream.map_err(|error| ClientError::Connect(to.clone(), error))?;
        // Requests are small, and nobody has another one to send along.
        stream.set_nodelay(true).map_err(|error| ClientError::Connect(to.clone(), error))?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(to, &e))
    };
    within(to, TIMEOUT, opened).await
}

/// Sends a request, waits for the answer to begin, for so long at most, and lets `take` have the rest.
async fn exchange<T>(
    to: &Address,
    method: Method,
    target: &str,
    body: Option<Vec<u8>>,
    begins_within: Duration,
    take: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let (mut sender, connection) = connect(to).await?;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, to.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.map_or_else(Body::empty, Body::from))
        .map_err(|e| lost(to, &e))?;
    let answered = async {
        let response = async { sender.send_request(request).await.map_err(|e| lost(to, &e)) };
        let response = within(to, begins_within, response).await?;
        take(response).await
    };
    // The connection is what moves the bytes; it is done with, or broken, when the answer is there.
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        _ = connection => answered.await,
    }
}

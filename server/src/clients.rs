//! The connections of clients: how many at once, and how long one may do nothing.
//!
//! A node that has no file left to open cannot write its log, and stops. So clients do not get them all.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::serve::Listener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A connection on which nothing has moved for so long, or at most twice that, is closed: who waits on the other side is
/// gone, or reads a snapshot no more. Longer than a request may take.
const IDLE: Duration = Duration::from_secs(120);
/// So many clients at most, however many files there may be.
const CONNECTIONS_MAX: u64 = 10_000;
/// Open files that are not for clients: segments of the log, stores, peers.
const FILES_KEPT: u64 = 512;

/// Asks for as many open files as [`CONNECTIONS_MAX`] clients need, and makes room for as many clients as it gets.
pub(crate) fn places() -> Arc<Semaphore> {
    let wanted = CONNECTIONS_MAX + FILES_KEPT;
    let limit = getrlimit(Resource::Nofile);
    let attainable = limit.maximum.unwrap_or(wanted).min(wanted);
    if limit.current.is_some_and(|current| current < attainable) {
        // Without it there are fewer places.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(attainable), maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    Arc::new(Semaphore::new(clients_of(files) as usize))
}

/// How many clients there may be, of so many open files.
fn clients_of(files: u64) -> u64 {
    files.saturating_sub(FILES_KEPT).max(files / 4).clamp(1, CONNECTIONS_MAX)
}

/// A listener that accepts as many clients as there are places. Others wait to be accepted.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) listener: TcpListener,
    pub(crate) places: Arc<Semaphore>,
}

impl Listener for Clients {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("nobody closes it");
        let (stream, from) = Listener::accept(&mut self.listener).await;
        // Only costs latency; a connection that is already gone fails here and then again at its first read.
        let _ = stream.set_nodelay(true);
        (Client { stream, _place: place, moved: false, idle: Box::pin(sleep(IDLE)), woken: None }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Listener::local_addr(&self.listener)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    /// Since the timer was set. To set it anew whenever something moves would cost more than the rest of this.
    moved: bool,
    idle: Pin<Box<Sleep>>,
    /// Who is woken when the time is over: to say so again at every read would cost some per cent of all requests.
    woken: Option<Waker>,
}

impl Client {
    /// Notes whether something moved; if nothing does for too long, that is an error.
    fn watched<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.moved = true;
            return polled;
        }
        if self.woken.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) && !self.idle.is_elapsed() {
            return Poll::Pending;
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.idle.as_mut().reset(Instant::now() + IDLE);
        }
        self.woken = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watched(cx, polled)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn clients_leave_files_for_the_node() {
        for (files, clients) in [(256, 64), (600, 150), (1_024, 512), (10_512, 10_000), (1 << 20, 10_000), (1, 1)] {
            assert_eq!(clients_of(files), clients, "{files}");
        }
    }

    async fn listening(places: usize) -> (Clients, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("its address");
        (Clients { listener, places: Arc::new(Semaphore::new(places)) }, at)
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let (mut clients, at) = listening(1).await;
        let _dialled =
            [TcpStream::connect(at).await.expect("a connection"), TcpStream::connect(at).await.expect("another")];
        let (first, _) = clients.accept().await;
        let waits = tokio::time::timeout(Duration::from_millis(50), clients.accept()).await;
        assert!(waits.is_err(), "there is one place");
        drop(first);
        clients.accept().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_is_closed() {
        let (mut clients, at) = listening(1).await;
        let mut dialled = TcpStream::connect(at).await.expect("a connection");
        let (mut client, _) = clients.accept().await;
        let begun = Instant::now();
        dialled.write_all(b"a").await.expect("it is sent");
        client.read_exact(&mut [0]).await.expect("it comes");
        let error = client.read(&mut [0]).await.expect_err("nothing else comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((IDLE..=IDLE * 2 + IDLE / 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        // Who does not read is as gone.
        let error = client.write_all(&[0; 64 << 20]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

//! The network seam: byte streams between peers. Framing, multiplexing, deadlines and reconnects are above it
//! ([`crate::transport`]) and the same over every binding.

use std::fmt::Debug;
use std::future::Future;
use std::io;

use bytes::{Bytes, BytesMut};

/// The receiving half of a stream.
pub trait ReadHalf: Send + 'static {
    /// Waits for bytes and appends at least one of them to `buf`. `Ok(0)` is the end of the stream. Cancel safe:
    /// a dropped future has taken nothing.
    ///
    /// # Errors
    /// The stream is broken; nothing more will come.
    fn read(&mut self, buf: &mut BytesMut) -> impl Future<Output = io::Result<usize>> + Send;
}

/// The sending half of a stream. Dropping it closes the stream.
pub trait WriteHalf: Send + 'static {
    /// Hands all of `data` to the stream, in order. Waits while the peer or the network does not take it. Not cancel
    /// safe: after dropping the future the stream must be given up.
    ///
    /// # Errors
    /// The stream is broken; how much the peer got is unknown.
    fn write(&mut self, data: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + Send;
}

/// Accepts streams from peers.
pub trait Listener: Send + 'static {
    /// The accepted stream's receiving half.
    type Read: ReadHalf;
    /// The accepted stream's sending half.
    type Write: WriteHalf;

    /// Waits for the next stream; the string is the peer's address, for logs only.
    ///
    /// # Errors
    /// A failure of this one attempt; the listener stays usable.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Read, Self::Write, String)>> + Send;

    /// The address that is bound, with the port that was chosen if 0 was asked for.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn local_addr(&self) -> io::Result<String>;
}

/// Makes and accepts streams. An address is `host:port`; a host name is resolved anew at every connect.
pub trait Net: Clone + Debug + Send + Sync + 'static {
    /// A connected stream's receiving half.
    type Read: ReadHalf;
    /// A connected stream's sending half.
    type Write: WriteHalf;
    /// See [`Listener`].
    type Listener: Listener<Read = Self::Read, Write = Self::Write>;

    /// Connects to a peer. May take arbitrarily long: the caller sets the deadline.
    ///
    /// # Errors
    /// The peer cannot be reached.
    fn connect(&self, addr: &str) -> impl Future<Output = io::Result<(Self::Read, Self::Write)>> + Send;

    /// Listens at an address.
    ///
    /// # Errors
    /// The address is taken or is not this machine's.
    fn listen(&self, addr: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;
}

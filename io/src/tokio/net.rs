//! TCP through tokio.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::net::{Listener, Net, ReadHalf, WriteHalf};

/// Pieces are copied together up to this many bytes, so that a burst of small frames is one system call; and a buffer to
/// read into has so many.
const COALESCE_BYTES: usize = 64 << 10;
/// With less room than that a buffer is given up for the next one. Entries that are kept are slices of their buffer: one
/// buffer for each small read would take many times what is in it.
const READ_BYTES_MIN: usize = 4 << 10;

/// TCP.
#[derive(Clone, Debug, Default)]
pub struct TcpNet;

/// A listening TCP socket.
#[derive(Debug)]
pub struct TcpListener(tokio::net::TcpListener);

impl ReadHalf for OwnedReadHalf {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() - buf.len() < READ_BYTES_MIN {
            buf.reserve(COALESCE_BYTES);
        }
        self.read_buf(buf).await
    }
}

impl WriteHalf for OwnedWriteHalf {
    async fn write(&mut self, data: Vec<Bytes>) -> io::Result<()> {
        if let [single] = data.as_slice() {
            return self.write_all(single).await;
        }
        let mut together = BytesMut::new();
        for piece in data {
            if together.len() + piece.len() > COALESCE_BYTES && !together.is_empty() {
                self.write_all(&together).await?;
                together.clear();
            }
            if piece.len() > COALESCE_BYTES {
                self.write_all(&piece).await?;
            } else {
                together.extend_from_slice(&piece);
            }
        }
        self.write_all(&together).await
    }
}

fn split(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}

impl Listener for TcpListener {
    type Read = OwnedReadHalf;
    type Write = OwnedWriteHalf;

    async fn accept(&mut self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf, String)> {
        let (stream, peer) = self.0.accept().await?;
        let (read, write) = split(stream)?;
        Ok((read, write, peer.to_string()))
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

impl Net for TcpNet {
    type Read = OwnedReadHalf;
    type Write = OwnedWriteHalf;
    type Listener = TcpListener;

    async fn connect(&self, addr: &str) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        split(TcpStream::connect(addr).await?)
    }

    async fn listen(&self, addr: &str) -> io::Result<TcpListener> {
        tokio::net::TcpListener::bind(addr).await.map(TcpListener)
    }
}

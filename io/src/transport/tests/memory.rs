//! A network in memory, and a platform over it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use openraft_rt::{AsyncRuntime, Select2};
use openraft_rt_tokio::TokioRuntime;
use quorate_core::disk::{Disk, File, OpenMode, Wake, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf as TokioRead, WriteHalf as TokioWrite};
use tokio::sync::{mpsc, watch};

use crate::Platform;
use crate::net::{Listener, Net, ReadHalf, WriteHalf};

type Stream = (MemoryRead, MemoryWrite);

/// Streams between the nodes of one test.
#[derive(Clone, Debug)]
pub(super) struct MemoryNet {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<Stream>>>>,
    /// Changes when all connections are cut.
    cut: watch::Sender<u64>,
    alive: Alive,
}

/// Counts the halves of streams: each holds the inner one.
#[derive(Clone, Debug, Default)]
struct Alive(Arc<Token>);

#[derive(Debug, Default)]
struct Token(Arc<()>);

#[derive(Debug)]
pub(super) struct MemoryRead {
    read: TokioRead<DuplexStream>,
    cut: watch::Receiver<u64>,
    _alive: Arc<()>,
}

#[derive(Debug)]
pub(super) struct MemoryWrite {
    write: TokioWrite<DuplexStream>,
    _alive: Arc<()>,
}

pub(super) struct MemoryListener(mpsc::UnboundedReceiver<Stream>, String);

impl MemoryNet {
    pub(super) fn new() -> Self {
        Self { listeners: Arc::default(), cut: watch::Sender::new(0), alive: Alive::default() }
    }

    /// Breaks every connection that is open.
    pub(super) fn cut_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// How many halves of streams somebody holds.
    pub(super) fn halves(&self) -> usize {
        Arc::strong_count(&self.alive.0.0) - 1
    }

    fn stream(&self, end: DuplexStream) -> Stream {
        let (read, write) = tokio::io::split(end);
        let alive = &self.alive.0.0;
        let read = MemoryRead { read, cut: self.cut.subscribe(), _alive: alive.clone() };
        (read, MemoryWrite { write, _alive: alive.clone() })
    }
}

impl ReadHalf for MemoryRead {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        match TokioRuntime::select2(Box::pin(self.cut.changed()), Box::pin(self.read.read_buf(buf))).await {
            Select2::First(_) => Err(io::ErrorKind::ConnectionReset.into()),
            Select2::Second(result) => result,
        }
    }
}

impl WriteHalf for MemoryWrite {
    async fn write(&mut self, data: Vec<Bytes>) -> io::Result<()> {
        for part in data {
            self.write.write_all(&part).await?;
        }
        Ok(())
    }
}

impl Drop for MemoryWrite {
    fn drop(&mut self) {
        // tokio's split halves close only together.
        let _ = futures_util::FutureExt::now_or_never(self.write.shutdown());
    }
}

impl Listener for MemoryListener {
    type Read = MemoryRead;
    type Write = MemoryWrite;

    async fn accept(&mut self) -> io::Result<(MemoryRead, MemoryWrite, String)> {
        let (read, write) = self.0.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        Ok((read, write, "memory".to_owned()))
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.1.clone())
    }
}

impl Net for MemoryNet {
    type Read = MemoryRead;
    type Write = MemoryWrite;
    type Listener = MemoryListener;

    async fn connect(&self, addr: &str) -> io::Result<Stream> {
        let (here, there) = tokio::io::duplex(16 * 1024);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = self.listeners.lock().unwrap().get(addr).cloned().ok_or_else(refused)?;
        listener.send(self.stream(there)).map_err(|_| refused())?;
        Ok(self.stream(here))
    }

    async fn listen(&self, addr: &str) -> io::Result<MemoryListener> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap().insert(addr.to_owned(), sender);
        Ok(MemoryListener(receiver, addr.to_owned()))
    }
}

/// tokio, a network in memory, and no disk.
#[derive(Clone, Debug)]
pub(super) struct TestPlatform(pub(super) MemoryNet);

impl Platform for TestPlatform {
    type Runtime = TokioRuntime;
    type Disk = NoDisk;
    type Net = MemoryNet;

    fn disk(&self) -> &NoDisk {
        &NoDisk
    }

    fn net(&self) -> &MemoryNet {
        &self.0
    }
}

/// The transport touches no disk.
#[derive(Clone, Debug)]
pub(super) struct NoDisk;

fn none<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Wake for NoDisk {
    fn wake(&self) {}
}

impl File for NoDisk {
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        none()
    }
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        none()
    }
    fn len(&self) -> io::Result<u64> {
        none()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        none()
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        none()
    }
    fn sync(&self) -> io::Result<()> {
        none()
    }
}

impl Disk for NoDisk {
    type File = NoDisk;
    type Wake = NoDisk;
    type Lock = ();

    fn open(&self, _: &Path, _: OpenMode) -> io::Result<NoDisk> {
        none()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        none()
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        none()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn lock(&self, _: &Path) -> io::Result<()> {
        none()
    }
    fn start<W: Worker>(&self, _: &str, _: W) -> NoDisk {
        NoDisk
    }
}

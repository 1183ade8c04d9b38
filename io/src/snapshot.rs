//! Snapshots on their way: a view that is sent, and a staging that is received.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::disk::{Disk, File, OpenMode};
use quorate_core::snapshot::{CHUNK_HEADER_BYTES, ChunkVerifier, ChunkWriter, SnapshotError, Trailer, chunk_len};

use crate::jobs::Jobs;
use crate::platform::Platform;
use crate::state_machine::StateMachineStore;
use crate::store::{BaseView, StoreError};

/// openraft's snapshot data: a view at the snapshot's entry, to be sent; or what a peer sent, to be installed.
pub struct SnapshotData<P: Platform>(pub(crate) Source<P>);

pub(crate) enum Source<P: Platform> {
    View(BaseView),
    Received(Staged<P>),
}

impl<P: Platform> fmt::Debug for SnapshotData<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::View(_) => "snapshot to send",
            Source::Received(_) => "snapshot received",
        })
    }
}

impl<P: Platform> SnapshotData<P> {
    /// Reads the pairs as chunks, for sending.
    ///
    /// # Errors
    /// `Unsupported`: this is a received snapshot, which is not sent on.
    pub fn chunks(&self) -> io::Result<ChunkReader> {
        match &self.0 {
            Source::View(base) => Ok(ChunkReader::new(base.clone())),
            Source::Received(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "a received snapshot is not sent on"))
            }
        }
    }

    /// Calls `each` for every pair in key order, a chunk at a time in memory. Inside a worker's step if it was staged
    /// on disk.
    pub(crate) fn for_each_pair(
        &self,
        each: &mut dyn FnMut(&Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match &self.0 {
            Source::View(base) => {
                for pair in base.range(Bound::Unbounded, Bound::Unbounded) {
                    let (key, value) = pair?;
                    each(&key, &value)?;
                }
                Ok(())
            }
            Source::Received(staged) => staged.for_each_pair(each),
        }
    }
}

/// Cuts a view into encoded chunks, reading as it goes. Holds the view, so its pairs stay as they were.
#[derive(Debug)]
pub struct ChunkReader {
    base: BaseView,
    writer: ChunkWriter,
    last_key: Option<Bytes>,
}

impl ChunkReader {
    fn new(base: BaseView) -> Self {
        Self { base, writer: ChunkWriter::default(), last_key: None }
    }

    /// The next chunk, encoded; `None` after the last. Reads the disk, synchronously, some 256 KiB at a time.
    ///
    /// # Errors
    /// The store cannot be read; the transfer has to be given up.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let from = self.last_key.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for pair in self.base.range(from, Bound::Unbounded) {
            let (key, value) = pair?;
            self.writer.push(&key, &value).map_err(StoreError::from)?;
            last = Some(key);
            if self.writer.is_full() {
                break;
            }
        }
        if last.is_some() {
            self.last_key = last;
        }
        Ok(self.writer.finish_chunk())
    }

    /// What the chunks so far add up to: send it when [`ChunkReader::next_chunk`] has returned `None`.
    pub fn trailer(&self) -> Trailer {
        self.writer.trailer()
    }
}

/// A file that is removed when nobody needs it any more.
struct StagingFile<D: Disk> {
    file: D::File,
    path: PathBuf,
    jobs: Jobs<D>,
}

impl<D: Disk> Drop for StagingFile<D> {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // Otherwise it is a leftover, which the next open removes.
        self.jobs.post(move |disk| drop(disk.remove(&path)));
    }
}

/// Where received chunks wait.
enum Staging<D: Disk> {
    Memory(Vec<Bytes>),
    /// The file is made by the first chunk.
    Disk {
        jobs: Jobs<D>,
        path: PathBuf,
        file: Option<Arc<StagingFile<D>>>,
    },
}

/// A whole received snapshot.
pub(crate) struct Staged<P: Platform> {
    staging: Staging<P::Disk>,
    trailer: Trailer,
}

impl<P: Platform> Staged<P> {
    fn for_each_pair(&self, each: &mut dyn FnMut(&Bytes, &Bytes) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut verifier = ChunkVerifier::default();
        let mut take = |bytes: &Bytes| -> Result<(), StoreError> {
            verifier.chunk(bytes)?.pairs.iter().try_for_each(|(key, value)| each(key, value))
        };
        match &self.staging {
            Staging::Memory(chunks) => chunks.iter().try_for_each(take)?,
            Staging::Disk { file: None, .. } => {}
            Staging::Disk { file: Some(staged), .. } => {
                let mut offset = 0;
                while offset < self.trailer.bytes {
                    let bytes = read_chunk(&staged.file, offset, self.trailer.bytes)
                        .map_err(|e| StoreError::io(&staged.path, e))??;
                    take(&bytes)?;
                    offset += bytes.len() as u64;
                }
            }
        }
        Ok(verifier.finish(&self.trailer)?)
    }
}

/// Reads the encoded chunk at `offset` of a staging file that ends at `end`.
fn read_chunk<F: File>(file: &F, offset: u64, end: u64) -> io::Result<Result<Bytes, SnapshotError>> {
    let mut header = [0; CHUNK_HEADER_BYTES];
    let got = file.read_at(offset, &mut header)?;
    let len = match chunk_len(&header[..got]) {
        Ok(len) if len as u64 <= end - offset => len,
        Ok(_) => return Ok(Err(SnapshotError::Inconsistent("a chunk reaches past the end"))),
        Err(error) => return Ok(Err(error)),
    };
    let mut bytes = vec![0; len];
    let got = file.read_at(offset, &mut bytes)?;
    bytes.truncate(got);
    Ok(Ok(bytes.into()))
}

/// Takes a snapshot from a peer, chunk by chunk. Dropping it abandons the transfer.
///
/// Chunks are staged on disk if the store is on disk, in memory if it is in memory; nothing of them is durable, and
/// the store is not touched before openraft installs what [`SnapshotReceiver::finish`] returns.
pub struct SnapshotReceiver<P: Platform> {
    staging: Staging<P::Disk>,
    verifier: ChunkVerifier,
    offset: u64,
}

impl<P: Platform> SnapshotReceiver<P> {
    /// Begins a transfer into `store`.
    pub fn new(store: &StateMachineStore<P>) -> Self {
        let staging = match store.staging_place() {
            None => Staging::Memory(vec![]),
            Some((jobs, path)) => Staging::Disk { jobs, path, file: None },
        };
        Self { staging, verifier: ChunkVerifier::default(), offset: 0 }
    }

    /// Checks and stages the next chunk. After an error the transfer has to be given up.
    ///
    /// # Errors
    /// `InvalidData`: the peer sent something that is not the next chunk. Anything else: the staging failed, which
    /// harms nothing but this transfer.
    pub async fn chunk(&mut self, bytes: Bytes) -> io::Result<()> {
        self.verifier.chunk(&bytes).map_err(StoreError::from)?;
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        match &mut self.staging {
            Staging::Memory(chunks) => chunks.push(bytes),
            Staging::Disk { jobs, path, file } => {
                let (path, staged, owner) = (path.clone(), file.clone(), jobs.clone());
                let written = jobs.run(move |disk| {
                    let staged = match staged {
                        Some(staged) => staged,
                        None => {
                            let file = disk.open(&path, OpenMode::Create)?;
                            file.set_len(0)?;
                            Arc::new(StagingFile { file, path, jobs: owner })
                        }
                    };
                    staged.file.write_at(offset, &bytes)?;
                    io::Result::Ok(staged)
                });
                *file = Some(written.await.map_err(StoreError::from)??);
            }
        }
        Ok(())
    }

    /// Checks the whole against the trailer.
    ///
    /// # Errors
    /// `InvalidData`: it is not whole.
    pub async fn finish(self, trailer: Trailer) -> io::Result<SnapshotData<P>> {
        self.verifier.finish(&trailer).map_err(StoreError::from)?;
        Ok(SnapshotData(Source::Received(Staged { staging: self.staging, trailer })))
    }
}

//! Snapshots on their way: a view that is sent, and a store file that is being received.

use std::fmt;
use std::io;
use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;
use quorate_core::snapshot::{ChunkVerifier, ChunkWriter, Manifest, Trailer};

use crate::platform::Platform;
use crate::state_machine::StateMachineStore;
use crate::store::redb::{Building, Built, Home};
use crate::store::{BaseView, Fault, StoreError};

/// openraft's snapshot data: a view at the snapshot's entry, to be sent; or what a peer sent, to be installed.
pub struct SnapshotData(pub(crate) Source);

pub(crate) enum Source {
    View(BaseView, Fault),
    Received(Received),
}

/// A whole snapshot, where the store can put it in its base's place at once.
pub(crate) enum Received {
    /// For a store in memory, with what it covers.
    Memory(OrdMap<Bytes, Bytes>, Manifest),
    /// A store file that does not count yet. Removed when dropped.
    File(Built),
}

impl Received {
    pub(crate) fn manifest(&self) -> &Manifest {
        match self {
            Self::Memory(_, manifest) => manifest,
            Self::File(built) => built.manifest(),
        }
    }
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::View(..) => "snapshot to send",
            Source::Received(_) => "snapshot received",
        })
    }
}

impl SnapshotData {
    /// Reads the pairs as chunks, for sending.
    ///
    /// # Errors
    /// `Unsupported`: this is a received snapshot, which is not sent on.
    pub fn chunks(&self) -> io::Result<ChunkReader> {
        match &self.0 {
            Source::View(base, fault) => Ok(ChunkReader::new(base.clone(), fault.clone())),
            Source::Received(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "a received snapshot is not sent on"))
            }
        }
    }
}

/// Cuts a view into encoded chunks, reading as it goes. Holds the view, so its pairs stay as they were.
#[derive(Debug)]
pub struct ChunkReader {
    base: BaseView,
    /// Of the store that is read: what cannot be read for a peer cannot be read for anybody.
    fault: Fault,
    writer: ChunkWriter,
    last_key: Option<Bytes>,
}

impl ChunkReader {
    pub(crate) fn new(base: BaseView, fault: Fault) -> Self {
        Self { base, fault, writer: ChunkWriter::default(), last_key: None }
    }

    /// The next chunk, encoded; `None` after the last. Reads the disk, synchronously, some 256 KiB at a time.
    ///
    /// # Errors
    /// The store cannot be read, and is of no use any more; the transfer has to be given up.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let from = self.last_key.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for pair in self.base.range(from, Bound::Unbounded) {
            let (key, value) = pair.inspect_err(|error| self.fault.set(error.clone()))?;
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

/// A snapshot in encoded parts: manifest, chunks, trailer. Written one behind the other they are a backup.
#[derive(Debug)]
pub struct SnapshotParts {
    manifest: Option<Manifest>,
    chunks: ChunkReader,
    ended: bool,
}

/// One of them, encoded.
pub(crate) enum EncodedPart {
    Manifest(Bytes),
    Chunk(Bytes),
    Trailer(Bytes),
}

impl SnapshotParts {
    pub(crate) fn new((manifest, chunks): (Manifest, ChunkReader)) -> Self {
        Self { manifest: Some(manifest), chunks, ended: false }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<EncodedPart>> {
        if let Some(manifest) = self.manifest.take() {
            return Ok(Some(EncodedPart::Manifest(manifest.encode())));
        }
        if self.ended {
            return Ok(None);
        }
        let chunk = self.chunks.next_chunk().inspect_err(|_| self.ended = true)?;
        Ok(Some(chunk.map(EncodedPart::Chunk).unwrap_or_else(|| {
            self.ended = true;
            EncodedPart::Trailer(self.chunks.trailer().encode())
        })))
    }

    /// The next bytes; `None` after the last. Reads the disk, synchronously, some 256 KiB at a time.
    ///
    /// # Errors
    /// The store cannot be read, and is of no use any more. What was returned is not whole, and has no trailer.
    pub fn next_bytes(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.next()?.map(|part| match part {
            EncodedPart::Manifest(bytes) | EncodedPart::Chunk(bytes) | EncodedPart::Trailer(bytes) => bytes,
        }))
    }
}

/// Where the pairs of a snapshot that is being received go.
enum Staging<P: Platform> {
    Memory(OrdMap<Bytes, Bytes>),
    Disk {
        home: Home<P::Disk>,
        generation: u64,
        /// Made by the first chunk.
        building: Option<Box<Building>>,
    },
}

/// Takes a snapshot from a peer, chunk by chunk. Dropping it abandons the transfer.
///
/// The chunks go into a store file of their own, or into a map if the store is in memory. The store itself is not
/// touched before openraft installs what [`SnapshotReceiver::finish`] returns, and that needs no more space: a full
/// disk refuses the transfer, and leaves nothing behind.
pub struct SnapshotReceiver<P: Platform> {
    staging: Staging<P>,
    verifier: ChunkVerifier,
    manifest: Manifest,
}

impl<P: Platform> fmt::Debug for SnapshotReceiver<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl<P: Platform> SnapshotReceiver<P> {
    /// Begins a transfer into `store` of a snapshot that covers `manifest`.
    pub fn new(store: &StateMachineStore<P>, manifest: Manifest) -> Self {
        match store.staging_place() {
            None => Self { staging: Staging::Memory(OrdMap::new()), verifier: ChunkVerifier::default(), manifest },
            Some((home, generation)) => Self::into_file(home, generation, manifest),
        }
    }

    /// Begins a transfer into a store file, for whoever has no store.
    pub(crate) fn into_file(home: Home<P::Disk>, generation: u64, manifest: Manifest) -> Self {
        let staging = Staging::Disk { home, generation, building: None };
        Self { staging, verifier: ChunkVerifier::default(), manifest }
    }

    /// Checks and takes the next chunk. After an error the transfer has to be given up.
    ///
    /// # Errors
    /// `InvalidData`: the peer sent something that is not the next chunk. `StorageFull`. Anything else: the disk
    /// failed, which harms nothing but this transfer.
    pub async fn chunk(&mut self, bytes: Bytes) -> io::Result<()> {
        Ok(self.take(bytes).await?)
    }

    pub(crate) async fn take(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let chunk = self.verifier.chunk(&bytes)?;
        match &mut self.staging {
            Staging::Memory(map) => map.extend(chunk.pairs),
            Staging::Disk { home, generation, building } => {
                let (begun, owner, generation) = (building.take(), home.clone(), *generation);
                let added = home.jobs.run(move |disk| {
                    let mut building = match begun {
                        Some(building) => building,
                        None => Box::new(Building::begin(disk, &owner, generation)?),
                    };
                    building.add(&chunk.pairs).inspect_err(|error| owner.note_full(error))?;
                    Ok(building)
                });
                *building = Some(added.await.map_err(StoreError::from).flatten()?);
            }
        }
        Ok(())
    }

    /// Checks the whole against the trailer, and makes the store file durable.
    ///
    /// # Errors
    /// As [`SnapshotReceiver::chunk`].
    pub async fn finish(self, trailer: Trailer) -> io::Result<SnapshotData> {
        Ok(SnapshotData(Source::Received(self.complete(trailer).await?)))
    }

    pub(crate) async fn complete(self, trailer: Trailer) -> Result<Received, StoreError> {
        let Self { staging, verifier, manifest } = self;
        verifier.finish(&trailer)?;
        match staging {
            Staging::Memory(map) => Ok(Received::Memory(map, manifest)),
            Staging::Disk { home, generation, building } => {
                let jobs = home.jobs.clone();
                let built = jobs.run(move |disk| {
                    let building = match building {
                        Some(building) => *building,
                        None => Building::begin(disk, &home, generation)?,
                    };
                    building.finish(&manifest).inspect_err(|error| home.note_full(error))
                });
                Ok(Received::File(built.await.map_err(StoreError::from).flatten()?))
            }
        }
    }
}

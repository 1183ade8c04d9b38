//! The disk seam: what Quorate asks of a file system, and what it may rely on.
//!
//! Everything that writes happens inside a [`Worker`]: a piece of code that does synchronous I/O in steps and is told
//! when a step's I/O *has taken place*. In production a worker is a thread of its own (no executor hop per call) and
//! has taken place is the return of the call. In the simulator a worker is a task: its step runs at once against a
//! journal, then virtual time passes operation by operation, and a kill or a power loss meanwhile cuts the journal
//! between two operations. Both drive the same code.
//!
//! # Duties of a binding
//!
//! 1. A read sees every earlier write through any handle of the same process, synced or not. A read past the end is
//!    short, never padded and never an error.
//! 2. After [`File::sync`] returns `Ok`, the file's content and length at the time of the call survive power loss.
//!    After it returns `Err`, nothing is known about any write since the last good sync, ever: the caller must not
//!    sync again and believe it (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
//! 3. A created, renamed or removed directory entry survives power loss only after [`Disk::sync_dir`] of its
//!    directory returns `Ok` (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).
//! 4. [`Disk::rename`] is atomic: after a crash the target is the old file or the new one.
//! 5. Before a sync, any subset of the written 512-byte sectors may be on the medium, each old, new, or (the one in
//!    flight) torn. A sector that was synced and not written since keeps its content.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is open for reading and writing. Dropping it closes it and syncs nothing.
#[expect(clippy::len_without_is_empty, reason = "a file is no collection, and nobody asks whether one is empty")]
pub trait File: Debug + Send + Sync + 'static {
    /// Reads into `buf` from `offset`; returns how many bytes there were, which is less than asked only at the end of
    /// the file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `data` at `offset`, extending the file with zeros if `offset` is past its end.
    ///
    /// # Errors
    /// Whatever the operating system says; an unknown part may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends the file; new bytes are zero.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for the first `len` bytes, so that writing there cannot fail for want of space. Extends the
    /// file to `len` with zeros.
    ///
    /// # Errors
    /// `StorageFull`, or whatever the operating system says.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Turns the file into one of `len` bytes, all zeros, with space reserved for them. A binding keeps the space that the
    /// file has, if it can: to free it and ask for other is slow on many file systems.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate); what the file holds is then unknown.
    fn clear(&self, len: u64) -> io::Result<()> {
        self.set_len(0)?;
        self.allocate(len)
    }

    /// Makes content and length durable (`fdatasync`).
    ///
    /// # Errors
    /// See duty 2 of the module: the error is final.
    fn sync(&self) -> io::Result<()>;
}

/// How [`Disk::open`] treats a file that is there or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; opened for reading only.
    Read,
    /// It must exist; opened for reading and writing.
    Existing,
    /// It must not exist.
    CreateNew,
    /// It is created if need be.
    Create,
}

/// What [`Worker::work`] did.
#[derive(Debug)]
#[must_use]
pub enum Step<D> {
    /// I/O was done; [`Worker::done`] gets the value once that I/O has taken place.
    Done(D),
    /// There is nothing to do until somebody calls [`Wake::wake`].
    Idle,
    /// The worker is finished: drop it.
    Stop,
}

/// Code that does I/O in steps. See the module.
pub trait Worker: Send + 'static {
    /// What a step hands to its completion.
    type Done: Send + 'static;

    /// Does the I/O of one step, synchronously. Nothing outside the worker may learn of its outcome from here.
    fn work(&mut self) -> Step<Self::Done>;

    /// The I/O of the step has taken place: publish its outcome. Does no I/O.
    fn done(&mut self, done: Self::Done);
}

/// Rouses a worker that said [`Step::Idle`]. A wake that comes while the worker works is not lost.
pub trait Wake: Clone + Debug + Send + Sync + 'static {
    /// Makes the worker call [`Worker::work`] again.
    fn wake(&self);
}

/// A file system.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: File;
    /// See [`Wake`].
    type Wake: Wake;
    /// Holds a directory's lock until dropped.
    type Lock: Debug + Send + Sync + 'static;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` as `mode` demands, or whatever the operating system says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// `NotFound`, or whatever the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and its parents; no error if it is there. Durable on return.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or whatever the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file within its directory, over an existing one if need be.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// See duty 2 of the module: the error is final.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of `dir`, which must exist.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it.
    fn lock(&self, dir: &Path) -> io::Result<Self::Lock>;

    /// Starts a worker. It runs until [`Step::Stop`], or until the process ends.
    fn start<W: Worker>(&self, name: &str, worker: W) -> Self::Wake;
}

/// Reads a whole file.
///
/// # Errors
/// As [`Disk::open`] and [`File::read_at`].
pub fn read_file<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut buf = vec![0; len];
    let got = file.read_at(0, &mut buf)?;
    buf.truncate(got);
    Ok(buf)
}

/// Replaces `path` by a file of this content, atomically and durably: a temporary file beside it is written, synced,
/// renamed over it, and the directory synced.
///
/// # Errors
/// The first that occurs; the old file is then still whole or the new one already is.
pub fn replace_file<D: Disk>(disk: &D, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(0, content)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

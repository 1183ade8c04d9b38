//! Space that is set aside for what must still be written when the disk is full.
//!
//! A file `reserve` in the data directory has space allocated and nothing in it. What cannot do without space, and
//! cannot be refused either (a vote, a blank entry, a purge, the segment they go into), gives pieces of it back to the
//! file system when it hits the end of the disk, and goes on. From then on the disk counts as full, until the reserve
//! is whole again and there is as much space beside it as the log asks for at a time: whoever takes writes asks
//! [`Reserve::is_full`] first.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quorate_core::disk::{Disk, File, OpenMode};

use crate::jobs::lock;

/// In the data directory.
pub(crate) const FILE_NAME: &str = "reserve";
/// It is given back in so many pieces at most: other programs take free space too.
const PIECES: u64 = 16;

/// Whether an operation failed because there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Does what cannot do without space, from the reserve if need be.
pub(crate) fn spend<D: Disk, T>(reserve: Option<&Reserve<D>>, mut op: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match reserve {
        Some(reserve) => reserve.spend(op),
        None => op(),
    }
}

/// As `replace_file` of the disk seam, with space from the reserve. A sync that failed is not tried again, whatever it
/// says.
pub(crate) fn replace_spending<D: Disk>(
    disk: &D,
    reserve: Option<&Reserve<D>>,
    path: &Path,
    content: &[u8],
) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = spend(reserve, || {
        let file = disk.open(&new, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(0, content)?;
        Ok(file)
    })?;
    file.sync()?;
    drop(file);
    spend(reserve, || disk.rename(&new, path))?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

struct Inner<D: Disk> {
    disk: D,
    path: PathBuf,
    bytes: u64,
    /// Must be free beside it, or it would be spent again at once.
    margin: u64,
    file: Mutex<D::File>,
    /// Its length.
    left: AtomicU64,
    full: AtomicBool,
}

/// The reserve of one data directory. Cheap to clone; all clones are one reserve. Everything but
/// [`is_full`](Self::is_full) and [`mark_full`](Self::mark_full) does I/O, and belongs inside a worker's step.
pub struct Reserve<D: Disk> {
    inner: Arc<Inner<D>>,
}

impl<D: Disk> Clone for Reserve<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<D: Disk> fmt::Debug for Reserve<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reserve({}, {} bytes)", self.inner.path.display(), self.inner.bytes)
    }
}

impl<D: Disk> Reserve<D> {
    /// Opens the reserve of `dir` and fills it up to `bytes` if there is space for them and for `margin` more; if there
    /// is not, the disk counts as full from the start.
    ///
    /// # Errors
    /// Any but a lack of space.
    pub fn open(disk: &D, dir: &Path, bytes: u64, margin: u64) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let file = disk.open(&path, OpenMode::Create)?;
        let inner = Inner {
            disk: disk.clone(),
            path,
            bytes,
            margin,
            left: AtomicU64::new(file.len()?),
            file: Mutex::new(file),
            full: AtomicBool::new(false),
        };
        let reserve = Self { inner: Arc::new(inner) };
        reserve.refill()?;
        reserve.inner.disk.sync_dir(dir)?;
        Ok(reserve)
    }

    /// Whether the disk was found full and the reserve has not been whole since.
    pub fn is_full(&self) -> bool {
        self.inner.full.load(Ordering::Acquire)
    }

    /// Whether at least half of it is left.
    pub fn has_half(&self) -> bool {
        self.inner.left.load(Ordering::Acquire) >= self.inner.bytes / 2
    }

    /// Somebody who can wait found the disk full.
    pub fn mark_full(&self) {
        if !self.inner.full.swap(true, Ordering::AcqRel) {
            let needed = self.bytes_needed();
            tracing::warn!(reserve = %self.inner.path.display(), needed, "the disk is full: writes are refused until there is space");
        }
    }

    /// At most so many bytes must be free before the disk counts as full no more.
    pub fn bytes_needed(&self) -> u64 {
        self.inner.bytes.saturating_add(self.inner.margin)
    }

    /// Does what must be done: when there is no space, gives back a piece of the reserve and tries again. `op` may be
    /// called several times.
    ///
    /// # Errors
    /// Those of `op`; a lack of space once the reserve is used up.
    pub fn spend<T>(&self, mut op: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match op() {
                Err(error) if is_full(&error) => {
                    self.mark_full();
                    if !self.give_back()? {
                        let text = format!("{error}; the reserve is used up: free {} bytes", self.bytes_needed());
                        return Err(io::Error::new(error.kind(), text));
                    }
                }
                done => return done,
            }
        }
    }

    /// Shrinks the reserve by a piece; false if nothing is left of it.
    fn give_back(&self) -> io::Result<bool> {
        let file = lock(&self.inner.file);
        let len = file.len()?;
        if len == 0 {
            return Ok(false);
        }
        let left = len.saturating_sub(self.inner.bytes.div_ceil(PIECES));
        file.set_len(left)?;
        file.sync()?;
        self.inner.left.store(left, Ordering::Release);
        // A refill may have ended meanwhile.
        self.inner.full.store(true, Ordering::Release);
        Ok(true)
    }

    /// Fills it up again, if there is space; then the disk is not full any more.
    ///
    /// # Errors
    /// Any but a lack of space.
    pub fn refill(&self) -> io::Result<()> {
        let file = lock(&self.inner.file);
        let before = file.len()?;
        match file.allocate(self.bytes_needed()) {
            Ok(()) => {
                file.set_len(self.inner.bytes)?;
                file.sync()?;
                self.inner.left.store(self.inner.bytes, Ordering::Release);
                if self.inner.full.swap(false, Ordering::AcqRel) {
                    tracing::info!(bytes = self.inner.bytes, "there is space again: the reserve is whole");
                }
                Ok(())
            }
            Err(error) if is_full(&error) => {
                // A file system may have allocated what there was: that is not ours alone to take.
                file.set_len(before)?;
                self.mark_full();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

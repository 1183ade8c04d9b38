//! Files through the operating system; a worker is a thread.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, Thread};

use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// The worker that writes wait for. A commit of the store keeps a core busy for as long as it lasts: the others get the time
/// that requests leave, and a quarter of a core at least.
const URGENT: &str = "log";
/// How nice the others are.
const NICE: i32 = 5;

/// The operating system's files.
#[derive(Clone, Debug, Default)]
pub struct RealDisk {
    hands_over: bool,
}

impl RealDisk {
    /// A task that has to wait for the disk to read lets another thread run the tasks of its own: one cold page must not
    /// keep a node from its heartbeats, nor a disk that hangs from handing leadership over. Only where no task of a
    /// `LocalSet` reads a node's state: `tokio::task::block_in_place`, which does it, panics there.
    pub fn handing_over() -> Self {
        Self { hands_over: true }
    }
}

/// An open file.
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
    hands_over: bool,
}

/// Unparks a worker's thread.
#[derive(Clone, Debug)]
pub struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

impl RealFile {
    /// Reads what the page cache has, or waits for the disk.
    fn read_some(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let is_task =
            || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if !self.hands_over || !is_task() {
            return self.file.read_at(buf, offset);
        }
        match preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            // Not there, or the file system cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => block_in_place(|| self.file.read_at(buf, offset)),
            read => Ok(read?),
        }
    }
}

impl File for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            match self.read_some(offset + got as u64, &mut buf[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(got)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // The file system cannot reserve; real zeros do.
            Err(e) if e == rustix::io::Errno::OPNOTSUPP => {
                let zeros = vec![0; 1 << 20];
                let mut at = self.len()?;
                while at < len {
                    let count = (len - at).min(zeros.len() as u64);
                    self.write_at(at, &zeros[..count as usize])?;
                    at += count;
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn clear(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        if self.len()? > len {
            self.set_len(len)?;
        }
        match fallocate(&self.file, FallocateFlags::ZERO_RANGE, 0, len) {
            Err(e) if e == rustix::io::Errno::OPNOTSUPP => {
                self.set_len(0)?;
                self.allocate(len)
            }
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Wake = Unpark;
    type Lock = fs::File;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<RealFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Existing => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::Create => {
                options.write(true).create(true);
            }
        }
        let file = options.open(path)?;
        Ok(RealFile { file, hands_over: self.hands_over })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        // All the way up: a kill may have come between an earlier creation and its sync.
        for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match self.sync_dir(parent) {
                // Directories that are not ours to open were there before us.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => break,
                other => other?,
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn start<W: Worker>(&self, name: &str, mut worker: W) -> Unpark {
        let urgent = name == URGENT;
        let run = move || {
            if !urgent {
                // On Linux that is of this thread alone. Where it is not allowed, they are as urgent as everything else.
                let _ = rustix::process::setpriority_process(None, NICE);
            }
            loop {
                match worker.work() {
                    Step::Done(done) => worker.done(done),
                    Step::Idle => thread::park(),
                    Step::Stop => return,
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        Unpark(thread.expect("the operating system gives a process its few disk threads").thread().clone())
    }
}

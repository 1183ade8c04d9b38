//! A directory for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::binary::target_dir;

/// A new directory under the target directory. Dropping it removes it, unless the test is failing.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new, empty one.
    pub fn new(test: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{test}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = target_dir().join("tmp").join("e2e").join(name);
        fs::create_dir_all(&path).expect("the target directory is writable");
        Self(path)
    }

    /// Where it is: absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("left for inspection: {}", self.0.display());
        } else {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

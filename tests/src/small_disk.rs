//! A small disk of a test's own: a tmpfs in a mount namespace that the test made, gone with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::geteuid;

/// A mounted tmpfs. Only processes started by [`SmallDisk::command`] see it; dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    /// Keeps the namespace alive; ends when its stdin is closed.
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// A disk of so many MiB at `path`, which is created. `None`, with a line that says why, where this user may not
    /// mount.
    pub fn mount(path: &Path, mib: u64) -> Option<Self> {
        fs::create_dir_all(path).expect("the test's directory is writable");
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args([
            "sh",
            "-c",
            "mount -t tmpfs -o size=\"$2m\" quorate-test \"$1\" && echo mounted && exec cat",
            "sh",
        ]);
        command.arg(path).arg(mib.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = match command.spawn() {
            Ok(holder) => holder,
            Err(error) => {
                println!("SKIPPED: there is no unshare here: {error}");
                return None;
            }
        };
        let mut line = String::new();
        let stdout = holder.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the holder says something or ends");
        if line.trim() == "mounted" {
            return Some(Self { holder, path: path.to_owned() });
        }
        let output = holder.wait_with_output().expect("it is our child");
        println!("SKIPPED: a tmpfs cannot be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim());
        None
    }

    /// A command that runs `program` where the disk is mounted.
    pub fn command(&self, program: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string()]);
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Where this process sees the disk.
    pub fn path(&self) -> PathBuf {
        let inside = self.path.strip_prefix("/").expect("the test's directory is absolute");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// Fills it to the last byte with a file that is of no use to anybody.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.path().join("ballast")).expect("a name fits");
        for piece in [1 << 20, 4096] {
            let zeros = vec![0; piece];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    /// Removes that file.
    pub fn free(&self) {
        fs::remove_file(self.path().join("ballast")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends at the end of its input; if not, with us.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

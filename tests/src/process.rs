//! A process of a test's own.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::eventually::{DEADLINE, eventually, pause};

/// Lines of the log that are printed when a test fails.
const LOG_LINES: usize = 60;

/// A running process; its stdout and stderr are appended to a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = || -> File {
            OpenOptions::new().create(true).append(true).open(log).expect("the test's directory is writable")
        };
        command.stdin(Stdio::null()).stdout(file()).stderr(file());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // Nobody else waits for our child, so its id cannot have been given to another process.
            kill_process(self.pid(), signal).expect("it is our child");
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        eventually(&format!("the end of the process that logs to {}", log.display()), DEADLINE, || {
            self.ended().ok_or_else(|| "it is still running".to_owned())
        })
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it is our child");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is there and is UTF-8")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let skip = log.lines().count().saturating_sub(LOG_LINES);
            let end: Vec<&str> = log.lines().skip(skip).collect();
            eprintln!("--- {} ({skip} lines before)\n{}", self.log.display(), end.join("\n"));
        }
    }
}

/// Runs `command`, which ends soon, and returns what it wrote; kills it and fails the test if it runs on.
pub fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let deadline = std::time::Instant::now() + DEADLINE;
    // What such a command writes fits the pipes' buffers.
    while child.try_wait().expect("it is our child").is_none() {
        if std::time::Instant::now() > deadline {
            child.kill().expect("it is our child");
            let output = child.wait_with_output().expect("it is our child");
            panic!("{command:?} runs on: {}", String::from_utf8_lossy(&output.stderr));
        }
        pause(Duration::from_millis(10));
    }
    child.wait_with_output().expect("it is our child")
}

//! How long a log of many small entries takes to open, and how much memory.
//!
//! `cargo run --release -p quorate-io --example recovery_time [ENTRIES…]` measures on the disk of the current directory.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an application: it prints, and measures time"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use quorate_core::log::format::LogIdentity;
use quorate_core::{Entry, LogId, NodeId, Payload};
use quorate_io::Jobs;
use quorate_io::log_store::{LogConfig, LogDir, LogStore, open};
use quorate_io::reserve::Reserve;
use quorate_io::tokio::{RealDisk, TokioPlatform, TokioRuntime};
use quorate_io::types::{Types, entry_to};

type C = Types<TokioRuntime>;
type Error = Box<dyn std::error::Error>;

const COMMAND_BYTES: usize = 100;
const APPEND: u64 = 1000;

/// Opens the log of a directory in a process of its own, so that its memory is what opening takes.
const OPEN: &str = "--open";

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [OPEN, dir, count] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return runtime.block_on(reopen(Path::new(dir), count.parse()?));
    }
    let given: Vec<u64> = args.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let counts = if given.is_empty() { vec![100_000, 300_000, 1_000_000] } else { given };
    let dir = std::env::current_dir()?.join(format!("recovery-time-{}", std::process::id()));
    for count in counts {
        std::fs::create_dir_all(&dir)?;
        let appended = runtime.block_on(append(&dir, count));
        let again = std::env::current_exe().and_then(|exe| {
            let count = count.to_string();
            std::process::Command::new(exe).args([OPEN.as_ref(), dir.as_os_str(), count.as_ref()]).output()
        });
        std::fs::remove_dir_all(&dir)?;
        let (appended, again) = (appended?, again?);
        let text = String::from_utf8_lossy(if again.status.success() { &again.stdout } else { &again.stderr });
        println!("{count} entries of {COMMAND_BYTES} bytes: appended in {appended:.2?}, {}", text.trim());
    }
    Ok(())
}

async fn log(dir: &Path) -> Result<LogStore<TokioPlatform>, Error> {
    let jobs = Jobs::start(&RealDisk::default(), "log reads");
    let reserve = Reserve::open(&RealDisk::default(), dir, 1 << 20, 1 << 20)?;
    let place = LogDir { disk: &RealDisk::default(), jobs: &jobs, path: dir, reserve: &reserve };
    let (durable, _) = C::watch_channel(None);
    let fresh = LogIdentity { uuid: 1, node_id: NodeId(1) };
    Ok(open(place, LogConfig::default(), fresh, None, durable).await?.store)
}

async fn append(dir: &Path, count: u64) -> Result<Duration, Error> {
    let mut store = log(dir).await?;
    let start = Instant::now();
    for first in (0..count).step_by(APPEND as usize) {
        let entry = |index: u64| {
            let command = Bytes::from(vec![index as u8; COMMAND_BYTES]);
            entry_to(Entry { log_id: LogId::new(1, index), payload: Payload::Command(command) })
        };
        let entries = (first..count.min(first + APPEND)).map(entry).collect::<Result<Vec<_>, _>>()?;
        let (sender, flushed) = C::oneshot();
        store.append(entries, IOFlushed::signal(sender)).await?;
        flushed.await??;
    }
    let appended = start.elapsed();
    store.close().await?;
    Ok(appended)
}

async fn reopen(dir: &Path, count: u64) -> Result<(), Error> {
    let start = Instant::now();
    let mut store = log(dir).await?;
    let opened = start.elapsed();
    let last = store.get_log_state().await?.last_log_id.map(|id| id.index);
    if last != count.checked_sub(1) {
        return Err(format!("{count} entries were appended, the last one found is {last:?}").into());
    }
    println!("opened in {opened:.2?} with {} MiB", resident_kib()? >> 10);
    Ok(store.close().await?)
}

/// The most this process has had in memory.
fn resident_kib() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

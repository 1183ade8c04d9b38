//! The `quorate` server.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use quorate::{BackupError, Command, ConfigError, ServerConfig};
use quorate_io::node::exit_code;
use quorate_io::tokio::RealDisk;

/// A request makes some dozens of short-lived allocations, freed by other threads than made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => serve(&config),
        Ok(Command::Inspect { dir, records }) => inspect(&dir, records),
        Ok(Command::Admin(request)) => task(request.run(), |_| exit_code::FAILED),
        Ok(Command::Backup { file, api, stale }) => task(quorate::back_up(&api, &file, stale), BackupError::exit_code),
        Ok(Command::Bench(bench)) => task(bench.run(), |_| exit_code::FAILED),
        Ok(Command::Restore { file, config }) => task(quorate::restore_from(&file, &config), BackupError::exit_code),
        Err(ConfigError::Information(text)) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 2),
    }
}

fn serve(config: &ServerConfig) -> ExitCode {
    quorate::telemetry::init(config.log_level(), config.log_format());
    // They cost a node tens of megabytes, and no measurement showed a gain. A kernel that cannot do without keeps them.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(workers());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit_code::FAILED),
    };
    match runtime.block_on(quorate::serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// One core is left to the disk threads and to the kernel's part of the network: a task that is handed from one worker to
/// another costs more than it gains when both cores are busy.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() - 1).max(1)
}

fn inspect(dir: &Path, records: bool) -> ExitCode {
    match quorate_io::inspect(&RealDisk::default(), dir, records) {
        Ok(found) => {
            say(&found.text);
            match found.damage {
                None => ExitCode::SUCCESS,
                Some(_) => ExitCode::from(exit_code::DAMAGED),
            }
        }
        Err(error) => fail(&format_args!("{}: {error}", dir.display()), exit_code::FAILED),
    }
}

/// Does something that is over soon, and prints what it says.
fn task<E: Display>(task: impl Future<Output = Result<String, E>>, code: impl Fn(&E) -> u8) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit_code::FAILED),
    };
    match runtime.block_on(task) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, code(&error)),
    }
}

/// Whoever reads may have read enough.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(error: &dyn Display, code: u8) -> ExitCode {
    eprintln!("quorate: {error}");
    ExitCode::from(code)
}

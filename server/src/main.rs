//! The `quorate` server.

use std::path::Path;
use std::process::ExitCode;

use quorate::{Command, ConfigError, ServerConfig};
use quorate_io::node::exit_code;
use quorate_io::tokio::RealDisk;

fn main() -> ExitCode {
    match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => serve(&config),
        Ok(Command::Inspect { dir, records }) => inspect(&dir, records),
        Ok(Command::Admin(request)) => admin(request),
        Err(ConfigError::Information(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 2),
    }
}

fn serve(config: &ServerConfig) -> ExitCode {
    quorate::telemetry::init(config.log_level(), config.log_format());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit_code::FAILED),
    };
    match runtime.block_on(quorate::serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn inspect(dir: &Path, records: bool) -> ExitCode {
    match quorate_io::inspect(&RealDisk, dir, records) {
        Ok(found) => {
            print!("{}", found.text);
            match found.damage {
                None => ExitCode::SUCCESS,
                Some(_) => ExitCode::from(exit_code::DAMAGED),
            }
        }
        Err(error) => fail(&format_args!("{}: {error}", dir.display()), exit_code::FAILED),
    }
}

fn admin(request: quorate::Request) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit_code::FAILED),
    };
    match runtime.block_on(request.run()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, exit_code::FAILED),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("quorate: {error}");
    ExitCode::from(code)
}

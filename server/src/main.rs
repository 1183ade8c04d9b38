//! The `quorate` server.

use std::process::ExitCode;

use quorate::{ConfigError, ServerConfig};

fn main() -> ExitCode {
    let config = match ServerConfig::parse(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Information(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error, 2),
    };
    quorate::telemetry::init(config.log_level(), config.log_format());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(quorate::serve(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("quorate: {error}");
    ExitCode::from(code)
}

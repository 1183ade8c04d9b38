//! Log lines on stderr; stdout is left to the user.
//!
//! openraft's events are in the same stream, under targets that begin with `openraft`. Below `debug` only its
//! errors are shown: it warns several times a second while a peer is away, of which the node says once that it is. At
//! `debug` and `trace` they are all there.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogLevel};

/// Sends every event of the process to stderr. Only the first call of a process has an effect.
pub fn init(level: LogLevel, format: LogFormat) {
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.with_ansi(false).json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    // An embedding program that has set a subscriber of its own keeps it.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets(level))).try_init();
}

fn targets(level: LogLevel) -> Targets {
    let (ours, openraft) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::ERROR),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::ERROR),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::DEBUG),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new().with_default(ours).with_target("openraft", openraft)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn openraft_is_quiet_below_debug() {
        let shows = |level, target, event| targets(level).would_enable(target, &event);
        assert!(shows(LogLevel::Info, "quorate::serve", Level::INFO));
        assert!(!shows(LogLevel::Info, "quorate::serve", Level::DEBUG));
        assert!(!shows(LogLevel::Info, "openraft::core::raft_core", Level::INFO));
        assert!(!shows(LogLevel::Info, "openraft::core::raft_core", Level::WARN));
        assert!(shows(LogLevel::Info, "openraft::core::raft_core", Level::ERROR));
        assert!(!shows(LogLevel::Error, "openraft::core", Level::WARN));
        assert!(shows(LogLevel::Debug, "openraft::core", Level::DEBUG));
        assert!(shows(LogLevel::Trace, "openraft::core", Level::TRACE));
    }
}

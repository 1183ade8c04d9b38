//! Waiting for something to become true.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
pub const STEP: Duration = Duration::from_millis(50);

/// Long enough for anything that should happen soon, on a machine with better things to do.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Looks until `look` finds it, and returns what it found.
///
/// # Panics
/// If it is not there by the deadline, with the reason of the last look.
pub fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() >= deadline => panic!("{what}: not within {deadline:?}: {reason}"),
            Err(_) => pause(STEP),
        }
    }
}

/// Lets time pass, where time is part of what is tested: never to wait for something.
#[allow(clippy::disallowed_methods, reason = "there is no executor in these tests")]
pub fn pause(duration: Duration) {
    thread::sleep(duration);
}

//! strace, where it may be used.

use std::process::{Command, Stdio};

/// Whether this machine lets us trace; says why not.
pub fn can_trace() -> bool {
    let probe = Command::new("strace")
        .args(["-D", "-f", "-qq", "-y", "-e", "trace=none", "true"])
        .stdin(Stdio::null())
        .output();
    match probe {
        Ok(output) if output.status.success() && output.stderr.is_empty() => true,
        Ok(output) => {
            println!("SKIPPED: strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("SKIPPED: there is no strace here: {error}");
            false
        }
    }
}

//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A command that runs `quorate`, with no `QUORATE_…` variable set. `E2E_QUORATE` names another binary than the
/// workspace's.
pub fn quorate() -> Command {
    let mut command = Command::new(path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command
}

/// The binary's path; the first call of a process builds it, which takes no time if nothing changed. Looking for a file
/// is not enough: `cargo test -p e2e` does not build other packages' binaries, so the file may be an old one.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("E2E_QUORATE") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let profile_dir = profile_dir();
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "quorate", "--bin", "quorate", "--profile", profile]);
    cargo.arg("--target-dir").arg(target_dir()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the binary under test cannot be built: {status}");
    profile_dir.join("quorate")
}

/// `…/target/debug`, in whose `deps` this test is.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("this process has a binary");
    let dir = test.ancestors().find(|dir| dir.ends_with("deps")).and_then(Path::parent);
    dir.expect("cargo puts tests into deps").to_owned()
}

pub(crate) fn target_dir() -> PathBuf {
    profile_dir().parent().expect("the profile's directory is in the target directory").to_owned()
}

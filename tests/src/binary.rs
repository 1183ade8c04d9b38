//! The binary under test.

use std::fs;
use std::io;
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

/// The binary's path. The first call of a process has it built if it is missing or older than what it is made of: `cargo
/// test --workspace` has just built it, `cargo test -p e2e` does not build other packages' binaries.
fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("E2E_QUORATE") {
            return path.into();
        }
        let path = profile_dir().join("quorate");
        if !is_fresh(&path).unwrap_or(false) {
            build();
        }
        path
    })
}

/// Whether the binary is newer than its sources, which cargo lists in a file beside it (`binary: source source …`).
fn is_fresh(binary: &Path) -> io::Result<bool> {
    let built = binary.metadata()?.modified()?;
    let list = fs::read_to_string(binary.with_extension("d"))?;
    for source in list.split_whitespace().skip(1) {
        if Path::new(source).metadata()?.modified()? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

fn build() {
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

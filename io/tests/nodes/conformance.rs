//! The production bindings against the suites that the simulated ones pass too, so that these cannot drift from what
//! they stand for.

#[path = "../../../sim/src/conformance/disk.rs"]
mod disk;
#[path = "../../../sim/src/conformance/net.rs"]
mod net;

use openraft_rt::AsyncRuntime;
use quorate_io::tokio::{RealDisk, TcpNet, TokioRuntime};

#[test]
fn real_files_do_their_duties() {
    let dir = std::env::temp_dir().join(format!("quorate-disk-{}", std::process::id()));
    TokioRuntime::run(disk::suite(RealDisk::default(), dir.clone()));
    std::fs::remove_dir_all(dir).expect("it is ours");
}

#[test]
fn tcp_does_its_duties() {
    TokioRuntime::run(net::suite::<_, TokioRuntime>(TcpNet, TcpNet, "127.0.0.1:0"));
}

//! Ports for the processes under test.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use crate::random::Random;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens at and that this process hands out once.
///
/// Not one the system would choose for port 0: a node has to find its port free again when it is restarted, and the
/// system hands those out to outgoing connections meanwhile.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random::new(Random::any_seed());
    for _ in 0..1000 {
        let port = 12_000 + u16::try_from(random.below(20_000)).expect("below 20,000");
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("none of 1000 ports is free");
}

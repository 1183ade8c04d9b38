//! The madsim binding.
mod channels;
mod clock;
mod disk;
mod runtime;
pub use clock::{SimInstant, Sleep, global_now};
pub use channels::*;
pub use disk::{Drive, DiskCounters, DiskProfile, SimDisk, SimFile, SimLock, SimWake};
pub use runtime::{Elapsed, SimRng, SimRuntime, Timeout, run};

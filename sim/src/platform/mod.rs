//! The madsim binding.
mod channels;
mod clock;
mod runtime;
pub use clock::{SimInstant, Sleep, global_now};
pub use channels::*;
pub use runtime::{Elapsed, SimRng, SimRuntime, Timeout, run};

//! The store against a map that is obviously right, and against crashes.

mod crash;
mod model;
mod rig;
mod store;

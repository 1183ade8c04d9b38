//! The store against a map that is obviously right, and against crashes.

mod blocks;
mod crash;
mod full;
mod model;
mod rig;
mod store;

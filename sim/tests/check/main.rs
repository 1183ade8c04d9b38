//! The checkers, checked: by planted histories, by random ones of a simulated store, and by brute force.

mod brute;
mod linearizability;
mod log_order;
mod raft;
mod random;
mod revision_order;
mod store;
mod support;

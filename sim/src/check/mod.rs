//! Checkers of what a cluster did: of the history that its clients saw, and of facts observed inside its nodes.
//!
//! Pure functions over recorded data, with `std` alone: the tests of real processes include these files by path,
//! because linking the simulator would put its stand-ins for the clock and the entropy source under them. Hence only
//! `super::` paths in here.
//!
//! - [`history`]: what the clients did and saw.
//! - [`revision_order`]: the main check of a history. It believes the revisions, replays all writes in their order and
//!   compares every answer; O(n log n).
//! - [`linearizability`]: an independent second check, a search per key that ignores revisions.
//! - [`log_order`]: the check in the order of the log, for any state machine with a sequential model; of the key-value
//!   store, that its responses follow from its log.
//! - [`raft`]: the safety properties of Raft, over facts observed inside the nodes.

pub mod history;
pub mod linearizability;
pub mod log_order;
pub mod raft;
pub mod revision_order;

//! The state machine store: where the pairs of the state live.
//!
//! ```text
//!             apply                     freeze                     commit
//!   entries ────────► active layer ───────────────► frozen layer ──────────► base
//!                     (memory)     (D, X] is fixed  (memory)     durable, at D := X
//!                          └───────────────┬────────────┴──────────────────────┘
//!                                     one View
//! ```
//!
//! What makes a write durable is the log. Applying touches memory only; a snapshot point is when the layers reach the
//! base. The invariants, with D the last entry that the base has in it, X the last applied one:
//!
//! 1. purged ≤ snapshot = D ≤ min(committed, locally durable log): the builder waits for the log before it commits.
//! 2. One active layer, at most one frozen layer, one base. A deleted key is a tombstone in a layer.
//! 3. A freeze takes exactly (D, X]; its commit writes pairs, membership and X in one durable transaction.
//! 4. A [`View`] is immutable and has all three; a new one is published after the commit has taken place.
//! 5. A commit names the generation and the D it started from, and is refused when either is no longer so. Installing
//!    a snapshot makes a new generation: a new file, a pointer switched atomically, the old file fenced off.
//!
//! The base is a redb database in a file of checksummed blocks behind Quorate's own disk seam, or a map in memory; both
//! hold the same pairs.
//!
//! # What holds on a disk
//!
//! *Power loss and kill*, at any instant, with unsynced writes lost, kept, reordered or torn: the store opens at the
//! last commit that was reported, or at the one under way. A snapshot that was being received is gone; one that was
//! being installed is in force wholly or not at all. Opening reads a few pages, however large the store is.
//!
//! *A failed write or sync*: nothing is written to that file any more, by this process; the failure is remembered,
//! and the node stops. Opening writes and syncs again what an earlier process may have left in the page cache only
//! (`CURRENT`, both copies of the header) before it relies on it. The transfer of a snapshot is no commit: when that
//! fails, it is refused, and its file removed.
//!
//! *A full disk* fails nothing. A commit that finds no space stays in memory and is tried again until there is space;
//! D does not move and nothing is purged meanwhile; reads and applies go on. A snapshot is refused while it is received.
//! Switching to it, and marking damage, use the reserve.
//!
//! *Rot, lost and misdirected writes* of any single block are found when the block is read: see `blocks` for how. What
//! is damaged is never served, and never applied to: the read fails, the failure is remembered, and everybody who read
//! anything asks for it ([`View::check`]) before using what was read. One copy of the header is as good as two; a bad
//! one is written again. Damage in blocks that no commit refers to is harmless. What is *not* found: a disk that
//! lies about syncs and then loses several writes at once, to the state of an earlier commit. If the log was purged
//! meanwhile, the store is then behind it, which is found when the log is opened.
//!
//! *A damaged store* is rebuilt under the same identity, since the log and the vote are elsewhere and whole: damage that
//! is found at run time is marked, durably, and the node stops with exit code 6; the next start builds the store
//! anew before consensus starts, from the log if nothing was purged, else from a peer's snapshot
//! (`crate::node::rebuild`). A crash during that leaves it to the start after it.

mod blocks;
mod error;
mod layers;
pub(crate) mod memory;
pub(crate) mod redb;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use layers::View;
pub(crate) use layers::{BaseView, Batch, Fault, Freeze, Layer, Layers, Position};
pub use redb::Home;

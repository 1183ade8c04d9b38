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
//! The base is a `redb` file behind Quorate's own disk seam, or a map in memory; both hold the same pairs.

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

//! The main check of a client history: sort by revision, replay, compare. O(n log n).
//!
//! The store says of every answer at which revision it was given, so nothing has to be searched: the revisions *are*
//! the linearization, and the check is whether they are a right one. They are (Herlihy & Wing 1990, "Linearizability")
//! if and only if the order contains the real-time order and every answer is what a sequential store answers there.
//!
//! # What is demanded
//! - Every write that was acknowledged has a revision of its own ([`UNIQUE_REVISIONS`]) and is still part of the store's
//!   past afterwards ([`DURABILITY`]).
//! - What completed before an operation was invoked has a smaller revision than the write, and none greater than the
//!   linearizable read ([`REAL_TIME`]).
//! - A read shows exactly the state at the revision that it states ([`READ_STATE`]), and a write answers what it did
//!   there ([`REPLAY`]).
//! - Values come from puts ([`NO_PHANTOM`]), never from those that were reported as not applied
//!   ([`NOT_APPLIED_INVISIBLE`]), and every put takes effect at most once, at the revision that was acknowledged
//!   ([`EXACTLY_ONCE`]).
//! - A **stale** read shows exactly the state at the revision that it states, and that revision existed by the time the
//!   read completed. Nothing else: not that it is recent, not that the revisions of a client's stale reads grow, since
//!   the next one may ask another node, or one that replays its log. An operation that is *not* stale and comes later
//!   may not fall behind it: what a node has applied is committed.
//!
//! # What happened to unknown writes
//! With the committed log all is known, and the check is exact. Without it a write of unknown outcome is known to have
//! taken effect if its value was read; else it may have made any of the revisions that nobody knows, the *hidden* ones.
//! The check then never reports what could be right, but may miss what only a search over all possibilities would find.
//!
//! The final state needs no input of its own: read it with a linearizable list of the prefix "" after all else, as an
//! operation of the history.

mod replay;
mod timeline;

use super::history::{Operation, Violation, well_formed};
use timeline::Timeline;

/// One revision, one write.
pub const UNIQUE_REVISIONS: &str = "unique revisions";
/// Acknowledged writes stay.
pub const DURABILITY: &str = "durability of acknowledged writes";
/// The order of revisions contains the order in time.
pub const REAL_TIME: &str = "real-time order";
/// A read shows the state at its revision.
pub const READ_STATE: &str = "reads see their revision";
/// A write answers what it did to the state at its revision.
pub const REPLAY: &str = "writes follow from the state";
/// Every value has a writer.
pub const NO_PHANTOM: &str = "no phantom writes";
/// "Not applied" is a promise.
pub const NOT_APPLIED_INVISIBLE: &str = "not applied is never visible";
/// No write takes effect twice.
pub const EXACTLY_ONCE: &str = "exactly once";
/// The log's revisions are consecutive. Broken by whoever hands the log in, or by the state machine.
pub const LOG_CONSECUTIVE: &str = "consecutive revisions in the log";

/// One write of the committed log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogWrite {
    /// The revision that it made.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The new value; `None` for a delete.
    pub value: Option<String>,
}

/// What is known besides the history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The effective writes of the committed log since `base_revision`, in order: all of them, up to the end.
    pub log: Option<&'a [LogWrite]>,
    /// The store's revision before the history; the store was empty then.
    pub base_revision: u64,
}

/// What a history without a violation consisted of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The last revision that anyone knows of.
    pub last_revision: u64,
    /// Writes that were acknowledged and changed the store.
    pub acknowledged: u64,
    /// Writes of unknown outcome that are known to have taken effect: (revision, operation).
    pub unknown_applied: Vec<(u64, usize)>,
    /// Revisions of which nobody knows what they did: none if the log was given.
    pub hidden: u64,
}

/// Checks a history against the revisions in its answers.
///
/// # Errors
/// The first violation found: of one of the properties above, or
/// [`WELL_FORMED`](super::history::WELL_FORMED) if the history makes no sense.
pub fn check(history: &[Operation], evidence: Evidence<'_>) -> Result<Summary, Violation> {
    well_formed(history)?;
    let mut timeline = Timeline::new(history, evidence)?;
    timeline.place_acknowledged()?;
    timeline.place_observed()?;
    timeline.attribute_deletes()?;
    timeline.check_real_time()?;
    timeline.check_hidden()?;
    replay::replay(&mut timeline)?;
    Ok(timeline.summary())
}

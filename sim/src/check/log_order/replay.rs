//! The log from its beginning through the sequential model: every response follows from what is before it (for the
//! key-value store: the chain of revisions, creations and versions), and every read shows the state at its place.

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{Call, Learnt, Log, Model, Request};

/// What the replicas answered is what the model answers.
pub const FOLLOWS: &str = "responses follow from the log before them";
/// What a read showed is what the model shows there.
pub const READS_FOLLOW: &str = "reads see the state at their place in the log";

/// Executes the log on the model and compares every response, and the answer of every read among `calls`.
///
/// # Errors
/// The first difference, of [`FOLLOWS`] or [`READS_FOLLOW`].
pub fn replay<M: Model>(model: &M, log: &Log<M>, calls: &[Call<M>]) -> Result<(), Violation> {
    let mut reads: Vec<(Option<u64>, usize)> = (calls.iter().enumerate())
        .filter_map(|(call, operation)| match operation.outcome {
            Learnt::Read { applied, .. } => Some((applied, call)),
            _ => None,
        })
        .collect();
    reads.sort_unstable();
    let mut reads = reads.into_iter().peekable();
    let writers = || {
        let serial = |(call, operation): (usize, &Call<M>)| match operation.op {
            Request::Write { serial, .. } => Some((serial, call)),
            Request::Read { .. } => None,
        };
        calls.iter().enumerate().filter_map(serial).collect::<BTreeMap<u64, usize>>()
    };
    let mut state = model.initial();
    for entry in log {
        while let Some((applied, call)) = reads.next_if(|(applied, _)| *applied < Some(entry.index)) {
            compare(model, &state, applied, call, &calls[call])?;
        }
        let expected = model.write(&mut state, &entry.command);
        if expected != entry.response {
            let explanation = format!(
                "{:?} at {}.{} was answered {:?}, and the model says {expected:?}",
                entry.command, entry.term, entry.index, entry.response
            );
            return Err(Violation::new(FOLLOWS, explanation, writers().get(&entry.serial).copied()));
        }
    }
    reads.try_for_each(|(applied, call)| compare(model, &state, applied, call, &calls[call]))
}

fn compare<M: Model>(
    model: &M,
    state: &M::State,
    applied: Option<u64>,
    call: usize,
    operation: &Call<M>,
) -> Result<(), Violation> {
    let (Request::Read { query, .. }, Learnt::Read { answer, .. }) = (&operation.op, &operation.outcome) else {
        return Ok(());
    };
    let expected = model.read(state, query);
    if expected == *answer {
        return Ok(());
    }
    let explanation = format!("{query:?} after index {applied:?} was answered {answer:?}, the model says {expected:?}");
    Err(Violation::new(READS_FOLLOW, explanation, [call]))
}

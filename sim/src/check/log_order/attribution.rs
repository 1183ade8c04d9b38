//! Whose command is it: phantoms, promises broken, and commands that took effect twice (exactly once: Raft §8).

use std::collections::BTreeMap;

use super::super::history::Violation;
use super::{Call, EXACTLY_ONCE, Learnt, Log, Model, NO_PHANTOM, NOT_APPLIED_INVISIBLE, Request};

/// Finds the call of every command: the index of each call's command in the log, if it is there.
pub(super) fn attribute<M: Model>(log: &Log<M>, calls: &[Call<M>]) -> Result<Vec<Option<u64>>, Violation> {
    let writes = calls.iter().enumerate().filter_map(|(call, operation)| match &operation.op {
        Request::Write { serial, .. } => Some((*serial, call)),
        Request::Read { .. } => None,
    });
    let writers: BTreeMap<u64, usize> = writes.collect();
    let mut placed = vec![None; calls.len()];
    for entry in log {
        let place = format!("{}.{}", entry.term, entry.index);
        let Some(&call) = writers.get(&entry.serial) else {
            let explanation = format!("{:?} was applied at {place}, but no client issued it", entry.command);
            return Err(Violation::new(NO_PHANTOM, explanation, []));
        };
        let conflict = |property, text: String| Err(Violation::new(property, text, [call]));
        match &calls[call].op {
            Request::Write { command, .. } if *command == entry.command => {}
            _ => return conflict(NO_PHANTOM, format!("{:?} was applied at {place} in its name", entry.command)),
        }
        if matches!(calls[call].outcome, Learnt::NotApplied) {
            return conflict(NOT_APPLIED_INVISIBLE, format!("it was applied at {place}"));
        }
        if let Some(before) = placed[call].replace(entry.index) {
            return conflict(EXACTLY_ONCE, format!("it was applied at index {before}, and again at {place}"));
        }
    }
    Ok(placed)
}

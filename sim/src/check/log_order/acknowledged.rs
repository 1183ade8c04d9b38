//! What was acknowledged is in the log, at the place that was named, with the answer that was given.

use super::super::history::Violation;
use super::{Call, DURABILITY, Learnt, Log, Model, Request};

pub(super) fn check<M: Model>(log: &Log<M>, calls: &[Call<M>]) -> Result<(), Violation> {
    for (call, operation) in calls.iter().enumerate() {
        let (Request::Write { serial, .. }, Learnt::Written { index, term, response }) =
            (&operation.op, &operation.outcome)
        else {
            continue;
        };
        let lost = |why: String| Err(Violation::new(DURABILITY, why, [call]));
        let at = log.partition_point(|entry| entry.index < *index);
        let Some(entry) = log.get(at).filter(|entry| entry.index == *index) else {
            return lost(format!("acknowledged at {term}.{index}, where the log has no command"));
        };
        if entry.serial != *serial || entry.term != *term {
            return lost(format!(
                "acknowledged at {term}.{index}, where the log has {:?} of term {}",
                entry.command, entry.term
            ));
        }
        if entry.response != *response {
            return lost(format!("answered {response:?}, and the replicas {:?} at {term}.{index}", entry.response));
        }
    }
    Ok(())
}

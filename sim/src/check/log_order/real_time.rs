//! The order of the log contains the order in time (Herlihy & Wing 1990).

use super::super::history::Violation;
use super::{Call, Learnt, Model, REAL_TIME};

/// A client sees what it wrote: the real-time order of one client's calls (Terry et al. 1994, "Session guarantees").
pub const READ_YOUR_WRITES: &str = "read your writes";

/// Sweeps over time: a call may not be behind what had completed when it was invoked. `placed` is where each call's
/// command is in the log.
///
/// Completions count even of stale reads: what one shows is committed.
pub(super) fn check<M: Model>(calls: &[Call<M>], placed: &[Option<u64>]) -> Result<(), Violation> {
    let mut events = Vec::with_capacity(2 * calls.len());
    for (call, operation) in calls.iter().enumerate() {
        let place = match &operation.outcome {
            Learnt::Read { applied, .. } => *applied,
            _ => match placed[call] {
                None => continue,
                place => place,
            },
        };
        // In the same nanosecond invocations come first: what touches is concurrent.
        events.push((operation.invoke_ns, false, call, place));
        if let Some(complete_ns) = operation.settled_ns() {
            events.push((complete_ns, true, call, place));
        }
    }
    events.sort_unstable();
    let mut floor: Option<(Option<u64>, usize)> = None;
    for (_, completes, call, place) in events {
        if completes {
            if floor.is_none_or(|(floor, _)| place > floor) {
                floor = Some((place, call));
            }
            continue;
        }
        let Some((floor, before)) = floor.filter(|_| !calls[call].is_stale()) else { continue };
        let writes = placed[call].is_some();
        if place < floor || (writes && place == floor) {
            let same = calls[before].client == calls[call].client;
            let explanation = format!("#{call} is at index {place:?}, but #{before} came before it with {floor:?}");
            let property = if same { READ_YOUR_WRITES } else { REAL_TIME };
            return Err(Violation::new(property, explanation, [before, call]));
        }
    }
    Ok(())
}

//! Whether a small history can be explained, by trying every order. Obviously correct, and slow.

use sim::check::history::{Operation, Outcome};
use sim::check::revision_order::LogWrite;

use super::store::Store;

/// What an explanation must agree with besides values and the order in time.
#[derive(Clone, Copy)]
pub enum Demand<'a> {
    /// Nothing; stale reads are not looked at.
    Values,
    /// The revisions and versions in all answers.
    Revisions,
    /// Those, and the log.
    Log(&'a [LogWrite]),
}

pub fn explains(history: &[Operation], demand: Demand<'_>) -> bool {
    let candidates = |operation: &&Operation| {
        let write_or_answer = operation.op.is_write() || operation.outcome.revision().is_some();
        operation.outcome != Outcome::NotApplied && write_or_answer && !operation.op.is_stale_read()
    };
    let stale_reads = history.iter().filter(|read| read.op.is_stale_read() && read.outcome.revision().is_some());
    let stale_reads = if matches!(demand, Demand::Values) { Vec::new() } else { stale_reads.collect() };
    let mut attempt = Attempt { demand, stale_reads, order: Vec::new(), states: vec![Store::default()] };
    attempt.extend(&history.iter().filter(candidates).collect::<Vec<_>>())
}

struct Attempt<'a> {
    demand: Demand<'a>,
    stale_reads: Vec<&'a Operation>,
    /// The operations ordered so far, and the state after each; the state before all is the first.
    order: Vec<&'a Operation>,
    states: Vec<Store>,
}

impl<'a> Attempt<'a> {
    fn extend(&mut self, left: &[&'a Operation]) -> bool {
        if left.iter().all(|operation| operation.effect_before_ns().is_none()) && self.is_complete() {
            return true;
        }
        for (at, &next) in left.iter().enumerate() {
            if left.iter().any(|other| other.effect_before_ns().is_some_and(|end| end < next.invoke_ns)) {
                continue;
            }
            let mut state = self.states[self.states.len() - 1].clone();
            let answer = state.apply(&next.op);
            if next.outcome != Outcome::Unknown && !self.agrees(&answer, &next.outcome) {
                continue;
            }
            self.order.push(next);
            self.states.push(state);
            let mut rest = left.to_vec();
            rest.remove(at);
            if self.extend(&rest) {
                return true;
            }
            self.order.pop();
            self.states.pop();
        }
        false
    }

    fn agrees(&self, right: &Outcome, said: &Outcome) -> bool {
        if !matches!(self.demand, Demand::Values) {
            return right == said;
        }
        let values = |outcome: &Outcome| -> Vec<(String, String)> {
            outcome.items().iter().map(|item| (item.key.clone(), item.value.clone())).collect()
        };
        match (right, said) {
            (Outcome::Delete { deleted: right, .. }, Outcome::Delete { deleted: said, .. }) => right == said,
            _ => values(right) == values(said),
        }
    }

    fn is_complete(&self) -> bool {
        if let Demand::Log(log) = self.demand
            && self.states[self.states.len() - 1].log != log
        {
            return false;
        }
        self.stale_reads.iter().all(|read| {
            // The state was there, and not only after something that came after the read.
            let revision = read.outcome.revision();
            let Some(at) = self.states.iter().position(|state| Some(state.revision) == revision) else { return false };
            let later = self.order.iter().position(|other| read.complete_ns.is_some_and(|end| end < other.invoke_ns));
            self.states[at].clone().apply(&read.op) == read.outcome && later.is_none_or(|later| later >= at)
        })
    }
}

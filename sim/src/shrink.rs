//! Makes a plan that violates a property as small as it gets while it goes on violating the same one.
//!
//! Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 2002) over the
//! faults and bursts: halves, then quarters, down to single ones. Around it the other parts of a plan in turn: clients,
//! operations, nodes, durations, settings. A round tries all of them; rounds go on until one changes nothing.
//!
//! What a run does is chaotic: without a fault that has nothing to do with it, everything after it happens at another
//! time, and a bug that needs its moment hides. So when nothing goes any more, everything is tried once more with other
//! seeds for what is random while the plan runs.

use std::collections::VecDeque;

use crate::check::history::Violation;
use crate::plan::{Core, Plan, Setup, Workload};
use crate::run::{LIVENESS, NO_PANIC};
use crate::witness::NO_SPONTANEOUS_STOP;

/// How many other seeds are tried for each plan when nothing else goes.
const OTHER_SEEDS: u64 = 3;

/// A fault that lasts no longer is short enough, in milliseconds.
const SHORT_MS: u64 = 10;

/// A cluster has been founded and has elected by then, in milliseconds; what happens later may as well happen then.
const SETTLED_MS: u64 = 1_500;

/// One kind of simplification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Takes away so many neighbouring faults.
    Faults {
        chunk: usize,
    },
    /// Takes away so many neighbouring bursts.
    Bursts {
        chunk: usize,
    },
    Core,
    Clients,
    Operations,
    Nodes,
    /// Moves everything to the front, together.
    Sooner,
    Healing,
    Durations,
    Setup,
    Workload,
}

/// The halves of a number, down to 1.
fn halves(number: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(number), |half| Some(half / 2)).take_while(|half| *half > 0)
}

/// Every list without one stretch of `chunk` neighbours.
fn without<T: Clone>(list: &[T], chunk: usize) -> impl Iterator<Item = Vec<T>> {
    (0..list.len()).step_by(chunk).map(move |at| {
        let end = (at + chunk).min(list.len());
        [&list[..at], &list[end..]].concat()
    })
}

/// Smaller numbers: the least, the middle, the one before.
fn smaller(number: u64, least: u64) -> Vec<u64> {
    let mut numbers = vec![least, least.midpoint(number), number.saturating_sub(1)];
    numbers.retain(|smaller| (least..number).contains(smaller));
    numbers.dedup();
    numbers
}

impl Pass {
    /// All passes, as far as there is something to take away.
    fn round(plan: &Plan) -> VecDeque<Self> {
        let faults = halves(plan.faults.len()).map(|chunk| Self::Faults { chunk });
        let bursts = halves(plan.workload.bursts_ms.len()).map(|chunk| Self::Bursts { chunk });
        let others =
            [Self::Core, Self::Clients, Self::Operations, Self::Nodes, Self::Sooner, Self::Healing, Self::Durations];
        faults.chain(bursts).chain(others).chain([Self::Setup, Self::Workload]).collect()
    }

    /// Simpler plans, the simplest first. Each is strictly simpler than `plan`.
    fn candidates(self, plan: &Plan) -> Vec<Plan> {
        let mut plans = match self {
            Self::Faults { chunk } => {
                without(&plan.faults, chunk).map(|faults| Plan { faults, ..plan.clone() }).collect()
            }
            Self::Bursts { chunk } => {
                let fewer = without(&plan.workload.bursts_ms, chunk);
                fewer.map(|bursts_ms| with_workload(plan, |w| w.bursts_ms = bursts_ms.clone())).collect()
            }
            Self::Core => vec![Plan { core: Core::default(), ..plan.clone() }],
            Self::Clients => {
                let fewer = smaller(plan.workload.clients.into(), 1).into_iter();
                fewer.map(|clients| with_workload(plan, |w| w.clients = clients as u32)).collect()
            }
            Self::Operations => {
                let fewer = smaller(plan.workload.burst_ops.into(), 1).into_iter();
                fewer.map(|ops| with_workload(plan, |w| w.burst_ops = ops as u32)).collect()
            }
            Self::Nodes => {
                let fewer = [1, 3].into_iter().filter(|nodes| *nodes < plan.nodes);
                let no_spares = Plan { spares: 0, ..plan.clone() };
                fewer.map(|nodes| with_nodes(plan, nodes)).chain([no_spares]).collect()
            }
            Self::Sooner => sooner(plan),
            Self::Healing => {
                let ends = plan.faults.iter().map(|fault| fault.at_ms + fault.for_ms).max().unwrap_or(0);
                let sooner = smaller(plan.heal_ms, ends + 1).into_iter().filter(|ms| plan.heal_ms - ms > 100);
                sooner.map(|heal_ms| Plan { heal_ms, ..plan.clone() }).collect()
            }
            Self::Durations => durations(plan),
            Self::Setup => setups(plan),
            Self::Workload => workloads(plan),
        };
        plans.retain(|simpler: &Plan| simpler != plan && simpler.check().is_ok());
        plans
    }
}

/// Each plan under other randomness.
fn elsewhere(plans: Vec<Plan>) -> Vec<Plan> {
    let under = |plan: &Plan, n| Plan { seed: plan.seed.wrapping_add(n), ..plan.clone() };
    plans.iter().flat_map(|plan| (1..=OTHER_SEEDS).map(move |n| under(plan, n))).collect()
}

fn with_workload(plan: &Plan, change: impl FnOnce(&mut Workload)) -> Plan {
    let mut plan = plan.clone();
    change(&mut plan.workload);
    plan
}

fn with_nodes(plan: &Plan, nodes: u32) -> Plan {
    // A spare that a fault names would be another machine.
    let mut plan = Plan { nodes, spares: 0, ..plan.clone() };
    plan.setup.clocks.truncate(nodes as usize);
    plan
}

/// Faults that are there before the first process starts stay.
fn sooner(plan: &Plan) -> Vec<Plan> {
    let faults = plan.faults.iter().map(|fault| fault.at_ms).filter(|at_ms| *at_ms > 0);
    let first = faults.chain(plan.workload.bursts_ms.iter().copied()).fold(plan.heal_ms, u64::min);
    let moved = smaller(first, SETTLED_MS).into_iter().take(2).map(|begins| {
        let (mut plan, by) = (plan.clone(), first - begins);
        plan.faults.iter_mut().filter(|fault| fault.at_ms > 0).for_each(|fault| fault.at_ms -= by);
        plan.workload.bursts_ms.iter_mut().for_each(|at_ms| *at_ms -= by);
        plan.heal_ms -= by;
        plan
    });
    moved.collect()
}

fn durations(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    for (number, fault) in plan.faults.iter().enumerate() {
        for for_ms in [SHORT_MS, fault.for_ms / 2].into_iter().filter(|ms| (SHORT_MS..fault.for_ms).contains(ms)) {
            let mut plan = plan.clone();
            plan.faults[number].for_ms = for_ms;
            plans.push(plan);
        }
    }
    plans
}

/// Everything as usual, or one thing.
fn setups(plan: &Plan) -> Vec<Plan> {
    let usual = Setup::default();
    let changes: [fn(&mut Setup, &Setup); 13] = [
        |setup, usual| *setup = usual.clone(),
        |setup, usual| setup.snapshot_every_entries = usual.snapshot_every_entries,
        |setup, usual| setup.keep_entries = usual.keep_entries,
        |setup, usual| setup.segment_kib = usual.segment_kib,
        |setup, usual| setup.cache_bytes = usual.cache_bytes,
        |setup, usual| setup.store_cache_bytes = usual.store_cache_bytes,
        |setup, usual| setup.latency_us = usual.latency_us,
        |setup, usual| setup.heartbeat_ms = usual.heartbeat_ms,
        |setup, usual| setup.sync_us_max = usual.sync_us_max,
        |setup, usual| setup.us_per_kib = usual.us_per_kib,
        |setup, usual| setup.clocks = usual.clocks.clone(),
        |setup, usual| setup.sync_stall_per_mille = usual.sync_stall_per_mille,
        |setup, usual| setup.repairs = usual.repairs,
    ];
    let changed = changes.into_iter().map(|change| {
        let mut plan = plan.clone();
        change(&mut plan.setup, &usual);
        plan
    });
    changed.collect()
}

/// As little as can be of everything but clients and operations.
fn workloads(plan: &Plan) -> Vec<Plan> {
    let changes: [fn(&mut Workload); 8] = [
        |work| work.keys = 1,
        |work| work.pause_ms_max = 0,
        |work| work.read_per_mille = 0,
        |work| work.stale_per_mille = 0,
        |work| work.delete_per_mille = 0,
        |work| work.padding_bytes = 0,
        |work| work.crash_per_mille = 0,
        |work| work.retry_per_mille = 0,
    ];
    changes.into_iter().map(|change| with_workload(plan, change)).collect()
}

/// A plan on its way to its smallest form. Asks for one decision after the other: is this simpler plan as bad?
#[derive(Clone, Debug)]
pub struct Shrinking {
    /// The smallest plan so far that is bad.
    best: Plan,
    passes: VecDeque<Pass>,
    candidates: Vec<Plan>,
    /// Which of the candidates is next.
    next: usize,
    /// Whether the round has changed anything.
    changed: bool,
    /// Whether it is the round under other randomness.
    elsewhere: bool,
}

impl Shrinking {
    /// Of a plan that is bad.
    pub fn new(plan: Plan) -> Self {
        let passes = Pass::round(&plan);
        let mut new = Self { best: plan, passes, candidates: vec![], next: 0, changed: false, elsewhere: false };
        new.list();
        new.advance();
        new
    }

    /// The smallest plan so far that is bad.
    pub fn best(&self) -> &Plan {
        &self.best
    }

    /// The next plans to be judged, in order; empty when it is over.
    pub fn upcoming(&self) -> &[Plan] {
        &self.candidates[self.next..]
    }

    /// Of the upcoming plans, the first ones are not bad.
    pub fn reject(&mut self, count: usize) {
        self.next += count;
        self.advance();
    }

    /// The first of the upcoming plans is bad.
    pub fn accept(&mut self) {
        let Some(plan) = self.candidates.get(self.next) else { return };
        self.best = plan.clone();
        self.changed = true;
        // What came before was not bad, and what follows has moved up.
        self.list();
        self.advance();
    }

    fn list(&mut self) {
        self.candidates = self.passes.front().map_or(vec![], |pass| pass.candidates(&self.best));
        if self.elsewhere {
            self.candidates = elsewhere(std::mem::take(&mut self.candidates));
        }
    }

    /// Goes on to the pass that has something to ask.
    fn advance(&mut self) {
        while self.next >= self.candidates.len() {
            self.passes.pop_front();
            if self.passes.is_empty() {
                if self.elsewhere && !self.changed {
                    (self.candidates, self.next) = (vec![], 0);
                    return;
                }
                self.elsewhere = !self.changed;
                self.changed = false;
                self.passes = Pass::round(&self.best);
            }
            self.list();
            self.next = 0;
        }
    }
}

/// What became of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk<C> {
    /// The smallest plan that was found.
    pub plan: Plan,
    /// What it violates, and the plan that it was made of did.
    pub class: C,
    /// How many plans were run.
    pub runs: u64,
}

/// What two violations have in common if they are the same: the property; of a panic, of a node that refuses or stops, and of
/// what does not come in time, also what was said, without the numbers in it.
pub fn class(violation: &Violation) -> String {
    if ![NO_PANIC, NO_SPONTANEOUS_STOP, LIVENESS].contains(&violation.property) {
        return violation.property.to_owned();
    }
    let words = violation.explanation.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty() && !word.contains(|c: char| c.is_ascii_digit()));
    format!("{}: {}", violation.property, words.collect::<Vec<_>>().join(" "))
}

/// Shrinks a plan that `judge` finds to violate a property; `None` if it finds nothing. At most `runs` plans are judged,
/// on `jobs` threads; the result is the same for any number of those. `progress` hears of every plan that is smaller.
pub fn shrink<C: PartialEq + Sync>(
    plan: &Plan,
    runs: u64,
    jobs: usize,
    judge: impl Fn(&Plan) -> Option<C> + Sync,
    mut progress: impl FnMut(u64, &Plan),
) -> Option<Shrunk<C>> {
    let class = judge(plan)?;
    let (mut spent, mut shrinking) = (1, Shrinking::new(plan.clone()));
    while spent < runs && !shrinking.upcoming().is_empty() {
        let left = usize::try_from(runs - spent).unwrap_or(usize::MAX);
        let batch = &shrinking.upcoming()[..jobs.max(1).min(left).min(shrinking.upcoming().len())];
        let verdicts: Vec<bool> = std::thread::scope(|scope| {
            let judged: Vec<_> =
                batch.iter().map(|plan| scope.spawn(|| judge(plan).as_ref() == Some(&class))).collect();
            // A judge that panics has found nothing.
            judged.into_iter().map(|verdict| verdict.join().unwrap_or(false)).collect()
        });
        let good = verdicts.iter().take_while(|bad| !**bad).count();
        let found = good < verdicts.len();
        spent += good as u64 + u64::from(found);
        if found {
            shrinking.reject(good);
            shrinking.accept();
            progress(spent, shrinking.best());
        } else {
            shrinking.reject(good);
        }
    }
    Some(Shrunk { plan: shrinking.best, class, runs: spent })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::plan::{FaultKind, Victim};

    const PROPERTY: &str = "a planted property";

    /// Bad if two of its faults are there, and clients that do something.
    fn judge(plan: &Plan) -> Option<&'static str> {
        let has = |wanted: &FaultKind| plan.faults.iter().any(|fault| fault.kind == *wanted);
        let bad = has(&FaultKind::PowerLossAll) && has(&FaultKind::IsolateLeader) && plan.workload.clients >= 2;
        bad.then_some(PROPERTY)
    }

    fn bad_plan() -> Plan {
        let mut plans = (0..10_000).map(Plan::draw);
        plans.find(|plan| plan.nodes == 5 && plan.faults.len() > 20 && judge(plan).is_some()).expect("there is one")
    }

    #[test]
    fn only_what_it_takes_is_left() {
        let plan = bad_plan();
        let Shrunk { plan: least, class, runs } = shrink(&plan, 10_000, 1, judge, |_, _| ()).expect("it is bad");
        assert_eq!((class, judge(&least)), (PROPERTY, Some(PROPERTY)));
        assert_eq!((least.faults.len(), least.workload.clients, least.workload.burst_ops, least.nodes), (2, 2, 1, 1));
        assert_eq!((least.setup, least.workload.bursts_ms.len()), (Setup::default(), 0));
        assert!(least.faults.iter().all(|fault| fault.for_ms <= SHORT_MS), "{:?}", least.faults);
        assert!(runs < 500, "{runs} runs for {} faults", plan.faults.len());
    }

    #[test]
    fn threads_change_nothing_and_the_runs_are_bounded() {
        let plan = bad_plan();
        let judged = AtomicU64::new(0);
        let counting = |plan: &Plan| {
            judged.fetch_add(1, Ordering::Relaxed);
            judge(plan)
        };
        let alone = shrink(&plan, 40, 1, counting, |_, _| ()).expect("it is bad");
        assert_eq!((alone.runs, judged.into_inner()), (40, 40));
        let mut steps = Vec::new();
        let together = shrink(&plan, 40, 3, judge, |runs, plan| steps.push((runs, plan.clone())));
        assert_eq!(together, Some(alone.clone()));
        assert!(steps.is_sorted_by_key(|(runs, _)| *runs));
        assert_eq!(steps.last().map(|(_, plan)| plan), Some(&alone.plan));
    }

    #[test]
    fn panics_and_stops_are_told_apart_by_what_is_said() {
        let class = |property, text: &str| class(&Violation::new(property, text.to_owned(), []));
        let stop = |text| class(NO_SPONTANEOUS_STOP, text);
        assert_eq!(
            stop("n1 stopped by itself: log-0000000000000001.seg: bad"),
            stop("n3 stopped by itself: log-000000000000000a.seg: bad")
        );
        assert_ne!(stop("n1 stopped by itself: it was removed"), stop("n1 refuses to start: damaged"));
        assert_ne!(class(NO_PANIC, "a"), class(NO_PANIC, "b"));
        assert_eq!(class(PROPERTY, "a"), class(PROPERTY, "b"));
    }

    #[test]
    fn another_property_does_not_count_and_a_clean_plan_does_not_shrink() {
        let plan = bad_plan();
        let fickle = |plan: &Plan| match plan.nodes {
            5 => judge(plan),
            _ => judge(plan).map(|_| "another property"),
        };
        assert_eq!(shrink(&plan, 10_000, 1, fickle, |_, _| ()).map(|shrunk| shrunk.plan.nodes), Some(5));
        assert_eq!(shrink(&plan, 10_000, 1, |_| None::<&str>, |_, _| ()), None);
    }

    /// A bug that needs its moment: only some randomness shows it once anything is gone.
    #[test]
    fn other_seeds_are_tried_when_nothing_goes() {
        let plan = bad_plan();
        let (seed, faults) = (plan.seed, plan.faults.len());
        let moody = |plan: &Plan| {
            let lucky = plan.faults.len() == faults || (plan.seed != seed && plan.faults.len() >= 3);
            judge(plan).filter(|_| lucky)
        };
        let shrunk = shrink(&plan, 10_000, 1, moody, |_, _| ()).expect("it is bad");
        assert_eq!(shrunk.plan.faults.len(), 3);
        assert_ne!(shrunk.plan.seed, seed);
    }

    #[test]
    fn nodes_that_a_fault_names_stay() {
        let mut plan = bad_plan();
        plan.faults.iter_mut().for_each(|fault| {
            if fault.kind == FaultKind::IsolateLeader {
                fault.kind = FaultKind::Kill(Victim::Node(5));
            }
        });
        let kills = |plan: &Plan| {
            plan.faults.iter().any(|fault| fault.kind == FaultKind::Kill(Victim::Node(5))).then_some(PROPERTY)
        };
        let shrunk = shrink(&plan, 10_000, 1, kills, |_, _| ()).expect("it is bad");
        assert_eq!((shrunk.plan.nodes, shrunk.plan.faults.len()), (5, 1));
    }
}

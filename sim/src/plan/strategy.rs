//! Plans for property tests: drawn as the sweeps draw them, shrunk as `sim shrink` shrinks them.

use proptest::arbitrary::any;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::Plan;
use crate::shrink::Shrinking;

/// Any plan that a seed draws.
///
/// Each step of shrinking is a run: `max_shrink_iters` bounds them.
///
/// ```
/// # #[cfg(madsim)] {
/// use proptest::prelude::*;
/// use sim::plan::plans;
/// use sim::run::run;
///
/// proptest!(ProptestConfig { cases: 2, max_shrink_iters: 200, ..ProptestConfig::default() }, |(plan in plans())| {
///     let report = run(&plan, 0);
///     prop_assert!(report.violation.is_none(), "{}", sim::sweep::explain(&report));
/// });
/// # }
/// ```
pub fn plans() -> Plans {
    Plans(())
}

/// See [`plans`].
#[derive(Clone, Copy, Debug)]
pub struct Plans(());

impl Strategy for Plans {
    type Tree = PlanTree;
    type Value = Plan;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let plan = Plan::draw(any::<u64>().new_tree(runner)?.current());
        Ok(PlanTree { shrinking: Shrinking::new(plan), asked: false })
    }
}

/// A plan and its simpler forms.
#[derive(Clone, Debug)]
pub struct PlanTree {
    shrinking: Shrinking,
    /// Whether the first of the upcoming plans is being judged, rather than the best.
    asked: bool,
}

impl PlanTree {
    fn ask(&mut self) -> bool {
        self.asked = !self.shrinking.upcoming().is_empty();
        self.asked
    }
}

impl ValueTree for PlanTree {
    type Value = Plan;

    fn current(&self) -> Plan {
        let upcoming = self.shrinking.upcoming().first().filter(|_| self.asked);
        upcoming.unwrap_or(self.shrinking.best()).clone()
    }

    fn simplify(&mut self) -> bool {
        if self.asked {
            self.shrinking.accept();
        }
        self.ask()
    }

    fn complicate(&mut self) -> bool {
        if self.asked {
            self.shrinking.reject(1);
        }
        self.ask()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestError};

    use super::*;
    use crate::plan::FaultKind;

    proptest! {
        /// Drawn from the whole range of seeds; and every form that shrinking gives it.
        #[test]
        fn a_plan_and_its_simpler_forms_are_their_texts(plan in plans(), accepted in any::<u64>()) {
            let mut shrinking = Shrinking::new(plan.clone());
            for bit in 0..64 {
                let next = shrinking.upcoming().first().unwrap_or(&plan).clone();
                let read = Plan::parse(&next.to_text());
                prop_assert_eq!(read.map_err(|error| error.to_string()), Ok(next));
                if accepted >> bit & 1 == 0 { shrinking.reject(1) } else { shrinking.accept() }
            }
        }

        /// Whatever a person does to a file, it is read or refused.
        #[test]
        fn a_text_that_was_changed_is_a_plan_that_can_be_run_or_is_refused(
            plan in plans(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), "[-0-9a-zA-Z()\\[\\],:. ]{0,3}"), 1..4),
        ) {
            let mut text: Vec<char> = plan.to_text().chars().collect();
            for (at, with) in changes {
                let at = at.index(text.len());
                text.splice(at..at + 1, with.chars());
            }
            if let Ok(plan) = Plan::parse(&text.iter().collect::<String>()) {
                prop_assert!(plan.check().is_ok());
            }
        }
    }

    #[test]
    fn a_failing_test_gets_the_smallest_plan() {
        let config = Config { failure_persistence: None, ..Config::default() };
        let failed = TestRunner::new(config).run(&plans(), |plan| {
            prop_assert!(plan.faults.iter().all(|fault| fault.kind != FaultKind::PowerLossAll));
            Ok(())
        });
        let Err(TestError::Fail(_, plan)) = failed else { panic!("{failed:?}") };
        assert_eq!(plan.faults.iter().map(|fault| &fault.kind).collect::<Vec<_>>(), [&FaultKind::PowerLossAll]);
        assert_eq!((plan.nodes, plan.workload.clients, plan.workload.bursts_ms.len()), (1, 1, 0));
    }
}

//! Liveness of a core: a quorum serves whatever ails the others, and what is no quorum is found not to.
#![cfg(madsim)]

use sim::plan::{Ailment, Core, Plan, Setup, Workload};
use sim::run::{CORE_LIVENESS, run};

fn plan(nodes: u32, members: &[u32], ailment: Ailment) -> Plan {
    let others = (1..=nodes).filter(|node| !members.contains(node));
    let core = Core { members: members.to_vec(), outsiders: others.map(|node| (node, ailment)).collect() };
    let (setup, workload) = (Setup::default(), Workload::default());
    Plan { nodes, heal_ms: 3_000, setup, workload, faults: vec![], core, ..Plan::draw(5) }
}

#[test]
fn a_quorum_serves_whatever_ails_the_others() {
    let ailments = [
        Ailment::AsItWas,
        Ailment::Dead,
        Ailment::Off,
        Ailment::Paused,
        Ailment::CutOff,
        Ailment::Deaf,
        Ailment::Mute,
        Ailment::Slow(20),
        Ailment::Full,
    ];
    for ailment in ailments {
        // Whoever leads when the faults end: it is an outsider in some of these.
        for (nodes, members) in [(3, [1, 2].as_slice()), (3, &[2, 3]), (3, &[1, 3]), (5, &[1, 3, 5])] {
            let report = run(&plan(nodes, members, ailment), 0);
            assert_eq!(report.violation, None, "{ailment:?}, {members:?} of {nodes}");
            assert_eq!(report.stats.reached.get("cores that served alone"), Some(&1), "{ailment:?}, {members:?}");
        }
    }
}

/// A plan file like this is refused; the demand is made all the same.
#[test]
fn what_is_no_quorum_is_found_not_to_serve() {
    let plan = plan(3, &[1], Ailment::Dead);
    plan.check().expect_err("no majority");
    let violation = run(&plan, 0).violation.expect("one of three cannot serve");
    assert_eq!(violation.property, CORE_LIVENESS);
    assert!(violation.explanation.contains("n1 succeeds") && violation.explanation.contains("[1]"), "{violation}");
}

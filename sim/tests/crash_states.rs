//! Every legal state after a power loss is recovered, for every history; damage is noticed; and planted bugs are found.
#![cfg(madsim)]

use sim::crash_states::{Effort, Plant, all, crash, damage};

#[test]
fn every_legal_state_recovers_to_what_was_acknowledged_and_damage_is_never_silent() {
    match all(Effort::CI, 2, |line| println!("{line}")) {
        Ok(totals) => {
            println!("{totals}");
            assert!(totals.recovered > 8_000 && totals.second_level > 50_000 && totals.damaged > 5_000, "{totals}");
            assert!(totals.exhaustive > 800 && totals.points - totals.exhaustive > 50, "{totals}");
            assert!(totals.refused > 3_000 && totals.damaged - totals.refused > 1_000, "{totals}");
        }
        Err(violations) => panic!("{} violations:\n{}", violations.len(), violations.join("\n")),
    }
}

/// Each plant begins to act when recording does, so what is lost is what the history wrote. Without a plant the same
/// histories are clean: the test above.
#[test]
fn planted_bugs_are_found() {
    for (plant, history) in [
        (Plant::LogSyncsAreLies, "append"),
        (Plant::LogSyncsAreLies, "vote"),
        (Plant::LogSyncsAreLies, "leader change"),
        (Plant::SyncForgetsASector, "append"),
        (Plant::SyncForgetsASector, "vote then append"),
        (Plant::DirectorySyncsAreLies, "roll"),
        (Plant::DirectorySyncsAreLies, "install"),
        (Plant::DirectorySyncsAreLies, "first start of a node"),
        (Plant::StoreSyncsAreLies, "snapshot then purge"),
        (Plant::RewritesAreSkipped, "failed sync"),
    ] {
        let violation = match crash(history, Effort::CI, Some(plant)) {
            Ok(report) => report.violation,
            Err(error) => Some(error),
        };
        let text: String = violation.unwrap_or_default().chars().take(1500).collect();
        println!("{plant:?} in {history:?}: {text}\n");
        assert!(text.starts_with("power lost at") || text.contains("start "), "{plant:?} in {history:?}: {text:?}");
    }
}

#[test]
fn planted_bugs_are_found_by_damage() {
    for (plant, history) in [
        (Plant::SealsAreLost, "append"),
        (Plant::SealsAreLost, "vote"),
        (Plant::DamageIsCut, "append"),
        (Plant::DamageIsCut, "roll"),
    ] {
        let violation = damage(history, Effort::CI, Some(plant)).map(|report| report.violation);
        println!("{plant:?} in {history:?}: {violation:?}");
        assert!(
            matches!(&violation, Ok(Some(text)) if text.contains("nobody notices")),
            "{plant:?} in {history:?}: {violation:?}"
        );
    }
}

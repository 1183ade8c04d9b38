//! What a sweep must have reached: one that never got there has shown nothing.

use std::collections::BTreeMap;

use crate::plan::fault_classes;
use crate::platform::CRASH_POINTS;
use crate::run::Stats;

/// Fewer seeds are not expected to reach everything.
pub const SEEDS_MIN: u64 = 1_000;
/// Fewer seeds are not expected to cut a journal at every crash point.
pub const SEEDS_MIN_FOR_POINTS: u64 = 2_000;

/// Of a thousand seeds, at least so many.
const REACHED: [(&str, u64); 48] = [
    ("cores that served alone", 250),
    ("outsiders as they were", 20),
    ("outsiders dead", 20),
    ("outsiders off", 20),
    ("outsiders paused", 20),
    ("outsiders cut off", 20),
    ("outsiders deaf", 60),
    ("outsiders mute", 20),
    ("outsiders with a slow disk", 20),
    ("outsiders with a full disk", 20),
    ("crashes while a snapshot was received or installed", 10),
    ("machines that got another address", 50),
    ("logs compared at the end", 2_500),
    ("runs with 3 nodes", 300),
    ("runs with 5 nodes", 200),
    ("leaders", 1_500),
    ("snapshots", 1_000),
    ("snapshots installed", 20),
    ("snapshots installed under load", 10),
    ("purges", 500),
    ("torn tails at boot", 25),
    ("torn tails cut", 10),
    ("logs that got shorter", 100),
    ("forwarded writes", 10_000),
    ("nodes that stopped because their disk failed", 200),
    ("nodes that came back after their disk had failed", 200),
    ("damaged nodes that refused to start", 50),
    ("damage suppressed by the atlas", 50),
    ("disks that were full for a while", 50),
    ("nodes that recovered from a full disk", 40),
    ("writes refused for a full disk", 150),
    ("nodes that stopped because their store was damaged", 1),
    ("nodes that came back after their store was found damaged", 1),
    ("stores rebuilt", 60),
    ("nodes wiped", 25),
    ("wiped nodes that stayed out", 15),
    ("operations of clients that crashed", 500),
    ("writes tried again", 800),
    ("runs with a quiet second", 400),
    ("clusters founded by a part of the list", 25),
    ("joint configurations", 300),
    ("machines that joined with an empty disk", 150),
    ("nodes that were stopped in good order", 100),
    ("leaderships handed over on request", 40),
    ("leaders that were missed at once", 100),
    ("removed nodes that stopped", 8),
    ("runs in memory", 40),
    ("memories lost", 100),
];

/// The same, of what happens to disks.
const DISKS: [(&str, u64); 10] = [
    ("operations undone by a kill", 2_000),
    ("torn writes", 20),
    ("unsynced sectors lost", 2_000),
    ("unsynced sectors kept", 1_000),
    ("directory entries lost", 100),
    ("failed syncs", 200),
    ("failed writes", 200),
    ("operations refused for want of space", 200),
    ("lost writes", 15),
    ("misdirected writes", 8),
];

/// The same, of what happens to the network.
const NET: [(&str, u64); 4] = [
    ("connects that hung", 4_000),
    ("half-open connections", 10_000),
    ("connections stranded", 1_000),
    ("late bytes of old connections", 10_000),
];

/// What so many seeds should have reached and have not, a line for each. Of a sweep that is too short to tell, only that its
/// verdict is not known.
pub fn missing(seeds: u64, stats: &Stats) -> Vec<String> {
    let mut missing = Vec::new();
    if stats.inconclusive > 0 {
        missing.push(format!("a verdict: {} searches for an order of operations ran out of steps", stats.inconclusive));
    }
    if seeds < SEEDS_MIN {
        return missing;
    }
    let mut demand = |counts: &BTreeMap<&'static str, u64>, what: &str, least: u64| {
        let count = counts.get(what).copied().unwrap_or(0);
        if count < least {
            missing.push(format!("{what}: {count} times, expected at least {least}"));
        }
    };
    let due = |of_a_thousand: u64| of_a_thousand * seeds / 1_000;
    REACHED.iter().for_each(|(what, least)| demand(&stats.reached, what, due(*least)));
    DISKS.iter().for_each(|(what, least)| demand(&stats.disk, what, due(*least)));
    NET.iter().for_each(|(what, least)| demand(&stats.net, what, due(*least)));
    fault_classes().into_iter().for_each(|class| demand(&stats.faults, class, due(50)));
    if seeds >= SEEDS_MIN_FOR_POINTS {
        CRASH_POINTS.iter().for_each(|point| demand(&stats.points, point.name, 1));
    }
    demand(&BTreeMap::from([("operations of unknown outcome", stats.unknown)]), "operations of unknown outcome", 100);
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Stats {
        let all = |names: &mut dyn Iterator<Item = &'static str>| names.map(|name| (name, 1_000_000)).collect();
        Stats {
            unknown: 1_000,
            reached: all(&mut REACHED.iter().map(|(what, _)| *what)),
            net: all(&mut NET.iter().map(|(what, _)| *what)),
            disk: all(&mut DISKS.iter().map(|(what, _)| *what)),
            faults: all(&mut fault_classes().into_iter()),
            points: all(&mut CRASH_POINTS.iter().map(|point| point.name)),
            ..Stats::default()
        }
    }

    #[test]
    fn whatever_is_not_reached_is_missing() {
        assert_eq!(missing(2_000, &full()), Vec::<String>::new());
        assert_eq!(missing(SEEDS_MIN - 1, &Stats::default()), Vec::<String>::new(), "too few to tell");
        assert_eq!(missing(1, &Stats { inconclusive: 1, ..full() }).len(), 1, "what is not known is not clean");
        let names = REACHED.iter().chain(&DISKS).chain(&NET).map(|(what, _)| *what);
        let names = names.chain(fault_classes()).chain(CRASH_POINTS.iter().map(|point| point.name));
        for name in names {
            let mut stats = full();
            for counts in [&mut stats.reached, &mut stats.disk, &mut stats.net, &mut stats.faults, &mut stats.points] {
                counts.remove(name);
            }
            let missing = missing(2_000, &stats);
            assert!(matches!(&missing[..], [line] if line.starts_with(&format!("{name}: 0 times"))), "{missing:?}");
        }
        let missing = missing(1_000, &Stats { points: BTreeMap::new(), ..full() });
        assert_eq!(missing, Vec::<String>::new(), "points need more seeds");
    }
}

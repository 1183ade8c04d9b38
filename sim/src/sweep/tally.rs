//! A sweep's outcome as text: the figures, and what failed by class.

use std::collections::BTreeMap;

use crate::run::Stats;

/// So many seeds of a class are named.
const FIRST_SEEDS: usize = 5;

/// All runs that violated one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The property.
    pub property: String,
    /// Their seeds, in order.
    pub seeds: Vec<u64>,
}

/// Failures by property, the most frequent first.
pub fn by_class<'a>(failures: impl IntoIterator<Item = (u64, &'a str)>) -> Vec<Class> {
    let mut classes = BTreeMap::<&str, Vec<u64>>::new();
    for (seed, property) in failures {
        classes.entry(property).or_default().push(seed);
    }
    let mut classes: Vec<Class> = classes
        .into_iter()
        .map(|(property, mut seeds)| {
            seeds.sort_unstable();
            Class { property: property.to_owned(), seeds }
        })
        .collect();
    // Stable: by name where they are as frequent.
    classes.sort_by_key(|class| std::cmp::Reverse(class.seeds.len()));
    classes
}

/// The classes as a table, with the command that shows the first of each again.
pub fn table(classes: &[Class]) -> String {
    let longest = classes.iter().map(|class| class.property.chars().count()).max().unwrap_or(0);
    let wide = longest.max("violated property".len());
    let mut text = format!("{:<wide$}  {:>5}  {:<32}  reproduce\n", "violated property", "seeds", "the first");
    for Class { property, seeds } in classes {
        let first = seeds.iter().take(FIRST_SEEDS).map(u64::to_string).collect::<Vec<_>>().join(" ");
        let again = seeds.first().map_or(0, |seed| *seed);
        let count = seeds.len();
        text += &format!("{property:<wide$}  {count:>5}  {first:<32}  cargo run --release -p sim -- replay {again}\n");
    }
    text
}

/// What ran and what it reached. `core_s` is seconds times threads.
pub(super) fn figures(seeds: u64, stats: &Stats, core_s: f64, jobs: u64) -> String {
    let core_s = core_s.max(1e-9);
    let simulated = stats.simulated_ns as f64 / 1e9;
    let list = |counts: &BTreeMap<&str, u64>| {
        counts.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "{seeds} seeds in {:.1} s with {jobs} jobs: {:.1} seeds/s, {simulated:.0} simulated s, {:.0} simulated s per core \
         s\noperations: {} acknowledged, {} unknown, {} not applied; {} restarts; {} searches inconclusive\nfaults: \
         {}\nreached: {}\ndisks: {}\ncut: {}\nnetwork: {}",
        core_s / jobs as f64,
        seeds as f64 * jobs as f64 / core_s,
        simulated / core_s,
        stats.acknowledged,
        stats.unknown,
        stats.not_applied,
        stats.restarts,
        stats.inconclusive,
        list(&stats.faults),
        list(&stats.reached),
        list(&stats.disk),
        list(&stats.points),
        list(&stats.net),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_grouped_by_property_the_most_frequent_first() {
        let classes = by_class([(9, "b"), (3, "a"), (1, "b"), (4, "c")]);
        let as_pairs: Vec<_> = classes.iter().map(|c| (c.property.as_str(), c.seeds.as_slice())).collect();
        assert_eq!(as_pairs, [("b", &[1, 9][..]), ("a", &[3]), ("c", &[4])]);
        let text = table(&classes);
        assert_eq!(text.lines().count(), 4);
        let line = text.lines().nth(1).expect("b's");
        assert!(line.starts_with("b ") && line.contains("  1 9 ") && line.ends_with("-- replay 1"), "{line}");
    }

    #[test]
    fn of_many_seeds_the_first_are_named() {
        let text = table(&by_class((0..100).map(|seed| (seed, "p"))));
        assert!(text.contains("100  0 1 2 3 4 "), "{text}");
    }
}

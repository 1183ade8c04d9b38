//! How fast runs are, by the size of the cluster: simulated seconds for each second that a core works on them, and
//! how much happens in those.
//!
//! `cargo run --release -p sim --example speed [FIRST..END]` takes the seeds of a range, one after the other on one
//! thread, all of one size before those of another. Time is that of the processor, so other work on the machine
//! disturbs little. Linux only.
#![allow(clippy::disallowed_macros, reason = "an application: it prints")]
#![cfg_attr(not(madsim), allow(unused))]

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() -> Result<(), String> {
    measure::main()
}

#[cfg(madsim)]
mod measure {
    use std::ops::Range;

    use sim::plan::Plan;
    use sim::run::run;

    /// The `sim` binary's, so that what is measured is what a sweep does.
    #[global_allocator]
    static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

    /// What `/proc` counts in: `USER_HZ`, which is the same on all common platforms.
    const TICKS_PER_SECOND: f64 = 100.0;

    /// Seconds that processors have spent on this process, the system's work for it included.
    fn cpu_seconds() -> Result<f64, String> {
        let stat = std::fs::read_to_string("/proc/self/stat").map_err(|e| format!("/proc/self/stat: {e}"))?;
        // The second field is a name in brackets, which may hold spaces; user and system time are the 14th and 15th.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
    }

    fn seeds() -> Result<Range<u64>, String> {
        let Some(text) = std::env::args().nth(1) else { return Ok(0..200) };
        let range = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        range.ok_or_else(|| format!("{text} is no range of seeds: write it as A..B, for example 0..200"))
    }

    pub(super) fn main() -> Result<(), String> {
        let seeds = seeds()?;
        // What a process does once only is no part of it.
        run(&Plan::draw(seeds.start), 0);
        println!(
            "nodes  seeds  simulated s  CPU s  simulated s/core s  seeds/h/core  operations/core s  faults/core s"
        );
        for nodes in [3, 5] {
            let began = cpu_seconds()?;
            let (mut count, mut simulated, mut operations, mut faults) = (0.0, 0.0, 0.0, 0.0);
            for plan in seeds.clone().map(Plan::draw).filter(|plan| plan.nodes == nodes) {
                let report = run(&plan, 0);
                if let Some(violation) = &report.violation {
                    println!("seed {} violates: {}", report.seed, violation.property);
                }
                let stats = &report.stats;
                count += 1.0;
                simulated += stats.simulated_ns as f64 / 1e9;
                operations += (stats.acknowledged + stats.unknown + stats.not_applied) as f64;
                faults += stats.faults.values().sum::<u64>() as f64;
            }
            let cpu = (cpu_seconds()? - began).max(1.0 / TICKS_PER_SECOND);
            println!(
                "{nodes:>5}  {count:>5}  {simulated:>11.0}  {cpu:>5.2}  {:>18.0}  {:>12.0}  {:>17.0}  {:>13.0}",
                simulated / cpu,
                count / cpu * 3600.0,
                operations / cpu,
                faults / cpu,
            );
        }
        Ok(())
    }
}

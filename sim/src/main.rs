//! The simulator's command line. Exit code 0: clean; 1: a property was violated; 2: wrong usage.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
mod command {
    use std::ops::Range;
    use std::process::ExitCode;

    use clap::{Parser, Subcommand};
    use sim::plan::Plan;
    use sim::run::run;
    use sim::sweep::{explain, sweep};

    /// Runs simulated clusters of the production code under faults.
    #[derive(Parser)]
    #[command(name = "sim", version)]
    struct Args {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        /// Run many seeds.
        Sweep {
            /// From the first to before the second: 0..2000
            #[arg(long, value_parser = range)]
            seeds: Range<u64>,
            /// Threads
            #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
            jobs: u64,
            /// Stop after the first failure
            #[arg(long)]
            fail_fast: bool,
            /// Print the trace hash of every seed
            #[arg(long)]
            hashes: bool,
        },
        /// Run one seed again and tell everything about it.
        Replay {
            /// The seed
            seed: u64,
            /// How many of the last events to print
            #[arg(long, default_value_t = 0)]
            tail: usize,
        },
        /// Print what a seed does, without running it.
        Plan {
            /// The seed
            seed: u64,
        },
    }

    fn range(text: &str) -> Result<Range<u64>, String> {
        let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        let parsed: Range<u64> = parsed.ok_or_else(|| "write it as A..B, for example 0..2000".to_owned())?;
        if parsed.is_empty() { Err("the range is empty".to_owned()) } else { Ok(parsed) }
    }

    pub(super) fn main() -> ExitCode {
        match Args::parse().command {
            Command::Plan { seed } => print!("{}", Plan::draw(seed)),
            Command::Replay { seed, tail } => {
                let plan = Plan::draw(seed);
                print!("{plan}");
                let report = run(&plan, tail);
                report.tail.iter().for_each(|line| println!("{line}"));
                println!("{:#?}", report.stats);
                println!("hash {:016x} over {} events", report.hash, report.events);
                if report.violation.is_some() {
                    println!("{}", explain(&report));
                    return ExitCode::from(1);
                }
            }
            Command::Sweep { seeds, jobs, fail_fast, hashes } => {
                let all = seeds.end - seeds.start;
                let step = (all / 20).max(1);
                let summary = sweep(seeds, jobs, |report, done| {
                    if hashes {
                        println!("seed {} hash {:016x}", report.seed, report.hash);
                    }
                    if report.violation.is_some() {
                        println!("{}", explain(report));
                        if fail_fast {
                            std::process::exit(1);
                        }
                    }
                    if done % step == 0 {
                        eprintln!("{done} of {all} seeds");
                    }
                });
                println!("{}", summary.figures());
                if !summary.failures.is_empty() {
                    let seeds: Vec<String> = summary.failures.iter().map(|r| r.seed.to_string()).collect();
                    println!("{} seeds failed: {}", seeds.len(), seeds.join(" "));
                    return ExitCode::from(1);
                }
                println!("clean");
            }
        }
        ExitCode::SUCCESS
    }
}

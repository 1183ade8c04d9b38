//! The simulator's command line. Exit code 0: clean; 1: a property was violated; 2: wrong usage,
//! or the harness itself failed; 3: a sweep was clean, but did not reach all that it should have.

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
    use std::time::{Duration, Instant};

    use clap::{Parser, Subcommand};
    use sim::plan::Plan;
    use sim::run::run;
    use sim::sweep::{explain, sweep};

    /// Runs simulated clusters of the production code under faults.
    ///
    /// Exit code 0: clean. 1: a property was violated. 2: wrong usage, or the harness itself failed. 3: a sweep of 1000
    /// seeds or more was clean, but did not reach all that it should have.
    #[derive(Parser)]
    #[command(name = "sim", version, verbatim_doc_comment)]
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
        /// Run a seed with a bug on purpose: this must fail, or the oracles are blind.
        Canary {
            /// The seed
            #[arg(long, default_value_t = 0)]
            seed: u64,
        },
        /// Recover every state that a power loss can leave behind in short histories; see `sim::crash_states`.
        CrashStates(sim::crash_states::Args),
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

    /// A violation is an answer; a harness that panics has none.
    pub(super) fn main() -> ExitCode {
        let command = Args::parse().command;
        std::panic::catch_unwind(|| execute(command)).unwrap_or(ExitCode::from(2))
    }

    fn replay(plan: &Plan, tail: usize) -> ExitCode {
        print!("{plan}");
        let report = run(plan, tail);
        report.tail.iter().for_each(|line| println!("{line}"));
        println!("{:#?}", report.stats);
        println!("hash {:016x} over {} events", report.hash, report.events);
        println!("{}", explain(&report));
        ExitCode::from(u8::from(report.violation.is_some()))
    }

    /// Says every few seconds how far a sweep is.
    struct Progress {
        all: u64,
        failed: u64,
        began: Instant,
        said: Duration,
    }

    #[expect(clippy::disallowed_methods, reason = "a sweep is outside of every run: it may look at the clock")]
    impl Progress {
        fn new(all: u64) -> Self {
            Self { all, failed: 0, began: Instant::now(), said: Duration::ZERO }
        }

        fn tell(&mut self, done: u64) {
            let elapsed = self.began.elapsed();
            if elapsed - self.said < Duration::from_secs(5) && done < self.all {
                return;
            }
            self.said = elapsed;
            let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
            let left = (self.all - done) as f64 / rate;
            let Self { all, failed, .. } = self;
            eprintln!("{done} of {all} seeds, {failed} failed, {rate:.1} seeds/s, {left:.0} s left");
        }
    }

    fn execute(command: Command) -> ExitCode {
        match command {
            Command::CrashStates(args) => return sim::crash_states::main(&args),
            Command::Plan { seed } => print!("{}", Plan::draw(seed)),
            Command::Replay { seed, tail } => return replay(&Plan::draw(seed), tail),
            Command::Canary { seed } => return replay(&Plan { canary: true, ..Plan::draw(seed) }, 0),
            Command::Sweep { seeds, jobs, fail_fast, hashes } => {
                let mut progress = Progress::new(seeds.end - seeds.start);
                let summary = sweep(seeds, jobs, |report, done| {
                    if hashes {
                        println!("seed {} hash {:016x}", report.seed, report.hash);
                    }
                    if report.violation.is_some() {
                        println!("{}", explain(report));
                        progress.failed += 1;
                        if fail_fast {
                            std::process::exit(1);
                        }
                    }
                    progress.tell(done);
                });
                println!("{}", summary.figures());
                if !summary.failures.is_empty() {
                    let seeds: Vec<String> = summary.failures.iter().map(|r| r.seed.to_string()).collect();
                    println!("{} seeds failed: {}", seeds.len(), seeds.join(" "));
                    return ExitCode::from(1);
                }
                let missing = sim::coverage::missing(summary.seeds, &summary.stats);
                if !missing.is_empty() {
                    println!("clean, but under-exercised:\n{}", missing.join("\n"));
                    return ExitCode::from(3);
                }
                println!("clean");
            }
        }
        ExitCode::SUCCESS
    }
}

//! The simulator's command line. Exit code 0: clean; 1: a property was violated, a panic of production code included; 2:
//! wrong usage, a file that cannot be read or written, or the harness itself failed; 3: a sweep was clean, but did not
//! reach all that it should have.

/// A sixth of a run was the system's allocator. Nothing in a run depends on where its memory lies.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
mod command {
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;

    use clap::{Parser, Subcommand};
    use sim::plan::{Plan, PlanError};
    use sim::run::{Report, record, run};
    use sim::sweep::explain;

    /// Runs simulated clusters of the production code under faults.
    ///
    /// Exit code 0: clean. 1: a property was violated (a panic of production code does so, too). 2: wrong usage, a file
    /// that cannot be read or written, or the harness itself failed. 3: a sweep of 1000 seeds or more was clean, but did
    /// not reach all that it should have.
    #[derive(Parser)]
    #[command(name = "sim", version, verbatim_doc_comment)]
    struct Args {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        /// Run many seeds.
        Sweep(sim::sweep::Args),
        /// Add up what `sim sweep --json` wrote on several machines.
        Merge(sim::sweep::MergeArgs),
        /// Run a seed or a plan file again and tell everything about it.
        Replay {
            /// A seed, or the path of a plan file
            target: String,
            /// How many of the last events to print
            #[arg(long, default_value_t = 0)]
            tail: usize,
        },
        /// Make a plan that fails as small as it gets while it violates the same property.
        ///
        /// Exit code 0: it was shrunk; 2: it does not fail.
        Shrink {
            /// A seed, or the path of a plan file
            target: String,
            /// Write the small plan to this file, rather than to the output
            #[arg(short, long)]
            output: Option<PathBuf>,
            /// Run so many plans at most
            #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
            runs: u64,
            /// Threads; the result is the same for any number
            #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
            jobs: u64,
        },
        /// Run a seed or a plan file, and make an HTML page of what happened. The page needs no network.
        Timeline {
            /// A seed, or the path of a plan file
            target: String,
            /// Where to write the page
            #[arg(short, long)]
            output: PathBuf,
        },
        /// Run a seed with a bug on purpose: this must fail, or the oracles are blind.
        Canary {
            /// The seed
            #[arg(long, default_value_t = 0)]
            seed: u64,
        },
        /// Recover every state that a power loss can leave behind in short histories; see `sim::crash_states`.
        CrashStates(sim::crash_states::Args),
        /// Print what a seed does, without running it; or check a plan file, and print it with all its defaults.
        Plan {
            /// A seed, or the path of a plan file
            target: String,
            /// Write it to this file instead
            #[arg(short, long)]
            output: Option<PathBuf>,
        },
    }

    /// A violation is an answer; a harness that panics has none.
    pub(super) fn main() -> ExitCode {
        let command = Args::parse().command;
        std::panic::catch_unwind(|| execute(command)).unwrap_or(ExitCode::from(2))
    }

    /// Wrong usage is told, and is no violation.
    fn told(done: Result<ExitCode, PlanError>) -> ExitCode {
        done.unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::from(2)
        })
    }

    /// What a target names if it is not a seed.
    fn file(target: &str) -> Option<String> {
        target.parse::<u64>().is_err().then(|| target.to_owned())
    }

    fn replay(plan: &Plan, file: Option<String>, tail: usize) -> ExitCode {
        print!("{plan}");
        let report = Report { file, ..run(plan, tail) };
        report.tail.iter().for_each(|line| println!("{line}"));
        println!("{:#?}", report.stats);
        println!("hash {:016x} over {} events", report.hash, report.events);
        println!("{}", explain(&report));
        ExitCode::from(u8::from(report.violation.is_some()))
    }

    fn write(plan: &Plan, output: Option<PathBuf>) -> Result<ExitCode, PlanError> {
        match output {
            None => print!("{plan}"),
            Some(file) => plan.save(&file, &format!("seed {}", plan.seed))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn shrink(target: &str, output: Option<PathBuf>, runs: u64, jobs: u64) -> Result<ExitCode, PlanError> {
        let plan = Plan::load(target)?;
        let judge = |plan: &Plan| run(plan, 0).violation.as_ref().map(sim::shrink::class);
        let tell = |runs: u64, plan: &Plan| eprintln!("{runs} runs: {}", size(plan));
        let Some(shrunk) = sim::shrink::shrink(&plan, runs, jobs as usize, judge, tell) else {
            eprintln!("{target} violates nothing: there is nothing to shrink");
            return Ok(ExitCode::from(2));
        };
        let comment = format!(
            "Violates: {}\nShrunk in {} runs by: sim shrink {target} --runs {runs}\nfrom {}\nto   {}",
            shrunk.class,
            shrunk.runs,
            size(&plan),
            size(&shrunk.plan),
        );
        match output {
            None => print!("{}", shrunk.plan.to_text_under(&comment)),
            Some(file) => {
                shrunk.plan.save(&file, &comment)?;
                println!("{comment}\nreplay it: cargo run --release -p sim -- replay {}", file.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn size(plan: &Plan) -> String {
        let work = &plan.workload;
        format!(
            "{} faults, {} clients, {} bursts of {} operations, {} nodes, {} ms",
            plan.faults.len(),
            work.clients,
            work.bursts_ms.len(),
            work.burst_ops,
            plan.nodes,
            plan.heal_ms
        )
    }

    fn timeline(plan: &Plan, file: Option<String>, output: &Path) -> ExitCode {
        let (report, recorded) = record(plan);
        let report = Report { file, ..report };
        let (page, verdict) = (sim::timeline::page(&report, recorded), &report.violation);
        if let Err(error) = std::fs::write(output, &page) {
            eprintln!("cannot write {}: {error}", output.display());
            return ExitCode::from(2);
        }
        let said = verdict.as_ref().map_or_else(|| "clean".to_owned(), |violation| format!("violates: {violation}"));
        println!("{}, {} KiB: {said}; hash {:016x}", output.display(), page.len() >> 10, report.hash);
        ExitCode::from(u8::from(verdict.is_some()))
    }

    fn execute(command: Command) -> ExitCode {
        match command {
            Command::CrashStates(args) => sim::crash_states::main(&args),
            Command::Plan { target, output } => told(Plan::load(&target).and_then(|plan| write(&plan, output))),
            Command::Replay { target, tail } => {
                told(Plan::load(&target).map(|plan| replay(&plan, file(&target), tail)))
            }
            Command::Timeline { target, output } => {
                told(Plan::load(&target).map(|plan| timeline(&plan, file(&target), &output)))
            }
            Command::Shrink { target, output, runs, jobs } => told(shrink(&target, output, runs, jobs)),
            Command::Canary { seed } => replay(&Plan { canary: true, ..Plan::draw(seed) }, None, 0),
            Command::Sweep(args) => sim::sweep::main(&args),
            Command::Merge(args) => sim::sweep::merge_main(&args),
        }
    }
}

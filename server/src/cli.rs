//! Which program a command line asks for: a node, in whose dialect, or a task.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::address::Address;
use crate::admin;
use crate::bench::Bench;
use crate::config::{ConfigError, NodeArgs, ServerConfig};
use crate::dialect::Dialect;

/// What the program does that is not to be a node.
#[derive(Debug, Subcommand)]
enum Task {
    /// Print what a data directory holds and whether it is whole, changing nothing
    Inspect {
        /// The data directory
        dir: PathBuf,
        /// Every record of the log, too
        #[arg(long)]
        records: bool,
    },
    /// List, add, remove or promote members of a running cluster
    #[command(subcommand, disable_help_subcommand = true, arg_required_else_help = false)]
    Member(admin::MemberTask),
    /// Hand the leadership of a running cluster over
    #[command(subcommand, disable_help_subcommand = true, arg_required_else_help = false)]
    Leader(admin::LeaderTask),
    /// Write a backup of a running cluster to a new file
    Backup {
        /// The file
        file: PathBuf,
        /// Of what that one node has, for a cluster that has lost its quorum; it may lack the newest writes
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        api: admin::Api,
    },
    /// Put load on a running cluster, and print how fast it answers
    Bench(Bench),
    /// Make the data directory of a node from a backup; the node is then alone in a new cluster, and others may join it.
    /// Takes the flags and variables of the node that is to be
    Restore {
        /// What `quorate backup` wrote
        file: PathBuf,
        #[command(flatten)]
        node: Box<NodeArgs>,
    },
}

/// A durable, linearizable JSON key-value store over REST.
///
/// Without any flag it starts a single node whose data is in ./data and whose API is at http://127.0.0.1:8080.
/// An address is written http://host:port, host:port or :port (every IPv4 interface). A long flag may have one dash.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, max_term_width = 120, allow_negative_numbers = true)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,

    #[command(flatten)]
    node: NodeArgs,
}

/// What the program is asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// To run a node.
    Serve(Box<ServerConfig>),
    /// `quorate inspect`: to say what is in a data directory.
    Inspect {
        /// The directory.
        dir: PathBuf,
        /// With every record of the log.
        records: bool,
    },
    /// `quorate member …`, `quorate leader …`: to ask a running cluster for something.
    Admin(admin::Request),
    /// `quorate backup`: to get a backup from a running cluster.
    Backup {
        /// The file that is to be written.
        file: PathBuf,
        /// The API of any node.
        api: Address,
        /// Of what that node has, which needs no quorum.
        stale: bool,
    },
    /// `quorate bench`: to put load on a running cluster.
    Bench(Bench),
    /// `quorate restore`: to make a node from a backup.
    Restore {
        /// The backup.
        file: PathBuf,
        /// The node that is to be.
        config: Box<ServerConfig>,
    },
}

impl Command {
    /// Parses a command line, the program's name first; the environment stands in for flags that are not there.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, ConfigError> {
        let args: Vec<_> = args.into_iter().map(|arg| two_dashes(arg.into())).collect();
        // A node's variables say nothing of what else the program does.
        let is_task = args.get(1).is_some_and(|word| Task::has_subcommand(&word.to_string_lossy()));
        let environment = std::env::var("QUORATE_DIALECT").ok().filter(|_| !is_task);
        if let Some(dialect) = Dialect::named_in(&args, environment) {
            return Ok(Self::Serve(Box::new(dialect.parse(args)?)));
        }
        let cli: Cli = parse(args)?;
        match cli.task {
            Some(Task::Inspect { dir, records }) => Ok(Self::Inspect { dir, records }),
            Some(Task::Member(task)) => Ok(Self::Admin(task.into())),
            Some(Task::Leader(task)) => Ok(Self::Admin(task.into())),
            Some(Task::Backup { file, stale, api }) => Ok(Self::Backup { file, api: api.api, stale }),
            Some(Task::Bench(bench)) => Ok(Self::Bench(bench)),
            Some(Task::Restore { file, node }) => {
                Ok(Self::Restore { file, config: Box::new(ServerConfig::from_args(*node)?) })
            }
            None => Ok(Self::Serve(Box::new(ServerConfig::from_args(cli.node)?))),
        }
    }
}

/// The flags `A`, or one line that says what is wrong with them.
pub(crate) fn parse<A: CommandFactory + FromArgMatches>(args: Vec<OsString>) -> Result<A, ConfigError> {
    let args = A::command().try_get_matches_from(args).and_then(|matches| A::from_arg_matches(&matches));
    args.map_err(|error| one_line(&error))
}

/// `-name` and `-name=x` become `--name` and `--name=x`. So does everything else that begins with one dash and a letter
/// and is longer than a short flag, so that what is wrong is called by its whole name.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(text) if text.len() > 1 && text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            format!("--{text}").into()
        }
        _ => arg,
    }
}

/// clap's paragraphs on one line, without the usage.
fn one_line(error: &clap::Error) -> ConfigError {
    let text = error.to_string();
    if !error.use_stderr() {
        return ConfigError::Information(text);
    }
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let line = lines.join("; ");
    ConfigError::Usage(format!("{} (quorate --help lists every flag)", line.strip_prefix("error: ").unwrap_or(&line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_variable() {
        for flag in Cli::command().get_arguments() {
            let Some(long) = flag.get_long().filter(|long| !["help", "version"].contains(long)) else { continue };
            let variable = format!("QUORATE_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
        }
    }

    #[test]
    fn what_is_wrong_with_a_task_is_one_line() {
        for (args, part) in [
            ("member", "subcommand"),
            ("member drop", "drop"),
            ("member add n4", "PEER_ADDR"),
            ("member add n4 n4", "port"),
            ("member remove", "<WHO>"),
            ("backup", "<FILE>"),
            ("restore b --peer-url nowhere", "--peer-url"),
            ("bench --clients 0", "--clients"),
            ("bench --reads 101", "--reads"),
            ("member list --api nowhere", "--api"),
            ("--name n1 member list", "member"),
        ] {
            let args = std::iter::once("quorate").chain(args.split_whitespace());
            let Err(ConfigError::Usage(line)) = Command::parse(args.clone()) else { panic!("{args:?} was taken") };
            assert!(line.lines().count() == 1 && line.contains(part), "{line}");
        }
    }
}

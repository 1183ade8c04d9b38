//! The command line and the environment, parsed into a [`ServerConfig`] that holds together.
//!
//! Every flag has a default, so plain `quorate` starts a durable single node in `./data`; every flag can be given as a
//! variable `QUORATE_…` instead (`--data-dir` is `QUORATE_DATA_DIR`), and the flag wins. A long flag may be written
//! with one dash, as Go programs do: `-name n1` is `--name n1`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use quorate_core::config::{Timing, TimingError};
use quorate_core::founding::FoundingList;
use quorate_io::{InitialState, NodeConfig, Storage};

use crate::address::Address;
use crate::cli::Command;
use crate::dialect::{Dialect, Front};

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Failures that need a person.
    Error,
    /// Things that may need one.
    Warn,
    /// The life of the node.
    Info,
    /// What it decides, openraft included.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClusterState {
    New,
    Existing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Store {
    Redb,
    Memory,
}

/// The flags of a node that speaks no dialect.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Name of this node, for people and for --initial-cluster. Not its identity, which is made once per data directory
    #[arg(long, env = "QUORATE_NAME", default_value = "default")]
    name: String,

    /// Directory for everything durable; created if it is not there
    #[arg(long, env = "QUORATE_DATA_DIR", value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,

    /// Address at which this node listens for its peers
    #[arg(long, env = "QUORATE_PEER_URL", value_name = "ADDR", default_value = "http://127.0.0.1:2380")]
    peer_url: Address,

    /// Address that peers dial [default: this node's entry in --initial-cluster, else --peer-url]
    #[arg(long, env = "QUORATE_ADVERTISE_PEER_URL", value_name = "ADDR")]
    advertise_peer_url: Option<Address>,

    /// The nodes that found the cluster, the same list on each: n1=http://10.0.0.1:2380,n2=… Those that are missing for
    /// long (of three one) join later [default: this node alone]
    #[arg(long, env = "QUORATE_INITIAL_CLUSTER", value_name = "NAME=ADDR,…")]
    initial_cluster: Option<String>,

    /// `new` may found a cluster; `existing` only joins one, or restarts in one
    #[arg(long, env = "QUORATE_INITIAL_CLUSTER_STATE", value_name = "STATE", default_value = "new")]
    initial_cluster_state: ClusterState,

    /// Join the cluster that has a member at one of these peer addresses, instead of founding one
    #[arg(
        long,
        env = "QUORATE_JOIN",
        value_name = "ADDR,…",
        value_delimiter = ',',
        conflicts_with = "initial_cluster"
    )]
    join: Vec<Address>,

    /// For the survivor of a majority that is lost for ever: go on as the only member of a new cluster, with the data that
    /// is here. Writes that others acknowledged without this node are lost. Done once: remove it afterwards
    #[arg(long, env = "QUORATE_FORCE_NEW_CLUSTER")]
    force_new_cluster: bool,

    /// Where the state is kept: `redb` on disk, `memory` nowhere else
    #[arg(long, env = "QUORATE_STORE", default_value = "redb")]
    store: Store,

    #[command(flatten)]
    common: CommonArgs,
}

/// The flags that every node has, whatever dialect it speaks.
#[derive(Debug, clap::Args)]
pub(crate) struct CommonArgs {
    /// Speak the REST dialect of another system, too, and take its flags: add --help to see them
    #[arg(long, env = "QUORATE_DIALECT")]
    dialect: Option<Dialect>,

    /// Address at which the REST API listens [default: 127.0.0.1:8080; with --dialect: nowhere]
    #[arg(long, env = "QUORATE_API_ADDR", value_name = "ADDR")]
    api_addr: Option<Address>,

    /// A second address at which the same REST API listens
    #[arg(long, env = "QUORATE_CLIENT_URL", value_name = "ADDR")]
    client_url: Option<Address>,

    /// Address of the REST API that clients and peers are told [default: the addresses it listens at]
    #[arg(long, env = "QUORATE_ADVERTISE_CLIENT_URL", value_name = "ADDR")]
    advertise_client_url: Option<Address>,

    /// Keeps clusters apart that are founded from the same list of nodes
    #[arg(long, env = "QUORATE_INITIAL_CLUSTER_TOKEN", value_name = "TOKEN", default_value = "quorate")]
    initial_cluster_token: String,

    /// Disk space set aside with the data, in MiB: on a full disk the node then goes on without taking writes
    #[arg(long, env = "QUORATE_RESERVE_MIB", value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(32..=1_048_576))]
    reserve_mib: u64,

    /// Interval of the leader's heartbeats, in milliseconds
    #[arg(long, env = "QUORATE_HEARTBEAT_MS", value_name = "MS", default_value_t = 50,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    heartbeat_ms: u64,

    /// Least time without a heartbeat before a node campaigns, in milliseconds; at least 3 times --heartbeat-ms
    #[arg(long, env = "QUORATE_ELECTION_TIMEOUT_MIN_MS", value_name = "MS", default_value_t = 250,
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    election_timeout_min_ms: u64,

    /// Most time without a heartbeat before a node campaigns, in milliseconds; at least 1.5 times --election-timeout-min-ms
    #[arg(long, env = "QUORATE_ELECTION_TIMEOUT_MAX_MS", value_name = "MS", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    election_timeout_max_ms: u64,

    /// How much is logged, to stderr
    #[arg(long, env = "QUORATE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,

    /// How a log line is written
    #[arg(long, env = "QUORATE_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    log_format: LogFormat,
}

/// Everything the server is told at its start. Made by [`ServerConfig::parse`] alone, which establishes that
/// 1. the name is not empty and has no `=`, `,` or control character;
/// 2. every address that others dial has a port and is no wildcard;
/// 3. in a new cluster the initial members include this node, under the address it advertises, and no name or address
///    twice;
/// 4. the timing is one that works ([`Timing`]).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    name: String,
    storage: Storage,
    api_listen: Vec<Address>,
    api_advertise: Option<Address>,
    peer_listen: Address,
    peer_advertise: Address,
    initial_cluster: Vec<(String, Address)>,
    initial_cluster_state: InitialState,
    initial_cluster_token: String,
    join: Vec<Address>,
    force_new_cluster: bool,
    reserve_bytes: u64,
    timing: Timing,
    log_level: LogLevel,
    log_format: LogFormat,
    front: Option<Front>,
}

/// What differs between dialects. Who makes one sees to what [`ServerConfig`] promises of names and addresses.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) peer_listen: Address,
    pub(crate) peer_advertise: Address,
    /// Empty for this node alone.
    pub(crate) initial_cluster: Vec<(String, Address)>,
    pub(crate) initial_state: InitialState,
    pub(crate) join: Vec<Address>,
    pub(crate) force_new_cluster: bool,
    pub(crate) front: Option<Front>,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The user asked for this text (`--help`, `--version`): print it to stdout and exit with 0.
    #[error("{0}")]
    Information(String),
    /// A flag or a variable makes no sense: one line that names it, says why and what to do. Exit with 2.
    #[error("{0}")]
    Usage(String),
}

impl CommonArgs {
    /// The configuration of a node in this place.
    pub(crate) fn at(self, place: Place) -> Result<ServerConfig, ConfigError> {
        self.advertise_client_url.as_ref().map_or(Ok(()), |address| dialable("--advertise-client-url", address))?;
        let timing = timing(&self)?;
        let default_api = || place.front.is_none().then(|| Address::loopback(8080));
        let mut api_listen: Vec<_> = self.api_addr.or_else(default_api).into_iter().collect();
        api_listen.extend(self.client_url.filter(|url| !api_listen.contains(url)));
        let initial_cluster = match place.initial_cluster {
            list if list.is_empty() => vec![(place.name.clone(), place.peer_advertise.clone())],
            list => list,
        };
        Ok(ServerConfig {
            name: place.name,
            storage: place.storage,
            api_listen,
            api_advertise: self.advertise_client_url,
            peer_listen: place.peer_listen,
            peer_advertise: place.peer_advertise,
            initial_cluster,
            initial_cluster_state: place.initial_state,
            initial_cluster_token: self.initial_cluster_token,
            join: place.join,
            force_new_cluster: place.force_new_cluster,
            reserve_bytes: self.reserve_mib << 20,
            timing,
            log_level: self.log_level,
            log_format: self.log_format,
            front: place.front,
        })
    }
}

impl ServerConfig {
    /// Parses the flags of a node, the program's name first; the environment stands in for flags that are not there.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, ConfigError> {
        match Command::parse(args)? {
            Command::Serve(config) => Ok(*config),
            _ => Err(ConfigError::Usage("this is no command line of a node".to_owned())),
        }
    }

    pub(crate) fn from_args(args: NodeArgs) -> Result<Self, ConfigError> {
        if !is_name(&args.name) {
            return Err(bad("--name", &args.name, NAME_RULE));
        }
        let members = |list| initial_members("--initial-cluster", list, '=');
        let initial_cluster = args.initial_cluster.as_deref().map_or(Ok(Vec::new()), members)?;
        let own_entry = initial_cluster.iter().find(|(name, _)| *name == args.name).map(|(_, address)| address);
        if args.peer_url.port() == 0 {
            return Err(bad("--peer-url", &args.peer_url, "peers need to know the port; write another than 0"));
        }
        args.advertise_peer_url.as_ref().map_or(Ok(()), |address| dialable("--advertise-peer-url", address))?;
        args.join.iter().try_for_each(|address| dialable("--join", address))?;
        let new = matches!(args.initial_cluster_state, ClusterState::New) && args.join.is_empty();
        if new && !initial_cluster.is_empty() && own_entry.is_none() {
            let list = args.initial_cluster.as_deref().unwrap_or_default();
            let why = format!("this node, {:?}, is not in the list; add it, or set --name", args.name);
            return Err(bad("--initial-cluster", list, &why));
        }
        let peer_advertise = match (&args.advertise_peer_url, own_entry) {
            (Some(told), Some(listed)) if new && told != listed => {
                let why = format!("--initial-cluster lists {} at {listed}; write the same address in both", args.name);
                return Err(bad("--advertise-peer-url", told, &why));
            }
            (Some(told), _) => told.clone(),
            (None, Some(listed)) => listed.clone(),
            (None, None) if !args.peer_url.is_wildcard() => args.peer_url.clone(),
            (None, None) if new => args.peer_url.at_loopback(),
            (None, None) => {
                let why = "peers cannot dial every interface; set --advertise-peer-url to the address they reach";
                return Err(bad("--peer-url", &args.peer_url, why));
            }
        };
        args.common.at(Place {
            name: args.name,
            storage: match args.store {
                Store::Redb => Storage::Dir(args.data_dir),
                Store::Memory => Storage::Memory,
            },
            peer_listen: args.peer_url,
            peer_advertise,
            initial_cluster,
            initial_state: match args.initial_cluster_state {
                ClusterState::New => InitialState::New,
                ClusterState::Existing => InitialState::Existing,
            },
            join: args.join,
            force_new_cluster: args.force_new_cluster,
            front: None,
        })
    }

    /// The dialect that this node speaks beside the REST API, and where.
    pub(crate) fn front(&self) -> Option<&Front> {
        self.front.as_ref()
    }

    /// Where the REST API listens: one address or two; with a dialect, none unless one is asked for.
    pub fn api_listen(&self) -> &[Address] {
        &self.api_listen
    }

    /// How much is logged.
    pub fn log_level(&self) -> LogLevel {
        self.log_level
    }

    /// How a log line is written.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// The node's part of it. `api_bound` are the addresses that the API is bound to: they are what the node tells
    /// others unless `--advertise-client-url` says otherwise, a wildcard replaced by the host that peers dial.
    pub fn node_config(&self, api_bound: &[Address]) -> NodeConfig {
        let advertised = |bound: &Address| match bound.is_wildcard() {
            true => bound.at_host_of(&self.peer_advertise).to_string(),
            false => bound.to_string(),
        };
        let api_addrs = match &self.api_advertise {
            Some(address) => vec![address.to_string()],
            None => api_bound.iter().map(advertised).collect(),
        };
        let members = self.initial_cluster.iter().map(|(name, address)| (name.clone(), vec![address.to_string()]));
        let mut config = NodeConfig::new(&self.name, self.storage.clone(), &self.peer_listen.to_string());
        config.peer_addrs = vec![self.peer_advertise.to_string()];
        config.api_addrs = api_addrs;
        config.founding = FoundingList { token: self.initial_cluster_token.clone(), members: members.collect() };
        config.initial_state = self.initial_cluster_state;
        config.join = self.join.iter().map(Address::to_string).collect();
        config.force_new_cluster = self.force_new_cluster;
        config.reserve_bytes = self.reserve_bytes;
        config.timing = self.timing;
        config
    }
}

/// What [`is_name`] asks for.
pub(crate) const NAME_RULE: &str = "a name is not empty and has no '=', ',' or control character";

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| matches!(c, '=' | ',') || c.is_control())
}

pub(crate) fn bad(flag: &str, value: &(impl ToString + ?Sized), why: &str) -> ConfigError {
    ConfigError::Usage(format!("{flag} {:?}: {why}", value.to_string()))
}

pub(crate) fn dialable(flag: &str, address: &Address) -> Result<(), ConfigError> {
    if address.is_wildcard() || address.port() == 0 {
        return Err(bad(flag, address, "nobody can dial this; write the host and the port that others reach"));
    }
    Ok(())
}

/// The members in a list of `name=address`, or with another character between the two.
pub(crate) fn initial_members(flag: &str, list: &str, between: char) -> Result<Vec<(String, Address)>, ConfigError> {
    let mut members: Vec<(String, Address)> = Vec::new();
    for entry in list.split(',') {
        let Some((name, address)) = entry.split_once(between).filter(|(name, _)| is_name(name)) else {
            let why =
                format!("an entry is name{between}address; write n1{between}10.0.0.1:2380,n2{between}10.0.0.2:2380,…");
            return Err(bad(flag, entry, &why));
        };
        let address: Address = address.parse().map_err(|error| bad(flag, entry, &format!("{error}")))?;
        dialable(flag, &address)?;
        if members.iter().any(|(n, a)| n == name || *a == address) {
            return Err(bad(flag, entry, "the name or the address is in the list twice; remove one of them"));
        }
        members.push((name.to_owned(), address));
    }
    Ok(members)
}

fn timing(args: &CommonArgs) -> Result<Timing, ConfigError> {
    let (heartbeat, min, max) = (args.heartbeat_ms, args.election_timeout_min_ms, args.election_timeout_max_ms);
    Timing::new(heartbeat, min, max).map_err(|error| {
        let (flag, value) = match error {
            TimingError::NoHeartbeat => ("--heartbeat-ms", heartbeat),
            TimingError::ElectionTooShort { .. } => ("--election-timeout-min-ms", min),
            TimingError::NoSpread { .. } | TimingError::TooLong => ("--election-timeout-max-ms", max),
        };
        bad(flag, &value, &format!("{error}; change it or --heartbeat-ms and the other timeout"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<ServerConfig, ConfigError> {
        ServerConfig::parse(std::iter::once("quorate").chain(args.split_whitespace()))
    }

    fn node(args: &str) -> NodeConfig {
        let config = parse(args).expect(args);
        config.node_config(config.api_listen())
    }

    #[test]
    fn no_flag_is_a_durable_single_node_on_loopback() {
        let config = node("");
        assert_eq!(config.name, "default");
        assert_eq!(config.peer_listen, "127.0.0.1:2380");
        assert_eq!(config.peer_addrs, ["127.0.0.1:2380"]);
        assert_eq!(config.api_addrs, ["127.0.0.1:8080"]);
        assert_eq!(config.founding.members, [("default".to_owned(), vec!["127.0.0.1:2380".to_owned()])].into());
        assert_eq!(config.initial_state, InitialState::New);
        assert_eq!(config.storage, Storage::Dir("./data".into()));
    }

    #[test]
    fn the_seed_command_line_works() {
        let config = node(
            "-name n2 -data-dir ./data/n2 -client-url http://127.0.0.1:2381 -peer-url=http://127.0.0.1:2382 \
             -api-addr :8081 -initial-cluster n1=http://127.0.0.1:2380,n2=http://127.0.0.1:2382 \
             -initial-cluster-token raftbase-demo",
        );
        assert_eq!(config.name, "n2");
        assert_eq!(config.peer_addrs, ["127.0.0.1:2382"]);
        assert_eq!(config.api_addrs, ["127.0.0.1:8081", "127.0.0.1:2381"]);
        assert_eq!(config.founding.members.len(), 2);
        assert_eq!(config.founding.token, "raftbase-demo");
    }

    #[test]
    fn what_is_advertised() {
        let listed =
            node("--name a --peer-url :2380 --api-addr :80 --initial-cluster a=a.example:2380,b=b.example:2380");
        assert_eq!(listed.peer_addrs, ["a.example:2380"]);
        assert_eq!(listed.api_addrs, ["a.example:80"]);
        assert_eq!(node("--peer-url :2380").peer_addrs, ["127.0.0.1:2380"]);
        let told = node("--advertise-peer-url p:1 --advertise-client-url c:2");
        assert_eq!((told.peer_addrs, told.api_addrs), (vec!["p:1".to_owned()], vec!["c:2".to_owned()]));
        let joining = "--initial-cluster-state existing --initial-cluster a=a:1 --name b --peer-url b:2";
        assert_eq!(node(joining).peer_addrs, ["b:2"]);
        assert_eq!(node(joining).founding.members.len(), 1);
        assert_eq!(parse("--client-url 127.0.0.1:8080").expect("valid").api_listen().len(), 1);
    }

    #[test]
    fn a_bad_flag_is_one_line_that_names_it() {
        for (args, parts) in [
            ("--nme x", &["--nme", "--name"][..]),
            ("-nme x", &["--nme", "--name"]),
            ("stray", &["stray"]),
            ("--name", &["--name", "value"]),
            ("--name a=b", &["--name \"a=b\"", "="]),
            ("--api-addr localhost", &["--api-addr", "localhost", "port"]),
            ("--api-addr https://a:1", &["--api-addr", "https"]),
            ("--peer-url 127.0.0.1:0", &["--peer-url", "0"]),
            ("--advertise-peer-url :2380", &["--advertise-peer-url", "0.0.0.0:2380"]),
            ("--advertise-client-url a:0", &["--advertise-client-url", "a:0"]),
            ("--advertise-peer-url b:1 --initial-cluster default=a:1", &["--advertise-peer-url", "a:1", "b:1"]),
            ("--initial-cluster a=a:1", &["--initial-cluster", "\"default\"", "--name"]),
            ("--initial-cluster a=a:1 --advertise-peer-url b:1", &["--initial-cluster", "\"default\"", "--name"]),
            ("--initial-cluster a", &["--initial-cluster \"a\"", "name=address"]),
            ("--initial-cluster default=a:1,", &["--initial-cluster \"\"", "name=address"]),
            ("--initial-cluster default=a:1,default=b:1", &["default=b:1", "twice"]),
            ("--initial-cluster default=a:1,b=a:1", &["b=a:1", "twice"]),
            ("--initial-cluster default=:1", &["--initial-cluster", "0.0.0.0:1"]),
            ("--initial-cluster-state maybe", &["--initial-cluster-state", "maybe", "new, existing"]),
            ("--initial-cluster-state existing --peer-url :1", &["--peer-url", "--advertise-peer-url"]),
            ("--join n1:2380 --initial-cluster default=a:1", &["--join", "--initial-cluster"]),
            ("--join :2380", &["--join", "0.0.0.0:2380"]),
            ("--join n1", &["--join", "n1", "port"]),
            ("--join n1:1 --peer-url :1", &["--peer-url", "--advertise-peer-url"]),
            ("--store boltdb", &["--store", "boltdb", "redb, memory"]),
            ("--heartbeat-ms 0", &["--heartbeat-ms", "0"]),
            ("--heartbeat-ms -1", &["--heartbeat-ms", "-1"]),
            ("--heartbeat-ms soon", &["--heartbeat-ms", "soon"]),
            ("--heartbeat-ms 150", &["--election-timeout-min-ms \"250\"", "150 ms", "--heartbeat-ms"]),
            ("--election-timeout-max-ms 200", &["--election-timeout-max-ms \"200\"", "250 ms"]),
            ("--reserve-mib 16", &["--reserve-mib", "16", "32"]),
            ("--log-level loud", &["--log-level", "loud", "error, warn, info, debug, trace"]),
            ("--log-format xml", &["--log-format", "xml", "json, text"]),
        ] {
            let Err(ConfigError::Usage(line)) = parse(args) else { panic!("{args} was taken") };
            assert_eq!(line.lines().count(), 1, "{line}");
            for part in parts {
                assert!(line.contains(part), "{args}: {part:?} is not in {line:?}");
            }
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for args in ["--help", "-h", "-help", "--version", "-V", "-version"] {
            assert!(matches!(parse(args), Err(ConfigError::Information(_))), "{args}");
        }
    }

    #[test]
    fn a_node_that_joins() {
        let config = node("--name n4 --join n1:2380,http://n2:2380 --peer-url n4:2380");
        assert_eq!(config.join, ["n1:2380", "n2:2380"]);
        assert_eq!(config.peer_addrs, ["n4:2380"]);
    }
}

//! `quorate bench`: clients that each have one request under way, and how fast a running cluster answers them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request};
use clap::{Args, ValueEnum, value_parser};
use hdrhistogram::Histogram;
use http_body_util::BodyExt;
use hyper::client::conn::http1::SendRequest;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::client::{self, ClientError};

/// Longer than any node takes for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before a connection that broke is opened again.
const RECONNECT: Duration = Duration::from_millis(50);
/// Of latencies: 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;
/// What every key begins with.
const PREFIX: &str = "bench-";

/// What load, on whom.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Addresses of the REST API, separated by commas; the clients are spread over them
    #[arg(
        long,
        env = "QUORATE_API",
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    api: Vec<Address>,
    /// Clients: each has a connection of its own, and one request under way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How long to measure, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long the clients work before anything is counted, in seconds
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = value_parser!(u64).range(0..=3_600))]
    warm_up: u64,
    /// Of 100 operations so many read; if there are any, all keys are written first
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100))]
    reads: u32,
    /// What a read asks for
    #[arg(long, value_enum, default_value_t = ReadKind::Linearizable)]
    consistency: ReadKind,
    /// How many keys, each as likely as the others; they stay in the store, as bench-…
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..))]
    keys: u64,
    /// Size of a key, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 32, value_parser = value_parser!(u32).range(26..=1_024))]
    key_bytes: u32,
    /// Size of a value, a JSON string, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = value_parser!(u32).range(2..=(64 << 20)))]
    value_bytes: u32,
    /// Print JSON rather than a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReadKind {
    Linearizable,
    Stale,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A node is not there.
    #[error("{0}; set --api to the API of nodes that run")]
    Unreachable(String),
    /// Nothing succeeded, and the first complaint.
    #[error("no operation succeeded: {0}")]
    Nothing(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
}

/// What happened to one kind of operation.
struct Tally {
    /// Of those that succeeded, in microseconds.
    latencies: Histogram<u64>,
    errors: u64,
}

/// What happened since the warm-up.
struct Tallies {
    put: Tally,
    get: Tally,
    complaint: Option<String>,
}

/// One row of the outcome; latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Row {
    operation: &'static str,
    clients: u32,
    seconds: f64,
    succeeded: u64,
    errors: u64,
    per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Tally {
    fn new() -> Self {
        let latencies = Histogram::new(SIGNIFICANT_DIGITS).expect("so many digits are possible");
        Self { latencies, errors: 0 }
    }

    fn row(&self, operation: &'static str, clients: u32, elapsed: Duration) -> Row {
        let (latencies, seconds) = (&self.latencies, elapsed.as_secs_f64());
        let ms = |micros: u64| micros as f64 / 1_000.0;
        let at = |quantile| ms(latencies.value_at_quantile(quantile));
        Row {
            operation,
            clients,
            seconds,
            succeeded: latencies.len(),
            errors: self.errors,
            per_second: latencies.len() as f64 / seconds,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(latencies.max()),
        }
    }
}

impl Tallies {
    fn new() -> Self {
        Self { put: Tally::new(), get: Tally::new(), complaint: None }
    }

    fn note(&mut self, operation: Operation, latency: Duration, outcome: Result<(), String>) {
        let tally = match operation {
            Operation::Put => &mut self.put,
            Operation::Get => &mut self.get,
        };
        match outcome {
            // A histogram that grows by itself takes whatever is recorded.
            Ok(()) => drop(tally.latencies.record(latency.as_micros().try_into().unwrap_or(u64::MAX))),
            Err(complaint) => {
                tally.errors += 1;
                self.complaint.get_or_insert(complaint);
            }
        }
    }

    fn done(&self) -> u64 {
        self.put.latencies.len() + self.get.latencies.len()
    }
}

fn lock(tallies: &Mutex<Tallies>) -> MutexGuard<'_, Tallies> {
    tallies.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client's connection.
struct Connection {
    to: Address,
    sender: SendRequest<Body>,
}

impl Connection {
    async fn open(to: &Address) -> Result<Self, ClientError> {
        let (sender, connection) = client::connect(to).await?;
        // It ends with the sender; whatever is wrong with it the next request tells.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { to: to.clone(), sender })
    }

    /// Sends a request, and takes the whole answer.
    async fn exchange(&mut self, method: &Method, target: &str, body: Option<&str>) -> Result<(), String> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_owned()));
        let request = Request::builder().method(method).uri(target).header("host", self.to.to_string());
        let request = request.header("content-type", "application/json").body(body).map_err(|e| e.to_string())?;
        let answered = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head.status, body.collect().await?.to_bytes()))
        };
        match tokio::time::timeout(PATIENCE, answered).await {
            Err(_) => Err(format!("{} gave no answer within {} s", self.to, PATIENCE.as_secs())),
            Ok(Err(error)) => Err(format!("{}: {error}", self.to)),
            Ok(Ok((status, _))) if status.is_success() => Ok(()),
            Ok(Ok((status, body))) => {
                let answer = client::Answer { status: status.as_u16(), body };
                Err(format!("{}: {} ({status})", self.to, answer.complaint()))
            }
        }
    }

    /// The same; after an error on a connection of its own.
    async fn exchange_or_reopen(&mut self, method: &Method, target: &str, body: Option<&str>) -> Result<(), String> {
        let outcome = self.exchange(method, target, body).await;
        if outcome.is_err() {
            tokio::time::sleep(RECONNECT).await;
            if let Ok(opened) = Self::open(&self.to).await {
                *self = opened;
            }
        }
        outcome
    }
}

impl Bench {
    /// Runs the load, telling its progress on stderr, and returns what to print.
    ///
    /// # Errors
    /// See [`BenchError`].
    pub async fn run(self) -> Result<String, BenchError> {
        let bench = Arc::new(self);
        let mut connections = Vec::new();
        for client in 0..bench.clients as usize {
            let opened = Connection::open(&bench.api[client % bench.api.len()]).await;
            connections.push(opened.map_err(|error| BenchError::Unreachable(error.to_string()))?);
        }
        if bench.reads > 0 {
            eprintln!("writing {} keys", bench.keys);
            connections = bench.clone().fill(connections).await?;
        }
        let (tallies, begun) = (Arc::new(Mutex::new(Tallies::new())), Instant::now());
        let counts_from = begun + Duration::from_secs(bench.warm_up);
        let ends = counts_from + Duration::from_secs(bench.seconds);
        let mut clients = JoinSet::new();
        for (number, connection) in (0..).zip(connections) {
            clients.spawn(bench.clone().work(number, connection, tallies.clone(), counts_from, ends));
        }
        let told = tokio::spawn(progress(tallies.clone(), bench.warm_up, bench.seconds));
        clients.join_all().await;
        told.abort();
        let elapsed = counts_from.elapsed();
        bench.outcome(&lock(&tallies), elapsed)
    }

    /// Writes every key once.
    async fn fill(self: Arc<Self>, connections: Vec<Connection>) -> Result<Vec<Connection>, BenchError> {
        let (mut clients, value) = (JoinSet::new(), self.value());
        for (number, mut connection) in (0..).zip(connections) {
            let (bench, value) = (self.clone(), value.clone());
            clients.spawn(async move {
                for key in (number..bench.keys).step_by(bench.clients as usize) {
                    connection.exchange(&Method::PUT, &bench.target(Operation::Put, key), Some(&value)).await?;
                }
                Ok(connection)
            });
        }
        let connections: Result<Vec<_>, String> = clients.join_all().await.into_iter().collect();
        connections.map_err(BenchError::Nothing)
    }

    async fn work(
        self: Arc<Self>,
        number: u64,
        mut connection: Connection,
        tallies: Arc<Mutex<Tallies>>,
        counts_from: Instant,
        ends: Instant,
    ) {
        let (mut rng, value) = (SmallRng::seed_from_u64(number), self.value());
        loop {
            let operation = if rng.random_range(0..100) < self.reads { Operation::Get } else { Operation::Put };
            let target = self.target(operation, rng.random_range(0..self.keys));
            let begun = Instant::now();
            if begun >= ends {
                return;
            }
            let outcome = match operation {
                Operation::Put => connection.exchange_or_reopen(&Method::PUT, &target, Some(&value)).await,
                Operation::Get => connection.exchange_or_reopen(&Method::GET, &target, None).await,
            };
            if begun >= counts_from {
                lock(&tallies).note(operation, begun.elapsed(), outcome);
            }
        }
    }

    fn target(&self, operation: Operation, key: u64) -> String {
        let width = self.key_bytes as usize - PREFIX.len();
        let query = match (operation, self.consistency) {
            (Operation::Get, ReadKind::Stale) => "?consistency=stale",
            _ => "",
        };
        format!("/kv/{PREFIX}{key:0width$}{query}")
    }

    fn value(&self) -> String {
        format!("\"{}\"", "x".repeat(self.value_bytes as usize - 2))
    }

    fn outcome(&self, tallies: &Tallies, elapsed: Duration) -> Result<String, BenchError> {
        if tallies.done() == 0 {
            return Err(BenchError::Nothing(tallies.complaint.clone().unwrap_or_else(|| "there was no time".into())));
        }
        let rows = [("put", &tallies.put), ("get", &tallies.get)].into_iter();
        let rows = rows.filter(|(_, tally)| tally.errors > 0 || !tally.latencies.is_empty());
        let rows: Vec<Row> = rows.map(|(name, tally)| tally.row(name, self.clients, elapsed)).collect();
        if let Some(complaint) = &tallies.complaint {
            eprintln!("the first error: {complaint}");
        }
        Ok(if self.json { serde_json::to_string(&rows).expect("rows are JSON") + "\n" } else { table(&rows) })
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<9} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
        "OPERATION", "CLIENTS", "PER SECOND", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS", "ERRORS"
    );
    for row in rows {
        let Row { operation, clients, per_second, p50_ms, p90_ms, p99_ms, p999_ms, max_ms, errors, .. } = row;
        text += &format!(
            "{operation:<9} {clients:>8} {per_second:>10.0} {p50_ms:>9.2} {p90_ms:>9.2} {p99_ms:>9.2} {p999_ms:>9.2} \
             {max_ms:>9.2} {errors:>7}\n"
        );
    }
    text
}

/// A line a second.
async fn progress(tallies: Arc<Mutex<Tallies>>, warm_up: u64, seconds: u64) {
    let mut before = 0;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.tick().await;
    for second in 1..=warm_up + seconds {
        every.tick().await;
        if second <= warm_up {
            eprintln!("warming up: {second} of {warm_up} s");
            continue;
        }
        let tallies = lock(&tallies);
        let (done, errors) = (tallies.done(), tallies.put.errors + tallies.get.errors);
        eprintln!("{} of {seconds} s: {} operations/s, {errors} errors", second - warm_up, done - before);
        before = done;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn bench(line: &str) -> Bench {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).expect("it is right").bench
    }

    #[test]
    fn keys_and_values_have_the_size_that_was_asked_for() {
        let bench = bench("--key-bytes 26 --value-bytes 9 --consistency stale");
        assert_eq!(bench.value(), "\"xxxxxxx\"");
        let key = bench.target(Operation::Put, u64::MAX);
        assert_eq!((key.len() - "/kv/".len(), key.as_str()), (26, "/kv/bench-18446744073709551615"));
        assert!(bench.target(Operation::Get, 7).ends_with("07?consistency=stale"));
    }

    #[test]
    fn the_outcome_has_what_was_noted() {
        let (bench, mut tallies) = (bench("--json --clients 3"), Tallies::new());
        let nothing = bench.outcome(&tallies, Duration::from_secs(1)).expect_err("there is nothing");
        assert!(nothing.to_string().contains("no operation succeeded"));
        for ms in 1..=100 {
            tallies.note(Operation::Put, Duration::from_millis(ms), Ok(()));
        }
        tallies.note(Operation::Put, Duration::from_secs(9), Err("lost".into()));
        let text = bench.outcome(&tallies, Duration::from_secs(2)).expect("there is something");
        let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let row = &rows[0];
        assert_eq!((rows.as_array().map(Vec::len), row["operation"].as_str()), (Some(1), Some("put")));
        assert_eq!((row["succeeded"].as_u64(), row["errors"].as_u64()), (Some(100), Some(1)));
        assert_eq!((row["clients"].as_u64(), row["per_second"].as_f64()), (Some(3), Some(50.0)));
        let p99 = row["p99_ms"].as_f64().expect("a number");
        assert!((98.9..99.2).contains(&p99), "{p99}");
        assert!(table(&[tallies.put.row("put", 3, Duration::from_secs(2))]).lines().count() == 2);
    }
}

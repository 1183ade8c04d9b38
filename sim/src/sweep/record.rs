//! A sweep as JSON, and many of them as one.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::share::{Share, Stretch};
use super::{Summary, add};
use crate::plan::Plan;
use crate::rng::SplitMix;
use crate::run::{Stats, run};

/// Of the form of the JSON.
const FORMAT: u64 = 1;

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError(String);

impl RecordError {
    pub(super) fn new(what: String) -> Self {
        Self(what)
    }
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run that violated a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The property.
    pub property: String,
    /// What contradicts it.
    pub explanation: String,
}

/// What a sweep amounted to, in a form that can be added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRecord {
    /// Of the simulator.
    pub version: String,
    /// The trace hash of one seed: the same wherever the same code runs.
    pub fingerprint: u64,
    /// What ran.
    pub ran: Vec<Stretch>,
    /// Seeds.
    pub seeds: u64,
    /// Over the trace hashes of all seeds, in any order.
    pub hash: u64,
    /// Milliseconds times threads.
    pub core_ms: u64,
    /// All figures, summed.
    pub stats: Stats,
    /// By seed.
    pub failures: Vec<Failure>,
}

/// What code a sweep runs: its version, and how one seed went.
fn fingerprint() -> (String, u64) {
    (env!("CARGO_PKG_VERSION").to_owned(), run(&Plan::draw(0), 0).hash)
}

impl SweepRecord {
    /// Of a sweep over a share of `seeds`. Runs one seed more, to know the code again.
    pub fn new(seeds: &Range<u64>, share: Share, summary: &Summary) -> Self {
        let (version, fingerprint) = fingerprint();
        let mixed = |(seed, hash): (&u64, &u64)| SplitMix::new(seed ^ hash.rotate_left(32)).next();
        let stretch = Stretch { seeds: seeds.start..summary.end, share };
        let failures = summary.failures.iter().filter_map(|report| {
            let violation = report.violation.as_ref()?;
            let (property, explanation) = (violation.property.to_owned(), violation.explanation.clone());
            Some(Failure { seed: report.seed, property, explanation })
        });
        let mut failures: Vec<Failure> = failures.collect();
        failures.sort_by_key(|failure| failure.seed);
        Self {
            version,
            fingerprint,
            ran: Some(stretch).filter(|stretch| stretch.count() > 0).into_iter().collect(),
            seeds: summary.seeds,
            hash: summary.hashes.iter().map(mixed).fold(0, u64::wrapping_add),
            core_ms: summary.elapsed.as_millis() as u64 * summary.jobs,
            stats: summary.stats.clone(),
            failures,
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        let Stats { simulated_ns, acknowledged, unknown, not_applied, restarts, inconclusive, .. } = self.stats;
        let stretch = |s: &Stretch| json!({ "seeds": [s.seeds.start, s.seeds.end], "shard": s.share.to_string() });
        let failure = |f: &Failure| json!({ "seed": f.seed, "property": f.property, "explanation": f.explanation });
        let value = json!({
            "format": FORMAT,
            "version": self.version,
            "fingerprint": format!("{:016x}", self.fingerprint),
            "ran": self.ran.iter().map(stretch).collect::<Vec<_>>(),
            "seeds": self.seeds,
            "hash": format!("{:016x}", self.hash),
            "core_ms": self.core_ms,
            "figures": {
                "simulated_ns": simulated_ns, "acknowledged": acknowledged, "unknown": unknown,
                "not_applied": not_applied, "restarts": restarts, "inconclusive": inconclusive,
            },
            "faults": self.stats.faults,
            "reached": self.stats.reached,
            "disk": self.stats.disk,
            "points": self.stats.points,
            "net": self.stats.net,
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }

    /// Reads what [`SweepRecord::to_json`] wrote.
    ///
    /// # Errors
    /// What is missing, or is not what it should be.
    pub fn from_json(text: &str) -> Result<Self, RecordError> {
        let value: Value = serde_json::from_str(text).map_err(|e| RecordError(format!("it is not JSON: {e}")))?;
        let top = Fields(value.as_object().ok_or_else(|| RecordError("it is no JSON object".to_owned()))?);
        match top.number("format")? {
            FORMAT => {}
            other => return Err(RecordError(format!("its format is {other}, and this program reads {FORMAT}"))),
        }
        let figures = Fields(top.object("figures")?);
        let stats = Stats {
            simulated_ns: figures.number("simulated_ns")?,
            acknowledged: figures.number("acknowledged")?,
            unknown: figures.number("unknown")?,
            not_applied: figures.number("not_applied")?,
            restarts: figures.number("restarts")?,
            inconclusive: figures.number("inconclusive")?,
            faults: top.counts("faults")?,
            reached: top.counts("reached")?,
            disk: top.counts("disk")?,
            points: top.counts("points")?,
            net: top.counts("net")?,
        };
        Ok(Self {
            version: top.text("version")?.to_owned(),
            fingerprint: top.hex("fingerprint")?,
            ran: top.list("ran")?.iter().map(stretch).collect::<Result<_, _>>()?,
            seeds: top.number("seeds")?,
            hash: top.hex("hash")?,
            core_ms: top.number("core_ms")?,
            stats,
            failures: top.list("failures")?.iter().map(failure).collect::<Result<_, _>>()?,
        })
    }
}

/// The fields of an object, each by its name.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get<T>(&self, name: &str, what: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T, RecordError> {
        let value = self.0.get(name).ok_or_else(|| RecordError(format!("it has no {name:?}")))?;
        read(value).ok_or_else(|| RecordError(format!("its {name:?} is not {what}")))
    }

    fn number(&self, name: &str) -> Result<u64, RecordError> {
        self.get(name, "a number", Value::as_u64)
    }

    fn text(&self, name: &str) -> Result<&'a str, RecordError> {
        self.get(name, "a text", Value::as_str)
    }

    fn hex(&self, name: &str) -> Result<u64, RecordError> {
        self.get(name, "a number of 16 hexadecimal digits", |v| u64::from_str_radix(v.as_str()?, 16).ok())
    }

    fn list(&self, name: &str) -> Result<&'a Vec<Value>, RecordError> {
        self.get(name, "a list", Value::as_array)
    }

    fn object(&self, name: &str) -> Result<&'a Map<String, Value>, RecordError> {
        self.get(name, "an object", Value::as_object)
    }

    fn counts(&self, name: &str) -> Result<BTreeMap<&'static str, u64>, RecordError> {
        let counts = self.object(name)?.iter().map(|(what, count)| {
            let count = count.as_u64().ok_or_else(|| RecordError(format!("{what:?} in its {name:?} is no number")))?;
            // There are few different ones, and they are needed until the program ends.
            Ok((&*what.clone().leak(), count))
        });
        counts.collect()
    }
}

fn fields(value: &Value) -> Result<Fields<'_>, RecordError> {
    value.as_object().map(Fields).ok_or_else(|| RecordError("one of its lists holds something else".to_owned()))
}

fn stretch(value: &Value) -> Result<Stretch, RecordError> {
    let fields = fields(value)?;
    let seeds = fields.get("seeds", "two numbers that rise", |value| {
        let [start, end] = value.as_array()?.as_slice() else { return None };
        let (start, end) = (start.as_u64()?, end.as_u64()?);
        (start < end).then_some(start..end)
    })?;
    let share = fields.text("shard")?.parse().map_err(|e| RecordError(format!("its \"shard\": {e}")))?;
    Ok(Stretch { seeds, share })
}

fn failure(value: &Value) -> Result<Failure, RecordError> {
    let fields = fields(value)?;
    let text = |name| fields.text(name).map(str::to_owned);
    Ok(Failure { seed: fields.number("seed")?, property: text("property")?, explanation: text("explanation")? })
}

/// Several sweeps as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Their sum.
    pub record: SweepRecord,
    /// From the first seed to the last, how many did not run.
    pub missing: u64,
}

/// Adds sweeps up; each has a name, for errors.
///
/// # Errors
/// There are none; they are not of the same code; or a seed ran in two of them, or may have.
pub fn merge(records: Vec<(String, SweepRecord)>) -> Result<Merged, RecordError> {
    let mut records = records.into_iter();
    let (first, mut sum) = records.next().ok_or_else(|| RecordError("there is nothing to merge".to_owned()))?;
    let mut names = vec![(first.clone(), sum.ran.clone())];
    for (name, record) in records {
        let of = |r: &SweepRecord| format!("version {} (seed 0 hashes to {:016x})", r.version, r.fingerprint);
        if (&record.version, record.fingerprint) != (&sum.version, sum.fingerprint) {
            let (one, other) = (of(&sum), of(&record));
            return Err(RecordError(format!("{first} is of {one}, {name} of {other}: merge sweeps of the same code")));
        }
        for (earlier, ran) in &names {
            disjoint((earlier, ran), (&name, &record.ran))?;
        }
        sum.seeds += record.seeds;
        sum.hash = sum.hash.wrapping_add(record.hash);
        sum.core_ms += record.core_ms;
        add(&mut sum.stats, &record.stats);
        sum.failures.extend(record.failures);
        names.push((name, record.ran));
    }
    sum.failures.sort_by_key(|failure| failure.seed);
    sum.ran = joined(names.into_iter().flat_map(|(_, ran)| ran).collect());
    let ends = sum.ran.iter().fold(None, |ends: Option<Range<u64>>, stretch| {
        let ends = ends.unwrap_or(stretch.seeds.clone());
        Some(ends.start.min(stretch.seeds.start)..ends.end.max(stretch.seeds.end))
    });
    let missing = ends.map_or(0, |ends| (ends.end - ends.start).saturating_sub(sum.seeds));
    Ok(Merged { record: sum, missing })
}

fn disjoint(one: (&str, &[Stretch]), other: (&str, &[Stretch])) -> Result<(), RecordError> {
    for a in one.1 {
        for b in other.1.iter().filter(|b| a.touches(b)) {
            let both = format!("{} ran {a}, {} ran {b}", one.0, other.0);
            if a.share.of != b.share.of {
                return Err(RecordError(format!("{both}: a range is split into one number of shards only")));
            }
            if a.share == b.share {
                return Err(RecordError(format!("{both}: these overlap")));
            }
        }
    }
    Ok(())
}

/// Shards that are complete become what they are shards of, and neighbours one stretch.
fn joined(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_by_key(|s| (s.seeds.start, s.seeds.end, s.share.of, s.share.index));
    let mut ranges: Vec<Vec<Stretch>> = Vec::new();
    for stretch in stretches {
        match ranges.last_mut().filter(|r| r[0].seeds == stretch.seeds && r[0].share.of == stretch.share.of) {
            Some(range) => range.push(stretch),
            None => ranges.push(vec![stretch]),
        }
    }
    let whole = |range: Vec<Stretch>| match range.len() as u64 == range[0].share.of {
        true => vec![Stretch { seeds: range[0].seeds.clone(), share: Share::WHOLE }],
        false => range,
    };
    let mut joined: Vec<Stretch> = Vec::new();
    for stretch in ranges.into_iter().flat_map(whole) {
        match joined.last_mut().filter(|last| last.share == stretch.share && last.seeds.end == stretch.seeds.start) {
            Some(last) => last.seeds.end = stretch.seeds.end,
            None => joined.push(stretch),
        }
    }
    joined
}

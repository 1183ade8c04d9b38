//! Recovers what a history's power losses leave behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::content::Image;
use super::disk::{Point, RecordingDisk};
use super::medium::Choices;
use super::model::Model;
use super::node::{CrashPlatform, Recovered, Storage, fresh};
use super::script::{History, go_on, record};
use super::{Effort, Plant};
use crate::SplitMix;
use crate::platform::SimRuntime;

/// What became of one history.
#[derive(Clone, Debug, Default)]
pub struct CrashReport {
    /// Its name.
    pub name: &'static str,
    /// Operations on the disk.
    pub operations: u64,
    /// Instants at which the power was lost: after every operation, and whenever the outside was told something.
    pub points: u64,
    /// Of them, those whose legal states were enumerated; the others were sampled.
    pub exhaustive: u64,
    /// The most combinations that a point had.
    pub combinations_max: u64,
    /// Legal states that were built.
    pub states: u64,
    /// Different ones, all of them recovered, and started again after going on.
    pub recovered: u64,
    /// Different states after a power loss during one of those recoveries, recovered too.
    pub second_level: u64,
    /// The first violation.
    pub violation: Option<String>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, operations, points, exhaustive, combinations_max, states, recovered, second_level, .. } = self;
        let sampled = points - exhaustive;
        let verdict = self.violation.as_deref().unwrap_or("no violation");
        write!(
            f,
            "{name}: {operations} operations, {points} points ({sampled} sampled), at most {combinations_max} \
             combinations; {states} states, {recovered} different ones recovered, {second_level} during recovery: {verdict}"
        )
    }
}

/// What recovery made of an image.
type Outcome = Result<Recovered, String>;

struct Explorer {
    with_store: bool,
    effort: Effort,
    rng: SplitMix,
    report: CrashReport,
    first: BTreeMap<u128, Outcome>,
    second: BTreeMap<u128, Outcome>,
    starts: u64,
}

pub(super) async fn explore(
    history: &'static History,
    effort: Effort,
    plant: Option<Plant>,
) -> Result<CrashReport, String> {
    let recording = record(history, plant).await?;
    let mut explorer = Explorer {
        with_store: history.store,
        effort,
        rng: SplitMix::labelled(1, history.name),
        report: CrashReport { name: history.name, ..CrashReport::default() },
        first: BTreeMap::new(),
        second: BTreeMap::new(),
        starts: 1000,
    };
    explorer.report.operations = recording.operations;
    let mut model = Model::new(history.store);
    let mut told = 0;
    let mut checked = BTreeSet::new();
    for (number, point) in recording.points.iter().enumerate() {
        recording.marks[told..point.marks].iter().for_each(|mark| model.mark(mark));
        if told != point.marks {
            checked.clear();
            told = point.marks;
        }
        if let Err(what) = explorer.point(point, &model, &mut checked).await {
            let after = recording.points[..=number].iter().rev().take(12).rev();
            let after: Vec<String> = after.map(|point| format!("    {}", point.what)).collect();
            explorer.report.violation =
                Some(format!("power lost at point {number}, after\n{}\n  {what}", after.join("\n")));
            break;
        }
    }
    Ok(explorer.report)
}

/// The states to try at a point: different ones only, by key; those that `known` has come without their image.
fn states(
    choices: &Choices<'_>,
    limit: u64,
    samples: usize,
    rng: &mut SplitMix,
    known: &BTreeMap<u128, Outcome>,
) -> (u64, bool, BTreeMap<u128, Option<Image>>) {
    let (mut built, mut found) = (0, BTreeMap::new());
    let mut each = |image: Image| {
        built += 1;
        let key = image.key();
        found.entry(key).or_insert_with(|| (!known.contains_key(&key)).then_some(image));
    };
    let exhaustive = choices.count() <= limit;
    if exhaustive {
        choices.each(&mut each)
    } else {
        choices.sample(samples, rng, &mut each)
    }
    (built, exhaustive, found)
}

impl Explorer {
    async fn point(&mut self, point: &Point, model: &Model, checked: &mut BTreeSet<u128>) -> Result<(), String> {
        let choices = point.medium.choices();
        let limit = if self.with_store { self.effort.exhaustive_store_max } else { self.effort.exhaustive_max };
        let (built, exhaustive, found) = states(&choices, limit, self.effort.samples, &mut self.rng, &self.first);
        self.report.points += 1;
        self.report.exhaustive += u64::from(exhaustive);
        self.report.combinations_max = self.report.combinations_max.max(choices.count());
        self.report.states += built;
        for (key, image) in found {
            if !checked.insert(key) {
                continue;
            }
            if let Some(image) = image {
                let outcome = self.examine(&image).await;
                self.report.recovered += 1;
                self.first.insert(key, outcome);
            }
            let recovered = self.first[&key].clone()?;
            model.check(&recovered)?;
        }
        Ok(())
    }

    fn platform(disk: &RecordingDisk) -> CrashPlatform {
        CrashPlatform::new(disk.clone())
    }

    async fn start(&mut self, disk: &RecordingDisk) -> Result<(Storage, Recovered), String> {
        self.starts += 1;
        if self.starts.is_multiple_of(64) {
            // Lets the tasks and timers of dropped nodes go.
            SimRuntime::sleep(Duration::from_millis(50)).await;
        }
        let opened = Storage::open(Self::platform(disk), self.with_store, fresh(self.starts)).await;
        let storage = opened.map_err(|refusal| format!("the node refuses to start: {}", refusal.text))?;
        let recovered = storage.recovered().await?;
        Ok((storage, recovered))
    }

    /// Inspects an image, starts on it, goes on, is killed and starts again.
    async fn examine(&mut self, image: &Image) -> Outcome {
        let disk = RecordingDisk::new(image, None);
        let every = if self.with_store { self.effort.second_level_every } else { 1 };
        let deeper = self.report.recovered.is_multiple_of(every);
        if deeper {
            disk.record();
        }
        if self.with_store
            && let Ok(inspection) = quorate_io::inspect(&disk, super::node::data_dir(), false)
            && let Some(damage) = inspection.damage
        {
            return Err(format!("`quorate inspect` calls it damaged: {damage}"));
        }
        let (storage, recovered) = self.start(&disk).await?;
        let points = disk.take_points();
        let expected = go_on(&storage, &recovered).await.map_err(|e| format!("it recovers and cannot go on: {e}"))?;
        let again = disk.kill();
        drop(storage);
        let (storage, after) = self.start(&again).await.map_err(|e| format!("at the next start, {e}"))?;
        again.kill();
        drop(storage);
        let same = (&after.identity, &after.log, &after.store, &after.founding)
            == (&expected.identity, &expected.log, &expected.store, &expected.founding);
        if !same || after.boot_epoch <= recovered.boot_epoch {
            return Err(format!("it recovers, goes on to {expected:?}, and is then {after:?}"));
        }
        if deeper {
            self.power_lost_again(&points, &recovered).await?;
        }
        Ok(recovered)
    }

    /// The power is lost again while a node recovers: the next start finds the same.
    async fn power_lost_again(&mut self, points: &[Point], recovered: &Recovered) -> Result<(), String> {
        let new_identity = recovered.identity == fresh(self.starts - 1);
        let limit = if self.with_store { 16 } else { self.effort.exhaustive_max };
        let mut checked = BTreeSet::new();
        for (number, point) in points.iter().enumerate() {
            let choices = point.medium.choices();
            let samples = self.effort.second_level_samples;
            let (_, _, found) = states(&choices, limit, samples, &mut self.rng, &self.second);
            for (key, image) in found {
                if !checked.insert(key) {
                    continue;
                }
                if let Some(image) = image {
                    let disk = RecordingDisk::new(&image, None);
                    let outcome = self.start(&disk).await.map(|(_, recovered)| recovered);
                    disk.kill();
                    self.report.second_level += 1;
                    self.second.insert(key, outcome);
                }
                let during = || format!("the power is lost again during recovery, after {:?}: ", points[number].what);
                let again = self.second[&key].as_ref().map_err(|e| during() + e)?;
                let same = (&again.log, &again.store, &again.founding)
                    == (&recovered.log, &recovered.store, &recovered.founding);
                if !same
                    || again.boot_epoch < recovered.boot_epoch
                    || (again.identity != recovered.identity && !new_identity)
                {
                    return Err(during() + &format!("it recovers {recovered:?} at first and {again:?} then"));
                }
            }
        }
        Ok(())
    }
}

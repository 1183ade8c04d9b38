//! Which plans can be run: everything that a person may have written into a file is checked before it is.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{DiskFault, Fault, FaultKind, Plan, PlanError, Setup, Workload};
use crate::platform::{Act, DRIFT_PPM_MAX};

/// More would take all day.
const OPERATIONS_MAX: u64 = 20_000;

fn wrong(field: &str, what: impl Display) -> PlanError {
    PlanError::Field { field: field.to_owned(), what: what.to_string() }
}

fn within(field: &str, value: impl Into<u64>, range: RangeInclusive<u64>) -> Result<(), PlanError> {
    let value = value.into();
    if range.contains(&value) {
        return Ok(());
    }
    Err(wrong(field, format_args!("{value} is not in {} to {}", range.start(), range.end())))
}

fn drift(field: &str, ppm: i64) -> Result<(), PlanError> {
    if (-DRIFT_PPM_MAX..=DRIFT_PPM_MAX).contains(&ppm) {
        return Ok(());
    }
    Err(wrong(field, format_args!("{ppm} is not in -{DRIFT_PPM_MAX} to {DRIFT_PPM_MAX}")))
}

impl Plan {
    /// Whether it can be run: what it names exists, and what is demanded of its nodes after the healing can be.
    ///
    /// # Errors
    /// The first field that is wrong, and why.
    pub fn check(&self) -> Result<(), PlanError> {
        within("nodes", self.nodes, 1..=9)?;
        within("spares", self.spares, 0..=4)?;
        within("heal_ms", self.heal_ms, 1..=3_600_000)?;
        self.setup.check(self.nodes)?;
        self.workload.check()?;
        self.core.check(self.nodes).map_err(|what| wrong("core", what))?;
        let mut last_ms = 0;
        for (number, fault) in self.faults.iter().enumerate() {
            let field = format!("faults[{number}]");
            fault.check(&field, self)?;
            if fault.at_ms < last_ms {
                return Err(wrong(&field, "begins before the one in front of it"));
            }
            last_ms = fault.at_ms;
        }
        Ok(())
    }
}

impl Setup {
    /// The limits are such that whole nodes serve in time.
    fn check(&self, nodes: u32) -> Result<(), PlanError> {
        within("setup.snapshot_every_entries", self.snapshot_every_entries, 1..=1_000_000)?;
        within("setup.keep_entries", self.keep_entries, 0..=1_000_000)?;
        // A node sets aside 1 MiB for when its disk is full, and a segment must fit into it.
        within("setup.segment_kib", self.segment_kib, 32..=512)?;
        within("setup.cache_bytes", self.cache_bytes as u64, 0..=1 << 30)?;
        within("setup.store_cache_bytes", self.store_cache_bytes as u64, 0..=1 << 30)?;
        within("setup.latency_us", self.latency_us, 0..=10_000)?;
        within("setup.heartbeat_ms", self.heartbeat_ms, 50..=300)?;
        within("setup.sync_us_max", self.sync_us_max, 0..=50_000)?;
        within("setup.us_per_kib", self.us_per_kib, 0..=300)?;
        within("setup.sync_stall_per_mille", self.sync_stall_per_mille, 0..=30)?;
        if self.clocks.len() > nodes as usize {
            return Err(wrong("setup.clocks", format_args!("{} clocks for {nodes} nodes", self.clocks.len())));
        }
        for (number, clock) in self.clocks.iter().enumerate() {
            within(&format!("setup.clocks[{number}].offset_ms"), clock.offset_ms, 0..=1_000_000_000)?;
            drift(&format!("setup.clocks[{number}].drift_ppm"), clock.drift_ppm)?;
        }
        Ok(())
    }
}

impl Workload {
    fn check(&self) -> Result<(), PlanError> {
        within("workload.clients", self.clients, 1..=100)?;
        within("workload.keys", self.keys, 1..=1_000)?;
        within("workload.burst_ops", self.burst_ops, 0..=OPERATIONS_MAX)?;
        let operations = self.operations();
        if operations > OPERATIONS_MAX {
            let what =
                format_args!("clients, bursts and burst_ops make {operations} operations, at most {OPERATIONS_MAX} go");
            return Err(wrong("workload", what));
        }
        for (number, at_ms) in self.bursts_ms.iter().enumerate() {
            within(&format!("workload.bursts_ms[{number}]"), *at_ms, 0..=3_600_000)?;
        }
        within("workload.pause_ms_max", self.pause_ms_max, 0..=60_000)?;
        within("workload.read_per_mille", self.read_per_mille, 0..=1_000)?;
        within("workload.stale_per_mille", self.stale_per_mille, 0..=1_000)?;
        within("workload.delete_per_mille", self.delete_per_mille, 0..=1_000)?;
        within("workload.crash_per_mille", self.crash_per_mille, 0..=1_000)?;
        within("workload.retry_per_mille", self.retry_per_mille, 0..=1_000)?;
        // A command holds 64 KiB.
        within("workload.padding_bytes", self.padding_bytes as u64, 0..=60_000)
    }
}

impl Fault {
    fn check(&self, field: &str, plan: &Plan) -> Result<(), PlanError> {
        within(&format!("{field}.at_ms"), self.at_ms, 0..=plan.heal_ms)?;
        within(
            &format!("{field}.for_ms, which ends at heal_ms at the latest,"),
            self.for_ms,
            0..=plan.heal_ms - self.at_ms,
        )?;
        let field = &format!("{field}.kind");
        let named = self.kind.nodes();
        for node in &named {
            if !(1..=plan.machines()).contains(node) {
                let what = format_args!("there is no node {node}, nodes are 1 to {} ({})", plan.machines(), self.kind);
                return Err(wrong(field, what));
            }
        }
        if named.iter().collect::<BTreeSet<_>>().len() < named.len() {
            return Err(wrong(field, format_args!("names a node twice ({})", self.kind)));
        }
        match &self.kind {
            FaultKind::Disk(_) | FaultKind::DiskStall(_) if plan.setup.memory => {
                Err(wrong(field, format_args!("there are no disks where everything is in memory ({})", self.kind)))
            }
            FaultKind::Latency(ms) => within(field, *ms, 0..=10_000),
            FaultKind::ClockStep(_, ms) => within(field, *ms, 0..=1_000_000),
            FaultKind::ClockDrift(_, ppm) => drift(field, *ppm),
            FaultKind::Disk(fault) => fault.check(field),
            _ => Ok(()),
        }
    }
}

impl DiskFault {
    fn check(&self, field: &str) -> Result<(), PlanError> {
        let part = |name: &str| format!("{field}.{name}");
        match self {
            Self::Fail { act, nth, linger_ms, .. } => {
                if !matches!(act, Act::Write | Act::Sync) {
                    return Err(wrong(&part("act"), format_args!("{act:?} does not fail: Write or Sync does")));
                }
                within(&part("nth"), *nth, 1..=1_000_000)?;
                within(&part("linger_ms"), *linger_ms, 0..=10_000)
            }
            Self::Full { room_kib, .. } => within(&part("room_kib"), *room_kib, 0..=1 << 20),
            Self::Slow { factor, .. } => within(&part("factor"), *factor, 1..=1_000),
            Self::SlowSyncs { ms, .. } => within(&part("ms"), *ms, 0..=10_000),
            Self::Rot { .. } | Self::Wipe { .. } => Ok(()),
            Self::LoseWrite { nth, .. } | Self::CrashPoint { nth, .. } => within(&part("nth"), *nth, 1..=1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Clock, Place, Rot, Victim};
    use crate::platform::{CRASH_POINTS, FileClass};

    type Spoil = fn(&mut Plan);

    fn plain() -> Plan {
        let drawn = Plan::draw(1);
        let setup = Setup { memory: false, ..drawn.setup.clone() };
        Plan { nodes: 3, faults: vec![], heal_ms: 9_000, setup, ..drawn }
    }

    #[test]
    fn every_drawn_plan_can_be_run() {
        for plan in (0..1_000).map(Plan::draw) {
            plan.check().expect("it was drawn");
        }
        plain().check().expect("it is plain");
    }

    #[test]
    fn a_field_that_cannot_be_is_named() {
        let faulty: [(&str, Spoil); 19] = [
            ("nodes", |plan| plan.nodes = 0),
            ("nodes", |plan| plan.nodes = u32::MAX),
            ("spares", |plan| plan.spares = 5),
            ("heal_ms", |plan| plan.heal_ms = 0),
            ("heal_ms", |plan| plan.heal_ms = u64::MAX),
            ("setup.heartbeat_ms", |plan| plan.setup.heartbeat_ms = 0),
            ("setup.segment_kib", |plan| plan.setup.segment_kib = 1 << 54),
            ("setup.snapshot_every_entries", |plan| plan.setup.snapshot_every_entries = 0),
            ("setup.sync_us_max", |plan| plan.setup.sync_us_max = u64::MAX),
            ("workload.clients", |plan| plan.workload.clients = 0),
            ("workload.keys", |plan| plan.workload.keys = 0),
            ("workload.bursts_ms[1]", |plan| plan.workload.bursts_ms = vec![1, u64::MAX]),
            ("workload", |plan| plan.workload.bursts_ms = vec![1; 30_000]),
            ("workload.burst_ops", |plan| plan.workload.burst_ops = u32::MAX),
            ("workload.read_per_mille", |plan| plan.workload.read_per_mille = 1_001),
            ("setup.clocks", |plan| plan.setup.clocks = vec![Clock::default(); 4]),
            ("setup.clocks[0].drift_ppm", |plan| plan.setup.clocks = vec![Clock { offset_ms: 0, drift_ppm: i64::MIN }]),
            ("workload.retry_per_mille", |plan| plan.workload.retry_per_mille = u32::MAX),
            ("workload.padding_bytes", |plan| plan.workload.padding_bytes = 1 << 40),
        ];
        for (field, spoil) in faulty {
            let mut plan = plain();
            spoil(&mut plan);
            let error = plan.check().expect_err(field).to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{field}: {error}");
        }
    }

    #[test]
    fn a_fault_that_cannot_be_is_named() {
        let (point, victim) = (&CRASH_POINTS[0], Victim::Node(4));
        let disk = FaultKind::Disk;
        for (kind, says) in [
            (FaultKind::Partition(vec![1, 9]), "no node 9"),
            (FaultKind::Partition(vec![2, 2]), "twice"),
            (FaultKind::OneWay(0, 1), "no node 0"),
            (FaultKind::Stall(2, 2), "twice"),
            (FaultKind::Kill(victim), "no node 4"),
            (FaultKind::PowerLossMajority(vec![1, 2, 3, 4]), "no node 4"),
            (FaultKind::Latency(u64::MAX), "not in"),
            (FaultKind::LateBytes(1, 1), "twice"),
            (FaultKind::Clog(4), "no node 4"),
            (FaultKind::ClockStep(Victim::Leader, u64::MAX), "not in"),
            (FaultKind::ClockDrift(Victim::Node(1), -DRIFT_PPM_MAX - 1), "not in"),
            (disk(DiskFault::Wipe { victim }), "no node 4"),
            (disk(DiskFault::CrashPoint { victim, point, nth: 1, power: false }), "no node 4"),
            (disk(DiskFault::CrashPoint { victim: Victim::Leader, point, nth: 0, power: false }), "kind.nth"),
            (disk(DiskFault::Slow { victim: Victim::Leader, factor: 0 }), "kind.factor"),
            (disk(DiskFault::SlowSyncs { victim: Victim::Leader, class: FileClass::Segment, ms: u64::MAX }), "kind.ms"),
            (disk(DiskFault::Full { victim: Victim::Leader, room_kib: u64::MAX, restart: true }), "kind.room_kib"),
            (
                disk(DiskFault::Rot { victim, place: Place::Log, rot: Rot::Bit, pick: u64::MAX, power: true }),
                "no node 4",
            ),
        ] {
            let plan = Plan { faults: vec![Fault { at_ms: 1, for_ms: 1, kind }], ..plain() };
            let error = plan.check().expect_err(says).to_string();
            assert!(error.starts_with("faults[0].kind") && error.contains(says), "{says}: {error}");
        }
        let mut plan = Plan {
            faults: vec![Fault { at_ms: 1, for_ms: 1, kind: disk(DiskFault::Wipe { victim: Victim::Leader }) }],
            ..plain()
        };
        plan.setup.memory = true;
        let error = plan.check().expect_err("there is no disk").to_string();
        assert!(error.starts_with("faults[0].kind") && error.contains("no disks"), "{error}");
        for (at_ms, for_ms, says) in
            [(9_001, 0, "at_ms"), (u64::MAX, 0, "at_ms"), (9_000, 1, "for_ms"), (1, u64::MAX, "for_ms")]
        {
            let plan = Plan { faults: vec![Fault { at_ms, for_ms, kind: FaultKind::KillAll }], ..plain() };
            let error = plan.check().expect_err(says).to_string();
            assert!(error.starts_with(&format!("faults[0].{says}")), "{says}: {error}");
        }
    }
}

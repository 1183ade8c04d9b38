//! Clocks that are not exact: offsets, drift, and steps forward.
//!
//! Local clocks are monotonic: nothing steps back. Rates stay within what production allows for
//! ([`quorate_core::config::CLOCK_DRIFT_PER_MILLE`]), between any two nodes; a step does not, it stands for a machine
//! that was suspended.

use quorate_core::config::CLOCK_DRIFT_PER_MILLE;
use serde::{Deserialize, Serialize};

use super::draw::in_a_burst;
use super::{Fault, FaultKind, Victim};
use crate::rng::SplitMix;

/// A node's clock when its first process starts, and again after a fault of it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// By how much it is ahead at the beginning, in milliseconds.
    pub offset_ms: u64,
    /// How many parts in a million it is fast; negative if it is slow.
    pub drift_ppm: i64,
}

/// Every class.
pub(super) const CLASSES: [&str; 2] = ["clock step", "clock drift"];

/// One clock is fast and another is slow by so much: together that is just within the contract.
const DRIFT_PPM: i64 = CLOCK_DRIFT_PER_MILLE as i64 * 1_000 * 48 / 100;

/// Of 1000 runs so many begin with exact clocks, and so many have no fault of a clock.
const EXACT_PER_MILLE: u32 = 400;
const NONE_PER_MILLE: u32 = 550;

pub(super) fn draw_setup(rng: &mut SplitMix, nodes: u32) -> Vec<Clock> {
    if rng.chance(EXACT_PER_MILLE) {
        return Vec::new();
    }
    // A quartz is off by some ten parts in a million; one that is disciplined badly, by far more.
    let worst = if rng.chance(500) { 100 } else { DRIFT_PPM };
    let clock = |_| Clock { offset_ms: rng.skewed(0, 86_400_000), drift_ppm: drift(rng, worst) };
    (0..nodes).map(clock).collect()
}

fn drift(rng: &mut SplitMix, worst: i64) -> i64 {
    rng.between(0, 2 * worst as u64) as i64 - worst
}

pub(super) fn draw(rng: &mut SplitMix, nodes: u32, heal_ms: u64, bursts_ms: &[u64]) -> Vec<Fault> {
    if rng.chance(NONE_PER_MILLE) {
        return Vec::new();
    }
    let steps_per_mille = [0, 500, 1_000][rng.below(3) as usize];
    let (every_ms, step_ms_max) = (rng.skewed(300, 6_000), rng.skewed(5, 5_000));
    let (mut at_ms, mut faults) = (rng.between(100, 2_500), Vec::new());
    while at_ms < heal_ms {
        let node = Victim::Node(1 + rng.below(u64::from(nodes)) as u32);
        let victim = if rng.chance(400) { Victim::Leader } else { node };
        let begins = if rng.chance(500) { in_a_burst(rng, bursts_ms) } else { at_ms };
        faults.push(match rng.chance(steps_per_mille) {
            true => {
                let kind = FaultKind::ClockStep(victim, rng.skewed(1, step_ms_max));
                Fault { at_ms: begins, for_ms: 0, kind }
            }
            false => {
                let for_ms = rng.between(100, 6_000).min(heal_ms - begins);
                Fault { at_ms: begins, for_ms, kind: FaultKind::ClockDrift(victim, drift(rng, DRIFT_PPM)) }
            }
        });
        at_ms += rng.between(1, 2 * every_ms);
    }
    faults
}

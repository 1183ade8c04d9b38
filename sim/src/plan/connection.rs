//! What befalls connections rather than links: they are forgotten, hang, or outlive the one that replaces them; and clogs
//! that begin and end in different orders.

use super::draw::{in_a_burst, some_nodes, two_nodes, weighted};
use super::{Fault, FaultKind};
use crate::rng::SplitMix;

/// Every class, in the order of the drawing.
pub(super) const CLASSES: [&str; 4] = ["forgotten connections", "hanging connects", "late bytes", "swizzled clog"];

/// Of 1000 runs so many have none of them.
const NONE_PER_MILLE: u32 = 400;

pub(super) fn draw(rng: &mut SplitMix, nodes: u32, heal_ms: u64, bursts_ms: &[u64]) -> Vec<Fault> {
    if rng.chance(NONE_PER_MILLE) {
        return Vec::new();
    }
    let weights = [5, 4, 6, 1].map(|most| if rng.chance(500) { rng.between(1, most) } else { 0 });
    if weights.iter().all(|weight| *weight == 0) {
        return Vec::new();
    }
    let (every_ms, for_ms_max) = (rng.skewed(200, 4_000), rng.skewed(50, 4_000));
    let (mut at_ms, mut faults) = (rng.between(100, 2_500), Vec::new());
    while at_ms < heal_ms {
        let begins = if rng.chance(600) { in_a_burst(rng, bursts_ms) } else { at_ms };
        let for_ms = rng.skewed(20, for_ms_max).min(heal_ms - begins);
        let (from, to) = two_nodes(rng, nodes);
        let one = |for_ms, kind| vec![Fault { at_ms: begins, for_ms, kind }];
        faults.extend(match weighted(rng, &weights) {
            0 => one(0, FaultKind::HalfOpen(from, to)),
            1 => one(for_ms, FaultKind::ConnectHang(from, to)),
            2 => one(for_ms, FaultKind::LateBytes(from, to)),
            _ => swizzle(rng, nodes, begins, heal_ms),
        });
        at_ms += rng.between(1, 2 * every_ms);
    }
    faults
}

/// Some nodes are clogged one after the other, and later freed one after the other in another order.
fn swizzle(rng: &mut SplitMix, nodes: u32, begins: u64, heal_ms: u64) -> Vec<Fault> {
    let count = rng.between(2, u64::from(nodes)) as u32;
    let shuffled = |rng: &mut SplitMix| {
        let mut left = some_nodes(rng, nodes, nodes);
        std::iter::from_fn(|| (!left.is_empty()).then(|| left.remove(rng.below(left.len() as u64) as usize))).collect()
    };
    let clogged: Vec<u32> = shuffled(rng);
    let freed: Vec<u32> = shuffled(rng);
    let (clog_every, free_every) = (rng.skewed(1, 400), rng.skewed(1, 400));
    let all_clogged = begins + clog_every * u64::from(count) + rng.skewed(1, 500);
    let clog = |(turn, node): (usize, &u32)| {
        let at_ms = (begins + clog_every * turn as u64).min(heal_ms);
        let place = freed.iter().position(|freed| freed == node).unwrap_or(0);
        let ends = (all_clogged + free_every * place as u64).min(heal_ms);
        Fault { at_ms, for_ms: ends - at_ms, kind: FaultKind::Clog(*node) }
    };
    clogged.iter().take(count as usize).enumerate().map(clog).collect()
}

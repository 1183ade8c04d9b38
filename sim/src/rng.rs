//! The simulator's own random streams.

/// A SplitMix64 generator (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
/// Each disk and each link has its own, so that taking one fault out of a plan does not shift the draws elsewhere.
/// Integers only: floating point functions may differ between machines.
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream that belongs to a label under a seed. Different labels are independent.
    pub fn labelled(seed: u64, label: &str) -> Self {
        let mut rng = Self(seed);
        let mut state = rng.next();
        for byte in label.bytes() {
            rng.0 = state ^ u64::from(byte);
            state = rng.next();
        }
        Self(state)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the multiply is at most bound / 2^64: nothing here can see it.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`; `low` if the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in `per_mille` of 1000 cases. Draws nothing if that is never or always.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        match per_mille {
            0 => false,
            1..=999 => self.below(1000) < u64::from(per_mille),
            _ => true,
        }
    }

    /// A number in `low..=high` that is mostly near `low`: the cube of a uniform fraction. Latencies look like that.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let fraction = u128::from(self.below(1 << 10));
        low + ((u128::from(high.saturating_sub(low)) * fraction * fraction * fraction) >> 30) as u64
    }
}

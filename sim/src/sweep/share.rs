//! Which seeds of a range a sweep runs, so that many machines can share one.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Of every range, the seeds `s` with `s % of == index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 0.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

impl Share {
    /// Every seed.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The first seed at or after `start`.
    pub fn first(self, start: u64) -> u64 {
        let behind = (self.index + self.of - start % self.of) % self.of;
        start.saturating_add(behind)
    }

    /// How many seeds of a range are in it.
    pub fn count(self, seeds: &Range<u64>) -> u64 {
        seeds.end.saturating_sub(self.first(seeds.start)).div_ceil(self.of)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        let (index, of) = parsed.ok_or_else(|| "write it as I/N, for example 0/4".to_owned())?;
        match index < of && of <= u64::from(u32::MAX) {
            true => Ok(Self { index, of }),
            false => Err(format!("shards of {of} are numbered from 0 to {}", u64::saturating_sub(of, 1))),
        }
    }
}

/// Seeds that ran: a share of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// From the first to before the second.
    pub seeds: Range<u64>,
    /// Those of them that are in it.
    pub share: Share,
}

impl Stretch {
    /// How many.
    pub fn count(&self) -> u64 {
        self.share.count(&self.seeds)
    }

    /// Whether the ranges have a seed in common, whatever the shares.
    pub fn touches(&self, other: &Self) -> bool {
        self.seeds.start.max(other.seeds.start) < self.seeds.end.min(other.seeds.end)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.seeds.start, self.seeds.end)?;
        if self.share == Share::WHOLE { Ok(()) } else { write!(f, " shard {}", self.share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_in_exactly_one_share() {
        for of in 1..6 {
            let mut seen = Vec::new();
            for index in 0..of {
                let share = Share { index, of };
                let first = share.first(17);
                let mine: Vec<u64> = (17..60).filter(|seed| seed % of == index).collect();
                assert_eq!(mine.first(), Some(&first));
                assert_eq!(share.count(&(17..60)), mine.len() as u64);
                seen.extend(mine);
            }
            seen.sort_unstable();
            assert_eq!(seen, (17..60).collect::<Vec<_>>());
        }
        assert_eq!(Share { index: 3, of: 9 }.count(&(4..7)), 0);
        assert_eq!(Share { index: 3, of: 9 }.count(&(4..12)), 0);
        assert_eq!(Share { index: 3, of: 9 }.count(&(4..13)), 1);
    }

    #[test]
    fn a_share_is_read_as_it_is_written() {
        assert_eq!("1/4".parse(), Ok(Share { index: 1, of: 4 }));
        for wrong in ["4/4", "0/0", "1", "-1/4", "a/b", "1/4/2"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}

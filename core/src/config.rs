//! Validated settings that the pure half knows how to judge.

use std::time::Duration;

/// Raft's three times. Valid by construction: see [`Timing::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    heartbeat_ms: u64,
    election_timeout_min_ms: u64,
    election_timeout_max_ms: u64,
}

/// Clocks of two nodes may differ in rate by this many parts in a thousand (ρ): far more than a working quartz does.
pub const CLOCK_DRIFT_PER_MILLE: u64 = 50;

/// Why a [`Timing`] would not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Heartbeats must be at least a millisecond apart.
    #[error("the heartbeat interval must be at least 1 ms")]
    NoHeartbeat,
    /// A follower must be able to miss heartbeats without campaigning.
    #[error("the shortest election timeout ({min} ms) must be at least 3 heartbeats ({heartbeat} ms each)")]
    ElectionTooShort {
        /// Milliseconds.
        min: u64,
        /// Milliseconds.
        heartbeat: u64,
    },
    /// Randomized timeouts are what ends split votes (Raft §5.2).
    #[error("the longest election timeout ({max} ms) must be at least 1.5 times the shortest ({min} ms)")]
    NoSpread {
        /// Milliseconds.
        min: u64,
        /// Milliseconds.
        max: u64,
    },
    /// More than a day is a mistake in the unit.
    #[error("the longest election timeout must be at most a day")]
    TooLong,
}

impl Default for Timing {
    /// Heartbeat 50 ms, election timeout 250 to 500 ms.
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_timeout_min_ms: 250, election_timeout_max_ms: 500 }
    }
}

impl Timing {
    /// Checks and takes the three times, in milliseconds.
    ///
    /// # Errors
    /// See [`TimingError`].
    pub fn new(heartbeat_ms: u64, min_ms: u64, max_ms: u64) -> Result<Self, TimingError> {
        if heartbeat_ms == 0 {
            return Err(TimingError::NoHeartbeat);
        }
        if max_ms > 24 * 60 * 60 * 1000 {
            return Err(TimingError::TooLong);
        }
        if min_ms / 3 < heartbeat_ms {
            return Err(TimingError::ElectionTooShort { min: min_ms, heartbeat: heartbeat_ms });
        }
        if max_ms * 2 < min_ms * 3 {
            return Err(TimingError::NoSpread { min: min_ms, max: max_ms });
        }
        Ok(Self { heartbeat_ms, election_timeout_min_ms: min_ms, election_timeout_max_ms: max_ms })
    }

    /// Milliseconds between a leader's heartbeats.
    pub fn heartbeat_ms(&self) -> u64 {
        self.heartbeat_ms
    }

    /// The shortest election timeout, in milliseconds.
    pub fn election_timeout_min_ms(&self) -> u64 {
        self.election_timeout_min_ms
    }

    /// The longest election timeout, in milliseconds. Also how long a voter stays loyal to a leader it has heard from.
    pub fn election_timeout_max_ms(&self) -> u64 {
        self.election_timeout_max_ms
    }

    /// How long a restarted node neither campaigns nor grants a vote: a promise of loyalty that it may have given
    /// before the restart, and forgot, must have run out by every clock.
    pub fn quiet_after_restart(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms * (1000 + CLOCK_DRIFT_PER_MILLE) / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_that_cannot_work_are_refused() {
        assert_eq!(Timing::new(50, 250, 500), Ok(Timing::default()));
        assert_eq!(Timing::new(0, 250, 500), Err(TimingError::NoHeartbeat));
        assert_eq!(Timing::new(100, 299, 600), Err(TimingError::ElectionTooShort { min: 299, heartbeat: 100 }));
        assert_eq!(Timing::new(50, 200, 299), Err(TimingError::NoSpread { min: 200, max: 299 }));
        assert_eq!(Timing::new(50, 200, u64::MAX), Err(TimingError::TooLong));
        assert!(Timing::default().quiet_after_restart() > Duration::from_millis(500));
    }
}

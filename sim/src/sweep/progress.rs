//! Says every few seconds how far a sweep is.

use std::time::{Duration, Instant};

const SAY_EVERY: Duration = Duration::from_secs(5);

/// Of one sweep.
pub(super) struct Progress {
    all: u64,
    time_max: Option<Duration>,
    pub(super) failed: u64,
    began: Instant,
    said: Duration,
}

#[expect(clippy::disallowed_methods, reason = "a sweep is outside of every run: it may look at the clock")]
impl Progress {
    /// Of so many seeds, or fewer if they take longer than `time_max`.
    pub(super) fn new(all: u64, time_max: Option<Duration>) -> Self {
        Self { all, time_max, failed: 0, began: Instant::now(), said: Duration::ZERO }
    }

    pub(super) fn tell(&mut self, done: u64) {
        let elapsed = self.began.elapsed();
        if elapsed - self.said < SAY_EVERY && done < self.all {
            return;
        }
        self.said = elapsed;
        eprintln!("{}", self.line(done, elapsed));
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = (self.all - done) as f64 / rate;
        let left = self.time_max.map_or(left, |most| left.min(most.saturating_sub(elapsed).as_secs_f64()));
        let Self { all, failed, .. } = self;
        format!("{done} of {all} seeds, {failed} failed, {rate:.1} seeds/s, {left:.0} s left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_by_the_rate_or_by_the_clock() {
        let line = Progress::new(1_000, None).line(100, Duration::from_secs(10));
        assert_eq!(line, "100 of 1000 seeds, 0 failed, 10.0 seeds/s, 90 s left");
        let line = Progress::new(1_000, Some(Duration::from_secs(60))).line(100, Duration::from_secs(10));
        assert_eq!(line, "100 of 1000 seeds, 0 failed, 10.0 seeds/s, 50 s left");
    }
}

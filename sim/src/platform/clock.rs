//! Time: the run's one global clock, the machines' local clocks, and timers.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::task::NodeId;
use madsim::time::TimeHandle;

/// Nanoseconds since the start of the run; 0 outside of one (destructors that run after it).
pub fn global_now() -> u64 {
    with_time(|time| nanos(time.elapsed())).unwrap_or(0)
}

/// Looks at the clock of the run that this thread is in, if it is in one.
fn with_time<T>(look: impl Fn(&TimeHandle) -> T) -> Option<T> {
    let own = CLOCK.try_with(|clock| clock.get().map(&look));
    own.ok().flatten().or_else(|| TimeHandle::try_current().as_ref().map(look))
}

thread_local! {
    /// The clock of the one run that this thread is for. Asking madsim for it takes more time than most polls.
    static CLOCK: OnceCell<TimeHandle> = const { OnceCell::new() };

    /// The clocks of the run's machines that are not exact; few, so that a search is cheap.
    static LOCAL: RefCell<Vec<LocalClock>> = const { RefCell::new(Vec::new()) };
}

/// How many parts in a million a clock may run fast or slow.
pub const DRIFT_PPM_MAX: i64 = 100_000;

/// A machine's clock: from a point that is known, it runs at its own rate.
#[derive(Debug)]
struct LocalClock {
    node: NodeId,
    since_global: u64,
    /// What it showed then.
    shown: i64,
    /// By how many parts in a million it is fast.
    drift_ppm: i64,
    /// Whoever sleeps by it: woken when it changes, to look at it again.
    sleepers: Vec<Weak<Alarm>>,
    /// How many sleepers there may be before those that are gone are forgotten.
    sleepers_max: usize,
}

impl LocalClock {
    fn local(&self, global: u64) -> i64 {
        let passed = global.saturating_sub(self.since_global).min(2 * NEVER) as i64;
        let (whole, rest) = (passed / 1_000_000, passed % 1_000_000);
        self.shown.saturating_add(passed + whole * self.drift_ppm + (rest * self.drift_ppm).div_euclid(1_000_000))
    }

    /// The first time at which it shows `local`.
    fn global(&self, local: i64) -> u64 {
        let ahead = i128::from(local) - i128::from(self.shown);
        if ahead <= 0 {
            return self.since_global;
        }
        if ahead > i128::from(NEVER) {
            return u64::MAX;
        }
        let rate = u128::from((1_000_000 + self.drift_ppm).unsigned_abs());
        self.since_global.saturating_add((ahead.unsigned_abs() * 1_000_000).div_ceil(rate) as u64)
    }

    fn remember(&mut self, sleeper: &Arc<Alarm>) {
        if self.sleepers.len() >= self.sleepers_max {
            self.sleepers.retain(|sleeper| sleeper.strong_count() > 0);
            self.sleepers_max = 64.max(2 * self.sleepers.len());
        }
        self.sleepers.push(Arc::downgrade(sleeper));
    }
}

/// Changes a machine's clock from now on; from then on it is its own. Whoever sleeps by it looks at it again.
pub(super) fn change_clock(node: NodeId, drift_ppm: Option<i64>, step: Duration) {
    let now = global_now();
    let sleepers = LOCAL.with_borrow_mut(|clocks| {
        let at = clocks.iter().position(|clock| clock.node == node).unwrap_or_else(|| {
            let shown = now as i64;
            let (sleepers, sleepers_max) = (Vec::new(), 64);
            clocks.push(LocalClock { node, since_global: now, shown, drift_ppm: 0, sleepers, sleepers_max });
            clocks.len() - 1
        });
        let clock = &mut clocks[at];
        let drift_ppm = drift_ppm.map_or(clock.drift_ppm, |ppm| ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX));
        if drift_ppm == clock.drift_ppm && step.is_zero() {
            return Vec::new();
        }
        clock.shown = clock.local(now).saturating_add_unsigned(nanos(step));
        clock.since_global = now;
        clock.drift_ppm = drift_ppm;
        std::mem::take(&mut clock.sleepers)
    });
    sleepers.iter().filter_map(Weak::upgrade).for_each(|sleeper| sleeper.ring());
}

/// The run is over: destructors that come later belong to no machine.
pub(super) fn forget_clocks() {
    LOCAL.with_borrow_mut(Vec::clear);
}

/// Looks at the clock of the machine that the current task runs on; none if that is exact.
fn with_clock<T>(look: impl FnOnce(Option<&mut LocalClock>) -> T) -> T {
    LOCAL.with_borrow_mut(|clocks| {
        // Destructors in the wake of a panic belong to no task, and must not panic, too.
        if clocks.is_empty() || std::thread::panicking() {
            return look(None);
        }
        let node = madsim::plugin::node();
        look(clocks.iter_mut().find(|clock| clock.node == node))
    })
}

/// From now on, this thread's time is that of the run that it is in.
pub(super) fn keep_clock() {
    CLOCK.with(|clock| _ = clock.set(TimeHandle::current()));
}

/// Nanoseconds in a duration, at most `i64::MAX` of them (292 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    // In 64 bits: this is asked more often than anything else.
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(duration.subsec_nanos().into()).min(i64::MAX as u64)
}

/// The clock of the machine that the current task runs on, at a global time.
fn local_at(global: u64) -> i64 {
    with_clock(|clock| clock.map_or(global.min(i64::MAX as u64) as i64, |clock| clock.local(global)))
}

/// The first global time at which the current machine's clock shows `local`, as it runs now.
fn global_at(local: i64) -> u64 {
    with_clock(|clock| clock.map_or(u64::try_from(local).unwrap_or(0), |clock| clock.global(local)))
}

/// A point on a machine's monotonic clock, in nanoseconds. Signed, so that code may subtract more than has passed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(i64);

impl fmt::Debug for SimInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000))
    }
}

impl openraft_rt::Instant for SimInstant {
    fn now() -> Self {
        Self(local_at(global_now()))
    }
}

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(nanos(duration)))
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(nanos(duration)))
    }
}

impl Sub for SimInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

/// Beyond this a timer is not even set: no run gets there.
const NEVER: u64 = 30 * 365 * 86_400 * 1_000_000_000;

/// A waker that timers can fire. madsim's timers cannot be cancelled, so they hold an alarm instead of the task: one
/// that was silenced costs a heap entry until its time, and wakes nobody.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Mutex<Armed>);

#[derive(Debug, Default)]
struct Armed {
    waker: Option<Waker>,
    /// The earliest timer that is set and has not fired.
    at: Option<u64>,
}

impl Alarm {
    fn lock(&self) -> std::sync::MutexGuard<'_, Armed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to wake.
    pub(crate) fn set(&self, waker: &Waker) {
        let mut armed = self.lock();
        match &mut armed.waker {
            Some(old) if old.will_wake(waker) => {}
            slot => {
                let old = slot.replace(waker.clone());
                drop(armed);
                drop(old);
            }
        }
    }

    /// Nobody waits any more.
    pub(crate) fn silence(&self) {
        let old = self.lock().waker.take();
        drop(old);
    }

    /// Wakes who waits, now.
    pub(crate) fn ring(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Rings at a global time. A later timer than one already set is not set: whoever is woken too early looks, finds
    /// nothing due, and arms again.
    pub(crate) fn arm(self: &Arc<Self>, at: u64) {
        with_time(|time| self.arm_by(time, at));
    }

    fn arm_by(self: &Arc<Self>, time: &TimeHandle, at: u64) {
        let now = nanos(time.elapsed());
        if at.saturating_sub(now) > NEVER {
            return;
        }
        {
            let mut armed = self.lock();
            if armed.at.is_some_and(|set| set <= at) {
                return;
            }
            armed.at = Some(at);
        }
        // madsim offers no timer but its sleep, which rounds up to a millisecond unless it is reset.
        let mut sleep = time.sleep(Duration::ZERO);
        Pin::new(&mut sleep).reset(time.now_instant() + Duration::from_nanos(at.saturating_sub(now)));
        let waker = Waker::from(self.clone());
        if Pin::new(&mut sleep).poll(&mut Context::from_waker(&waker)).is_ready() {
            self.fire();
        }
    }

    fn fire(&self) {
        let waker = {
            let mut armed = self.lock();
            armed.at = None;
            armed.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.fire();
    }
}

#[derive(Clone, Copy, Debug)]
enum Deadline {
    Global(u64),
    /// On the clock of the machine that it is polled on.
    Local(SimInstant),
}

/// Sleeps until a time. Sets one timer however often it is polled, unlike madsim's own.
#[derive(Debug)]
pub struct Sleep {
    deadline: Deadline,
    alarm: Option<Arc<Alarm>>,
}

impl Sleep {
    /// Until a global time.
    pub(crate) fn until_global(deadline: u64) -> Self {
        Self { deadline: Deadline::Global(deadline), alarm: None }
    }

    /// Until the current machine's clock shows `deadline`; over at once if it does.
    pub(crate) fn until(deadline: SimInstant) -> Self {
        Self { deadline: Deadline::Local(deadline), alarm: None }
    }

    /// For `duration` on the current machine's clock. Never over at once: a loop that sleeps must let time pass.
    pub(crate) fn lasting(duration: Duration) -> Self {
        let now = <SimInstant as openraft_rt::Instant>::now();
        Self::until(now + duration.max(Duration::from_nanos(1)))
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let due = match self.deadline {
            Deadline::Global(due) => due,
            Deadline::Local(deadline) => global_at(deadline.0),
        };
        if global_now() >= due {
            return Poll::Ready(());
        }
        let by_local = matches!(self.deadline, Deadline::Local(_)) && self.alarm.is_none();
        let alarm = self.alarm.get_or_insert_default();
        if by_local {
            with_clock(|clock| clock.into_iter().for_each(|clock| clock.remember(alarm)));
        }
        alarm.set(cx.waker());
        alarm.arm(due);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = &self.alarm {
            alarm.silence();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(drift_ppm: i64) -> LocalClock {
        let node = madsim::runtime::Runtime::new().create_node().build().id();
        LocalClock { node, since_global: 7, shown: 1_000_003, drift_ppm, sleepers: vec![], sleepers_max: 64 }
    }

    #[test]
    fn a_timer_fires_at_the_first_instant_at_which_its_clock_shows_its_time() {
        for drift_ppm in [0, 1, -1, 333, 24_000, -24_000, DRIFT_PPM_MAX, -DRIFT_PPM_MAX] {
            let clock = clock(drift_ppm);
            for ahead in [0, 1, 2, 999, 1_000_000, 1_000_001, 123_456_789_012, 3_600_000_000_000] {
                let local = clock.shown + ahead;
                let global = clock.global(local);
                assert!(clock.local(global) >= local, "{drift_ppm} ppm, {ahead}");
                assert!(ahead == 0 || clock.local(global - 1) < local, "{drift_ppm} ppm, {ahead}");
            }
            let hour = clock.local(7 + 3_600_000_000_000) - clock.shown;
            assert_eq!(hour, 3_600_000_000_000 + 3_600_000 * drift_ppm);
            assert_eq!(clock.global(i64::MIN), 7, "long past");
            assert!(clock.global(i64::MAX) > 1 << 62, "never");
        }
    }
}

//! Time: the run's one global clock, the machines' local clocks, and timers.

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::time::TimeHandle;

/// Nanoseconds since the start of the run; 0 outside of one (destructors that run after it).
pub fn global_now() -> u64 {
    let own = CLOCK.try_with(|clock| clock.get().map(|time| nanos(time.elapsed())));
    own.ok().flatten().unwrap_or_else(|| TimeHandle::try_current().map_or(0, |time| nanos(time.elapsed())))
}

thread_local! {
    /// The clock of the one run that this thread is for. Asking madsim for it takes more time than most polls.
    static CLOCK: OnceCell<TimeHandle> = const { OnceCell::new() };
}

/// From now on, this thread's time is that of the run that it is in.
pub(super) fn keep_clock() {
    CLOCK.with(|clock| _ = clock.set(TimeHandle::current()));
}

/// Nanoseconds in a duration, at most `i64::MAX` of them (292 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64)
}

/// The clock of the machine that the current task runs on, at a global time. This function and [`global_at`] are the
/// only place that knows how local clocks relate to the global one.
fn local_at(global: u64) -> i64 {
    global.min(i64::MAX as u64) as i64
}

/// The global time at which the current machine's clock shows `local`.
fn global_at(local: i64) -> u64 {
    u64::try_from(local).unwrap_or(0)
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
        let Some(time) = TimeHandle::try_current() else { return };
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

/// Sleeps until a time. Sets one timer however often it is polled, unlike madsim's own.
#[derive(Debug)]
pub struct Sleep {
    /// Global time.
    deadline: u64,
    alarm: Option<Arc<Alarm>>,
}

impl Sleep {
    /// Until a global time.
    pub(crate) fn until_global(deadline: u64) -> Self {
        Self { deadline, alarm: None }
    }

    /// Until the current machine's clock shows `deadline`; over at once if it does.
    pub(crate) fn until(deadline: SimInstant) -> Self {
        Self::until_global(global_at(deadline.0))
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
        if global_now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let alarm = self.alarm.get_or_insert_default();
        alarm.set(cx.waker());
        alarm.arm(deadline);
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

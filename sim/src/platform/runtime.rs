//! The Runtime seam over madsim.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use madsim::rand::RngCore;
use madsim::runtime::Runtime;
use openraft_rt::{AsyncRuntime, OptionalSend};
use quorate_io::watch::OrderedWatch;

use super::channels::{SimMpsc, SimMutex, SimOneshot};
use super::clock::{SimInstant, Sleep, forget_clocks, keep_clock};

/// Tasks, time, channels and randomness of a simulated run. Its associated functions act on the run that the current
/// thread is in; a value is a run of its own, for the conformance suite.
pub struct SimRuntime(Runtime);

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRuntime")
    }
}

/// Runs a future under a seed, on a fresh OS thread as madsim wants it, and returns what it returned.
///
/// # Panics
/// Passes on a panic of any task of the run, and of one in which nothing can ever happen again.
pub fn run<F, T>(seed: u64, main: impl FnOnce() -> F + Send + 'static) -> T
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let body = move || {
        Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move {
            keep_clock();
            let value = main().await;
            forget_clocks();
            value
        })
    };
    match std::thread::spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The future did not finish in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// A future with a deadline. The future is asked first: one that is ready at its deadline counts.
#[derive(Debug)]
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    deadline: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut self.deadline).poll(cx).map(|()| Err(Elapsed))
    }
}

/// madsim's seeded generator behind the traits of `rand` 0.10.
pub struct SimRng(madsim::rand::GlobalRng);

impl fmt::Debug for SimRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRng")
    }
}

impl rand::TryRng for SimRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

impl AsyncRuntime for SimRuntime {
    type JoinError = madsim::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = madsim::task::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = SimRng;
    type Mpsc = SimMpsc;
    type Watch = OrderedWatch;
    type Oneshot = SimOneshot;
    type Mutex<T: OptionalSend + 'static> = SimMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        madsim::task::spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        Sleep::lasting(duration)
    }

    fn sleep_until(deadline: SimInstant) -> Sleep {
        Sleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), deadline: Sleep::lasting(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: SimInstant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), deadline: Sleep::until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> SimRng {
        SimRng(madsim::rand::thread_rng())
    }

    /// A run with seed 0 on the current thread. Simulations use [`run`].
    fn new(_threads: usize) -> Self {
        Self(Runtime::with_seed_and_config(0, madsim::Config::default()))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// Inline, when first polled: a thread of its own would run at its own pace.
    async fn spawn_blocking<F, T>(f: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(f())
    }
}

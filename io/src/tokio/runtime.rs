//! openraft's tokio runtime, with three changes: [`TokioRuntime::sleep`], [`TokioRuntime::mpsc_recv_deadline`], and
//! channels of the latest value ([`OrderedWatch`]).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use openraft_rt::mpsc::{Mpsc, MpscReceiver, TryRecvError};
use openraft_rt::{AsyncRuntime, Instant, OptionalSend};
use openraft_rt_tokio::TokioRuntime as Inner;

use crate::watch::OrderedWatch;

/// Sleeps shorter than this only let other tasks run: tokio's timer would round them up to a millisecond, and openraft
/// sleeps one microsecond between completions of log flushes.
const YIELD_BELOW: Duration = Duration::from_micros(100);

/// Tasks, time and channels from tokio.
#[derive(Debug)]
pub struct TokioRuntime(Inner);

/// Lets every other ready task run once.
#[derive(Debug, Default)]
pub struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRuntime for TokioRuntime {
    type JoinError = <Inner as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Either<Yield, <Inner as AsyncRuntime>::Sleep>;
    type Instant = <Inner as AsyncRuntime>::Instant;
    type TimeoutError = <Inner as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Inner as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Inner as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Inner as AsyncRuntime>::Mpsc;
    /// tokio's takes eight locks and counts in each to find that nobody waits, which is how it mostly is: openraft tells of
    /// every step of consensus on several of them.
    type Watch = OrderedWatch;
    type Oneshot = <Inner as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Inner::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        if duration < YIELD_BELOW { Either::Left(Yield::default()) } else { Either::Right(Inner::sleep(duration)) }
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Either::Right(Inner::sleep_until(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Inner::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Inner::timeout_at(deadline, future)
    }

    /// So openraft asks for more writes to go with one that it has: those whose clients' tasks are ready to run have yet to
    /// come, since tokio runs the task that was woken last, which is openraft's, before them.
    async fn mpsc_recv_deadline<T: OptionalSend>(
        receiver: &mut <Self::Mpsc as Mpsc>::Receiver<T>,
        deadline: Self::Instant,
    ) -> Result<T, TryRecvError> {
        match receiver.try_recv() {
            Err(TryRecvError::Empty) if Self::Instant::now() < deadline => {
                match Self::timeout_at(deadline, receiver.recv()).await {
                    Ok(Some(value)) => Ok(value),
                    Ok(None) => Err(TryRecvError::Disconnected),
                    Err(_) => Err(TryRecvError::Empty),
                }
            }
            Err(TryRecvError::Empty) => {
                Yield::default().await;
                receiver.try_recv()
            }
            tried => tried,
        }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Inner::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Inner::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Inner::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_runtime_suite() {
        openraft_rt::testing::Suite::<TokioRuntime>::test_all();
    }
}

//! A bounded queue whose producers never wait, a signal, and tasks. Both wake in a fixed order, on any runtime.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_channel::oneshot;
use openraft_rt::AsyncRuntime;

/// Locks, whatever happened to an earlier holder: every critical section here leaves the state whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a task that nobody waits for: it ends by itself, when its connection does.
pub(super) fn detach<R: AsyncRuntime>(task: impl Future<Output = ()> + Send + 'static) {
    drop(R::spawn(task));
}

/// Why a push failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushError {
    /// The queue is full.
    Full,
    /// The queue is closed.
    Closed,
}

/// A first-in first-out queue with one consumer, bounded by count and weight.
#[derive(Debug)]
pub(super) struct Queue<T> {
    count_max: usize,
    weight_max: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    closed: bool,
    consumer: Option<Waker>,
}

impl<T> Queue<T> {
    /// An empty queue of at most `count_max` items. It takes items until their weight has reached `weight_max`.
    pub(super) fn new(count_max: usize, weight_max: usize) -> Self {
        let state = State { items: VecDeque::new(), weight: 0, closed: false, consumer: None };
        Self { count_max, weight_max, state: Mutex::new(state) }
    }

    /// Appends an item.
    pub(super) fn push(&self, item: T, weight: usize) -> Result<(), PushError> {
        self.push_if(item, weight, |state| state.items.len() < self.count_max && state.weight < self.weight_max)
    }

    /// Appends an item even if the queue is full: for what is rare and small.
    pub(super) fn push_always(&self, item: T, weight: usize) -> Result<(), PushError> {
        self.push_if(item, weight, |_| true)
    }

    fn push_if(&self, item: T, weight: usize, room: impl FnOnce(&State<T>) -> bool) -> Result<(), PushError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(PushError::Closed);
        }
        if !room(&state) {
            return Err(PushError::Full);
        }
        state.items.push_back((item, weight));
        state.weight += weight;
        let consumer = state.consumer.take();
        drop(state);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
        Ok(())
    }

    /// Takes no more items. Those that are in it can still be taken out.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let consumer = state.consumer.take();
        drop(state);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<MutexGuard<'_, State<T>>>> {
        let mut state = lock(&self.state);
        if !state.items.is_empty() {
            return Poll::Ready(Some(state));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.consumer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for the next item; `None` when the queue is closed and empty. Cancel safe.
    pub(super) async fn pop(&self) -> Option<T> {
        poll_fn(|cx| {
            self.poll(cx).map(|state| {
                let mut state = state?;
                let (item, weight) = state.items.pop_front()?;
                state.weight -= weight;
                Some(item)
            })
        })
        .await
    }

    /// Waits for items and takes them all; `None` when the queue is closed and empty. Cancel safe.
    pub(super) async fn pop_all(&self) -> Option<VecDeque<(T, usize)>> {
        poll_fn(|cx| {
            self.poll(cx).map(|state| {
                let mut state = state?;
                state.weight = 0;
                Some(std::mem::take(&mut state.items))
            })
        })
        .await
    }
}

/// Something that happens once.
#[derive(Debug)]
pub(super) struct Signal(Mutex<Option<Vec<oneshot::Sender<()>>>>);

impl Signal {
    /// It has not happened.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// It happens. Nothing if it already has.
    pub(super) fn set(&self) {
        let waiting = lock(&self.0).take();
        drop(waiting);
    }

    /// Whether it has happened.
    pub(super) fn is_set(&self) -> bool {
        lock(&self.0).is_none()
    }

    /// A future that completes (with an error, which says nothing) once it has happened. Ask once per task, and poll
    /// the same future again and again.
    pub(super) fn subscribe(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = lock(&self.0).as_mut() {
            if waiting.len() % 64 == 63 {
                waiting.retain(|sender| !sender.is_canceled());
            }
            waiting.push(sender);
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_queue_is_bounded_by_count_and_by_weight() {
        let queue = Queue::new(2, 10);
        assert_eq!(queue.push('a', 1), Ok(()));
        assert_eq!(queue.push('b', 9), Ok(()));
        assert_eq!(queue.push('c', 1), Err(PushError::Full));
        assert_eq!(queue.push_always('c', 1), Ok(()));
        assert_eq!(queue.pop().now_or_never(), Some(Some('a')));
        assert_eq!(queue.push('d', 1), Err(PushError::Full));
        queue.close();
        assert_eq!(queue.push('d', 1), Err(PushError::Closed));
        let rest = queue.pop_all().now_or_never().unwrap().unwrap();
        assert_eq!(rest, [('b', 9), ('c', 1)]);
        assert_eq!(queue.pop().now_or_never(), Some(None));
    }

    #[test]
    fn a_signal_reaches_those_who_ask_before_and_after() {
        let signal = Signal::new();
        let mut before = signal.subscribe();
        assert_eq!((&mut before).now_or_never(), None);
        signal.set();
        assert!(before.now_or_never().is_some());
        assert!(signal.subscribe().now_or_never().is_some());
        assert!(signal.is_set());
    }
}

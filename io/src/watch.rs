//! A channel that holds the latest value only: cheap while nobody waits, and it wakes those who do in order of arrival.
//! For any runtime: production and the simulator have the same.
//!
//! No waker is woken or dropped, and no value dropped, while the list of those who wait is locked.

use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft_rt::{OptionalSend, OptionalSync};

use crate::jobs::lock;

/// The channel, for [`AsyncRuntime::Watch`](openraft_rt::AsyncRuntime::Watch).
#[derive(Debug)]
pub struct OrderedWatch;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of the value, and changed with it: only while the value is locked.
    version: u64,
    senders: usize,
    receivers: usize,
    next_ticket: u64,
    /// By ticket, which is the order of arrival. Few at a time, and they come and go with every change.
    waiting: Vec<(u64, Waker)>,
}

impl State {
    /// The waker that this one takes the place of, if it does.
    #[must_use]
    fn wait(&mut self, ticket: u64, waker: &Waker) -> Option<Waker> {
        match self.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            Ok(at) if self.waiting[at].1.will_wake(waker) => None,
            Ok(at) => Some(mem::replace(&mut self.waiting[at].1, waker.clone())),
            Err(at) => {
                self.waiting.insert(at, (ticket, waker.clone()));
                None
            }
        }
    }

    /// A waiter gives up.
    #[must_use]
    fn leave(&mut self, ticket: u64) -> Option<Waker> {
        let at = self.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        Some(self.waiting.remove(at).1)
    }
}

impl<T> Shared<T> {
    /// Changes the value; `modify` says whether it did.
    fn update(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        if !modify(&mut value) {
            return false;
        }
        let mut waiting = {
            // With the value still locked: who sees one of the two sees the other, and no change is told twice.
            let mut state = lock(&self.state);
            state.version += 1;
            mem::take(&mut state.waiting)
        };
        drop(value);
        if waiting.is_empty() {
            return true;
        }
        for (_, waker) in waiting.drain(..) {
            waker.wake();
        }
        let mut state = lock(&self.state);
        if state.waiting.is_empty() {
            // Its memory, for those who wait next.
            state.waiting = waiting;
        }
        true
    }

    fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let state = State { version: 0, senders: 1, receivers: 1, next_ticket: 0, waiting: Vec::new() };
        let shared = Arc::new(Shared { value: RwLock::new(init), state: Mutex::new(state) });
        (Sender(shared.clone()), Receiver { shared, seen: 0 })
    }
}

/// Changes the value. When the last one is dropped, who waits for a change is told that there will be none.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if lock(&self.0.state).receivers == 0 {
            return Err(SendError(value));
        }
        // What it was is dropped by this function, and not under the lock.
        let mut value = value;
        self.0.update(|current| {
            mem::swap(current, &mut value);
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.update(modify)
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        let mut state = lock(&self.0.state);
        state.receivers += 1;
        Receiver { shared: self.0.clone(), seen: state.version }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0.state).senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&self.0.state);
            state.senders -= 1;
            if state.senders == 0 { mem::take(&mut state.waiting) } else { Vec::new() }
        };
        for (_, waker) in waiting {
            waker.wake();
        }
    }
}

/// Sees the value, and waits for changes that it has not seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A waiting receiver's place in the queue, given up when the future is dropped.
struct Place<'a> {
    state: &'a Mutex<State>,
    ticket: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let waker = lock(self.state).leave(ticket);
            drop(waker);
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let seen = &mut self.seen;
        let mut place = Place { state: &self.shared.state, ticket: None };
        poll_fn(|cx| {
            let mut state = lock(place.state);
            if state.version != *seen {
                *seen = state.version;
                // Whoever changed it, or was the last to be able to, has taken all who waited off the list.
                place.ticket = None;
                return Poll::Ready(Ok(()));
            }
            if state.senders == 0 {
                place.ticket = None;
                return Poll::Ready(Err(RecvError(())));
            }
            let ticket = *place.ticket.get_or_insert_with(|| {
                state.next_ticket += 1;
                state.next_ticket
            });
            let old = state.wait(ticket, cx.waker());
            drop(state);
            drop(old);
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.borrow()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read().unwrap_or_else(PoisonError::into_inner);
        self.seen = lock(&self.shared.state).version;
        value
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        lock(&self.shared.state).receivers += 1;
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        lock(&self.shared.state).receivers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    /// Threads that send, and threads that wait until they have seen what was sent last: a wake-up that is lost leaves one
    /// waiting.
    #[test]
    fn no_change_is_missed() {
        const SENDERS: u64 = 2;
        const CHANGES: u64 = 20_000;
        let (sender, receiver) = OrderedWatch::channel(0);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut receiver = receiver.clone();
                std::thread::spawn(move || {
                    let runtime = ::tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    let (mut last, mut seen) = (0, 0);
                    while runtime.block_on(receiver.changed()).is_ok() {
                        let now = *receiver.borrow_and_update();
                        assert!(now >= last, "{now} after {last}");
                        (last, seen) = (now, seen + 1);
                    }
                    (last, seen)
                })
            })
            .collect();
        let sending: Vec<_> = (0..SENDERS)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for _ in 0..CHANGES {
                        sender.send_if_modified(|value| {
                            *value += 1;
                            true
                        });
                    }
                })
            })
            .collect();
        drop(sender);
        for thread in sending {
            thread.join().expect("it sends");
        }
        for thread in waiting {
            let (last, seen) = thread.join().expect("it waits");
            assert_eq!(last, SENDERS * CHANGES);
            assert!((1..=SENDERS * CHANGES).contains(&seen));
        }
    }

    /// openraft sends what it has borrowed, and sends it again if it is told of it again.
    #[test]
    fn a_value_that_was_borrowed_is_not_told_of_again() {
        const CHANGES: u64 = 20_000;
        let (sender, mut receiver) = OrderedWatch::channel(0);
        let sending = std::thread::spawn(move || {
            for value in 1..=CHANGES {
                sender.send(value).expect("there is a receiver");
            }
            sender
        });
        let mut last = 0;
        while last < CHANGES {
            // Between the changing of a value and of its version there must be nothing for this to see.
            last = *receiver.borrow_and_update();
            let waker = std::task::Waker::noop();
            let told = Box::pin(receiver.changed()).as_mut().poll(&mut std::task::Context::from_waker(waker));
            assert!(told.is_pending() || *receiver.borrow_watched() > last, "told of {last} again");
        }
        drop(sending.join().expect("it sends"));
    }

    #[test]
    fn who_waits_is_woken_by_a_change_and_in_order() {
        let woken = Arc::new(Mutex::new(Vec::new()));
        struct Note(u32, Arc<Mutex<Vec<u32>>>);
        impl std::task::Wake for Note {
            fn wake(self: Arc<Self>) {
                lock(&self.1).push(self.0);
            }
        }
        let (sender, receiver) = OrderedWatch::channel(0);
        let mut receivers: Vec<_> = (0..4).map(|_| receiver.clone()).collect();
        let mut futures: Vec<_> = receivers.iter_mut().map(|receiver| Box::pin(receiver.changed())).collect();
        for (number, future) in futures.iter_mut().enumerate().rev() {
            let waker = Arc::new(Note(number as u32, woken.clone())).into();
            assert!(future.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        }
        // One gives up.
        drop(futures.remove(1));
        assert!(!sender.send_if_modified(|_| false));
        assert!(lock(&woken).is_empty());
        assert!(sender.send_if_modified(|value| {
            *value = 7;
            true
        }));
        assert_eq!(*lock(&woken), [3, 2, 0]);
    }
}

//! Channels whose wake-ups are in order of arrival, and nothing else. Those that hold the latest value only are
//! production's: [`quorate_io::watch`].
//!
//! No user code (a value's destructor, a waker) runs while one of their locks is held: destructors of killed tasks
//! come back into channels.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{self, Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_channel::oneshot;
use openraft_rt::{Mpsc, MpscReceiver, MpscSender, MpscWeakSender, OptionalSend, SendError, TryRecvError};
use openraft_rt::{Mutex, Oneshot, OneshotSender};

fn lock<T>(mutex: &sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A counting semaphore that hands a freed permit to whoever waited longest.
#[derive(Debug)]
struct Permits {
    free: usize,
    next_ticket: u64,
    /// By ticket, which is the order of arrival.
    waiting: BTreeMap<u64, Waker>,
    granted: BTreeSet<u64>,
}

impl Permits {
    fn new(free: usize) -> Self {
        Self { free, next_ticket: 0, waiting: BTreeMap::new(), granted: BTreeSet::new() }
    }

    /// Takes a permit, or waits for one under `ticket`.
    fn poll_acquire(&mut self, ticket: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        let number = match *ticket {
            Some(number) if self.granted.remove(&number) => {
                *ticket = None;
                return Poll::Ready(());
            }
            Some(number) => number,
            None if self.free > 0 => {
                self.free -= 1;
                return Poll::Ready(());
            }
            None => {
                self.next_ticket += 1;
                self.next_ticket
            }
        };
        *ticket = Some(number);
        match self.waiting.get_mut(&number) {
            Some(old) => old.clone_from(cx.waker()),
            None => _ = self.waiting.insert(number, cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Gives a permit back; the waker is of the waiter that got it.
    #[must_use]
    fn release(&mut self) -> Option<Waker> {
        let Some((ticket, waker)) = self.waiting.pop_first() else {
            self.free += 1;
            return None;
        };
        self.granted.insert(ticket);
        Some(waker)
    }

    /// A waiter gives up; the waker is of the waiter that got a permit in its place.
    #[must_use]
    fn cancel(&mut self, ticket: u64) -> Option<Waker> {
        if self.granted.remove(&ticket) {
            return self.release();
        }
        self.waiting.remove(&ticket);
        None
    }
}

// Mpsc

/// Bounded channels with many senders and one receiver.
#[derive(Debug)]
pub struct SimMpsc;

#[derive(Debug)]
struct Channel<T> {
    buffer: VecDeque<T>,
    /// One permit for each free slot of the buffer.
    slots: Permits,
    senders: usize,
    receiver_alive: bool,
    receiver: Option<Waker>,
}

/// See [`SimMpsc`].
#[derive(Debug)]
pub struct SimMpscSender<T>(Arc<sync::Mutex<Channel<T>>>);

/// See [`SimMpsc`].
#[derive(Debug)]
pub struct SimMpscReceiver<T>(Arc<sync::Mutex<Channel<T>>>);

/// See [`SimMpsc`].
#[derive(Debug)]
pub struct SimMpscWeakSender<T>(Arc<sync::Mutex<Channel<T>>>);

impl Mpsc for SimMpsc {
    type Sender<T: OptionalSend> = SimMpscSender<T>;
    type Receiver<T: OptionalSend> = SimMpscReceiver<T>;
    type WeakSender<T: OptionalSend> = SimMpscWeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (SimMpscSender<T>, SimMpscReceiver<T>) {
        assert!(buffer > 0, "a bounded channel needs room for one message");
        let channel = Arc::new(sync::Mutex::new(Channel {
            buffer: VecDeque::new(),
            slots: Permits::new(buffer),
            senders: 1,
            receiver_alive: true,
            receiver: None,
        }));
        (SimMpscSender(channel.clone()), SimMpscReceiver(channel))
    }
}

/// A waiting sender's place in the queue, given up when the future is dropped. The polling closure must borrow it: one
/// that moves would copy the ticket, and this would never hear of it.
struct SendTicket<'a, T> {
    channel: &'a sync::Mutex<Channel<T>>,
    ticket: Option<u64>,
}

impl<T> Drop for SendTicket<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let next = lock(self.channel).slots.cancel(ticket);
            wake(next);
        }
    }
}

impl<T: OptionalSend> MpscSender<SimMpsc, T> for SimMpscSender<T> {
    async fn send(&self, msg: T) -> Result<(), SendError<T>> {
        let mut place = SendTicket { channel: &self.0, ticket: None };
        let mut msg = Some(msg);
        poll_fn(|cx| {
            let mut channel = lock(place.channel);
            if channel.receiver_alive && channel.slots.poll_acquire(&mut place.ticket, cx).is_pending() {
                return Poll::Pending;
            }
            let msg = msg.take().expect("a future is not polled again once it is ready");
            if !channel.receiver_alive {
                return Poll::Ready(Err(SendError(msg)));
            }
            channel.buffer.push_back(msg);
            let receiver = channel.receiver.take();
            drop(channel);
            wake(receiver);
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn downgrade(&self) -> SimMpscWeakSender<T> {
        SimMpscWeakSender(self.0.clone())
    }
}

impl<T> Clone for SimMpscSender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for SimMpscSender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut channel = lock(&self.0);
            channel.senders -= 1;
            if channel.senders == 0 { channel.receiver.take() } else { None }
        };
        wake(receiver);
    }
}

impl<T> Clone for SimMpscWeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: OptionalSend> MpscWeakSender<SimMpsc, T> for SimMpscWeakSender<T> {
    fn upgrade(&self) -> Option<SimMpscSender<T>> {
        let mut channel = lock(&self.0);
        if channel.senders == 0 {
            return None;
        }
        channel.senders += 1;
        Some(SimMpscSender(self.0.clone()))
    }
}

impl<T: OptionalSend> MpscReceiver<T> for SimMpscReceiver<T> {
    async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| match self.try_recv() {
            Ok(value) => Poll::Ready(Some(value)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                let old = lock(&self.0).receiver.replace(cx.waker().clone());
                drop(old);
                Poll::Pending
            }
        })
        .await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut channel = lock(&self.0);
        match channel.buffer.pop_front() {
            Some(value) => {
                let next = channel.slots.release();
                drop(channel);
                wake(next);
                Ok(value)
            }
            None if channel.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

impl<T> Drop for SimMpscReceiver<T> {
    fn drop(&mut self) {
        let (buffer, waiting, receiver) = {
            let mut channel = lock(&self.0);
            channel.receiver_alive = false;
            (mem::take(&mut channel.buffer), mem::take(&mut channel.slots.waiting), channel.receiver.take())
        };
        for (_, sender) in waiting {
            sender.wake();
        }
        drop((buffer, receiver));
    }
}

// Oneshot

/// Channels for a single value: those of futures, which have one waiter and nothing to order.
#[derive(Debug)]
pub struct SimOneshot;

/// See [`SimOneshot`].
#[derive(Debug)]
pub struct SimOneshotSender<T>(oneshot::Sender<T>);

impl Oneshot for SimOneshot {
    type Sender<T: OptionalSend> = SimOneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::Canceled;

    fn channel<T: OptionalSend>() -> (SimOneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (SimOneshotSender(sender), receiver)
    }
}

impl<T: OptionalSend> OneshotSender<T> for SimOneshotSender<T> {
    fn send(self, t: T) -> Result<(), T> {
        self.0.send(t)
    }
}

// Mutex

/// A mutex that is handed over in order of arrival.
#[derive(Debug)]
pub struct SimMutex<T>(sync::Mutex<MutexState<T>>);

#[derive(Debug)]
struct MutexState<T> {
    /// Out while a guard has it: a guard must be `Send`, which the standard library's is not.
    value: Option<Box<T>>,
    turn: Permits,
}

/// See [`SimMutex`].
#[derive(Debug)]
pub struct SimMutexGuard<'a, T> {
    mutex: &'a SimMutex<T>,
    value: Option<Box<T>>,
}

struct LockTicket<'a, T> {
    mutex: &'a SimMutex<T>,
    ticket: Option<u64>,
}

impl<T> Drop for LockTicket<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let next = lock(&self.mutex.0).turn.cancel(ticket);
            wake(next);
        }
    }
}

impl<T: OptionalSend + 'static> Mutex<T> for SimMutex<T> {
    type Guard<'a> = SimMutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(sync::Mutex::new(MutexState { value: Some(Box::new(value)), turn: Permits::new(1) }))
    }

    async fn lock(&self) -> SimMutexGuard<'_, T> {
        let mut place = LockTicket { mutex: self, ticket: None };
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            state.turn.poll_acquire(&mut place.ticket, cx).map(|()| {
                let value = state.value.take();
                SimMutexGuard { mutex: self, value }
            })
        })
        .await
    }
}

const HELD: &str = "a guard has the value until it is dropped";

impl<T> Deref for SimMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for SimMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect(HELD)
    }
}

impl<T> Drop for SimMutexGuard<'_, T> {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.mutex.0);
            state.value = self.value.take();
            state.turn.release()
        };
        wake(next);
    }
}

//! A disk worker that runs closures, one after another.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use quorate_core::disk::{Disk, Step, Wake, Worker};

/// Locks a mutex whose holders never leave it half changed, so that a panic elsewhere does not spread.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker is gone, and with it the job: it may have been done or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk worker has stopped")]
pub struct JobsStopped;

/// What publishes a job's outcome once its I/O has taken place.
type Completion = Box<dyn FnOnce() + Send>;
type Job<D> = Box<dyn FnOnce(&D) -> Completion + Send>;

struct Queue<D> {
    jobs: VecDeque<Job<D>>,
    /// No handle is left: the worker stops when the queue is empty.
    closed: bool,
    /// The worker is gone: a job put here would wait for ever.
    stopped: bool,
}

struct Handle<D: Disk> {
    queue: Arc<Mutex<Queue<D>>>,
    wake: D::Wake,
}

impl<D: Disk> Drop for Handle<D> {
    fn drop(&mut self) {
        lock(&self.queue).closed = true;
        self.wake.wake();
    }
}

/// A queue of closures that do synchronous disk I/O, and the [`Worker`] that runs them in order, each in one step.
/// Cheap to clone; the worker finishes the queue and stops when the last clone is dropped.
pub struct Jobs<D: Disk> {
    handle: Arc<Handle<D>>,
}

impl<D: Disk> Clone for Jobs<D> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone() }
    }
}

impl<D: Disk> fmt::Debug for Jobs<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jobs")
    }
}

impl<D: Disk> Jobs<D> {
    /// Starts a worker on `disk`.
    pub fn start(disk: &D, name: &str) -> Self {
        let queue = Arc::new(Mutex::new(Queue { jobs: VecDeque::new(), closed: false, stopped: false }));
        let wake = disk.start(name, JobWorker { disk: disk.clone(), queue: queue.clone() });
        Self { handle: Arc::new(Handle { queue, wake }) }
    }

    /// Runs `job` after those before it and returns its value once its I/O has taken place. Dropping the future does
    /// not take the job back.
    ///
    /// # Errors
    /// [`JobsStopped`], also if the job panics.
    pub async fn run<T, F>(&self, job: F) -> Result<T, JobsStopped>
    where
        T: Send + 'static,
        F: FnOnce(&D) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.push(Box::new(move |disk: &D| {
            let value = job(disk);
            Box::new(move || drop(sender.send(value)))
        }));
        receiver.await.map_err(|_| JobsStopped)
    }

    /// Runs `job` after those before it; nobody learns of its outcome. If the worker is gone, `job` is dropped.
    pub fn post<F>(&self, job: F)
    where
        F: FnOnce(&D) + Send + 'static,
    {
        self.push(Box::new(move |disk: &D| {
            job(disk);
            Box::new(|| {})
        }));
    }

    fn push(&self, job: Job<D>) {
        let mut queue = lock(&self.handle.queue);
        if queue.stopped {
            // Released first: what the job owns may want to post a job when it is dropped.
            drop(queue);
            drop(job);
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.handle.wake.wake();
    }
}

struct JobWorker<D> {
    disk: D,
    queue: Arc<Mutex<Queue<D>>>,
}

impl<D: Disk> Worker for JobWorker<D> {
    type Done = Completion;

    fn work(&mut self) -> Step<Completion> {
        let (job, closed) = {
            let mut queue = lock(&self.queue);
            (queue.jobs.pop_front(), queue.closed)
        };
        match job {
            Some(job) => Step::Done(job(&self.disk)),
            None if closed => Step::Stop,
            None => Step::Idle,
        }
    }

    fn done(&mut self, completion: Completion) {
        completion();
    }
}

impl<D> Drop for JobWorker<D> {
    fn drop(&mut self) {
        let abandoned = {
            let mut queue = lock(&self.queue);
            queue.stopped = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(abandoned);
    }
}

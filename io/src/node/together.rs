//! Work that one does for all who wait for it: many reads need one round of messages, not one each.

use std::sync::Mutex;

use futures_channel::oneshot;

use crate::jobs::lock;

/// Whoever comes while the work is being done waits for the next time that it is done, since what it finds out must be true
/// after they came.
pub(super) struct Together<T>(Mutex<Waiting<T>>);

struct Waiting<T> {
    /// Somebody does the work, or is about to.
    at_work: bool,
    /// Who will be told when it is done the next time.
    next: Vec<oneshot::Sender<T>>,
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { at_work: false, next: Vec::new() }))
    }
}

/// Nobody waits for one that was given up.
struct AtWork<'a, T>(&'a Together<T>);

impl<T> Drop for AtWork<'_, T> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.0);
        waiting.at_work = false;
        waiting.next.clear();
    }
}

impl<T: Clone> Together<T> {
    /// Where to wait for what the work finds out, which may be given up; and whether the caller has to see to it that
    /// [`Together::work`] is done.
    pub(super) fn join(&self) -> (oneshot::Receiver<T>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.0);
        waiting.next.push(sender);
        (receiver, !std::mem::replace(&mut waiting.at_work, true))
    }

    /// Does the work for as long as somebody waits for it.
    pub(super) async fn work<W: Future<Output = T>>(&self, work: impl Fn() -> W) {
        let at_work = AtWork(self);
        while let Some(told) = self.next() {
            let found = work().await;
            // Whoever does not wait any more need not be told.
            told.into_iter().for_each(|sender| drop(sender.send(found.clone())));
        }
        // It may be another's turn by now.
        std::mem::forget(at_work);
    }

    /// Who waits for the work; nobody, and then it is over.
    fn next(&self) -> Option<Vec<oneshot::Sender<T>>> {
        let mut waiting = lock(&self.0);
        waiting.at_work = !waiting.next.is_empty();
        waiting.at_work.then(|| std::mem::take(&mut waiting.next))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_comes_while_the_work_is_done_waits_for_the_next_time() {
        let (together, done) = (Together::default(), Cell::new(0));
        let (first, begins) = together.join();
        let (second, begins_too) = together.join();
        assert!(begins && !begins_too);
        let late = Cell::new(None);
        let work = together.work(|| async {
            if done.get() == 0 {
                late.set(Some(together.join().0));
            }
            done.set(done.get() + 1);
            done.get()
        });
        work.now_or_never().expect("nothing waits");
        let told = |receiver: oneshot::Receiver<i32>| receiver.now_or_never().expect("told").ok();
        assert_eq!((told(first), told(second), told(late.take().expect("joined"))), (Some(1), Some(1), Some(2)));
        assert!(together.join().1, "nobody is at work");
    }

    #[test]
    fn work_that_is_given_up_keeps_nobody_waiting() {
        let together = Together::<i32>::default();
        let (first, _) = together.join();
        let mut work = Box::pin(together.work(std::future::pending));
        assert!(work.as_mut().now_or_never().is_none());
        let (second, begins) = together.join();
        assert!(!begins);
        drop(work);
        assert!([first, second].into_iter().all(|r| r.now_or_never().is_some_and(|told| told.is_err())));
        assert!(together.join().1);
    }
}

//! The Runtime seam.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft_rt::testing::Suite;
use openraft_rt::{AsyncRuntime, Instant, Mpsc, MpscReceiver, MpscSender, Mutex, Watch, WatchReceiver, WatchSender};
use quorate_io::watch::OrderedWatch;
use sim::platform::{SimInstant, SimMpsc, SimMutex, SimRuntime, run};

#[test]
fn openraft_runtime_suite() {
    std::thread::spawn(Suite::<SimRuntime>::test_all).join().expect("the suite passes");
}

#[test]
fn a_tiny_sleep_is_tiny_and_no_sleep_is_over_at_once() {
    run(1, || async {
        let start = SimInstant::now();
        SimRuntime::sleep(Duration::from_micros(1)).await;
        assert!(start.elapsed() < Duration::from_micros(3), "{:?}", start.elapsed());
        let before = SimInstant::now();
        SimRuntime::sleep(Duration::ZERO).await;
        assert!(SimInstant::now() > before);
        SimRuntime::timeout(Duration::from_secs(1), SimRuntime::sleep(Duration::MAX)).await.expect_err("never ends");
    });
}

#[test]
fn a_sleep_keeps_its_time_when_polled_early_and_moved_between_tasks() {
    run(1, || async {
        let start = SimInstant::now();
        let mut sleep = Box::pin(SimRuntime::sleep(Duration::from_millis(5)));
        assert!(SimRuntime::timeout(Duration::from_millis(1), &mut sleep).await.is_err());
        SimRuntime::spawn(sleep).await.unwrap();
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_millis(5) && elapsed < Duration::from_millis(6), "{elapsed:?}");
    });
}

#[test]
fn the_join_handle_of_a_killed_task_is_an_error() {
    run(1, || async {
        let node = madsim::runtime::Handle::current().create_node().build();
        let task = node.spawn(pending::<()>());
        SimRuntime::sleep(Duration::from_millis(1)).await;
        madsim::runtime::Handle::current().kill(node.id());
        let error = task.await.expect_err("killed");
        assert!(!SimRuntime::is_panic(&error));
    });
}

#[test]
fn senders_and_lockers_are_served_in_order_of_arrival() {
    run(1, || async {
        let (tx, mut rx) = SimMpsc::channel::<u32>(1);
        tx.send(0).await.unwrap();
        let mutex = Arc::new(SimMutex::new(Vec::new()));
        let held = mutex.lock().await;
        for number in 1..20 {
            let (tx, mutex) = (tx.clone(), mutex.clone());
            SimRuntime::spawn(async move {
                tx.send(number).await.unwrap();
            });
            SimRuntime::spawn(async move { mutex.lock().await.push(number) });
            SimRuntime::sleep(Duration::from_micros(10)).await;
        }
        drop(held);
        for number in 0..20 {
            assert_eq!(rx.recv().await, Some(number));
        }
        SimRuntime::sleep(Duration::from_millis(1)).await;
        assert_eq!(*mutex.lock().await, (1..20).collect::<Vec<_>>());
    });
}

#[test]
fn a_waiter_that_gives_up_passes_its_permit_on() {
    run(1, || async {
        let (tx, mut rx) = SimMpsc::channel::<u32>(1);
        tx.send(0).await.unwrap();
        let mut first = Box::pin(tx.send(1));
        assert!(SimRuntime::timeout(Duration::from_millis(1), &mut first).await.is_err());
        let second = tx.clone();
        let second = SimRuntime::spawn(async move { second.send(2).await });
        SimRuntime::sleep(Duration::from_millis(1)).await;
        assert_eq!(rx.recv().await, Some(0));
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!(rx.recv().await, Some(2));
    });
}

#[test]
fn dropping_the_receiver_fails_waiting_senders_and_drops_messages() {
    run(1, || async {
        let (tx, rx) = SimMpsc::channel::<Arc<()>>(1);
        let value = Arc::new(());
        tx.send(value.clone()).await.unwrap();
        let waiting = {
            let (tx, value) = (tx.clone(), value.clone());
            SimRuntime::spawn(async move { tx.send(value).await })
        };
        SimRuntime::sleep(Duration::from_millis(1)).await;
        drop(rx);
        drop(waiting.await.unwrap().expect_err("nobody receives").0);
        assert_eq!(Arc::strong_count(&value), 1);
    });
}

#[test]
fn a_message_may_hold_its_own_sender() {
    type Message = Box<dyn std::any::Any + Send>;
    run(1, || async {
        let (tx, rx) = SimMpsc::channel::<Message>(1);
        tx.send(Box::new(tx.clone())).await.unwrap();
        drop(rx);
        tx.send(Box::new(())).await.expect_err("nobody receives");
    });
}

#[test]
fn watchers_wake_and_the_last_value_is_seen_before_the_end() {
    run(1, || async {
        let (tx, rx) = OrderedWatch::channel(0);
        let seen = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (mut rx, seen) = (rx.clone(), seen.clone());
            tasks.push(SimRuntime::spawn(async move {
                while rx.changed().await.is_ok() {
                    seen.fetch_add(*rx.borrow_watched(), Ordering::Relaxed);
                }
            }));
        }
        SimRuntime::sleep(Duration::from_millis(1)).await;
        tx.send(1).unwrap();
        drop(tx);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(seen.load(Ordering::Relaxed), 20);
    });
}

#[test]
fn a_locker_and_a_watcher_that_give_up_leave_the_queue() {
    run(1, || async {
        let mutex = SimMutex::new(());
        let (tx, mut rx) = OrderedWatch::channel(0);
        let mut other = rx.clone();
        let held = mutex.lock().await;
        let mut first = Box::pin(mutex.lock());
        assert!(SimRuntime::timeout(Duration::from_millis(1), &mut first).await.is_err());
        let second = mutex.lock();
        drop(held);
        drop(first);
        SimRuntime::timeout(Duration::from_millis(1), second).await.expect("the lock is free");

        assert!(SimRuntime::timeout(Duration::from_millis(1), rx.changed()).await.is_err());
        tx.send(1).unwrap();
        rx.changed().await.unwrap();
        other.changed().await.unwrap();
        assert_eq!(*rx.borrow_watched(), 1);
    });
}

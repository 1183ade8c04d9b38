//! The machines' own clocks.

use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant};
use sim::platform::{Machine, SimInstant, SimRuntime, World, WorldConfig, global_now, run};

const SEC: Duration = Duration::from_secs(1);

/// What a machine's clock and the world's say that a task took.
async fn measure<F: Future<Output = ()> + Send + 'static>(machine: &Machine, task: F) -> (Duration, Duration) {
    let task = machine.spawn(async move {
        let (local, global) = (SimInstant::now(), global_now());
        task.await;
        (local.elapsed(), Duration::from_nanos(global_now() - global))
    });
    task.expect("a process runs").await.expect("it ends")
}

/// Begins when it is polled first: on the machine that it is for.
async fn nap(duration: Duration) {
    SimRuntime::sleep(duration).await;
}

fn world() -> (World, Machine, Machine) {
    let world = World::new(WorldConfig::default());
    let (a, b) = (world.machine("a"), world.machine("b"));
    (world, a, b)
}

fn near(duration: Duration, expected_us: u64) -> bool {
    duration.abs_diff(Duration::from_micros(expected_us)) < Duration::from_micros(2)
}

#[test]
fn timers_run_by_the_clock_of_their_machine() {
    run(1, || async {
        let (_world, fast, slow) = world();
        fast.set_clock_drift(20_000);
        slow.set_clock_drift(-20_000);
        slow.step_clock(100 * SEC);
        for (machine, global_us) in [(&fast, 980_392), (&slow, 1_020_408)] {
            drop(machine.boot(|platform| async move { drop(platform) }));
            let (local, global) = measure(machine, nap(SEC)).await;
            assert!(near(local, 1_000_000) && near(global, global_us), "{machine:?}: {local:?} {global:?}");
            let timeout = async { _ = SimRuntime::timeout(SEC, std::future::pending::<()>()).await };
            assert!(near(measure(machine, timeout).await.1, global_us));
        }
        let ahead = slow.spawn(async { SimInstant::now() }).expect("it runs").await.expect("it ends");
        assert!(ahead - SimInstant::now() > 99 * SEC, "{ahead:?}");
        let before = global_now();
        SimRuntime::sleep(SEC).await;
        assert!(near(Duration::from_nanos(global_now() - before), 1_000_000), "outside of machines time is exact");
        [fast, slow].iter().for_each(Machine::kill);
    });
}

#[test]
fn who_sleeps_notices_a_step_and_another_rate() {
    run(1, || async {
        let (_world, machine, other) = world();
        for machine in [&machine, &other] {
            machine.set_clock_drift(0);
            drop(machine.boot(|platform| async move { drop(platform) }));
        }
        let (stepped, drifting) = (machine.clone(), machine.clone());
        let change = SimRuntime::spawn(async move {
            SimRuntime::sleep(SEC).await;
            stepped.step_clock(4 * SEC);
        });
        let (local, global) = measure(&machine, nap(10 * SEC)).await;
        assert!(near(local, 10_000_000) && near(global, 6_000_000), "{local:?} {global:?}");
        change.await.expect("it ends");
        let change = SimRuntime::spawn(async move {
            SimRuntime::sleep(5 * SEC).await;
            drifting.set_clock_drift(-100_000);
        });
        let both = futures_util::future::join(measure(&machine, nap(14 * SEC)), measure(&other, nap(14 * SEC)));
        let ((local, global), (_, exact)) = both.await;
        assert!(near(local, 14_000_000) && near(global, 15_000_000) && near(exact, 14_000_000), "{local:?} {global:?}");
        change.await.expect("it ends");
        let stepped = machine.clone();
        let (_, global) = measure(&machine, async move { stepped.step_clock(SEC) }).await;
        assert!(near(global, 0));
        [machine, other].iter().for_each(Machine::kill);
    });
}

//! The Disk seam, and what happens to disks.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant};
use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker, read_file, replace_file};
use sim::Trace;
use sim::platform::{DiskProfile, Drive, Garble, SimDisk, SimInstant, SimRuntime, run};

pub(crate) fn drive(seed: u64) -> Drive {
    Drive::new(1, seed, DiskProfile::default(), Trace::default())
}

struct Script<F>(Option<F>, Arc<Mutex<bool>>);

impl<F: FnOnce() + Send + 'static> Worker for Script<F> {
    type Done = ();
    fn work(&mut self) -> Step<()> {
        let Some(script) = self.0.take() else { return Step::Stop };
        script();
        Step::Done(())
    }
    fn done(&mut self, (): ()) {
        *self.1.lock().unwrap() = true;
    }
}

/// Starts a worker that runs the script in one step; the flag says that it is done.
pub(crate) fn start(disk: &SimDisk, script: impl FnOnce(&SimDisk) + Send + 'static) -> Arc<Mutex<bool>> {
    let (on, done) = (disk.clone(), Arc::default());
    disk.start("script", Script(Some(move || script(&on)), Arc::clone(&done)));
    done
}

async fn sleep(duration: Duration) {
    SimRuntime::sleep(duration).await;
}

pub(crate) async fn finish(disk: &SimDisk, script: impl FnOnce(&SimDisk) + Send + 'static) {
    let done = start(disk, script);
    while !*done.lock().unwrap() {
        sleep(Duration::from_micros(100)).await;
    }
}

#[test]
fn conformance() {
    for seed in 0..5 {
        run(seed, move || async move { sim::conformance::disk::suite(drive(seed).boot(), "/data".into()).await });
    }
}

#[test]
fn a_step_is_visible_at_once_and_done_later() {
    run(1, || async {
        let disk = drive(1).boot();
        let done = start(&disk, |disk| replace_file(disk, Path::new("/f"), b"content").unwrap());
        SimRuntime::spawn(async {}).await.unwrap();
        let begin = SimInstant::now();
        while !*done.lock().unwrap() {
            assert!(read_file(&disk, Path::new("/f")).is_ok_and(|content| content == b"content"));
            sleep(Duration::from_micros(5)).await;
        }
        assert!(begin.elapsed() > Duration::from_micros(100), "two syncs take {:?}", begin.elapsed());
    });
}

/// Whatever instant a kill comes at: what is left is the state between two operations, and all such states occur.
#[test]
fn a_kill_cuts_between_operations() {
    let mut seen = BTreeSet::new();
    for micros in (1..6000).step_by(7) {
        seen.insert(run(1, move || async move {
            let drive = drive(1);
            let disk = drive.boot();
            let done = start(&disk, |disk| {
                let file = disk.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
                file.write_at(0, b"aa").unwrap();
                file.sync().unwrap();
                file.write_at(1, b"bb").unwrap();
                file.sync().unwrap();
                file.set_len(1).unwrap();
                file.sync().unwrap();
                disk.rename(Path::new("/f"), Path::new("/g")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                disk.remove(Path::new("/g")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
            });
            sleep(Duration::from_micros(micros)).await;
            drive.kill();
            assert_eq!(*done.lock().unwrap(), drive.counters().undone == 0 && drive.counters().syncs == 5);
            (drive.content(Path::new("/f")), drive.content(Path::new("/g")))
        }));
    }
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    let all = [(None, None), (some(b"aa"), None), (some(b"abb"), None), (some(b"a"), None), (None, some(b"a"))];
    assert_eq!(seen.iter().filter(|state| all.contains(state)).count(), 5, "{seen:?}");
    assert!(seen.iter().all(|state| all.contains(state) || *state == (some(b""), None)), "{seen:?}");
}

#[test]
fn dead_handles_do_nothing() {
    run(1, || async {
        let drive = drive(1);
        let old = drive.boot();
        let lock = old.lock(Path::new("/")).unwrap();
        finish(&old, |disk| replace_file(disk, Path::new("/f"), b"old").unwrap()).await;
        let file = old.open(Path::new("/f"), OpenMode::Existing).unwrap();
        drive.kill();
        let new = drive.boot();
        let _lock = new.lock(Path::new("/")).expect("a kill frees locks");
        drop(lock);
        new.lock(Path::new("/")).expect_err("a dead lock's destructor frees nothing");
        file.write_at(0, b"dead").expect_err("dead");
        file.sync().expect_err("dead");
        old.open(Path::new("/x"), OpenMode::Create).expect_err("dead");
        let done = start(&old, |_| unreachable!("a dead worker does not work"));
        sleep(Duration::from_millis(1)).await;
        assert!(!*done.lock().unwrap());
        assert_eq!(drive.content(Path::new("/f")), Some(b"old".to_vec()));
    });
}

#[test]
fn power_loss_keeps_what_was_synced_and_loses_what_was_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        seen.insert(run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            finish(&disk, |disk| {
                let file = disk.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
                file.write_at(0, b"synced").unwrap();
                file.sync().unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                file.write_at(0, b"UNSYNC").unwrap();
                disk.open(Path::new("/unsynced"), OpenMode::CreateNew).unwrap().sync().unwrap();
            })
            .await;
            drive.kill();
            assert_eq!(drive.content(Path::new("/f")), Some(b"UNSYNC".to_vec()), "a kill keeps the cache");
            drive.power_loss();
            (drive.content(Path::new("/f")).unwrap(), drive.content(Path::new("/unsynced")))
        }));
    }
    let both = |bytes: &[u8]| [(bytes.to_vec(), None), (bytes.to_vec(), Some(vec![]))];
    assert_eq!(seen, [both(b"synced"), both(b"UNSYNC")].concat().into_iter().collect());
}

#[test]
fn replacing_a_file_survives_power_loss_at_any_instant() {
    let mut seen = BTreeSet::new();
    for micros in (1..3000).step_by(5) {
        let content = run(micros, move || async move {
            let drive = drive(micros);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), &[1; 700]).unwrap()).await;
            let done = start(&disk, |disk| replace_file(disk, Path::new("/f"), &[2; 1300]).unwrap());
            sleep(Duration::from_micros(micros)).await;
            drive.power_loss();
            let content = drive.content(Path::new("/f")).expect("never missing");
            assert!(!*done.lock().unwrap() || content == [2; 1300], "done means durable");
            content
        });
        seen.insert(content);
    }
    assert_eq!(seen, [vec![1; 700], vec![2; 1300]].into());
}

/// The careless way, without a sync before the rename, must be caught out.
#[test]
fn renaming_an_unsynced_file_can_lose_both() {
    let bad = (0..100).any(|seed| {
        run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), b"old").unwrap()).await;
            finish(&disk, |disk| {
                disk.open(Path::new("/f.new"), OpenMode::Create).unwrap().write_at(0, b"new").unwrap();
                disk.rename(Path::new("/f.new"), Path::new("/f")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
            })
            .await;
            drive.power_loss();
            !matches!(drive.content(Path::new("/f")).as_deref(), Some(b"old" | b"new"))
        })
    });
    assert!(bad);
}

#[test]
fn writes_in_flight_are_torn() {
    let torn = (0..60).any(|seed| {
        run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), &[1; 1 << 20]).unwrap()).await;
            start(&disk, |disk| {
                disk.open(Path::new("/f"), OpenMode::Existing).unwrap().write_at(0, &[2; 1 << 20]).unwrap();
            });
            sleep(Duration::from_micros(20)).await;
            drive.power_loss();
            let content = drive.content(Path::new("/f")).unwrap();
            assert_eq!(content.len(), 1 << 20);
            content.chunks(512).any(|sector| sector.iter().any(|byte| *byte != sector[0]))
        })
    });
    assert!(torn);
}

#[test]
fn a_failed_sync_is_never_made_good() {
    let lost = (0..50).any(|seed| {
        run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), b"old").unwrap()).await;
            drive.fail_syncs(1);
            finish(&disk, |disk| {
                let file = disk.open(Path::new("/f"), OpenMode::Existing).unwrap();
                file.write_at(0, b"new").unwrap();
                assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
                file.sync().expect("it lies");
            })
            .await;
            assert_eq!(drive.content(Path::new("/f")), Some(b"new".to_vec()), "the cache has it");
            drive.power_loss();
            assert_eq!(drive.counters().failed_syncs, 1);
            drive.content(Path::new("/f")).unwrap() == b"old"
        })
    });
    assert!(lost);
}

#[test]
fn a_full_disk_refuses_what_was_not_allocated() {
    run(1, || async {
        let drive = drive(1);
        drive.set_profile(DiskProfile { capacity_bytes: Some(64 << 10), ..DiskProfile::default() });
        let disk = drive.boot();
        finish(&disk, |disk| {
            let reserved = disk.open(Path::new("/reserved"), OpenMode::Create).unwrap();
            reserved.allocate(32 << 10).unwrap();
            let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
            file.write_at(0, &[1; 32 << 10]).unwrap();
            assert_eq!(file.write_at(32 << 10, &[1]).unwrap_err().kind(), ErrorKind::StorageFull);
            assert_eq!(reserved.allocate(33 << 10).unwrap_err().kind(), ErrorKind::StorageFull);
            reserved.write_at(0, &[2; 32 << 10]).unwrap();
            file.write_at(0, &[3; 32 << 10]).unwrap();
            disk.remove(Path::new("/f")).unwrap();
            reserved.write_at(32 << 10, &[4; 32 << 10]).unwrap();
        })
        .await;
        assert_eq!(drive.counters().refused_for_space, 2);
    });
}

#[test]
fn a_stall_delays_what_is_under_way_and_what_comes() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        let first = start(&disk, |disk| replace_file(disk, Path::new("/f"), b"1").unwrap());
        sleep(Duration::from_micros(10)).await;
        drive.stall(Duration::from_secs(1));
        let second = start(&disk, |disk| replace_file(disk, Path::new("/g"), b"2").unwrap());
        sleep(Duration::from_millis(999)).await;
        assert!(!*first.lock().unwrap() && !*second.lock().unwrap());
        sleep(Duration::from_millis(200)).await;
        assert!(*first.lock().unwrap() && *second.lock().unwrap());
    });
}

#[test]
fn a_flipped_bit_is_read_and_a_wiped_disk_is_empty() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        disk.create_dir_all(Path::new("/data")).unwrap();
        finish(&disk, |disk| replace_file(disk, Path::new("/data/f"), b"abc").unwrap()).await;
        let flip = |path: &str, offset| drive.damage(Path::new(path), offset, Garble::Flip(0), true);
        assert_eq!(flip("/data/f", 1), [1]);
        assert!(flip("/data/f", 3).is_empty() && flip("/x", 0).is_empty());
        assert_eq!(read_file(&disk, Path::new("/data/f")).unwrap(), b"acc");
        drive.wipe();
        assert!(drive.files().is_empty());
    });
}

#[test]
#[should_panic(expected = "outside a disk worker's step")]
fn writing_outside_a_worker_is_a_bug() {
    run(1, || async {
        let _ = drive(1).boot().open(Path::new("/f"), OpenMode::Create);
    });
}

/// That is when its space is freed: production closes none where tasks would wait for it.
#[test]
#[should_panic(expected = "closing of /f on n1 outside a disk worker's step")]
fn closing_what_was_removed_outside_a_worker_is_a_bug() {
    run(1, || async {
        let (disk, kept) = (drive(1).boot(), Arc::new(Mutex::new(None)));
        let keep = kept.clone();
        finish(&disk, move |disk| {
            *keep.lock().expect("free") = disk.open(Path::new("/f"), OpenMode::Create).ok();
            disk.remove(Path::new("/f")).expect("removed");
        })
        .await;
        drop(kept.lock().expect("free").take());
    });
}

#[test]
fn a_wake_that_comes_early_is_not_lost() {
    struct Idler(Arc<Mutex<u32>>);
    impl Worker for Idler {
        type Done = ();
        fn work(&mut self) -> Step<()> {
            *self.0.lock().unwrap() += 1;
            Step::Idle
        }
        fn done(&mut self, (): ()) {}
    }
    run(1, || async {
        let steps = Arc::new(Mutex::new(0));
        let wake = drive(1).boot().start("idler", Idler(steps.clone()));
        wake.wake();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(*steps.lock().unwrap(), 2);
    });
}

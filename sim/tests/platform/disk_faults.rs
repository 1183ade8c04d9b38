//! Faults that wait for an operation, damage, and cuts at named points.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use quorate_core::disk::{Disk, File, OpenMode, replace_file};
use sim::platform::{
    Act, CRASH_POINTS, CrashPoint, Drive, FileClass, Garble, SimRuntime, Trap, TrapKind, global_now, run,
};

use crate::disk::{drive, finish, start};

const SEGMENT: &str = "/log-0000000000000001.seg";

fn point(name: &str) -> &'static CrashPoint {
    CRASH_POINTS.iter().find(|point| point.name == name).expect("a point of this name")
}

fn trap(drive: &Drive, nth: u32, kind: TrapKind) {
    drive.set_trap(Trap { nth, kind });
}

/// Waits for the cut and kills; the name of the point and what is left of the file.
async fn killed_at_cut(drive: &Drive) -> Option<Vec<u8>> {
    let at = loop {
        match drive.cut() {
            Some((at, _)) => break at,
            None => SimRuntime::sleep(Duration::from_micros(1)).await,
        }
    };
    SimRuntime::sleep(Duration::from_nanos(at.saturating_sub(global_now()))).await;
    // A cut holds even if whoever kills comes late.
    SimRuntime::sleep(Duration::from_millis(100)).await;
    drive.kill();
    assert!(drive.cut().is_none());
    drive.content(Path::new("/CURRENT"))
}

#[test]
fn a_cut_is_exactly_where_it_was_ordered() {
    for (name, left, durable) in [
        ("before CURRENT write", "old", "old"),
        ("before CURRENT sync", "old", "old"),
        ("before CURRENT rename", "old", "old"),
        ("after CURRENT rename, before directory sync", "new", "old"),
    ] {
        run(1, move || async move {
            let drive = drive(1);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/CURRENT"), b"old").unwrap()).await;
            trap(&drive, 2, TrapKind::Cut(point(name)));
            finish(&disk, |disk| replace_file(disk, Path::new("/CURRENT"), b"old").unwrap()).await;
            let done = start(&disk, |disk| replace_file(disk, Path::new("/CURRENT"), b"new").unwrap());
            assert_eq!(killed_at_cut(&drive).await.unwrap(), left.as_bytes(), "{name}");
            assert!(!*done.lock().unwrap(), "nobody is told of a step that was cut");
            assert_eq!(drive.counters().points[name], 1, "{:?}", drive.counters().points);
            let medium = drive.durable_of(FileClass::Current).into_iter().find(|(path, _)| path.ends_with("CURRENT"));
            assert_eq!(medium.unwrap().1, durable.as_bytes(), "{name}");
        });
    }
}

/// Behind the last operation of a step: it has taken effect, and its process never hears of it.
#[test]
fn a_cut_behind_the_last_operation_leaves_it_done_and_untold() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        trap(&drive, 1, TrapKind::Cut(point("after log delete")));
        finish(&disk, |disk| {
            disk.open(Path::new(SEGMENT), OpenMode::Create).unwrap().sync().unwrap();
        })
        .await;
        let done = start(&disk, |disk| disk.remove(Path::new(SEGMENT)).unwrap());
        killed_at_cut(&drive).await;
        assert!(!*done.lock().unwrap() && drive.files().is_empty());
        assert_eq!((drive.counters().points["after log delete"], drive.counters().undone), (1, 0));
    });
}

#[test]
fn a_stall_moves_a_cut_that_is_to_come() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        trap(&drive, 1, TrapKind::Cut(point("after log sync")));
        start(&disk, |disk| disk.open(Path::new(SEGMENT), OpenMode::Create).unwrap().sync().unwrap());
        SimRuntime::sleep(Duration::from_micros(1)).await;
        let (before, _) = drive.cut().unwrap();
        drive.stall(Duration::from_secs(1));
        assert_eq!(drive.cut().unwrap().0, before + 1_000_000_000);
    });
}

#[test]
fn slow_syncs_are_those_of_their_class_and_end() {
    let took = |path: &'static str, after_ms| {
        run(1, move || async move {
            let drive = drive(1);
            let disk = drive.boot();
            drive.slow_syncs(FileClass::Segment, Duration::from_millis(300), Duration::from_secs(1));
            SimRuntime::sleep(Duration::from_millis(after_ms)).await;
            let begins = global_now();
            finish(&disk, |disk| disk.open(Path::new(path), OpenMode::Create).unwrap().sync().unwrap()).await;
            (global_now() - begins) / 1_000_000
        })
    };
    assert!((300..500).contains(&took(SEGMENT, 0)), "{}", took(SEGMENT, 0));
    assert!(took("/store-1.db", 0) < 200, "another class");
    assert!((90..300).contains(&took(SEGMENT, 900)), "none takes longer than the fault lasts");
    assert!(took(SEGMENT, 1_001) < 200, "it is over");
}

#[test]
fn every_crash_counts_where_it_cut() {
    let mut names = BTreeSet::new();
    for micros in (1..3000).step_by(11) {
        names.extend(run(micros, move || async move {
            let drive = drive(micros);
            let disk = drive.boot();
            start(&disk, |disk| replace_file(disk, Path::new("/CURRENT"), b"x").unwrap());
            SimRuntime::sleep(Duration::from_micros(micros)).await;
            drive.power_loss();
            drive.counters().points.into_keys().collect::<Vec<_>>()
        }));
    }
    let expected = ["before CURRENT sync", "after CURRENT rename, before directory sync"];
    assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
}

#[test]
fn failures_hit_what_they_were_ordered_for() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        trap(&drive, 2, TrapKind::Fail { act: Act::Sync, class: Some(FileClass::Segment) });
        trap(&drive, 1, TrapKind::Fail { act: Act::Write, class: Some(FileClass::Store) });
        finish(&disk, |disk| {
            let other = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
            let segment = disk.open(Path::new(SEGMENT), OpenMode::Create).unwrap();
            let store = disk.open(Path::new("/store-1.redb"), OpenMode::Create).unwrap();
            for file in [&other, &segment] {
                file.write_at(0, b"x").unwrap();
                file.sync().unwrap();
            }
            assert_eq!(segment.sync().unwrap_err().raw_os_error(), Some(5));
            segment.sync().expect("only that one");
            assert_eq!(store.write_at(0, b"x").unwrap_err().raw_os_error(), Some(5));
        })
        .await;
        let failed: Vec<_> = drive.failures().iter().map(|failure| (failure.act, failure.class)).collect();
        assert_eq!(failed, [(Act::Sync, FileClass::Segment), (Act::Write, FileClass::Store)]);
        drive.kill();
        assert!(drive.failures().is_empty(), "they are those of the process that runs");
    });
}

/// A directory that cannot be synced is a journal that has failed: nothing can be written until the file system is
/// mounted again, and what is then there is what the medium holds.
#[test]
fn a_failed_sync_of_a_directory_ends_all_writing_until_it_is_mounted_again() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        seen.insert(run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), b"old").unwrap()).await;
            drive.fail_syncs(1);
            finish(&disk, |disk| {
                disk.remove(Path::new("/f")).unwrap();
                let file = disk.open(Path::new("/g"), OpenMode::Create).unwrap();
                assert_eq!(disk.sync_dir(Path::new("/")).unwrap_err().raw_os_error(), Some(5));
                let read_only = Some(30);
                assert_eq!(file.write_at(0, b"x").unwrap_err().raw_os_error(), read_only);
                assert_eq!(file.sync().unwrap_err().raw_os_error(), read_only);
                assert_eq!(disk.sync_dir(Path::new("/")).unwrap_err().raw_os_error(), read_only);
                assert_eq!(disk.remove(Path::new("/g")).unwrap_err().raw_os_error(), read_only);
            })
            .await;
            drive.kill();
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/h"), b"new").unwrap()).await;
            drive.content(Path::new("/f")).is_some()
        }));
    }
    assert_eq!(seen.len(), 2, "the removal is there or it is not");
}

#[test]
fn damage_is_on_the_medium_and_is_seen_in_the_cache_or_only_when_that_is_gone() {
    for seen in [true, false] {
        run(1, move || async move {
            let drive = drive(1);
            let disk = drive.boot();
            finish(&disk, |disk| replace_file(disk, Path::new("/f"), &[7; 9000]).unwrap()).await;
            let path = Path::new("/f");
            assert_eq!(drive.damage(path, 512, Garble::Zero(512), seen), (512..1024).collect::<Vec<_>>());
            assert!(drive.damage(path, 512, Garble::Zero(512), seen).is_empty() || !seen, "nothing changes twice");
            let zeros = |drive: &Drive| drive.content(path).unwrap().iter().filter(|byte| **byte == 0).count();
            assert_eq!(zeros(&drive), if seen { 512 } else { 0 });
            drive.evict();
            assert_eq!(zeros(&drive), 512, "a clean page may be read again at any time");
            assert_eq!(drive.harms()[0].offset, 512);
            assert!(drive.has_file(drive.harms()[0].file));
            finish(&drive.boot(), |disk| disk.remove(Path::new("/f")).unwrap()).await;
        });
    }
}

#[test]
fn eviction_keeps_what_is_not_on_the_medium() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        finish(&disk, |disk| {
            replace_file(disk, Path::new("/f"), b"old").unwrap();
            disk.open(Path::new("/f"), OpenMode::Existing).unwrap().write_at(0, b"NEW").unwrap();
        })
        .await;
        drive.evict();
        assert_eq!(drive.content(Path::new("/f")).unwrap(), b"NEW");
    });
}

/// The process sees what it wrote until its pages are gone; then the block is what it was before, and one that was
/// misdirected has taken another’s place.
#[test]
fn a_lost_write_leaves_the_old_block_and_a_misdirected_one_another_place_too() {
    let mut misdirected = 0;
    for (seed, elsewhere) in (0..40).map(|seed| (seed, seed % 2 == 0)) {
        misdirected += run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            let path = Path::new("/store-1.redb");
            finish(&disk, |disk| replace_file(disk, Path::new("/store-1.redb"), &[1; 5 * 4096]).unwrap()).await;
            trap(&drive, 1, TrapKind::Lose { class: FileClass::Store, elsewhere });
            finish(&disk, |disk| {
                let file = disk.open(Path::new("/store-1.redb"), OpenMode::Existing).unwrap();
                file.write_at(4096, &[2; 2 * 4096]).unwrap();
                file.sync().unwrap();
            })
            .await;
            let blocks =
                |drive: &Drive| drive.content(path).unwrap().chunks(4096).map(|block| block[0]).collect::<Vec<_>>();
            assert_eq!(blocks(&drive), [1, 2, 2, 1, 1]);
            drive.power_loss();
            let counters = drive.counters();
            assert_eq!(counters.lost_writes, 1);
            let left = blocks(&drive);
            match counters.misdirected_writes {
                0 => assert!(left == [1, 1, 2, 1, 1] || left == [1, 2, 1, 1, 1] || elsewhere, "{left:?}"),
                _ => assert!(elsewhere && left[..] != [1, 2, 2, 1, 1], "{left:?}"),
            }
            assert_eq!(drive.harms().len() as u64, 1 + counters.misdirected_writes);
            counters.misdirected_writes
        });
    }
    assert!((5..20).contains(&misdirected), "{misdirected}");
}

/// Unsynced writes reach the medium in any order: of two files, and of two directories, either may have the newer
/// change alone.
#[test]
fn unsynced_changes_are_reordered_across_files_and_directories() {
    let mut files = BTreeSet::new();
    let mut entries = BTreeSet::new();
    for seed in 0..200 {
        let (of_files, of_entries) = run(seed, move || async move {
            let drive = drive(seed);
            let disk = drive.boot();
            disk.create_dir_all(Path::new("/a")).unwrap();
            disk.create_dir_all(Path::new("/b")).unwrap();
            finish(&disk, |disk| {
                for path in ["/a/f", "/b/f"] {
                    replace_file(disk, Path::new(path), b"old").unwrap();
                }
                for path in ["/a/f", "/b/f"] {
                    disk.open(Path::new(path), OpenMode::Existing).unwrap().write_at(0, b"new").unwrap();
                }
                for path in ["/a/g", "/b/g"] {
                    disk.open(Path::new(path), OpenMode::Create).unwrap();
                }
            })
            .await;
            drive.power_loss();
            let is_new = |path: &str| drive.content(Path::new(path)).unwrap() == b"new";
            let is_there = |path: &str| drive.content(Path::new(path)).is_some();
            ((is_new("/a/f"), is_new("/b/f")), (is_there("/a/g"), is_there("/b/g")))
        });
        files.insert(of_files);
        entries.insert(of_entries);
    }
    assert_eq!((files.len(), entries.len()), (4, 4), "{files:?} {entries:?}");
}

#[test]
fn a_disk_that_is_full_for_a_while_takes_writes_again() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        finish(&disk, |disk| replace_file(disk, Path::new("/f"), &[1; 10_000]).unwrap()).await;
        assert_eq!(drive.used_bytes(), 3 * 4096);
        let full = sim::platform::DiskProfile { capacity_bytes: Some(drive.used_bytes()), ..Default::default() };
        drive.set_profile(full);
        finish(&disk, |disk| {
            let file = disk.open(Path::new("/f"), OpenMode::Existing).unwrap();
            file.write_at(0, &[2; 10_000]).unwrap();
            assert_eq!(file.write_at(12_288, b"x").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            file.sync().unwrap();
        })
        .await;
        drive.set_profile(sim::platform::DiskProfile::default());
        finish(&disk, |disk| {
            disk.open(Path::new("/f"), OpenMode::Existing).unwrap().write_at(12_288, b"x").unwrap();
        })
        .await;
        assert_eq!(drive.counters().refused_for_space, 1);
    });
}

/// What is set aside for a full disk is of use only if giving it back makes room.
#[test]
fn a_file_that_is_cut_gives_back_what_was_allocated() {
    run(1, || async {
        let drive = drive(1);
        let disk = drive.boot();
        finish(&disk, |disk| disk.open(Path::new("/a"), OpenMode::Create).unwrap().allocate(64 << 10).unwrap()).await;
        let full = sim::platform::DiskProfile { capacity_bytes: Some(drive.used_bytes() - 4096), ..Default::default() };
        drive.set_profile(full);
        finish(&disk, |disk| {
            let (a, b) = (Path::new("/a"), Path::new("/b"));
            let b = disk.open(b, OpenMode::Create).unwrap();
            assert_eq!(b.write_at(0, b"x").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            disk.open(a, OpenMode::Existing).unwrap().set_len(56 << 10).unwrap();
            b.write_at(0, b"x").unwrap();
            assert_eq!(b.write_at(4096, b"x").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        })
        .await;
        assert_eq!(drive.used_bytes(), 60 << 10);
    });
}

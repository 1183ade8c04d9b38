//! Durable data that is not what was written: a node says which file and where, serves nothing, votes for nobody, and
//! changes nothing. `quorate inspect` says the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use e2e::{Cluster, output, quorate};
use quorate_core::log::format::{BatchKind, parse_segment_name};
use quorate_core::log::recovery::{FoundBatch, scan_segment};

/// A cluster of one whose node was killed with all of its log sealed, in several segments.
fn killed(test: &str) -> Cluster {
    let mut cluster = Cluster::new(test, 1);
    for life in 0..3 {
        cluster.start(0);
        cluster.wait_leader();
        for index in 0..20 {
            cluster.put(0, &format!("k{index}"), &format!("\"{life}.{}\"", "v".repeat(500)));
        }
        // The last batch is sealed when the log has been idle for 10 ms; a read takes its time too.
        e2e::pause(std::time::Duration::from_millis(300));
        cluster.nodes[0].kill();
    }
    cluster
}

/// The segments of a node's log with their valid batches.
fn segments(dir: &Path) -> Vec<(PathBuf, Vec<FoundBatch>)> {
    let names = files(dir).into_keys();
    let numbered = names.filter_map(|path| Some((parse_segment_name(path.file_name()?.to_str()?)?, path)));
    let mut numbered: Vec<(u64, PathBuf)> = numbered.collect();
    numbered.sort();
    let scan = |(number, path): (u64, PathBuf)| {
        let facts = scan_segment(number, &Bytes::from(fs::read(&path).expect("readable")), None);
        (path, facts.batches)
    };
    numbered.into_iter().map(scan).collect()
}

/// Every file below `dir`, with its content; but not the reserve, which has none that matters, and much of it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.ends_with("reserve") => {}
                false => _ = found.insert(path.clone(), fs::read(&path).expect("readable")),
            }
        }
    }
    found
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[offset as usize] ^= 0x10;
    fs::write(path, bytes).expect("writable");
}

/// The node refuses to start with exit code 3 and one line that has all of `parts`, and leaves every file as it is.
fn refused(what: &str, cluster: &Cluster, parts: &[&str]) {
    let dir = &cluster.nodes[0].data_dir;
    let whole = files(dir);
    let (code, text) = inspect(dir, &["--records"]);
    assert_eq!(code, Some(3), "{what}: {text}");
    let damage = text.lines().find(|line| line.contains("DAMAGED")).unwrap_or_default();
    for part in parts {
        assert!(damage.contains(part), "{what}: no {part:?} in {damage:?}");
    }
    assert_eq!(files(dir), whole, "{what}: inspecting changed something");
    // The store is opened before the log is read, and notes that it is open.
    let kept = || -> BTreeMap<_, _> {
        files(dir).into_iter().filter(|(path, _)| path.extension() != Some("db".as_ref())).collect()
    };
    let before = kept();
    let output = output(cluster.command(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{what}: {stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    for part in parts.iter().chain(&[dir.to_str().expect("UTF-8")]) {
        assert!(line.contains(part), "{what}: no {part:?} in {line:?}");
    }
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    let after = kept();
    let changed = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).map(|(path, _)| path);
    assert_eq!(changed.collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "{what}: it wrote");
    assert_eq!(before.len(), after.len(), "{what}: it removed a file");
}

/// What `quorate inspect` says: its exit code, and stdout and stderr.
fn inspect(dir: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = quorate();
    command.arg("inspect").arg(dir).args(flags);
    let output = output(command);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

/// Damages a copy of the data, sees it refused, and puts the data back.
fn each(cluster: &Cluster, what: &str, damage: impl FnOnce(), parts: &[&str]) {
    let dir = &cluster.nodes[0].data_dir;
    let whole = files(dir);
    damage();
    refused(what, cluster, parts);
    whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("writable"));
}

#[test]
fn in_the_log_is_refused_with_file_and_offset_and_nothing_is_changed() {
    let mut cluster = killed("damaged-log");
    let segments = segments(&cluster.nodes[0].data_dir);
    let name = |path: &Path| path.file_name().expect("a file").to_str().expect("UTF-8").to_owned();
    let data = |batches: &[FoundBatch]| -> Vec<u64> {
        let data = batches.iter().filter(|batch| batch.header.kind == BatchKind::Data);
        data.map(|batch| batch.header.offset).collect()
    };
    let (newest, batches) = segments.last().expect("a log");
    assert_eq!(batches.last().map(|batch| batch.header.kind), Some(BatchKind::Seal), "the log is sealed");
    let last = *data(batches).last().expect("it has data");
    let at = |offset: u64| format!("offset {offset}");

    each(&cluster, "the body of the last batch", || flip(newest, last + 66), &[&name(newest), &at(last)]);
    each(&cluster, "the header of the last batch", || flip(newest, last + 20), &[&name(newest), &at(last)]);
    let middle = data(batches)[data(batches).len() / 2];
    each(&cluster, "a batch in the middle", || flip(newest, middle + 66), &[&name(newest), &at(middle)]);
    each(&cluster, "the newest segment's header", || flip(newest, 3), &[&name(newest), "offset 0"]);
    let older = segments.iter().rev().skip(1).find(|(_, batches)| !data(batches).is_empty());
    let (older, batches) = older.expect("an older segment has data");
    let first = data(batches)[0];
    each(&cluster, "an older segment", || flip(older, first + 66), &[&name(older), &at(first)]);
    let remove = || fs::remove_file(older).expect("writable");
    each(&cluster, "an older segment is missing", remove, &[&name(older), "missing"]);
    let remove_all = || segments.iter().for_each(|(path, _)| fs::remove_file(path).expect("writable"));
    each(&cluster, "all segments are missing", remove_all, &[]);

    cluster.start(0);
    cluster.wait_leader();
    assert_eq!(cluster.list(0).found.len(), 20, "the data was put back, and is whole");
}

#[test]
fn whole_data_is_described_and_left_alone() {
    let cluster = killed("inspected");
    let dir = &cluster.nodes[0].data_dir;
    let before = files(dir);
    let (code, text) = inspect(dir, &[]);
    println!("{text}");
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "identity   node ",
        "founding   cluster ",
        "founder n1",
        "every block is whole",
        "vote       term ",
        "starts     3",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (code, records) = inspect(dir, &["--records"]);
    assert_eq!(code, Some(0), "{records}");
    assert!(records.lines().count() > text.lines().count() + 60, "{records}");
    assert!(records.contains("membership 0-") || records.contains("membership "), "{records}");
    assert_eq!(files(dir), before, "inspecting changed something");

    let (code, text) = inspect(cluster.directory().path(), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no node has kept data"), "{text}");
    let (code, text) = inspect(Path::new("/nowhere"), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("/nowhere"), "{text}");
}

#[test]
fn in_the_small_files_is_refused_by_name() {
    let mut cluster = killed("damaged-files");
    let dir = cluster.nodes[0].data_dir.clone();
    for file in ["identity", "founding"] {
        let path = dir.join(file);
        let len = fs::metadata(&path).expect("it is there").len();
        for offset in [0, len / 2, len - 1] {
            each(&cluster, file, || flip(&path, offset), &[file]);
        }
        each(&cluster, file, || fs::write(&path, "").expect("writable"), &[file]);
    }
    cluster.start(0);
    cluster.wait_leader();
    assert_eq!(cluster.list(0).found.len(), 20, "the data was put back, and is whole");
}

#[test]
fn in_the_store_is_rebuilt_from_the_log() {
    let mut cluster = killed("damaged-store");
    let store = cluster.nodes[0].data_dir.join("store");
    let names = || fs::read_dir(&store).expect("readable").map(|entry| entry.expect("readable").path());
    for name in ["CURRENT", "db"] {
        let path = names().find(|path| path.ends_with(name) || path.extension() == Some(name.as_ref()));
        let path = path.expect("the store has it");
        for offset in (0..fs::metadata(&path).expect("it is there").len()).step_by(if name == "db" { 999 } else { 1 }) {
            flip(&path, offset);
        }
        let (code, text) = inspect(&cluster.nodes[0].data_dir, &[]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains("DAMAGED: ") && text.contains("rebuilds the store"), "{text}");
        cluster.start(0);
        cluster.wait_leader();
        assert_eq!(cluster.list(0).found.len(), 20, "{name}");
        cluster.nodes[0].kill();
    }
}

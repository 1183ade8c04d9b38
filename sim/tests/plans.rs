//! Plans as files: the corpus, which must stay clean, and the commands that read and write plans.
#![cfg(madsim)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sim::plan::Plan;
use sim::run::{Report, run};
use sim::sweep::explain;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the binary was built with this test")
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Every plan that once showed a bug.
#[test]
fn the_corpus_is_clean() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let files = std::fs::read_dir(&dir).expect("it is committed").map(|entry| entry.expect("it is a folder").path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let path = file.to_str().expect("its name is text");
        assert_eq!(file.extension().and_then(|extension| extension.to_str()), Some("plan"), "{path} is no plan");
        let text = std::fs::read_to_string(&file).expect(path);
        assert!(text.starts_with("// "), "{path}: a comment at its head says which bug it showed");
        let plan = Plan::load(path).unwrap_or_else(|error| panic!("{error}"));
        let report = Report { file: Some(path.to_owned()), ..run(&plan, 0) };
        assert!(report.violation.is_none(), "{text}\n{}", explain(&report));
    }
}

#[test]
fn a_plan_that_was_written_runs_as_its_seed_does() {
    let file = scratch("seed-3.plan");
    let path = file.to_str().expect("its name is text");
    assert_eq!(sim(&["plan", "3", "-o", path]).status.code(), Some(0));
    let hash = |target: &str| {
        let output = sim(&["replay", target]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("it is text");
        text.lines().find(|line| line.starts_with("hash ")).expect("a hash").to_owned()
    };
    assert_eq!(hash(path), hash("3"));
    let printed = sim(&["plan", path]).stdout;
    assert_eq!(String::from_utf8(printed).expect("it is text"), Plan::draw(3).to_text());
}

#[test]
fn a_plan_that_cannot_be_run_is_refused_by_name() {
    let file = scratch("bad.plan");
    let path = file.to_str().expect("its name is text");
    std::fs::write(&file, "(seed: 1, nodes: 3, heal_ms: 900, workload: (clients: 0))").expect("there is room");
    for (args, says) in [
        (&["replay", path][..], "workload.clients: 0 is not in"),
        (&["plan", path], "bad.plan: workload.clients"),
        (&["replay", "no.plan"], "no.plan is no seed"),
        (&["plan", "1", "-o", "no/such/folder/x.plan"], "cannot write no/such/folder/x.plan"),
    ] {
        let output = sim(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error}");
    }
}

/// The command that a report prints for a plan from a file runs that file.
#[test]
fn a_violation_of_a_plan_file_is_reproduced_by_the_file() {
    let file = scratch("canary.plan");
    let path = file.to_str().expect("its name is text");
    Plan { canary: true, ..Plan::draw(2) }.save(&file, "a bug on purpose").expect("there is room");
    let output = sim(&["replay", path]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("reproduce: cargo run --release -p sim -- replay {path}\n")), "{text}");
}

/// The bug on purpose needs no fault, and hardly any operation.
#[test]
fn a_plan_with_a_bug_on_purpose_shrinks_to_next_to_nothing() {
    let (file, small) = (scratch("canary-to-shrink.plan"), scratch("canary-shrunk.plan"));
    let [path, small] = [&file, &small].map(|file| file.to_str().expect("its name is text"));
    Plan { canary: true, ..Plan::draw(9) }.save(&file, "a bug on purpose").expect("there is room");
    let output = sim(&["shrink", path, "-o", small, "--runs", "300", "--jobs", "2"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = std::fs::read_to_string(small).expect("it was written");
    let plan = Plan::load(small).expect("it is a plan");
    let operations = plan.workload.clients as usize * plan.workload.bursts_ms.len() * plan.workload.burst_ops as usize;
    assert!(plan.canary && plan.faults.is_empty() && operations <= 20, "{text}");
    for part in ["// Violates: ", "runs by: sim shrink ", path, "0 faults"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    let replayed = sim(&["replay", small]);
    let told = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert_eq!(replayed.status.code(), Some(1), "{told}");
    let property = text.lines().next().and_then(|line| line.strip_prefix("// Violates: ")).expect("the first line");
    assert!(told.contains(&format!("violates: {property}")), "{told}");
}

#[test]
fn a_clean_plan_is_not_shrunk() {
    let output = sim(&["shrink", "3"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("violates nothing"), "{output:?}");
}

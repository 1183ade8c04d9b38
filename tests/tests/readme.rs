//! What the README claims to be elsewhere is there: the tests it names, the example it quotes, the flags it lists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The Rust source below a folder, all files together.
fn source(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).expect("a folder of the workspace") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            text += &source(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text += &fs::read_to_string(&path).expect("source is UTF-8");
        }
    }
    text
}

#[test]
fn the_tests_it_names_exist() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("## What survives which faults").expect("the section is there");
    let (table, _) = table.split_once("\n## ").expect("another one follows");
    let source: String = ["core", "io", "sim", "tests"].iter().map(|dir| source(&root().join(dir))).collect();
    let rows = table.lines().filter_map(|line| line.strip_suffix('|')?.rsplit('|').next());
    let quoted = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: Vec<_> = quoted.filter(|name| name.contains('_')).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(source.contains(&format!("fn {name}(")), "the README names a test that is not there: {name}");
    }
}

#[test]
fn the_example_it_quotes_is_the_tested_one() {
    let block = |text: &str, start: &str| {
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?}"));
        rest.split_once("```").expect("a block ends").0.trim_end().to_owned()
    };
    let essay: Vec<String> = read("io/src/lib.rs")
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned())
        .collect();
    let tested = block(&essay.join("\n"), "# A node in your process\n\n```\n");
    let quoted = block(&read("README.md"), "```rust\n");
    assert!(tested.starts_with(&quoted), "io/src/lib.rs says\n{tested}\n\nREADME.md says\n{quoted}");
}

#[test]
fn the_flags_it_lists_are_those_there_are() {
    let help = e2e::quorate().arg("--help").output().expect("the binary runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let flag = |line: &str| line.split_whitespace().find(|word| word.starts_with("--")).map(str::to_owned);
    let mut there: Vec<String> =
        help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(flag).collect();
    there.retain(|flag| flag != "--help" && flag != "--version");
    let listed =
        |line: &str| line.strip_prefix("| `--").map(|rest| format!("--{}", rest.split('`').next().unwrap_or(rest)));
    let listed: Vec<String> = read("README.md").lines().filter_map(listed).collect();
    assert_eq!(listed, there);
}

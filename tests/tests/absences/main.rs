//! What must be absent, checked: dependencies that would point the wrong way, and words that would make a run depend
//! on more than its seed. clippy checks much of it with types (see the `clippy.toml` files); this needs no clippy.

mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::{code_of, lines_with, without_unit_tests};

/// What may not occur where.
struct Rule {
    /// Words, paths or macros.
    needles: &'static [&'static str],
    /// Folders it may not occur in.
    within: &'static [&'static str],
    /// Folders in those that are exempt.
    except: &'static [&'static str],
    /// Whether unit tests may.
    tests_may: bool,
    /// For whoever runs into it.
    why: &'static str,
}

const EVERYWHERE: &[&str] = &["core", "io", "server", "sim", "tests", "fuzz"];
const SIMULATED: &[&str] = &["core/src", "io/src", "sim/src"];
/// The binding to the real world, and the test suites of folders that run against it.
const REAL: &[&str] = &["io/src/tokio"];

/// Where the real clock may be read: the binding, and the sweep and its progress line, which are outside of every run.
const CLOCK: &[&str] = &["io/src/tokio", "sim/src/sweep.rs", "sim/src/sweep"];
/// Where something may outlive a function: the binding, the clock of the one run that a thread is for, and the
/// allocator of the simulator's binary.
const STATICS: &[&str] = &["io/src/tokio", "sim/src/platform/clock.rs", "sim/src/main.rs"];

const RULES: &[Rule] = &[
    Rule {
        needles: &["unsafe"],
        within: EVERYWHERE,
        except: &[],
        tests_may: false,
        why: "there is no unsafe code here",
    },
    Rule {
        needles: &["tokio::"],
        within: SIMULATED,
        except: REAL,
        tests_may: true,
        why: "go through the Runtime and Net seams: tokio's scheduler, clock, channels and sockets are not simulated",
    },
    Rule {
        needles: &["std::time::Instant", "std::time::SystemTime", "SystemTime", "UNIX_EPOCH"],
        within: SIMULATED,
        except: CLOCK,
        tests_may: true,
        why: "use the Runtime seam's Instant: this clock is not simulated",
    },
    Rule {
        needles: &["std::thread", "std::fs", "std::net", "std::env", "std::process"],
        within: &["core/src", "io/src"],
        except: REAL,
        tests_may: true,
        why: "go through the Runtime, Disk and Net seams, and take settings as arguments",
    },
    Rule {
        needles: &["select!", "select_biased!"],
        within: SIMULATED,
        except: REAL,
        tests_may: true,
        why: "use the Runtime seam's select2, select3, select4: they are biased, the macros pick at random",
    },
    Rule {
        needles: &["rand::rng", "rand::random", "rand::thread_rng", "ThreadRng", "SysRng", "OsRng", "getrandom"],
        within: SIMULATED,
        except: REAL,
        tests_may: true,
        why: "draw from the Runtime seam's thread_rng, or take a seed: this randomness is not replayed",
    },
    Rule {
        needles: &["HashMap", "HashSet", "RandomState"],
        within: SIMULATED,
        except: &[],
        tests_may: false,
        why: "its order differs from process to process: use BTreeMap or BTreeSet",
    },
    Rule {
        needles: &["static", "thread_local!"],
        within: SIMULATED,
        except: STATICS,
        tests_may: true,
        why: "it would survive a run and make the next one differ",
    },
    Rule {
        needles: &["async", "await", "Mutex", "RwLock", "Condvar", "std::sync::mpsc"],
        within: &["core/src"],
        except: &[],
        tests_may: true,
        why: "core is pure and synchronous",
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

/// The Rust files below a folder, or none if there is no such folder.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// Whether a file holds nothing but tests.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

fn violations(rule: &Rule, path: &str, code: &str) -> Vec<String> {
    let applies = |dirs: &[&str]| {
        dirs.iter().any(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    if !applies(rule.within) || applies(rule.except) || (rule.tests_may && is_test_file(path)) {
        return Vec::new();
    }
    let code = if rule.tests_may { without_unit_tests(code) } else { code };
    let found = |needle: &'static str| lines_with(code, needle).into_iter().map(move |line| (line, needle));
    let lines = rule.needles.iter().copied().flat_map(found);
    lines.map(|(line, needle)| format!("{path}:{line}: `{needle}`: {}", rule.why)).collect()
}

#[test]
fn no_source_file_has_what_must_be_absent() {
    let root = root();
    let (mut files, mut found) = (0, Vec::new());
    for path in EVERYWHERE.iter().flat_map(|dir| rust_files(&root.join(dir))) {
        let name = path.strip_prefix(&root).expect("it was found below").to_string_lossy().into_owned();
        let code = code_of(&fs::read_to_string(&path).expect("it can be read"));
        found.extend(RULES.iter().flat_map(|rule| violations(rule, &name, &code)));
        files += 1;
    }
    assert!(files > 50, "only {files} source files were found");
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_rule_finds_its_words_and_only_where_it_applies() {
    for rule in RULES {
        for needle in rule.needles {
            let code = format!("fn f() {{\n  {needle} x;\n}}\n");
            let path = format!("{}/x.rs", rule.within[0]);
            assert!(!violations(rule, &path, &code).is_empty(), "{needle}");
            assert!(violations(rule, "elsewhere/x.rs", &code).is_empty(), "{needle}");
            for exempt in rule.except {
                assert!(violations(rule, &format!("{exempt}/x.rs"), &code).is_empty(), "{needle}");
            }
            let in_test = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
            assert_eq!(violations(rule, &path, &in_test).is_empty(), rule.tests_may, "{needle}");
        }
    }
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn crates_below(package: &str) -> Vec<String> {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none", "--locked", "--offline"]);
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Crates that end up in the build of the pure half: none that schedules, ticks, opens or draws.
#[test]
fn core_is_built_from_pure_crates() {
    let crates = crates_below("quorate-core");
    assert!(crates.iter().any(|name| name == "bytes"), "{crates:?}");
    let impure = ["tokio", "madsim", "axum", "hyper", "openraft", "openraft-rt", "rand", "getrandom", "redb", "libc"];
    for name in impure.iter().chain(&["mio", "rustix", "futures-util", "futures-core", "futures-channel", "tracing"]) {
        assert!(!crates.iter().any(|found| found == name), "quorate-core is built from {name}");
    }
}

/// Dependencies point one way. Test scaffolding is in no product.
#[test]
fn dependencies_point_one_way() {
    const MAY: [(&str, &[&str]); 5] = [
        ("quorate-core", &[]),
        ("quorate-io", &["quorate-core"]),
        ("quorate", &["quorate-core", "quorate-io"]),
        ("sim", &["quorate-core", "quorate-io", "quorate"]),
        ("e2e", &["quorate-core", "quorate-io", "quorate"]),
    ];
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    assert!(packages.len() >= 4, "the workspace has {} packages", packages.len());
    let ours: Vec<_> = packages.iter().map(|package| package["name"].as_str().expect("a name")).collect();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let (_, may) =
            MAY.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is not in the table"));
        for dependency in package["dependencies"].as_array().expect("a list") {
            let dependency = dependency["name"].as_str().expect("a name");
            assert!(
                !ours.contains(&dependency) || may.contains(&dependency),
                "{name} depends on {dependency}: dependencies point one way, {name} may have {may:?}"
            );
        }
    }
}

#[test]
fn the_product_has_no_test_scaffolding() {
    let crates = crates_below("quorate");
    for name in ["madsim", "proptest", "libfuzzer-sys", "sim", "e2e"] {
        assert!(!crates.iter().any(|found| found == name), "the server is built from {name}");
    }
    assert!(crates.iter().any(|found| found == "openraft"), "{crates:?}");
}

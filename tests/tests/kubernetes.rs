//! The manifests in `deploy/kubernetes`: against Kubernetes' own schemas by `kubernetes-validate` (from PyPI), strictly, so
//! that a field that is not there fails; and against the binary whose variables they set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{output, quorate};

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/quorate.yaml")
}

/// The versions whose schemas are asked: the oldest that has all fields, and the newest that the tool knows.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

#[test]
fn the_schemas_have_every_field() {
    let validate = |file: &Path, version: &str| {
        let mut command = Command::new("kubernetes-validate");
        command.args(["--strict", "--kubernetes-version", version]).arg(file).output()
    };
    for version in VERSIONS {
        match validate(&manifest(), version) {
            Ok(output) => {
                let text =
                    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}");
                assert_eq!(text.matches(" passed for resource ").count(), 4, "{text}");
            }
            Err(error) => {
                println!("SKIPPED: there is no kubernetes-validate here (pip install kubernetes-validate): {error}")
            }
        }
    }
}

#[test]
fn its_variables_are_flags_of_ours() {
    let manifest = fs::read_to_string(manifest()).expect("it is there");
    let mut command = quorate();
    command.arg("--help");
    let help = String::from_utf8(output(command).stdout).expect("UTF-8");
    let names =
        manifest.split("name: QUORATE_").skip(1).map(|rest| rest.split([',', '\n', '}']).next().unwrap_or(rest));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        assert!(help.contains(&format!("[env: QUORATE_{name}=")), "QUORATE_{name} is no variable of ours");
    }
}

#[test]
fn the_nodes_on_its_list_are_the_pods_that_there_are() {
    let manifest = fs::read_to_string(manifest()).expect("it is there");
    let (_, rest) = manifest.split_once("value: \"quorate-0=").expect("the list");
    let list = format!("quorate-0={}", rest.split_once('"').expect("its end").0);
    let pods: Vec<_> = (0..3).map(|pod| format!("quorate-{pod}=quorate-{pod}.quorate-peers:2380")).collect();
    assert_eq!(list, pods.join(","));
    for line in ["replicas: 3", "serviceName: quorate-peers", "publishNotReadyAddresses: true", "name: quorate-peers"] {
        assert!(manifest.contains(line), "{line}");
    }
}

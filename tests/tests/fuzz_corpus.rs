//! Feeds the fuzz targets with the committed corpus: what a fuzzer once found stays found.

#[allow(
    clippy::duplicate_mod,
    missing_docs,
    unreachable_pub,
    reason = "the file is the crate root of the fuzz package"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

#[test]
fn the_corpus_breaks_no_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let dir = corpus.join(name);
        let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("the folder can be read").path();
            let data = std::fs::read(&path).expect("the file can be read");
            // libFuzzer shows the input of a panic; here only the name of the file tells.
            let outcome = std::panic::catch_unwind(|| target(&data));
            assert!(outcome.is_ok(), "{} makes target {name} panic", path.display());
            count += 1;
        }
        assert!(count >= 5, "only {count} files in {}: the corpus is gone", dir.display());
    }
}

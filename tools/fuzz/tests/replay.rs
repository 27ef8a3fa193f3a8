//! Every stored input of every target, and every sound one: what a fuzzer found once stays found.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use embdb_fuzz::targets::TARGETS;
use embdb_fuzz::{quiet, run, seeds};

/// Stored inputs of a target, by name.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn stored_inputs_give_results_or_typed_errors() {
    quiet();
    let mut count = 0;
    for target in TARGETS {
        let sound = seeds::of(target.name);
        assert!(!sound.is_empty(), "{} has no input to begin with", target.name);
        let sound = sound.into_iter().enumerate().map(|(at, data)| (format!("sound input {at}"), data));
        let start = std::time::Instant::now();
        for (name, data) in sound.chain(stored(target.name)).chain([("nothing".into(), Vec::new())]) {
            let done = std::panic::catch_unwind(|| run(target.name, &data));
            assert!(done.is_ok(), "{}: {name}", target.name);
            count += 1;
        }
        println!("{}: {:?}", target.name, start.elapsed());
    }
    println!("{count} inputs");
}

#[test]
fn every_target_has_a_fuzzer_and_a_corpus() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert!(names.is_sorted());
    for folder in ["fuzz_targets", "corpus"] {
        let entries = fs::read_dir(package.join(folder)).unwrap();
        let mut found: Vec<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().into())
            .collect();
        found.sort();
        assert_eq!(found, names, "{folder}");
    }
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is no [[bin]]");
        let source = fs::read_to_string(package.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(source.contains(&format!("embdb_fuzz::run({name:?}, data)")), "{name} runs another target");
    }
}

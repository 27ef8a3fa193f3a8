//! Every stored input of every target, and every sound one: what a fuzzer found once stays found.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use embdb_fuzz::shake::{Chance, shaken};
use embdb_fuzz::targets::TARGETS;
use embdb_fuzz::{inputs, quiet, run, seeds};

/// Random changes that are tried of each input.
const CHANGES: usize = 5;

#[test]
fn stored_inputs_give_results_or_typed_errors() {
    quiet();
    let mut chance = Chance::new(1);
    for target in TARGETS {
        assert!(!seeds::of(target.name).is_empty(), "{} has no input to begin with", target.name);
        let (all, start) = (inputs(target.name), Instant::now());
        for (name, data) in &all {
            let done = std::panic::catch_unwind(|| run(target.name, data));
            assert!(done.is_ok(), "{}: {name}", target.name);
            for _ in 0..CHANGES {
                let changed = shaken(data, &all[chance.below(all.len())].1, &mut chance);
                let done = std::panic::catch_unwind(|| run(target.name, &changed));
                assert!(done.is_ok(), "{}: {name}, changed to {changed:?}", target.name);
            }
        }
        println!("{}: {} inputs, {:?}", target.name, all.len(), start.elapsed());
    }
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

//! What fuzzers call, and where their inputs come from.
//!
//! | module | what it holds |
//! |---|---|
//! | [`targets`] | a function for each kind of input |
//! | [`seeds`] | sound inputs to begin with |
//! | [`repair`] | magic numbers and checksums, which random bytes never get right |
//! | [`patch`] | changes of something sound, given by bytes |
//! | [`shake`] | random changes of inputs |
//!
//! Any bytes must give a result or a typed error: never a panic, a hang, or an allocation beyond what they justify. What a
//! target expects beyond that is asserted in it.

#![allow(clippy::expect_used)]

pub mod patch;
pub mod repair;
pub mod seeds;
pub mod shake;
pub mod targets;

/// The readers of `import`, which belong to the program and not to the library.
#[path = "../../../src/bin/embdb/input/mod.rs"]
#[allow(dead_code, missing_docs, unexpected_cfgs)]
mod input;

use std::fs;
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Inputs of a target, with names: the sound ones, the stored ones (`corpus/`), and nothing.
///
/// # Panics
/// Where the stored ones cannot be read.
pub fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let sound = seeds::of(target).into_iter().enumerate();
    let mut all: Vec<_> = sound.map(|(at, data)| (format!("sound input {at}"), data)).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an input").path()).collect();
    paths.sort();
    all.extend(
        paths.iter().map(|path| (path.display().to_string(), fs::read(path).expect("it can be read"))),
    );
    all.push(("nothing".into(), Vec::new()));
    all
}

/// Runs one input.
///
/// # Panics
/// Where the input shows a defect, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).expect("a target of the list");
    (target.run)(data);
}

/// Lets panics of crates that panic at hostile files pass in silence: embdb catches them and makes errors of them. A
/// fuzzer's own hook would end the process at the panic itself; one that nobody catches still ends it.
pub fn quiet() {
    panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let foreign = ["/tokenizers-", "/candle-", "/parquet-"];
        let place = info.location().map(|at| at.file()).unwrap_or_default();
        if !foreign.iter().any(|name| place.contains(name)) {
            eprintln!("{info}");
        }
    }));
}

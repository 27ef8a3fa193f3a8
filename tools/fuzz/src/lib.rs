//! What fuzzers call, and where their inputs come from.
//!
//! | module | what it holds |
//! |---|---|
//! | [`targets`] | a function for each kind of input |
//! | [`seeds`] | sound inputs to begin with |
//! | [`repair`] | magic numbers and checksums, which random bytes never get right |
//! | [`patch`] | changes of something sound, given by bytes |
//!
//! Any bytes must give a result or a typed error: never a panic, a hang, or an allocation beyond what they justify. What a
//! target expects beyond that is asserted in it.

#![allow(clippy::expect_used)]

pub mod patch;
pub mod repair;
pub mod seeds;
pub mod targets;

/// The readers of `import`, which belong to the program and not to the library.
#[path = "../../../src/bin/embdb/input/mod.rs"]
#[allow(dead_code, missing_docs, unexpected_cfgs)]
mod input;

use std::panic::{self, PanicHookInfo};

use targets::{TARGETS, Target};

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
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

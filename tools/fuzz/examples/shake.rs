//! Runs targets with random changes of their inputs, each for some seconds, without a fuzzer:
//!
//! cargo run -p embdb-fuzz --example shake SECONDS SEED [TARGET...]
//!
//! An input that fails goes to artifacts/TARGET/.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use embdb_fuzz::shake::{Chance, shaken};
use embdb_fuzz::targets::{TARGETS, Target};
use embdb_fuzz::{inputs, quiet, run};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().unwrap().parse::<u64>().unwrap();
    let (seconds, seed) = (number(), number());
    let names: Vec<String> = arguments.collect();
    quiet();
    for target in TARGETS.iter().filter(|target| names.is_empty() || names.iter().any(|n| n == target.name)) {
        shake(target, Duration::from_secs(seconds), seed);
    }
}

fn shake(target: &Target, time: Duration, seed: u64) {
    let (inputs, mut chance) = (inputs(target.name), Chance::new(seed));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(target.name);
    let (start, mut count, mut failures, mut slowest) = (Instant::now(), 0u64, 0, Duration::ZERO);
    while start.elapsed() < time && failures < 5 {
        let (one, other) = (&inputs[chance.below(inputs.len())].1, &inputs[chance.below(inputs.len())].1);
        let data = shaken(one, other, &mut chance);
        let begun = Instant::now();
        let done = std::panic::catch_unwind(|| run(target.name, &data));
        count += 1;
        slowest = slowest.max(begun.elapsed());
        if done.is_err() || begun.elapsed() > Duration::from_secs(5) {
            failures += 1;
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("shaken-{seed}-{count}")), &data).unwrap();
        }
    }
    println!("{}: {count} inputs, {failures} failures, the slowest took {slowest:?}", target.name);
}

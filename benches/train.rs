//! What a step of training costs: 32 pairs through the whole encoder, forward, back, and the optimiser.
//!
//! `EMBDB_BENCH_MODEL` names the model's folder (`tools/fetch-minilm.sh` fetches one) in place of the built-in encoder,
//! `EMBDB_BENCH_PAIRS` a JSONL file of pairs, `{"query": …, "positive": …}` a line, in place of made-up texts;
//! `EMBDB_BENCH_THREADS` numbers of threads, such as `1,2` (by default one, and one a core), `EMBDB_BENCH_STEPS` steps of
//! each, `EMBDB_BENCH_BATCH` pairs of a step, `EMBDB_BENCH_TOKENS` the most of a text. The first step of each is not
//! counted.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use embdb::encoder::{Encoder, ModelFiles};
use embdb::trainer::{
    Example, FullOptions, Hooks, LossKind, LossOptions, Shape, StepRecord, TrainingSet, train_full_from,
};
use embdb::types::Precision;
use embdb::{Error, Task};

/// Tokens of made-up queries and positives: deciles of questions and of passages.
const QUERIES: [usize; 10] = [7, 9, 10, 11, 12, 13, 14, 16, 18, 24];
const POSITIVES: [usize; 10] = [28, 40, 52, 64, 76, 90, 104, 118, 128, 128];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The most memory that this process had, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// A text of so many tokens, special ones included; no two are the same.
fn text(tokens: usize, number: usize) -> String {
    let mut words = vec!["word"; tokens.saturating_sub(3).max(1)];
    let digit = (number % 10).to_string();
    let place = number / 10 % words.len();
    words.insert(place, &digit);
    words.join(" ")
}

fn pairs() -> TrainingSet {
    let pair = |(number, (query, positive)): (usize, (String, String))| Example {
        texts: vec![query, positive],
        keys: vec![number as u64; 2],
        weight: 1.0,
        ..Example::default()
    };
    let texts: Vec<(String, String)> = match std::env::var_os("EMBDB_BENCH_PAIRS") {
        Some(file) => {
            let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap().to_owned();
            let line = |line: &str| serde_json::from_str(line).unwrap();
            let read = std::fs::read_to_string(file).unwrap();
            read.lines().map(line).map(|value| (text(&value, "query"), text(&value, "positive"))).collect()
        }
        None => (0..640).map(|n| (text(QUERIES[n * 7 % 10], n), text(POSITIVES[n * 3 % 10], n))).collect(),
    };
    let examples: Vec<Example> = texts.into_iter().enumerate().map(pair).collect();
    let loss = (LossKind::Ranking, LossOptions::default());
    TrainingSet::new(Shape::Pairs, &examples, loss, 0).unwrap()
}

/// The steps of a run that is stopped after `steps`, each with its processor time.
fn run(encoder: &Encoder, pairs: &TrainingSet, steps: usize) -> Vec<(StepRecord, Duration)> {
    let task = Task::default();
    let stop = task.clone();
    let (mut records, mut before) = (Vec::new(), processor_time());
    let mut step = |done: usize, _: usize, record: &StepRecord| {
        let now = processor_time();
        records.push((*record, now - before));
        before = now;
        if done > steps {
            stop.cancel();
        }
    };
    let mut options =
        FullOptions { epochs: 100, batch: number("EMBDB_BENCH_BATCH", 32), ..FullOptions::default() };
    options.limits.tokens = number("EMBDB_BENCH_TOKENS", 128);
    let mut hooks = Hooks { step: Some(&mut step), ..Hooks::default() };
    let ladder: Vec<usize> =
        [64, 128, 256, encoder.dim()].into_iter().filter(|&r| r <= encoder.dim()).collect();
    let outcome = train_full_from(encoder, pairs, &ladder, &options, (&mut hooks, &|_| Ok(true)), &task);
    assert!(matches!(outcome, Err(Error::Cancelled)));
    records.remove(0);
    records
}

fn main() {
    let folder = std::env::var_os("EMBDB_BENCH_MODEL").unwrap_or_else(|| "builtin".into());
    let files = match folder.to_str() {
        Some("builtin") => Encoder::builtin().unwrap().files().clone(),
        _ => ModelFiles::read_dir(&folder).unwrap(),
    };
    let encoder = Encoder::from_files(files, Precision::F32).unwrap();
    let pairs = pairs();
    let threads = std::env::var("EMBDB_BENCH_THREADS").unwrap_or_else(|_| "1,0".into());
    println!("instructions: {}; {} pairs", embdb::kernel::isa(), pairs.count());
    println!(
        "{:>7} {:>6} {:>9} {:>9} {:>9} {:>9}",
        "threads", "steps", "s/step", "CPU s", "pairs/s", "peak MB"
    );
    for threads in threads.split(',').filter_map(|n| n.trim().parse().ok()) {
        let records = run(&encoder.with_threads(threads), &pairs, number("EMBDB_BENCH_STEPS", 8));
        let count = records.len() as f64;
        let wall: f64 = records.iter().map(|(record, _)| record.seconds).sum();
        let processor: f64 = records.iter().map(|(_, time)| time.as_secs_f64()).sum();
        let rows: usize = records.iter().map(|(record, _)| record.rows).sum();
        println!(
            "{threads:>7} {count:>6} {:>9.3} {:>9.3} {:>9.1} {:>9.0}",
            wall / count,
            processor / count,
            rows as f64 / wall,
            peak()
        );
    }
}

//! What encoding costs: tokens a second of a model, for texts of one length and of many, by processor time.
//!
//! `EMBDB_BENCH_MODEL` names the model's folder (`tools/fetch-minilm.sh` fetches one) in place of the built-in encoder,
//! `EMBDB_BENCH_THREADS` a number of threads to measure beside one; `EMBDB_SIMD` chooses the instructions. Texts are made of one word, a token each where
//! the model knows it; what a text's tokens are makes no difference to the time. `EMBDB_BENCH_TEXTS` names a file of
//! other ones, a JSON object of lists by name; `EMBDB_BENCH_OUT` a folder for their vectors, as raw f32.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::time::{Duration, Instant};

use embdb::Task;
use embdb::encoder::{Encoder, ModelFiles};
use embdb::types::Precision;

/// How long each line is measured.
const BUDGET: Duration = Duration::from_millis(1500);

/// Lengths of real texts, in tokens: deciles of descriptions and documentation, many short and a few cut at the limit.
const MIXED: [usize; 10] = [12, 16, 20, 26, 34, 48, 70, 110, 180, 256];

/// Texts of the mixed set.
const MIXED_TEXTS: usize = 160;

/// Processor time of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A text of so many tokens, special ones included.
fn text(tokens: usize) -> String {
    vec!["word"; tokens.saturating_sub(2).max(1)].join(" ")
}

fn sets() -> Vec<(String, Vec<String>)> {
    if let Some(file) = std::env::var_os("EMBDB_BENCH_TEXTS") {
        let sets: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        return sets
            .into_iter()
            .map(|(name, texts)| (name, serde_json::from_value(texts).unwrap()))
            .collect();
    }
    let mut sets = Vec::new();
    for count in [1, 32] {
        for tokens in [16, 64, 256] {
            sets.push((format!("{count} x {tokens}"), vec![text(tokens); count]));
        }
    }
    let mixed = (0..MIXED_TEXTS).map(|n| text(MIXED[n * 7 % MIXED.len()])).collect();
    sets.push((format!("{MIXED_TEXTS} x mixed"), mixed));
    sets
}

/// Least time of a call: by the processor and by the clock.
fn measure(encoder: &Encoder, name: &str, texts: &[&str]) -> (Duration, Duration) {
    let task = Task::default();
    let vectors = encoder.encode(texts, &task).unwrap();
    if let Some(folder) = std::env::var_os("EMBDB_BENCH_OUT") {
        std::fs::write(Path::new(&folder).join(format!("{name}.f32")), bytemuck::cast_slice(&vectors))
            .unwrap();
    }
    let (begin, mut best) = (Instant::now(), (Duration::MAX, Duration::MAX));
    while begin.elapsed() < BUDGET {
        let (processor, clock) = (processor_time(), Instant::now());
        encoder.encode(texts, &task).unwrap();
        best = (best.0.min(processor_time() - processor), best.1.min(clock.elapsed()));
    }
    best
}

fn main() {
    let folder = std::env::var_os("EMBDB_BENCH_MODEL").unwrap_or_else(|| "builtin".into());
    let threads = std::env::var("EMBDB_BENCH_THREADS").ok().and_then(|n| n.parse().ok());
    let threads = threads.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    println!("instructions: {}", embdb::kernel::isa());
    println!("{:<22} {:>7} {:>12} {:>12} {:>14}", "texts × tokens", "threads", "CPU ms", "ms", "tokens/s");
    for precision in [Precision::F32, Precision::Int8] {
        let encoder = Encoder::from_files(ModelFiles::find(&folder).unwrap(), precision).unwrap();
        for (name, texts) in sets() {
            let name = format!("{} {name}", precision.name());
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let tokens: usize = texts
                .iter()
                .map(|text| encoder.count_tokens(text).unwrap() + 2)
                .map(|n| n.min(encoder.max_tokens()))
                .sum();
            for threads in std::collections::BTreeSet::from([1, threads]) {
                let (processor, clock) = measure(&encoder.with_threads(threads), &name, &texts);
                println!(
                    "{name:<22} {threads:>7} {:>12.3} {:>12.3} {:>14.0}",
                    processor.as_secs_f64() * 1e3,
                    clock.as_secs_f64() * 1e3,
                    tokens as f64 / if threads == 1 { processor } else { clock }.as_secs_f64(),
                );
            }
        }
    }
}

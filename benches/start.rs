//! From the start of a process to the answer of its first search: loading the encoder, opening, encoding, searching.
//!
//!     cargo bench --bench start                                   # the built-in encoder
//!     EMBDB_BENCH_MODEL=minilm cargo bench --bench start          # and another
//!
//! Each search is a process of its own; its files are in the system's cache.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use embdb::{CreateOptions, Db, Document, OpenOptions};

/// Processes of each encoder.
const RUNS: usize = 31;

fn main() {
    println!("{:<24}{:>12}{:>12}{:>12}", "encoder", "median, ms", "least", "most");
    measure("builtin", None);
    if let Some(folder) = std::env::var_os("EMBDB_BENCH_MODEL") {
        let folder = PathBuf::from(folder);
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        measure(&name, Some(folder));
    }
}

fn measure(name: &str, model: Option<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let create = CreateOptions { model, ..CreateOptions::default() };
    let db = Db::open_with(&path, OpenOptions { create, ..OpenOptions::default() }).unwrap();
    db.add((0..300).map(|n| Document::new(n.to_string(), format!("text number {n}")))).unwrap();
    db.compact(&Default::default()).unwrap();
    drop(db);
    let mut times: Vec<f64> = (0..=RUNS).map(|_| first_search(&path)).skip(1).collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<24}{:>12.1}{:>12.1}{:>12.1}", times[RUNS / 2], times[0], times[RUNS - 1]);
}

/// Milliseconds of one process.
fn first_search(database: &Path) -> f64 {
    let start = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_embdb"))
        .arg(database)
        .args(["search", "number seven", "-k", "3"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    start.elapsed().as_secs_f64() * 1e3
}

//! embdb in a harness that compares vector indexes and databases.
//!
//! `embdb-ann PHASE PATH DATASET [FLAGS]` runs one phase in a process of its own and prints one line `@@{json}`
//! with the keys that the harness expects. The vectors, true neighbours and the filter's attribute lie in
//! `$BENCH_DIR/data`.
//!
//! | module | what it does |
//! |---|---|
//! | `data` | reads the NumPy files of a data set |
//! | `measure` | CPU time, memory, percentiles |
//! | `options` | the flags |
//! | `build`, `search`, `insert` | the phases |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod data;
mod insert;
mod measure;
mod options;
mod search;

use std::process::ExitCode;

use options::Options;
use serde_json::{Value, json};

/// Whatever ends a phase.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let (result, code) = match run() {
        Ok(result) => (result, ExitCode::SUCCESS),
        Err(error) => (json!({"error": error.to_string()}), ExitCode::FAILURE),
    };
    println!("@@{result}");
    code
}

fn run() -> Result<Value, Failure> {
    let options = Options::parse(std::env::args().skip(1))?;
    match options.phase.as_str() {
        "build" => build::build(&options),
        "open" => search::open(&options),
        "search" => search::search(&options),
        "filter" => search::filter(&options),
        "scan" => search::scan(&options),
        "memory" => search::memory(&options),
        "insert" => insert::insert(&options),
        other => Err(format!("there is no phase {other:?}; see tools/ann/README.md").into()),
    }
}

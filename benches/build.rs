//! Construction of graphs with their repair, and the measurement of their recall, on one thread.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use embdb::Task;
use embdb::index::BuildParams;
use embdb::index::hnsw::{build, calibrate};
use embdb::types::{Builder, IndexKind};
use shared::Rows;

const DIM: usize = 128;
const LEN: u64 = 10_000;
/// Rows for what takes longer.
const FEW: u64 = 1000;

fn run(criterion: &mut Criterion) {
    let fast = BuildParams::of(IndexKind::Fast);
    let cases = [
        ("fast", fast, LEN),
        ("fast", fast, FEW),
        ("dense", BuildParams::of(IndexKind::Dense), FEW),
        ("fast, hnsw_rs", BuildParams { builder: Builder::HnswRs, ..fast }, FEW),
    ];
    let task = Task::default();
    let mut group = criterion.benchmark_group(format!("build, clustered rows of {DIM}"));
    group.sampling_mode(SamplingMode::Flat);
    for (name, params, len) in cases {
        let rows = Rows::clustered(len, DIM);
        group.throughput(Throughput::Elements(len));
        group.bench_function(format!("{name}, {len} rows"), |b| {
            b.iter(|| build(&rows.block(), &params, &task, 1).unwrap())
        });
    }
    let rows = Rows::clustered(FEW, DIM);
    let graph = build(&rows.block(), &fast, &task, 1).unwrap();
    group.bench_function(format!("recall measured, {FEW} rows"), |b| {
        b.iter(|| calibrate(&rows.block(), &graph.view(), 1, &task).unwrap())
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion(Duration::from_millis(500));
    targets = run
}
criterion_main!(benches);

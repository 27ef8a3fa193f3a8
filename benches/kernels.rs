//! Products of a query with 64 rows that lie in the processor's cache, by each kernel, for each set of instructions
//! that this processor has. The choice is made once a process, so each set is measured in a process of its own.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use embdb::kernel::planes::{Plane, PlaneQuery, plane_len, split};
use embdb::kernel::{self, CodeMatrix, CodeQuery};

/// Decides the instructions.
const VARIABLE: &str = "EMBDB_SIMD";
const ROWS: u32 = 64;

fn main() {
    if std::env::var_os(VARIABLE).is_some() {
        let mut criterion = shared::criterion(Duration::from_millis(150)).configure_from_args();
        measure(&mut criterion);
        return criterion.final_summary();
    }
    for path in ["avx512", "avx2", "scalar"] {
        let mut process = Command::new(std::env::current_exe().unwrap());
        assert!(process.args(std::env::args_os().skip(1)).env(VARIABLE, path).status().unwrap().success());
    }
}

fn measure(criterion: &mut Criterion) {
    let path = kernel::isa();
    if std::env::var(VARIABLE).unwrap() != path {
        return; // This processor lacks what was asked for.
    }
    let mut group = criterion.benchmark_group(format!("kernels, {path}, {ROWS} rows"));
    group.throughput(Throughput::Elements(ROWS.into()));
    let rows: Vec<u32> = (0..ROWS).collect();
    let mut products = vec![0; rows.len()];
    for dim in [64, 100, 384, 768] {
        let mut next = shared::random(dim as u64);
        let codes: Vec<i8> = (0..dim * (rows.len() + 1)).map(|_| (next() as i8).max(-127)).collect();
        let (query, codes) = codes.split_at(dim);
        let matrix = CodeMatrix { codes, stride: dim };
        let of_codes = CodeQuery::new(query);
        group.bench_function(BenchmarkId::new("dot_i8", dim), |b| {
            b.iter(|| kernel::dot_i8_rows(black_box(of_codes), matrix, &rows, &mut products))
        });

        let (mut high, mut low) = (vec![], vec![]);
        codes.chunks(dim).for_each(|row| split(row, &mut high, &mut low));
        let [high, low] = [&high, &low].map(|bytes| Plane { bytes, stride: plane_len(dim) });
        let of_planes = PlaneQuery::new(query);
        group.bench_function(BenchmarkId::new("dot_plane, high", dim), |b| {
            b.iter(|| kernel::dot_plane_rows(black_box(&of_planes), high, &rows, &mut products))
        });
        group.bench_function(BenchmarkId::new("dot_plane, high, one after the other", dim), |b| {
            b.iter(|| kernel::dot_plane_run(black_box(&of_planes), high, 0, &mut products))
        });
        group.bench_function(BenchmarkId::new("dot_plane, high and low", dim), |b| {
            b.iter(|| {
                kernel::dot_plane_rows(black_box(&of_planes), high, &rows, &mut products);
                kernel::dot_plane_rows(black_box(&of_planes), low, &rows, &mut products);
            })
        });

        let floats: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
        let query = shared::vector(1, dim);
        let mut of_floats = |name, product: fn(&[f32], &[f32]) -> f32| {
            group.bench_function(BenchmarkId::new(name, dim), |b| {
                b.iter(|| floats.chunks(dim).map(|row| product(black_box(&query), row)).sum::<f32>())
            });
        };
        of_floats("dot_f32", kernel::dot_f32);
        of_floats("l2_sq_f32", kernel::l2_sq_f32);
    }
    group.finish();
}

//! A whole database: import, scan, open. With EMBDB_BENCH_MODEL=FOLDER texts are imported with that encoder, else
//! with the tiny test model, which shows the cost of everything but the encoder; without the feature `encoder` not
//! at all.
//!
//! Every figure is of one process on whatever the machine does beside; compare within one run.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use embdb::types::Document;
use embdb::{Db, SearchOptions, Task};
use shared::{filled, plain, vector};

const DIM: usize = 384;

fn import(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("import");
    group.throughput(Throughput::Elements(4096));
    group.bench_function("4096 vectors of 384 in 4 batches", |b| {
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open_with(dir.path().join("a.embdb"), plain(DIM)).unwrap();
            let documents: Vec<Document> =
                (0..4096).map(|n| Document::from_vector(n.to_string(), vector(n, DIM))).collect();
            (dir, db, documents)
        };
        b.iter_batched(
            fresh,
            |(_dir, db, documents)| {
                for batch in documents.chunks(1024) {
                    db.add(batch.to_vec()).unwrap();
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

#[cfg(feature = "encoder")]
fn import_texts(criterion: &mut Criterion) {
    use std::path::{Path, PathBuf};

    use embdb::{CreateOptions, OpenOptions};

    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
    let model = std::env::var_os("EMBDB_BENCH_MODEL").map_or(tiny, PathBuf::from);
    let mut group = criterion.benchmark_group("import");
    group.throughput(Throughput::Elements(256));
    group.bench_function("256 texts of 40 words, encoded", |b| {
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            let create = CreateOptions { model: Some(model.clone()), ..CreateOptions::default() };
            let options = OpenOptions { create, background: false, ..OpenOptions::default() };
            let db = Db::create(dir.path().join("a.embdb"), options).unwrap();
            db.encoder().unwrap();
            (dir, db)
        };
        b.iter_batched(
            fresh,
            |(_dir, db)| db.add((0..256).map(|n| Document::new(n.to_string(), text(n)))).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

#[cfg(feature = "encoder")]
fn text(n: u64) -> String {
    const WORDS: &str = "revenue cash margin segment growth the of fiscal year customers increase net";
    let words: Vec<&str> = WORDS.split(' ').collect();
    let mut next = shared::random(n);
    (0..40).map(|_| words[next() as usize % words.len()]).collect::<Vec<_>>().join(" ")
}

#[cfg(not(feature = "encoder"))]
fn import_texts(_: &mut Criterion) {}

fn scan(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("a.embdb"), 50_000, DIM);
    db.seal(&Task::default()).unwrap();
    let query = vector(1 << 40, DIM);
    let mut group = criterion.benchmark_group("search 50,000 × 384, no graph");
    group.bench_function("int8 scan, rescored", |b| b.iter(|| db.search_vector(&query).k(10).run().unwrap()));
    let searcher = db.searcher(&SearchOptions::default()).unwrap();
    group.bench_function("int8 scan, prepared", |b| b.iter(|| searcher.search(&query).unwrap().len()));
    group.bench_function("exact f32 scan", |b| {
        b.iter(|| db.search_vector(&query).k(10).exact(true).run().unwrap())
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (log, sealed) = (dir.path().join("log.embdb"), dir.path().join("sealed.embdb"));
    drop(filled(&log, 20_000, DIM));
    filled(&sealed, 50_000, DIM).seal(&Task::default()).unwrap();
    let mut group = criterion.benchmark_group("open");
    group
        .bench_function("20,000 vectors in the log", |b| b.iter(|| Db::open_with(&log, plain(DIM)).unwrap()));
    group
        .bench_function("50,000 vectors, sealed", |b| b.iter(|| Db::open_with(&sealed, plain(DIM)).unwrap()));
    group.finish();
}

criterion_group! {
    name = engine;
    config = shared::criterion(Duration::from_secs(1));
    targets = import, import_texts, scan, open
}
criterion_main!(engine);

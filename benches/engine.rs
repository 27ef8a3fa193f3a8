//! Import, scan, filters and open. `cargo bench`; with EMBDB_BENCH_MODEL=FOLDER also import with that encoder
//! (else with the tiny test model, which shows the cost of everything but the encoder).
//!
//! Every figure is of one process on whatever the machine does beside; compare within one run.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use embdb::types::Document;
use embdb::{CreateOptions, Db, Filter, OpenOptions, SearchOptions, Task};

const DIM: usize = 384;
const SEED: u64 = 7;

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn vector(n: u64) -> Vec<f32> {
    let mut next = random(n + SEED);
    (0..DIM).map(|_| (next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5).collect()
}

/// How many clusters [`clustered`] has.
const CLUSTERS: u64 = 600;

/// A vector of cluster `n % CLUSTERS`.
fn clustered(n: u64) -> Vec<f32> {
    let centre = vector(n % CLUSTERS);
    centre.iter().zip(vector(n + CLUSTERS)).map(|(centre, noise)| centre + 0.7 * noise).collect()
}

fn text(n: u64) -> String {
    const WORDS: [&str; 12] = [
        "revenue",
        "cash",
        "margin",
        "segment",
        "growth",
        "the",
        "of",
        "fiscal",
        "year",
        "customers",
        "increase",
        "net",
    ];
    let mut next = random(n + SEED);
    (0..40).map(|_| WORDS[next() as usize % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

fn options(create: CreateOptions) -> OpenOptions {
    OpenOptions { create, background: false, ..OpenOptions::default() }
}

fn plain() -> OpenOptions {
    options(CreateOptions { vectors: Some(DIM), ..CreateOptions::default() })
}

fn model() -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
    std::env::var_os("EMBDB_BENCH_MODEL").map_or(tiny, PathBuf::from)
}

fn filled(path: &Path, documents: u64) -> Db {
    let db = Db::open_with(path, plain()).unwrap();
    for start in (0..documents).step_by(4096) {
        let end = (start + 4096).min(documents);
        db.add((start..end).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
    }
    db
}

fn import(c: &mut Criterion) {
    let mut group = c.benchmark_group("import");
    group.sample_size(10).throughput(Throughput::Elements(4096));
    group.bench_function("4096 vectors of 384 in 4 batches", |b| {
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open_with(dir.path().join("a.embdb"), plain()).unwrap();
            let documents: Vec<Document> =
                (0..4096).map(|n| Document::from_vector(n.to_string(), vector(n))).collect();
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
    group.throughput(Throughput::Elements(256));
    group.bench_function("256 texts of 40 words, encoded", |b| {
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            let create = CreateOptions { model: Some(model()), ..CreateOptions::default() };
            let db = Db::create(dir.path().join("a.embdb"), options(create)).unwrap();
            db.encoder().unwrap();
            (dir, db)
        };
        b.iter_batched(
            fresh,
            |(_dir, db)| {
                db.add((0..256).map(|n| Document::new(n.to_string(), text(n)))).unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn scan(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("a.embdb"), 50_000);
    db.seal(&Task::default()).unwrap();
    let query = vector(1 << 40);
    let mut group = c.benchmark_group("search 50,000 × 384, no graph");
    group.bench_function("int8 scan, rescored", |b| b.iter(|| db.search_vector(&query).k(10).run().unwrap()));
    let searcher = db.searcher(&SearchOptions::default()).unwrap();
    group.bench_function("int8 scan, prepared", |b| b.iter(|| searcher.search(&query).unwrap().len()));
    group.bench_function("exact f32 scan", |b| {
        b.iter(|| db.search_vector(&query).k(10).exact(true).run().unwrap())
    });
    group.finish();
}

/// What a filter costs before the search: parsed, evaluated, turned into rows.
fn filter(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
    let db = Db::create(dir.path().join("a.embdb"), options(create)).unwrap();
    for start in (0..100_000).step_by(10_000) {
        let with_meta = |n: u64| {
            let document = Document::from_vector(n.to_string(), vec![1.0, n as f32, 0.0, 1.0]);
            document.meta("bucket", n * 7919 % 1000).meta("lang", ["en", "de", "fr"][n as usize % 3])
        };
        db.add((start..start + 10_000).map(with_meta)).unwrap();
    }
    db.seal(&Task::default()).unwrap();
    let mut group = c.benchmark_group("filter 100,000 documents");
    for expression in ["bucket < 10", "bucket < 100", "NOT bucket < 100", "lang = 'de' AND bucket < 100"] {
        group.bench_function(expression, |b| {
            b.iter(|| {
                let filter = Some(Filter::parse(expression).unwrap());
                db.searcher(&SearchOptions { filter, ..SearchOptions::default() }).unwrap().matches()
            })
        });
    }
    group.finish();
}

/// Filtered searches over a grid: the share of documents that the filter leaves × how it relates to the query (`any`
/// documents, those `near` to it, those `far` from it). The name of each cell says what recall it had.
fn filter_grid(c: &mut Criterion) {
    const LEN: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let db = Db::create(dir.path().join("a.embdb"), plain()).unwrap();
    let query = clustered(0);
    let dot = |vector: &[f32]| vector.iter().zip(&query).map(|(x, y)| x * y).sum::<f32>();
    let mut order: Vec<u64> = (0..LEN).collect();
    let products: Vec<f32> = order.iter().map(|&n| dot(&clustered(n))).collect();
    order.sort_by(|&a, &b| products[b as usize].total_cmp(&products[a as usize]));
    let mut rank = vec![0; order.len()];
    order.iter().zip(0u64..).for_each(|(&n, at)| rank[n as usize] = at);
    for start in (0..LEN).step_by(5000) {
        let with_meta = |n: u64| {
            let document = Document::from_vector(n.to_string(), clustered(n));
            document.meta("near", rank[n as usize]).meta("any", n * 7919 % LEN)
        };
        db.add((start..start + 5000).map(with_meta)).unwrap();
    }
    db.compact(&Task::default()).unwrap();
    let mut group = c.benchmark_group(format!("filter grid, {LEN} documents"));
    group.sample_size(20);
    for per_ten_thousand in [5000, 3900, 2000, 1000, 500, 100, 10, 1] {
        let left = LEN * per_ten_thousand / 10_000;
        let filters = [format!("any < {left}"), format!("near < {left}"), format!("near >= {}", LEN - left)];
        for (expression, relation) in filters.iter().zip(["any", "near", "far"]) {
            let options = |exact| {
                let filter = Some(Filter::parse(expression).unwrap());
                SearchOptions { filter, exact, ..SearchOptions::default() }
            };
            let (exact, fast) = (db.searcher(&options(true)).unwrap(), db.searcher(&options(false)).unwrap());
            let (mut hits, mut wanted) = (0, 0usize);
            for n in 0..20 {
                let truth = exact.search(&clustered(n * CLUSTERS)).unwrap();
                let found = fast.search(&clustered(n * CLUSTERS)).unwrap();
                wanted += truth.len();
                hits += found.iter().filter(|hit| truth.iter().any(|other| other.id == hit.id)).count();
            }
            let recall = hits as f64 / wanted as f64;
            let name = format!("{} % {relation}, recall {recall:.3}", per_ten_thousand as f64 / 100.0);
            let mut n = 0;
            group.bench_function(name, |b| {
                b.iter(|| {
                    n += 1;
                    fast.search(&clustered(n % 20 * CLUSTERS)).unwrap().len()
                })
            });
        }
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (log, sealed) = (dir.path().join("log.embdb"), dir.path().join("sealed.embdb"));
    drop(filled(&log, 20_000));
    filled(&sealed, 50_000).seal(&Task::default()).unwrap();
    let mut group = c.benchmark_group("open");
    group.bench_function("20,000 vectors in the log", |b| b.iter(|| Db::open_with(&log, plain()).unwrap()));
    group.bench_function("50,000 vectors, sealed", |b| b.iter(|| Db::open_with(&sealed, plain()).unwrap()));
    group.finish();
}

criterion_group! {
    name = engine;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = import, scan, filter, filter_grid, open
}
criterion_main!(engine);

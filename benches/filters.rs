//! Filters: what one costs before the search, and searches under them.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use embdb::types::Document;
use embdb::{Db, Filter, SearchOptions, Searcher, Task};
use shared::{CLUSTERS, clustered, plain};

/// Parsed, evaluated, turned into rows.
fn expressions(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::create(dir.path().join("a.embdb"), plain(4)).unwrap();
    for start in (0..100_000).step_by(10_000) {
        let with_meta = |n: u64| {
            let document = Document::from_vector(n.to_string(), vec![1.0, n as f32, 0.0, 1.0]);
            document.meta("bucket", n * 7919 % 1000).meta("lang", ["en", "de", "fr"][n as usize % 3])
        };
        db.add((start..start + 10_000).map(with_meta)).unwrap();
    }
    db.seal(&Task::default()).unwrap();
    let mut group = criterion.benchmark_group("filter 100,000 documents");
    for expression in ["bucket < 10", "bucket < 100", "NOT bucket < 100", "lang = 'de' AND bucket < 100"] {
        group.bench_function(expression, |b| b.iter(|| searcher(&db, expression, false).matches()));
    }
    group.finish();
}

fn searcher(db: &Db, expression: &str, exact: bool) -> Searcher {
    let filter = Some(Filter::parse(expression).unwrap());
    db.searcher(&SearchOptions { filter, exact, ..SearchOptions::default() }).unwrap()
}

/// Documents of the grid: enough that a filter that leaves two in five is not yet answered by a scan.
const LEN: u64 = 52_000;
const DIM: usize = 64;
/// Queries, all from one cluster.
const QUERIES: u64 = 20;

/// The `n`th query; the filters of the grid are made for the first.
fn query(n: u64) -> Vec<f32> {
    clustered((1 << 32) / CLUSTERS * CLUSTERS + n * CLUSTERS, DIM)
}

/// Documents that know their rank among all by nearness to the first query (`near`), and a random one (`any`).
fn ranked(path: &Path) -> Db {
    let db = Db::create(path, plain(DIM)).unwrap();
    let query = query(0);
    let product = |n| clustered(n, DIM).iter().zip(&query).map(|(x, y)| x * y).sum::<f32>();
    let mut order: Vec<(f32, u64)> = (0..LEN).map(|n| (-product(n), n)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rank = vec![0; order.len()];
    order.iter().zip(0u64..).for_each(|(&(_, n), at)| rank[n as usize] = at);
    for start in (0..LEN).step_by(4000) {
        let with_meta = |n: u64| {
            let document = Document::from_vector(n.to_string(), clustered(n, DIM));
            document.meta("near", rank[n as usize]).meta("any", n * 7919 % LEN)
        };
        db.add((start..start + 4000).map(with_meta)).unwrap();
    }
    db.compact(&Task::default()).unwrap();
    db
}

/// Share of the true neighbours that are found.
fn recall(fast: &Searcher, exact: &Searcher) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    for n in 0..QUERIES {
        let truth = exact.search(&query(n)).unwrap();
        let truth: HashSet<&str> = truth.iter().map(|hit| hit.id).collect();
        hits += fast.search(&query(n)).unwrap().iter().filter(|hit| truth.contains(hit.id)).count();
        wanted += truth.len();
    }
    hits as f64 / wanted as f64
}

/// Filtered searches over a grid: the share of documents that the filter leaves × how it relates to the query (`any`
/// documents, those `near` to it, those `far` from it). The name of each cell says what recall@10 it had.
fn grid(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = ranked(&dir.path().join("a.embdb"));
    let mut group = criterion.benchmark_group(format!("filter grid, {LEN} documents"));
    for per_ten_thousand in [5000, 3900, 2000, 1000, 500, 100, 10, 1] {
        let left = LEN * per_ten_thousand / 10_000;
        let filters = [format!("any < {left}"), format!("near < {left}"), format!("near >= {}", LEN - left)];
        for (expression, relation) in filters.iter().zip(["any", "near", "far"]) {
            let fast = searcher(&db, expression, false);
            let recall = recall(&fast, &searcher(&db, expression, true));
            let name = format!("{} % {relation}, recall {recall:.3}", per_ten_thousand as f64 / 100.0);
            let mut queries = (0..QUERIES).map(query).collect::<Vec<_>>().into_iter().cycle();
            group.bench_function(name, |b| b.iter(|| fast.search(&queries.next().unwrap()).unwrap().len()));
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion(Duration::from_millis(120));
    targets = expressions, grid
}
criterion_main!(benches);

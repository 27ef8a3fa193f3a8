//! The ten nearest rows of a block: by walks, which compare the high plane of codes alone (rough) or both planes
//! (coarse), and by scans. The name of each says what recall@10 it had, over the same queries.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use embdb::Task;
use embdb::format::graph::{GraphView, Sight};
use embdb::index::flat::{scan, scan_exact};
use embdb::index::hnsw::search::search;
use embdb::index::{BuildParams, Neighbour, Query, build_graph};
use shared::Rows;

const LEN: u64 = 20_000;
const DIM: usize = 128;
const K: usize = 10;

/// Measures one way to search, query after query.
struct Searches {
    queries: Vec<Query>,
    truth: Vec<Vec<Neighbour>>,
}

impl Searches {
    fn recall(&self, search: impl Fn(&Query) -> Vec<Neighbour>) -> f64 {
        let hits = self.queries.iter().zip(&self.truth).map(|(query, truth)| {
            search(query).iter().filter(|found| truth.iter().any(|wanted| wanted.row == found.row)).count()
        });
        hits.sum::<usize>() as f64 / (self.queries.len() * K) as f64
    }

    fn measure(&self, criterion: &mut Criterion, name: &str, search: impl Fn(&Query) -> Vec<Neighbour>) {
        let recall = self.recall(&search);
        let mut queries = self.queries.iter().cycle();
        criterion.bench_function(&format!("search {LEN} × {DIM}/{name}, recall {recall:.3}"), |b| {
            b.iter(|| search(queries.next().unwrap()))
        });
    }
}

fn run(criterion: &mut Criterion) {
    let rows = Rows::clustered(LEN, DIM);
    let block = rows.block();
    let queries = rows.queries(200);
    let truth = queries.iter().map(|query| scan_exact(&block, query, K, None)).collect();
    let searches = Searches { queries, truth };
    let graph = build_graph(&block, &BuildParams::DEFAULT, &Task::default(), 0).unwrap();
    // Searches read the stored form, whose links are packed; it starts at a multiple of 8 like its section in a file.
    let bytes = graph.encode();
    let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
    let view = GraphView::parse(&bytemuck::cast_slice(&words)[..bytes.len()]).unwrap();
    for (planes, rough) in [("rough", true), ("coarse", false)] {
        let sight = Sight { rung: 0, rough };
        let walked = view.walked(sight);
        let chosen = if view.sight() == sight { ", as calibration chose" } else { "" };
        for ef in [16, 64, 256] {
            let name = format!("walk, ef {ef}, {planes}{chosen}");
            searches.measure(criterion, &name, |query| search(&block, &walked, query, K, ef, None));
        }
    }
    searches.measure(criterion, "scan of codes", |query| scan(&block, query, K, None));
    searches.measure(criterion, "scan of f32 rows", |query| scan_exact(&block, query, K, None));
}

criterion_group! {
    name = benches;
    config = shared::criterion(Duration::from_secs(1));
    targets = run
}
criterion_main!(benches);

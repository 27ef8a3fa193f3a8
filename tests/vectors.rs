//! Vectors through the library: near-duplicates, every metric with every stored form, numbers out of range.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use embdb::format::file::{Kind, Layout};
use embdb::format::graph::GraphView;
use embdb::format::segment::vectors::GRAPH;
use embdb::types::{Builder, Codec, Document, Metric};
use embdb::{CreateOptions, Db, OpenOptions, SearchOptions, Searcher, Task};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];
const CODECS: [Codec; 3] = [Codec::Int8F32, Codec::Int8, Codec::F32];

/// splitmix64, so that the data stay the same.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal.
    fn normal(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| (0..6).map(|_| self.uniform()).sum::<f32>() / 2f32.sqrt()).collect()
    }
}

fn options(dim: usize, metric: Metric, codec: Codec, builder: Builder) -> OpenOptions {
    let create = CreateOptions { vectors: Some(dim), metric, codec, builder, ..CreateOptions::default() };
    OpenOptions { create, background: false, ..OpenOptions::default() }
}

fn filled(path: &Path, rows: &[Vec<f32>], options: OpenOptions) -> Db {
    let db = Db::create(path, options).unwrap();
    for (n, batch) in rows.chunks(1024).enumerate() {
        let documents = batch.iter().enumerate();
        db.add(documents.map(|(i, row)| Document::from_vector((n * 1024 + i).to_string(), row.clone())))
            .unwrap();
    }
    db
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// The distance as it is defined.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (norm(a) * norm(b)),
        Metric::Dot => -dot(a, b),
        Metric::L2 => {
            let squares = a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
            squares.sum::<f64>().sqrt()
        }
    }
}

/// Rows of the only graph that a walk from its entry does not reach.
fn unreachable(database: &Path) -> Vec<u32> {
    let mut graphs = Vec::new();
    for segment in std::fs::read_dir(database.join("seg")).unwrap() {
        for set in std::fs::read_dir(segment.unwrap().path()).unwrap() {
            graphs.push(set.unwrap().path().join("graph"));
        }
    }
    graphs.retain(|path| path.is_file());
    let [path] = graphs.as_slice() else { panic!("one graph, not {graphs:?}") };
    let bytes = std::fs::read(path).unwrap();
    let section = Layout::parse(&bytes, Kind::Graph, path).unwrap().section(GRAPH).unwrap();
    // The view wants words, and bytes that were read may lie anywhere.
    let mut words = vec![0u32; section.len() / 4];
    bytemuck::cast_slice_mut(&mut words).copy_from_slice(&bytes[section]);
    let graph = GraphView::parse(bytemuck::cast_slice(&words)).unwrap();
    let mut reached = vec![false; graph.nodes()];
    reached[graph.entry() as usize] = true;
    let mut open = vec![graph.entry()];
    while let Some(node) = open.pop() {
        for link in graph.links(node) {
            if let Some(seen) = reached.get_mut(link as usize)
                && !*seen
            {
                *seen = true;
                open.push(link);
            }
        }
    }
    for fold in graph.folds() {
        reached[fold.row as usize] = true;
    }
    (0..graph.nodes() as u32).filter(|&node| !reached[node as usize]).collect()
}

const DIM: usize = 24;

/// First `copies` vectors close to one point, then `far` others. Of the copies the first half differ a little each, the
/// others are exact copies of a vector in classes of twenty.
fn near_duplicates(copies: usize, far: usize) -> Vec<Vec<f32>> {
    let mut random = Random(11);
    let point = random.normal(DIM);
    let mut beside = |by: f32| -> Vec<f32> {
        point.iter().zip(random.normal(DIM)).map(|(&x, noise)| x + by * noise).collect()
    };
    let mut rows: Vec<Vec<f32>> = (0..copies / 2).map(|_| beside(1e-3)).collect();
    while rows.len() < copies {
        let class = beside(0.1);
        rows.extend((0..20.min(copies - rows.len())).map(|_| class.clone()));
    }
    let mut random = Random(12);
    rows.extend((0..far).map(|_| random.normal(DIM)));
    rows
}

/// What is found for a copy is as near as a copy can be, no farther than codes can tell; of the far points at least `share` are the first
/// hit of their own vector. That is all of them, save for the reference builder, and under the inner product, where the
/// walk towards a row is not one through a metric space; rows that are not their own nearest there do not count.
fn find_all(db: &Db, rows: &[Vec<f32>], copies: usize, metric: Metric, share: f64, what: &str) {
    let searcher = db.searcher(&SearchOptions::default()).unwrap();
    for (n, row) in rows[..copies].iter().enumerate().step_by(7) {
        let found = searcher.search(row).unwrap();
        let nearest = &rows[found[0].id.parse::<usize>().unwrap()];
        let best = match metric {
            Metric::Dot => rows.iter().map(|other| distance(metric, row, other)).fold(f64::MAX, f64::min),
            _ => 0.0,
        };
        let excess = distance(metric, row, nearest) - best;
        // Near-duplicates have the same codes, or nearly; classes are 0.1 apart, in units of the norm.
        let close = if metric == Metric::Dot { 0.1 * norm(row).powi(2) } else { 0.03 * norm(row) };
        assert!(found.len() == 10 && excess <= close, "{what}: copy {n}, {excess}");
    }
    let exact = db.searcher(&SearchOptions { exact: true, ..SearchOptions::default() }).unwrap();
    let far = copies..rows.len();
    let own = |searcher: &Searcher, n: usize| searcher.search(&rows[n]).unwrap()[0].id == n.to_string();
    let findable: Vec<usize> = far.clone().filter(|&n| own(&exact, n)).collect();
    let lost: Vec<usize> = findable.iter().copied().filter(|&n| !own(&searcher, n)).collect();
    let lost_at_most = ((1.0 - share) * far.len() as f64) as usize;
    assert!(lost.len() <= lost_at_most, "{what}: {} of {} lost: {lost:?}", lost.len(), far.len());
    let own_nearest = if metric == Metric::Dot { far.len() * 9 / 10 } else { far.len() };
    assert!(findable.len() >= own_nearest, "{what}: {} findable", findable.len());
}

fn nothing_is_lost(copies: usize, far: usize, cases: &[(Metric, Codec, Builder)]) {
    let rows = near_duplicates(copies, far);
    for &(metric, codec, builder) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.embdb");
        let what = format!("{} {} {}", metric.name(), codec.name(), builder.name());
        let db = filled(&path, &rows, options(DIM, metric, codec, builder));
        find_all(&db, &rows, copies, metric, 1.0, &format!("{what}, growing"));
        db.compact(&Task::default()).unwrap();
        drop(db);
        let db = Db::open_with(&path, OpenOptions::default()).unwrap();
        let share = if metric == Metric::Dot || builder == Builder::HnswRs { 0.99 } else { 1.0 };
        find_all(&db, &rows, copies, metric, share, &what);
        let report = db.check(true, &Task::default()).unwrap();
        assert!(report.ok, "{what}: {report:?}");
        assert_eq!(unreachable(&path), [0u32; 0], "{what}");
    }
}

#[test]
fn no_point_is_lost_behind_near_duplicates() {
    let flat = METRICS.map(|metric| (metric, Codec::Int8F32, Builder::Flat));
    let others =
        [(Metric::Cosine, Codec::Int8, Builder::Flat), (Metric::Cosine, Codec::Int8F32, Builder::HnswRs)];
    nothing_is_lost(4_000, 400, &[&flat[..], &others].concat());
}

#[test]
fn no_point_is_lost_behind_near_duplicates_under_any_metric_and_codec() {
    let cases: Vec<_> = [Builder::Flat, Builder::HnswRs]
        .into_iter()
        .flat_map(|builder| METRICS.map(|metric| (metric, builder)))
        .flat_map(|(metric, builder)| CODECS.map(|codec| (metric, codec, builder)))
        .collect();
    nothing_is_lost(5_000, 500, &cases);
}

/// Vectors in clusters, with norms from a tenth of the usual one to ten times it.
fn of_many_norms(rows: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut random = Random(21);
    let centres: Vec<Vec<f32>> = (0..40).map(|_| random.normal(dim)).collect();
    let row = |n: usize| -> Vec<f32> {
        let factor = 10f32.powf(random.uniform());
        let noise = random.normal(dim);
        centres[n % centres.len()].iter().zip(noise).map(|(c, x)| factor * (c + 0.5 * x)).collect()
    };
    (0..rows).map(row).collect()
}

/// How far a distance from codes may be from the true one. A code is off by half a step at most, a step being a 127th of
/// the largest value, so a row of codes is off by √dim/254 times that; a query, in two parts of codes, by much less, for
/// which a tenth of its own step is allowed.
fn allowed_error(metric: Metric, query: &[f32], row: &[f32]) -> f64 {
    let off = |values: &[f32]| {
        let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        f64::from(largest) / 254.0 * (values.len() as f64).sqrt()
    };
    let (row_off, query_off) = (off(row), off(query) / 10.0);
    let product = norm(query) * row_off + norm(row) * query_off;
    match metric {
        Metric::Dot => product,
        Metric::L2 => row_off + query_off,
        // Of directions: the norm of the codes is known, so only the angle counts.
        Metric::Cosine => 2.0 * product / (norm(query) * norm(row)),
    }
}

#[test]
fn every_metric_and_stored_form_agrees_with_brute_force() {
    const DIM: usize = 48;
    let rows = of_many_norms(6_000, DIM);
    let mut random = Random(22);
    let queries: Vec<Vec<f32>> = (0..60)
        .map(|n| rows[n * 97].iter().zip(random.normal(DIM)).map(|(x, noise)| x + 0.3 * noise).collect())
        .collect();
    for metric in METRICS {
        let truth: Vec<Vec<f64>> = queries
            .iter()
            .map(|query| {
                let mut all: Vec<f64> = rows.iter().map(|row| distance(metric, query, row)).collect();
                all.sort_unstable_by(f64::total_cmp);
                all.truncate(10);
                all
            })
            .collect();
        for codec in CODECS {
            let dir = tempfile::tempdir().unwrap();
            let db = filled(&dir.path().join("a.embdb"), &rows, options(DIM, metric, codec, Builder::Flat));
            db.compact(&Task::default()).unwrap();
            for (exact, floor) in [(false, 0.93), (true, 1.0)] {
                let what = format!("{} {}, exact {exact}", metric.name(), codec.name());
                let asked = SearchOptions { exact, ..SearchOptions::default() };
                let searcher = db.searcher(&asked).unwrap();
                let mut right = 0;
                for (query, truth) in queries.iter().zip(&truth) {
                    let found = searcher.search(query).unwrap();
                    assert_eq!(found.len(), 10, "{what}");
                    assert!(found.is_sorted_by(|a, b| a.distance <= b.distance), "{what}");
                    for hit in &found {
                        let row = &rows[hit.id.parse::<usize>().unwrap()];
                        let true_distance = distance(metric, query, row);
                        let error = (f64::from(hit.distance) - true_distance).abs();
                        let allowed = match codec {
                            Codec::Int8 => {
                                allowed_error(metric, query, row) + 1e-5 * true_distance.abs().max(1.0)
                            }
                            _ => 1e-5 * (norm(query) * norm(row)).max(1.0),
                        };
                        assert!(error <= allowed, "{what}: {} for {true_distance}", hit.distance);
                        // One as near as the tenth is as good as it.
                        right += usize::from(true_distance <= truth[9] + 1e-9 * truth[9].abs());
                    }
                }
                let recall = right as f64 / (10 * queries.len()) as f64;
                // Codes alone put neighbours that are about as near in another order.
                let floor = if codec == Codec::Int8 { 0.9 } else { floor };
                println!("{what}: recall {recall:.3}");
                assert!(recall >= floor, "{what}: recall {recall}");
            }
        }
    }
}

#[test]
fn numbers_out_of_range_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let made = |dim| Db::create(path("none"), options(dim, Metric::Cosine, Codec::Int8F32, Builder::Flat));
    assert_eq!(made(0).unwrap_err().exit_code(), 1);
    assert_eq!(made(65_537).unwrap_err().exit_code(), 5);
    assert!(!path("none").exists());
    let db = Db::open_with(path("empty"), OpenOptions::default()).unwrap();
    assert_eq!(db.add([Document::from_vector("a", vec![])]).unwrap_err().exit_code(), 1);
    assert_eq!(db.add([Document::from_vector("a", vec![1.0; 65_537])]).unwrap_err().exit_code(), 5);
    for metric in METRICS {
        let db = Db::create(path(metric.name()), options(3, metric, Codec::Int8F32, Builder::Flat)).unwrap();
        db.add((1..4).map(|n| Document::from_vector(n.to_string(), vec![n as f32, 1.0, 0.5]))).unwrap();
        for vector in [
            vec![],
            vec![1.0; 2],
            vec![1.0; 4],
            vec![f32::NAN, 0.0, 0.0],
            vec![0.0, f32::INFINITY, 0.0],
            vec![f32::MAX; 3],
        ] {
            let document = Document::from_vector("bad", vector.clone());
            assert_eq!(db.add([document]).unwrap_err().exit_code(), 1, "{vector:?}");
            assert_eq!(db.search_vector(&vector).run().unwrap_err().exit_code(), 1, "{vector:?}");
            let searcher = db.searcher(&SearchOptions::default()).unwrap();
            assert_eq!(searcher.search(&vector).unwrap_err().exit_code(), 1, "{vector:?}");
        }
        let zero = [0.0; 3];
        assert_eq!(db.search_vector(&zero).run().is_ok(), metric != Metric::Cosine);
        assert_eq!(db.add([Document::from_vector("zero", zero.into())]).is_ok(), metric != Metric::Cosine);
        let tiny = [f32::from_bits(1), 0.0, 0.0];
        db.add([Document::from_vector("tiny", tiny.into())]).unwrap();
        let live = db.count().unwrap() as usize;
        let query = [1.0, 2.0, 3.0];
        let ask = || db.search_vector(&query);
        assert_eq!(ask().k(0).run().unwrap_err().exit_code(), 1);
        assert_eq!(ask().k(10_001).run().unwrap_err().exit_code(), 5);
        assert_eq!(ask().ef(0).run().unwrap_err().exit_code(), 1);
        assert_eq!(ask().dim(0).run().unwrap_err().exit_code(), 1);
        assert_eq!(ask().dim(4).run().unwrap_err().exit_code(), 1);
        assert_eq!(ask().target_recall(f32::NAN).run().unwrap_err().exit_code(), 1);
        for sealed in [false, true] {
            if sealed {
                db.compact(&Task::default()).unwrap();
            }
            assert_eq!(ask().k(10_000).ef(1).run().unwrap().hits.len(), live);
            assert_eq!(ask().k(2).ef(1).dim(2).run().unwrap().hits.len(), 2);
            let none = ask().filter("nothing = 1").unwrap().run().unwrap();
            assert!(none.hits.is_empty() && none.notes.iter().any(|note| note.contains("nothing")));
            assert_eq!(ask().filter("nothing IS NULL").unwrap().run().unwrap().hits.len(), live);
        }
    }
}

//! Recall of filtered searches over a grid: how much the filter leaves × how it relates to the query.
//!
//! The rows near one point are the hard case: a filter may leave exactly those (`near < x`), or exactly those that are
//! farthest (`near >= x`), or any (`any < x`).

use tempfile::TempDir;

use crate::index::testing::Random;
use crate::types::Document;
use crate::{CreateOptions, Db, Filter, OpenOptions, SearchOptions, Task};

const DIM: usize = 32;
const K: usize = 10;

struct Grid {
    db: Db,
    _dir: TempDir,
    rows: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    /// Rank of each row by distance from the point where the queries are, and in no order.
    near: Vec<usize>,
    any: Vec<usize>,
}

fn cosine_distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Numbers of the rows, nearest first.
fn order(rows: &[Vec<f32>], point: &[f32]) -> Vec<usize> {
    let distances: Vec<f32> = rows.iter().map(|row| cosine_distance(row, point)).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]));
    order
}

impl Grid {
    fn new(len: usize) -> Self {
        let mut random = Random(17);
        let mut normal = |_: usize| random.normal();
        let centres: Vec<Vec<f32>> = (0..len / 100).map(|_| (0..DIM).map(&mut normal).collect()).collect();
        let mut around = |n: usize, noise: f32| -> Vec<f32> {
            centres[n % centres.len()].iter().map(|x| x + noise * random.normal()).collect()
        };
        let rows: Vec<Vec<f32>> = (0..len).map(|n| around(n, 0.7)).collect();
        let queries = (0..10).map(|_| around(0, 0.5)).collect();
        let mut near = vec![0; len];
        order(&rows, &around(0, 0.0)).into_iter().enumerate().for_each(|(rank, row)| near[row] = rank);
        // 7919 is prime and no factor of the lengths used here: a permutation.
        let any: Vec<usize> = (0..len).map(|n| n * 7919 % len).collect();
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        let document = |n: usize| {
            let document = Document::from_vector(n.to_string(), rows[n].clone());
            document.meta("near", near[n] as u64).meta("any", any[n] as u64)
        };
        for start in (0..len).step_by(5000) {
            db.add((start..len.min(start + 5000)).map(document)).unwrap();
        }
        db.compact(&Task::default()).unwrap();
        Self { db, _dir: dir, rows, queries, near, any }
    }

    /// Recall of one cell, where `passes` says of a row what the expression says of its document.
    fn recall(&self, expression: &str, passes: impl Fn(usize) -> bool, orders: &[Vec<usize>]) -> f64 {
        let filter = Some(Filter::parse(expression).unwrap());
        let searcher = self.db.searcher(&SearchOptions { k: K, filter, ..SearchOptions::default() }).unwrap();
        let (mut hits, mut wanted) = (0, 0);
        for (query, order) in self.queries.iter().zip(orders) {
            let truth: Vec<String> =
                order.iter().filter(|&&row| passes(row)).take(K).map(usize::to_string).collect();
            let found = searcher.search(query).unwrap();
            assert_eq!(found.len(), truth.len(), "{expression}: min(k, matches) rows");
            assert!(found.iter().all(|hit| passes(hit.id.parse().unwrap())), "{expression}");
            wanted += truth.len();
            hits += found.iter().filter(|hit| truth.iter().any(|id| id == hit.id)).count();
        }
        hits as f64 / wanted as f64
    }

    fn check(&self, shares: &[f64]) {
        let len = self.rows.len();
        let orders: Vec<Vec<usize>> = self.queries.iter().map(|query| order(&self.rows, query)).collect();
        for share in shares {
            let left = ((len as f64 * share) as usize).max(1);
            let far = len - left;
            let cells = [
                self.recall(&format!("any < {left}"), |row| self.any[row] < left, &orders),
                self.recall(&format!("near < {left}"), |row| self.near[row] < left, &orders),
                self.recall(&format!("near >= {far}"), |row| self.near[row] >= far, &orders),
            ];
            assert!(cells.iter().all(|&recall| recall >= 0.95), "{left} of {len}: {cells:?}");
        }
    }
}

#[test]
fn recall_holds_over_the_grid() {
    Grid::new(4_000).check(&[0.5, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0]);
}

/// So many rows that all plans have their turn: a scan, a walk, and a walk over allowed rows alone.
#[test]
fn recall_holds_over_the_grid_where_graphs_are_walked() {
    Grid::new(60_000).check(&[0.5, 0.39, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0001, 0.0]);
}

#[test]
fn what_matches_nothing_finds_nothing() {
    let grid = Grid::new(400);
    for expression in [
        "missing = 1",
        "NOT missing = 1",
        "missing IN (1, 2) OR missing LIKE 'a%'",
        "near = 'text'",
        "near LIKE '1%'",
        "near",
        "NOT near",
        "near < 'text'",
        "near < 0",
        "near > 5 AND near < 5",
        "any IN (-1, 400, 1.5)",
        "FALSE",
    ] {
        let filter = Some(Filter::parse(expression).unwrap());
        for exact in [false, true] {
            let options = SearchOptions { filter: filter.clone(), exact, ..SearchOptions::default() };
            let searcher = grid.db.searcher(&options).unwrap();
            assert_eq!(searcher.matches(), 0, "{expression}");
            assert!(searcher.search(&grid.queries[0]).unwrap().is_empty(), "{expression}");
        }
        assert_eq!(grid.db.count_where(expression).unwrap().count, 0, "{expression}");
    }
    let counted = grid.db.count_where("missing = 1").unwrap();
    assert!(counted.notes[0].contains("missing"), "{:?}", counted.notes);
    for (expression, count) in [("missing IS NULL", 400), ("near = 3.0", 1), ("near IS NOT NULL", 400)] {
        assert_eq!(grid.db.count_where(expression).unwrap().count, count, "{expression}");
    }
    for wrong in ["near <", "near < < 1", "", "near = NULL", "nearly(near) = 1"] {
        assert_eq!(grid.db.count_where(wrong).unwrap_err().exit_code(), 1, "{wrong}");
    }
}

//! Random sequences of calls against a map and a comparison with every vector: what is stored is exact, an exact search is
//! exact, other searches find nearly all, and what a reader has pinned does not change before it refreshes. A failing
//! sequence is shrunk to a short one. `PROPTEST_CASES` sets how many are tried.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use embdb::options::Durability;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::types::{Codec, Document, Metric};
use embdb::{CreateOptions, Db, OpenOptions, Task};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestCaseResult};

/// Dimension of the vectors.
const DIM: usize = 8;
/// Ids are below this.
const IDS: u16 = 60;
/// Rows with which a graph is built.
const MANY: u16 = 4_300;
/// Neighbours that are asked for.
const K: usize = 10;
/// Of the right neighbours a search that is not exact finds at least this share, over the searches of a sequence.
const RECALL: f64 = 0.95;

/// A call.
#[derive(Debug, Clone)]
enum Call {
    /// Adds documents as one batch: numbers, and what their vectors follow from.
    Put(Vec<(u16, u16)>),
    /// Deletes by id.
    Delete(Vec<u16>),
    /// Deletes by a filter.
    DeleteWhere(Filter),
    Flush,
    Seal,
    Compact,
    /// Drops the handle and opens the database again.
    Reopen,
    /// Opens a reader, or another one.
    Pin,
    /// The reader looks for what is new.
    Refresh,
    Search {
        query: u16,
        filter: Option<Filter>,
        exact: bool,
    },
}

/// `n >= from AND n < from + count`, and maybe a kind.
#[derive(Debug, Clone, Copy)]
struct Filter {
    from: u16,
    count: u16,
    kind: Option<u16>,
}

impl Filter {
    fn text(self) -> String {
        let range = format!("n >= {} AND n < {}", self.from, self.from + self.count);
        self.kind.map_or(range.clone(), |kind| format!("{range} AND kind = 'k{kind}'"))
    }

    fn holds(self, row: &Row) -> bool {
        (self.from..self.from + self.count).contains(&row.n)
            && self.kind.is_none_or(|kind| row.seed % 3 == kind)
    }
}

/// A document as the model has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    n: u16,
    seed: u16,
}

type Model = BTreeMap<String, Row>;

fn filters(ids: u16) -> impl Strategy<Value = Filter> {
    let kind = prop_oneof![Just(None), (0..3u16).prop_map(Some)];
    (0..ids, 1..ids, kind).prop_map(|(from, count, kind)| Filter { from, count, kind })
}

fn calls(ids: u16) -> impl Strategy<Value = Call> {
    let rows = proptest::collection::vec((0..ids, any::<u16>()), 1..12);
    let numbers = proptest::collection::vec(0..ids, 1..6);
    let filter = prop_oneof![Just(None), filters(ids).prop_map(Some)];
    let search = (any::<u16>(), filter, any::<bool>());
    prop_oneof![
        6 => rows.prop_map(Call::Put),
        2 => numbers.prop_map(Call::Delete),
        1 => filters(ids / 4).prop_map(Call::DeleteWhere),
        1 => Just(Call::Flush),
        2 => Just(Call::Seal),
        1 => Just(Call::Compact),
        2 => Just(Call::Reopen),
        1 => Just(Call::Pin),
        1 => Just(Call::Refresh),
        8 => search.prop_map(|(query, filter, exact)| Call::Search { query, filter, exact }),
    ]
}

fn id(n: u16) -> String {
    format!("d{n}")
}

/// The vector that follows from a number; none is zero.
fn vector(seed: u16) -> Vec<f32> {
    let mut state = u64::from(seed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..DIM)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn document(row: Row) -> Document {
    let mut document = Document::from_vector(id(row.n), vector(row.seed));
    document.text = format!("text {} of {}", row.seed, row.n);
    document.meta("n", row.n).meta("kind", format!("k{}", row.seed % 3))
}

/// The distance as it is defined.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Dot => -dot(a, b),
        Metric::L2 => (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt(),
    }
}

/// A database, what it must hold, and a reader with what it must see.
struct World {
    vfs: Arc<dyn Vfs>,
    options: OpenOptions,
    db: Option<Db>,
    model: Model,
    reader: Option<(Db, Model)>,
    /// Neighbours that searches which are not exact should have found, and those that they found.
    wanted: usize,
    found: usize,
}

impl World {
    fn new(metric: Metric, codec: Codec, durability: Durability, rows: u16) -> Self {
        let create = CreateOptions { vectors: Some(DIM), metric, codec, ..CreateOptions::default() };
        let seal_rows = if rows > 0 { 1 << 20 } else { 24 };
        let options = OpenOptions {
            create,
            durability,
            background: false,
            seal_rows,
            threads: 1,
            ..Default::default()
        };
        let vfs: Arc<dyn Vfs> = Arc::new(SimVfs::new(17));
        let mut world =
            Self { vfs, options, db: None, model: Model::new(), reader: None, wanted: 0, found: 0 };
        world.put((0..rows).map(|n| (n, n)).collect());
        world
    }

    fn open(&self) -> Db {
        Db::open_vfs(Arc::clone(&self.vfs), "db", self.options.clone()).unwrap()
    }

    fn db(&mut self) -> Db {
        if self.db.is_none() {
            self.db = Some(self.open());
        }
        self.db.clone().unwrap()
    }

    fn put(&mut self, rows: Vec<(u16, u16)>) {
        let rows = rows.into_iter().map(|(n, seed)| Row { n, seed });
        self.db().add(rows.clone().map(document)).unwrap();
        self.model.extend(rows.map(|row| (id(row.n), row)));
    }

    fn run(&mut self, call: &Call) -> TestCaseResult {
        let (db, task) = (self.db(), Task::default());
        match call {
            Call::Put(rows) => self.put(rows.clone()),
            Call::Delete(numbers) => {
                let ids: Vec<String> = numbers.iter().map(|&n| id(n)).collect();
                let there = self.model.len();
                let deleted = db.delete(&ids).unwrap();
                self.model.retain(|id, _| !ids.contains(id));
                prop_assert_eq!(deleted as usize, there - self.model.len());
            }
            Call::DeleteWhere(filter) => {
                let there = self.model.len();
                let deleted = db.delete_where(&filter.text()).unwrap().count;
                self.model.retain(|_, row| !filter.holds(row));
                prop_assert_eq!(deleted as usize, there - self.model.len());
            }
            Call::Flush => db.flush().unwrap(),
            Call::Seal => db.seal(&task).unwrap(),
            Call::Compact => db.compact(&task).unwrap(),
            Call::Reopen => {
                drop(db);
                self.db = None;
            }
            Call::Pin => self.reader = Some((self.open(), self.model.clone())),
            Call::Refresh => {
                if let Some((reader, seen)) = &mut self.reader {
                    reader.refresh().unwrap();
                    seen.clone_from(&self.model);
                }
            }
            Call::Search { query, filter, exact } => {
                let (wanted, found) =
                    search(&db, &self.model, &self.options.create, *query, *filter, *exact)?;
                self.wanted += wanted;
                self.found += found;
            }
        }
        Ok(())
    }

    /// What the writer sees, and what the reader still sees.
    fn look(&mut self) -> TestCaseResult {
        let db = self.db();
        same(&db, &self.model)?;
        if let Some((reader, seen)) = &self.reader {
            same(reader, seen)?;
            search(reader, seen, &self.options.create, 7, None, true)?;
        }
        Ok(())
    }

    fn end(mut self) -> TestCaseResult {
        let report = self.db().check(false, &Task::default()).unwrap();
        prop_assert!(report.ok, "{:?}", report.problems);
        let found = self.found as f64 / self.wanted.max(1) as f64;
        prop_assert!(self.wanted == 0 || found >= RECALL, "{} of {} neighbours", self.found, self.wanted);
        Ok(())
    }
}

fn same(db: &Db, model: &Model) -> TestCaseResult {
    prop_assert_eq!(db.count().unwrap() as usize, model.len());
    let mut ids = db.ids().unwrap();
    ids.sort_unstable();
    prop_assert!(ids.iter().eq(model.keys()), "{:?} instead of {:?}", ids, model);
    // Of many, some.
    for (id, row) in model.iter().step_by(1 + model.len() / 80) {
        let stored = db.get(id).unwrap();
        prop_assert!(stored.is_some(), "{} is listed but not there", id);
        let (stored, right) = (stored.unwrap(), document(*row));
        prop_assert_eq!((stored.text, stored.meta), (right.text, right.meta));
    }
    prop_assert!(db.get("nobody").unwrap().is_none());
    Ok(())
}

/// Compares a search with a look at every vector. Of one that is not exact: how many neighbours there are, and how many it
/// found.
fn search(
    db: &Db,
    model: &Model,
    create: &CreateOptions,
    query: u16,
    filter: Option<Filter>,
    exact: bool,
) -> Result<(usize, usize), TestCaseError> {
    let query = vector(query ^ 0x5555);
    let mut asked = db.search_vector(&query).k(K).exact(exact);
    if let Some(filter) = filter {
        asked = asked.filter(&filter.text()).unwrap();
    }
    let hits = asked.run().unwrap().hits;
    let rows = model.values().filter(|row| filter.is_none_or(|filter| filter.holds(row)));
    let mut right: Vec<f64> = rows.map(|row| distance(create.metric, &query, &vector(row.seed))).collect();
    right.sort_unstable_by(f64::total_cmp);
    right.truncate(K);
    prop_assert_eq!(hits.len(), right.len(), "hits for {:?}", filter);
    // Whatever is found is there, satisfies the filter, has its true distance, and none comes twice.
    let mut last = f64::NEG_INFINITY;
    let mut seen = std::collections::BTreeSet::new();
    for hit in &hits {
        let row = model.get(&hit.id);
        prop_assert!(row.is_some(), "{} was deleted", hit.id);
        let row = row.unwrap();
        prop_assert!(filter.is_none_or(|filter| filter.holds(row)), "{} is not wanted", hit.id);
        let true_distance = distance(create.metric, &query, &vector(row.seed));
        prop_assert!((true_distance - f64::from(hit.distance)).abs() < 1e-4, "{:?}: {}", hit, true_distance);
        prop_assert!(f64::from(hit.distance) >= last && seen.insert(&hit.id), "{:?}", hits);
        last = f64::from(hit.distance);
    }
    let furthest = right.last().copied().unwrap_or_default() + 1e-4;
    let found = hits.iter().filter(|hit| f64::from(hit.distance) <= furthest).count();
    if !exact {
        return Ok((right.len(), found));
    }
    for (hit, right) in hits.iter().zip(&right) {
        prop_assert!((f64::from(hit.distance) - right).abs() < 1e-4, "{:?} instead of {:?}", hits, right);
    }
    Ok((0, 0))
}

fn metrics() -> impl Strategy<Value = Metric> {
    prop_oneof![Just(Metric::Cosine), Just(Metric::Dot), Just(Metric::L2)]
}

/// Stored forms that keep the values: of others an exact search is as exact as they are.
fn codecs() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Int8F32), Just(Codec::F32)]
}

fn durabilities() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Full), Just(Durability::Normal), Just(Durability::Bulk)]
}

/// So many cases, or a share of `PROPTEST_CASES`.
fn cases(default: u32, share: u32) -> ProptestConfig {
    let base = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if asked { base.cases.div_ceil(share) } else { default };
    ProptestConfig {
        cases,
        max_shrink_iters: 4_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..base
    }
}

proptest! {
    #![proptest_config(cases(300, 1))]

    #[test]
    fn a_small_database_is_what_a_map_is(
        metric in metrics(),
        codec in codecs(),
        durability in durabilities(),
        calls in proptest::collection::vec(calls(IDS), 1..40),
    ) {
        let mut world = World::new(metric, codec, durability, 0);
        for call in &calls {
            world.run(call)?;
            world.look()?;
        }
        world.end()?;
    }
}

proptest! {
    #![proptest_config(cases(12, 25))]

    /// With a graph, and rows beside it, and deleted ones in it.
    #[test]
    fn a_database_with_a_graph_is_what_a_map_is(
        metric in metrics(),
        codec in codecs(),
        calls in proptest::collection::vec(calls(MANY), 1..12),
        // So many that one that finds nothing, as one in some ten thousand does under the inner product, decides nothing.
        queries in proptest::collection::vec(any::<u16>(), 100),
    ) {
        let mut world = World::new(metric, codec, Durability::Full, MANY);
        world.run(&Call::Compact)?;
        prop_assert!(world.db().info().unwrap().bytes.graphs > 0);
        for call in &calls {
            world.run(call)?;
        }
        for query in queries {
            world.run(&Call::Search { query, filter: None, exact: false })?;
        }
        world.look()?;
        world.end()?;
    }
}

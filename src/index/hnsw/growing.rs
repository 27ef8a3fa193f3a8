//! The index of rows that are still being added, over hnsw_rs.
//!
//! hnsw_rs forbids inserting while others search, so a lock keeps them apart; rows go in one by one. It also
//! loses points: whatever a search for its own vector does not return right after its insertion, and every
//! 4,096 rows whatever a walk over all links does not reach, is kept on a list besides and compared one by
//! one. The same list takes rows longer than the bound under the inner product (see the lifting of rows).
//! Distances returned are those of the walk; [`rescore`](crate::index::flat::rescore) compares exactly.

use hnsw_rs::prelude::{Distance, Hnsw};
use parking_lot::RwLock;

use super::build::BuildParams;
use super::reference::{freeze, hnsw};
use super::repair::unreachable;
use super::rows::{LiftedCodes, LiftedFloats, Lifting, squares};
use crate::error::{Error, Result};
use crate::index::block::{Neighbour, Query};
use crate::types::{Codec, Metric};

/// Width of the beam with which a new row is looked for.
const CHECK_WIDTH: usize = 32;
/// Rows between two walks over all links.
const CHECK_EVERY: u32 = 4096;

/// A searchable index of rows `0..len()`, for any number of threads.
pub struct GrowingIndex {
    dim: usize,
    metric: Metric,
    inner: RwLock<Inner>,
}

struct Inner {
    len: u32,
    lifting: Lifting,
    rows: Rows,
}

enum Rows {
    Codes(Forms<i8, LiftedCodes>),
    Floats(Forms<f32, LiftedFloats>),
}

impl GrowingIndex {
    /// An empty index for about `capacity` rows; compares codes where the codec stores any.
    pub fn new(dim: usize, metric: Metric, codec: Codec, capacity: usize) -> Self {
        let rows = if codec.has_codes() {
            Rows::Codes(Forms::new(capacity, LiftedCodes))
        } else {
            Rows::Floats(Forms::new(capacity, LiftedFloats))
        };
        let inner = Inner { len: 0, lifting: Lifting { metric, bound: 0.0 }, rows };
        Self { dim, metric, inner: RwLock::new(inner) }
    }

    /// Number of rows inserted.
    pub fn len(&self) -> usize {
        self.inner.read().len as usize
    }

    /// Whether no row was inserted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the next row; waits for searches under way.
    ///
    /// # Errors
    /// [`Error::Input`] if `row` is not [`len`](Self::len) or the vector has another dimension.
    pub fn insert(&self, row: u32, vector: &[f32]) -> Result<()> {
        let mut inner = self.inner.write();
        if row != inner.len || vector.len() != self.dim {
            let (next, given, dim) = (inner.len, vector.len(), self.dim);
            return Err(Error::input(format!(
                "row {row} of {given} values added to the growing index, expected row {next} of {dim}"
            )));
        }
        inner.insert(row, vector);
        Ok(())
    }

    /// About the `k` nearest rows, by a beam of width `ef`; nothing for a query of another dimension, metric
    /// or only a part of the dimensions, nor while a row is being added, which takes longer than to scan thousands.
    pub fn search(&self, query: &Query, k: usize, ef: usize) -> Vec<Neighbour> {
        if query.dim != self.dim || query.rank_dim != self.dim || query.metric != self.metric {
            return Vec::new();
        }
        let Some(inner) = self.inner.try_read() else { return Vec::new() };
        let lifting = inner.lifting.for_queries();
        let mut found = match &inner.rows {
            Rows::Codes(forms) => {
                let mut codes = Vec::new();
                lifting.codes(&query.codes.first, query.codes.scale, &mut codes);
                forms.search(&codes, k, ef, inner.lifting.bound)
            }
            Rows::Floats(forms) => {
                let mut values = Vec::new();
                lifting.floats(&query.values, &mut values);
                forms.search(&values, k, ef, inner.lifting.bound)
            }
        };
        let query_squares = squares(&query.values);
        for neighbour in &mut found {
            neighbour.distance = inner.lifting.distance(neighbour.distance, query_squares);
        }
        found
    }
}

impl std::fmt::Debug for GrowingIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowingIndex").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Inner {
    fn insert(&mut self, row: u32, vector: &[f32]) {
        let squares = squares(vector);
        let unlifted = (!self.fits(squares)).then_some(squares);
        let lifting = self.lifting;
        match &mut self.rows {
            Rows::Codes(forms) => {
                let mut codes = Vec::new();
                lifting.quantized(vector, &mut codes);
                forms.insert(row, codes, unlifted);
            }
            Rows::Floats(forms) => {
                let mut values = Vec::new();
                lifting.floats(vector, &mut values);
                forms.insert(row, values, unlifted);
            }
        }
        self.len += 1;
    }

    /// Whether a row is short enough for the lifting, whose bound is set by the first row: twice its norm.
    fn fits(&mut self, squares: f32) -> bool {
        if self.lifting.metric != Metric::Dot {
            return true;
        }
        if self.lifting.bound == 0.0 {
            self.lifting.bound = 4.0 * squares;
        }
        squares > 0.0 && squares < self.lifting.bound
    }
}

/// Rows in one form: an hnsw_rs index, and those it cannot be trusted to return.
struct Forms<T: Clone + Send + Sync + 'static, D: Distance<T>> {
    index: Hnsw<'static, T, D>,
    distance: D,
    loose: Vec<Loose<T>>,
    inserted: u32,
}

/// A row that is compared one by one.
struct Loose<T> {
    row: u32,
    form: Vec<T>,
    /// The squared norm of a row that was not lifted to the bound.
    unlifted: Option<f32>,
}

impl<T, D> Forms<T, D>
where
    T: Clone + Send + Sync,
    D: Distance<T> + Copy + Send + Sync,
{
    fn new(capacity: usize, distance: D) -> Self {
        let BuildParams { m, ef_construction, .. } = BuildParams::default();
        Self { index: hnsw(m, capacity, ef_construction, distance), distance, loose: Vec::new(), inserted: 0 }
    }

    fn insert(&mut self, row: u32, form: Vec<T>, unlifted: Option<f32>) {
        if unlifted.is_some() {
            self.loose.push(Loose { row, form, unlifted });
            return;
        }
        self.index.insert((&form, row as usize));
        self.inserted += 1;
        let found = self.index.search(&form, CHECK_WIDTH, CHECK_WIDTH);
        if !found.iter().any(|n| n.d_id == row as usize) {
            self.loose.push(Loose { row, form, unlifted });
        }
        if self.inserted.is_multiple_of(CHECK_EVERY) {
            self.collect_unreachable(row as usize + 1);
        }
    }

    fn collect_unreachable(&mut self, rows: usize) {
        let mut lost = unreachable(&freeze(&self.index, rows, BuildParams::default().m).view());
        lost.retain(|&row| !self.loose.iter().any(|loose| loose.row == row));
        if lost.is_empty() {
            return;
        }
        for point in self.index.get_point_indexation() {
            let row = point.get_origin_id() as u32;
            if lost.binary_search(&row).is_ok() {
                self.loose.push(Loose { row, form: point.get_v().to_vec(), unlifted: None });
            }
        }
    }

    fn search(&self, query: &[T], k: usize, ef: usize, bound: f32) -> Vec<Neighbour> {
        let walked = self.index.search(query, k, ef.max(k));
        let walked = walked.iter().map(|n| Neighbour { row: n.d_id as u32, distance: n.distance });
        let loose = self.loose.iter().map(|loose| {
            let missing = loose.unlifted.map_or(0.0, |squares| bound - squares);
            Neighbour { row: loose.row, distance: self.distance.eval(&loose.form, query) + missing }
        });
        let mut found: Vec<Neighbour> = walked.chain(loose).collect();
        found.sort_unstable();
        found.dedup_by_key(|n| n.row);
        found.truncate(k);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::flat::scan_exact;
    use crate::index::testing::{Data, METRICS, Random, overlap};

    fn grown(data: &Data, codec: Codec) -> GrowingIndex {
        let index = GrowingIndex::new(data.dim, data.metric, codec, data.len);
        (0..data.len).for_each(|row| index.insert(row as u32, data.row(row)).unwrap());
        index
    }

    #[test]
    fn what_was_inserted_is_found() {
        for metric in METRICS {
            for codec in [Codec::Int8, Codec::F32] {
                let data = Data::clustered(500, 16, metric, Codec::Int8F32, 3);
                let index = grown(&data, codec);
                assert_eq!(index.len(), 500);
                let mut recall = 0.0;
                for vector in data.queries(30, 7) {
                    let query = Query::new(&vector, metric, 16, 16);
                    let truth = scan_exact(&data.block(), &query, 40, None);
                    let found = index.search(&query, 40, 120);
                    let near = |n: &&Neighbour| {
                        (n.distance - found[0].distance).abs() < 0.2 * n.distance.abs() + 0.1
                    };
                    assert!(truth.first().iter().all(near), "{metric:?}: {:?} for {:?}", found[0], truth[0]);
                    let rows: Vec<u32> = truth.iter().take(10).map(|n| n.row).collect();
                    recall += overlap(&rows, &found) / 30.0;
                }
                assert!(recall > 0.97, "{metric:?} {codec:?}: {recall}");
            }
        }
    }

    #[test]
    fn rows_after_near_duplicates_are_found() {
        let (dim, mut random) = (24, Random(2));
        let centre: Vec<f32> = (0..dim).map(|_| random.normal()).collect();
        let mut rows: Vec<f32> = Vec::new();
        (0..1200).for_each(|_| rows.extend(centre.iter().map(|x| x + 0.01 * random.normal())));
        rows.extend((0..100 * dim).map(|_| random.normal()));
        let data = Data::new(rows, dim, Metric::Cosine, Codec::Int8F32);
        let index = grown(&data, Codec::Int8F32);
        for row in 1200..1300 {
            let found = index.search(&Query::new(data.row(row), Metric::Cosine, dim, dim), 10, 64);
            assert!(found.iter().any(|n| n.row == row as u32), "row {row}");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn unreachable_rows_join_the_list_once() {
        let data = Data::clustered(60, 8, Metric::L2, Codec::Int8F32, 3);
        let mut forms = Forms::new(60, LiftedFloats);
        for row in 0..60u32 {
            forms.insert(row, data.row(row as usize).to_vec(), (row % 10 == 0).then_some(1.0));
        }
        let listed = forms.loose.iter().map(|loose| loose.row).collect::<Vec<_>>();
        assert_eq!(listed, [0, 10, 20, 30, 40, 50]);
        forms.collect_unreachable(60);
        assert_eq!(forms.loose.len(), 6);
    }

    #[test]
    fn longer_rows_than_the_bound_win_under_the_inner_product() {
        let index = GrowingIndex::new(2, Metric::Dot, Codec::Int8, 10);
        for (row, vector) in [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [30.0, 0.0], [0.0, 0.0]].iter().enumerate()
        {
            index.insert(row as u32, vector).unwrap();
        }
        let found = index.search(&Query::new(&[1.0, 0.1], Metric::Dot, 2, 2), 5, 10);
        assert_eq!(found.iter().take(3).map(|n| n.row).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn rows_come_in_order_and_of_one_dimension() {
        let index = GrowingIndex::new(2, Metric::L2, Codec::F32, 10);
        assert!(index.is_empty());
        assert!(index.search(&Query::new(&[1.0, 1.0], Metric::L2, 2, 2), 3, 10).is_empty());
        assert!(matches!(index.insert(1, &[0.0, 0.0]), Err(Error::Input(_))));
        assert!(matches!(index.insert(0, &[0.0]), Err(Error::Input(_))));
        index.insert(0, &[0.0, 0.0]).unwrap();
        assert_eq!(index.len(), 1);
        assert!(index.search(&Query::new(&[1.0, 1.0], Metric::L2, 2, 1), 3, 10).is_empty());
    }

    #[test]
    fn searches_and_insertions_share_the_index() {
        let data = Data::clustered(300, 8, Metric::Cosine, Codec::Int8F32, 3);
        let index = GrowingIndex::new(8, Metric::Cosine, Codec::Int8F32, 300);
        index.insert(0, data.row(0)).unwrap();
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (index, data) = (&index, &data);
                scope.spawn(move || {
                    for vector in data.queries(100, reader) {
                        let before = index.len();
                        let found = index.search(&Query::new(&vector, Metric::Cosine, 8, 8), 5, 20);
                        // Nothing while a row is being added.
                        assert!(found.is_empty() || found.len() >= before.min(5));
                    }
                });
            }
            (1..300).for_each(|row| index.insert(row as u32, data.row(row)).unwrap());
        });
        assert_eq!(index.len(), 300);
        let query = Query::new(&data.queries(1, 9)[0], Metric::Cosine, 8, 8);
        assert_eq!(index.search(&query, 5, 20).len(), 5);
    }
}

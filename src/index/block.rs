//! What a search reads and returns: a block of stored rows, a prepared query, neighbours.
//!
//! [`VectorBlock`] borrows its rows from a mapped file or from memory, so the index does no I/O. [`Query`]
//! holds a vector in every form the searches need. Distances are smaller for nearer rows: `1 − cos`,
//! `−⟨q, x⟩` or `‖q − x‖`; of equal distances the lower row comes first.

use std::cmp::Ordering;

use super::quantize::{self, SECOND_PART, TwoPart, normalize};
use super::sketch::Sketches;
use crate::error::{Error, Result};
use crate::format::graph::Sight;
use crate::format::guard::Guard;
use crate::kernel::planes::{PlaneQuery, join, plane_len};
use crate::options::Task;
use crate::types::Metric;

/// The int8 codes of many rows in two planes, as [`planes`](crate::kernel::planes) lays them out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Codes<'a> {
    /// The upper four bits of each code.
    pub high: &'a [u8],
    /// The lower four bits.
    pub low: &'a [u8],
}

/// The beginnings of all rows' codes, apart from the rest: what walks read that compare a rung.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    /// Dimensions of it; 0 where there is none.
    pub dims: usize,
    /// The planes; the low one may be empty.
    pub codes: Codes<'a>,
}

/// `len` rows of vectors, borrowed. Under the cosine metric rows are stored normalised.
#[derive(Debug, Clone, Copy)]
pub struct VectorBlock<'a> {
    /// Values of a row.
    pub dim: usize,
    /// How rows are compared.
    pub metric: Metric,
    /// Matryoshka dimensions that have stored norms, ascending.
    pub ladder: &'a [usize],
    /// Number of rows.
    pub len: usize,
    /// int8 codes; or none.
    pub codes: Codes<'a>,
    /// A copy of what the rows' codes begin with; or none.
    pub head: Head<'a>,
    /// Value of one step of a row's codes, `len`; or empty.
    pub scales: &'a [f32],
    /// Inverse norms of the codes, `ladder.len()` columns of `len`; or empty.
    pub norms: &'a [f32],
    /// f32 rows, `len × dim`, row-major; or empty.
    pub full: &'a [f32],
    /// Sketches of the rows, which rule most of them out; or none.
    pub sketches: Option<&'a Sketches>,
    /// What lies in files that may not be in memory.
    pub on_disk: OnDisk,
    /// What verifies the bytes that searches read.
    pub guards: Guards<'a>,
}

/// What verifies the bytes of a block when they are first read; nothing for what is in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guards<'a> {
    /// Codes, scales and norms.
    pub codes: Option<Guard<'a>>,
    /// Heads.
    pub head: Option<Guard<'a>>,
    /// f32 rows.
    pub full: Option<Guard<'a>>,
}

impl Guards<'_> {
    /// Whether damage was found.
    pub fn is_damaged(&self) -> bool {
        [self.codes, self.head, self.full].iter().flatten().any(Guard::is_damaged)
    }
}

/// Which parts of a block may not be in memory, so that searches request the pages of many rows at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnDisk {
    /// What walks read: heads, or the high plane of the codes; norms and scales.
    pub head: bool,
    /// The low plane, which scans read of many rows and walks of the few that they find.
    pub low: bool,
    /// What is read of the few rows that are compared exactly: f32 values.
    pub tail: bool,
}

impl<'a> VectorBlock<'a> {
    /// Checks the lengths: each part is either as long as `len`, `dim` and `ladder` say, or empty; codes or
    /// f32 rows are present; scales are present where codes are, save under cosine, which needs none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], since the parts come from a file.
    #[expect(clippy::too_many_arguments, reason = "the parts of a stored block, each a slice of its own")]
    pub fn new(
        dim: usize,
        metric: Metric,
        ladder: &'a [usize],
        len: usize,
        codes: Codes<'a>,
        scales: &'a [f32],
        norms: &'a [f32],
        full: &'a [f32],
    ) -> Result<Self> {
        let wrong = |what: String| Err(Error::corrupt("vectors", 0, what));
        let Some(cells) = len.checked_mul(dim).filter(|_| dim > 0 && u32::try_from(len).is_ok()) else {
            return wrong(format!("{len} rows of {dim} values"));
        };
        let plane = len.saturating_mul(plane_len(dim));
        let parts = [
            ("bytes in the high plane of codes", codes.high.len(), plane),
            ("bytes in the low plane of codes", codes.low.len(), plane),
            ("scales", scales.len(), len),
            ("norms", norms.len(), len.saturating_mul(ladder.len())),
            ("f32 values", full.len(), cells),
        ];
        if let Some((name, found, expected)) = parts.iter().find(|(_, found, n)| *found != 0 && found != n) {
            return wrong(format!("{found} {name} for {len} rows of {dim} values, expected {expected}"));
        }
        if codes.high.len() != codes.low.len() {
            return wrong("one plane of codes without the other".into());
        }
        if len > 0 && codes.high.is_empty() && full.is_empty() {
            return wrong(format!("neither codes nor f32 values for {len} rows"));
        }
        if !codes.high.is_empty() && scales.is_empty() && metric != Metric::Cosine {
            return wrong(format!("codes without scales, which {} needs", metric.name()));
        }
        let (head, on_disk, guards) = (Head::default(), OnDisk::default(), Guards::default());
        let sketches = None;
        Ok(Self { dim, metric, ladder, len, codes, head, scales, norms, full, sketches, on_disk, guards })
    }

    /// The same with a sketch of each row.
    pub fn sketched(self, sketches: Option<&'a Sketches>) -> Self {
        Self { sketches, ..self }
    }

    /// The same rows, verified when they are read.
    pub fn guarded(self, guards: Guards<'a>) -> Self {
        Self { guards, ..self }
    }

    /// The same with heads of `dims` dimensions; `codes` may be empty, or have no low plane.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a plane has another length.
    pub fn with_head(self, dims: usize, codes: Codes<'a>) -> Result<Self> {
        let expected = self.len.saturating_mul(plane_len(dims));
        let fits = |plane: &[u8]| plane.is_empty() || plane.len() == expected;
        if !fits(codes.high) || !fits(codes.low) || !codes.high.is_empty() && dims > self.dim {
            let what = format!("heads of {dims} dimensions do not fit {} rows", self.len);
            return Err(Error::corrupt("graph", 0, what));
        }
        let head = if codes.high.is_empty() { Head::default() } else { Head { dims, codes } };
        Ok(Self { head, ..self })
    }

    /// What the codes of all rows begin with, as a walk with this sight reads it: the high plane, and the low one
    /// where it compares both. Empty where it reads whole rows.
    pub fn cut_head(&self, sight: Sight) -> [Vec<u8>; 2] {
        let dims = sight.rung as usize;
        if dims == 0 || !self.has_codes() {
            return Default::default();
        }
        let (stride, len) = (plane_len(self.dim), plane_len(dims));
        let cut =
            |plane: &[u8]| plane.chunks(stride).flat_map(|row| &row[..len.min(row.len())]).copied().collect();
        [cut(self.codes.high), if sight.rough { Vec::new() } else { cut(self.codes.low) }]
    }

    /// Whether int8 codes are stored.
    pub fn has_codes(&self) -> bool {
        !self.codes.high.is_empty()
    }

    /// Whether f32 rows are stored.
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The two planes of a row's codes; empty where there are none.
    pub fn planes_of(&self, row: u32) -> [&'a [u8]; 2] {
        let len = plane_len(self.dim);
        [self.codes.high, self.codes.low].map(|bytes| row_of(bytes, row, len))
    }

    /// Writes the codes of a row, `dim` of them; zeros where there are none.
    pub fn codes_of(&self, row: u32, codes: &mut [i8]) {
        let [high, low] = self.planes_of(row);
        join(high, low, codes);
    }

    /// The f32 values of a row; empty where there are none.
    pub fn full_of(&self, row: u32) -> &'a [f32] {
        row_of(self.full, row, self.dim)
    }

    /// The value of one step of a row's codes; 1 where scales are not stored.
    pub fn scale_of(&self, row: u32) -> f32 {
        self.scales.get(row as usize).copied().unwrap_or(1.0)
    }

    /// The stored inverse norms of the first `dim` codes, one a row, if `dim` is a rung.
    pub fn norm_column(&self, dim: usize) -> Option<&'a [f32]> {
        let rung = self.ladder.iter().position(|&rung| rung == dim)?;
        self.norms.get(rung * self.len..(rung + 1) * self.len).filter(|column| !column.is_empty())
    }

    /// Copies a row as f32 values: those stored, else from its codes (normalised under cosine).
    pub fn values_of(&self, row: u32, out: &mut Vec<f32>) {
        out.clear();
        if self.has_full() {
            out.extend_from_slice(self.full_of(row));
            return;
        }
        let scale = self.scale_of(row);
        let mut codes = vec![0; if self.has_codes() { self.dim } else { 0 }];
        self.codes_of(row, &mut codes);
        out.extend(codes.iter().map(|&code| scale * f32::from(code)));
        if self.metric == Metric::Cosine {
            normalize(out);
        }
    }

    /// Whether values that were copied of a row give that row when they are stored again, to the bit. f32 rows do, and
    /// so do codes; of their scale rounding may take the last bit.
    pub fn restores(&self, row: u32, values: &[f32]) -> bool {
        if self.has_full() || !self.has_codes() {
            return values == self.full_of(row);
        }
        let (mut stored, mut again) = (vec![0; self.dim], vec![0; values.len()]);
        self.codes_of(row, &mut stored);
        let scale = quantize::quantize(values, &mut again);
        stored == again && (self.scales.is_empty() || scale.to_bits() == self.scale_of(row).to_bits())
    }
}

fn row_of<T>(matrix: &[T], row: u32, dim: usize) -> &[T] {
    let start = row as usize * dim;
    matrix.get(start..start + dim).unwrap_or(&[])
}

/// A query prepared for one block's metric and one dimension.
#[derive(Debug, Clone)]
pub struct Query {
    /// How the query is compared.
    pub metric: Metric,
    /// Values of the rows it can be compared with.
    pub dim: usize,
    /// Values that take part in the comparison: the first `rank_dim` of each row.
    pub rank_dim: usize,
    /// The first `rank_dim` values; of length 1 under cosine.
    pub values: Vec<f32>,
    /// The same as codes.
    pub codes: TwoPart,
    /// Both codes as the planes of rows are compared with them.
    pub(super) parts: [PlaneQuery; 2],
    /// `1 / ‖codes.first‖`, or 0.
    pub(super) inverse_norm: f32,
    /// The squared length of what the first code stands for, and of both. With the length of the values themselves a
    /// squared distance by codes could fall below 0, and rows that are told apart by it would be held for equal. 0 under
    /// cosine.
    pub(super) squares: [f32; 2],
    /// Whose search it is.
    task: Task,
}

impl Query {
    /// Prepares a query of `dim_total` values for ranking by the first `rank_dim` of them (any of
    /// `1..=dim_total`, a rung of the ladder or not). A longer vector is cut, a shorter one filled with 0.
    pub fn new(vector: &[f32], metric: Metric, dim_total: usize, rank_dim: usize) -> Self {
        let rank_dim = rank_dim.clamp(1, dim_total.max(1));
        let mut values: Vec<f32> = vector.iter().copied().take(rank_dim).collect();
        values.resize(rank_dim, 0.0);
        if metric == Metric::Cosine {
            normalize(&mut values);
        }
        let codes = TwoPart::new(&values);
        let inverse_norm = quantize::inverse_norm(&codes.first);
        let parts = [&codes.first, &codes.second].map(|codes| PlaneQuery::new(codes));
        let squares = if metric == Metric::Cosine { [0.0; 2] } else { squares(&codes) };
        let task = Task::default();
        Self { metric, dim: dim_total, rank_dim, values, codes, parts, inverse_norm, squares, task }
    }

    /// The same on behalf of a task: once that is over, scans end where they are, and what they found is of no worth.
    pub fn of(self, task: &Task) -> Self {
        Self { task: task.clone(), ..self }
    }

    /// Whether nobody waits for what is found any more. Scans ask at row 0 and then every [`ASKED`](Self::ASKED) rows.
    pub(super) fn is_over(&self) -> bool {
        self.task.check().is_err()
    }

    /// Rows of a scan after which it asks whether to go on: some ten microseconds.
    pub(super) const ASKED: usize = 4096;

    /// The length of the query.
    pub(crate) fn length(&self) -> f32 {
        self.values.iter().map(|x| x * x).sum::<f32>().sqrt()
    }

    /// The query for fewer dimensions; `None` if `rung` is 0 or not fewer.
    pub(crate) fn narrowed(&self, rung: usize) -> Option<Self> {
        let narrow = || Self::new(&self.values, self.metric, self.dim, rung).of(&self.task);
        (1..self.rank_dim).contains(&rung).then(narrow)
    }
}

/// The squared length of what the first code stands for, and of both: the same on every processor.
fn squares(codes: &TwoPart) -> [f32; 2] {
    [0.0, 1.0 / SECOND_PART].map(|share| {
        let parts = codes.first.iter().zip(&codes.second);
        let values = parts.map(|(&a, &b)| f64::from(codes.scale * (f32::from(a) + share * f32::from(b))));
        values.map(|value| value * value).sum::<f64>() as f32
    })
}

/// A row and its distance. Ordered by distance, then row; NaN comes last.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    /// Row of the block.
    pub row: u32,
    /// Distance to the query.
    pub distance: f32,
}

impl Neighbour {
    /// The order as one integer: distance above, row below.
    #[inline]
    pub(crate) fn key(self) -> u64 {
        // Adding 0 turns −0 into 0, so that both tie and the row decides.
        let bits = (self.distance + 0.0).to_bits();
        let distance = match bits {
            _ if self.distance.is_nan() => u32::MAX,
            _ if bits >> 31 == 0 => bits | 1 << 31,
            _ => !bits,
        };
        u64::from(distance) << 32 | u64::from(self.row)
    }

    /// The inverse of [`key`](Self::key).
    #[inline]
    pub(crate) fn from_key(key: u64) -> Self {
        let bits = (key >> 32) as u32;
        let bits = if bits >> 31 == 1 { bits & !(1 << 31) } else { !bits };
        Self { row: key as u32, distance: f32::from_bits(bits) }
    }
}

impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Neighbour {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Neighbour {}

/// The `k` nearest of the neighbours pushed.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    worst_first: std::collections::BinaryHeap<u64>,
    /// Keys from here on are not wanted.
    bound: u64,
}

impl TopK {
    /// Room for `k` neighbours.
    pub fn new(k: usize) -> Self {
        let bound = if k == 0 { 0 } else { u64::MAX };
        Self { k, worst_first: std::collections::BinaryHeap::with_capacity(k.min(1 << 14) + 1), bound }
    }

    /// Keeps a neighbour if it is among the `k` nearest so far.
    #[inline]
    pub fn push(&mut self, row: u32, distance: f32) {
        let key = Neighbour { row, distance }.key();
        if key < self.bound {
            self.insert(key);
        }
    }

    /// The key from which on neighbours are not wanted; the largest until `k` are kept.
    #[inline]
    pub(crate) fn bound(&self) -> u64 {
        self.bound
    }

    /// Distance of the farthest of `k` neighbours; none until `k` are kept.
    pub(crate) fn farthest(&self) -> Option<f32> {
        let full = self.k > 0 && self.worst_first.len() == self.k;
        full.then(|| Neighbour::from_key(self.bound).distance)
    }

    fn insert(&mut self, key: u64) {
        if self.worst_first.len() < self.k {
            self.worst_first.push(key);
        } else if let Some(mut worst) = self.worst_first.peek_mut() {
            *worst = key;
        }
        if self.worst_first.len() == self.k {
            self.bound = self.worst_first.peek().copied().unwrap_or(0);
        }
    }

    /// The neighbours kept, nearest first.
    pub fn into_sorted(self) -> Vec<Neighbour> {
        self.worst_first.into_sorted_vec().into_iter().map(Neighbour::from_key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_checked() {
        let of = |dim, metric, len, planes: [usize; 2], scales, norms, full| {
            let bytes = [0; 96];
            let [high, low] = planes.map(|len| &bytes[..len]);
            let floats = [0.0; 7];
            let [scales, norms, full]: [&[f32]; 3] = [scales, norms, full].map(|len: usize| &floats[..len]);
            VectorBlock::new(dim, metric, &[1, 2], len, Codes { high, low }, scales, norms, full).is_ok()
        };
        let ok = |planes, scales, norms, full| of(2, Metric::L2, 3, planes, scales, norms, full);
        assert!(ok([96, 96], 3, 6, 6));
        assert!(ok([96, 96], 3, 0, 0));
        assert!(ok([0, 0], 0, 0, 6));
        assert!(!ok([0, 0], 0, 0, 0));
        assert!(!ok([96, 96], 0, 0, 0));
        assert!(!ok([95, 96], 3, 0, 0));
        assert!(!ok([96, 0], 3, 0, 6));
        assert!(!ok([0, 96], 3, 0, 6));
        assert!(!ok([96, 96], 2, 0, 0));
        assert!(!ok([96, 96], 3, 5, 0));
        assert!(!ok([0, 0], 0, 0, 7));
        assert!(of(2, Metric::Cosine, 3, [96, 96], 0, 0, 0));
        assert!(!of(0, Metric::Cosine, 0, [0, 0], 0, 0, 0));
        assert!(!of(2, Metric::Cosine, usize::MAX, [0, 0], 0, 0, 0));
        assert!(of(2, Metric::Cosine, 0, [0, 0], 0, 0, 0));
    }

    #[test]
    fn neighbours_order_by_distance_then_row_and_nan_last() {
        let of = |row, distance| Neighbour { row, distance };
        let mut all = [of(1, f32::NAN), of(9, -1.0), of(7, 0.0), of(2, -0.0), of(0, f32::INFINITY)];
        all.sort();
        assert_eq!(all.map(|n| n.row), [9, 2, 7, 0, 1]);
        assert!(Neighbour::from_key(of(1, f32::NAN).key()).distance.is_nan());
    }

    proptest! {
        #[test]
        fn top_k_equals_sorting(distances in prop::collection::vec(-3i8..3, 0..60), k in 0usize..20) {
            let mut top = TopK::new(k);
            let mut all: Vec<Neighbour> = Vec::new();
            for (row, &d) in distances.iter().enumerate() {
                top.push(row as u32, f32::from(d));
                all.push(Neighbour { row: row as u32, distance: f32::from(d) });
            }
            all.sort();
            all.truncate(k);
            prop_assert_eq!(top.into_sorted(), all);
        }

        #[test]
        fn keys_keep_the_order_and_the_value(a in any::<f32>(), b in any::<f32>()) {
            let of = |distance| Neighbour { row: 5, distance };
            if !a.is_nan() && !b.is_nan() {
                prop_assert_eq!(of(a).partial_cmp(&of(b)), (a + 0.0).partial_cmp(&b));
                prop_assert_eq!(Neighbour::from_key(of(a).key()).distance, a);
            }
        }
    }

    #[test]
    fn a_cosine_query_is_normalised_over_its_prefix() {
        let query = Query::new(&[3.0, 4.0, 100.0], Metric::Cosine, 3, 2);
        assert_eq!(query.values, [0.6, 0.8]);
        assert_eq!(Query::new(&[3.0, 4.0], Metric::Dot, 3, 9).values, [3.0, 4.0, 0.0]);
    }
}

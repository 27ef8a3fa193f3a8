//! What a search reads and returns: a block of stored rows, a prepared query, neighbours.
//!
//! [`VectorBlock`] borrows its rows from a mapped file or from memory, so the index does no I/O. [`Query`]
//! holds a vector in every form the searches need. Distances are smaller for nearer rows: `1 − cos`,
//! `−⟨q, x⟩` or `‖q − x‖`; of equal distances the lower row comes first.

use std::cmp::Ordering;

use super::quantize::{self, SECOND_PART, TwoPart, inverse_norm, normalize};
use crate::error::{Error, Result};
use crate::kernel::{self, CodeMatrix, CodeQuery};
use crate::types::Metric;

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
    /// int8 codes, `len × dim`, row-major; or empty.
    pub codes: &'a [i8],
    /// Value of one step of a row's codes, `len`; or empty.
    pub scales: &'a [f32],
    /// Inverse norms of the codes, `ladder.len()` columns of `len`; or empty.
    pub norms: &'a [f32],
    /// f32 rows, `len × dim`, row-major; or empty.
    pub full: &'a [f32],
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
        codes: &'a [i8],
        scales: &'a [f32],
        norms: &'a [f32],
        full: &'a [f32],
    ) -> Result<Self> {
        let wrong = |what: String| Err(Error::corrupt("vectors", 0, what));
        let Some(cells) = len.checked_mul(dim).filter(|_| dim > 0 && u32::try_from(len).is_ok()) else {
            return wrong(format!("{len} rows of {dim} values"));
        };
        let parts = [
            ("codes", codes.len(), cells),
            ("scales", scales.len(), len),
            ("norms", norms.len(), len.saturating_mul(ladder.len())),
            ("f32 values", full.len(), cells),
        ];
        if let Some((name, found, expected)) = parts.iter().find(|(_, found, n)| *found != 0 && found != n) {
            return wrong(format!("{found} {name} for {len} rows of {dim} values, expected {expected}"));
        }
        if len > 0 && codes.is_empty() && full.is_empty() {
            return wrong(format!("neither codes nor f32 values for {len} rows"));
        }
        if !codes.is_empty() && scales.is_empty() && metric != Metric::Cosine {
            return wrong(format!("codes without scales, which {} needs", metric.name()));
        }
        Ok(Self { dim, metric, ladder, len, codes, scales, norms, full })
    }

    /// Whether int8 codes are stored.
    pub fn has_codes(&self) -> bool {
        !self.codes.is_empty()
    }

    /// Whether f32 rows are stored.
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The codes of a row; empty where there are none.
    pub fn codes_of(&self, row: u32) -> &'a [i8] {
        row_of(self.codes, row, self.dim)
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
        out.extend(self.codes_of(row).iter().map(|&code| scale * f32::from(code)));
        if self.metric == Metric::Cosine {
            normalize(out);
        }
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
    /// `1 / ‖codes.first‖`, or 0.
    inverse_norm: f32,
    /// The squared length of what the first code stands for, and of both. With the length of the values themselves a
    /// squared distance by codes could fall below 0, and rows that are told apart by it would be held for equal. Only
    /// under L2.
    squares: [f32; 2],
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
        let squares = if metric == Metric::L2 { squares(&codes) } else { [0.0; 2] };
        Self { metric, dim: dim_total, rank_dim, values, codes, inverse_norm, squares }
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

/// Distances from one query to the rows of one block, through codes: what traversals and first passes use.
pub(crate) struct CodeDistance<'a> {
    block: VectorBlock<'a>,
    query: &'a Query,
    first: CodeQuery<'a>,
    second: CodeQuery<'a>,
    norms: Option<&'a [f32]>,
}

impl<'a> CodeDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query) -> Self {
        let norms = block.norm_column(query.rank_dim);
        let [first, second] = [&query.codes.first, &query.codes.second].map(|codes| CodeQuery::new(codes));
        Self { block: *block, query, first, second, norms }
    }

    /// The codes of a row that take part.
    #[inline]
    pub(crate) fn prefix(&self, row: u32) -> &'a [i8] {
        self.matrix().row(row, self.query.rank_dim)
    }

    #[inline]
    fn matrix(&self) -> CodeMatrix<'a> {
        CodeMatrix { codes: self.block.codes, stride: self.block.dim }
    }

    /// Distances of rows by the first code of the query, in order; `products` is room to work in.
    #[inline]
    pub(crate) fn coarse_rows(&self, rows: &[u32], products: &mut [i32], distances: &mut [f32]) {
        kernel::dot_i8_rows(self.first, self.matrix(), rows, products);
        for ((&row, &product), distance) in rows.iter().zip(&*products).zip(distances) {
            *distance = self.of_first(product as f32, row);
        }
    }

    /// Requests the beginnings of rows that are compared soon, so that their addresses are known by then: of long
    /// rows that lie apart each is in a page of its own.
    #[inline]
    pub(crate) fn announce(&self, rows: &[u32]) {
        const LONG: usize = 256;
        if self.query.rank_dim < LONG {
            return;
        }
        for &row in rows {
            self.request(row);
            self.prefix(row).first().into_iter().for_each(kernel::prefetch_value);
        }
    }

    /// Distance by the first code of the query.
    #[inline]
    pub(crate) fn coarse(&self, row: u32) -> f32 {
        self.of_first(kernel::dot_i8(&self.query.codes.first, self.prefix(row)) as f32, row)
    }

    /// Distances of rows by both codes of the query, in order.
    pub(crate) fn fine_rows(&self, rows: &[u32], distances: &mut [f32]) {
        let (mut first, mut second) = (vec![0; rows.len()], vec![0; rows.len()]);
        kernel::dot_i8_rows(self.first, self.matrix(), rows, &mut first);
        kernel::dot_i8_rows(self.second, self.matrix(), rows, &mut second);
        for (((&row, first), second), distance) in rows.iter().zip(first).zip(second).zip(distances) {
            *distance =
                self.of_product(first as f32 + second as f32 / SECOND_PART, self.query.squares[1], row);
        }
    }

    /// Distance by both codes of the query.
    #[inline]
    pub(crate) fn fine(&self, row: u32) -> f32 {
        let codes = self.prefix(row);
        let first = kernel::dot_i8(&self.query.codes.first, codes) as f32;
        let second = kernel::dot_i8(&self.query.codes.second, codes) as f32;
        self.of_product(first + second / SECOND_PART, self.query.squares[1], row)
    }

    /// Distance from the product of the first codes.
    #[inline]
    fn of_first(&self, product: f32, row: u32) -> f32 {
        if self.query.metric == Metric::Cosine {
            return 1.0 - product * self.query.inverse_norm * self.inverse_norm(row);
        }
        self.of_product(product, self.query.squares[0], row)
    }

    /// Distance where `product` times the query's scale is the product of the query's values and the codes, and
    /// `squares` the squared length of these values.
    #[inline]
    fn of_product(&self, product: f32, squares: f32, row: u32) -> f32 {
        let product = product * self.query.codes.scale;
        match self.query.metric {
            Metric::Cosine => 1.0 - product * self.inverse_norm(row),
            Metric::Dot => -product * self.block.scale_of(row),
            Metric::L2 => {
                let scale = self.block.scale_of(row);
                let inverse = self.inverse_norm(row);
                let norm = if inverse > 0.0 { scale / inverse } else { 0.0 };
                (squares + norm * norm - 2.0 * scale * product).max(0.0).sqrt()
            }
        }
    }

    #[inline]
    fn inverse_norm(&self, row: u32) -> f32 {
        match self.norms.and_then(|norms| norms.get(row as usize)) {
            Some(&norm) => norm,
            None => inverse_norm(self.prefix(row)),
        }
    }

    /// Requests from memory what a row's distance needs besides its codes.
    #[inline]
    pub(crate) fn request(&self, row: u32) {
        if let Some(norm) = self.norms.and_then(|norms| norms.get(row as usize)) {
            kernel::prefetch_value(norm);
        }
        if self.query.metric != Metric::Cosine
            && let Some(scale) = self.block.scales.get(row as usize)
        {
            kernel::prefetch_value(scale);
        }
    }
}

/// Distances from one query to the f32 rows of one block.
pub(crate) struct FullDistance<'a> {
    block: VectorBlock<'a>,
    query: &'a Query,
}

impl<'a> FullDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query) -> Self {
        Self { block: *block, query }
    }

    /// The values of a row that take part.
    #[inline]
    pub(crate) fn prefix(&self, row: u32) -> &'a [f32] {
        let start = row as usize * self.block.dim;
        self.block.full.get(start..start + self.query.rank_dim).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn distance(&self, row: u32) -> f32 {
        let values = self.prefix(row);
        match self.query.metric {
            Metric::L2 => kernel::l2_sq_f32(&self.query.values, values).sqrt(),
            Metric::Dot => -kernel::dot_f32(&self.query.values, values),
            Metric::Cosine => {
                let product = kernel::dot_f32(&self.query.values, values);
                if self.query.rank_dim == self.block.dim {
                    return 1.0 - product;
                }
                let squares = kernel::dot_f32(values, values);
                if squares > 0.0 { 1.0 - product / squares.sqrt() } else { 1.0 }
            }
        }
    }
}

/// The most exact distance the block allows: f32 rows where stored, else both codes of the query.
pub(crate) enum ExactDistance<'a> {
    Full(FullDistance<'a>),
    Codes(CodeDistance<'a>),
}

impl<'a> ExactDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query) -> Self {
        if block.has_full() {
            Self::Full(FullDistance::new(block, query))
        } else {
            Self::Codes(CodeDistance::new(block, query))
        }
    }

    #[inline]
    pub(crate) fn distance(&self, row: u32) -> f32 {
        match self {
            Self::Full(full) => full.distance(row),
            Self::Codes(codes) => codes.fine(row),
        }
    }
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

    fn insert(&mut self, key: u64) {
        self.worst_first.push(key);
        if self.worst_first.len() > self.k {
            self.worst_first.pop();
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

    /// A query that is shorter than its codes say, near rows that are far from 0.
    #[test]
    fn near_rows_are_not_held_for_equal() {
        let (codes, scales) = ([100i8, 60, 99, 60, 100, 61], [0.1f32; 3]);
        let norms: Vec<f32> = codes.chunks(2).map(quantize::inverse_norm).collect();
        let block = VectorBlock::new(2, Metric::L2, &[2], 3, &codes, &scales, &norms, &[]).unwrap();
        // 127 steps of the first value; the second is rounded up by nearly half a step.
        let query = Query::new(&[10.0, 5.945], Metric::L2, 2, 2);
        let distance = CodeDistance::new(&block, &query);
        for (row, [x, y]) in [[10.0, 6.0], [9.9, 6.0], [10.0, 6.1f32]].into_iter().enumerate() {
            let rounded = (5.945 / 10.0 * 127.0f32).round() * 10.0 / 127.0;
            let coarse = ((10.0 - x).powi(2) + (rounded - y).powi(2)).sqrt();
            let fine = ((10.0 - x).powi(2) + (5.945 - y).powi(2)).sqrt();
            assert!((distance.coarse(row as u32) - coarse).abs() < 0.005, "row {row}");
            assert!((distance.fine(row as u32) - fine).abs() < 0.005, "row {row}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        let ok = |codes: &[i8], scales: &[f32], norms: &[f32], full: &[f32]| {
            VectorBlock::new(2, Metric::L2, &[1, 2], 3, codes, scales, norms, full).is_ok()
        };
        assert!(ok(&[0; 6], &[1.0; 3], &[1.0; 6], &[0.0; 6]));
        assert!(ok(&[0; 6], &[1.0; 3], &[], &[]));
        assert!(ok(&[], &[], &[], &[0.0; 6]));
        assert!(!ok(&[], &[], &[], &[]));
        assert!(!ok(&[0; 6], &[], &[], &[]));
        assert!(!ok(&[0; 5], &[1.0; 3], &[], &[]));
        assert!(!ok(&[0; 6], &[1.0; 2], &[], &[]));
        assert!(!ok(&[0; 6], &[1.0; 3], &[1.0; 5], &[]));
        assert!(!ok(&[], &[], &[], &[0.0; 7]));
        assert!(VectorBlock::new(2, Metric::Cosine, &[], 3, &[0; 6], &[], &[], &[]).is_ok());
        assert!(VectorBlock::new(0, Metric::Cosine, &[], 0, &[], &[], &[], &[]).is_err());
        assert!(VectorBlock::new(2, Metric::Cosine, &[], usize::MAX, &[], &[], &[], &[]).is_err());
        assert!(VectorBlock::new(2, Metric::Cosine, &[], 0, &[], &[], &[], &[]).is_ok());
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

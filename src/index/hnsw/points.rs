//! Rows as construction compares them: int8 codes under a squared Euclidean distance, whatever the metric.
//!
//! Under the inner product rows are lifted to one length, for the reason that [`rows`](super::rows) gives: the
//! rule that prunes links needs a distance that is never negative. Codes are joined from their planes once, since
//! construction compares each row hundreds of times. The graph from codes is as good as the one from f32 rows, so
//! rows that have no codes are given some for the time of construction.

use std::borrow::Cow;

use super::walk::Score;
use crate::index::block::VectorBlock;
use crate::index::quantize::{inverse_norm, quantize};
use crate::kernel::{self, CodeMatrix, CodeQuery};
use crate::types::Metric;

/// What a distance needs of a row besides its codes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Form {
    /// What a step of the codes is worth.
    weight: f32,
    /// The squared norm, lift included.
    squares: f32,
    lift: f32,
    /// Sum of the codes.
    sum: i32,
}

/// The rows of a block, ready to be compared with each other.
pub(super) struct Points {
    dim: usize,
    codes: Vec<i8>,
    forms: Vec<Form>,
}

impl Points {
    /// Joins the codes of a block, or makes them from its f32 rows.
    pub(super) fn new(block: &VectorBlock<'_>) -> Self {
        let (codes, scales) = match block.has_codes() {
            true => (joined(block), Cow::Borrowed(block.scales)),
            false => quantized(block),
        };
        let scale = |row: usize| scales.get(row).copied().unwrap_or(1.0);
        let mut forms: Vec<Form> = codes
            .chunks_exact(block.dim)
            .enumerate()
            .map(|(row, codes)| form(codes, scale(row), block.metric))
            .collect();
        if block.metric == Metric::Dot {
            let longest = forms.iter().fold(0.0f32, |most, form| most.max(form.squares));
            for form in &mut forms {
                form.lift = (longest - form.squares).max(0.0).sqrt();
                form.squares += form.lift * form.lift;
            }
        }
        Self { dim: block.dim, codes, forms }
    }

    pub(super) fn len(&self) -> usize {
        self.forms.len()
    }

    /// The codes of a row.
    pub(super) fn codes(&self, row: u32) -> &[i8] {
        self.matrix().row(row, self.dim)
    }

    /// Whether two rows are one point: no search can tell them apart.
    pub(super) fn same(&self, a: u32, b: u32) -> bool {
        self.forms.get(a as usize) == self.forms.get(b as usize) && self.codes(a) == self.codes(b)
    }

    /// Distances from one row.
    #[inline]
    pub(super) fn from(&self, row: u32) -> FromPoint<'_> {
        let form = self.forms.get(row as usize).copied().unwrap_or_default();
        FromPoint { points: self, query: CodeQuery::with_sum(self.codes(row), form.sum), form }
    }

    #[inline]
    fn matrix(&self) -> CodeMatrix<'_> {
        CodeMatrix { codes: &self.codes, stride: self.dim }
    }
}

/// The codes of all rows, joined from their planes: construction compares each many hundred times.
fn joined(block: &VectorBlock<'_>) -> Vec<i8> {
    let mut codes = vec![0; block.len * block.dim];
    (0u32..).zip(codes.chunks_exact_mut(block.dim)).for_each(|(row, codes)| block.codes_of(row, codes));
    codes
}

fn quantized<'a>(block: &VectorBlock<'_>) -> (Vec<i8>, Cow<'a, [f32]>) {
    let mut codes = vec![0; block.full.len()];
    let rows = block.full.chunks_exact(block.dim).zip(codes.chunks_exact_mut(block.dim));
    let scales = rows.map(|(row, codes)| quantize(row, codes)).collect::<Vec<f32>>();
    (codes, scales.into())
}

fn form(codes: &[i8], scale: f32, metric: Metric) -> Form {
    let inverse = inverse_norm(codes);
    let sum = kernel::code_sum(codes);
    if metric == Metric::Cosine {
        return Form { weight: inverse, squares: f32::from(u8::from(inverse > 0.0)), lift: 0.0, sum };
    }
    let norm = if inverse > 0.0 { scale / inverse } else { 0.0 };
    Form { weight: scale, squares: norm * norm, lift: 0.0, sum }
}

/// Squared distances from one row to others.
pub(super) struct FromPoint<'p> {
    points: &'p Points,
    query: CodeQuery<'p>,
    form: Form,
}

impl Score for FromPoint<'_> {
    #[inline]
    fn score(&self, rows: &[u32], products: &mut [i32], distances: &mut [f32]) {
        kernel::dot_i8_rows(self.query, self.points.matrix(), rows, products);
        for ((&row, &product), distance) in rows.iter().zip(&*products).zip(distances) {
            let form = self.points.forms.get(row as usize).copied().unwrap_or_default();
            let product = product as f32 * (self.form.weight * form.weight) + self.form.lift * form.lift;
            *distance = (self.form.squares + form.squares - 2.0 * product).max(0.0);
        }
    }

    #[inline]
    fn request(&self, row: u32, whole: bool) {
        if let Some(form) = self.points.forms.get(row as usize) {
            kernel::prefetch_value(form);
        }
        if whole {
            kernel::prefetch(bytemuck::cast_slice(self.points.codes(row)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{Data, METRICS};
    use crate::types::Codec;

    fn distance(points: &Points, a: u32, b: u32) -> f32 {
        points.from(a).score_one(b).distance
    }

    #[test]
    fn distances_are_those_of_the_lifted_rows() {
        for metric in METRICS {
            for codec in [Codec::Int8, Codec::F32] {
                let data = Data::clustered(60, 40, metric, codec, 3);
                let points = Points::new(&data.block());
                let squares = |row: usize| kernel::dot_f32(data.row(row), data.row(row));
                let bound = (0..60).map(squares).fold(0.0, f32::max);
                let lift =
                    |row: usize| if metric == Metric::Dot { (bound - squares(row)).sqrt() } else { 0.0 };
                for (a, b) in (0..60).zip((0..60).rev()) {
                    let expected = kernel::l2_sq_f32(data.row(a), data.row(b)) + (lift(a) - lift(b)).powi(2);
                    let found = distance(&points, a as u32, b as u32);
                    let size = squares(a) + squares(b);
                    assert!((found - expected).abs() < 0.05 * size, "{metric:?}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn distances_are_never_negative_nor_nan() {
        let data = Data::new(vec![0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 3e30, 4e30], 2, Metric::Cosine, Codec::Int8);
        let points = Points::new(&data.block());
        for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
            assert!(distance(&points, a, b) >= 0.0);
        }
        assert_eq!(distance(&points, 0, 9), 0.0);
        assert!(points.same(1, 2) && !points.same(0, 1) && !points.same(2, 3));
    }
}

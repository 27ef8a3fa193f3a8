//! Rows as hnsw_rs compares them: every metric as a squared Euclidean distance.
//!
//! hnsw_rs and its pruning rule want a metric that is never negative, which an inner product is not. A row
//! is therefore lifted by one more coordinate (Bachrach et al., RecSys 2014): with B at least the largest
//! squared norm, `lift(x) = √(B − ‖x‖²)` makes all rows equally long, so that the order of distances to a
//! query, whose own lift is 0, is the order of inner products. Under the other metrics the lift is 0, and
//! `‖x − y‖²` of unit vectors is `2 − 2cos`.
//!
//! Two forms: int8 codes followed by 12 bytes (weight, squared norm, lift), or f32 values followed by the lift.

use hnsw_rs::prelude::Distance;

use crate::index::quantize::{inverse_norm, normalize, quantize};
use crate::kernel;
use crate::types::Metric;

const TAIL: usize = 12;

/// Squared distance of rows in the form of codes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiftedCodes;

impl Distance<i8> for LiftedCodes {
    fn eval(&self, a: &[i8], b: &[i8]) -> f32 {
        let (Some((a, a_tail)), Some((b, b_tail))) = (a.split_last_chunk(), b.split_last_chunk()) else {
            return f32::MAX;
        };
        let [a_weight, a_squares, a_lift]: [f32; 3] = bytemuck::cast::<[i8; TAIL], _>(*a_tail);
        let [b_weight, b_squares, b_lift]: [f32; 3] = bytemuck::cast::<[i8; TAIL], _>(*b_tail);
        let product = kernel::dot_i8(a, b) as f32 * a_weight * b_weight + a_lift * b_lift;
        usable(a_squares + b_squares - 2.0 * product)
    }
}

/// Squared distance of rows in the form of floats.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiftedFloats;

impl Distance<f32> for LiftedFloats {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        usable(kernel::l2_sq_f32(a, b))
    }
}

/// hnsw_rs panics on NaN and on negative distances, which rounding can leave.
fn usable(distance: f32) -> f32 {
    if distance.is_nan() { f32::MAX } else { distance.max(0.0) }
}

/// Writes rows in either form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifting {
    pub(super) metric: Metric,
    /// Under the inner product: a bound on the squared norms of all rows.
    pub(super) bound: f32,
}

impl Lifting {
    /// A stored row from its codes.
    pub(super) fn codes(&self, codes: &[i8], scale: f32, out: &mut Vec<i8>) {
        let inverse = inverse_norm(codes);
        let norm = if inverse > 0.0 { scale / inverse } else { 0.0 };
        let lift = self.lift(norm * norm);
        let tail = match self.metric {
            Metric::Cosine => [inverse, f32::from(u8::from(inverse > 0.0)), 0.0],
            Metric::L2 | Metric::Dot => [scale, norm * norm + lift * lift, lift],
        };
        out.clear();
        out.extend_from_slice(codes);
        out.extend_from_slice(&bytemuck::cast::<_, [i8; TAIL]>(tail));
    }

    /// A stored row from its values, as codes.
    pub(super) fn quantized(&self, values: &[f32], out: &mut Vec<i8>) {
        let mut codes = vec![0; values.len()];
        let scale = quantize(values, &mut codes);
        self.codes(&codes, scale, out);
    }

    /// A stored row from its values.
    pub(super) fn floats(&self, values: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(values);
        if self.metric == Metric::Cosine {
            normalize(out);
        }
        out.push(self.lift(squares(values)));
    }

    fn lift(&self, squares: f32) -> f32 {
        if self.metric == Metric::Dot { (self.bound - squares).max(0.0).sqrt() } else { 0.0 }
    }

    /// Writes queries: rows whose lift is 0 whatever their norm.
    pub(super) fn for_queries(self) -> Self {
        Self { bound: 0.0, ..self }
    }

    /// The metric's distance for a squared distance between a row and a query of the given squared norm.
    pub(super) fn distance(&self, squared: f32, query_squares: f32) -> f32 {
        match self.metric {
            Metric::Cosine => squared / 2.0,
            Metric::L2 => squared.sqrt(),
            Metric::Dot => (squared - query_squares - self.bound) / 2.0,
        }
    }
}

/// `‖values‖²`.
pub(super) fn squares(values: &[f32]) -> f32 {
    kernel::dot_f32(values, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{METRICS, Random};

    #[test]
    fn both_forms_give_the_metric() {
        let mut random = Random(3);
        let mut vector = || (0..40).map(|_| random.normal()).collect::<Vec<f32>>();
        for metric in METRICS {
            for _ in 0..20 {
                let (row, query) = (vector(), vector());
                let lifting = Lifting { metric, bound: 200.0 };
                let (mut a, mut b, mut c, mut d) = (vec![], vec![], vec![], vec![]);
                lifting.quantized(&row, &mut a);
                lifting.for_queries().quantized(&query, &mut b);
                lifting.floats(&row, &mut c);
                lifting.for_queries().floats(&query, &mut d);
                let product = kernel::dot_f32(&row, &query);
                let expected = match metric {
                    Metric::Cosine => 1.0 - product / (squares(&row) * squares(&query)).sqrt(),
                    Metric::Dot => -product,
                    Metric::L2 => kernel::l2_sq_f32(&row, &query).sqrt(),
                };
                let coarse = lifting.distance(LiftedCodes.eval(&a, &b), squares(&query));
                let fine = lifting.distance(LiftedFloats.eval(&c, &d), squares(&query));
                assert!((coarse - expected).abs() < 0.3, "{metric:?}: {coarse} for {expected}");
                assert!((fine - expected).abs() < 1e-3, "{metric:?}: {fine} for {expected}");
            }
        }
    }

    #[test]
    fn distances_are_never_negative_nor_nan() {
        let lifting = Lifting { metric: Metric::Dot, bound: 1.0 };
        let mut row = Vec::new();
        lifting.quantized(&[3.0, 1.0], &mut row);
        assert!(LiftedCodes.eval(&row, &row) >= 0.0);
        assert_eq!(LiftedCodes.eval(&[1, 2], &row), f32::MAX);
        assert_eq!(LiftedFloats.eval(&[f32::NAN], &[1.0]), f32::MAX);
        lifting.quantized(&[0.0, 0.0], &mut row);
        assert_eq!(LiftedCodes.eval(&row, &row), 0.0);
    }
}

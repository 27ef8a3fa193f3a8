//! The loss: multiple negatives ranking under a Matryoshka wrapper.
//!
//! In a batch of n pairs, every query must prefer its own positive to the n − 1 positives of the
//! others (Henderson et al.: Efficient Natural Language Response Suggestion, 2017): cross entropy over
//! cosines times a scale. Matryoshka (Kusupati et al., 2022) asks the same of every prefix in the ladder,
//! each normalised anew, and takes the mean over them.
//!
//! A positive of another row that also answers this row's query is no negative ([`KnownPositives`]);
//! its probability is an exact zero, for values near the smallest float would slow the backward pass
//! by an order of magnitude.

use std::collections::HashMap;

use candle_core::{D, Tensor};

use crate::error::{Error, Result};

/// Multiple negatives ranking loss over the prefixes of a ladder.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingLoss {
    /// Prefix lengths, ascending, the last one the full dimension.
    pub ladder: Vec<usize>,
    /// Factor on the cosines: the inverse of the temperature.
    pub scale: f64,
}

/// Factor on the cosines that is used throughout: temperature 0.05.
pub const SCALE: f64 = 20.0;

/// Added to a logit to exclude it: its exponential is exactly 0.
const EXCLUDED: f32 = -1e4;

/// Keeps the derivative of the norm finite at a zero vector.
const NORM_EPSILON: f64 = 1e-12;

impl RankingLoss {
    /// The loss for a ladder at the usual scale.
    pub fn new(ladder: &[usize]) -> Self {
        Self { ladder: ladder.to_vec(), scale: SCALE }
    }

    /// The loss of a batch, a scalar with its graph.
    ///
    /// `queries`, `positives`: n × d, of any norm; `mask`: n × n, added to the logits
    /// ([`KnownPositives::mask`]); `weights`: n, the share of each row.
    pub fn of(
        &self,
        queries: &Tensor,
        positives: &Tensor,
        mask: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor> {
        self.composed(queries, positives, mask, weights).map_err(tensor_error)
    }

    fn composed(
        &self,
        queries: &Tensor,
        positives: &Tensor,
        mask: &Tensor,
        weights: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let shares = weights.broadcast_div(&weights.sum_all()?)?;
        let mut total = shares.zeros_like()?.sum_all()?;
        for &rung in &self.ladder {
            let a = unit_rows(&queries.narrow(1, 0, rung)?)?;
            let b = unit_rows(&positives.narrow(1, 0, rung)?)?;
            let own = ((&a * &b)?.sum(D::Minus1)? * self.scale)?;
            let logits = ((a.matmul(&b.t()?)? * self.scale)? + mask)?;
            // The shift cancels out of the result, so its gradient is not needed.
            let shift = logits.max_keepdim(D::Minus1)?.detach();
            let sums = logits.broadcast_sub(&shift)?.exp()?.sum(D::Minus1)?;
            let each = ((sums.log()? + shift.squeeze(D::Minus1)?)? - own)?;
            total = (total + (each * &shares)?.sum_all()?)?;
        }
        total / self.ladder.len().max(1) as f64
    }
}

fn unit_rows(rows: &Tensor) -> candle_core::Result<Tensor> {
    let norms = (rows.sqr()?.sum_keepdim(D::Minus1)? + NORM_EPSILON)?.sqrt()?;
    rows.broadcast_div(&norms)
}

/// Turns a failed tensor operation into our error.
pub(super) fn tensor_error(error: candle_core::Error) -> Error {
    Error::Input(format!("training failed: {error}"))
}

/// Which targets are known to answer which queries; keys as of
/// [`query_key`](super::split::query_key) and [`target_key`](super::split::target_key).
#[derive(Debug, Clone, Default)]
pub struct KnownPositives(HashMap<u64, Vec<u64>>);

impl KnownPositives {
    /// Learns from all pairs, given by keys.
    pub fn new(query_keys: &[u64], positive_keys: &[u64]) -> Self {
        let mut known: HashMap<u64, Vec<u64>> = HashMap::new();
        for (&query, &positive) in query_keys.iter().zip(positive_keys) {
            let positives = known.entry(query).or_default();
            if !positives.contains(&positive) {
                positives.push(positive);
            }
        }
        Self(known)
    }

    /// The n × n mask of a batch, row-major: 0, or a large negative number where the column's positive
    /// is known to answer the row's query. The diagonal is 0.
    pub fn mask(&self, query_keys: &[u64], positive_keys: &[u64]) -> Vec<f32> {
        let mut mask = Vec::with_capacity(query_keys.len() * positive_keys.len());
        for (row, query) in query_keys.iter().enumerate() {
            let positives = self.0.get(query).map_or(&[][..], Vec::as_slice);
            mask.extend(positive_keys.iter().enumerate().map(|(column, positive)| {
                if row != column && positives.contains(positive) { EXCLUDED } else { 0.0 }
            }));
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::rng::Rng;
    use super::*;

    const N: usize = 5;
    const DIM: usize = 12;
    const LADDER: [usize; 3] = [3, 8, 12];

    fn values(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| rng.below(2000) as f64 / 1000.0 - 1.0).collect()
    }

    fn example() -> (Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>) {
        let known = KnownPositives::new(&[1, 2, 1, 3, 4, 2], &[10, 20, 30, 20, 40, 40]);
        let mask = known.mask(&[1, 2, 1, 3, 4], &[10, 20, 30, 20, 40]);
        let mask = mask.iter().map(|&m| f64::from(m)).collect();
        (values(1, N * DIM), values(2, N * DIM), mask, vec![1.0, 2.0, 0.5, 1.0, 3.0])
    }

    /// The definition, in scalars.
    fn plain(queries: &[f64], positives: &[f64], mask: &[f64], weights: &[f64]) -> f64 {
        let mut loss = 0.0;
        for rung in LADDER {
            let cosine = |i: usize, j: usize| {
                let (a, b) = (&queries[i * DIM..][..rung], &positives[j * DIM..][..rung]);
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
            };
            for i in 0..N {
                let kept = (0..N).filter(|j| mask[i * N + j] == 0.0);
                let sum: f64 = kept.map(|j| (SCALE * cosine(i, j)).exp()).sum();
                loss += weights[i] * (sum.ln() - SCALE * cosine(i, i));
            }
        }
        loss / weights.iter().sum::<f64>() / LADDER.len() as f64
    }

    fn tensor(values: &[f64], shape: impl Into<candle_core::Shape>) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn known_positives_are_masked_off_the_diagonal() {
        let (_, _, mask, _) = example();
        let excluded: Vec<(usize, usize)> =
            (0..N * N).filter(|&at| mask[at] != 0.0).map(|at| (at / N, at % N)).collect();
        // Rows 0 and 2 share a query; rows 1 and 3 a positive; row 1 has row 4's positive in another batch.
        assert_eq!(excluded, [(0, 2), (1, 3), (1, 4), (2, 0), (3, 1)]);
    }

    #[test]
    fn value_and_gradient_agree_with_the_definition() {
        let (queries, positives, mask, weights) = example();
        let a = Var::from_tensor(&tensor(&queries, (N, DIM))).unwrap();
        let b = Var::from_tensor(&tensor(&positives, (N, DIM))).unwrap();
        let loss =
            RankingLoss::new(&LADDER).of(&a, &b, &tensor(&mask, (N, N)), &tensor(&weights, N)).unwrap();
        let expected = plain(&queries, &positives, &mask, &weights);
        assert!((loss.to_scalar::<f64>().unwrap() - expected).abs() < 1e-9);

        let grads = loss.backward().unwrap();
        let step = 1e-6;
        for (side, var) in [(0, &a), (1, &b)] {
            let gradient =
                grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert!(gradient.iter().any(|g| g.abs() > 1e-3));
            for (at, &gradient) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut sides = [queries.clone(), positives.clone()];
                    sides[side][at] += by;
                    plain(&sides[0], &sides[1], &mask, &weights)
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                assert!((slope - gradient).abs() < 1e-5, "side {side}, value {at}: {slope} {gradient}");
            }
        }
    }

    #[test]
    fn a_zero_vector_has_a_finite_gradient() {
        let a = Var::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
        let ones = Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap();
        let mask = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        let loss = RankingLoss::new(&[2, 4]).of(
            &a,
            &ones,
            &mask,
            &ones.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
        );
        let grads = loss.unwrap().backward().unwrap();
        let gradient = grads.get(a.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()));
    }
}

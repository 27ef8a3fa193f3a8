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

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Factor on the cosines that is used throughout: temperature 0.05.
pub const SCALE: f32 = 20.0;

/// Added to a logit to exclude it: its exponential is exactly 0.
const EXCLUDED: f32 = -1e4;

/// Keeps the derivative of the norm finite at a zero vector.
const NORM_EPSILON: f32 = 1e-12;

/// Multiple negatives ranking loss over the prefixes of a ladder.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingLoss {
    /// Prefix lengths, ascending, the last one the full dimension.
    pub ladder: Vec<usize>,
    /// Factor on the cosines: the inverse of the temperature.
    pub scale: f32,
}

/// A batch of n pairs, embedded.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// n × `dim`, of any norm.
    pub queries: &'a [f32],
    /// n × `dim`, of any norm.
    pub positives: &'a [f32],
    /// Dimensions.
    pub dim: usize,
    /// n × n, added to the logits: as of [`KnownPositives::mask`].
    pub mask: &'a [f32],
    /// n: the share of each pair; positive.
    pub weights: &'a [f32],
}

/// The loss of a batch and its derivatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Slope {
    /// The loss.
    pub value: f64,
    /// Its derivative by each value of the queries, n × dim.
    pub queries: Vec<f32>,
    /// Its derivative by each value of the positives, n × dim.
    pub positives: Vec<f32>,
}

impl RankingLoss {
    /// The loss for a ladder at the usual scale.
    pub fn new(ladder: &[usize]) -> Self {
        Self { ladder: ladder.to_vec(), scale: SCALE }
    }

    /// The loss of a batch with its derivatives, which are written out by hand: composed of tensor
    /// operations they take ten times as long.
    ///
    /// # Errors
    /// [`Error::Input`] if the lengths contradict each other or a rung is not in `1..=dim`.
    pub fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        let n = batch.weights.len();
        let whole = batch.queries.len() == n * batch.dim
            && batch.positives.len() == n * batch.dim
            && batch.mask.len() == n * n
            && n > 0;
        if !whole || self.ladder.is_empty() || self.ladder.iter().any(|&r| r == 0 || r > batch.dim) {
            return Err(Error::input(format!(
                "training: a batch of {n} pairs of {} dimensions does not fit the ladder {:?}",
                batch.dim, self.ladder
            )));
        }
        let zeros = vec![0.0; batch.queries.len()];
        let mut slope = Slope { value: 0.0, queries: zeros.clone(), positives: zeros };
        for &rung in &self.ladder {
            self.add_rung(batch, rung, &mut slope).map_err(tensor_error)?;
        }
        Ok(slope)
    }

    /// Adds the part of one prefix length.
    fn add_rung(&self, batch: &Batch<'_>, rung: usize, slope: &mut Slope) -> candle_core::Result<()> {
        let n = batch.weights.len();
        let queries = Prefixes::new(batch.queries, batch.dim, rung)?;
        let positives = Prefixes::new(batch.positives, batch.dim, rung)?;
        let mut logits = queries.unit.matmul(&positives.unit.t()?)?.flatten_all()?.to_vec1::<f32>()?;
        slope.value += self.cross_entropy(&mut logits, batch);
        let pull = Tensor::from_vec(logits, (n, n), &Device::Cpu)?;
        queries.backward(&pull.matmul(&positives.unit)?, batch.dim, &mut slope.queries)?;
        positives.backward(&pull.t()?.matmul(&queries.unit)?, batch.dim, &mut slope.positives)
    }

    /// Turns cosines, n × n, into the derivative of the loss by each of them; returns the loss.
    fn cross_entropy(&self, cosines: &mut [f32], batch: &Batch<'_>) -> f64 {
        let n = batch.weights.len();
        let total: f32 = batch.weights.iter().sum::<f32>() * self.ladder.len() as f32;
        let mut value = 0.0;
        let rows = cosines.chunks_exact_mut(n).zip(batch.mask.chunks_exact(n)).zip(batch.weights);
        for (at, ((row, mask), weight)) in rows.enumerate() {
            row.iter_mut().zip(mask).for_each(|(cosine, mask)| *cosine = *cosine * self.scale + mask);
            let own = row.get(at).copied().unwrap_or_default();
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|logit| *logit = (*logit - most).exp());
            let sum: f32 = row.iter().sum();
            let share = weight / total;
            value += f64::from(share) * f64::from(sum.ln() + most - own);
            let factor = share * self.scale / sum;
            row.iter_mut().for_each(|probability| *probability *= factor);
            if let Some(own) = row.get_mut(at) {
                *own -= share * self.scale;
            }
        }
        value
    }
}

/// Prefixes of rows, normalised, with what the way back needs.
struct Prefixes {
    unit: Tensor,
    values: Vec<f32>,
    inverse_norms: Vec<f32>,
    rung: usize,
}

impl Prefixes {
    fn new(rows: &[f32], dim: usize, rung: usize) -> candle_core::Result<Self> {
        let n = rows.len() / dim;
        let (mut values, mut inverse_norms) = (Vec::with_capacity(n * rung), Vec::with_capacity(n));
        for row in rows.chunks_exact(dim) {
            let prefix = row.get(..rung).unwrap_or(row);
            let inverse = 1.0 / (prefix.iter().map(|v| v * v).sum::<f32>() + NORM_EPSILON).sqrt();
            values.extend(prefix.iter().map(|v| v * inverse));
            inverse_norms.push(inverse);
        }
        Ok(Self { unit: Tensor::from_slice(&values, (n, rung), &Device::Cpu)?, values, inverse_norms, rung })
    }

    /// Adds to `slope` (n × dim) the derivative by the rows, given that by their unit prefixes:
    /// for u = x/‖x‖ and g = ∂L/∂u it is (g − u⟨u, g⟩)/‖x‖.
    fn backward(&self, by_unit: &Tensor, dim: usize, slope: &mut [f32]) -> candle_core::Result<()> {
        let by_unit = by_unit.flatten_all()?.to_vec1::<f32>()?;
        let rows = by_unit.chunks_exact(self.rung).zip(self.values.chunks_exact(self.rung));
        for (((g, u), inverse), out) in rows.zip(&self.inverse_norms).zip(slope.chunks_exact_mut(dim)) {
            let along: f32 = g.iter().zip(u).map(|(g, u)| g * u).sum();
            for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
                *out += (g - u * along) * inverse;
            }
        }
        Ok(())
    }
}

impl Slope {
    /// A scalar whose gradient is that of the loss, to carry the derivatives back through the graphs
    /// of `queries` and `positives` (n × dim); its value means nothing.
    pub fn carrier(&self, queries: &Tensor, positives: &Tensor) -> Result<Tensor> {
        let carry = |of: &Tensor, slope: &[f32]| {
            (of * Tensor::from_slice(slope, of.shape(), &Device::Cpu)?)?.sum_all()
        };
        carry(queries, &self.queries)
            .and_then(|q| q + carry(positives, &self.positives)?)
            .map_err(tensor_error)
    }
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
    use candle_core::Var;

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
                let sum: f64 = kept.map(|j| (f64::from(SCALE) * cosine(i, j)).exp()).sum();
                loss += weights[i] * (sum.ln() - f64::from(SCALE) * cosine(i, i));
            }
        }
        loss / weights.iter().sum::<f64>() / LADDER.len() as f64
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
    fn value_and_derivatives_agree_with_the_definition() {
        let (queries, positives, mask, weights) = example();
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let sides = [narrow(&queries), narrow(&positives)];
        let (mask32, weights32) = (narrow(&mask), narrow(&weights));
        let batch =
            Batch { queries: &sides[0], positives: &sides[1], dim: DIM, mask: &mask32, weights: &weights32 };
        let slope = RankingLoss::new(&LADDER).of(&batch).unwrap();
        let expected = plain(&queries, &positives, &mask, &weights);
        assert!((slope.value - expected).abs() < 1e-5, "{} {expected}", slope.value);

        let step = 1e-6;
        for (side, derivatives) in [(0, &slope.queries), (1, &slope.positives)] {
            assert_eq!(derivatives.len(), N * DIM);
            assert!(derivatives.iter().filter(|d| d.abs() > 1e-2).count() > N * DIM / 2);
            for (at, &derivative) in derivatives.iter().enumerate() {
                let moved = |by: f64| {
                    let mut sides = [queries.clone(), positives.clone()];
                    sides[side][at] += by;
                    plain(&sides[0], &sides[1], &mask, &weights)
                };
                let measured = (moved(step) - moved(-step)) / (2.0 * step);
                assert!(
                    (measured - f64::from(derivative)).abs() < 2e-5,
                    "{side}, {at}: {measured} {derivative}"
                );
            }
        }
    }

    #[test]
    fn the_carrier_has_the_gradient_of_the_loss() {
        let (queries, positives, ..) = example();
        let var = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            Var::from_tensor(&Tensor::from_vec(values, (N, DIM), &Device::Cpu).unwrap()).unwrap()
        };
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (a, b) = (var(&queries), var(&positives));
        let (queries, positives) = (flat(&a), flat(&b));
        let batch = Batch {
            queries: &queries,
            positives: &positives,
            dim: DIM,
            mask: &[0.0; N * N],
            weights: &[1.0; N],
        };
        let slope = RankingLoss::new(&LADDER).of(&batch).unwrap();
        let gradients = slope.carrier(a.as_tensor(), b.as_tensor()).unwrap().backward().unwrap();
        assert_eq!(flat(gradients.get(a.as_tensor()).unwrap()), slope.queries);
        assert_eq!(flat(gradients.get(b.as_tensor()).unwrap()), slope.positives);
    }

    #[test]
    fn zero_vectors_are_finite_and_false_shapes_refused() {
        let batch =
            Batch { queries: &[0.0; 8], positives: &[1.0; 8], dim: 4, mask: &[0.0; 4], weights: &[1.0; 2] };
        let slope = RankingLoss::new(&[2, 4]).of(&batch).unwrap();
        assert!(slope.queries.iter().chain(&slope.positives).all(|v| v.is_finite()));
        assert!((slope.value - 2f64.ln()).abs() < 1e-6);
        for loss in [RankingLoss::new(&[]), RankingLoss::new(&[0]), RankingLoss::new(&[5])] {
            assert!(loss.of(&batch).is_err());
        }
        assert!(RankingLoss::new(&[4]).of(&Batch { mask: &[], ..batch }).is_err());
    }
}

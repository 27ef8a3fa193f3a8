//! The linear adapter: one matrix for queries and documents, trained on frozen embeddings.
//!
//! y = W x with W = I + Δ. Only Δ is trained, from zero, and every step takes a share of it away, so W
//! is drawn to the identity: with nothing to learn the model stays what it was. The pull is strong, for a
//! full matrix has far more values than there are pairs: what batch after batch asks for remains, what
//! single pairs ask for fades. It also makes Δ too short, which α sets right. Nothing is encoded anew:
//! stored vectors are mapped by one matrix product ([`apply`]).
//!
//! How far to go along Δ is chosen on pairs set aside from training: of I + αΔ for a few α, also beyond
//! 1, the one that ranks their positives best, over all rungs of the ladder. Then Δ is trained again on
//! all pairs. The part that the gate judges by has no share in any of this.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::fit::{Schedule, TrainReport, fit};
use super::losses::arithmetic::tensor_error;
use super::losses::{Batch, KnownPositives, Loss, Matryoshka, RankingLoss};
use super::metrics::ndcg;
use super::optimiser::AdamOptions;
use super::rank::rank_exact;
use super::rng::Rng;
use crate::error::{Error, Result};
use crate::options::Task;

/// Pairs as embeddings: row i of `queries` should find row i of `positives`.
#[derive(Debug, Clone, Copy)]
pub struct PairRows<'a> {
    /// n × `dim`.
    pub queries: &'a [f32],
    /// n × `dim`.
    pub positives: &'a [f32],
    /// Identity of each query text ([`query_key`](super::split::query_key)).
    pub query_keys: &'a [u64],
    /// Identity of each positive ([`target_key`](super::split::target_key)).
    pub positive_keys: &'a [u64],
    /// Share of each pair in the loss.
    pub weights: &'a [f32],
    /// Dimensions.
    pub dim: usize,
}

/// How the adapter is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterOptions {
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs in a batch, each the negatives of the others; an eighth of all pairs if that is less.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Pull of W to the identity: the share of Δ that is lost in a step of the highest rate, in 0..1.
    pub pull: f64,
    /// How far to go along Δ; chosen on pairs set aside if it is not given.
    pub alpha: Option<f32>,
    /// Share of the distinct queries on which α is chosen.
    pub set_aside: f64,
    /// Seed of the order of pairs and of what is set aside.
    pub seed: u64,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self { epochs: 15, batch: 512, lr: 2e-3, pull: 0.04, alpha: None, set_aside: 0.15, seed: 0 }
    }
}

/// Steps from the identity (0) to the trained matrix (1) and beyond, among which one is chosen.
const ALPHAS: [f32; 6] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5];
/// With fewer queries set aside than this, the choice is left out and half the way taken.
const LEAST_SET_ASIDE: usize = 20;

/// Batches that an epoch has at least, so that few pairs still make enough steps …
const LEAST_BATCHES: usize = 8;
/// … unless that would leave fewer negatives than this.
const LEAST_BATCH: usize = 16;

/// Trains an adapter. Returns W, `dim` × `dim`, row-major, out × in, and what was done.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other, there are fewer than 2 pairs, or training
/// diverges; [`Error::Cancelled`].
pub fn train_adapter(
    pairs: &PairRows<'_>,
    ladder: &[usize],
    options: &AdapterOptions,
    task: &Task,
) -> Result<(Vec<f32>, TrainReport)> {
    pairs.check(ladder)?;
    let alpha = match options.alpha {
        Some(alpha) => alpha,
        None => found_alpha(pairs, ladder, options, task)?,
    };
    let all: Vec<usize> = (0..pairs.weights.len()).collect();
    let (delta, mut report) = train_delta(pairs, &all, ladder, options, task)?;
    report.notes.push(format!("adapter taken {alpha} times as far from the identity as trained"));
    Ok((towards(&delta, pairs.dim, alpha), report))
}

/// Sets pairs aside, trains Δ on the others and chooses α.
fn found_alpha(pairs: &PairRows<'_>, ladder: &[usize], options: &AdapterOptions, task: &Task) -> Result<f32> {
    let (kept, aside) = pairs.divide(options);
    if distinct(&aside, pairs.query_keys) < LEAST_SET_ASIDE {
        return Ok(0.5);
    }
    let (delta, _) = train_delta(pairs, &kept, ladder, options, task)?;
    choose_alpha(pairs, &aside, ladder, &delta)
}

/// Maps rows by an adapter: y = W x, not normalised. `matrix`: `dim` × `dim`, out × in; `rows`: n × `dim`.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other.
pub fn apply(matrix: &[f32], rows: &[f32], dim: usize) -> Result<Vec<f32>> {
    if dim == 0 || matrix.len() != dim * dim || !rows.len().is_multiple_of(dim) {
        return Err(Error::input(format!(
            "an adapter of {} values does not fit {dim} dimensions",
            matrix.len()
        )));
    }
    let product = || {
        let transposed = Tensor::from_slice(matrix, (dim, dim), &Device::Cpu)?.t()?;
        let mut out = Vec::with_capacity(rows.len());
        for rows in rows.chunks(APPLY_ROWS * dim) {
            let rows = Tensor::from_slice(rows, (rows.len() / dim, dim), &Device::Cpu)?;
            out.extend(rows.matmul(&transposed)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(out)
    };
    product().map_err(tensor_error)
}

/// Rows mapped by one product, to bound the memory it takes.
const APPLY_ROWS: usize = 8192;

impl PairRows<'_> {
    fn check(&self, ladder: &[usize]) -> Result<()> {
        let n = self.weights.len();
        let whole = n.checked_mul(self.dim) == Some(self.queries.len())
            && self.positives.len() == self.queries.len()
            && self.query_keys.len() == n
            && self.positive_keys.len() == n;
        if !whole || ladder.is_empty() || ladder.iter().any(|&rung| rung == 0 || rung > self.dim) {
            return Err(Error::input(format!(
                "training: {n} pairs of {} dimensions do not fit together",
                self.dim
            )));
        }
        if self.weights.iter().any(|w| !w.is_finite() || *w <= 0.0) {
            return Err(Error::input("training: a pair's weight is not a positive number"));
        }
        Ok(())
    }

    /// Divides the pairs by query into those trained on and those set aside.
    fn divide(&self, options: &AdapterOptions) -> (Vec<usize>, Vec<usize>) {
        let stays = |row: &usize| {
            let key = self.query_keys.get(*row).copied().unwrap_or(0);
            Rng::new(key ^ options.seed).below(1 << 20) as f64 >= options.set_aside * f64::from(1 << 20)
        };
        (0..self.weights.len()).partition(stays)
    }

    fn gather(&self, from: &[f32], rows: &[usize]) -> Vec<f32> {
        let row = |&row: &usize| from.get(row * self.dim..(row + 1) * self.dim).unwrap_or_default();
        rows.iter().flat_map(row).copied().collect()
    }
}

fn pick<T: Copy>(from: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().filter_map(|&row| from.get(row).copied()).collect()
}

fn distinct(rows: &[usize], keys: &[u64]) -> usize {
    pick(keys, rows).into_iter().collect::<std::collections::HashSet<_>>().len()
}

/// Trains Δ on some of the pairs.
fn train_delta(
    pairs: &PairRows<'_>,
    subset: &[usize],
    ladder: &[usize],
    options: &AdapterOptions,
    task: &Task,
) -> Result<(Vec<f32>, TrainReport)> {
    let delta = Var::zeros((pairs.dim, pairs.dim), DType::F32, &Device::Cpu).map_err(tensor_error)?;
    let known = KnownPositives::new(pairs.query_keys, pairs.positive_keys);
    let loss = Matryoshka::new(Box::new(RankingLoss::default()), ladder);
    // The optimiser multiplies its decay by the rate; divided by it, the pull is the same at any rate.
    let weight_decay = options.pull / options.lr.max(f64::EPSILON);
    let adam = AdamOptions { rate: options.lr, weight_decay, ..AdamOptions::default() };
    let schedule = Schedule {
        rows: subset.len(),
        epochs: options.epochs,
        batch: options.batch.min((subset.len() / LEAST_BATCHES).max(LEAST_BATCH)),
        seed: options.seed,
        time_budget: None,
    };
    let report = fit(vec![("adapter.weight".into(), delta.clone())], adam, &schedule, task, |batch| {
        let rows = pick(subset, batch);
        let mask = known.mask(&pick(pairs.query_keys, &rows), &pick(pairs.positive_keys, &rows));
        let mut inputs = pairs.gather(pairs.queries, &rows);
        inputs.extend(pairs.gather(pairs.positives, &rows));
        let inputs =
            Tensor::from_vec(inputs, (2 * rows.len(), pairs.dim), &Device::Cpu).map_err(tensor_error)?;
        let mapped = map_rows(&inputs, delta.as_tensor()).map_err(tensor_error)?;
        let (queries, positives) = mapped.split_at(mapped.len() / 2);
        let weights = pick(pairs.weights, &rows);
        let slope = loss.of(&Batch {
            sides: &[queries, positives],
            dim: pairs.dim,
            excluded: &mask,
            weights: &weights,
            ..Batch::default()
        })?;
        let carrier = carrier(&slope.sides.concat(), &inputs, &delta).map_err(tensor_error)?;
        Ok((slope.value, carrier))
    })?;
    let delta = delta.as_tensor().flatten_all().and_then(|d| d.to_vec1()).map_err(tensor_error)?;
    Ok((delta, report))
}

/// (I + Δ) x for each row.
fn map_rows(rows: &Tensor, delta: &Tensor) -> candle_core::Result<Vec<f32>> {
    (rows.matmul(&delta.detach().t()?)? + rows)?.flatten_all()?.to_vec1()
}

/// A scalar whose gradient by Δ is the loss's: the sum of Δ times Gᵀ X, where G holds the derivatives by
/// the mapped rows and X the rows. Spares the gradient by X, which the tensor library would compute.
fn carrier(slope: &[f32], inputs: &Tensor, delta: &Var) -> candle_core::Result<Tensor> {
    let slope = Tensor::from_slice(slope, inputs.shape(), &Device::Cpu)?;
    (delta.as_tensor() * slope.t()?.matmul(inputs)?)?.sum_all()
}

/// I + αΔ.
fn towards(delta: &[f32], dim: usize, alpha: f32) -> Vec<f32> {
    let identity = |at: usize| if at / dim == at % dim { 1.0 } else { 0.0 };
    delta.iter().enumerate().map(|(at, value)| identity(at) + alpha * value).collect()
}

/// The α under which the queries set aside rank their positives best among all positives.
fn choose_alpha(pairs: &PairRows<'_>, aside: &[usize], ladder: &[usize], delta: &[f32]) -> Result<f32> {
    let (mut numbers, mut first_rows) = (HashMap::new(), Vec::new());
    for (row, &key) in pairs.positive_keys.iter().enumerate() {
        numbers.entry(key).or_insert_with(|| {
            first_rows.push(row);
            first_rows.len() as u32 - 1
        });
    }
    let mut judged: HashMap<u64, (usize, HashMap<u32, f64>)> = HashMap::new();
    for &row in aside {
        let keys = pairs.query_keys.get(row).zip(pairs.positive_keys.get(row));
        let Some((query, number)) = keys.and_then(|(q, p)| Some((*q, *numbers.get(p)?))) else { continue };
        judged.entry(query).or_insert_with(|| (row, HashMap::new())).1.insert(number, 1.0);
    }
    let mut judged: Vec<_> = judged.into_values().collect();
    judged.sort_unstable_by_key(|(row, _)| *row);
    let query_rows: Vec<usize> = judged.iter().map(|(row, _)| *row).collect();
    let (queries, documents) =
        (pairs.gather(pairs.queries, &query_rows), pairs.gather(pairs.positives, &first_rows));
    let doc_of_row: Vec<u32> = (0..first_rows.len() as u32).collect();

    let mut best = (f64::NEG_INFINITY, 1.0);
    for alpha in ALPHAS {
        let matrix = towards(delta, pairs.dim, alpha);
        let (queries, documents) =
            (apply(&matrix, &queries, pairs.dim)?, apply(&matrix, &documents, pairs.dim)?);
        let mut score = 0.0;
        for &rung in ladder {
            let ranked = rank_exact(&queries, &documents, &doc_of_row, pairs.dim, rung, 10)?;
            score +=
                ranked.iter().zip(&judged).map(|(ranked, (_, judged))| ndcg(ranked, judged, 10)).sum::<f64>();
        }
        if score > best.0 {
            best = (score, alpha);
        }
    }
    Ok(best.1)
}

#[cfg(test)]
mod tests;

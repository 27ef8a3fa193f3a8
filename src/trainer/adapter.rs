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

use super::fit::{Hooks, Objective, Schedule, TrainReport, fit};
use super::losses::{Batch, KnownPositives, Loss, Matryoshka, RankingLoss, Slope};
use super::metrics::ndcg;
use super::model::Model;
use super::optimiser::AdamOptions;
use super::rank::rank_exact;
use super::rng::Rng;
use crate::encoder::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::kernel::product::{Before, Matrix, product};
use crate::kernel::threads::for_parts;
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
    let mut out = vec![0.0; rows.len()];
    let parts = out.chunks_mut(APPLY_ROWS * dim).zip(rows.chunks(APPLY_ROWS * dim));
    let map = Matrix::new(matrix, dim, dim).t();
    for_parts(
        0,
        parts,
        || (),
        |(), (out, rows)| {
            product(out, dim, Before::Lost, Matrix::new(rows, rows.len() / dim, dim), map, 1.0);
        },
    );
    Ok(out)
}

/// Rows mapped by one product, on one thread.
const APPLY_ROWS: usize = 1024;

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
    // The optimiser multiplies its decay by the rate; divided by it, the pull is the same at any rate.
    let weight_decay = options.pull / options.lr.max(f64::EPSILON);
    let adam = AdamOptions { rate: options.lr, weight_decay, ..AdamOptions::default() };
    let schedule = Schedule {
        rows: subset.len(),
        epochs: options.epochs,
        batch: options.batch.min((subset.len() / LEAST_BATCHES).max(LEAST_BATCH)),
        seed: options.seed,
        ..Schedule::default()
    };
    let mut map = Map::new(pairs);
    let ranking = Ranking {
        pairs,
        subset,
        known: KnownPositives::new(pairs.query_keys, pairs.positive_keys),
        loss: Matryoshka::new(Box::new(RankingLoss::default()), ladder),
    };
    let report = fit(&mut map, &ranking, adam, &schedule, &mut Hooks::default(), task)?;
    Ok((map.delta().to_vec(), report))
}

/// (I + Δ) x, where Δ learns. Texts are rows: first all queries, then all positives.
struct Map<'a> {
    pairs: &'a PairRows<'a>,
    parameters: Parameters,
}

impl<'a> Map<'a> {
    fn new(pairs: &'a PairRows<'a>) -> Self {
        let dim = pairs.dim;
        let delta = Parameter::new("adapter.weight", vec![dim, dim], vec![0.0; dim * dim]);
        Self { pairs, parameters: Parameters::new(vec![delta]) }
    }

    fn delta(&self) -> &[f32] {
        self.parameters.iter().next().map(|delta| delta.values.as_slice()).unwrap_or_default()
    }

    /// The rows of some texts.
    fn rows(&self, texts: &[usize]) -> Vec<f32> {
        let dim = self.pairs.dim;
        let (queries, positives) = (self.pairs.queries, self.pairs.positives);
        let row = |&text: &usize| {
            let start = text * dim;
            let row = match start < queries.len() {
                true => queries.get(start..start + dim),
                false => positives.get(start - queries.len()..start - queries.len() + dim),
            };
            row.unwrap_or_default()
        };
        texts.iter().flat_map(row).copied().collect()
    }

    /// What becomes of rows.
    fn mapped(&self, rows: &[f32]) -> Vec<f32> {
        let dim = self.pairs.dim;
        let mut mapped = rows.to_vec();
        let inputs = Matrix::new(rows, rows.len() / dim, dim);
        product(&mut mapped, dim, Before::Kept, inputs, Matrix::new(self.delta(), dim, dim).t(), 1.0);
        mapped
    }
}

impl Model for Map<'_> {
    /// The rows that were mapped.
    type Tape = Vec<f32>;

    fn dim(&self) -> usize {
        self.pairs.dim
    }

    fn embed(&self, texts: &[usize]) -> Result<Vec<f32>> {
        Ok(self.mapped(&self.rows(texts)))
    }

    fn forward(&self, texts: &[usize]) -> Result<(Vec<f32>, Vec<f32>)> {
        let rows = self.rows(texts);
        Ok((self.mapped(&rows), rows))
    }

    /// Adds Gᵀ X, where G holds the derivatives by the mapped rows and X the rows.
    fn backward(&mut self, rows: Vec<f32>, slope: &[f32]) -> Result<()> {
        let dim = self.pairs.dim;
        let count = rows.len() / dim;
        for delta in self.parameters.iter_mut() {
            if let Some(gradient) = delta.gradient.dense() {
                let slope = Matrix::new(slope, count, dim).t();
                product(gradient, dim, Before::Kept, slope, Matrix::new(&rows, count, dim), 1.0);
            }
        }
        Ok(())
    }

    fn parameters(&mut self) -> &mut Parameters {
        &mut self.parameters
    }
}

/// Queries should find their positives.
struct Ranking<'a> {
    pairs: &'a PairRows<'a>,
    /// The pairs trained on.
    subset: &'a [usize],
    known: KnownPositives,
    loss: Matryoshka,
}

impl Objective for Ranking<'_> {
    fn texts(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let queries = pick(self.subset, rows);
        let positives = queries.iter().map(|pair| pair + self.pairs.weights.len()).collect();
        vec![queries, positives]
    }

    fn slope(&self, rows: &[usize], sides: &[&[f32]]) -> Result<Slope> {
        let pairs = pick(self.subset, rows);
        let of = |keys: &[u64]| pick(keys, &pairs);
        let mask = self.known.mask(&of(self.pairs.query_keys), &of(self.pairs.positive_keys));
        let weights = pick(self.pairs.weights, &pairs);
        let dim = self.pairs.dim;
        self.loss.of(&Batch { sides, dim, excluded: &mask, weights: &weights, ..Batch::default() })
    }
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

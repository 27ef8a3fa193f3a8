//! The linear adapter: one matrix for queries and documents, or for queries alone, trained on frozen embeddings.
//!
//! y = W x with W = I + Δ. Only Δ is trained, from zero, and every step takes a share of it away, so W
//! is drawn to the identity: with nothing to learn the model stays what it was. The pull is strong, for a
//! full matrix has far more values than there are pairs: what batch after batch asks for remains, what
//! single pairs ask for fades. It also makes Δ too short, which α sets right. Nothing is encoded anew:
//! stored vectors are mapped by one matrix product ([`apply`]), or stay what they are where only queries are mapped.
//!
//! How far to go along Δ is chosen on examples set aside from training: of I + αΔ for a few α, also beyond
//! 1, the one under which they come out best, over all rungs of the ladder: by the rank of their positives, of scored pairs
//! by rank correlation, of texts with classes by whether they find their class. Then Δ is trained again on
//! all examples. The part that the gate judges by has no share in any of this.

use std::collections::{HashMap, HashSet};

use super::data::Shape;
use super::examples::{Learning, TrainingSet};
use super::fit::{Hooks, Schedule, TrainReport, fit};
use super::judge::{Classed, RankCorrelation, class_ndcg, cosines};
use super::losses::arithmetic::{add, gathered, product_transposed, transposed_product};
use super::metrics::ndcg;
use super::model::Model;
use super::optimiser::AdamOptions;
use super::rank::rank_exact;
use super::rng::Rng;
use crate::encoder::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::kernel::threads::both;
use crate::options::Task;

/// The embeddings of a training set's texts, for each example its own: the same document may take part with one passage in
/// one example and with another in the next.
#[derive(Debug, Clone, Copy)]
pub struct SideRows<'a> {
    /// Side after side: sides × examples × `dim`.
    pub rows: &'a [f32],
    /// Dimensions.
    pub dim: usize,
}

/// How the adapter is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterOptions {
    /// Passes over the examples.
    pub epochs: usize,
    /// Examples in a batch, each the negatives of the others; an eighth of all if that is less.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Pull of W to the identity: the share of Δ that is lost in a step of the highest rate, in 0..1.
    pub pull: f64,
    /// Whether the first text of each example alone is mapped, and the others stay what they are.
    pub queries_only: bool,
    /// How far to go along Δ; chosen on examples set aside if it is not given.
    pub alpha: Option<f32>,
    /// Share of the distinct first texts on which α is chosen.
    pub set_aside: f64,
    /// Seed of the order of examples and of what is set aside.
    pub seed: u64,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            epochs: 15,
            batch: 512,
            lr: 2e-3,
            pull: 0.04,
            queries_only: false,
            alpha: None,
            set_aside: 0.15,
            seed: 0,
        }
    }
}

impl AdapterOptions {
    /// How the adapter learns from clicks. They cannot choose α: those set aside were made on the pages of the old ranking
    /// and like it best, so that half the way seemed the best where the whole way was. `tools/click-sim` (MiniLM, five
    /// searches for each of 1,554 financial questions, η 0, 1, 2): NDCG@10 .7731, .7681, .7657 with an α chosen by clicks,
    /// .7731, .7728, .7690 with 1, .7721, .7749, .7711 with 1.25, .7701, .7729, .7716 with 1.5; with labels .7807.
    pub fn of_clicks() -> Self {
        Self { alpha: Some(1.25), ..Self::default() }
    }

    /// How an adapter is trained further that learnt from most of the examples before: what was learnt long ago fades, so
    /// that a third of the epochs come to much the same as all of them from the beginning. On four divisions of fin10k
    /// NDCG@10 was .8006, .8129, .7941, .7894, and .7989, .8119, .7930, .7884 from the beginning.
    pub fn further(self) -> Self {
        Self { epochs: self.epochs.div_ceil(3), ..self }
    }
}

/// Lengths beyond the trained matrix (1) that are tried as long as they are better …
const FARTHER: &[f32] = &[1.25, 1.5];
/// … and, if the first is not, those towards the identity (0).
const NEARER: &[f32] = &[0.75, 0.5, 0.25];
/// With fewer texts set aside than this, the choice is left out and half the way taken.
const LEAST_SET_ASIDE: usize = 20;

/// Batches that an epoch has at least, so that few examples still make enough steps …
const LEAST_BATCHES: usize = 8;
/// … unless that would leave fewer negatives than this.
const LEAST_BATCH: usize = 16;

/// A trained adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// W, `dim` × `dim`, row-major, out × in.
    pub matrix: Vec<f32>,
    /// How far it goes along Δ.
    pub alpha: f32,
    /// What was done.
    pub report: TrainReport,
}

/// Trains an adapter. Where α is to be chosen, the training that chooses it goes on beside that on all examples.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other, there are fewer than 2 examples, or training
/// diverges; [`Error::Cancelled`].
pub fn train_adapter(
    rows: SideRows<'_>,
    set: &TrainingSet,
    ladder: &[usize],
    options: &AdapterOptions,
    task: &Task,
) -> Result<Adapter> {
    check(rows, set, ladder)?;
    let job = Job { rows, set, ladder, options, begun: &[] };
    let all: Vec<usize> = (0..set.count()).collect();
    let (trained, alpha) = match options.alpha {
        Some(alpha) => (job.train(&all, task), Ok(alpha)),
        None => both(|| job.train(&all, task), || job.found_alpha(&task.quiet())),
    };
    let ((delta, mut report), alpha) = (trained?, alpha?);
    report.notes.push(format!("adapter taken {alpha} times as far from the identity as trained"));
    Ok(Adapter { matrix: towards(&delta, rows.dim, alpha), alpha, report })
}

/// Trains an adapter [further](AdapterOptions::further), on examples of which it has seen most, and goes as far along Δ as it
/// did.
///
/// # Errors
/// As [`train_adapter`].
pub fn train_adapter_further(
    adapter: Adapter,
    rows: SideRows<'_>,
    set: &TrainingSet,
    ladder: &[usize],
    options: &AdapterOptions,
    task: &Task,
) -> Result<Adapter> {
    check(rows, set, ladder)?;
    let Adapter { matrix, alpha, report: mut before } = adapter;
    if matrix.len() != rows.dim * rows.dim {
        return Err(Error::input(format!(
            "training: {} values are no adapter of {} dimensions",
            matrix.len(),
            rows.dim
        )));
    }
    let begun = along(&matrix, rows.dim, alpha);
    let options = options.further();
    let all: Vec<usize> = (0..set.count()).collect();
    let job = Job { rows, set, ladder, options: &options, begun: &begun };
    let (delta, further) = job.train(&all, task)?;
    before.extend(further);
    Ok(Adapter { matrix: towards(&delta, rows.dim, alpha), alpha, report: before })
}

fn check(rows: SideRows<'_>, set: &TrainingSet, ladder: &[usize]) -> Result<()> {
    let texts = set.sides().len() * set.count();
    let whole = rows.dim > 0 && texts.checked_mul(rows.dim) == Some(rows.rows.len());
    if whole && !ladder.is_empty() && ladder.iter().all(|&rung| rung > 0 && rung <= rows.dim) {
        return Ok(());
    }
    Err(Error::input(format!(
        "training: {} values are no rows of {} dimensions for {texts} texts, or do not fit the ladder {ladder:?}",
        rows.rows.len(),
        rows.dim
    )))
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
    Ok(product_transposed(rows, matrix, dim))
}

/// What is trained on what.
struct Job<'a> {
    rows: SideRows<'a>,
    set: &'a TrainingSet,
    ladder: &'a [usize],
    options: &'a AdapterOptions,
    /// The Δ to begin with; empty: zero.
    begun: &'a [f32],
}

impl Job<'_> {
    /// Sets examples aside, trains Δ on the others and chooses α.
    fn found_alpha(&self, task: &Task) -> Result<f32> {
        let (kept, aside) = self.divide();
        let keys: HashSet<u64> = aside.iter().map(|&example| self.key(0, example)).collect();
        if keys.len() < LEAST_SET_ASIDE {
            return Ok(0.5);
        }
        let (delta, _) = self.train(&kept, task)?;
        let score = |alpha| self.score(&aside, &towards(&delta, self.rows.dim, alpha));
        let mut best = (score(1.0)?, 1.0);
        for side in [FARTHER, NEARER] {
            for &alpha in side {
                let score = score(alpha)?;
                if score <= best.0 {
                    break;
                }
                best = (score, alpha);
            }
            if best.1 != 1.0 {
                break;
            }
        }
        Ok(best.1)
    }

    /// Divides the examples by their first text into those trained on and those set aside.
    fn divide(&self) -> (Vec<usize>, Vec<usize>) {
        let stays = |&example: &usize| {
            let mut rng = Rng::new(self.key(0, example) ^ self.options.seed);
            rng.below(1 << 20) as f64 >= self.options.set_aside * f64::from(1 << 20)
        };
        (0..self.set.count()).partition(stays)
    }

    fn key(&self, side: usize, example: usize) -> u64 {
        self.set.keys().get(side).and_then(|keys| keys.get(example)).copied().unwrap_or_default()
    }

    /// Trains Δ on some of the examples.
    fn train(&self, examples: &[usize], task: &Task) -> Result<(Vec<f32>, TrainReport)> {
        let options = self.options;
        // The optimiser multiplies its decay by the rate; divided by it, the pull is the same at any rate.
        let weight_decay = options.pull / options.lr.max(f64::EPSILON);
        let adam = AdamOptions { rate: options.lr, weight_decay, ..AdamOptions::default() };
        let schedule = Schedule {
            rows: examples.len(),
            epochs: options.epochs,
            batch: options.batch.min((examples.len() / LEAST_BATCHES).max(LEAST_BATCH)),
            seed: options.seed,
            ..Schedule::default()
        };
        let mapped = if options.queries_only { self.set.count() } else { usize::MAX };
        let mut map = Map::new(self.rows, mapped, self.begun);
        let learning = Learning {
            set: self.set,
            examples,
            loss: self.set.loss(self.ladder),
            by_example: true,
            dim: self.rows.dim,
            guide: (self.rows.rows, self.rows.dim),
        };
        let report = fit(&mut map, &learning, adam, &schedule, &mut Hooks::default(), task)?;
        Ok((map.delta().to_vec(), report))
    }

    /// Rows of one side's examples, mapped.
    fn mapped(&self, side: usize, examples: &[usize], matrix: &[f32]) -> Result<Vec<f32>> {
        let dim = self.rows.dim;
        let texts: Vec<usize> = examples.iter().map(|example| side * self.set.count() + example).collect();
        let rows = gathered(self.rows.rows, &texts, dim);
        if side > 0 && self.options.queries_only { Ok(rows) } else { apply(matrix, &rows, dim) }
    }

    /// How well examples come out under an adapter, summed over the rungs; larger is better.
    fn score(&self, aside: &[usize], matrix: &[f32]) -> Result<f64> {
        match self.set.shape() {
            Shape::Pairs | Shape::Triplets => self.ranking(aside, matrix),
            Shape::Scored => self.correlation(aside, matrix),
            Shape::Classes => self.classes(aside, matrix),
        }
    }

    /// NDCG@10 of the positives among all positives. Examples of little weight, such as clicks that were hardly meant, grade
    /// and count little.
    fn ranking(&self, aside: &[usize], matrix: &[f32]) -> Result<f64> {
        let (mut numbers, mut firsts) = (HashMap::new(), Vec::new());
        for example in 0..self.set.count() {
            numbers.entry(self.key(1, example)).or_insert_with(|| {
                firsts.push(example);
                firsts.len() as u32 - 1
            });
        }
        let mut judged: HashMap<u64, (usize, HashMap<u32, f64>)> = HashMap::new();
        for &example in aside {
            let Some(&number) = numbers.get(&self.key(1, example)) else { continue };
            let query = judged.entry(self.key(0, example)).or_insert_with(|| (example, HashMap::new()));
            let grade: &mut f64 = query.1.entry(number).or_default();
            *grade = grade.max(self.set.weight(example));
        }
        let mut judged: Vec<_> = judged.into_values().collect();
        judged.sort_unstable_by_key(|(example, _)| *example);
        let asked: Vec<usize> = judged.iter().map(|(example, _)| *example).collect();
        let (queries, documents) = (self.mapped(0, &asked, matrix)?, self.mapped(1, &firsts, matrix)?);
        let numbers: Vec<u32> = (0..firsts.len() as u32).collect();
        let mut score = 0.0;
        for &rung in self.ladder {
            let ranked = rank_exact(&queries, &documents, &numbers, self.rows.dim, rung, 10)?;
            let of = |(ranked, (_, grades)): (&Vec<u32>, &(usize, HashMap<u32, f64>))| {
                let most = grades.values().copied().fold(0.0, f64::max);
                most * ndcg(ranked, grades, 10)
            };
            score += ranked.iter().zip(&judged).map(of).sum::<f64>();
        }
        Ok(score)
    }

    /// Rank correlation of cosines and scores.
    fn correlation(&self, aside: &[usize], matrix: &[f32]) -> Result<f64> {
        let (a, b) = (self.mapped(0, aside, matrix)?, self.mapped(1, aside, matrix)?);
        let score = |&example: &usize| self.set.targets(example).first().map_or(0.0, |&s| f64::from(s));
        let scores: Vec<f64> = aside.iter().map(score).collect();
        let of = |&rung: &usize| {
            Ok(RankCorrelation::new(&cosines(&a, &b, self.rows.dim, rung)?, &scores)?.whole())
        };
        self.ladder.iter().map(of).sum()
    }

    /// NDCG@10 of the other texts of the class among all texts.
    fn classes(&self, aside: &[usize], matrix: &[f32]) -> Result<f64> {
        let all: Vec<usize> = (0..self.set.count()).collect();
        let (queries, texts) = (self.mapped(0, aside, matrix)?, self.mapped(0, &all, matrix)?);
        let class = |&example: &usize| self.set.classes().get(example).copied().unwrap_or_default();
        let asked: Vec<u32> = aside.iter().map(class).collect();
        let asked = Classed { rows: &queries, classes: &asked };
        let texts = Classed { rows: &texts, classes: self.set.classes() };
        let own: Vec<Option<usize>> = aside.iter().copied().map(Some).collect();
        let of = |&rung: &usize| {
            Ok(class_ndcg(asked, texts, &own, (self.rows.dim, rung), 10)?.iter().sum::<f64>())
        };
        self.ladder.iter().map(of).sum()
    }
}

/// (I + Δ) x, where Δ learns. Texts are rows.
struct Map<'a> {
    inputs: SideRows<'a>,
    /// So many of the rows are mapped, from the first; the others stay what they are.
    mapped: usize,
    parameters: Parameters,
}

impl<'a> Map<'a> {
    fn new(inputs: SideRows<'a>, mapped: usize, begun: &[f32]) -> Self {
        let dim = inputs.dim;
        let values = if begun.is_empty() { vec![0.0; dim * dim] } else { begun.to_vec() };
        let delta = Parameter::new("adapter.weight", vec![dim, dim], values);
        Self { inputs, mapped, parameters: Parameters::new(vec![delta]) }
    }

    fn delta(&self) -> &[f32] {
        self.parameters.iter().next().map(|delta| delta.values.as_slice()).unwrap_or_default()
    }

    /// What becomes of the rows of some texts, and what Δ takes of them: zeros of those that are not mapped.
    fn map(&self, texts: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let dim = self.inputs.dim;
        let mut mapped = gathered(self.inputs.rows, texts, dim);
        let mut taken = mapped.clone();
        for (row, _) in taken.chunks_exact_mut(dim).zip(texts).filter(|(_, text)| **text >= self.mapped) {
            row.fill(0.0);
        }
        add(&mut mapped, &product_transposed(&taken, self.delta(), dim));
        (mapped, taken)
    }
}

impl Model for Map<'_> {
    /// What Δ took.
    type Tape = Vec<f32>;

    fn dim(&self) -> usize {
        self.inputs.dim
    }

    fn embed(&self, texts: &[usize]) -> Result<Vec<f32>> {
        Ok(self.map(texts).0)
    }

    fn forward(&self, texts: &[usize]) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok(self.map(texts))
    }

    /// Adds Gᵀ X, where G holds the derivatives by the mapped rows and X what Δ took.
    fn backward(&mut self, rows: Vec<f32>, slope: &[f32]) -> Result<()> {
        let dim = self.inputs.dim;
        for delta in self.parameters.iter_mut() {
            if let Some(gradient) = delta.gradient.dense() {
                add(gradient, &transposed_product(slope, &rows, dim));
            }
        }
        Ok(())
    }

    fn parameters(&mut self) -> &mut Parameters {
        &mut self.parameters
    }
}

/// I + αΔ.
fn towards(delta: &[f32], dim: usize, alpha: f32) -> Vec<f32> {
    delta.iter().enumerate().map(|(at, value)| identity(at, dim) + alpha * value).collect()
}

/// The Δ of I + αΔ.
fn along(matrix: &[f32], dim: usize, alpha: f32) -> Vec<f32> {
    let inverse = if alpha == 0.0 { 0.0 } else { 1.0 / alpha };
    matrix.iter().enumerate().map(|(at, value)| (value - identity(at, dim)) * inverse).collect()
}

/// A value of the identity.
fn identity(at: usize, dim: usize) -> f32 {
    if at / dim == at % dim { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests;

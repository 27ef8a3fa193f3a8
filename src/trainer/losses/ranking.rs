//! Multiple negatives ranking: in a batch every query must prefer its own positive to everything else.
//!
//! Of n queries with a positive each, and any number of hard negatives, each query has its positive as answer and all
//! other documents of the batch as negatives: cross entropy over cosines times a scale (Henderson et al.: Efficient
//! Natural Language Response Suggestion, 2017, arXiv:1705.00652; InfoNCE: van den Oord et al., 2018, arXiv:1807.03748).
//! Three things may be added:
//! - *both ways*: each positive must also prefer its query to the other queries, and the mean of both counts;
//! - *more negatives*: the other queries stand against the positive too, or the other positives against the query (Li et
//!   al.: Towards General Text Embeddings, 2023, arXiv:2308.03281);
//! - a *guide* that says which negatives are false ([`Margin`]). With both kinds of further negatives, scale 100 and no
//!   margin this is GISTEmbed ([`RankingLoss::guided`]).
//!
//! What is left out gets the probability 0 exactly, for values near the smallest float would slow the backward pass by an
//! order of magnitude. A document known to answer a query is none of its negatives ([`Batch::excluded`]); then the two
//! queries, and the two positives, are none of each other's either.

use super::arithmetic::{add, largest, product, product_transposed, sum, transposed_product};
use super::guide::{Margin, Opinion};
use super::{Batch, Loss, Slope};
use crate::error::{Error, Result};
use crate::kernel::exp::exp_negative;

/// Factor on the cosines that is used throughout: temperature 0.05.
pub const SCALE: f32 = 20.0;

/// Multiple negatives ranking loss. Sides: queries, positives, then any number of negatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankingLoss {
    /// Factor on the cosines: the inverse of the temperature.
    pub scale: f32,
    /// Whether positives must find their queries as well.
    pub symmetric: bool,
    /// Whether the other queries are negatives too.
    pub against_queries: bool,
    /// Whether the other positives are negatives of the positive too.
    pub against_positives: bool,
    /// Whether a guide says which negatives count, and how sure of them it has to be.
    pub guided: Option<Margin>,
}

impl Default for RankingLoss {
    fn default() -> Self {
        Self {
            scale: SCALE,
            symmetric: false,
            against_queries: false,
            against_positives: false,
            guided: None,
        }
    }
}

impl RankingLoss {
    /// Both ways.
    pub fn symmetric() -> Self {
        Self { symmetric: true, ..Self::default() }
    }

    /// With a guide, and all negatives of a batch.
    pub fn guided(margin: Margin) -> Self {
        Self {
            scale: 100.0,
            against_queries: true,
            against_positives: true,
            guided: Some(margin),
            ..Self::default()
        }
    }
}

impl Loss for RankingLoss {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(2..=usize::MAX)?;
        let n = batch.count();
        let documents = n * (batch.sides.len() - 1);
        if !(batch.excluded.is_empty() || batch.excluded.len() == n * documents) {
            return Err(Error::input("training: the mask of known positives does not fit its batch"));
        }
        let opinion = self.guided.map(|margin| Opinion::new(batch, margin)).transpose()?;
        let (queries, others) = batch.sides.split_at(1);
        let (queries, others) = (batch.units(queries), batch.units(others));
        let positives = others.values.get(..n * batch.dim).unwrap_or_default();

        let mut blocks = vec![Block {
            cosines: product_transposed(&queries.values, &others.values, batch.dim),
            excluded: joined(batch.excluded, n * documents, opinion.as_ref().map(Opinion::of_documents)),
        }];
        let known = square(batch.excluded, n, documents);
        let more = [
            (self.against_queries, queries.values.as_slice(), Opinion::among_queries as Among),
            (self.against_positives, positives, Opinion::among_positives as Among),
        ];
        for (wanted, rows, among) in more {
            if wanted {
                let guided = opinion.as_ref().map(among);
                let mut excluded = joined(&known, n * n, guided);
                excluded.iter_mut().step_by(n + 1).for_each(|own| *own = true);
                blocks.push(Block { cosines: product_transposed(rows, rows, batch.dim), excluded });
            }
        }
        let mut turned = self.symmetric.then(|| Block {
            cosines: transposed(&square(&blocks[0].cosines, n, documents), n),
            excluded: joined(&transposed(&known, n), n * n, opinion.as_ref().map(Opinion::of_positives)),
        });

        let ways = if self.symmetric { 0.5 } else { 1.0 };
        let mut slope = batch.level();
        slope.value = ways * self.cross_entropy(&mut blocks, ways, batch);
        if let Some(block) = &mut turned {
            slope.value += ways * self.cross_entropy(std::slice::from_mut(block), ways, batch);
            add_turned(&mut blocks[0].cosines, &block.cosines, n, documents);
        }

        let mut blocks = blocks.iter().map(|block| block.cosines.as_slice());
        let pull = blocks.next().unwrap_or_default();
        let mut by_queries = product(pull, &others.values, batch.dim);
        let mut by_others = transposed_product(pull, &queries.values, batch.dim);
        if let Some(pull) = self.against_queries.then(|| blocks.next()).flatten() {
            add(&mut by_queries, &product(&folded(pull, n), &queries.values, batch.dim));
        }
        if let Some(pull) = self.against_positives.then(|| blocks.next()).flatten() {
            add(&mut by_others, &product(&folded(pull, n), positives, batch.dim));
        }
        if let Some((first, rest)) = slope.sides.split_first_mut() {
            queries.backward(&by_queries, 1.0, batch.dim, first);
            let mut flat = vec![0.0; by_others.len()];
            others.backward(&by_others, 1.0, batch.dim, &mut flat);
            rest.iter_mut().zip(flat.chunks_exact(n * batch.dim)).for_each(|(side, part)| add(side, part));
        }
        Ok(slope)
    }
}

type Among = fn(&Opinion) -> Vec<bool>;

/// Candidates of all rows: n × m.
struct Block {
    /// Cosines, and after [`RankingLoss::cross_entropy`] the derivative by each.
    cosines: Vec<f32>,
    /// What is no candidate.
    excluded: Vec<bool>,
}

impl RankingLoss {
    /// Turns the cosines of blocks, which compete with each other, into the derivatives of the loss by them; returns the
    /// loss. The first block has each row's own positive on its diagonal. `share`: the factor on the derivatives.
    fn cross_entropy(&self, blocks: &mut [Block], share: f64, batch: &Batch<'_>) -> f64 {
        let n = batch.count();
        let weights = batch.total_weight();
        let mut value = 0.0;
        for row in 0..n {
            let mut most = f32::NEG_INFINITY;
            let mut own = 0.0;
            for (number, block) in blocks.iter_mut().enumerate() {
                let columns = block.cosines.len() / n;
                let range = row * columns..(row + 1) * columns;
                let (Some(logits), Some(excluded)) =
                    (block.cosines.get_mut(range.clone()), block.excluded.get_mut(range))
                else {
                    continue;
                };
                if number == 0 {
                    own = logits.get(row).map_or(0.0, |cosine| cosine * self.scale);
                    excluded.iter_mut().skip(row).take(1).for_each(|own| *own = false);
                }
                for (logit, &excluded) in logits.iter_mut().zip(excluded.iter()) {
                    *logit = if excluded { f32::NEG_INFINITY } else { *logit * self.scale };
                }
                most = most.max(largest(logits));
            }
            let mut total = 0.0;
            let rows = |block: &mut Block| {
                let columns = block.cosines.len() / n;
                row * columns..(row + 1) * columns
            };
            for block in blocks.iter_mut() {
                let range = rows(block);
                let logits = block.cosines.get_mut(range).unwrap_or_default();
                logits.iter_mut().for_each(|logit| *logit = exp_negative(*logit - most));
                total += sum(logits);
            }
            let weight = batch.weight(row) / weights;
            value += weight * (total.ln() + f64::from(most) - f64::from(own));
            let pull = share * weight * f64::from(self.scale);
            let factor = (pull / total) as f32;
            for (number, block) in blocks.iter_mut().enumerate() {
                let range = rows(block);
                let slopes = block.cosines.get_mut(range).unwrap_or_default();
                slopes.iter_mut().for_each(|probability| *probability *= factor);
                if let Some(own) = slopes.get_mut(row).filter(|_| number == 0) {
                    *own -= pull as f32;
                }
            }
        }
        value
    }
}

/// What the data and the guide leave out, together.
fn joined(known: &[bool], len: usize, guided: Option<Vec<bool>>) -> Vec<bool> {
    let mut all = if known.len() == len { known.to_vec() } else { vec![false; len] };
    for (known, guided) in all.iter_mut().zip(guided.unwrap_or_default()) {
        *known |= guided;
    }
    all
}

/// The first n columns of n rows; nothing of nothing.
fn square<T: Copy>(rows: &[T], n: usize, columns: usize) -> Vec<T> {
    rows.chunks_exact(columns.max(1)).flat_map(|row| row.iter().take(n).copied()).collect()
}

/// An n × n matrix, turned; nothing of nothing.
fn transposed<T: Copy>(matrix: &[T], n: usize) -> Vec<T> {
    (0..matrix.len()).filter_map(|at| matrix.get(at % n * n + at / n).copied()).collect()
}

/// Adds a turned n × n matrix to the first n columns of another.
fn add_turned(to: &mut [f32], turned: &[f32], n: usize, columns: usize) {
    for (i, row) in to.chunks_exact_mut(columns.max(1)).enumerate() {
        for (j, to) in row.iter_mut().take(n).enumerate() {
            *to += turned.get(j * n + i).copied().unwrap_or_default();
        }
    }
}

/// A matrix plus itself turned: both of two rows are moved by their cosine.
fn folded(matrix: &[f32], n: usize) -> Vec<f32> {
    let mut sum = matrix.to_vec();
    add_turned(&mut sum, matrix, n, n);
    sum
}

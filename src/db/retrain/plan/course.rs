//! What a run does how often, and how much work that is.
//!
//! Work is counted in operations on numbers. How long one takes is measured on the sample, so that only the relations of
//! what is counted here matter.

use std::collections::HashSet;

use super::super::guard::GUARD_DOCUMENTS;
use super::super::{FOLDS, LEAST_PAIRS, MOST_DOCUMENTS, Method, Run};
use super::PlannedSeconds;
use super::probe::{Encoding, Indexing, Sample, Training};
use crate::trainer::{AdapterOptions, Split};

/// What a run does that the gate passes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Course {
    /// Examples of each adapter that is trained, and its length chosen.
    pub adapters: Vec<usize>,
    /// Examples of the one that is trained further and goes as far as was judged; none: 0.
    pub further: usize,
    /// Whether the encoder learns.
    pub encoder: bool,
    /// Rankings of queries at all rungs, before and after counted each.
    pub ranked: usize,
    /// Rankings of the guard's queries at the full dimension.
    pub guarded: usize,
    /// Times that the corpus is mapped by an adapter.
    pub mapped: usize,
    /// Queries whose gains are resampled.
    pub resampled: usize,
}

/// Dimensions of an adapter's training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Texts of an example.
    pub sides: usize,
    pub dim: usize,
    /// All rungs together.
    pub rungs: usize,
}

impl Course {
    pub fn of(run: &Run<'_>, split: &Split) -> Self {
        let (train, all) = (split.train.len(), run.material.examples.len());
        let (held_out, guard) = (split.held_out_queries, run.guards());
        let adapter = match run.options.method {
            Method::Full | Method::Lora => {
                return Self {
                    adapters: Vec::new(),
                    further: 0,
                    encoder: true,
                    ranked: 2 * held_out,
                    guarded: 2 * guard,
                    mapped: 0,
                    resampled: held_out,
                };
            }
            _ if run.crosses(split) => {
                let queries = run.queries();
                let mut adapters = vec![all - all / FOLDS; FOLDS];
                adapters.push(all);
                Self {
                    adapters,
                    further: 0,
                    encoder: false,
                    ranked: 2 * queries,
                    guarded: 2 * guard,
                    mapped: FOLDS + 1,
                    resampled: queries,
                }
            }
            _ => Self {
                adapters: vec![train],
                further: if train < all { all } else { 0 },
                encoder: false,
                ranked: 2 * held_out,
                guarded: if train < all { 3 } else { 2 } * guard,
                mapped: if train < all { 2 } else { 1 },
                resampled: held_out,
            },
        };
        let goes_on = run.tries_encoder()
            && train >= LEAST_PAIRS
            && run.corpus.documents.len() as u64 <= MOST_DOCUMENTS
            && run.encoder.check_trainable().is_ok();
        if !goes_on {
            return adapter;
        }
        // The adapter judged beside the encoder, and then the encoder, take the place of one with all pairs.
        let mut best = adapter;
        best.further = 0;
        best.adapters.push(train);
        best.encoder = true;
        best.ranked += 4 * held_out;
        best.guarded += 2 * guard;
        best.resampled += 2 * held_out;
        best
    }
}

impl Run<'_> {
    /// Dimensions of an adapter's training.
    pub(super) fn shape(&self) -> Shape {
        let sides = self.material.examples.iter().map(|example| example.texts.len()).max().unwrap_or(0);
        let rungs = self.ladder.iter().sum();
        Shape { sides: sides.max(2) + self.options.hard_negatives, dim: self.encoder.dim(), rungs }
    }

    /// Distinct queries.
    fn queries(&self) -> usize {
        match self.searched.len() {
            0 => {
                let keys = self.material.examples.iter().filter_map(|example| example.keys.first());
                keys.collect::<HashSet<_>>().len()
            }
            searched => searched,
        }
    }

    /// Queries of the guard.
    fn guards(&self) -> usize {
        let documents = self.corpus.documents.len();
        documents.div_ceil(documents.div_ceil(GUARD_DOCUMENTS).max(1))
    }

    /// Operations of ranking some queries at these dimensions in all.
    pub(super) fn ranking(&self, queries: usize, dims: usize) -> f64 {
        2.0 * queries as f64 * self.corpus.document_of.len() as f64 * dims as f64
    }

    /// Operations of mapping the corpus.
    pub(super) fn mapping(&self) -> f64 {
        2.0 * self.corpus.rows.len() as f64 * self.encoder.dim() as f64
    }

    /// The time of each stage.
    pub(super) fn predicted(
        &self,
        course: &Course,
        sample: &Sample,
        encoding: &Encoding,
        training: Option<&Training>,
        indexing: &Indexing,
    ) -> PlannedSeconds {
        let (shape, options) = (self.shape(), self.adapter_options());
        let chosen = options.alpha.is_none();
        let adapters = course.adapters.iter().map(|&n| adapter_work(n, shape, &options, chosen));
        let further = adapter_work(course.further, shape, &options.further(), false);
        let mut train = (adapters.sum::<f64>() + further) * sample.training;
        let judging = self.ranking(course.ranked, shape.rungs)
            + self.ranking(course.guarded, shape.dim)
            + course.mapped as f64 * self.mapping();
        let mut judge = judging * sample.judging + course.resampled as f64 * sample.resampling;
        let mut encode = sample.encoded + self.guards() as f64 * encoding.query;
        if let Some(training) = training {
            let after = AdapterOptions { seed: options.seed, ..AdapterOptions::default() };
            let after = adapter_work(training.pairs, shape, &after, false) * sample.training;
            let learning = match self.options.time_budget {
                Some(budget) => training.steps.min(budget.as_secs_f64()),
                None => training.steps,
            };
            train += training.fixed + training.passes + learning + after;
            let queries = course.ranked / 2 + course.guarded / 2;
            judge += queries as f64 * encoding.query;
            encode += self.corpus.stored_rows() as f64 * encoding.row;
        }
        let read = sample.read;
        PlannedSeconds { read, encode, train, judge, reindex: indexing.seconds, total: 0.0 }.summed()
    }
}

/// Operations of training an adapter on so many examples; `chosen`: whether its length is chosen, which takes a training of
/// its own on those that are not set aside.
pub(super) fn adapter_work(examples: usize, shape: Shape, options: &AdapterOptions, chosen: bool) -> f64 {
    let Shape { sides, dim, rungs } = shape;
    let square = (dim * dim) as f64;
    let fit = |examples: f64| {
        let batch = (options.batch as f64).min((examples / 8.0).floor().max(16.0));
        let mapped = 4.0 * sides as f64 * square;
        let compared = 6.0 * batch * (sides.max(2) - 1) as f64 * rungs as f64;
        let steps = (examples / batch).ceil();
        options.epochs as f64 * (examples * (mapped + compared) + 20.0 * steps * square)
    };
    let examples = examples as f64;
    if !chosen {
        return fit(examples);
    }
    let aside = options.set_aside * examples;
    // Three lengths are tried, or one or two more.
    let choice = 3.0 * (2.0 * examples * square + 2.0 * aside * examples * rungs as f64);
    fit(examples) + fit(examples - aside) + choice
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { sides: 2, dim: 128, rungs: 192 };

    #[test]
    fn an_adapters_work_grows_with_all_that_it_depends_on() {
        let options = AdapterOptions::default();
        let work = |n| adapter_work(n, SHAPE, &options, true);
        // As long as batches grow with the examples, faster than they; then about as fast.
        assert!(work(2000) > 2.0 * work(1000) && work(2000) < 4.0 * work(1000));
        assert!(work(1000) > 1.5 * adapter_work(1000, SHAPE, &options, false));
        let twice = AdapterOptions { epochs: 2 * options.epochs, ..options };
        let (once, twice) =
            (adapter_work(1000, SHAPE, &options, false), adapter_work(1000, SHAPE, &twice, false));
        assert_eq!(2.0 * once, twice);
        assert!(adapter_work(1000, Shape { dim: 256, ..SHAPE }, &options, false) > 1.5 * once);
        assert!(adapter_work(1000, Shape { sides: 3, ..SHAPE }, &options, false) > 1.3 * once);
        assert!(adapter_work(0, SHAPE, &options, true) == 0.0);
    }
}

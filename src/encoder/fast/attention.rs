//! Self-attention of one text: softmax(Q·Kᵀ)·V for each head, in blocks of rows whose scores stay in the first cache.
//!
//! Queries come multiplied by log₂e/√d, so that scores are exponents of two.

use super::buffer::Buffer;
use super::kernel::{Kernels, PANEL, Panel, Rows};
use super::linear::padded;
use crate::encoder::family::BertConfig;

/// Rows of a block: two of the widest product's.
const ROWS: usize = 28;

/// Dimensions of attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    pub(super) count: usize,
}

/// What is added to scores by head and distance, as in MPNet.
pub(in crate::encoder) struct DistanceBias {
    /// Heads × distances from −`reach` to `reach`: exponents of two.
    table: Vec<f32>,
    /// Tokens apart at most: all that a text has.
    reach: usize,
}

impl DistanceBias {
    /// `values`: classes of distances × heads. What is made of them takes no more than twice the table of positions.
    pub(in crate::encoder) fn new(config: &BertConfig, values: &[f32]) -> Self {
        let reach = config.tokens() - 1;
        let distances = |head: usize| {
            (0..2 * reach + 1).map(move |at| {
                let class = config.distance(at as isize - reach as isize);
                values[class * config.heads + head] * std::f32::consts::LOG2_E
            })
        };
        Self { table: (0..config.heads).flat_map(distances).collect(), reach }
    }

    /// Adds to the scores of one query, the token of this number, with all tokens of its text.
    pub(in crate::encoder) fn add(&self, head: usize, query: usize, scores: &mut [f32]) {
        let start = head * (2 * self.reach + 1) + self.reach - query;
        scores.iter_mut().zip(&self.table[start..]).for_each(|(score, bias)| *score += bias);
    }

    /// Adds to the scores of queries from `first` on; rows of scores are `columns` apart.
    pub(super) fn add_all(
        &self,
        head: usize,
        first: usize,
        scores: &mut [f32],
        columns: usize,
        tokens: usize,
    ) {
        for (query, row) in (first..tokens).zip(scores.chunks_exact_mut(columns)) {
            self.add(head, query, &mut row[..tokens]);
        }
    }
}

/// Room for one head of one text.
#[derive(Default)]
pub(super) struct AttentionScratch {
    /// Keys as panels: columns are tokens.
    keys: Buffer<f32>,
    /// Values as panels: columns are dimensions.
    values: Buffer<f32>,
    /// Rows of a block × tokens.
    scores: Buffer<f32>,
    /// Rows of a block × dimensions.
    context: Buffer<f32>,
}

impl Heads {
    /// Dimensions of a head.
    pub(super) fn dim(self) -> usize {
        self.hidden / self.count
    }

    /// Attends within one text. `states`: rows of queries, keys and values, `hidden` each; `out`: rows of `hidden`.
    pub(super) fn attend(
        self,
        kernels: &Kernels,
        states: Rows<'_>,
        bias: Option<&DistanceBias>,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        stride: usize,
    ) {
        for head in 0..self.count {
            let at = head * self.dim();
            scratch.pack_keys(states, self.hidden + at, self.dim());
            scratch.pack_values(states, 2 * self.hidden + at, self.dim());
            for start in (0..states.count).step_by(ROWS) {
                let count = ROWS.min(states.count - start);
                let values = &states.values[start * states.stride + at..];
                let queries = Rows { values, stride: states.stride, count };
                let out = &mut out[start * stride + at..];
                scratch.score(kernels, queries, states.count, self.dim());
                if let Some(bias) = bias {
                    bias.add_all(head, start, &mut scratch.scores, padded(states.count), states.count);
                }
                scratch.weigh(kernels, count, states.count, self.dim(), out, stride);
            }
        }
    }
}

impl AttentionScratch {
    /// Panels × dimensions × tokens. Tokens of the last panel that are not there keep what was there before: their
    /// scores are not read.
    fn pack_keys(&mut self, states: Rows<'_>, at: usize, dim: usize) {
        self.keys.at_least(padded(states.count) * dim);
        let rows = states.values.chunks(states.stride).take(states.count);
        for (token, row) in rows.enumerate() {
            let panel = &mut self.keys[token / PANEL * PANEL * dim..][..PANEL * dim];
            for (column, &value) in panel.chunks_exact_mut(PANEL).zip(&row[at..at + dim]) {
                column[token % PANEL] = value;
            }
        }
    }

    /// Panels × tokens × dimensions.
    fn pack_values(&mut self, states: Rows<'_>, at: usize, dim: usize) {
        let count = states.count;
        self.values.at_least(padded(dim) * count);
        for first in (0..dim).step_by(PANEL) {
            let width = PANEL.min(dim - first);
            let panel = &mut self.values[first * count..][..PANEL * count];
            for (target, row) in panel.chunks_exact_mut(PANEL).zip(states.values.chunks(states.stride)) {
                target[..width].copy_from_slice(&row[at + first..][..width]);
                target[width..].fill(0.0);
            }
        }
    }

    /// Scores of one block of queries with all `tokens`.
    fn score(&mut self, kernels: &Kernels, queries: Rows<'_>, tokens: usize, dim: usize) {
        let columns = padded(tokens);
        self.scores.at_least(ROWS * columns);
        for first in (0..columns).step_by(PANEL) {
            let panel = Panel { values: &self.keys[first * dim..][..PANEL * dim], inputs: dim, bias: &[] };
            (kernels.product)(queries, panel, &mut self.scores[first..], columns);
        }
    }

    /// What `count` rows of scores make of the values.
    fn weigh(
        &mut self,
        kernels: &Kernels,
        count: usize,
        tokens: usize,
        dim: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let (columns, width) = (padded(tokens), padded(dim));
        self.context.at_least(ROWS * width);
        let mut sums = [0.0; ROWS];
        for (sum, scores) in sums.iter_mut().zip(self.scores.chunks_exact_mut(columns)).take(count) {
            *sum = (kernels.softmax)(scores, tokens);
        }
        let shares = Rows { values: &self.scores, stride: columns, count };
        for first in (0..width).step_by(PANEL) {
            let values = &self.values[first * tokens..][..PANEL * tokens];
            let panel = Panel { values, inputs: tokens, bias: &[] };
            (kernels.product)(shares, panel, &mut self.context[first..], width);
        }
        let rows = self.context.chunks_exact(width).zip(out.chunks_mut(stride)).zip(sums);
        for ((context, out), sum) in rows.take(count) {
            let factor = 1.0 / sum;
            for (out, &value) in out[..dim].iter_mut().zip(context) {
                *out = value * factor;
            }
        }
    }
}

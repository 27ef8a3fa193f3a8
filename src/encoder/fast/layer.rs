//! One transformer layer over packed texts.

use super::attention::{AttentionScratch, DistanceBias, Heads};
use super::buffer::Buffer;
use super::code_attention::CodeAttentionScratch;
use super::kernel::{Kernels, NormParameters, Rows};
use super::linear::{CodeScratch, Linear, padded};

/// Rows that pass a layer's matrices together: what they become on the way stays in the second cache.
const STRIP: usize = 64;

/// Parameters of a LayerNorm.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) epsilon: f32,
}

/// A layer's parameters.
pub(super) struct Layer {
    /// Queries, keys and values side by side; queries multiplied as [`super::attention`] wants them.
    pub(super) attention_in: Linear,
    pub(super) attention_out: Linear,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: Linear,
    pub(super) out: Linear,
    pub(super) norm: Norm,
    pub(super) heads: Heads,
    /// Whether attention is computed in codes too.
    pub(super) in_codes: bool,
    /// Outputs of `intermediate`.
    pub(super) inner: usize,
}

/// Room for one tile; each thread has its own.
#[derive(Default)]
pub(super) struct Scratch {
    /// Token states, padded columns; what a layer reads and writes.
    pub(super) states: Buffer<f32>,
    /// Queries, keys and values.
    triples: Buffer<f32>,
    context: Buffer<f32>,
    /// States between attention and feed-forward, of one strip.
    between: Buffer<f32>,
    inner: Buffer<f32>,
    codes: CodeScratch,
    attention: AttentionScratch,
    code_attention: CodeAttentionScratch,
}

impl Norm {
    /// Normalises the sums of two rows, into the first.
    pub(super) fn apply(&self, kernels: &Kernels, row: &mut [f32], other: &[f32]) {
        let parameters = NormParameters { weight: &self.weight, bias: &self.bias, epsilon: self.epsilon };
        (kernels.norm)(row, other, parameters);
    }
}

impl Layer {
    /// Passes the states of texts of these lengths, packed one after the other, through the layer.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        scratch: &mut Scratch,
        lengths: &[usize],
        bias: Option<&DistanceBias>,
    ) {
        let tokens = lengths.iter().sum();
        self.attend(kernels, scratch, tokens, lengths, bias);
        let hidden = self.heads.hidden;
        let (width, inner) = (padded(hidden), padded(self.inner));
        scratch.between.at_least(STRIP * width);
        scratch.inner.at_least(STRIP * inner);
        for start in (0..tokens).step_by(STRIP) {
            let count = STRIP.min(tokens - start);
            let context = Rows { values: &scratch.context[start * width..], stride: width, count };
            let states = &mut scratch.states[start * width..][..count * width];
            let between = &mut scratch.between[..count * width];
            self.attention_out.apply(kernels, context, &mut scratch.codes, between, width);
            for (row, state) in between.chunks_exact_mut(width).zip(states.chunks_exact(width)) {
                self.attention_norm.apply(kernels, &mut row[..hidden], &state[..hidden]);
            }
            let rows = Rows { values: between, stride: width, count };
            let values = &mut scratch.inner[..count * inner];
            self.intermediate.apply(kernels, rows, &mut scratch.codes, values, inner);
            (kernels.gelu)(values);
            let rows = Rows { values, stride: inner, count };
            self.out.apply(kernels, rows, &mut scratch.codes, states, width);
            for (state, row) in states.chunks_exact_mut(width).zip(between.chunks_exact(width)) {
                self.norm.apply(kernels, &mut state[..hidden], &row[..hidden]);
            }
        }
    }

    /// Attention of each text, into `context`.
    fn attend(
        &self,
        kernels: &Kernels,
        scratch: &mut Scratch,
        tokens: usize,
        lengths: &[usize],
        bias: Option<&DistanceBias>,
    ) {
        let width = padded(self.heads.hidden);
        let triple = padded(3 * self.heads.hidden);
        scratch.triples.at_least(tokens * triple);
        scratch.context.at_least(tokens * width);
        for start in (0..tokens).step_by(STRIP) {
            let count = STRIP.min(tokens - start);
            let rows = Rows { values: &scratch.states[start * width..], stride: width, count };
            let triples = &mut scratch.triples[start * triple..];
            self.attention_in.apply(kernels, rows, &mut scratch.codes, triples, triple);
        }
        let mut start = 0;
        for &count in lengths {
            let rows = Rows { values: &scratch.triples[start * triple..], stride: triple, count };
            let context = &mut scratch.context[start * width..];
            if self.in_codes {
                self.heads.attend_in_codes(kernels, rows, bias, &mut scratch.code_attention, context, width);
            } else {
                self.heads.attend(kernels, rows, bias, &mut scratch.attention, context, width);
            }
            start += count;
        }
    }
}

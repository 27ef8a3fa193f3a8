//! Self-attention of one text in int8: queries, keys and values become codes, and so do the shares that softmax gives.
//!
//! Queries have a scale and a zero for each token, keys a scale for each token, values a scale for each dimension. Shares
//! are at most 1 before they are divided by their sum; the sum is that of their codes, so that shares of a row add up
//! to 1 whatever is lost.

use super::attention::{DistanceBias, Heads};
use super::buffer::Buffer;
use super::kernel::{CodePanel, CodeRows, Kernels, PANEL, QUAD, Rows};
use super::linear::{CodeScratch, padded};

/// Rows of a block: two of the widest product's.
const ROWS: usize = 28;

/// Room for one text.
#[derive(Default)]
pub(super) struct CodeAttentionScratch {
    queries: CodeScratch,
    keys: Keys,
    values: Values,
    /// Rows of a block × tokens.
    scores: Buffer<f32>,
    shares: Buffer<u8>,
    /// Rows of a block × dimensions.
    context: Buffer<f32>,
}

/// Keys of all heads.
#[derive(Default)]
struct Keys {
    /// Of one token.
    row: Buffer<i8>,
    /// Heads × panels of tokens × quads of dimensions × [`PANEL`], each a quad of codes.
    quads: Buffer<u32>,
    /// Of each token.
    scales: Buffer<f32>,
    /// Sums of codes: heads × tokens.
    sums: Buffer<i32>,
}

/// Values of all heads.
#[derive(Default)]
struct Values {
    /// Heads × panels of dimensions × quads of tokens × [`PANEL`], each a quad of codes.
    quads: Buffer<u32>,
    /// Scale of each dimension: heads × padded dimensions.
    scales: Buffer<f32>,
    /// Steps in 1, of each dimension as it comes.
    steps: Buffer<f32>,
}

impl Heads {
    /// Whether heads can be attended in codes: their dimensions are whole quads.
    pub(super) fn in_codes(self) -> bool {
        self.dim().is_multiple_of(QUAD)
    }

    /// As [`attend`](Self::attend).
    pub(super) fn attend_in_codes(
        self,
        kernels: &Kernels,
        states: Rows<'_>,
        bias: Option<&DistanceBias>,
        scratch: &mut CodeAttentionScratch,
        out: &mut [f32],
        stride: usize,
    ) {
        let CodeAttentionScratch { queries, keys, values, scores, shares, context } = scratch;
        let queries = queries.quantize(kernels, states, self.hidden, &[]);
        keys.pack(kernels, self, states);
        values.pack(kernels, self, states);
        let (columns, width) = (padded(states.count), padded(self.dim()));
        scores.at_least(ROWS * columns);
        shares.at_least(ROWS * columns);
        context.at_least(ROWS * width);
        for head in 0..self.count {
            let at = head * self.dim();
            for start in (0..states.count).step_by(ROWS) {
                let count = ROWS.min(states.count - start);
                let rows = CodeRows {
                    codes: &queries.codes[start * queries.stride + at..],
                    scales: &queries.scales[start..],
                    zeros: &queries.zeros[start..],
                    count,
                    ..queries
                };
                for first in (0..columns).step_by(PANEL) {
                    (kernels.code_product)(
                        rows,
                        keys.panel(self, head * columns + first, first),
                        &mut scores[first..],
                        columns,
                    );
                }
                if let Some(bias) = bias {
                    bias.add_all(head, start, scores, columns, states.count);
                }
                let mut factors = [0.0; ROWS];
                let rows = scores.chunks_exact_mut(columns).zip(shares.chunks_exact_mut(columns));
                for (factor, (scores, shares)) in factors.iter_mut().zip(rows).take(count) {
                    *factor = 1.0 / (kernels.softmax_codes)(scores, states.count, shares);
                }
                let rows =
                    CodeRows { codes: shares, stride: columns, scales: &factors, zeros: &[0; ROWS], count };
                for first in (0..width).step_by(PANEL) {
                    let panel = values.panel(states.count, head * width + first);
                    (kernels.code_product)(rows, panel, &mut context[first..], width);
                }
                let out = out[start * stride + at..].chunks_mut(stride);
                for (out, context) in out.zip(context.chunks_exact(width)).take(count) {
                    out[..self.dim()].copy_from_slice(&context[..self.dim()]);
                }
            }
        }
    }
}

impl Keys {
    fn pack(&mut self, kernels: &Kernels, heads: Heads, states: Rows<'_>) {
        let (tokens, quads) = (padded(states.count), heads.dim() / QUAD);
        self.row.at_least(heads.hidden);
        self.quads.at_least(heads.count * tokens * quads);
        self.scales.at_least(tokens);
        self.sums.at_least(heads.count * tokens);
        let rows = states.values.chunks(states.stride).take(states.count);
        for (token, row) in rows.enumerate() {
            let codes = &mut self.row[..heads.hidden];
            self.scales[token] = (kernels.quantize_signed)(&row[heads.hidden..2 * heads.hidden], codes);
            let codes = codes.chunks_exact(heads.dim());
            for (head, codes) in codes.enumerate() {
                self.sums[head * tokens + token] = codes.iter().map(|&code| i32::from(code)).sum();
                let panel = (head * tokens + token / PANEL * PANEL) * quads;
                let places = self.quads[panel..][..PANEL * quads].chunks_exact_mut(PANEL);
                for (place, quad) in places.zip(codes.as_chunks::<QUAD>().0) {
                    place[token % PANEL] = u32::from_le_bytes(quad.map(|code| code as u8));
                }
            }
        }
    }

    /// The tokens from `first` on. Those that are not there have codes of whatever was there before.
    /// `start` counts tokens over all heads as they are padded.
    fn panel(&self, heads: Heads, start: usize, first: usize) -> CodePanel<'_> {
        let quads = heads.dim() / QUAD;
        CodePanel {
            codes: bytemuck::cast_slice(&self.quads[start * quads..][..PANEL * quads]),
            inputs: heads.dim(),
            scales: &self.scales[first..],
            sums: &self.sums[start..],
            bias: &[0.0; PANEL],
        }
    }
}

impl Values {
    fn pack(&mut self, kernels: &Kernels, heads: Heads, states: Rows<'_>) {
        let (dim, width) = (heads.dim(), padded(heads.dim()));
        let quads = states.count.div_ceil(QUAD);
        self.quads.at_least(heads.count * width * quads);
        self.scales.at_least(heads.count * width);
        self.steps.at_least(heads.hidden);
        let part = 2 * heads.hidden..3 * heads.hidden;
        let steps = &mut self.steps[..heads.hidden];
        steps.fill(0.0);
        for row in states.values.chunks(states.stride).take(states.count) {
            (kernels.most)(steps, &row[part.clone()]);
        }
        for (scales, steps) in self.scales.chunks_exact_mut(width).zip(steps.chunks_exact_mut(dim)) {
            for (scale, step) in scales.iter_mut().zip(steps) {
                *scale = *step / 127.0;
                *step = if *step > 1e-30 { 127.0 / *step } else { 0.0 };
            }
        }
        for quad in 0..quads {
            let token = |number: usize| {
                let number = quad * QUAD + number;
                (number < states.count).then(|| &states.values[number * states.stride..][part.clone()])
            };
            let tokens: [Option<&[f32]>; QUAD] = std::array::from_fn(token);
            for head in 0..heads.count {
                for first in (0..dim).step_by(PANEL) {
                    let columns = head * dim + first..head * dim + dim.min(first + PANEL);
                    let place = ((head * width + first) * quads + quad * PANEL)..;
                    let steps = &steps[columns.clone()];
                    let tokens =
                        tokens.map(|token| token.map_or(&[0.0; PANEL][..], |token| &token[columns.clone()]));
                    (kernels.interleave)(tokens, steps, &mut self.quads[place][..steps.len()]);
                }
            }
        }
    }

    /// The dimensions from `first` on, counted over all heads as they are padded.
    fn panel(&self, tokens: usize, first: usize) -> CodePanel<'_> {
        let quads = tokens.div_ceil(QUAD);
        CodePanel {
            codes: bytemuck::cast_slice(&self.quads[first * quads..][..PANEL * quads]),
            inputs: quads * QUAD,
            scales: &self.scales[first..],
            sums: &[0; PANEL],
            bias: &[0.0; PANEL],
        }
    }
}

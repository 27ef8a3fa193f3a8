//! Self-attention of one text and its way back. Shares are computed again on the way back: they take more memory than
//! what they are made of.

use super::super::fast::attention::DistanceBias;
use super::super::fast::kernel::Kernels;
use crate::encoder::family::BertConfig;
use crate::kernel::product::{Before, Matrix, product};

/// Rows of queries, keys and values, `hidden` each, of one text.
#[derive(Clone, Copy)]
pub(super) struct Triples<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) tokens: usize,
}

/// Dimensions of attention, and what is added by distance.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) config: &'a BertConfig,
    pub(super) distances: Option<&'a DistanceBias>,
}

/// Room for one head of one text: tokens × tokens each.
#[derive(Default)]
pub(super) struct AttentionRoom {
    shares: Vec<f32>,
    slopes: Vec<f32>,
}

impl<'a> Triples<'a> {
    /// One head's part, tokens × dimensions of a head; `part`: 0 for queries, 1 for keys, 2 for values.
    fn of(self, attention: &Attention<'_>, part: usize, head: usize) -> Matrix<'a> {
        let (hidden, dim) = (attention.config.hidden, attention.dim());
        Matrix::apart(&self.values[part * hidden + head * dim..], self.tokens, dim, self.stride)
    }
}

impl Attention<'_> {
    fn dim(&self) -> usize {
        self.config.hidden / self.config.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim() as f32).sqrt()
    }

    /// Each query's shares of all tokens.
    fn shares(&self, kernels: &Kernels, text: Triples<'_>, head: usize, room: &mut AttentionRoom) {
        let tokens = text.tokens;
        room.shares.resize(tokens * tokens, 0.0);
        // Powers are those of two.
        let factor = self.scale() * std::f32::consts::LOG2_E;
        let (queries, keys) = (text.of(self, 0, head), text.of(self, 1, head));
        product(&mut room.shares, tokens, Before::Lost, queries, keys.t(), factor);
        for (query, row) in room.shares.chunks_exact_mut(tokens).enumerate() {
            if let Some(distances) = self.distances {
                distances.add(head, query, row);
            }
            let factor = 1.0 / (kernels.softmax)(row, tokens);
            row.iter_mut().for_each(|share| *share *= factor);
        }
    }

    /// What each token becomes, into rows of `out`, `stride` apart.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        text: Triples<'_>,
        room: &mut AttentionRoom,
        out: &mut [f32],
        stride: usize,
    ) {
        for head in 0..self.config.heads {
            self.shares(kernels, text, head, room);
            let shares = Matrix::new(&room.shares, text.tokens, text.tokens);
            let out = &mut out[head * self.dim()..];
            product(out, stride, Before::Lost, shares, text.of(self, 2, head), 1.0);
        }
    }

    /// Derivatives by queries, keys and values, into rows of `out`, `stride` apart, from those by what the tokens became
    /// (rows, `from` apart). Adds those by the table of distances, classes × heads, unless it is empty.
    #[expect(clippy::too_many_arguments, reason = "rows with their distances")]
    pub(super) fn back(
        &self,
        kernels: &Kernels,
        text: Triples<'_>,
        slopes: &[f32],
        from: usize,
        room: &mut AttentionRoom,
        out: &mut [f32],
        stride: usize,
        table: &mut [f32],
    ) {
        let (tokens, hidden, dim) = (text.tokens, self.config.hidden, self.dim());
        let classes = if table.is_empty() { Vec::new() } else { self.classes(tokens) };
        for head in 0..self.config.heads {
            self.shares(kernels, text, head, room);
            room.slopes.resize(tokens * tokens, 0.0);
            let by_out = Matrix::apart(&slopes[head * dim..], tokens, dim, from);
            let (queries, keys, values) =
                (text.of(self, 0, head), text.of(self, 1, head), text.of(self, 2, head));
            let shares = Matrix::new(&room.shares, tokens, tokens);
            product(&mut out[2 * hidden + head * dim..], stride, Before::Lost, shares.t(), by_out, 1.0);
            product(&mut room.slopes, tokens, Before::Lost, by_out, values.t(), 1.0);
            for (slope, shares) in room.slopes.chunks_exact_mut(tokens).zip(room.shares.chunks_exact(tokens))
            {
                (kernels.softmax_back)(slope, shares);
            }
            for (query, row) in room.slopes.chunks_exact(tokens).enumerate() {
                for (slope, class) in row.iter().zip(classes.iter().skip(tokens - 1 - query)) {
                    table[class * self.config.heads + head] += slope;
                }
            }
            let by_scores = Matrix::new(&room.slopes, tokens, tokens);
            product(&mut out[head * dim..], stride, Before::Lost, by_scores, keys, self.scale());
            product(
                &mut out[hidden + head * dim..],
                stride,
                Before::Lost,
                by_scores.t(),
                queries,
                self.scale(),
            );
        }
    }

    /// Classes of the distances from −(tokens − 1) to tokens − 1.
    fn classes(&self, tokens: usize) -> Vec<usize> {
        let most = tokens as isize - 1;
        (-most..=most).map(|ahead| self.config.distance(ahead)).collect()
    }
}

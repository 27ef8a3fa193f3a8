//! One transformer layer over the texts of a tile, forward and back.

use super::super::fast::kernel::{Kernels, NormParameters, Rows};
use super::attention::{Attention, AttentionRoom, Triples};
use super::linear::Linear;
use super::tape::{LayerView, Strides};

/// Rows that pass the feed-forward part together when its inner values are not kept for derivatives.
const AT_ONCE: usize = 64;

/// A layer's matrices, packed.
#[derive(Default)]
pub(super) struct Layer {
    /// Queries, keys and values side by side.
    pub(super) attention_in: Linear,
    pub(super) attention_out: Linear,
    pub(super) intermediate: Linear,
    pub(super) out: Linear,
}

/// A layer with all that it needs.
#[derive(Clone, Copy)]
pub(super) struct LayerOf<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) matrices: &'a Layer,
    pub(super) attention_norm: NormParameters<'a>,
    pub(super) norm: NormParameters<'a>,
    pub(super) attention: Attention<'a>,
    pub(super) strides: Strides,
}

/// Room of a thread.
#[derive(Default)]
pub(super) struct Room {
    pub(super) attention: AttentionRoom,
    activated: Vec<f32>,
}

/// Derivatives in a tile.
pub(super) struct SlopeView<'a> {
    /// By the layer's output; by its input afterwards.
    pub(super) states: &'a mut [f32],
    /// By what enters the second normalisation.
    pub(super) last: &'a mut [f32],
    /// By what enters GELU.
    pub(super) inner: &'a mut [f32],
    /// By what enters the first normalisation.
    pub(super) middle: &'a mut [f32],
    /// By what attention makes.
    pub(super) context: &'a mut [f32],
    pub(super) triples: &'a mut [f32],
    /// Not a derivative: what leaves GELU.
    pub(super) activated: &'a mut [f32],
    /// Not a derivative: what leaves the first normalisation.
    pub(super) normed: &'a mut [f32],
    /// Sums over the tile: by weight and bias of both normalisations, then by the table of distances, if it learns.
    pub(super) sums: &'a mut [f32],
}

impl LayerOf<'_> {
    fn hidden(&self) -> usize {
        self.attention.config.hidden
    }

    /// Passes a tile's states through the layer, in place; `rows` takes what is made on the way.
    pub(super) fn apply(
        &self,
        lengths: &[usize],
        states: &mut [f32],
        rows: &mut LayerView<'_>,
        room: &mut Room,
    ) {
        let (matrices, strides) = (self.matrices, self.strides);
        let tokens = lengths.iter().sum();
        let input = Rows { values: states, stride: strides.state, count: tokens };
        matrices.attention_in.apply(self.kernels, input, rows.triples, strides.triple);
        let mut first = 0;
        for &tokens in lengths {
            let text =
                Triples { values: &rows.triples[first * strides.triple..], stride: strides.triple, tokens };
            let out = &mut rows.context[first * strides.state..];
            self.attention.apply(self.kernels, text, &mut room.attention, out, strides.state);
            first += tokens;
        }
        let context = Rows { values: rows.context, stride: strides.state, count: tokens };
        matrices.attention_out.apply(self.kernels, context, rows.middle, strides.state);
        self.norm_sums(rows.middle, states, self.attention_norm);
        let normed = Rows { values: states, stride: strides.state, count: tokens };
        matrices.intermediate.apply(self.kernels, normed, rows.inner, strides.inner);
        let blocks =
            rows.inner.chunks(AT_ONCE * strides.inner).zip(rows.last.chunks_mut(AT_ONCE * strides.state));
        for (inner, last) in blocks {
            room.activated.clear();
            room.activated.extend_from_slice(inner);
            (self.kernels.gelu)(&mut room.activated);
            let count = inner.len() / strides.inner;
            let activated = Rows { values: &room.activated, stride: strides.inner, count };
            matrices.out.apply(self.kernels, activated, last, strides.state);
        }
        self.norm_sums(rows.last, states, self.norm);
    }

    /// Adds states to rows, and makes the states the normalised sums.
    fn norm_sums(&self, rows: &mut [f32], states: &mut [f32], parameters: NormParameters<'_>) {
        let (hidden, stride) = (self.hidden(), self.strides.state);
        for (row, state) in rows.chunks_exact_mut(stride).zip(states.chunks_exact_mut(stride)) {
            let (row, state) = (&mut row[..hidden], &mut state[..hidden]);
            (self.kernels.add)(row, state);
            state.copy_from_slice(row);
            (self.kernels.norm)(state, &[], parameters);
        }
    }

    /// Derivatives by everything in a tile. `below`: whether those by the layer's input are wanted.
    pub(super) fn back(
        &self,
        lengths: &[usize],
        rows: &LayerView<'_>,
        slopes: &mut SlopeView<'_>,
        below: bool,
        room: &mut Room,
    ) {
        let (kernels, matrices, strides) = (self.kernels, self.matrices, self.strides);
        let tokens = lengths.iter().sum();
        let hidden = self.hidden();
        let (norms, table) = slopes.sums.split_at_mut(4 * hidden);
        let (of_first, of_second) = norms.split_at_mut(2 * hidden);
        slopes.last.copy_from_slice(slopes.states);
        self.norms_back(slopes.last, rows.last, self.norm, of_second);
        let last = Rows { values: slopes.last, stride: strides.state, count: tokens };
        matrices.out.back(kernels, last, slopes.inner, strides.inner);
        (kernels.gelu_back)(slopes.inner, rows.inner);
        slopes.activated.copy_from_slice(rows.inner);
        (kernels.gelu)(slopes.activated);
        let inner = Rows { values: slopes.inner, stride: strides.inner, count: tokens };
        matrices.intermediate.back(kernels, inner, slopes.middle, strides.state);
        (kernels.add)(slopes.middle, slopes.last);
        slopes.normed.copy_from_slice(rows.middle);
        for row in slopes.normed.chunks_exact_mut(strides.state) {
            (kernels.norm)(&mut row[..hidden], &[], self.attention_norm);
        }
        self.norms_back(slopes.middle, rows.middle, self.attention_norm, of_first);
        let middle = Rows { values: slopes.middle, stride: strides.state, count: tokens };
        matrices.attention_out.back(kernels, middle, slopes.context, strides.state);
        self.attention_back(lengths, rows, slopes.context, slopes.triples, table, room);
        if below {
            let triples = Rows { values: slopes.triples, stride: strides.triple, count: tokens };
            matrices.attention_in.back(kernels, triples, slopes.states, strides.state);
            (kernels.add)(slopes.states, slopes.middle);
        }
    }

    fn attention_back(
        &self,
        lengths: &[usize],
        rows: &LayerView<'_>,
        context: &[f32],
        triples: &mut [f32],
        table: &mut [f32],
        room: &mut Room,
    ) {
        let strides = self.strides;
        let mut first = 0;
        for &tokens in lengths {
            let text =
                Triples { values: &rows.triples[first * strides.triple..], stride: strides.triple, tokens };
            let slopes = &context[first * strides.state..];
            let out = &mut triples[first * strides.triple..];
            let room = &mut room.attention;
            self.attention.back(self.kernels, text, slopes, strides.state, room, out, strides.triple, table);
            first += tokens;
        }
    }

    /// Makes derivatives by normalised rows those by the rows; adds those by weight and bias to `sums`.
    fn norms_back(&self, slopes: &mut [f32], rows: &[f32], parameters: NormParameters<'_>, sums: &mut [f32]) {
        let (hidden, stride) = (self.hidden(), self.strides.state);
        let (weight, bias) = sums.split_at_mut(hidden);
        for (slope, row) in slopes.chunks_exact_mut(stride).zip(rows.chunks_exact(stride)) {
            (self.kernels.norm_back)(&mut slope[..hidden], &row[..hidden], parameters, weight, bias);
        }
    }
}

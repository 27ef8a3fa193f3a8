//! The two ends of the layers: embeddings of tokens before them, pooling behind them.

use super::layer::Room;
use super::tape::{LayerRows, Strides, StripTape};
use super::{TileWork, Transformer, Values};
use crate::encoder::config::Pooling;
use crate::encoder::parameters::Gradient;

impl Transformer {
    /// Fills a tile's states with those that enter the lowest layer that learns.
    pub(super) fn enter(
        &self,
        values: &Values<'_>,
        work: &mut TileWork<'_>,
        states: &mut [f32],
        rows: &mut LayerRows,
        room: &mut Room,
    ) {
        let (hidden, stride) = (self.config.hidden, self.strides().state);
        let kept: Option<Vec<&[half::f16]>> = work.inputs.iter().map(|text| text.states).collect();
        if let Some(kept) = kept {
            let tokens = kept.iter().flat_map(|text| text.chunks_exact(hidden));
            for (state, token) in states.chunks_exact_mut(stride).zip(tokens) {
                state.iter_mut().zip(token).for_each(|(value, kept)| *value = kept.to_f32());
            }
            return;
        }
        self.embed(values, work, states);
        for layer in (0..self.first).filter_map(|number| self.layer(number, values)) {
            layer.apply(work.lengths, states, &mut rows.view(), room);
        }
    }

    /// Embeddings, normalised.
    fn embed(&self, values: &Values<'_>, work: &mut TileWork<'_>, states: &mut [f32]) {
        let (hidden, stride) = (self.config.hidden, self.strides().state);
        let row = |table: usize, row: usize| {
            values.of(table).get(row * hidden..(row + 1) * hidden).unwrap_or_default()
        };
        let tokens = work.inputs.iter().flat_map(|text| text.ids.iter().zip(self.config.places(text.ids)));
        for (state, (&id, place)) in states.chunks_exact_mut(stride).zip(tokens) {
            let Some(state) = state.get_mut(..hidden) else { continue };
            state.copy_from_slice(row(self.places.words, id as usize));
            (self.kernels.add)(state, row(self.places.positions, place));
            if let Some(types) = self.places.types {
                // A single text is all of the first type.
                (self.kernels.add)(state, row(types, 0));
            }
        }
        if let Some(embedded) = &mut work.embedded {
            embedded.copy_from_slice(states);
        }
        let norm = self.norm(values, self.places.norm[0], self.places.norm[1]);
        for state in states.chunks_exact_mut(stride) {
            (self.kernels.norm)(state.get_mut(..hidden).unwrap_or_default(), &[], norm);
        }
    }

    /// One row for each text, and for the largest values the tokens that have them.
    pub(super) fn pool(
        &self,
        states: &[f32],
        lengths: &[usize],
        pooled: &mut [f32],
        mut largest: Option<&mut [u32]>,
    ) {
        let (hidden, stride) = (self.config.hidden, self.strides().state);
        let mut rest = states;
        for (text, (pooled, &tokens)) in pooled.chunks_exact_mut(hidden).zip(lengths).enumerate() {
            let (own, behind) = rest.split_at(tokens * stride);
            rest = behind;
            let mut rows = own.chunks_exact(stride).map(|row| row.get(..hidden).unwrap_or_default());
            match self.pooling {
                Pooling::Cls => pooled.copy_from_slice(rows.next().unwrap_or_default()),
                Pooling::Last => pooled.copy_from_slice(rows.next_back().unwrap_or_default()),
                Pooling::Mean => {
                    pooled.fill(0.0);
                    rows.for_each(|row| (self.kernels.add)(pooled, row));
                    pooled.iter_mut().for_each(|sum| *sum /= tokens as f32);
                }
                Pooling::Max => {
                    pooled.fill(f32::NEG_INFINITY);
                    let mut nobody = Vec::new();
                    let places = match &mut largest {
                        Some(largest) => {
                            largest.get_mut(text * hidden..(text + 1) * hidden).unwrap_or_default()
                        }
                        None => {
                            nobody.resize(hidden, 0);
                            nobody.as_mut_slice()
                        }
                    };
                    for (token, row) in (0..).zip(rows) {
                        for ((most, place), &value) in pooled.iter_mut().zip(places.iter_mut()).zip(row) {
                            if value > *most {
                                (*most, *place) = (value, token);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Derivatives by the states of a strip, whose rows are zero so far, of those by what was pooled.
    pub(super) fn pool_back(&self, tape: &StripTape, pooled: &[f32], states: &mut [f32]) {
        let (hidden, stride) = (self.config.hidden, self.strides().state);
        let mut rest = states;
        for (text, (pooled, &tokens)) in pooled.chunks_exact(hidden).zip(&tape.strip.lengths).enumerate() {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(tokens * stride);
            rest = behind;
            let mut rows = own.chunks_exact_mut(stride).map(|row| row.get_mut(..hidden).unwrap_or_default());
            match self.pooling {
                Pooling::Cls => rows.next().unwrap_or_default().copy_from_slice(pooled),
                Pooling::Last => rows.next_back().unwrap_or_default().copy_from_slice(pooled),
                Pooling::Mean => {
                    let share = 1.0 / tokens as f32;
                    rows.for_each(|row| {
                        row.iter_mut().zip(pooled).for_each(|(row, slope)| *row = slope * share)
                    });
                }
                Pooling::Max => {
                    let places = tape.largest.get(text * hidden..).unwrap_or_default();
                    for (column, (slope, &place)) in pooled.iter().zip(places).enumerate() {
                        if let Some(value) = own.get_mut(place as usize * stride + column) {
                            *value = *slope;
                        }
                    }
                }
            }
        }
    }

    /// Adds the gradients of embeddings, given derivatives by what left their normalisation, which become those by the
    /// embeddings.
    pub(super) fn embed_back(
        &self,
        values: &Values<'_>,
        tape: &StripTape,
        states: &mut [f32],
        gradients: &mut [Gradient],
    ) {
        let (hidden, Strides { state: stride, .. }) = (self.config.hidden, self.strides());
        let norm = self.norm(values, self.places.norm[0], self.places.norm[1]);
        let mut sums = vec![0.0; 2 * hidden];
        let (weight, bias) = sums.split_at_mut(hidden);
        let mut of_types = vec![0.0; hidden];
        let rows = states.chunks_exact_mut(stride).zip(tape.embedded.chunks_exact(stride));
        for ((slope, row), (&id, &place)) in rows.zip(tape.ids.iter().zip(&tape.places)) {
            let (Some(slope), Some(row)) = (slope.get_mut(..hidden), row.get(..hidden)) else { continue };
            (self.kernels.norm_back)(slope, row, norm, weight, bias);
            (self.kernels.add)(&mut of_types, slope);
            for (table, row) in [(self.places.words, id), (self.places.positions, place)] {
                match gradients.get_mut(table) {
                    Some(Gradient::Rows(rows)) => {
                        (self.kernels.add)(rows.used(row as usize).unwrap_or_default(), slope);
                    }
                    Some(Gradient::Dense(sum)) => {
                        let start = row as usize * hidden;
                        (self.kernels.add)(sum.get_mut(start..start + hidden).unwrap_or_default(), slope);
                    }
                    _ => {}
                }
            }
        }
        let ends = [(self.places.norm[0], &*weight), (self.places.norm[1], &*bias)];
        let types = self.places.types.map(|types| (types, of_types.as_slice()));
        for (place, sums) in ends.into_iter().chain(types) {
            if let Some(gradient) = gradients.get_mut(place).and_then(Gradient::dense) {
                (self.kernels.add)(gradient, sums);
            }
        }
    }
}

//! What is kept of texts on their way forward for the way back, in buffers that are used again.

use super::super::fast::linear::padded;
use super::plan::Strip;
use crate::encoder::family::BertConfig;

/// Rows of a strip between the layers; each row is padded as [`padded`] says.
#[derive(Default)]
pub(super) struct LayerTape {
    /// States that entered.
    pub(super) input: Vec<f32>,
    /// Everything else, unless it is to be computed again.
    pub(super) rest: Option<LayerRows>,
}

/// What a layer makes of its tokens on the way.
#[derive(Default)]
pub(super) struct LayerRows {
    /// Queries, keys and values.
    pub(super) triples: Vec<f32>,
    /// What attention makes of them.
    pub(super) context: Vec<f32>,
    /// What enters the first normalisation.
    pub(super) middle: Vec<f32>,
    /// What enters GELU.
    pub(super) inner: Vec<f32>,
    /// What enters the second normalisation.
    pub(super) last: Vec<f32>,
}

/// Distances of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    pub(super) state: usize,
    pub(super) triple: usize,
    pub(super) inner: usize,
}

impl Strides {
    pub(super) fn new(config: &BertConfig) -> Self {
        Self {
            state: padded(config.hidden),
            triple: padded(3 * config.hidden),
            inner: padded(config.intermediate),
        }
    }

    /// Values of a token in [`LayerRows`].
    pub(super) fn kept(self) -> usize {
        3 * self.state + self.triple + self.inner
    }
}

/// The same of one tile.
pub(super) struct LayerView<'a> {
    pub(super) triples: &'a mut [f32],
    pub(super) context: &'a mut [f32],
    pub(super) middle: &'a mut [f32],
    pub(super) inner: &'a mut [f32],
    pub(super) last: &'a mut [f32],
}

impl LayerRows {
    /// Has room for so many tokens.
    pub(super) fn reserve(&mut self, tokens: usize, strides: Strides) {
        self.triples.resize(tokens * strides.triple, 0.0);
        self.inner.resize(tokens * strides.inner, 0.0);
        for rows in [&mut self.context, &mut self.middle, &mut self.last] {
            rows.resize(tokens * strides.state, 0.0);
        }
    }

    /// The parts of each tile.
    pub(super) fn tiles<'a>(&'a mut self, strip: &Strip, strides: Strides) -> Vec<LayerView<'a>> {
        let rows =
            strip.rows(&mut self.triples, strides.triple).zip(strip.rows(&mut self.context, strides.state));
        let rows = rows.zip(strip.rows(&mut self.middle, strides.state));
        let rows = rows
            .zip(strip.rows(&mut self.inner, strides.inner).zip(strip.rows(&mut self.last, strides.state)));
        let view = |(((triples, context), middle), (inner, last))| LayerView {
            triples,
            context,
            middle,
            inner,
            last,
        };
        rows.map(view).collect()
    }

    /// All of it, as of one tile.
    pub(super) fn view(&mut self) -> LayerView<'_> {
        LayerView {
            triples: &mut self.triples,
            context: &mut self.context,
            middle: &mut self.middle,
            inner: &mut self.inner,
            last: &mut self.last,
        }
    }
}

/// What is kept of a strip.
pub(super) struct StripTape {
    pub(super) strip: Strip,
    /// Ids and places in the table of positions of all tokens; empty if nothing is learnt below the layers.
    pub(super) ids: Vec<u32>,
    pub(super) places: Vec<u32>,
    /// What enters the normalisation of embeddings.
    pub(super) embedded: Vec<f32>,
    /// Of the layers from the lowest that derivatives reach.
    pub(super) layers: Vec<LayerTape>,
    /// Of pooling by the largest value, the token that had it: texts × hidden, counted from the text's first.
    pub(super) largest: Vec<u32>,
}

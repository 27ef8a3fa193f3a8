//! The transformers of BERT's family for training: forward with a tape, and back, by hand, on packed sequences.
//!
//! | file | what it holds |
//! |---|---|
//! | `plan` | strips and tiles of texts |
//! | `linear`, `attention`, `layer` | one layer over a tile, both ways |
//! | `tape` | what is kept between the two |
//! | `ends` | embeddings before the layers, pooling behind them, both ways |
//! | `back` | the way back through a strip, and the gradients of matrices |
//! | `head` | dense layers and adapter behind pooling |
//! | `held` | the memory that a pass takes |
//! | `places`, `values` | where the parameters stand, and what they are |
//!
//! Texts lie one after the other without padding. On the way forward a tile, some 128 tokens, passes all layers on one
//! thread. On the way back a strip of tiles passes one layer after the other: first the derivatives by states, tile by
//! tile, then those by matrices, cut into parts of rows, each of which sums over the strip's tokens. What is summed, and
//! in which order, depends on the texts alone: the number of threads changes no bit.
//!
//! Shares of attention and what leaves GELU and the first normalisation are computed again on the way back. Where a batch
//! is too large for the rest, its lower layers keep their input alone and are computed again as a whole (Chen et al.
//! 2016, arXiv:1604.06174). Nothing is computed for parameters that do not learn, nor below the lowest that does.
//!
//! `Bert`, on tensors, is the reference that this is tested against.

mod attention;
mod back;
mod ends;
mod head;
mod held;
mod layer;
mod linear;
mod places;
mod plan;
mod tape;
#[cfg(test)]
mod tests;
mod values;

use half::f16;
use parking_lot::Mutex;

use self::attention::Attention;
use self::back::Slopes;
pub(crate) use self::head::{HeadTape, PackedHead};
use self::layer::{Layer, LayerOf, Room};
pub(crate) use self::places::{LOW, LOW_SCALE, MATRICES};
use self::places::{LayerPlaces, Places};
use self::plan::{Strip, Tile, strips};
use self::tape::{LayerRows, LayerTape, LayerView, Strides, StripTape};
use self::values::Values;
use super::config::Pooling;
use super::family::BertConfig;
use super::fast::attention::DistanceBias;
use super::fast::kernel::{Kernels, NormParameters, kernels};
use super::parameters::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::kernel::threads::for_parts;

/// A text to go forward.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) ids: &'a [u32],
    /// The states that enter the lowest layer that learns, tokens × hidden, if they are known.
    pub(crate) states: Option<&'a [f16]>,
}

/// A transformer, with its matrices packed as the parameters last were.
pub(crate) struct Transformer {
    config: BertConfig,
    pooling: Pooling,
    places: Places,
    layers: Vec<Layer>,
    distances: Option<DistanceBias>,
    /// The lowest layer that learns, or the number of layers if none does.
    first: usize,
    /// Whether embeddings learn.
    embeds: bool,
    /// Bytes of what is kept of a batch, beside the layers' inputs.
    kept: usize,
    threads: usize,
    kernels: &'static Kernels,
    /// Buffers to use again.
    tapes: Mutex<Vec<StripTape>>,
    slopes: Mutex<Slopes>,
    rooms: Mutex<Vec<ThreadRoom>>,
}

/// What texts left behind on their way forward.
pub(crate) struct Tape(Vec<StripTape>);

/// What a thread needs for a tile.
#[derive(Default)]
struct ThreadRoom {
    layer: Room,
    states: Vec<f32>,
    rows: LayerRows,
}

/// What is done for one tile on the way forward.
struct TileWork<'a> {
    inputs: &'a [Input<'a>],
    lengths: &'a [usize],
    /// Texts × hidden.
    pooled: &'a mut [f32],
    largest: Option<&'a mut [u32]>,
    embedded: Option<&'a mut [f32]>,
    /// Input, and the rest, of each layer from the first that learns.
    kept: Vec<(&'a mut [f32], Option<LayerView<'a>>)>,
}

impl Transformer {
    /// One with these parameters, which are [`BertConfig::shapes`], and more if some learn by matrices of low rank.
    pub(crate) fn new(
        config: &BertConfig,
        pooling: Pooling,
        parameters: &Parameters,
        kept: usize,
        threads: usize,
    ) -> Result<Self> {
        let places = Places::find(config, parameters)?;
        let learns = |place: usize| parameters.iter().nth(place).is_some_and(Parameter::learns);
        let embeds = places.embeddings().into_iter().any(learns);
        let first = places.layers.iter().position(|layer| layer.all().any(learns)).unwrap_or(config.layers);
        let mut transformer = Self {
            layers: (0..config.layers).map(|_| Layer::default()).collect(),
            distances: None,
            first: if embeds { 0 } else { first },
            embeds,
            pooling,
            places,
            kept,
            threads,
            kernels: kernels(),
            config: config.clone(),
            tapes: Mutex::default(),
            slopes: Mutex::default(),
            rooms: Mutex::default(),
        };
        transformer.pack(parameters, 0..config.layers);
        Ok(transformer)
    }

    /// Takes up parameters that have learnt.
    pub(crate) fn changed(&mut self, parameters: &Parameters) {
        self.pack(parameters, self.first..self.config.layers);
    }

    fn pack(&mut self, parameters: &Parameters, layers: std::ops::Range<usize>) {
        let values = Values::new(parameters);
        if let Some(place) = self.places.distances {
            self.distances = Some(DistanceBias::new(&self.config, values.of(place)));
        }
        for number in layers {
            let (Some(layer), Some(places)) = (self.layers.get_mut(number), self.places.layers.get(number))
            else {
                continue;
            };
            let back = number >= self.first;
            let matrices = values.matrices(places);
            let below = number > self.first || self.embeds;
            layer.attention_in.pack(&matrices.joined[0], &matrices.joined[1], back && below, self.threads);
            let targets = [&mut layer.attention_out, &mut layer.intermediate, &mut layer.out];
            for (target, (weights, bias)) in targets.into_iter().zip(&matrices.others) {
                target.pack(weights, bias, back, self.threads);
            }
        }
    }

    /// The matrices that learn at low rank, as they are with what they learnt, by place.
    pub(crate) fn merged(&self, parameters: &Parameters) -> Vec<(usize, Vec<f32>)> {
        let values = Values::new(parameters);
        let low = |layer: &LayerPlaces| -> Vec<(usize, Vec<f32>)> {
            let numbers = (0..MATRICES.len()).filter(|&number| layer.low[number].is_some());
            numbers.map(|number| (layer.weights[number], values.matrix(layer, number).into_owned())).collect()
        };
        self.places.layers.iter().flat_map(low).collect()
    }

    fn strides(&self) -> Strides {
        Strides::new(&self.config)
    }

    /// A layer with all that it needs.
    fn layer<'a>(&'a self, number: usize, values: &Values<'a>) -> Option<LayerOf<'a>> {
        let (matrices, places) = (self.layers.get(number)?, self.places.layers.get(number)?);
        Some(LayerOf {
            kernels: self.kernels,
            matrices,
            attention_norm: self.norm(values, places.norms[0], places.norms[1]),
            norm: self.norm(values, places.norms[2], places.norms[3]),
            attention: Attention { config: &self.config, distances: self.distances.as_ref() },
            strides: self.strides(),
        })
    }

    fn norm<'a>(&self, values: &Values<'a>, weight: usize, bias: usize) -> NormParameters<'a> {
        NormParameters {
            weight: values.of(weight),
            bias: values.of(bias),
            epsilon: self.config.epsilon as f32,
        }
    }

    /// Fails unless all texts have tokens, which the model knows, and not too many.
    pub(crate) fn check(&self, texts: &[Input<'_>]) -> Result<()> {
        for text in texts {
            let beyond = text.ids.iter().find(|id| **id as usize >= self.config.vocabulary);
            if let Some(id) = beyond {
                return Err(Error::input(format!("the model has no token {id}")));
            }
            if text.ids.is_empty() || text.ids.len() > self.config.tokens() {
                let (tokens, most) = (text.ids.len(), self.config.tokens());
                return Err(Error::input(format!(
                    "a text to learn from has {tokens} tokens, not 1 to {most}"
                )));
            }
        }
        Ok(())
    }

    /// Pooled states of texts, texts × hidden; with a tape if `keep`.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        texts: &[Input<'_>],
        keep: bool,
    ) -> Result<(Vec<f32>, Tape)> {
        self.check(texts)?;
        let hidden = self.config.hidden;
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let strips = strips(&lengths);
        let mut pooled = vec![0.0; texts.len() * hidden];
        let mut tapes: Vec<StripTape> = match keep {
            true => strips.iter().map(|strip| self.tape(strip, texts, lengths.iter().sum())).collect(),
            false => Vec::new(),
        };
        let mut works = Vec::new();
        let (mut rest, mut of_strips) = (pooled.as_mut_slice(), tapes.iter_mut());
        for strip in &strips {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(strip.texts.len() * hidden);
            rest = behind;
            let texts = texts.get(strip.texts.clone()).unwrap_or_default();
            works.extend(self.works(strip, texts, own, of_strips.next()));
        }
        let values = Values::new(parameters);
        for_parts(
            self.threads,
            works.into_iter(),
            || self.room(),
            |room, work| self.tile(&values, work, room),
        );
        Ok((pooled, Tape(tapes)))
    }

    /// The work of each tile of a strip.
    fn works<'a>(
        &self,
        strip: &'a Strip,
        texts: &'a [Input<'a>],
        mut pooled: &'a mut [f32],
        tape: Option<&'a mut StripTape>,
    ) -> Vec<TileWork<'a>> {
        let (hidden, strides) = (self.config.hidden, self.strides());
        let mut works: Vec<TileWork<'a>> = Vec::with_capacity(strip.tiles.len());
        for tile in &strip.tiles {
            let (own, behind) = std::mem::take(&mut pooled).split_at_mut(tile.texts.len() * hidden);
            pooled = behind;
            works.push(TileWork {
                inputs: texts.get(tile.texts.clone()).unwrap_or_default(),
                lengths: strip.lengths.get(tile.texts.clone()).unwrap_or_default(),
                pooled: own,
                largest: None,
                embedded: None,
                kept: Vec::new(),
            });
        }
        let Some(StripTape { embedded, layers, largest, .. }) = tape else { return works };
        if self.embeds {
            let parts = strip.rows(embedded, strides.state);
            works.iter_mut().zip(parts).for_each(|(work, part)| work.embedded = Some(part));
        }
        if self.pooling == Pooling::Max {
            let mut rest = largest.as_mut_slice();
            for work in &mut works {
                let (own, behind) = std::mem::take(&mut rest).split_at_mut(work.pooled.len());
                rest = behind;
                work.largest = Some(own);
            }
        }
        for layer in layers {
            let inputs = strip.rows(&mut layer.input, strides.state);
            let rest = layer.rest.as_mut().map(|rest| rest.tiles(strip, strides)).unwrap_or_default();
            let rest = rest.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
            works
                .iter_mut()
                .zip(inputs)
                .zip(rest)
                .for_each(|((work, input), rest)| work.kept.push((input, rest)));
        }
        works
    }

    /// Room to keep a strip, of a batch of so many tokens.
    fn tape(&self, strip: &Strip, texts: &[Input<'_>], tokens: usize) -> StripTape {
        let (hidden, strides) = (self.config.hidden, self.strides());
        let old = self.tapes.lock().pop();
        let (mut layers, mut embedded, mut largest) =
            old.map(|old| (old.layers, old.embedded, old.largest)).unwrap_or_default();
        let learning = self.config.layers - self.first;
        let whole = self.kept / (tokens * strides.kept() * size_of::<f32>()).max(1);
        layers.resize_with(learning, LayerTape::default);
        for (number, layer) in layers.iter_mut().enumerate() {
            layer.input.resize(strip.tokens * strides.state, 0.0);
            if number + whole < learning {
                layer.rest = None;
            } else {
                layer.rest.get_or_insert_default().reserve(strip.tokens, strides);
            }
        }
        let (mut ids, mut places) = (Vec::new(), Vec::new());
        if self.embeds {
            embedded.resize(strip.tokens * strides.state, 0.0);
            for text in texts.get(strip.texts.clone()).unwrap_or_default() {
                ids.extend_from_slice(text.ids);
                places.extend(self.config.places(text.ids).map(|place| place as u32));
            }
        }
        if self.pooling == Pooling::Max {
            largest.resize(strip.lengths.len() * hidden, 0);
        }
        StripTape { strip: strip.clone(), ids, places, embedded, layers, largest }
    }

    fn room(&self) -> RoomOf<'_> {
        RoomOf { room: self.rooms.lock().pop().unwrap_or_default(), of: &self.rooms }
    }

    /// One tile's way through all layers.
    fn tile(&self, values: &Values<'_>, mut work: TileWork<'_>, room: &mut RoomOf<'_>) {
        let ThreadRoom { layer: room, states, rows } = &mut room.room;
        let strides = self.strides();
        let tokens: usize = work.lengths.iter().sum();
        states.resize(tokens * strides.state, 0.0);
        rows.reserve(tokens, strides);
        self.enter(values, &mut work, states, rows, room);
        let mut kept = work.kept.into_iter();
        for layer in (self.first..self.config.layers).filter_map(|number| self.layer(number, values)) {
            let (input, rest) = match kept.next() {
                Some((input, rest)) => (Some(input), rest),
                None => (None, None),
            };
            if let Some(input) = input {
                input.copy_from_slice(states);
            }
            layer.apply(work.lengths, states, &mut rest.unwrap_or_else(|| rows.view()), room);
        }
        self.pool(states, work.lengths, work.pooled, work.largest);
    }

    /// The states in which texts enter the lowest layer that learns, tokens × hidden each.
    pub(crate) fn below(&self, parameters: &Parameters, texts: &[Input<'_>]) -> Result<Vec<Vec<f16>>> {
        self.check(texts)?;
        let (hidden, strides) = (self.config.hidden, self.strides());
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let mut results: Vec<Vec<f16>> =
            lengths.iter().map(|tokens| vec![f16::ZERO; tokens * hidden]).collect();
        let values = Values::new(parameters);
        let mut works = Vec::new();
        let (mut inputs, mut of_texts, mut rest) = (texts, lengths.as_slice(), results.as_mut_slice());
        for tile in strips(&lengths).iter().flat_map(|strip| &strip.tiles) {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(tile.texts.len());
            let (texts, other_texts) = inputs.split_at(own.len());
            let (lengths, other_lengths) = of_texts.split_at(own.len());
            (inputs, of_texts, rest) = (other_texts, other_lengths, behind);
            works.push((texts, lengths, own));
        }
        let work = |room: &mut RoomOf<'_>, (inputs, lengths, results): (_, &[usize], &mut [Vec<f16>])| {
            let ThreadRoom { layer: room, states, rows } = &mut room.room;
            let tokens = lengths.iter().sum::<usize>();
            states.resize(tokens * strides.state, 0.0);
            rows.reserve(tokens, strides);
            let mut work = TileWork {
                inputs,
                lengths,
                pooled: &mut [],
                largest: None,
                embedded: None,
                kept: Vec::new(),
            };
            self.enter(&values, &mut work, states, rows, room);
            let mut states = states.chunks_exact(strides.state);
            for target in results.iter_mut().flat_map(|text| text.chunks_exact_mut(hidden)) {
                let state = states.next().unwrap_or_default();
                target.iter_mut().zip(state).for_each(|(target, &value)| *target = f16::from_f32(value));
            }
        };
        for_parts(self.threads, works.into_iter(), || self.room(), work);
        Ok(results)
    }
}

/// A thread's room, given back at the end.
struct RoomOf<'a> {
    room: ThreadRoom,
    of: &'a Mutex<Vec<ThreadRoom>>,
}

impl Drop for RoomOf<'_> {
    fn drop(&mut self) {
        self.of.lock().push(std::mem::take(&mut self.room));
    }
}

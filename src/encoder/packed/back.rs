//! The way back through a strip: derivatives by states tile by tile, then gradients of matrices part by part.

use super::layer::SlopeView;
use super::places::{LayerPlaces, LowRankPlaces};
use super::plan::Strip;
use super::tape::{LayerRows, LayerView, Strides, StripTape};
use super::{LayerOf, Tape, Transformer, Values};
use crate::encoder::parameters::{Gradient, Parameters};
use crate::kernel::product::{Before, Matrix, product};
use crate::kernel::threads::for_parts;

/// Values of a part of a matrix's gradient: enough that a product over it is worth packing its inputs.
const PART: usize = 160_000;
/// Rows of a part at least.
const PART_ROWS: usize = 192;

/// Derivatives in a strip, as [`SlopeView`] says.
#[derive(Default)]
pub(super) struct Slopes {
    states: Vec<f32>,
    last: Vec<f32>,
    inner: Vec<f32>,
    middle: Vec<f32>,
    context: Vec<f32>,
    triples: Vec<f32>,
    activated: Vec<f32>,
    normed: Vec<f32>,
    /// Of each tile.
    sums: Vec<f32>,
    /// Of a layer that is computed again.
    again: LayerRows,
}

/// A part of a matrix's gradient, and of its bias's: the products of derivatives by outputs with inputs, summed over rows.
struct Part<'a> {
    weights: &'a mut [f32],
    bias: &'a mut [f32],
    slopes: Columns<'a>,
    inputs: Columns<'a>,
    /// What the matrix learns at low rank, in place of itself.
    low: Option<LowPart<'a>>,
}

struct LowPart<'a> {
    a: &'a [f32],
    b: &'a [f32],
    places: LowRankPlaces,
    by_a: &'a mut [f32],
    by_b: &'a mut [f32],
}

/// Columns of rows.
#[derive(Clone, Copy)]
struct Columns<'a> {
    values: &'a [f32],
    rows: usize,
    count: usize,
    stride: usize,
}

impl<'a> Columns<'a> {
    fn new(values: &'a [f32], rows: usize, first: usize, count: usize, stride: usize) -> Self {
        Self { values: values.get(first..).unwrap_or_default(), rows, count, stride }
    }

    fn matrix(self) -> Matrix<'a> {
        Matrix::apart(self.values, self.rows, self.count, self.stride)
    }

    fn part(self, first: usize, count: usize) -> Self {
        Self::new(self.values, self.rows, first, count, self.stride)
    }
}

impl Part<'_> {
    fn add(self) {
        let (slopes, inputs) = (self.slopes.matrix(), self.inputs.matrix());
        if !self.weights.is_empty() {
            product(self.weights, self.inputs.count, Before::Kept, slopes.t(), inputs, 1.0);
        }
        if !self.bias.is_empty() {
            for row in self.slopes.values.chunks(self.slopes.stride).take(self.slopes.rows) {
                self.bias.iter_mut().zip(row).for_each(|(sum, slope)| *sum += slope);
            }
        }
        // W + s·B·A: by B it is s·(Σ slope · (A·input)), by A s·(Σ (Bᵀ·slope) · input).
        if let Some(low) = self.low {
            let LowRankPlaces { rank, scale, .. } = low.places;
            let a = Matrix::new(low.a, rank, self.inputs.count);
            let b = Matrix::new(low.b, self.slopes.count, rank);
            let mut inner = vec![0.0; self.inputs.rows * rank];
            product(&mut inner, rank, Before::Lost, inputs, a.t(), scale);
            let rows = Matrix::new(&inner, self.inputs.rows, rank);
            product(low.by_b, rank, Before::Kept, slopes.t(), rows, 1.0);
            product(&mut inner, rank, Before::Lost, slopes, b, scale);
            let rows = Matrix::new(&inner, self.inputs.rows, rank);
            product(low.by_a, self.inputs.count, Before::Kept, rows.t(), inputs, 1.0);
        }
    }
}

impl Slopes {
    fn reserve(&mut self, strip: &Strip, strides: Strides, sums: usize) {
        let tokens = strip.tokens;
        for rows in [&mut self.last, &mut self.middle, &mut self.context, &mut self.normed] {
            rows.resize(tokens * strides.state, 0.0);
        }
        for rows in [&mut self.inner, &mut self.activated] {
            rows.resize(tokens * strides.inner, 0.0);
        }
        self.triples.resize(tokens * strides.triple, 0.0);
        self.sums.resize(strip.tiles.len() * sums, 0.0);
        self.states.clear();
        self.states.resize(tokens * strides.state, 0.0);
    }

    /// The part of each tile.
    fn tiles(&mut self, strip: &Strip, strides: Strides, sums: usize) -> Vec<SlopeView<'_>> {
        let mut states = strip.rows(&mut self.states, strides.state);
        let mut last = strip.rows(&mut self.last, strides.state);
        let mut middle = strip.rows(&mut self.middle, strides.state);
        let mut context = strip.rows(&mut self.context, strides.state);
        let mut normed = strip.rows(&mut self.normed, strides.state);
        let mut inner = strip.rows(&mut self.inner, strides.inner);
        let mut activated = strip.rows(&mut self.activated, strides.inner);
        let mut triples = strip.rows(&mut self.triples, strides.triple);
        let view = |sums| SlopeView {
            states: states.next().unwrap_or_default(),
            last: last.next().unwrap_or_default(),
            inner: inner.next().unwrap_or_default(),
            middle: middle.next().unwrap_or_default(),
            context: context.next().unwrap_or_default(),
            triples: triples.next().unwrap_or_default(),
            activated: activated.next().unwrap_or_default(),
            normed: normed.next().unwrap_or_default(),
            sums,
        };
        self.sums.chunks_mut(sums).map(view).collect()
    }
}

impl Transformer {
    /// Adds the parameters' gradients, given derivatives by what was pooled, texts × hidden.
    pub(crate) fn back(&self, parameters: &mut Parameters, tape: Tape, pooled: &[f32]) {
        let take =
            |parameter: &mut super::Parameter| std::mem::replace(&mut parameter.gradient, Gradient::Frozen);
        let mut gradients: Vec<Gradient> = parameters.iter_mut().map(take).collect();
        let values = Values::new(parameters);
        let mut slopes = std::mem::take(&mut *self.slopes.lock());
        let mut rest = pooled;
        for mut tape in tape.0 {
            let (own, behind) = rest.split_at(tape.strip.lengths.len() * self.config.hidden);
            rest = behind;
            self.strip_back(&values, &mut tape, own, &mut slopes, &mut gradients);
            self.tapes.lock().push(tape);
        }
        *self.slopes.lock() = slopes;
        let gradients = parameters.iter_mut().zip(gradients);
        gradients.for_each(|(parameter, gradient)| parameter.gradient = gradient);
    }

    fn strip_back(
        &self,
        values: &Values<'_>,
        tape: &mut StripTape,
        pooled: &[f32],
        slopes: &mut Slopes,
        gradients: &mut [Gradient],
    ) {
        if self.first >= self.config.layers && !self.embeds {
            return;
        }
        let learns =
            |place: usize| gradients.get(place).is_some_and(|gradient| !matches!(gradient, Gradient::Frozen));
        let table = match self.places.distances.filter(|&place| learns(place)) {
            Some(_) => self.config.distances * self.config.heads,
            None => 0,
        };
        let sums = 4 * self.config.hidden + table;
        slopes.reserve(&tape.strip, self.strides(), sums);
        self.pool_back(tape, pooled, &mut slopes.states);
        let StripTape { strip, layers, .. } = tape;
        for (number, kept) in (self.first..self.config.layers).zip(layers).rev() {
            let (Some(layer), Some(places)) = (self.layer(number, values), self.places.layers.get(number))
            else {
                continue;
            };
            let mut rows = match kept.rest.take() {
                Some(rows) => rows,
                None => self.again(&layer, strip, &kept.input, std::mem::take(&mut slopes.again)),
            };
            let below = number > self.first || self.embeds;
            self.tiles_back(&layer, strip, rows.tiles(strip, self.strides()), slopes, sums, below);
            self.add_sums(&slopes.sums, sums, places, gradients);
            self.add_matrices(values, places, &kept.input, &rows, slopes, gradients);
            slopes.again = rows;
        }
        if self.embeds {
            self.embed_back(values, tape, &mut slopes.states, gradients);
        }
    }

    /// What a layer made of a strip on the way forward.
    fn again(&self, layer: &LayerOf<'_>, strip: &Strip, input: &[f32], mut rows: LayerRows) -> LayerRows {
        let strides = self.strides();
        rows.reserve(strip.tokens, strides);
        let work = |room: &mut super::RoomOf<'_>, (tile, mut rows): (&super::Tile, LayerView<'_>)| {
            let tokens = tile.tokens.start * strides.state..tile.tokens.end * strides.state;
            room.room.states.clear();
            room.room.states.extend_from_slice(input.get(tokens).unwrap_or_default());
            let lengths = strip.lengths.get(tile.texts.clone()).unwrap_or_default();
            layer.apply(lengths, &mut room.room.states, &mut rows, &mut room.room.layer);
        };
        let views = rows.tiles(strip, strides);
        for_parts(self.threads, strip.tiles.iter().zip(views), || self.room(), work);
        rows
    }

    fn tiles_back(
        &self,
        layer: &LayerOf<'_>,
        strip: &Strip,
        rows: Vec<LayerView<'_>>,
        slopes: &mut Slopes,
        sums: usize,
        below: bool,
    ) {
        slopes.sums.fill(0.0);
        let views = slopes.tiles(strip, self.strides(), sums);
        let tiles = strip.tiles.iter().zip(rows.into_iter().zip(views));
        for_parts(
            self.threads,
            tiles,
            || self.room(),
            |room, (tile, (rows, mut slopes))| {
                let lengths = strip.lengths.get(tile.texts.clone()).unwrap_or_default();
                layer.back(lengths, &rows, &mut slopes, below, &mut room.room.layer);
            },
        );
    }

    /// Adds what tiles summed up for normalisations and distances.
    fn add_sums(&self, sums: &[f32], count: usize, places: &LayerPlaces, gradients: &mut [Gradient]) {
        let hidden = self.config.hidden;
        for sums in sums.chunks(count) {
            let (norms, table) = sums.split_at(4 * hidden);
            let distances = self.places.distances.map(|place| (place, table));
            for (place, sums) in places.norms.into_iter().zip(norms.chunks(hidden)).chain(distances) {
                if let Some(gradient) = gradients.get_mut(place).and_then(Gradient::dense) {
                    (self.kernels.add)(gradient, sums);
                }
            }
        }
    }

    /// Adds the gradients of a layer's matrices.
    fn add_matrices(
        &self,
        values: &Values<'_>,
        places: &LayerPlaces,
        input: &[f32],
        rows: &LayerRows,
        slopes: &Slopes,
        gradients: &mut [Gradient],
    ) {
        let Strides { state, triple, inner } = self.strides();
        let (hidden, units) = (self.config.hidden, self.config.intermediate);
        let tokens = input.len() / state;
        let states = |values| Columns::new(values, tokens, 0, hidden, state);
        let triples = |number: usize| Columns::new(&slopes.triples, tokens, number * hidden, hidden, triple);
        let units = |values| Columns::new(values, tokens, 0, units, inner);
        // Derivatives by outputs, and inputs, of each matrix.
        let sides = [
            (triples(0), states(input)),
            (triples(1), states(input)),
            (triples(2), states(input)),
            (states(&slopes.middle), states(&rows.context)),
            (units(&slopes.inner), states(&slopes.normed)),
            (states(&slopes.last), units(&slopes.activated)),
        ];
        let mut own: Vec<[Vec<f32>; 4]> = (0..sides.len()).map(|at| taken(places, at, gradients)).collect();
        let mut parts = Vec::new();
        // The largest come first, so that threads end together.
        let matrices = sides.into_iter().zip(own.iter_mut()).enumerate().rev();
        for (at, ((slopes, inputs), [weights, bias, by_a, by_b])) in matrices {
            if let Some(low) = places.low.get(at).copied().flatten().filter(|_| !by_a.is_empty()) {
                let low = LowPart { a: values.of(low.a), b: values.of(low.b), places: low, by_a, by_b };
                parts.push(Part { weights: &mut [], bias: &mut [], slopes, inputs, low: Some(low) });
            }
            parts_of(weights, bias, slopes, inputs, &mut parts);
        }
        for_parts(self.threads, parts.into_iter(), || (), |(), part| part.add());
        for (at, own) in own.into_iter().enumerate() {
            give_back(places, at, own, gradients);
        }
    }
}

/// Cuts a matrix's gradient into parts of rows.
fn parts_of<'a>(
    weights: &'a mut [f32],
    bias: &'a mut [f32],
    slopes: Columns<'a>,
    inputs: Columns<'a>,
    parts: &mut Vec<Part<'a>>,
) {
    let rows = (PART / inputs.count.max(1)).max(PART_ROWS);
    if weights.is_empty() {
        return;
    }
    let cut = weights.chunks_mut(rows * inputs.count).zip(bias.chunks_mut(rows));
    for (number, (weights, bias)) in cut.enumerate() {
        let slopes = slopes.part(number * rows, bias.len());
        parts.push(Part { weights, bias, slopes, inputs, low: None });
    }
}

/// The places of a matrix's weights, bias, and what it learns at low rank.
fn of_matrix(places: &LayerPlaces, at: usize) -> [Option<usize>; 4] {
    let low = places.low.get(at).copied().flatten();
    [
        places.weights.get(at).copied(),
        places.biases.get(at).copied(),
        low.map(|low| low.a),
        low.map(|low| low.b),
    ]
}

/// Takes a matrix's gradients out, those of what does not learn empty.
fn taken(places: &LayerPlaces, at: usize, gradients: &mut [Gradient]) -> [Vec<f32>; 4] {
    of_matrix(places, at).map(|place| match place.and_then(|place| gradients.get_mut(place)) {
        Some(Gradient::Dense(values)) => std::mem::take(values),
        _ => Vec::new(),
    })
}

fn give_back(places: &LayerPlaces, at: usize, own: [Vec<f32>; 4], gradients: &mut [Gradient]) {
    for (place, own) in of_matrix(places, at).into_iter().zip(own) {
        if let Some(Gradient::Dense(values)) = place.and_then(|place| gradients.get_mut(place)) {
            *values = own;
        }
    }
}

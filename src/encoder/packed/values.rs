//! The parameters' values, as the layers want them.

use std::borrow::Cow;

use super::places::{LayerPlaces, Matrices};
use crate::encoder::parameters::{Parameter, Parameters};
use crate::kernel::product::{Before, Matrix, product};

/// The values of all parameters, by place.
pub(super) struct Values<'a>(Vec<&'a Parameter>);

impl<'a> Values<'a> {
    pub(super) fn new(parameters: &'a Parameters) -> Self {
        Self(parameters.iter().collect())
    }

    pub(super) fn of(&self, place: usize) -> &'a [f32] {
        self.0.get(place).map(|parameter| parameter.values.as_slice()).unwrap_or_default()
    }

    /// A layer's matrices and biases: those of queries, keys and values joined, then the others.
    pub(super) fn matrices(&self, places: &LayerPlaces) -> Matrices<'a> {
        let mut joined = [Vec::new(), Vec::new()];
        for number in 0..3 {
            joined[0].extend_from_slice(&self.matrix(places, number));
            joined[1].extend_from_slice(self.of(places.biases[number]));
        }
        let others = [3, 4, 5].map(|number| (self.matrix(places, number), self.of(places.biases[number])));
        Matrices { joined, others }
    }

    /// A matrix, with what was learnt at low rank added.
    pub(super) fn matrix(&self, places: &LayerPlaces, number: usize) -> Cow<'a, [f32]> {
        let weights = self.of(places.weights[number]);
        let Some(low) = places.low[number] else { return weights.into() };
        let (a, b) = (self.of(low.a), self.of(low.b));
        let (inputs, outputs) = (a.len() / low.rank, b.len() / low.rank);
        let mut sum = weights.to_vec();
        let (a, b) = (Matrix::new(a, low.rank, inputs), Matrix::new(b, outputs, low.rank));
        product(&mut sum, inputs, Before::Kept, b, a, low.scale);
        sum.into()
    }
}

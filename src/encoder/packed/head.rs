//! What follows pooling: dense layers, which learn, and the adapter, which does not.

use crate::encoder::config::{Activation, DenseConfig};
use crate::encoder::parameters::{Gradient, Parameters};
use crate::encoder::pooling::parameter;
use crate::error::{Error, Result};
use crate::kernel::product::{Before, Matrix, product};

/// The layers behind pooling.
pub(crate) struct PackedHead {
    dense: Vec<Dense>,
    /// Outputs × inputs.
    adapter: Option<Vec<f32>>,
    dim: usize,
}

struct Dense {
    weight: usize,
    bias: Option<usize>,
    activation: Activation,
    inputs: usize,
    outputs: usize,
}

/// What entered each dense layer, and what left the last.
pub(crate) struct HeadTape {
    rows: Vec<Vec<f32>>,
    texts: usize,
}

impl HeadTape {
    /// Texts that went forward.
    pub(crate) fn texts(&self) -> usize {
        self.texts
    }
}

impl PackedHead {
    /// Layers one after the other, and an adapter, dim × dim.
    pub(crate) fn new(
        layers: &[DenseConfig],
        dim: usize,
        parameters: &Parameters,
        adapter: Option<&[f32]>,
    ) -> Result<Self> {
        let find = |name: String| {
            let place = parameters.iter().position(|parameter| parameter.name == name);
            place.ok_or_else(|| Error::input(format!("the parameter {name} is missing")))
        };
        let dense = layers.iter().map(|dense| {
            Ok(Dense {
                weight: find(parameter(dense, "weight"))?,
                bias: dense.bias.then(|| find(parameter(dense, "bias"))).transpose()?,
                activation: dense.activation,
                inputs: dense.inputs,
                outputs: dense.outputs,
            })
        });
        Ok(Self { dense: dense.collect::<Result<_>>()?, adapter: adapter.map(<[f32]>::to_vec), dim })
    }

    /// Vectors, texts × dim, of pooled states.
    pub(crate) fn forward(&self, parameters: &Parameters, pooled: Vec<f32>) -> (Vec<f32>, HeadTape) {
        let values = super::Values::new(parameters);
        let mut tape = vec![pooled];
        for dense in &self.dense {
            let rows = tape.last().map(Vec::as_slice).unwrap_or_default();
            let count = rows.len() / dense.inputs;
            let mut out = vec![0.0; count * dense.outputs];
            if let Some(bias) = dense.bias {
                out.chunks_exact_mut(dense.outputs).for_each(|row| row.copy_from_slice(values.of(bias)));
            }
            let weight = Matrix::new(values.of(dense.weight), dense.outputs, dense.inputs);
            let inputs = Matrix::new(rows, count, dense.inputs);
            product(&mut out, dense.outputs, Before::Kept, inputs, weight.t(), 1.0);
            if dense.activation == Activation::Tanh {
                out.iter_mut().for_each(|value| *value = value.tanh());
            }
            tape.push(out);
        }
        let last = tape.last().map(Vec::as_slice).unwrap_or_default();
        let vectors = match &self.adapter {
            Some(adapter) => self.adapted(last, Matrix::new(adapter, self.dim, self.dim).t()),
            None => last.to_vec(),
        };
        let texts = vectors.len() / self.dim;
        (vectors, HeadTape { rows: tape, texts })
    }

    fn adapted(&self, rows: &[f32], map: Matrix<'_>) -> Vec<f32> {
        let mut out = vec![0.0; rows.len()];
        product(
            &mut out,
            self.dim,
            Before::Lost,
            Matrix::new(rows, rows.len() / self.dim, self.dim),
            map,
            1.0,
        );
        out
    }

    /// Derivatives by pooled states of those by vectors; adds the gradients of dense layers.
    pub(crate) fn back(&self, parameters: &mut Parameters, tape: &HeadTape, slopes: &[f32]) -> Vec<f32> {
        let mut slopes = match &self.adapter {
            Some(adapter) => self.adapted(slopes, Matrix::new(adapter, self.dim, self.dim)),
            None => slopes.to_vec(),
        };
        for (dense, sides) in self.dense.iter().zip(tape.rows.windows(2)).rev() {
            let (inputs, outputs) = match sides {
                [inputs, outputs] => (inputs, outputs),
                _ => continue,
            };
            if dense.activation == Activation::Tanh {
                slopes.iter_mut().zip(outputs).for_each(|(slope, value)| *slope *= 1.0 - value * value);
            }
            let count = slopes.len() / dense.outputs;
            let by_out = Matrix::new(&slopes, count, dense.outputs);
            let mut below = vec![0.0; count * dense.inputs];
            for (place, parameter) in parameters.iter_mut().enumerate() {
                if place == dense.weight {
                    let weight = Matrix::new(&parameter.values, dense.outputs, dense.inputs);
                    product(&mut below, dense.inputs, Before::Lost, by_out, weight, 1.0);
                    if let Some(gradient) = parameter.gradient.dense() {
                        let inputs = Matrix::new(inputs, count, dense.inputs);
                        product(gradient, dense.inputs, Before::Kept, by_out.t(), inputs, 1.0);
                    }
                } else if let Gradient::Dense(gradient) = &mut parameter.gradient
                    && dense.bias == Some(place)
                {
                    for row in slopes.chunks_exact(dense.outputs) {
                        gradient.iter_mut().zip(row).for_each(|(sum, slope)| *sum += slope);
                    }
                }
            }
            slopes = below;
        }
        slopes
    }
}

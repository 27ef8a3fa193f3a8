//! From token states to one vector: pooling, dense layers, adapter and normalisation.

use super::bert::States;
use crate::encoder::config::{Activation, DenseConfig, ModelConfig, Pooling};
use crate::encoder::failed;
use crate::encoder::pooling::{normalize_rows, parameter};
use crate::encoder::weights::Weights;
use crate::error::Result;
use crate::kernel::matmul_rows;

/// Everything after the transformer but the adapter, which changes while the rest stays.
pub(crate) struct FastHead {
    pooling: Pooling,
    dense: Vec<Dense>,
    normalize: bool,
}

struct Dense {
    /// Outputs × inputs.
    weight: Vec<f32>,
    /// Zeros where the layer has none.
    bias: Vec<f32>,
    activation: Activation,
}

impl FastHead {
    /// Takes the parameters of the dense layers from `weights`.
    pub(crate) fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let dense: Result<Vec<Dense>> = config.dense.iter().map(|dense| Dense::new(dense, weights)).collect();
        Ok(Self { pooling: config.pooling, dense: dense?, normalize: config.normalize })
    }

    /// The vector of a text. `adapter`: outputs × inputs.
    pub(crate) fn apply(&self, states: States<'_>, adapter: Option<&[f32]>) -> Vec<f32> {
        self.finish(pool(self.pooling, states), adapter)
    }

    /// The vector of a text whose states are pooled.
    pub(crate) fn finish(&self, mut vector: Vec<f32>, adapter: Option<&[f32]>) -> Vec<f32> {
        for dense in &self.dense {
            vector = dense.apply(&vector);
        }
        if let Some(adapter) = adapter {
            vector = mapped(&vector, adapter, vec![0.0; vector.len()]);
        }
        if self.normalize {
            let dim = vector.len();
            normalize_rows(&mut vector, dim);
        }
        vector
    }
}

impl Dense {
    fn new(config: &DenseConfig, weights: &Weights) -> Result<Self> {
        let take = |kind: &str| {
            let tensor = weights.get(&parameter(config, kind));
            tensor.map(|tensor| tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(failed)).transpose()
        };
        Ok(Self {
            weight: take("weight")?.unwrap_or_default(),
            bias: take("bias")?.unwrap_or_else(|| vec![0.0; config.outputs]),
            activation: config.activation,
        })
    }

    fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let mut result = mapped(vector, &self.weight, self.bias.clone());
        if self.activation == Activation::Tanh {
            result.iter_mut().for_each(|value| *value = value.tanh());
        }
        result
    }
}

fn pool(pooling: Pooling, states: States<'_>) -> Vec<f32> {
    let (count, mut rows) = (states.rows().len(), states.rows());
    let mut pooled = rows.next().unwrap_or_default().to_vec();
    match pooling {
        Pooling::Cls => {}
        Pooling::Last => pooled = rows.next_back().map_or(pooled, <[f32]>::to_vec),
        Pooling::Mean => {
            for row in rows {
                pooled.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            pooled.iter_mut().for_each(|sum| *sum /= count as f32);
        }
        Pooling::Max => {
            for row in rows {
                pooled.iter_mut().zip(row).for_each(|(most, &value)| *most = most.max(value));
            }
        }
    }
    pooled
}

/// `matrix` (outputs × inputs) times a vector, plus `bias`.
fn mapped(vector: &[f32], matrix: &[f32], bias: Vec<f32>) -> Vec<f32> {
    let mut result = vec![0.0; bias.len()];
    matmul_rows(vector, 1, matrix, vector.len(), bias.len(), &mut result);
    result.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    result
}

//! From token states to one vector, with gradients: pooling, dense layers and adapter.

use candle_core::{Device, Tensor};

use super::batch::TokenBatch;
use super::config::{Activation, DenseConfig, ModelConfig, Pooling};
use super::failed;
use super::files::{ADAPTER, ModelFiles, WEIGHTS};
use super::weights::{self, Weights};
use crate::error::Result;

/// Name of the adapter's tensor.
pub(crate) const ADAPTER_TENSOR: &str = "adapter";

/// Added to padding before the largest value is taken; as sentence-transformers does.
const FAR_BELOW: f32 = -1e9;

/// Norm below which a vector is left as it is: a zero vector has no direction.
const NORM_MIN: f64 = 1e-12;

/// Everything after the transformer but the last normalisation.
#[derive(Clone)]
pub(crate) struct Head {
    pooling: Pooling,
    dense: Vec<Dense>,
    /// Maps vectors after the dense layers, outputs × inputs.
    adapter: Option<Tensor>,
}

#[derive(Clone)]
struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
}

impl Head {
    /// Takes its parameters from `weights`, which has the tensors of [`read_dense`].
    pub(crate) fn new(config: &ModelConfig, weights: &Weights, adapter: Option<Tensor>) -> Self {
        let layer = |dense: &DenseConfig| {
            Some(Dense {
                weight: weights.get(&parameter(dense, "weight"))?.clone(),
                bias: weights.get(&parameter(dense, "bias")).cloned(),
                activation: dense.activation,
            })
        };
        Self { pooling: config.pooling, dense: config.dense.iter().filter_map(layer).collect(), adapter }
    }

    /// Vectors, texts × dim, of token states; not normalised.
    pub(crate) fn apply(&self, states: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        let mut x = self.pool(states, batch)?;
        for dense in &self.dense {
            x = dense.apply(&x).map_err(failed)?;
        }
        match &self.adapter {
            Some(adapter) => x.matmul(&adapter.t().map_err(failed)?).map_err(failed),
            None => Ok(x),
        }
    }

    fn pool(&self, states: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        let pooled = match self.pooling {
            Pooling::Cls => states.narrow(1, 0, 1).and_then(|x| x.squeeze(1)?.contiguous()),
            Pooling::Mean => {
                let shares = batch.mask(|length| 1.0 / length as f32, 0.0)?;
                shares.matmul(states).and_then(|x| x.squeeze(1))
            }
            Pooling::Last => {
                let (texts, width, hidden) = states.dims3().map_err(failed)?;
                let ends = (0u32..)
                    .zip(batch.lengths.iter())
                    .map(|(n, &length)| n * width as u32 + length as u32 - 1);
                let ends = Tensor::from_vec(ends.collect::<Vec<u32>>(), texts, &Device::Cpu);
                states.reshape((texts * width, hidden)).and_then(|rows| rows.index_select(&ends?, 0))
            }
            Pooling::Max => {
                let lift = batch.mask(|_| 0.0, FAR_BELOW)?;
                lift.t().and_then(|lift| states.broadcast_add(&lift)?.max(1))
            }
        };
        pooled.map_err(failed)
    }
}

impl Dense {
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut y = x.matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        match self.activation {
            Activation::Identity => Ok(y),
            Activation::Tanh => y.tanh(),
        }
    }
}

/// Scales each row to length 1; a zero row stays zero.
pub(crate) fn normalize_rows(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_mut(dim) {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(NORM_MIN);
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}

/// The parameters of all dense layers, by `FOLDER/linear.weight` and `FOLDER/linear.bias`.
pub(crate) fn read_dense(files: &ModelFiles, config: &ModelConfig) -> Result<Weights> {
    let mut all = Weights::new();
    for dense in &config.dense {
        let mut shapes = vec![("linear.weight".to_string(), vec![dense.outputs, dense.inputs])];
        if dense.bias {
            shapes.push(("linear.bias".to_string(), vec![dense.outputs]));
        }
        let file = weights_file(dense);
        let read = weights::read(&file, files.required(&file)?, &shapes)?;
        all.extend(read.into_iter().map(|(name, tensor)| (format!("{}/{name}", dense.path), tensor)));
    }
    Ok(all)
}

/// The files of the dense layers with the parameters in `all`.
pub(crate) fn write_dense(files: &mut ModelFiles, config: &ModelConfig, all: &Weights) -> Result<()> {
    for dense in &config.dense {
        let mut weights = Weights::new();
        for kind in ["weight", "bias"] {
            if let Some(tensor) = all.get(&parameter(dense, kind)) {
                weights.insert(format!("linear.{kind}"), tensor.clone());
            }
        }
        let file = weights_file(dense);
        let bytes = weights::write(&file, &weights)?;
        files.insert(file, bytes);
    }
    Ok(())
}

/// The adapter among the files, dim × dim.
pub(crate) fn read_adapter(files: &ModelFiles, dim: usize) -> Result<Option<Tensor>> {
    let Some(bytes) = files.get(ADAPTER) else {
        return Ok(None);
    };
    let shapes = vec![(ADAPTER_TENSOR.to_string(), vec![dim, dim])];
    Ok(weights::read(ADAPTER, bytes, &shapes)?.remove(ADAPTER_TENSOR))
}

/// An adapter, dim × dim, from its values.
pub(crate) fn adapter_tensor(values: Vec<f32>, dim: usize) -> Result<Tensor> {
    Tensor::from_vec(values, (dim, dim), &Device::Cpu).map_err(failed)
}

pub(crate) fn parameter(dense: &DenseConfig, kind: &str) -> String {
    format!("{}/linear.{kind}", dense.path)
}

fn weights_file(dense: &DenseConfig) -> String {
    format!("{}/{WEIGHTS}", dense.path)
}

//! What follows the transformer, on tensors, with gradients that the tensor library finds: for devices other than the
//! processor, and the reference for what is written by hand.

use candle_core::{Device, Result, Tensor};

use super::batch::TokenBatch;
use super::config::{Activation, DenseConfig, Pooling};
use super::pooling::parameter;
use super::weights::Weights;

/// Added to padding before the largest value is taken; as sentence-transformers does.
const FAR_BELOW: f32 = -1e9;

/// Everything after the transformer but the last normalisation.
#[derive(Clone)]
pub(super) struct Head {
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
    /// Takes its parameters from `weights`, which has those of `dense`.
    pub(super) fn new(
        pooling: Pooling,
        dense: &[DenseConfig],
        weights: &Weights,
        adapter: Option<Tensor>,
    ) -> Self {
        let layer = |dense: &DenseConfig| {
            Some(Dense {
                weight: weights.get(&parameter(dense, "weight"))?.clone(),
                bias: weights.get(&parameter(dense, "bias")).cloned(),
                activation: dense.activation,
            })
        };
        Self { pooling, dense: dense.iter().filter_map(layer).collect(), adapter }
    }

    /// Vectors, texts × dim, of token states; not normalised.
    pub(super) fn apply(&self, states: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        let mut x = self.pool(states, batch)?;
        for dense in &self.dense {
            x = dense.apply(&x)?;
        }
        match &self.adapter {
            Some(adapter) => x.matmul(&adapter.t()?),
            None => Ok(x),
        }
    }

    fn pool(&self, states: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        match self.pooling {
            Pooling::Cls => states.narrow(1, 0, 1).and_then(|x| x.squeeze(1)?.contiguous()),
            Pooling::Mean => {
                let shares = mask(batch, |length| 1.0 / length as f32, 0.0, states.device())?;
                shares.matmul(states).and_then(|x| x.squeeze(1))
            }
            Pooling::Last => {
                let (texts, width, hidden) = states.dims3()?;
                let ends = (0u32..)
                    .zip(batch.lengths.iter())
                    .map(|(n, &length)| n * width as u32 + length as u32 - 1);
                let ends = Tensor::from_vec(ends.collect::<Vec<u32>>(), texts, states.device());
                states.reshape((texts * width, hidden)).and_then(|rows| rows.index_select(&ends?, 0))
            }
            Pooling::Max => {
                let lift = mask(batch, |_| 0.0, FAR_BELOW, states.device())?;
                lift.t().and_then(|lift| states.broadcast_add(&lift)?.max(1))
            }
        }
    }
}

impl Dense {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
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

/// A matrix texts × 1 × width: `inside` of its text's length where there is a token, `outside` elsewhere.
fn mask(batch: &TokenBatch, inside: impl Fn(usize) -> f32, outside: f32, device: &Device) -> Result<Tensor> {
    let mut mask = vec![outside; batch.len() * batch.width];
    for (row, &length) in mask.chunks_mut(batch.width).zip(batch.lengths.iter()) {
        row[..length].fill(inside(length));
    }
    Tensor::from_vec(mask, (batch.len(), 1, batch.width), device)
}

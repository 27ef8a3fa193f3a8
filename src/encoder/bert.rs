//! BERT (Devlin et al. 2018, arXiv:1810.04805), differentiable: from token ids to token states.
//!
//! It is for training where [`packed`](super::packed) cannot be, and for comparison; dropout is left out.
//! [`fast`](super::fast) holds the same model for inference, which is tested against this one.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor};

use super::batch::TokenBatch;
use super::family::BertConfig;
use super::family::bert::DISTANCES;
use super::ops::{Gelu, LayerNorm, MaskedSoftmax};
use super::weights::Weights;

/// A transformer with its parameters.
#[derive(Clone)]
pub(crate) struct Bert {
    words: Tensor,
    positions: Tensor,
    token_types: Option<Tensor>,
    /// What is added to scores of attention by distance, classes × heads.
    distances: Option<Tensor>,
    norm: Norm,
    layers: Vec<Layer>,
    config: BertConfig,
    operations: Operations,
}

/// Who normalises, and computes shares of attention and GELU.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operations {
    /// Our operations, in one pass over memory, on the processor.
    Fused,
    /// Those that the tensor library has on every device.
    Plain,
}

impl Operations {
    fn normalise(self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        if self == Self::Fused {
            let op = LayerNorm { epsilon: norm.epsilon };
            return x.contiguous()?.apply_op3(&norm.weight, &norm.bias, op);
        }
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + f64::from(norm.epsilon))?.sqrt()?)?;
        x.broadcast_mul(&norm.weight)?.broadcast_add(&norm.bias)
    }

    /// Shares of keys, texts × heads × width × width, of scores that are to be scaled.
    fn shares(self, scores: &Tensor, scale: f32, batch: &TokenBatch) -> Result<Tensor> {
        if self == Self::Fused {
            return scores.apply_op1(MaskedSoftmax { scale, lengths: Arc::clone(&batch.lengths) });
        }
        let scores = (scores * f64::from(scale))?.broadcast_add(&padding(batch, scores.device())?)?;
        // The largest is taken away for the sake of range: no gradient passes through it.
        let exps = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
        exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)
    }

    fn gelu(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => x.apply_op1(Gelu),
            Self::Plain => x.gelu_erf(),
        }
    }
}

/// What takes keys that are padding away from scores, texts × 1 × 1 × width.
fn padding(batch: &TokenBatch, device: &Device) -> Result<Tensor> {
    /// The exponential of it is zero.
    const AWAY: f32 = -1e9;
    let keys = batch
        .lengths
        .iter()
        .flat_map(|&length| (0..batch.width).map(move |place| if place < length { 0.0 } else { AWAY }));
    Tensor::from_vec(keys.collect::<Vec<f32>>(), (batch.len(), 1, 1, batch.width), device)
}

/// y = x·A + b.
#[derive(Clone)]
struct Linear {
    /// A, inputs × outputs: a view of its transpose, which files hold, so that gradients and changes reach the variable.
    matrix: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(weights: &Weights, name: &str) -> Result<Self> {
        Ok(Self {
            matrix: get(weights, &format!("{name}.weight"))?.t()?,
            bias: get(weights, &format!("{name}.bias"))?,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.matrix)?.broadcast_add(&self.bias)
    }
}

#[derive(Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    fn new(weights: &Weights, name: &str, epsilon: f64) -> Result<Self> {
        Ok(Self {
            weight: get(weights, &format!("{name}.weight"))?,
            bias: get(weights, &format!("{name}.bias"))?,
            epsilon: epsilon as f32,
        })
    }

    fn apply(&self, x: &Tensor, operations: Operations) -> Result<Tensor> {
        operations.normalise(x, self)
    }
}

#[derive(Clone)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    out: Linear,
    norm: Norm,
    operations: Operations,
}

impl Layer {
    fn new(weights: &Weights, prefix: &str, epsilon: f64, operations: Operations) -> Result<Self> {
        let linear = |name: &str| Linear::new(weights, &format!("{prefix}.{name}"));
        let norm = |name: &str| Norm::new(weights, &format!("{prefix}.{name}"), epsilon);
        Ok(Self {
            query: linear("attention.self.query")?,
            key: linear("attention.self.key")?,
            value: linear("attention.self.value")?,
            attention_out: linear("attention.output.dense")?,
            attention_norm: norm("attention.output.LayerNorm")?,
            intermediate: linear("intermediate.dense")?,
            out: linear("output.dense")?,
            norm: norm("output.LayerNorm")?,
            operations,
        })
    }

    /// The layer's first half. `x`: tokens × hidden, of texts that all have `batch.width` tokens, padding included.
    /// `bias`: what is added to scores, heads × width × width.
    fn attend(&self, x: &Tensor, batch: &TokenBatch, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let split = |states: Tensor| {
            states.reshape((batch.len(), batch.width, heads, hidden / heads))?.transpose(1, 2)?.contiguous()
        };
        let query = split(self.query.apply(x)?)?;
        let key = split(self.key.apply(x)?)?;
        let value = split(self.value.apply(x)?)?;
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(bias) = bias {
            // The softmax scales what comes.
            scores = scores.broadcast_add(&(bias / f64::from(scale))?)?;
        }
        let shares = self.operations.shares(&scores, scale, batch)?;
        let context = shares.matmul(&value)?.transpose(1, 2)?.reshape((tokens, hidden))?;
        self.attention_norm.apply(&(self.attention_out.apply(&context)? + x)?, self.operations)
    }

    /// The inner values of the second half, tokens × intermediate, of the states that [`attend`](Self::attend) gives.
    fn inner(&self, x: &Tensor) -> Result<Tensor> {
        self.operations.gelu(&self.intermediate.apply(x)?)
    }

    /// The states that leave the layer.
    fn finish(&self, x: &Tensor, inner: &Tensor) -> Result<Tensor> {
        self.norm.apply(&(self.out.apply(inner)? + x)?, self.operations)
    }

    fn apply(&self, x: &Tensor, batch: &TokenBatch, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        let x = self.attend(x, batch, heads, bias)?;
        self.finish(&x, &self.inner(&x)?)
    }
}

impl Bert {
    /// Takes its parameters from `weights`, which has the tensors of [`BertConfig::shapes`].
    pub(crate) fn new(config: &BertConfig, weights: &Weights) -> Result<Self> {
        Self::with(config, weights, Operations::Fused)
    }

    /// The same by operations that the tensor library has on every device; the tensors may be on any.
    pub(crate) fn of_plain_operations(config: &BertConfig, weights: &Weights) -> Result<Self> {
        Self::with(config, weights, Operations::Plain)
    }

    fn with(config: &BertConfig, weights: &Weights, operations: Operations) -> Result<Self> {
        let layers = (0..config.layers)
            .map(|i| Layer::new(weights, &format!("encoder.layer.{i}"), config.epsilon, operations))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: get(weights, "embeddings.word_embeddings.weight")?,
            positions: get(weights, "embeddings.position_embeddings.weight")?,
            token_types: match config.token_types {
                0 => None,
                _ => Some(get(weights, "embeddings.token_type_embeddings.weight")?),
            },
            distances: (config.distances > 0).then(|| get(weights, DISTANCES)).transpose()?,
            norm: Norm::new(weights, "embeddings.LayerNorm", config.epsilon)?,
            layers,
            config: config.clone(),
            operations,
        })
    }

    /// Token states, texts × width × hidden; those of padding have no meaning.
    #[cfg(test)]
    pub(crate) fn forward(&self, batch: &TokenBatch) -> Result<Tensor> {
        self.above(self.below(batch, 0)?, batch, 0)
    }

    /// The states that enter the layer of this number, (texts · width) × hidden.
    pub(crate) fn below(&self, batch: &TokenBatch, layer: usize) -> Result<Tensor> {
        let words = self.words.index_select(&batch.ids, 0)?;
        let mut x = words.add(&self.positions.index_select(&self.places(batch)?, 0)?)?;
        if let Some(types) = &self.token_types {
            // A single text is all of the first type.
            x = x.broadcast_add(&types.narrow(0, 0, 1)?)?;
        }
        let x = self.norm.apply(&x, self.operations)?;
        self.pass(x, batch, 0..layer)
    }

    /// What the layers from this number on make of the states of [`below`](Self::below): token states,
    /// texts × width × hidden.
    pub(crate) fn above(&self, states: Tensor, batch: &TokenBatch, layer: usize) -> Result<Tensor> {
        let states = self.pass(states, batch, layer..self.layers.len())?;
        states.reshape((batch.len(), batch.width, self.config.hidden))
    }

    /// The inner values of each layer, tokens × intermediate, padding included.
    pub(crate) fn inner(&self, batch: &TokenBatch) -> Result<Vec<Tensor>> {
        let mut states = self.below(batch, 0)?;
        let bias = self.bias(batch.width)?;
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            states = layer.attend(&states, batch, self.config.heads, bias.as_ref())?;
            let inner = layer.inner(&states)?;
            states = layer.finish(&states, &inner)?;
            all.push(inner);
        }
        Ok(all)
    }

    fn pass(&self, mut states: Tensor, batch: &TokenBatch, layers: Range<usize>) -> Result<Tensor> {
        let bias = self.bias(batch.width)?;
        for layer in self.layers.get(layers).unwrap_or_default() {
            states = layer.apply(&states, batch, self.config.heads, bias.as_ref())?;
        }
        Ok(states)
    }

    /// Rows of all tokens in the table of positions.
    fn places(&self, batch: &TokenBatch) -> Result<Tensor> {
        let ids: Vec<u32> = batch.ids.to_vec1()?;
        let places = ids.chunks(batch.width).flat_map(|text| self.config.places(text));
        let places: Vec<u32> = places.map(|place| place as u32).collect();
        let count = places.len();
        Tensor::from_vec(places, count, batch.ids.device())
    }

    /// What is added to scores of attention, heads × width × width.
    fn bias(&self, width: usize) -> Result<Option<Tensor>> {
        let Some(table) = &self.distances else { return Ok(None) };
        let pairs = (0..width as isize).flat_map(|query| (0..width as isize).map(move |key| key - query));
        let classes: Vec<u32> = pairs.map(|ahead| self.config.distance(ahead) as u32).collect();
        let classes = Tensor::from_vec(classes, width * width, table.device())?;
        let heads = self.config.heads;
        table.index_select(&classes, 0)?.t()?.reshape((heads, width, width)).map(Some)
    }
}

fn get(weights: &Weights, name: &str) -> Result<Tensor> {
    match weights.get(name) {
        Some(tensor) => Ok(tensor.clone()),
        None => candle_core::bail!("the parameter {name} is missing"),
    }
}

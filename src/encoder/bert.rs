//! BERT (Devlin et al. 2018, arXiv:1810.04805), differentiable: from token ids to token states.
//!
//! It is for training; dropout is left out. [`fast`](super::fast) holds the same model for inference, which is tested
//! against this one.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::batch::TokenBatch;
use super::config::BertConfig;
use super::ops::{Gelu, LayerNorm, MaskedSoftmax};
use super::weights::{Shapes, Weights};

/// A transformer with its parameters.
#[derive(Clone)]
pub(crate) struct Bert {
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    hidden: usize,
    heads: usize,
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

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let op = LayerNorm { epsilon: self.epsilon };
        x.contiguous()?.apply_op3(&self.weight, &self.bias, op)
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
}

impl Layer {
    fn new(weights: &Weights, prefix: &str, epsilon: f64) -> Result<Self> {
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
        })
    }

    /// `x`: tokens × hidden, of texts that all have `batch.width` tokens, padding included.
    fn apply(&self, x: &Tensor, batch: &TokenBatch, heads: usize) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let split = |states: Tensor| {
            states.reshape((batch.len(), batch.width, heads, hidden / heads))?.transpose(1, 2)?.contiguous()
        };
        let query = split(self.query.apply(x)?)?;
        let key = split(self.key.apply(x)?)?;
        let value = split(self.value.apply(x)?)?;
        let softmax = MaskedSoftmax {
            scale: 1.0 / ((hidden / heads) as f32).sqrt(),
            lengths: Arc::clone(&batch.lengths),
        };
        let probabilities = query.matmul(&key.t()?)?.apply_op1(softmax)?;
        let context = probabilities.matmul(&value)?.transpose(1, 2)?.reshape((tokens, hidden))?;
        let x = self.attention_norm.apply(&(self.attention_out.apply(&context)? + x)?)?;
        let inner = self.intermediate.apply(&x)?.apply_op1(Gelu)?;
        self.norm.apply(&(self.out.apply(&inner)? + &x)?)
    }
}

impl Bert {
    /// Takes its parameters from `weights`, which has the tensors of [`shapes`].
    pub(crate) fn new(config: &BertConfig, weights: &Weights) -> Result<Self> {
        let layers = (0..config.layers)
            .map(|i| Layer::new(weights, &format!("encoder.layer.{i}"), config.epsilon))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: get(weights, "embeddings.word_embeddings.weight")?,
            positions: get(weights, "embeddings.position_embeddings.weight")?,
            token_types: get(weights, "embeddings.token_type_embeddings.weight")?,
            norm: Norm::new(weights, "embeddings.LayerNorm", config.epsilon)?,
            layers,
            hidden: config.hidden,
            heads: config.heads,
        })
    }

    /// Token states, texts × width × hidden; those of padding have no meaning.
    pub(crate) fn forward(&self, batch: &TokenBatch) -> Result<Tensor> {
        self.above(self.below(batch, 0)?, batch, 0)
    }

    /// The states that enter the layer of this number, (texts · width) × hidden.
    pub(crate) fn below(&self, batch: &TokenBatch, layer: usize) -> Result<Tensor> {
        let shape = (batch.len(), batch.width, self.hidden);
        let words = self.words.index_select(&batch.ids, 0)?.reshape(shape)?;
        let places = self.positions.narrow(0, 0, batch.width)?;
        // A single text is all of the first type.
        let places = places.broadcast_add(&self.token_types.narrow(0, 0, 1)?)?;
        let rows = (batch.len() * batch.width, self.hidden);
        let mut x = self.norm.apply(&words.broadcast_add(&places)?.reshape(rows)?)?;
        for layer in self.layers.iter().take(layer) {
            x = layer.apply(&x, batch, self.heads)?;
        }
        Ok(x)
    }

    /// What the layers from this number on make of the states of [`below`](Self::below): token states,
    /// texts × width × hidden.
    pub(crate) fn above(&self, mut states: Tensor, batch: &TokenBatch, layer: usize) -> Result<Tensor> {
        for layer in self.layers.iter().skip(layer) {
            states = layer.apply(&states, batch, self.heads)?;
        }
        states.reshape((batch.len(), batch.width, self.hidden))
    }
}

/// Names and shapes of all parameters.
pub(crate) fn shapes(config: &BertConfig) -> Shapes {
    let (hidden, inner) = (config.hidden, config.intermediate);
    let mut shapes: Shapes = vec![
        ("embeddings.word_embeddings.weight".into(), vec![config.vocabulary, hidden]),
        ("embeddings.position_embeddings.weight".into(), vec![config.positions, hidden]),
        ("embeddings.token_type_embeddings.weight".into(), vec![config.token_types, hidden]),
        ("embeddings.LayerNorm.weight".into(), vec![hidden]),
        ("embeddings.LayerNorm.bias".into(), vec![hidden]),
    ];
    for i in 0..config.layers {
        for (part, outputs, inputs) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            shapes.push((format!("encoder.layer.{i}.{part}.weight"), vec![outputs, inputs]));
            shapes.push((format!("encoder.layer.{i}.{part}.bias"), vec![outputs]));
        }
        for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
            for kind in ["weight", "bias"] {
                shapes.push((format!("encoder.layer.{i}.{part}.{kind}"), vec![hidden]));
            }
        }
    }
    shapes
}

fn get(weights: &Weights, name: &str) -> Result<Tensor> {
    match weights.get(name) {
        Some(tensor) => Ok(tensor.clone()),
        None => candle_core::bail!("the parameter {name} is missing"),
    }
}

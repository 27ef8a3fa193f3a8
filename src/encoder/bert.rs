//! BERT (Devlin et al. 2018, arXiv:1810.04805), differentiable: from token ids to token states.
//!
//! It is for training; dropout is left out. [`fast`](super::fast) holds the same model for inference, which is tested
//! against this one.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

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
        let softmax = MaskedSoftmax { scale, lengths: Arc::clone(&batch.lengths) };
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(bias) = bias {
            // The softmax scales what comes.
            scores = scores.broadcast_add(&(bias / f64::from(scale))?)?;
        }
        let probabilities = scores.apply_op1(softmax)?;
        let context = probabilities.matmul(&value)?.transpose(1, 2)?.reshape((tokens, hidden))?;
        self.attention_norm.apply(&(self.attention_out.apply(&context)? + x)?)
    }

    /// The inner values of the second half, tokens × intermediate, of the states that [`attend`](Self::attend) gives.
    fn inner(&self, x: &Tensor) -> Result<Tensor> {
        self.intermediate.apply(x)?.apply_op1(Gelu)
    }

    /// The states that leave the layer.
    fn finish(&self, x: &Tensor, inner: &Tensor) -> Result<Tensor> {
        self.norm.apply(&(self.out.apply(inner)? + x)?)
    }

    fn apply(&self, x: &Tensor, batch: &TokenBatch, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        let x = self.attend(x, batch, heads, bias)?;
        self.finish(&x, &self.inner(&x)?)
    }
}

impl Bert {
    /// Takes its parameters from `weights`, which has the tensors of [`BertConfig::shapes`].
    pub(crate) fn new(config: &BertConfig, weights: &Weights) -> Result<Self> {
        let layers = (0..config.layers)
            .map(|i| Layer::new(weights, &format!("encoder.layer.{i}"), config.epsilon))
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
        let x = self.norm.apply(&x)?;
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

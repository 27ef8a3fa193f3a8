//! An encoder whose parameters are candle variables, for the trainer.

use candle_core::{Tensor, Var};

use super::batch::{TokenBatch, plan};
use super::bert::Bert;
use super::family::Family;
use super::family::bert::{DISTANCES, Kind};
use super::files::ModelFiles;
use super::pooling::{Head, write_dense};
use super::prepared::{PrepareLimits, PreparedTexts, prepare};
use super::weights::{self, Weights};
use super::{Encoder, failed};
use crate::error::{Error, Result};
use crate::options::Task;

/// A copy of an encoder that gradients flow through: transformer (or its topmost layers) and dense layers
/// are variables, the adapter stays as it is.
pub struct TrainableEncoder {
    source: Encoder,
    variables: Vec<(String, Var)>,
    kind: Kind,
    pad: u32,
    bert: Bert,
    head: Head,
    /// The first layer that is trained; all below, and the embeddings if it is not 0, are fixed.
    first: usize,
}

impl TrainableEncoder {
    /// `top`: how many of the topmost layers are trained; by default everything.
    pub(crate) fn new(source: &Encoder, top: Option<usize>) -> Result<Self> {
        source.check_trainable()?;
        let config = source.config();
        let Family::Bert(shape) = &config.family else { return Err(source.untrainable()) };
        let first = top.map_or(0, |top| shape.layers.saturating_sub(top));
        let trained = |name: &str| match name.strip_prefix("encoder.layer.") {
            _ if top.is_none() => true,
            Some(rest) => {
                rest.split('.').next().and_then(|n| n.parse().ok()).is_some_and(|n: usize| n >= first)
            }
            // What all layers share is below them.
            None => !name.starts_with("embeddings.") && name != DISTANCES,
        };
        let (bert, dense) = source.read_weights()?;
        let mut variables = Vec::new();
        let mut tensors = Weights::new();
        for (name, tensor) in bert.into_iter().chain(dense) {
            if trained(&name) {
                let variable = Var::from_tensor(&tensor).map_err(failed)?;
                tensors.insert(name.clone(), variable.as_tensor().clone());
                variables.push((name, variable));
            } else {
                tensors.insert(name, tensor);
            }
        }
        Ok(Self {
            bert: Bert::new(shape, &tensors).map_err(failed)?,
            head: Head::new(config, &tensors, source.adapter_tensor().cloned()),
            source: source.clone(),
            kind: shape.kind,
            pad: shape.pad,
            variables,
            first,
        })
    }

    /// All variables with their names (BERT's, without a prefix, whatever they are called in files), sorted; those
    /// of dense layers begin with the layer's folder and `/`.
    pub fn variables(&self) -> Vec<(String, Var)> {
        self.variables.clone()
    }

    /// Token ids of `texts`, cut at the model's limit, padded to the longest.
    pub fn tokenize(&self, texts: &[&str]) -> Result<TokenBatch> {
        let ids = self.source.tokenizer().encode_batch(texts)?;
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        TokenBatch::new(&rows, self.pad)
    }

    /// Vectors of `texts`, texts × dim, with their graph: after dense layers and adapter, not normalised.
    pub fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        self.embed_tokens(&self.tokenize(texts)?)
    }

    /// The same for texts already tokenized.
    pub fn embed_tokens(&self, batch: &TokenBatch) -> Result<Tensor> {
        let states = self.bert.forward(batch).map_err(failed)?;
        self.head.apply(&states, batch)
    }

    /// Makes texts ready for many passes: tokens, and what the fixed layers make of them, as long as there is
    /// room. Reports the stage "prepare".
    pub fn prepare(&self, texts: &[&str], limits: &PrepareLimits, task: &Task) -> Result<PreparedTexts> {
        let ids = self.source.tokenizer().encode_batch(texts)?;
        prepare(&self.bert, ids, self.first, self.pad, limits, task)
    }

    /// Vectors of the texts of these numbers, in this order, with their graph; as of [`embed`](Self::embed).
    ///
    /// Texts of nearly equal lengths are computed together, so that little of the work is padding.
    pub fn embed_prepared(&self, texts: &PreparedTexts, numbers: &[usize]) -> Result<Tensor> {
        let lengths: Option<Vec<usize>> = numbers.iter().map(|&number| texts.length(number)).collect();
        let lengths =
            lengths.ok_or_else(|| Error::input("a text that was not prepared cannot be trained on"))?;
        let (order, ranges) = plan(&lengths);
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let group: Vec<usize> = order
                .get(range)
                .unwrap_or_default()
                .iter()
                .filter_map(|&at| numbers.get(at).copied())
                .collect();
            let (batch, states) = texts.states(&self.bert, &group)?;
            let states = self.bert.above(states, &batch, self.first).map_err(failed)?;
            parts.push(self.head.apply(&states, &batch)?);
        }
        let mut places = vec![0u32; order.len()];
        for (place, &at) in (0..).zip(&order) {
            if let Some(slot) = places.get_mut(at) {
                *slot = place;
            }
        }
        let places = Tensor::from_vec(places, order.len(), &candle_core::Device::Cpu);
        Tensor::cat(&parts, 0).and_then(|sorted| sorted.index_select(&places?, 0)).map_err(failed)
    }

    /// The model's files with the variables' present values, in f32; tensors that the encoder does
    /// not use stay as they are.
    pub fn to_files(&self) -> Result<ModelFiles> {
        let (mut all, dense) = self.source.read_weights()?;
        all.extend(dense);
        all.extend(self.variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())));
        let mut files = self.source.files().clone();
        let named = all.iter().map(|(name, tensor)| (self.kind.in_files(name), tensor.clone())).collect();
        for file in weights::files_of(&files)? {
            let bytes = weights::replace(&file, files.required(&file)?, &named)?;
            files.insert(file, bytes);
        }
        write_dense(&mut files, self.source.config(), &all)?;
        Ok(files)
    }
}

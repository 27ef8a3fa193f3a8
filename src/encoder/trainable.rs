//! An encoder whose parameters are candle variables, for the trainer.

use candle_core::{Tensor, Var};

use super::batch::TokenBatch;
use super::bert::{Bert, Use};
use super::files::{ModelFiles, WEIGHTS};
use super::pooling::{Head, write_dense};
use super::weights::{self, Weights};
use super::{Encoder, failed};
use crate::error::Result;

/// A copy of an encoder that gradients flow through: transformer and dense layers are variables, the
/// adapter stays as it is.
pub struct TrainableEncoder {
    source: Encoder,
    variables: Vec<(String, Var)>,
    bert: Bert,
    head: Head,
}

impl TrainableEncoder {
    pub(crate) fn new(source: &Encoder) -> Result<Self> {
        let config = source.config();
        let (bert, dense) = source.read_weights()?;
        let mut variables = Vec::new();
        let mut tensors = Weights::new();
        for (name, tensor) in bert.into_iter().chain(dense) {
            let variable = Var::from_tensor(&tensor).map_err(failed)?;
            tensors.insert(name.clone(), variable.as_tensor().clone());
            variables.push((name, variable));
        }
        Ok(Self {
            bert: Bert::new(&config.bert, &tensors, Use::Training).map_err(failed)?,
            head: Head::new(config, &tensors, source.adapter_tensor().cloned()),
            source: source.clone(),
            variables,
        })
    }

    /// All variables with their names in the model's files (without the prefix `bert.`), sorted; those
    /// of dense layers begin with the layer's folder and `/`.
    pub fn variables(&self) -> Vec<(String, Var)> {
        self.variables.clone()
    }

    /// Token ids of `texts`, cut at the model's limit, padded to the longest.
    pub fn tokenize(&self, texts: &[&str]) -> Result<TokenBatch> {
        let ids = self.source.tokenizer().encode_batch(texts)?;
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        TokenBatch::new(&rows, self.source.config().bert.pad)
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

    /// The model's files with the variables' present values, in f32; tensors that the encoder does
    /// not use stay as they are.
    pub fn to_files(&self) -> Result<ModelFiles> {
        let weights: Weights =
            self.variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
        let mut files = self.source.files().clone();
        let bytes = weights::replace(WEIGHTS, files.required(WEIGHTS)?, &weights)?;
        files.insert(WEIGHTS, bytes);
        write_dense(&mut files, self.source.config(), &weights)?;
        Ok(files)
    }
}

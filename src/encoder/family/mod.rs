//! Families of models: what `config.json` says of each.
//!
//! | file | what it holds |
//! |---|---|
//! | `bert` | BERT and what follows it: RoBERTa and XLM-R, MPNet, DistilBERT |
//! | `decoder` | Llama, Mistral, Qwen2, Qwen3 |
//! | `fixed` | static models: a vector for each token |
//!
//! Every size is checked here, before anything is allocated for it.

pub(crate) mod bert;
pub(crate) mod decoder;
pub(crate) mod fixed;

use serde::Deserialize;

pub(crate) use self::bert::BertConfig;
pub(crate) use self::decoder::DecoderConfig;
pub(crate) use self::fixed::FixedConfig;

use super::config::parse;
use super::files::{CONFIG, ModelFiles};
use crate::error::{Error, Result};

/// Most layers of a transformer.
const LAYERS_MAX: usize = 256;
const HEADS_MAX: usize = 1_024;
const INTERMEDIATE_MAX: usize = 1 << 20;
const VOCABULARY_MAX: usize = 1 << 24;
const POSITIONS_MAX: usize = 1 << 20;

/// What makes vectors of tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Family {
    /// Attends to both sides; can be trained.
    Bert(BertConfig),
    /// Attends to what came before.
    Decoder(DecoderConfig),
    /// A vector for each token, whatever stands beside it.
    Fixed(FixedConfig),
}

impl Family {
    /// Reads the shape of a transformer, whose configuration is in the folder itself.
    pub(crate) fn read_transformer(files: &ModelFiles) -> Result<Self> {
        let kind = model_type(files)?;
        if let Some(kind) = bert::Kind::of(kind.as_deref()) {
            return BertConfig::read(files, kind).map(Self::Bert);
        }
        let kind = kind.unwrap_or_default();
        match decoder::Kind::of(&kind) {
            Some(kind) => DecoderConfig::read(files, kind).map(Self::Decoder),
            None => Err(Error::input(format!(
                "the model's model_type is {kind:?}; supported are bert, roberta, xlm-roberta, camembert, mpnet, \
                 distilbert, llama, mistral, qwen2, qwen3 and model2vec"
            ))),
        }
    }

    /// Values of a token's state.
    pub(crate) fn hidden(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden,
            Self::Decoder(config) => config.hidden,
            Self::Fixed(config) => config.dim,
        }
    }

    /// Tokens that the model knows.
    pub(crate) fn vocabulary(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocabulary,
            Self::Decoder(config) => config.vocabulary,
            Self::Fixed(config) => config.vocabulary,
        }
    }

    /// Transformer layers.
    pub(crate) fn layers(&self) -> usize {
        match self {
            Self::Bert(config) => config.layers,
            Self::Decoder(config) => config.layers,
            Self::Fixed(_) => 0,
        }
    }

    /// Tokens of a text that the model can read.
    pub(crate) fn positions(&self) -> usize {
        match self {
            Self::Bert(config) => config.tokens(),
            Self::Decoder(config) => config.positions,
            Self::Fixed(config) => config.tokens,
        }
    }

    /// What stands for a text without tokens.
    pub(crate) fn pad(&self) -> Option<u32> {
        match self {
            Self::Bert(config) => Some(config.pad),
            Self::Decoder(config) => Some(config.pad),
            Self::Fixed(_) => None,
        }
    }
}

/// The family's name, if the model has a configuration that says it.
pub(crate) fn model_type(files: &ModelFiles) -> Result<Option<String>> {
    // Alone: another family's configuration lacks one family's keys.
    #[derive(Deserialize)]
    struct Named {
        model_type: Option<String>,
    }
    match files.get(CONFIG) {
        Some(bytes) => Ok(parse::<Named>(CONFIG, bytes)?.model_type),
        None => Ok(None),
    }
}

fn supported(key: &str, value: Option<&str>, expected: &str) -> Result<()> {
    match value {
        Some(other) if other != expected => {
            Err(Error::input(format!("the model's {key} is {other:?}; only {expected:?} is supported")))
        }
        _ => Ok(()),
    }
}

fn size(key: &str, value: usize, most: usize) -> Result<usize> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(Error::corrupt(CONFIG, 0, format!("{key} is {value}, not between 1 and {most}")))
}

fn small(key: &str, value: f64) -> Result<f64> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err(Error::corrupt(CONFIG, 0, format!("{key} is {value}, not between 0 and 1")))
}

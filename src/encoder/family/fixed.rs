//! Static models: a vector for each token, whatever stands beside it; a text's vector is their mean.
//!
//! Two layouts hold them: model2vec's (van Dongen and Tulkens 2024), `embeddings` in the folder itself, which may have
//! weights of tokens and a mapping of tokens to rows; and that of sentence-transformers' module `StaticEmbedding`.

use serde::Deserialize;

use super::super::config::parse;
use super::super::files::{CONFIG, ModelFiles, TOKENIZER, WEIGHTS};
use super::{VOCABULARY_MAX, model_type};
use crate::encoder::fast::FixedTable;
use crate::encoder::weights::Stored;
use crate::error::{Error, Result};
use crate::options::limits;

/// Names of the table in the two layouts.
pub(crate) const TABLES: [&str; 2] = ["embeddings", "embedding.weight"];
/// Weights of tokens.
pub(crate) const TOKEN_WEIGHTS: &str = "weights";
/// Rows of tokens.
pub(crate) const MAPPING: &str = "mapping";

/// Tokens that model2vec reads where the model does not say it. Also what longer texts are cut into for storing: the mean
/// of more says little.
pub(crate) const TOKENS: usize = 512;
/// Tokens that are read otherwise: sentence-transformers knows no limit.
const TOKENS_MAX: usize = 1 << 20;

/// Shape of a static model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FixedConfig {
    /// Folder of weights and tokenizer, with the `/` behind it; nothing for the model's own.
    pub(crate) folder: String,
    /// Name of the table.
    pub(crate) table: &'static str,
    pub(crate) rows: usize,
    pub(crate) dim: usize,
    /// Tokens that have a row.
    pub(crate) vocabulary: usize,
    pub(crate) has_weights: bool,
    pub(crate) has_mapping: bool,
    /// Tokens of a text that are read.
    pub(crate) tokens: usize,
    /// Whether tokens that the tokenizer does not know are left out.
    pub(crate) drops_unknown: bool,
    /// Whether the configuration asks for vectors of length 1.
    pub(crate) normalize: bool,
}

#[derive(Deserialize, Default)]
struct Raw {
    normalize: Option<bool>,
    max_length: Option<usize>,
}

impl FixedConfig {
    /// Reads the shape of the model in a folder of a model.
    pub(crate) fn read(files: &ModelFiles, path: &str) -> Result<Self> {
        let folder = match path {
            "" | "." => String::new(),
            path => format!("{}/", path.trim_end_matches('/')),
        };
        let model2vec = model_type(files)?.as_deref() == Some("model2vec");
        let raw: Raw = match files.get(CONFIG) {
            Some(bytes) if model2vec => parse(CONFIG, bytes)?,
            _ => Raw::default(),
        };
        let file = format!("{folder}{WEIGHTS}");
        let stored = Stored::one(&file, files.required(&file)?)?;
        let found = TABLES.into_iter().find_map(|name| Some((name, stored.shape(name)?)));
        let Some((table, &[rows, dim])) = found.as_ref().map(|(name, shape)| (*name, shape.as_slice()))
        else {
            return Err(Error::corrupt(
                file,
                0,
                "it has no table `embeddings` or `embedding.weight`, tokens × dim",
            ));
        };
        let list = |name: &str| match stored.shape(name).as_deref() {
            None => Ok(None),
            Some(&[count]) => Ok(Some(count)),
            Some(other) => {
                Err(Error::corrupt(&file, 0, format!("{name} has the shape {other:?}, not one number")))
            }
        };
        let (weights, mapping) = (list(TOKEN_WEIGHTS)?, list(MAPPING)?);
        let vocabulary = mapping.unwrap_or(rows).min(weights.unwrap_or(usize::MAX));
        let problem = if dim == 0 || dim > limits::DIM || rows == 0 {
            format!("{table} has the shape {rows} × {dim}")
        } else if vocabulary == 0 || vocabulary > VOCABULARY_MAX {
            format!("it knows {vocabulary} tokens, not 1 to {VOCABULARY_MAX}")
        } else {
            let unlimited = if model2vec { TOKENS } else { TOKENS_MAX };
            let tokens = raw.max_length.unwrap_or(unlimited).clamp(1, TOKENS_MAX);
            return Ok(Self {
                folder,
                table,
                rows,
                dim,
                vocabulary,
                has_weights: weights.is_some(),
                has_mapping: mapping.is_some(),
                tokens,
                drops_unknown: model2vec,
                normalize: raw.normalize.unwrap_or(false),
            });
        };
        Err(Error::corrupt(file, 0, problem))
    }

    /// The table.
    pub(crate) fn read_table(&self, files: &ModelFiles) -> Result<FixedTable> {
        let file = self.weights_file();
        FixedTable::new(self, &Stored::one(&file, files.required(&file)?)?)
    }

    /// Path of the weights.
    pub(crate) fn weights_file(&self) -> String {
        format!("{}{WEIGHTS}", self.folder)
    }

    /// Path of the tokenizer.
    pub(crate) fn tokenizer_file(&self) -> String {
        format!("{}{TOKENIZER}", self.folder)
    }
}

//! A model of any family: token ids to vectors.

use super::{FastBert, FastDecoder, FastHead, FixedTable};
use crate::encoder::config::ModelConfig;
use crate::encoder::family::Family;
use crate::encoder::files::ModelFiles;
use crate::error::Result;
use crate::types::Precision;

/// What makes states of tokens.
pub(crate) enum Model {
    Bert(Box<FastBert>),
    Decoder(Box<FastDecoder>),
    Fixed(FixedTable),
}

impl Model {
    /// Reads and packs the parameters.
    pub(crate) fn read(files: &ModelFiles, config: &ModelConfig, precision: Precision) -> Result<Self> {
        match &config.family {
            Family::Bert(bert) => Ok(Self::Bert(Box::new(FastBert::new(bert, files, precision)?))),
            Family::Decoder(decoder) => {
                Ok(Self::Decoder(Box::new(FastDecoder::new(decoder, files, precision)?)))
            }
            Family::Fixed(fixed) => fixed.read_table(files).map(Self::Fixed),
        }
    }

    /// Vectors of texts given by their tokens, of which the first `skipped` are not pooled.
    pub(crate) fn vectors(
        &self,
        texts: &[&[u32]],
        head: &FastHead,
        adapter: Option<&[f32]>,
        skipped: usize,
    ) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Bert(bert) => bert.forward(texts, |states| head.apply(states.after(skipped), adapter)),
            Self::Decoder(decoder) => {
                decoder.forward(texts, |states| head.apply(states.after(skipped), adapter))
            }
            Self::Fixed(table) => {
                texts.iter().map(|ids| Ok(head.finish(table.mean(ids)?, adapter))).collect()
            }
        }
    }
}

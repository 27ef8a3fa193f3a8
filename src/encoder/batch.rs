//! Padded batches of token ids.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::failed;
use crate::error::{Error, Result};

/// Token ids of some texts, padded at the right to the longest.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// Ids, texts × width.
    pub(crate) ids: Tensor,
    /// Tokens of each text, at least one.
    pub(crate) lengths: Arc<[usize]>,
    /// Tokens of the longest text.
    pub(crate) width: usize,
}

impl TokenBatch {
    /// Pads `texts`, each at least one token, with `pad`.
    pub fn new(texts: &[&[u32]], pad: u32) -> Result<Self> {
        let lengths: Arc<[usize]> = texts.iter().map(|ids| ids.len()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        if width == 0 || lengths.contains(&0) {
            return Err(Error::input("a batch needs texts of at least one token"));
        }
        let mut ids = vec![pad; texts.len() * width];
        for (row, text) in ids.chunks_mut(width).zip(texts) {
            row[..text.len()].copy_from_slice(text);
        }
        let ids = Tensor::from_vec(ids, texts.len() * width, &Device::Cpu).map_err(failed)?;
        Ok(Self { ids, lengths, width })
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no text; never so.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_needs_tokens() {
        assert!(TokenBatch::new(&[], 0).is_err());
        assert!(TokenBatch::new(&[&[1], &[]], 0).is_err());
    }
}

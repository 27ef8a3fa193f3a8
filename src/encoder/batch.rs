//! Padded batches of token ids, and how many texts are cut into them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::failed;
use crate::error::{Error, Result};

/// Padded tokens of a batch: enough rows for the matrix products to run at full speed,
/// few enough for the layers' intermediate results to stay near the caches.
const BATCH_TOKENS: usize = 2_048;

/// Padded tokens below which a batch takes shorter texts, whatever the padding: small products are
/// slow for other reasons.
const SMALL_TOKENS: usize = 256;

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

    /// A matrix texts × 1 × width: `inside` of its text's length where there is a token, `outside` elsewhere.
    pub(crate) fn mask(&self, inside: impl Fn(usize) -> f32, outside: f32) -> Result<Tensor> {
        let mut mask = vec![outside; self.len() * self.width];
        for (row, &length) in mask.chunks_mut(self.width).zip(self.lengths.iter()) {
            row[..length].fill(inside(length));
        }
        Tensor::from_vec(mask, (self.len(), 1, self.width), &Device::Cpu).map_err(failed)
    }
}

/// Order of the texts by length, longest first, and the ranges of that order that form batches of
/// nearly equal lengths. A function of the lengths alone.
pub(crate) fn plan(lengths: &[usize]) -> (Vec<usize>, Vec<Range<usize>>) {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut batches = Vec::new();
    let mut start = 0;
    while start < order.len() {
        let longest = lengths[order[start]].max(1);
        let mut end = start + 1;
        while end < order.len() {
            let tokens = (end - start) * longest;
            let near = lengths[order[end]] * 10 >= longest * 9;
            if tokens + longest > BATCH_TOKENS || !(near || tokens < SMALL_TOKENS) {
                break;
            }
            end += 1;
        }
        batches.push(start..end);
        start = end;
    }
    (order, batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_once_within_their_budget() {
        let lengths: Vec<usize> = (0..1_000).map(|i| 1 + i * 7_919 % 256).collect();
        let (order, batches) = plan(&lengths);
        let mut seen: Vec<usize> = batches.iter().flat_map(|b| order[b.clone()].to_vec()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
        let mut padded = 0;
        for batch in &batches {
            let longest = batch.clone().map(|i| lengths[order[i]]).max().unwrap();
            assert!(longest * batch.len() <= BATCH_TOKENS);
            padded += longest * batch.len();
        }
        let tokens: usize = lengths.iter().sum();
        assert!(padded * 20 < tokens * 21, "{padded} padded for {tokens} tokens");
    }

    #[test]
    fn a_text_longer_than_the_budget_gets_its_own_batch() {
        assert_eq!(plan(&[5_000, 6_000]).1, [0..1, 1..2]);
        assert!(plan(&[]).1.is_empty());
    }

    #[test]
    fn a_batch_needs_tokens() {
        assert!(TokenBatch::new(&[], 0).is_err());
        assert!(TokenBatch::new(&[&[1], &[]], 0).is_err());
    }
}

//! Texts made ready for training: tokens, and the states in which they enter the first trained layer.
//!
//! Layers that are not trained give the same states in every pass. They are computed once and kept in f16, half
//! of what they take in f32; beyond a bound they are computed again whenever they are needed.

use candle_core::{DType, Tensor};

use super::batch::{TokenBatch, plan};
use super::bert::Bert;
use super::failed;
use crate::error::{Error, Result};
use crate::options::Task;

/// Bounds on what is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareLimits {
    /// Tokens of a text, special ones included; what is longer is cut.
    pub tokens: usize,
    /// Bytes of kept states.
    pub bytes: usize,
}

impl Default for PrepareLimits {
    fn default() -> Self {
        Self { tokens: 128, bytes: 1 << 30 }
    }
}

/// Texts made ready, known by their numbers.
pub struct PreparedTexts {
    ids: Vec<Vec<u32>>,
    /// Tokens × hidden, in f16, of texts whose states are kept.
    kept: Vec<Option<Tensor>>,
    first: usize,
    pad: u32,
}

/// Prepares texts, given by their tokens, for a transformer that is trained from layer `first` on.
pub(crate) fn prepare(
    bert: &Bert,
    mut ids: Vec<Vec<u32>>,
    first: usize,
    pad: u32,
    limits: &PrepareLimits,
    task: &Task,
) -> Result<PreparedTexts> {
    ids.iter_mut().for_each(|ids| cut(ids, limits.tokens));
    let mut texts = PreparedTexts { kept: vec![None; ids.len()], ids, first, pad };
    if first > 0 {
        texts.keep_states(bert, limits.bytes, task)?;
    }
    Ok(texts)
}

/// Cuts a text's tokens, but not the special one at the end.
fn cut(ids: &mut Vec<u32>, most: usize) {
    if let Some(&last) = ids.last().filter(|_| ids.len() > most.max(2)) {
        ids.truncate(most.max(2) - 1);
        ids.push(last);
    }
}

impl PreparedTexts {
    /// Tokens of a text.
    pub(crate) fn length(&self, number: usize) -> Option<usize> {
        self.ids.get(number).map(Vec::len)
    }

    /// Texts whose states are kept.
    pub fn kept(&self) -> usize {
        self.kept.iter().flatten().count()
    }

    fn keep_states(&mut self, bert: &Bert, bytes: usize, task: &Task) -> Result<()> {
        let lengths: Vec<usize> = self.ids.iter().map(Vec::len).collect();
        let (order, ranges) = plan(&lengths);
        let (mut room, mut done) = (bytes / size_of::<u16>(), 0);
        for range in ranges {
            let group = order.get(range).unwrap_or_default();
            task.step("prepare", done, order.len() as u64)?;
            done += group.len() as u64;
            let batch = self.batch(group)?;
            let states = bert.below(&batch, self.first).map_err(failed)?;
            let Some(left) = room.checked_sub(states.elem_count()) else { break };
            room = left;
            for (place, (&number, &length)) in group.iter().zip(batch.lengths.iter()).enumerate() {
                let own =
                    states.narrow(0, place * batch.width, length).and_then(|own| own.to_dtype(DType::F16));
                if let Some(slot) = self.kept.get_mut(number) {
                    *slot = Some(own.map_err(failed)?);
                }
            }
        }
        task.step("prepare", order.len() as u64, order.len() as u64)
    }

    fn batch(&self, numbers: &[usize]) -> Result<TokenBatch> {
        let ids: Vec<&[u32]> = numbers.iter().filter_map(|&n| self.ids.get(n)).map(Vec::as_slice).collect();
        if ids.len() < numbers.len() {
            return Err(Error::input("a text that was not prepared cannot be trained on"));
        }
        TokenBatch::new(&ids, self.pad)
    }

    /// The states in which some texts enter the first trained layer, (texts · width) × hidden.
    pub(crate) fn states(&self, bert: &Bert, numbers: &[usize]) -> Result<(TokenBatch, Tensor)> {
        let batch = self.batch(numbers)?;
        let kept: Option<Vec<&Tensor>> = numbers.iter().map(|&n| self.kept.get(n)?.as_ref()).collect();
        let states = match kept {
            Some(kept) => padded(&kept, batch.width).map_err(failed)?,
            None => bert.below(&batch, self.first).map_err(failed)?,
        };
        Ok((batch, states))
    }
}

/// States of texts, tokens × hidden each, below one another with zeros up to `width` tokens, in f32.
fn padded(texts: &[&Tensor], width: usize) -> candle_core::Result<Tensor> {
    let rows: candle_core::Result<Vec<Tensor>> =
        texts.iter().map(|text| text.pad_with_zeros(0, 0, width - text.dim(0)?)).collect();
    Tensor::cat(&rows?, 0)?.to_dtype(DType::F32)
}

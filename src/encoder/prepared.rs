//! Texts made ready for training: tokens, and the states in which they enter the lowest layer that learns.
//!
//! Layers that do not learn give the same states in every pass. They are computed once and kept in f16, half
//! of what they take in f32; beyond a bound they are computed again whenever they are needed.

use half::f16;

use super::packed::{Input, Transformer};
use super::parameters::Parameters;
use crate::error::{Error, Result};
use crate::options::Task;

/// Texts computed at a time.
const AT_ONCE: usize = 256;

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
    /// Tokens × hidden of texts whose states are kept.
    kept: Vec<Option<Vec<f16>>>,
}

impl PreparedTexts {
    /// Texts given by their tokens.
    pub(super) fn new(mut ids: Vec<Vec<u32>>, tokens: usize) -> Self {
        ids.iter_mut().for_each(|ids| cut(ids, tokens));
        Self { kept: vec![None; ids.len()], ids }
    }

    /// Texts whose states are kept.
    pub fn kept(&self) -> usize {
        self.kept.iter().flatten().count()
    }

    /// Computes and keeps states of as many texts, from the first on, as `bytes` hold.
    pub(super) fn keep_states(
        &mut self,
        transformer: &Transformer,
        parameters: &Parameters,
        hidden: usize,
        bytes: usize,
        task: &Task,
    ) -> Result<()> {
        let mut room = bytes / size_of::<f16>();
        let fits = |ids: &&Vec<u32>| match room.checked_sub(ids.len() * hidden) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let count = self.ids.iter().take_while(fits).count();
        for start in (0..count).step_by(AT_ONCE) {
            task.step("prepare", start as u64, count as u64)?;
            let numbers: Vec<usize> = (start..count.min(start + AT_ONCE)).collect();
            let states = transformer.below(parameters, &self.inputs(&numbers)?)?;
            for (slot, states) in self.kept.iter_mut().skip(start).zip(states) {
                *slot = Some(states);
            }
        }
        task.step("prepare", count as u64, count as u64)
    }

    /// What goes forward of the texts of these numbers.
    pub(super) fn inputs(&self, numbers: &[usize]) -> Result<Vec<Input<'_>>> {
        let input = |&number: &usize| {
            let ids = self.ids.get(number);
            let ids = ids.ok_or_else(|| Error::input("a text that was not prepared cannot be trained on"))?;
            Ok(Input { ids, states: self.kept.get(number).and_then(Option::as_deref) })
        };
        numbers.iter().map(input).collect()
    }
}

/// Cuts a text's tokens, but not the special one at the end.
fn cut(ids: &mut Vec<u32>, most: usize) {
    if let Some(&last) = ids.last().filter(|_| ids.len() > most.max(2)) {
        ids.truncate(most.max(2) - 1);
        ids.push(last);
    }
}

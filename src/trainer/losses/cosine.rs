//! Cosine similarity loss: the cosine of two texts is to be their score.
//!
//! The mean square of the difference (Reimers and Gurevych: Sentence-BERT, 2019, arXiv:1908.10084). With a teacher's
//! scores in place of people's this is the plainest distillation.

use super::arithmetic::{Between, Similarity, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Cosine similarity loss. Sides: two; [`Batch::targets`] gives the score of each pair, in -1..=1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CosineScores;

impl Loss for CosineScores {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(2..=2)?;
        batch.check_targets(1)?;
        let mut slope = batch.level();
        let total = batch.total_weight();
        for (example, &target) in batch.targets.iter().enumerate() {
            let of = |side: usize| row(batch.sides[side], example, batch.dim);
            let off = Similarity::Cosine.of(of(0), of(1)) - f64::from(target);
            let share = batch.weight(example) / total;
            slope.value += share * off * off;
            let at = Between { a: (0, example), b: (1, example) };
            Similarity::Cosine.backward(batch.sides, batch.dim, at, 2.0 * share * off, &mut slope.sides);
        }
        Ok(slope)
    }
}

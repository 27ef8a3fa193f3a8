//! Margin MSE: the positive as much more similar than the negative as a teacher finds.
//!
//! The mean square of (s(query, positive) − s(query, negative)) − the teacher's margin (Hofstätter et al.: Improving
//! Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation, 2020, arXiv:2010.02666). Only margins
//! count, so that teacher and student may live on different scales as long as the margins do not.

use super::arithmetic::{Between, Similarity, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Margin MSE. Sides: queries, positives, one or more negatives; [`Batch::targets`] gives for each example the margin to
/// each negative, or the scores of positive and negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarginMse {
    /// How alike rows are.
    pub similarity: Similarity,
}

impl Default for MarginMse {
    fn default() -> Self {
        Self { similarity: Similarity::Dot }
    }
}

impl Loss for MarginMse {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(3..=usize::MAX)?;
        let negatives = batch.sides.len() - 2;
        let by_scores = batch.targets.len() == batch.count() * (negatives + 1);
        let each = if by_scores { negatives + 1 } else { negatives };
        batch.check_targets(each)?;
        let mut slope = batch.level();
        let total = batch.total_weight() * negatives as f64;
        for (example, targets) in batch.targets.chunks_exact(each).enumerate() {
            let similar = |side: usize| {
                let of = |side: usize| row(batch.sides[side], example, batch.dim);
                self.similarity.of(of(0), of(side))
            };
            let positive = similar(1);
            let share = batch.weight(example) / total;
            for negative in 0..negatives {
                let wanted = match (by_scores, targets) {
                    (true, [positive, others @ ..]) => f64::from(*positive) - f64::from(others[negative]),
                    _ => f64::from(targets[negative]),
                };
                let off = positive - similar(negative + 2) - wanted;
                slope.value += share * off * off;
                for (side, by) in [(1, 2.0 * share * off), (negative + 2, -2.0 * share * off)] {
                    let at = Between { a: (0, example), b: (side, example) };
                    self.similarity.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
                }
            }
        }
        Ok(slope)
    }
}

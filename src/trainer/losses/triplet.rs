//! Triplet loss: the positive nearer than the negative, by a margin.
//!
//! max(0, d(anchor, positive) − d(anchor, negative) + margin), the mean over examples and negatives (Schroff et al.:
//! FaceNet, 2015, arXiv:1503.03832; for sentences: Reimers and Gurevych: Sentence-BERT, 2019, arXiv:1908.10084). By
//! default Euclidean with margin 5, which no two rows of length 1 reach: there every triplet counts, whether it is met or
//! not, and for cosines a margin below 1 serves better.

use super::arithmetic::{Between, Distance, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Triplet loss. Sides: anchors, positives, one or more negatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Triplet {
    /// How far apart rows are.
    pub distance: Distance,
    /// How much nearer the positive shall be.
    pub margin: f32,
}

impl Default for Triplet {
    fn default() -> Self {
        Self { distance: Distance::Euclidean, margin: 5.0 }
    }
}

impl Loss for Triplet {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(3..=usize::MAX)?;
        let mut slope = batch.level();
        let negatives = batch.sides.len() - 2;
        let total = batch.total_weight() * negatives as f64;
        for example in 0..batch.count() {
            let of = |side: usize| row(batch.sides[side], example, batch.dim);
            let near = self.distance.of(of(0), of(1));
            for side in 2..batch.sides.len() {
                let over = near - self.distance.of(of(0), of(side)) + f64::from(self.margin);
                if over <= 0.0 {
                    continue;
                }
                let share = batch.weight(example) / total;
                slope.value += share * over;
                for (other, by) in [(1, share), (side, -share)] {
                    let at = Between { a: (0, example), b: (other, example) };
                    self.distance.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
                }
            }
        }
        Ok(slope)
    }
}

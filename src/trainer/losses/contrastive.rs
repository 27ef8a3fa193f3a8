//! Contrastive loss: what belongs together near, what does not at a distance.
//!
//! For a label y and a distance d: ½ (y d² + (1 − y) max(0, margin − d)²), the mean over pairs (Hadsell et al.:
//! Dimensionality Reduction by Learning an Invariant Mapping, 2006). A score between 0 and 1 counts as both in its
//! proportion.

use super::arithmetic::{Between, Distance, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Contrastive loss. Sides: two; [`Batch::targets`] gives the label of each pair, in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrastive {
    /// How far apart rows are.
    pub distance: Distance,
    /// The distance that is enough for those that do not belong together.
    pub margin: f32,
}

impl Default for Contrastive {
    fn default() -> Self {
        Self { distance: Distance::Cosine, margin: 0.5 }
    }
}

impl Loss for Contrastive {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(2..=2)?;
        batch.check_targets(1)?;
        let mut slope = batch.level();
        let total = batch.total_weight();
        for (example, &label) in batch.targets.iter().enumerate() {
            let of = |side: usize| row(batch.sides[side], example, batch.dim);
            let (label, apart) = (f64::from(label), self.distance.of(of(0), of(1)));
            let lacking = (f64::from(self.margin) - apart).max(0.0);
            let share = batch.weight(example) / total;
            slope.value += share * 0.5 * (label * apart * apart + (1.0 - label) * lacking * lacking);
            let by = share * (label * apart - (1.0 - label) * lacking);
            let at = Between { a: (0, example), b: (1, example) };
            self.distance.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
        }
        Ok(slope)
    }
}

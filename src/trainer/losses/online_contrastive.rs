//! Online contrastive loss: contrastive loss on the pairs of a batch that are still wrong.
//!
//! Hard positives are farther apart than the nearest negative, hard negatives nearer than the farthest positive (where
//! there are none of the other kind: farther, or nearer, than their own mean). Their d² and max(0, margin − d)² are summed,
//! not averaged (Reimers and Gurevych: sentence-transformers, after Hadsell et al., 2006). What is hard is decided anew in
//! each batch and has no derivative of its own.

use super::arithmetic::{Between, Distance, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Online contrastive loss. Sides: two; [`Batch::targets`] gives the label of each pair: 0 or 1, others are passed over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnlineContrastive {
    /// How far apart rows are.
    pub distance: Distance,
    /// The distance that is enough for those that do not belong together.
    pub margin: f32,
}

impl Default for OnlineContrastive {
    fn default() -> Self {
        Self { distance: Distance::Cosine, margin: 0.5 }
    }
}

impl Loss for OnlineContrastive {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(2..=2)?;
        batch.check_targets(1)?;
        let mut slope = batch.level();
        let apart: Vec<f64> = (0..batch.count())
            .map(|example| {
                let of = |side: usize| row(batch.sides[side], example, batch.dim);
                self.distance.of(of(0), of(1))
            })
            .collect();
        let labelled = |label: f32| {
            let of = batch.targets.iter().zip(&apart).filter(move |(target, _)| **target == label);
            of.map(|(_, &apart)| apart)
        };
        let mean = |label: f32| labelled(label).sum::<f64>() / labelled(label).count().max(1) as f64;
        let nearest_negative = labelled(0.0).min_by(f64::total_cmp).unwrap_or_else(|| mean(1.0));
        let farthest_positive = labelled(1.0).max_by(f64::total_cmp).unwrap_or_else(|| mean(0.0));
        for (example, (&label, &apart)) in batch.targets.iter().zip(&apart).enumerate() {
            let (value, by) = if label == 1.0 && apart > nearest_negative {
                (apart * apart, 2.0 * apart)
            } else if label == 0.0 && apart < farthest_positive {
                let lacking = (f64::from(self.margin) - apart).max(0.0);
                (lacking * lacking, -2.0 * lacking)
            } else {
                continue;
            };
            let weight = batch.weight(example);
            slope.value += weight * value;
            let at = Between { a: (0, example), b: (1, example) };
            self.distance.backward(batch.sides, batch.dim, at, weight * by, &mut slope.sides);
        }
        Ok(slope)
    }
}

//! CoSENT: cosines in the order of the scores.
//!
//! ln(1 + Σ exp(scale · (cosᵢ − cosⱼ))) over all i, j of a batch where j has the higher score (Huang et al.: CoSENT, 2024,
//! doi:10.1109/TASLP.2024.3402087). Only the order of scores matters, not their values, which fits measures of rank
//! correlation and raters who disagree about the scale.

use super::arithmetic::{Between, Similarity, row};
use super::ranking::SCALE;
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// CoSENT loss. Sides: two; [`Batch::targets`] gives the score of each pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoSent {
    /// Factor on the cosines.
    pub scale: f32,
}

impl Default for CoSent {
    fn default() -> Self {
        Self { scale: SCALE }
    }
}

impl Loss for CoSent {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(2..=2)?;
        batch.check_targets(1)?;
        let n = batch.count();
        let logits: Vec<f64> = (0..n)
            .map(|example| {
                let of = |side: usize| row(batch.sides[side], example, batch.dim);
                f64::from(self.scale) * Similarity::Cosine.of(of(0), of(1))
            })
            .collect();
        let pairs = || {
            let targets = batch.targets;
            let above = move |i: usize| (0..n).filter(move |&j| targets[i] < targets[j]);
            (0..n).flat_map(move |i| above(i).map(move |j| (i, j)))
        };
        // The 1 in the sum is e⁰, so nothing below 0 can be the largest.
        let most = pairs().map(|(i, j)| logits[i] - logits[j]).fold(0.0, f64::max);
        let term =
            |(i, j): (usize, usize)| batch.weight(i) * batch.weight(j) * (logits[i] - logits[j] - most).exp();
        let mut sum = (-most).exp();
        let mut pull = vec![0.0; n];
        for (i, j) in pairs() {
            let term = term((i, j));
            sum += term;
            pull[i] += term;
            pull[j] -= term;
        }
        let mut slope = batch.level();
        slope.value = sum.ln() + most;
        for (example, pull) in pull.iter().enumerate() {
            let at = Between { a: (0, example), b: (1, example) };
            let by = f64::from(self.scale) * pull / sum;
            Similarity::Cosine.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
        }
        Ok(slope)
    }
}

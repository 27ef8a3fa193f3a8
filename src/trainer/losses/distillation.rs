//! Distillation of scores: a teacher's distribution over a query's candidates.
//!
//! Scores over a temperature become shares by softmax, the teacher's and the student's; the loss is how far the student's
//! are from the teacher's (Kullback and Leibler), times the square of the student's temperature, which keeps its slope
//! comparable (Hinton et al.: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; for retrieval: Lin et
//! al.: In-Batch Negatives for Knowledge Distillation, 2021). The mean over queries.

use super::arithmetic::{Between, Similarity, row};
use super::{Batch, Loss, Slope};
use crate::error::Result;

/// Distillation of scores. Sides: queries, positives, one or more negatives; [`Batch::targets`] gives the teacher's scores of
/// positive and negatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// How alike rows are.
    pub similarity: Similarity,
    /// Divided out of the student's similarities; positive. For cosines, .05 serves better than the default of 1.
    pub temperature: f32,
    /// Divided out of the teacher's scores; positive.
    pub teacher_temperature: f32,
}

impl Default for Distillation {
    fn default() -> Self {
        Self { similarity: Similarity::Dot, temperature: 1.0, teacher_temperature: 1.0 }
    }
}

impl Loss for Distillation {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(3..=usize::MAX)?;
        let candidates = batch.sides.len() - 1;
        batch.check_targets(candidates)?;
        let mut slope = batch.level();
        let total = batch.total_weight();
        let temperature = f64::from(self.temperature);
        for (example, scores) in batch.targets.chunks_exact(candidates).enumerate() {
            let of = |side: usize| row(batch.sides[side], example, batch.dim);
            let teacher =
                log_shares(scores.iter().map(|&s| f64::from(s) / f64::from(self.teacher_temperature)));
            let similar = |side: usize| self.similarity.of(of(0), of(side)) / temperature;
            let student = log_shares((1..=candidates).map(similar));
            let share = batch.weight(example) / total * temperature * temperature;
            for (side, (theirs, ours)) in (1..).zip(teacher.iter().zip(&student)) {
                slope.value += share * theirs.exp() * (theirs - ours);
                let by = share * (ours.exp() - theirs.exp()) / temperature;
                let at = Between { a: (0, example), b: (side, example) };
                self.similarity.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
            }
        }
        Ok(slope)
    }
}

/// Logarithms of the softmax.
fn log_shares(logits: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln() + most;
    logits.iter_mut().for_each(|logit| *logit -= sum);
    logits
}

//! Losses: what a batch of embedded texts is wrong by, and how to move each embedding to make it less.
//!
//! A loss sees rows only. A batch has *sides* of as many rows each: row i of every side belongs to example i (a query,
//! its positive, its hard negatives; two sentences; one text). It gives back a value and the derivative by every number
//! of every side, written out by hand: composed of a tensor library's operations they take ten times as long. So the
//! rows may come from anywhere, and in any portions, as long as the slope finds its way back (which is all that
//! gradient caching needs: Gao et al. 2021, arXiv:2101.06983).
//!
//! | file | loss | learns from |
//! |---|---|---|
//! | `ranking` | multiple negatives ranking (InfoNCE), one way or both ways, and its guided form | pairs, triplets |
//! | `guide` | which in-batch negatives a guide takes for false | |
//! | `known` | which in-batch negatives are known to be false | |
//! | `triplet` | a positive nearer than a negative | triplets |
//! | `batch_hard` | the farthest of a class nearer than the nearest of another | classes |
//! | `contrastive`, `online_contrastive` | likes near, others at a distance; all pairs, or the hard ones | scored pairs |
//! | `cosine` | cosines equal to scores | scored pairs |
//! | `cosent` | cosines in the order of the scores | scored pairs |
//! | `margin_mse` | a teacher's margins | triplets with margins or scores |
//! | `distillation` | a teacher's distribution over the candidates | triplets with scores |
//! | `matryoshka` | any of them on prefixes of the rows | |
//! | `kind` | the names of all, and which fits which data | |
//!
//! `arithmetic` is what they share. Invariants: the same batch gives the same bits on any number of threads; sums of
//! many numbers are taken in f64; finite rows give a finite value and finite derivatives; a row of zeros has no
//! direction, so by a cosine its derivative is zero.

pub(super) mod arithmetic;
mod batch_hard;
mod contrastive;
mod cosent;
mod cosine;
mod distillation;
mod guide;
mod kind;
mod known;
mod margin_mse;
mod matryoshka;
mod online_contrastive;
mod ranking;
mod triplet;

#[cfg(test)]
mod tests;

pub use arithmetic::{Distance, Similarity};
pub use batch_hard::BatchHard;
pub use contrastive::Contrastive;
pub use cosent::CoSent;
pub use cosine::CosineScores;
pub use distillation::Distillation;
pub use guide::Margin;
pub use kind::{LossKind, LossOptions};
pub use known::KnownPositives;
pub use margin_mse::MarginMse;
pub use matryoshka::Matryoshka;
pub use online_contrastive::OnlineContrastive;
pub use ranking::{RankingLoss, SCALE};
pub use triplet::Triplet;

use self::arithmetic::Units;
use crate::error::{Error, Result};

/// A batch of examples, embedded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Batch<'a> {
    /// Each count × `dim`, of any norm.
    pub sides: &'a [&'a [f32]],
    /// Dimensions.
    pub dim: usize,
    /// Whether the rows have length 1, or none, and nobody asks for derivatives along them.
    pub normalised: bool,
    /// The share of each example, positive; empty if they are all the same.
    pub weights: &'a [f32],
    /// What is wanted of each example, where the loss needs it: a score or label (count), margins (count × negatives)
    /// or a teacher's scores (count × candidates, the positive first).
    pub targets: &'a [f32],
    /// The class of each example, where the loss needs it.
    pub classes: &'a [u32],
    /// Which documents are no negatives of which query: count × (count × document sides), side after side, row-major,
    /// as of [`KnownPositives::mask`]; empty if all are.
    pub excluded: &'a [bool],
    /// What a guide makes of the same texts, where the loss needs it.
    pub guide: Option<Guide<'a>>,
}

/// Rows of another model for the texts of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Guide<'a> {
    /// The sides as in [`Batch`], each count × `dim`.
    pub sides: &'a [&'a [f32]],
    /// Dimensions of the guide.
    pub dim: usize,
}

/// The loss of a batch and its derivatives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slope {
    /// The loss.
    pub value: f64,
    /// Its derivative by each value of each side, in the shapes of the batch.
    pub sides: Vec<Vec<f32>>,
}

/// Something to be made small.
pub trait Loss: Send + Sync + std::fmt::Debug {
    /// The loss of a batch with its derivatives.
    ///
    /// # Errors
    /// [`Error::Input`] if the batch lacks what the loss needs, or its lengths contradict each other.
    fn of(&self, batch: &Batch<'_>) -> Result<Slope>;
}

impl Batch<'_> {
    /// Examples in the batch.
    pub fn count(&self) -> usize {
        self.sides.first().map_or(0, |side| side.len() / self.dim.max(1))
    }

    /// Some of the sides with rows of length 1.
    fn units(&self, sides: &[&[f32]]) -> Units {
        match self.normalised {
            true => Units::given(sides, self.dim),
            false => Units::new(sides, self.dim, self.dim),
        }
    }

    /// The share of an example.
    fn weight(&self, row: usize) -> f64 {
        self.weights.get(row).map_or(1.0, |&weight| f64::from(weight))
    }

    /// The shares of all examples together.
    fn total_weight(&self) -> f64 {
        (0..self.count()).map(|row| self.weight(row)).sum()
    }

    /// A slope of the right shape, all zero.
    fn level(&self) -> Slope {
        Slope { value: 0.0, sides: self.sides.iter().map(|side| vec![0.0; side.len()]).collect() }
    }

    /// Refuses a batch without examples, with fewer or more sides than the loss takes, or of lengths that contradict
    /// each other.
    fn check(&self, sides: std::ops::RangeInclusive<usize>) -> Result<()> {
        let count = self.count();
        let whole = count > 0
            && self.sides.iter().all(|side| side.len() == count * self.dim)
            && (self.weights.is_empty() || self.weights.len() == count);
        if !whole || !sides.contains(&self.sides.len()) {
            return Err(Error::input(format!(
                "training: a batch of {} sides of {count} rows of {} dimensions does not fit together or its loss",
                self.sides.len(),
                self.dim
            )));
        }
        Ok(())
    }

    /// Refuses a batch that has not one target, or so many, for each example.
    fn check_targets(&self, each: usize) -> Result<()> {
        if self.targets.len() == self.count() * each {
            return Ok(());
        }
        Err(Error::input(format!(
            "training: {} scores for {} examples, of which each needs {each}",
            self.targets.len(),
            self.count()
        )))
    }
}

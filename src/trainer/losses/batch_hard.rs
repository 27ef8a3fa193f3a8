//! Batch-hard triplets: of texts with classes, the farthest of one's own class nearer than the nearest of another.
//!
//! Each row of a batch is an anchor with two others: the positive farthest from it and the negative nearest to it, which
//! are the triplets that teach most (Hermans et al.: In Defense of the Triplet Loss, 2017, arXiv:1703.07737). With a margin
//! the loss is max(0, d₊ − d₋ + margin), with a soft one ln(1 + exp(d₊ − d₋)); the mean over the anchors that have both.

use super::arithmetic::{Between, Distance, Units, dot, product_transposed, row, softplus};
use super::{Batch, Loss, Slope};
use crate::error::{Error, Result};

/// Batch-hard triplet loss. One side; [`Batch::classes`] gives the class of each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchHard {
    /// How far apart rows are.
    pub distance: Distance,
    /// How much nearer the positive shall be; a soft margin if not given.
    pub margin: Option<f32>,
}

impl Default for BatchHard {
    fn default() -> Self {
        Self { distance: Distance::Euclidean, margin: Some(5.0) }
    }
}

impl BatchHard {
    /// With a soft margin.
    pub fn soft() -> Self {
        Self { margin: None, ..Self::default() }
    }

    /// Something that grows with the distance of each row from each other: for rows of length 1 one minus their product,
    /// else the square of the distance.
    fn distances(&self, rows: &[f32], dim: usize) -> Vec<f32> {
        if self.distance == Distance::Cosine {
            let units = Units::new([&rows], dim, dim);
            let mut cosines = product_transposed(&units.values, &units.values, dim);
            cosines.iter_mut().for_each(|cosine| *cosine = 1.0 - *cosine);
            return cosines;
        }
        let squares: Vec<f32> = rows.chunks_exact(dim.max(1)).map(|row| dot(row, row) as f32).collect();
        let mut products = product_transposed(rows, rows, dim);
        for (row, own) in products.chunks_exact_mut(squares.len().max(1)).zip(&squares) {
            for (product, other) in row.iter_mut().zip(&squares) {
                *product = own + other - 2.0 * *product;
            }
        }
        products
    }
}

impl Loss for BatchHard {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(1..=1)?;
        let n = batch.count();
        if batch.classes.len() != n {
            return Err(Error::input(format!(
                "training: {} classes for {n} texts in a batch",
                batch.classes.len()
            )));
        }
        let rows = batch.sides[0];
        let distances = self.distances(rows, batch.dim);
        let hardest = |anchor: usize| {
            let from = distances.get(anchor * n..(anchor + 1) * n).unwrap_or_default();
            let same = |other: usize| batch.classes[other] == batch.classes[anchor];
            let by_distance = |a: &usize, b: &usize| from[*a].total_cmp(&from[*b]);
            let positive = (0..n).filter(|&other| other != anchor && same(other)).max_by(by_distance);
            positive.zip((0..n).filter(|&other| !same(other)).min_by(by_distance))
        };
        let triplets: Vec<(usize, usize, usize)> = (0..n)
            .filter_map(|anchor| hardest(anchor).map(|(positive, negative)| (anchor, positive, negative)))
            .collect();
        let total: f64 = triplets.iter().map(|&(anchor, ..)| batch.weight(anchor)).sum();
        let mut slope = batch.level();
        for (anchor, positive, negative) in triplets {
            let to =
                |other: usize| self.distance.of(row(rows, anchor, batch.dim), row(rows, other, batch.dim));
            let apart = to(positive) - to(negative);
            let (value, by) = match self.margin {
                None => softplus(apart),
                Some(margin) => {
                    let over = apart + f64::from(margin);
                    if over > 0.0 { (over, 1.0) } else { (0.0, 0.0) }
                }
            };
            let share = batch.weight(anchor) / total;
            slope.value += share * value;
            for (other, by) in [(positive, share * by), (negative, -share * by)] {
                let at = Between { a: (0, anchor), b: (0, other) };
                self.distance.backward(batch.sides, batch.dim, at, by, &mut slope.sides);
            }
        }
        Ok(slope)
    }
}

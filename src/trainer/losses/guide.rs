//! Guided masking: negatives that a guide takes for answers are none.
//!
//! In a batch of real text some other query's positive answers this one too. A guide, which may be the model itself before
//! training, is asked how near each candidate is to the query; those nearer than the query's own positive, less a margin,
//! are left out (Solatorio: GISTEmbed, 2024, arXiv:2402.16829; the margins: Moreira et al.: NV-Retriever, 2024,
//! arXiv:2407.15831).

use super::arithmetic::{Units, dot, product_transposed, row};
use super::{Batch, Guide};
use crate::error::{Error, Result};

/// How much farther than the positive a negative has to be, by the guide's cosines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// By so much.
    Absolute(f32),
    /// By this share of the positive's cosine. The share is taken of its magnitude: of a negative cosine c the product
    /// c (1 − margin) would lie above c, and the margin let through what none at all keeps out (sentence-transformers
    /// issue 3819).
    Relative(f32),
}

impl Default for Margin {
    fn default() -> Self {
        Self::Absolute(0.0)
    }
}

impl Margin {
    /// The similarity above which a candidate is no negative, where the positive has `own`.
    pub fn threshold(self, own: f32) -> f32 {
        match self {
            Self::Absolute(margin) => own - margin,
            Self::Relative(margin) => own - own.abs() * margin,
        }
    }
}

/// A guide's similarities within a batch.
#[derive(Debug)]
pub(super) struct Opinion {
    queries: Units,
    documents: Units,
    thresholds: Vec<f32>,
    columns: Vec<f32>,
}

impl Opinion {
    /// What the batch's guide thinks.
    pub fn new(batch: &Batch<'_>, margin: Margin) -> Result<Self> {
        let Some(guide) = batch.guide.filter(|guide| fits(guide, batch)) else {
            return Err(Error::input(
                "training: the guided loss needs the guide's vectors of every text in the batch",
            ));
        };
        let (queries, documents) = guide.sides.split_at(1);
        let queries = Units::new(queries, guide.dim, guide.dim);
        let documents = Units::new(documents, guide.dim, guide.dim);
        let columns = product_transposed(&queries.values, &documents.values, guide.dim);
        let own = |at: usize| {
            dot(row(&queries.values, at, guide.dim), row(&documents.values, at, guide.dim)) as f32
        };
        let thresholds = (0..batch.count()).map(|at| margin.threshold(own(at))).collect();
        Ok(Self { queries, documents, thresholds, columns })
    }

    /// Whether each document is no negative of each query: count × documents.
    pub fn of_documents(&self) -> Vec<bool> {
        self.above(&self.columns, self.columns.len() / self.thresholds.len().max(1))
    }

    /// Whether each query is no negative of each positive: count × count.
    pub fn of_positives(&self) -> Vec<bool> {
        let n = self.thresholds.len();
        let columns = self.columns.len() / n.max(1);
        let turned = |at: usize| self.columns.get(at % n * columns + at / n).copied().unwrap_or_default();
        self.above(&(0..n * n).map(turned).collect::<Vec<f32>>(), n)
    }

    /// Whether each other query is no negative of a query: count × count.
    pub fn among_queries(&self) -> Vec<bool> {
        self.among(&self.queries.values)
    }

    /// Whether each other positive is no negative of a positive: count × count.
    pub fn among_positives(&self) -> Vec<bool> {
        let positives = self.thresholds.len() * self.documents.dim;
        self.among(self.documents.values.get(..positives).unwrap_or_default())
    }

    fn among(&self, rows: &[f32]) -> Vec<bool> {
        let similarities = product_transposed(rows, rows, self.queries.dim);
        self.above(&similarities, self.thresholds.len())
    }

    fn above(&self, similarities: &[f32], columns: usize) -> Vec<bool> {
        let rows = similarities.chunks_exact(columns.max(1)).zip(&self.thresholds);
        rows.flat_map(|(row, threshold)| row.iter().map(move |similarity| similarity > threshold)).collect()
    }
}

fn fits(guide: &Guide<'_>, batch: &Batch<'_>) -> bool {
    guide.dim > 0
        && guide.sides.len() == batch.sides.len()
        && guide.sides.iter().all(|side| side.len() == batch.count() * guide.dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_never_lets_through_what_none_keeps_out() {
        for own in [-0.9, -0.5, 0.0, 0.3, 0.8] {
            for margin in [0.0, 0.05, 0.5] {
                assert!(Margin::Relative(margin).threshold(own) <= own);
                assert!(Margin::Absolute(margin).threshold(own) <= own);
            }
        }
        assert!((Margin::Relative(0.05).threshold(0.8) - 0.76).abs() < 1e-6);
        assert!((Margin::Relative(0.05).threshold(-0.5) + 0.525).abs() < 1e-6);
    }
}

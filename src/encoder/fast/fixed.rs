//! Static models: the mean of the tokens' rows in a table.

use crate::encoder::family::FixedConfig;
use crate::encoder::family::fixed::{MAPPING, TOKEN_WEIGHTS};
use crate::encoder::weights::Stored;
use crate::error::{Error, Result};

/// A row for each token.
pub(crate) struct FixedTable {
    dim: usize,
    rows: Rows,
    /// Row of each token; its own number where there is none.
    mapping: Option<Vec<u32>>,
    /// What each token's row is multiplied by.
    weights: Option<Vec<f32>>,
}

/// Rows as they are stored: bytes stay bytes, a quarter of the memory that a text's tokens are fetched from.
enum Rows {
    Values(Vec<f32>),
    Codes(Vec<i8>),
}

impl FixedTable {
    /// Takes the rows out of the model's file. Those of bytes are taken as they are: what they were divided by is the same
    /// for all of them, and does not change the direction of a mean.
    pub(crate) fn new(config: &FixedConfig, stored: &Stored<'_>) -> Result<Self> {
        let shape = [config.rows, config.dim];
        let rows = match stored.codes(config.table, &shape)? {
            Some(codes) => Rows::Codes(codes),
            None => Rows::Values(stored.values(config.table, &shape)?),
        };
        let count = |has: bool, name: &str| {
            let shape = stored.shape(name).filter(|_| has);
            shape.map(|shape| (name.to_owned(), shape))
        };
        let weights = count(config.has_weights, TOKEN_WEIGHTS);
        let mapping = count(config.has_mapping, MAPPING);
        Ok(Self {
            dim: config.dim,
            rows,
            mapping: mapping.map(|(name, shape)| stored.numbers(&name, &shape, config.rows)).transpose()?,
            weights: weights.map(|(name, shape)| stored.values(&name, &shape)).transpose()?,
        })
    }

    /// The mean of the rows of a text's tokens, zeros for no token. Fails if the model does not know one of them.
    pub(crate) fn mean(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut sum = vec![0.0; self.dim];
        for &id in ids {
            self.add(id, &mut sum).ok_or_else(|| Error::input(format!("the model has no token {id}")))?;
        }
        let count = ids.len().max(1) as f32;
        sum.iter_mut().for_each(|value| *value /= count);
        Ok(sum)
    }

    /// Adds the row of a token.
    fn add(&self, id: u32, sum: &mut [f32]) -> Option<()> {
        let id = id as usize;
        let weight = self.weights.as_ref().map_or(Some(1.0), |weights| weights.get(id).copied())?;
        let row = self.mapping.as_ref().map_or(Some(id), |mapping| Some(*mapping.get(id)? as usize))?;
        let range = row.checked_mul(self.dim)?..row.checked_add(1)?.checked_mul(self.dim)?;
        match &self.rows {
            Rows::Values(values) => {
                sum.iter_mut().zip(values.get(range)?).for_each(|(sum, &value)| *sum += value * weight);
            }
            Rows::Codes(codes) => {
                sum.iter_mut()
                    .zip(codes.get(range)?)
                    .for_each(|(sum, &code)| *sum += f32::from(code) * weight);
            }
        }
        Some(())
    }

    /// The whole table, a row for each token: tokens × dim.
    pub(crate) fn flat(&self, tokens: usize) -> Result<Vec<f32>> {
        let mut all = vec![0.0; tokens * self.dim];
        for (id, row) in (0..).zip(all.chunks_exact_mut(self.dim)) {
            self.add(id, row).ok_or_else(|| Error::input(format!("the model has no token {id}")))?;
        }
        Ok(all)
    }
}

//! The queries of all pairs with their vectors: each text is encoded once in a run.

use std::collections::HashMap;

use crate::db::encoders::Encoder;
use crate::error::Result;
use crate::options::Task;

/// Vectors of distinct texts.
#[derive(Default)]
pub(super) struct Queries {
    numbers: HashMap<String, usize>,
    rows: Vec<f32>,
    dim: usize,
}

impl Queries {
    pub fn encode<'t>(encoder: &Encoder, texts: impl Iterator<Item = &'t str>, task: &Task) -> Result<Self> {
        let (mut numbers, mut distinct) = (HashMap::new(), Vec::new());
        for text in texts {
            numbers.entry(text.to_owned()).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            });
        }
        Ok(Self { numbers, rows: encoder.encode_queries(&distinct, task)?, dim: encoder.dim() })
    }

    /// Rows of texts, in their order; a text that was not encoded has a row of zeros.
    pub fn rows_of<'t>(&self, texts: impl Iterator<Item = &'t str>) -> Vec<f32> {
        let zeros = vec![0.0; self.dim];
        let row = |text: &str| {
            let number = self.numbers.get(text).copied();
            number.and_then(|number| self.rows.get(number * self.dim..(number + 1) * self.dim))
        };
        texts.flat_map(|text| row(text).unwrap_or(&zeros).to_vec()).collect()
    }
}

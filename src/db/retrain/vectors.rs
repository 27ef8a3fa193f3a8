//! Texts with their vectors, each encoded once in a run.

use std::collections::HashMap;

use crate::db::encoders::Encoder;
use crate::encoder::Role;
use crate::error::Result;
use crate::options::Task;

/// Vectors of texts, of each as what it is read as.
#[derive(Debug, Clone)]
pub(super) struct Vectors {
    queries: HashMap<String, usize>,
    documents: HashMap<String, usize>,
    rows: Vec<f32>,
    dim: usize,
}

impl Vectors {
    pub fn new(dim: usize) -> Self {
        Self { queries: HashMap::new(), documents: HashMap::new(), rows: Vec::new(), dim }
    }

    fn of(&mut self, role: Role) -> &mut HashMap<String, usize> {
        match role {
            Role::Query => &mut self.queries,
            Role::Document => &mut self.documents,
        }
    }

    /// Keeps the vector of a text that is known already.
    pub fn keep(&mut self, text: &str, role: Role, row: &[f32]) {
        let number = self.rows.len() / self.dim.max(1);
        let fits = row.len() == self.dim;
        let known = self.of(role);
        if fits && !known.contains_key(text) {
            known.insert(text.to_owned(), number);
            self.rows.extend_from_slice(row);
        }
    }

    /// Encodes the texts that are not known yet.
    pub fn encode<'t>(
        &mut self,
        encoder: &Encoder,
        texts: impl Iterator<Item = &'t str>,
        role: Role,
        task: &Task,
    ) -> Result<()> {
        let first = self.rows.len() / self.dim.max(1);
        let known = self.of(role);
        let mut new = Vec::new();
        for text in texts {
            if !known.contains_key(text) {
                known.insert(text.to_owned(), first + new.len());
                new.push(text);
            }
        }
        self.rows.extend(match role {
            Role::Query => encoder.encode_queries(&new, task)?,
            Role::Document => encoder.encode(&new, task)?,
        });
        Ok(())
    }

    /// The vector of a text; empty if it is not known.
    pub fn row(&self, text: &str, role: Role) -> &[f32] {
        let known = match role {
            Role::Query => &self.queries,
            Role::Document => &self.documents,
        };
        let row = known.get(text).and_then(|&n| self.rows.get(n * self.dim..(n + 1) * self.dim));
        row.unwrap_or_default()
    }

    /// Vectors of texts one after the other; zeros for one that is not known.
    pub fn rows_of<'t>(&self, texts: impl Iterator<Item = (&'t str, Role)>) -> Vec<f32> {
        let mut rows = Vec::new();
        for (text, role) in texts {
            let end = rows.len() + self.dim;
            rows.extend_from_slice(self.row(text, role));
            rows.resize(end, 0.0);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_a_vector_for_each_role() {
        let mut vectors = Vectors::new(2);
        vectors.keep("a", Role::Query, &[1.0, 2.0]);
        vectors.keep("a", Role::Document, &[3.0, 4.0]);
        vectors.keep("a", Role::Document, &[9.0, 9.0]);
        vectors.keep("b", Role::Document, &[5.0, 6.0]);
        let wanted = [("b", Role::Document), ("b", Role::Query), ("a", Role::Query), ("a", Role::Document)];
        assert_eq!(vectors.rows_of(wanted.into_iter()), [5.0, 6.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}

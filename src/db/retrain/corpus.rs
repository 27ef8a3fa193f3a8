//! The documents and their rows as the generation that answers sees them.

use std::collections::HashMap;

use crate::db::encoders::passage;
use crate::db::snapshot::{Place, Snapshot};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::kernel::dot_f32;
use crate::trainer;

/// All rows of a generation in one array, for ranking.
#[derive(Default)]
pub(super) struct Corpus {
    /// Row-major vectors.
    pub rows: Vec<f32>,
    /// Document of each row.
    pub document_of: Vec<u32>,
    /// Bounds of each row's passage in its document.
    spans: Vec<[u32; 2]>,
    /// First row of each document, and one beyond the last.
    firsts: Vec<usize>,
    /// Documents by number.
    pub documents: Vec<(Place, u64)>,
    /// Ids by number; texts that records bring and the database lacks follow the documents.
    pub ids: Vec<String>,
    dim: usize,
}

impl Corpus {
    pub fn load(snapshot: &Snapshot, generation: &Generation) -> Result<Self> {
        let shape = snapshot.shape_of(generation.id)?;
        let mut corpus = Self { dim: generation.dim as usize, ..Self::default() };
        for (number, part) in snapshot.parts.iter().enumerate() {
            for block in part.rows(generation.id, shape)? {
                let range = block.documents();
                for document in range.filter(|&d| !part.dead.contains(d)) {
                    let rows = block.extract(document, generation.id);
                    corpus.firsts.push(corpus.spans.len());
                    corpus.document_of.extend(rows.spans.iter().map(|_| corpus.ids.len() as u32));
                    corpus.spans.extend(rows.spans);
                    corpus.rows.extend(rows.vectors);
                    let place = Place { part: number as u32, document };
                    corpus.documents.push((place, part.sequence(document)?));
                    corpus.ids.push(part.id(document)?);
                }
            }
        }
        corpus.firsts.push(corpus.spans.len());
        Ok(corpus)
    }

    /// A text that the database lacks, with its vector in stored form. It takes part in the ranking, as a document of its
    /// own; only after all stored ones.
    pub fn add(&mut self, text: &str, vector: Vec<f32>) {
        self.document_of.push(self.ids.len() as u32);
        self.rows.extend(vector);
        self.ids.push(stranger_id(text));
    }

    /// Values of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        self.rows.get(row * self.dim..(row + 1) * self.dim).unwrap_or_default()
    }

    /// The rows of a stored document.
    pub fn rows_of(&self, document: usize) -> std::ops::Range<usize> {
        let bounds = self.firsts.get(document).zip(self.firsts.get(document + 1));
        bounds.map_or(0..0, |(first, end)| *first..*end)
    }

    /// The row of a stored document that is nearest to a vector; the first, if there is none to be near to.
    pub fn nearest(&self, document: u32, vector: &[f32]) -> Option<usize> {
        let rows = self.rows_of(document as usize);
        if vector.len() != self.dim {
            return rows.into_iter().next();
        }
        let score = |&row: &usize| dot_f32(vector, self.row(row));
        rows.max_by(|a, b| score(a).total_cmp(&score(b)))
    }

    /// Cosine of a vector with a stored document: with its nearest row.
    pub fn cosine(&self, document: u32, vector: &[f32]) -> Option<f64> {
        let at = document as usize;
        let rows = self.rows.get(*self.firsts.get(at)? * self.dim..*self.firsts.get(at + 1)? * self.dim)?;
        (vector.len() == self.dim).then(|| best_cosine(vector, rows))
    }

    /// What the encoder read to make a row of a stored document.
    pub fn passage(&self, snapshot: &Snapshot, row: usize) -> Result<String> {
        let vanished = || Error::input("a document vanished while the data were read");
        let number = *self.document_of.get(row).ok_or_else(vanished)? as usize;
        let (place, _) = *self.documents.get(number).ok_or_else(vanished)?;
        let bounds = self.firsts.get(number).zip(self.firsts.get(number + 1)).ok_or_else(vanished)?;
        let span = (bounds.1 - bounds.0 > 1).then(|| self.spans.get(row).copied()).flatten();
        Ok(passage(&snapshot.document(place)?, span))
    }

    /// Rows of the stored documents.
    pub fn stored_rows(&self) -> usize {
        self.spans.len()
    }

    /// Numbers of the stored documents by id.
    pub fn by_id(&self) -> HashMap<String, u32> {
        self.ids.iter().take(self.documents.len()).cloned().zip(0..).collect()
    }

    /// Numbers of the stored documents by the key of their text.
    pub fn by_text(&self, snapshot: &Snapshot) -> Result<HashMap<u64, u32>> {
        let mut numbers = HashMap::new();
        for (number, (place, _)) in self.documents.iter().enumerate() {
            let document = snapshot.document(*place)?;
            numbers.entry(trainer::target_key(document.text.trim())).or_insert(number as u32);
        }
        Ok(numbers)
    }
}

/// Cosine of a vector with the nearest of some rows; -1 if there are none.
pub(super) fn best_cosine(vector: &[f32], rows: &[f32]) -> f64 {
    let cosine = |row: &[f32]| {
        let norms = f64::from(dot_f32(vector, vector)) * f64::from(dot_f32(row, row));
        if norms > 0.0 { f64::from(dot_f32(vector, row)) / norms.sqrt() } else { 0.0 }
    };
    rows.chunks_exact(vector.len().max(1)).map(cosine).fold(-1.0, f64::max)
}

/// What stands for the id of a text that is not stored: no document has an id that begins so.
pub(super) fn stranger_id(text: &str) -> String {
    format!("\0{:016x}", trainer::target_key(text.trim()))
}

//! The documents and their rows as the generation that answers sees them, and what pairs name of them.

use std::collections::HashMap;

use super::Run;
use crate::db::snapshot::Place;
use crate::error::{Error, Result};
use crate::trainer::{self, Pair, ResolvedPair, Target};

/// All rows of a generation in one array, for ranking.
pub(super) struct Corpus {
    /// Row-major vectors.
    pub rows: Vec<f32>,
    /// Document of each row.
    pub document_of: Vec<u32>,
    /// Documents by number.
    pub documents: Vec<(Place, u64)>,
    /// Ids by number; texts of pairs that are not stored follow the documents.
    pub ids: Vec<String>,
}

impl Run<'_> {
    /// Loads the rows and turns ids and texts of pairs into documents.
    pub(super) fn resolve(&mut self, pairs: Vec<Pair>) -> Result<()> {
        self.load_corpus()?;
        let by_id: HashMap<String, u32> = self.corpus.ids.iter().cloned().zip(0..).collect();
        let mut by_text: HashMap<u64, u32> = HashMap::new();
        if pairs.iter().any(|p| matches!(p.positive, Target::Text(_))) {
            for (number, (place, _)) in self.corpus.documents.iter().enumerate() {
                let document = self.snapshot.document(*place)?;
                by_text.entry(trainer::target_key(document.text.trim())).or_insert(number as u32);
            }
        }
        let mut strangers: Vec<String> = Vec::new();
        let mut unknown = 0;
        for pair in pairs {
            let (id, text) = match pair.positive {
                Target::Id(id) => match by_id.get(&id) {
                    Some(&number) => (id, self.full_text(number)?),
                    None => {
                        unknown += 1;
                        continue;
                    }
                },
                Target::Text(text) => match by_text.get(&trainer::target_key(text.trim())) {
                    Some(&number) => (self.corpus.ids[number as usize].clone(), self.full_text(number)?),
                    None => {
                        strangers.push(text.clone());
                        (format!("\0{:016x}", trainer::target_key(text.trim())), text)
                    }
                },
            };
            let (query, weight, time) = (pair.query, pair.weight, pair.time);
            self.pairs.push(ResolvedPair { query, positive_id: id, positive_text: text, weight, time });
        }
        if unknown > 0 {
            self.notes.push(format!(
                "{unknown} pairs name documents that are not stored (any more) and were left out"
            ));
        }
        self.add_strangers(strangers)
    }

    pub(super) fn full_text(&self, number: u32) -> Result<String> {
        let place = self.corpus.documents.get(number as usize).map(|d| d.0);
        let place = place.ok_or_else(|| Error::input("a document vanished while pairs were read"))?;
        Ok(self.snapshot.document(place)?.full_text())
    }

    /// Texts that pairs bring but the database lacks take part in the ranking, as documents of their own.
    pub(super) fn add_strangers(&mut self, mut texts: Vec<String>) -> Result<()> {
        texts.sort_unstable();
        texts.dedup();
        let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
        if refs.is_empty() {
            return Ok(());
        }
        let shape = self.snapshot.shape_of(self.generation.id)?;
        let vectors = self.encoder.encode(&refs, &self.options.task.quiet())?;
        for (text, vector) in texts.iter().zip(vectors.chunks_exact(self.encoder.dim())) {
            self.corpus.document_of.push(self.corpus.ids.len() as u32);
            self.corpus.rows.extend(shape.stored(vector.to_vec()));
            self.corpus.ids.push(format!("\0{:016x}", trainer::target_key(text.trim())));
        }
        Ok(())
    }

    pub(super) fn load_corpus(&mut self) -> Result<()> {
        let shape = self.snapshot.shape_of(self.generation.id)?;
        let corpus = &mut self.corpus;
        for (number, part) in self.snapshot.parts.iter().enumerate() {
            for block in part.rows(self.generation.id, shape)? {
                let range = block.documents();
                for document in range.filter(|&d| !part.dead.contains(d)) {
                    let rows = block.extract(document, self.generation.id);
                    corpus.document_of.extend(rows.spans.iter().map(|_| corpus.ids.len() as u32));
                    corpus.rows.extend(rows.vectors);
                    corpus
                        .documents
                        .push((Place { part: number as u32, document }, part.sequence(document)?));
                    corpus.ids.push(part.id(document)?);
                }
            }
        }
        Ok(())
    }
}

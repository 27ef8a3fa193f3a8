//! Hard negatives from the index that answers now.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Run;
use super::searches::Searched;
use crate::db::search::{SearchOptions, parallel};
use crate::db::searcher::Searcher;
use crate::encoder::Role;
use crate::error::Result;
use crate::options::Task;
use crate::trainer::negatives::{Found, NegativeOptions, NegativeReport, choose};
use crate::trainer::{self, Example, Shape};

impl Run<'_> {
    /// Gives every pair documents that stand high for its query and answer it not, which makes triplets of them.
    pub(super) fn mine(&mut self, count: usize) -> Result<()> {
        let options = NegativeOptions { count, seed: self.options.seed, ..NegativeOptions::default() };
        let found = self.found(&options)?;
        let known = known(&self.material.examples);
        let keys = |text: &Searched| text.passed_over().into_iter().map(trainer::target_key).collect();
        let passed: HashMap<u64, HashSet<u64>> =
            self.searched.iter().map(|text| (text.key[0], keys(text))).collect();
        let mut report = NegativeReport::default();
        for (number, found) in found.into_iter().enumerate() {
            let chosen = self.chosen(number, &found, [&known, &passed], &options, &mut report);
            let query = self.query_row(number);
            for document in chosen {
                let Some(row) = self.corpus.nearest(document, &query) else { continue };
                let text = self.corpus.passage(&self.snapshot, row)?;
                self.material.vectors.keep(&text, Role::Document, self.corpus.row(row));
                let key = self.corpus.ids.get(document as usize).map_or(0, |id| trainer::target_key(id));
                if let Some(example) = self.material.examples.get_mut(number) {
                    example.texts.push(text);
                    example.keys.push(key);
                }
            }
        }
        self.lend_negatives(&known);
        self.learnt = Shape::Triplets;
        self.notes.push(format!(
            "hard negatives: {} documents found for {} queries, of which {} are known answers, {} copies of one, {} too \
             near to be sure; {} queries have fewer than {count}",
            report.found, report.queries, report.known, report.copies, report.near, report.short
        ));
        Ok(())
    }

    fn query_row(&self, number: usize) -> Vec<f32> {
        let query = self.material.examples.get(number).and_then(|example| example.texts.first());
        query.map_or_else(Vec::new, |query| self.material.vectors.row(query, Role::Query).to_vec())
    }

    /// Documents that the index finds for each example's query, by number, nearest first.
    fn found(&self, options: &NegativeOptions) -> Result<Vec<Vec<u32>>> {
        let places = self.corpus.documents.iter().zip(0..);
        let numbers: HashMap<(u32, u32), u32> =
            places.map(|((place, _), number)| ((place.part, place.document), number)).collect();
        let search = SearchOptions { k: options.depth, ..SearchOptions::default() };
        let searcher =
            Searcher::new(Arc::clone(&self.snapshot), self.generation.id, search, None, &Task::default())?;
        let queries: Vec<Vec<f32>> =
            (0..self.material.examples.len()).map(|number| self.query_row(number)).collect();
        let rows: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let done = AtomicU64::new(0);
        parallel(&rows, threads, |row| {
            self.options.task.step("negatives", done.fetch_add(1, Ordering::Relaxed), rows.len() as u64)?;
            let found = searcher.find(row)?;
            let number = |found: &crate::db::searcher::Found| {
                numbers.get(&(found.place.part, found.place.document)).copied()
            };
            Ok(found.iter().filter_map(number).collect())
        })
    }

    fn chosen(
        &self,
        number: usize,
        found: &[u32],
        [known, passed_over]: [&HashMap<u64, HashSet<u64>>; 2],
        options: &NegativeOptions,
        report: &mut NegativeReport,
    ) -> Vec<u32> {
        let Some(example) = self.material.examples.get(number) else { return Vec::new() };
        let query = self.query_row(number);
        let positive =
            example.texts.get(1).map_or(&[][..], |text| self.material.vectors.row(text, Role::Document));
        let query_key = example.keys.first().copied().unwrap_or_default();
        let [answers, passed_over] = [known, passed_over].map(|documents| documents.get(&query_key));
        let judged = |&document: &u32| {
            let row = self.corpus.row(self.corpus.nearest(document, &query)?);
            let key = trainer::target_key(self.corpus.ids.get(document as usize)?);
            Some(Found {
                document,
                to_query: cosine(&query, row),
                to_positive: cosine(positive, row),
                known: answers.is_some_and(|answers| answers.contains(&key)),
                passed_over: passed_over.is_some_and(|documents| documents.contains(&key)),
            })
        };
        let found: Vec<Found> = found.iter().filter_map(judged).collect();
        choose(&found, cosine(&query, positive), query_key, options, report)
    }

    /// A query for which nothing was left gets the answer to another one: a triplet has a negative.
    fn lend_negatives(&mut self, known: &HashMap<u64, HashSet<u64>>) {
        let answers: Vec<(String, u64)> = self
            .material
            .examples
            .iter()
            .filter_map(|e| Some((e.texts.get(1)?.clone(), *e.keys.get(1)?)))
            .collect();
        let count = answers.len().max(1);
        for (number, example) in self.material.examples.iter_mut().enumerate() {
            let own = example.keys.first().and_then(|key| known.get(key));
            let is_answer = |key: &u64| own.is_some_and(|own| own.contains(key));
            let mut others = (1..count).filter_map(|step| answers.get((number + step) % count));
            if example.texts.len() < 3
                && let Some((text, key)) = others.find(|(_, key)| !is_answer(key))
            {
                example.texts.push(text.clone());
                example.keys.push(*key);
            }
        }
    }
}

/// The keys of what is known to answer each query.
fn known(examples: &[Example]) -> HashMap<u64, HashSet<u64>> {
    let mut known: HashMap<u64, HashSet<u64>> = HashMap::new();
    for example in examples {
        if let [query, positive, ..] = example.keys.as_slice() {
            known.entry(*query).or_default().insert(*positive);
        }
    }
    known
}

/// 0 if one of them has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = crate::kernel::dot_f32;
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

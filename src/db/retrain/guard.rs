//! The guard set of a run: documents that must still be found by words of their own, and older queries.

use std::collections::HashMap;

use super::Run;
use super::candidate::Candidate;
use super::exam::{Exam, Questions};
use crate::db::encoders::Encoder;
use crate::encoder::{ModelFiles, Role};
use crate::error::Result;
use crate::trainer::metrics::discount;
use crate::trainer::{self, GateOptions, GateReport, Guard, HeldOut, Judged, Paired};

/// Documents that must be found by words of their own, at most.
pub(super) const GUARD_DOCUMENTS: usize = 1000;
/// Words of a document by which it must be found. Whole sentences find their documents however much harm was
/// done: on fin10k, with clicks dealt out to the wrong queries, the share found by their longest sentence rose
/// by .009 while that by eight words fell by .017.
const GUARD_WORDS: usize = 8;
/// Documents by which weights are looked at while an encoder is trained, at most: each must be found among the others.
const SAMPLE_DOCUMENTS: usize = 300;
/// Hits among which a document must be.
const DEPTH: usize = 10;

/// What guards, and how well the generation that answers does.
pub(super) struct GuardExams {
    documents: Exam,
    older: Option<Exam>,
}

/// Documents for a look at whether an encoder does harm, before everything is encoded by it.
#[derive(Default)]
pub(super) struct Sample {
    /// Words of each.
    words: Vec<String>,
    passages: Vec<String>,
    /// The document of each passage.
    document_of: Vec<u32>,
    /// NDCG@10 of each by the generation that answers.
    before: Vec<f64>,
}

impl Run<'_> {
    /// Documents, evenly spread, each to be found by a few words of its own, at the full dimension; and `older` queries, by
    /// the numbers of what says what they should find.
    pub(super) fn guard(&mut self, older: &[usize]) -> Result<GuardExams> {
        let (mut judged, mut texts) = (Vec::new(), Vec::new());
        for (number, words) in self.guarded(GUARD_DOCUMENTS)? {
            let id = self.corpus.ids.get(number).cloned().unwrap_or_default();
            judged.push(Judged { query: words.clone(), grades: HashMap::from([(id, 1.0)]), weight: 1.0 });
            texts.push(words);
        }
        let texts = texts.iter().map(String::as_str);
        let vectors = &mut self.material.vectors;
        let encode = || vectors.encode(&self.encoder, texts, Role::Query, &self.options.task);
        self.spent.on("encode", encode)?;
        let documents = self.examined(Questions::Search(judged), &[self.encoder.dim()])?;
        let older = if older.is_empty() { None } else { Some(self.exam(older)?) };
        Ok(GuardExams { documents, older })
    }

    /// Documents, evenly spread, by number, with words of each.
    fn guarded(&self, most: usize) -> Result<Vec<(usize, String)>> {
        let step = self.corpus.documents.len().div_ceil(most).max(1);
        let mut guarded = Vec::new();
        for (number, (place, _)) in self.corpus.documents.iter().enumerate().step_by(step) {
            if let Some(words) = words_of(&self.snapshot.document(*place)?.text, number) {
                guarded.push((number, words));
            }
        }
        Ok(guarded)
    }

    /// How a candidate does on what guards.
    pub(super) fn guarded_by(&self, guard: &GuardExams, candidate: &Candidate) -> Result<Guard> {
        let documents =
            |mut held_out: HeldOut| held_out.rungs.pop().map_or_else(Paired::default, |(_, all)| all);
        match &guard.older {
            None => {
                let [found] = self.compare(candidate, [&guard.documents], None)?;
                Ok(Guard { documents: documents(found), ..Guard::default() })
            }
            Some(older) => {
                let [found, older] = self.compare(candidate, [&guard.documents, older], None)?;
                Ok(Guard { documents: documents(found), older })
            }
        }
    }

    /// The verdict.
    pub(super) fn decide(&self, held_out: &HeldOut, guard: &Guard) -> GateReport {
        let options = GateOptions { seed: self.options.seed, ..GateOptions::default() };
        trainer::decide(held_out, guard, &options)
    }

    /// Some of the guard's documents, with how well they are found among each other.
    pub(super) fn sample_of_guard(&self) -> Result<Sample> {
        let mut sample = Sample::default();
        let mut rows = Vec::new();
        for (number, words) in self.guarded(SAMPLE_DOCUMENTS)? {
            for row in self.corpus.rows_of(number) {
                sample.passages.push(self.corpus.passage(&self.snapshot, row)?);
                sample.document_of.push(sample.words.len() as u32);
                rows.extend_from_slice(self.corpus.row(row));
            }
            sample.words.push(words);
        }
        let queries = self.encoder.encode_queries(&sample.texts(), &self.options.task.quiet())?;
        sample.before = sample.found(&queries, &rows, self.encoder.dim())?;
        Ok(sample)
    }

    /// Whether an encoder of these files finds a sample as well as the one that answers.
    pub(super) fn harmless(&self, sample: &Sample, files: ModelFiles) -> Result<bool> {
        if sample.words.is_empty() {
            return Ok(true);
        }
        let task = self.options.task.quiet();
        let encoder = Encoder::from_files(files, self.snapshot.manifest.precision())?;
        let passages: Vec<&str> = sample.passages.iter().map(String::as_str).collect();
        let rows = encoder.encode(&passages, &task)?;
        let queries = encoder.encode_queries(&sample.texts(), &task)?;
        let after = sample.found(&queries, &rows, encoder.dim())?;
        Ok(trainer::harmless(&Paired { before: sample.before.clone(), after }))
    }
}

impl Sample {
    fn texts(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// NDCG@10 of each document.
    fn found(&self, queries: &[f32], rows: &[f32], dim: usize) -> Result<Vec<f64>> {
        let ranked = trainer::rank_exact(queries, rows, &self.document_of, dim, dim, DEPTH)?;
        let score = |(number, hits): (u32, Vec<u32>)| {
            hits.iter().position(|&hit| hit == number).map_or(0.0, discount)
        };
        Ok((0..).zip(ranked).map(score).collect())
    }
}

/// Consecutive words of a text, from a place that its number decides; nothing of shorter texts.
fn words_of(text: &str, number: usize) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let places = words.len().checked_sub(GUARD_WORDS)? + 1;
    // Knuth's multiplicative hash: neighbours start far from each other.
    let hash = u64::from((number as u32).wrapping_mul(2_654_435_761));
    let start = ((hash * places as u64) >> 32) as usize;
    words.get(start..start + GUARD_WORDS).map(|words| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lie_within_the_text_and_differ_by_number() {
        let text: Vec<String> = (0..100).map(|n| format!("w{n}")).collect();
        let text = text.join(" ");
        let all: Vec<String> = (0..50).map(|number| words_of(&text, number).unwrap()).collect();
        assert!(all.iter().all(|words| text.contains(words) && words.split(' ').count() == GUARD_WORDS));
        assert!(all.iter().collect::<std::collections::HashSet<_>>().len() > 25);
        assert_eq!(words_of("one two three four five six seven", 3), None);
        let eight = "one two three four five six seven eight";
        assert_eq!(words_of(eight, 3).as_deref(), Some(eight));
    }
}

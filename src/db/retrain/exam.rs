//! What candidates are judged by: held-out queries, and a guard set that nobody clicked.

use std::collections::HashMap;

use super::Run;
use super::candidate::{Candidate, CandidateRows};
use crate::error::Result;
use crate::trainer::adapter::apply;
use crate::trainer::{self, GateOptions, GateReport, HeldOut, Judged, Paired};

/// Documents that must find themselves, at most.
const GUARD_DOCUMENTS: usize = 500;

/// Held-out queries and the guard set, with the current encoder's vectors of both, in this order.
pub(super) struct Exam {
    pub judged: Vec<Judged>,
    pub guard: Vec<Judged>,
    pub queries: Vec<f32>,
}

impl Run<'_> {
    /// What candidates are judged by.
    pub(super) fn exam(&self, held_out: &[usize]) -> Result<Exam> {
        let judged = trainer::judgements(&self.pairs, held_out);
        let guard = self.guard()?;
        let mut texts: Vec<&str> = judged.iter().map(|j| j.query.as_str()).collect();
        texts.extend(guard.iter().map(|g| g.query.as_str()));
        let queries = self.encoder.encode_queries(&texts, &self.options.task)?;
        Ok(Exam { judged, guard, queries })
    }

    pub(super) fn judge(&self, candidate: &Candidate, exam: &Exam) -> Result<GateReport> {
        let dim = self.encoder.dim();
        let (rows_after, documents_after) = self.candidate_corpus(candidate)?;
        let before = &exam.queries;
        let after = match &candidate.rows {
            CandidateRows::Mapped(matrix) => apply(matrix, before, dim)?,
            CandidateRows::Embedded(_) => {
                let texts: Vec<&str> =
                    exam.judged.iter().chain(&exam.guard).map(|j| j.query.as_str()).collect();
                candidate.encoder.encode_queries(&texts, &self.options.task)?
            }
        };
        let cut = exam.judged.len() * dim;
        let paired = |range: std::ops::Range<usize>, rung: usize, judged: &[Judged]| -> Result<Paired> {
            let (old, new) = (&before[range.clone()], &after[range]);
            Ok(Paired {
                before: self.scores(old, &self.corpus.rows, &self.corpus.document_of, rung, judged)?,
                after: self.scores(new, &rows_after, &documents_after, rung, judged)?,
            })
        };
        let mut rungs = Vec::new();
        for &rung in &self.ladder {
            rungs.push((rung, paired(0..cut, rung, &exam.judged)?));
        }
        let guard = paired(cut..before.len(), dim, &exam.guard)?;
        let options = GateOptions { seed: self.options.seed, ..GateOptions::default() };
        let weights = exam.judged.iter().map(|j| j.weight).collect();
        Ok(trainer::decide(&HeldOut { weights, rungs }, &guard, &options))
    }

    /// NDCG@10 of each judged query.
    pub(super) fn scores(
        &self,
        queries: &[f32],
        rows: &[f32],
        documents: &[u32],
        rung: usize,
        judged: &[Judged],
    ) -> Result<Vec<f64>> {
        self.options.task.step("judge", rung as u64, self.encoder.dim() as u64)?;
        let ranked = trainer::rank_exact(queries, rows, documents, self.encoder.dim(), rung, 10)?;
        let id = |&number: &u32| self.corpus.ids.get(number as usize).cloned().unwrap_or_default();
        let score = |(ranked, judged): (&Vec<u32>, &Judged)| {
            let ids: Vec<String> = ranked.iter().map(id).collect();
            trainer::ndcg(&ids, &judged.grades, 10)
        };
        Ok(ranked.iter().zip(judged).map(score).collect())
    }

    /// Documents, evenly spread, each to be found by a passage of its own.
    pub(super) fn guard(&self) -> Result<Vec<Judged>> {
        let step = self.corpus.documents.len().div_ceil(GUARD_DOCUMENTS).max(1);
        let mut guard = Vec::new();
        for (number, (place, _)) in self.corpus.documents.iter().enumerate().step_by(step) {
            let text = self.snapshot.document(*place)?.text;
            if let Some(passage) = passage(&text) {
                let id = self.corpus.ids.get(number).cloned().unwrap_or_default();
                guard.push(Judged { query: passage, grades: HashMap::from([(id, 1.0)]), weight: 1.0 });
            }
        }
        Ok(guard)
    }
}

/// A passage that should find its document: the longest sentence of several, or the middle half of one.
fn passage(text: &str) -> Option<String> {
    const LEAST_WORDS: usize = 4;
    let sentences: Vec<&str> =
        text.split_inclusive(['.', '!', '?', '\n']).map(str::trim).filter(|s| !s.is_empty()).collect();
    let words = |s: &str| s.split_whitespace().count();
    let passage = match sentences.as_slice() {
        [] => return None,
        [one] => {
            let all: Vec<&str> = one.split_whitespace().collect();
            all.get(all.len() / 4..all.len() - all.len() / 4).unwrap_or_default().join(" ")
        }
        several => several.iter().max_by_key(|s| words(s)).map(|s| (*s).to_owned()).unwrap_or_default(),
    };
    (words(&passage) >= LEAST_WORDS).then_some(passage)
}

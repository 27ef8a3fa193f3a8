//! What candidates are judged by: held-out queries, and a guard set that nobody clicked.
//!
//! Few queries judge all of them, by cross-validation: the verdict is on what training makes of four fifths of
//! the pairs, five times, and each query is judged by a candidate that has not seen it. A part held out of four
//! hundred queries would be sixty, on which a gain of .03 and none look the same.

use std::collections::HashMap;

use super::Run;
use super::candidate::{Candidate, CandidateRows};
use crate::error::Result;
use crate::trainer::adapter::apply;
use crate::trainer::{self, GateOptions, GateReport, HeldOut, Judged, Paired};

/// Documents that must be found by words of their own, at most.
const GUARD_DOCUMENTS: usize = 1000;
/// Words of a document by which it must be found. Whole sentences find their documents however much harm was
/// done: on fin10k, with clicks dealt out to the wrong queries, the share found by their longest sentence rose
/// by .009 while that by eight words fell by .017.
const GUARD_WORDS: usize = 8;

/// Queries with what they should find, and how well the generation that answers does.
pub(super) struct Exam {
    judged: Vec<Judged>,
    queries: Vec<f32>,
    /// NDCG@10 of each query for each rung.
    before: Vec<(usize, Vec<f64>)>,
}

impl Run<'_> {
    /// Queries of pairs, at all rungs.
    pub(super) fn exam(&self, held_out: &[usize]) -> Result<Exam> {
        let judged = trainer::judgements(&self.pairs, held_out);
        let queries = self.queries.rows_of(judged.iter().map(|judged| judged.query.as_str()));
        self.examined(judged, queries, &self.ladder)
    }

    /// Documents, evenly spread, each to be found by a few words of its own, at the full dimension.
    pub(super) fn guard(&self) -> Result<Exam> {
        let step = self.corpus.documents.len().div_ceil(GUARD_DOCUMENTS).max(1);
        let mut judged = Vec::new();
        for (number, (place, _)) in self.corpus.documents.iter().enumerate().step_by(step) {
            if let Some(query) = words_of(&self.snapshot.document(*place)?.text, number) {
                let id = self.corpus.ids.get(number).cloned().unwrap_or_default();
                judged.push(Judged { query, grades: HashMap::from([(id, 1.0)]), weight: 1.0 });
            }
        }
        let texts: Vec<&str> = judged.iter().map(|judged| judged.query.as_str()).collect();
        let queries = self.encoder.encode_queries(&texts, &self.options.task)?;
        self.examined(judged, queries, &[self.encoder.dim()])
    }

    fn examined(&self, judged: Vec<Judged>, queries: Vec<f32>, rungs: &[usize]) -> Result<Exam> {
        let score = |&rung: &usize| {
            let (rows, documents) = (&self.corpus.rows, &self.corpus.document_of);
            Ok((rung, self.scores(&queries, rows, documents, rung, &judged)?))
        };
        let before = rungs.iter().map(score).collect::<Result<_>>()?;
        Ok(Exam { judged, queries, before })
    }

    /// How a candidate does in each exam, beside the generation that answers.
    pub(super) fn compare<const N: usize>(
        &self,
        candidate: &Candidate,
        exams: [&Exam; N],
    ) -> Result<[HeldOut; N]> {
        let (rows, documents) = self.candidate_corpus(candidate)?;
        let mut results = [const { HeldOut { weights: Vec::new(), rungs: Vec::new() } }; N];
        for (result, exam) in results.iter_mut().zip(exams) {
            let queries = match &candidate.rows {
                CandidateRows::Mapped(matrix) => apply(matrix, &exam.queries, self.encoder.dim())?,
                CandidateRows::Embedded(_) => {
                    let texts: Vec<&str> = exam.judged.iter().map(|judged| judged.query.as_str()).collect();
                    candidate.encoder.encode_queries(&texts, &self.options.task)?
                }
            };
            result.weights = exam.judged.iter().map(|judged| judged.weight).collect();
            for (rung, before) in &exam.before {
                let after = self.scores(&queries, &rows, &documents, *rung, &exam.judged)?;
                result.rungs.push((*rung, Paired { before: before.clone(), after }));
            }
        }
        Ok(results)
    }

    /// The verdict on what [`compare`](Self::compare) found.
    pub(super) fn decide(&self, held_out: &HeldOut, guard: HeldOut) -> GateReport {
        let guard = guard.rungs.into_iter().next_back().map(|(_, paired)| paired).unwrap_or_default();
        let options = GateOptions { seed: self.options.seed, ..GateOptions::default() };
        trainer::decide(held_out, &guard, &options)
    }

    /// NDCG@10 of each judged query.
    fn scores(
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
}

/// Consecutive words of a text, from a place that its number decides; nothing of shorter texts.
fn words_of(text: &str, number: usize) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let places = words.len().checked_sub(GUARD_WORDS)? + 1;
    // Knuth's multiplicative hash: neighbours start far from each other.
    let hash = u64::from((number as u32).wrapping_mul(2_654_435_761));
    let start = (hash * places as u64 >> 32) as usize;
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

//! What candidates are judged by: held-out queries, and others that guard ([`guard`](super::guard)).
//!
//! Few queries judge all of them, by cross-validation: the verdict is on what training makes of four fifths of
//! the pairs, five times, and each query is judged by a candidate that has not seen it. A part held out of four
//! hundred queries would be sixty, on which a gain of .03 and none look the same.
//!
//! A log judges by all of its searches, also those that nobody clicked in ([`searches`](super::searches)).

use super::Run;
use super::candidate::{Candidate, CandidateRows};
use super::material::Material;
use crate::encoder::Role;
use crate::error::Result;
use crate::trainer::adapter::apply;
use crate::trainer::judge::{Classed, class_ndcg, cosines};
use crate::trainer::report::Asked;
use crate::trainer::{self, HeldOut, Judged, Paired, Shape, StructureKind};

/// What judges, and how well the generation that answers does.
pub(super) struct Exam {
    pub questions: Questions,
    /// What each question scores, for each rung.
    before: Vec<(usize, Vec<f64>)>,
}

pub(super) enum Questions {
    /// Queries that should find documents: NDCG@10 of each.
    Search(Vec<Judged>),
    /// Texts of a log by their numbers: what was shown and clicked there. The verdict is on all of them together.
    Searched(Vec<usize>),
    /// Pairs of texts with what people think of them: the cosine of each.
    Likeness { pairs: Vec<[String; 2]>, scores: Vec<f64> },
    /// Texts that should find others of their class among all of the data: NDCG@10 of each. Given as numbers of examples.
    Classes(Vec<usize>),
}

/// Rows by which questions are answered: those of the generation that answers, or a candidate's.
pub(super) struct View<'a> {
    pub candidate: Option<&'a Candidate>,
    /// Of the documents, with the number of each, ascending.
    pub rows: &'a [f32],
    pub documents: &'a [u32],
}

impl Run<'_> {
    /// The examples of these numbers as questions, at all rungs; of a log the texts of these numbers.
    pub(super) fn exam(&self, held_out: &[usize]) -> Result<Exam> {
        let material = &self.material;
        let questions = match material.shape {
            _ if !self.searched.is_empty() => Questions::Searched(held_out.to_vec()),
            Shape::Pairs | Shape::Triplets => Questions::Search(material.judgements(held_out)),
            Shape::Scored => material.likenesses(held_out),
            Shape::Classes => Questions::Classes(held_out.to_vec()),
        };
        self.examined(questions, &self.ladder)
    }

    pub(super) fn examined(&self, questions: Questions, rungs: &[usize]) -> Result<Exam> {
        let (rows, documents) = (self.corpus.rows.as_slice(), self.corpus.document_of.as_slice());
        let view = View { candidate: None, rows, documents };
        let before = self.spent.on("judge", || self.answer(&questions, &view, rungs))?;
        Ok(Exam { questions, before: rungs.iter().copied().zip(before).collect() })
    }

    /// How a candidate does in each exam, beside the generation that answers. Notes which queries of the first exam
    /// changed most, if asked to.
    pub(super) fn compare<const N: usize>(
        &self,
        candidate: &Candidate,
        exams: [&Exam; N],
        asked: Option<&mut Vec<Asked>>,
    ) -> Result<[HeldOut; N]> {
        let (rows, documents) = self.spent.on("judge", || self.candidate_corpus(candidate))?;
        let view = View { candidate: Some(candidate), rows: &rows, documents: &documents };
        let mut results = std::array::from_fn(|_| HeldOut::default());
        for (result, exam) in results.iter_mut().zip(exams) {
            let rungs: Vec<usize> = exam.before.iter().map(|(rung, _)| *rung).collect();
            if let Questions::Searched(numbers) = &exam.questions {
                result.rungs = rungs.iter().map(|&rung| (rung, Paired::default())).collect();
                result.searched = self.spent.on("judge", || self.choices(numbers, &view, &rungs))?;
                continue;
            }
            let after = self.spent.on("judge", || self.answer(&exam.questions, &view, &rungs))?;
            let pairs = exam.before.iter().cloned().zip(after);
            result.rungs = pairs.map(|((rung, before), after)| (rung, Paired { before, after })).collect();
            match &exam.questions {
                Questions::Search(judged) => {
                    result.weights = judged.iter().map(|j| j.weight).collect();
                    result.kinds = self.kinds_of(judged);
                }
                Questions::Likeness { scores, .. } => result.scores = Some(scores.clone()),
                Questions::Searched(_) | Questions::Classes(_) => {}
            }
        }
        if let (Some(asked), Some(exam), Some(result)) = (asked, exams.first(), results.first()) {
            asked.extend(self.most_changed(exam, &view, result)?);
        }
        Ok(results)
    }

    /// Of queries made of documents the kind of each; else nothing.
    fn kinds_of(&self, judged: &[Judged]) -> Vec<Option<StructureKind>> {
        if self.kinds.is_empty() {
            return Vec::new();
        }
        judged.iter().map(|judged| self.kinds.get(&trainer::query_key(&judged.query)).copied()).collect()
    }

    /// What each question scores, for each rung.
    fn answer(&self, questions: &Questions, view: &View<'_>, rungs: &[usize]) -> Result<Vec<Vec<f64>>> {
        let dim = self.encoder.dim();
        match questions {
            Questions::Search(judged) => {
                let texts: Vec<&str> = judged.iter().map(|judged| judged.query.as_str()).collect();
                let queries = self.seen(view, &texts, Role::Query)?;
                let found = |&rung: &usize| {
                    self.options.task.step("judge", rung as u64, dim as u64)?;
                    let ranked = trainer::rank_exact(&queries, view.rows, view.documents, dim, rung, 10)?;
                    Ok(ranked.iter().zip(judged).map(|(ranked, judged)| self.ndcg(ranked, judged)).collect())
                };
                rungs.iter().map(found).collect()
            }
            // Their scores depend on both generations at once.
            Questions::Searched(_) => Ok(vec![Vec::new(); rungs.len()]),
            Questions::Likeness { pairs, .. } => {
                let side =
                    |side: usize| -> Vec<&str> { pairs.iter().map(|pair| pair[side].as_str()).collect() };
                let a = self.seen(view, &side(0), Role::Document)?;
                let b = self.seen(view, &side(1), Role::Document)?;
                rungs.iter().map(|&rung| cosines(&a, &b, dim, rung)).collect()
            }
            Questions::Classes(numbers) => {
                let texts: Vec<&str> = self
                    .material
                    .examples
                    .iter()
                    .filter_map(|e| e.texts.first())
                    .map(String::as_str)
                    .collect();
                let classes: Vec<u32> = self.material.examples.iter().map(|e| e.class).collect();
                let rows = self.seen(view, &texts, Role::Document)?;
                let own: Vec<Option<usize>> = numbers.iter().copied().map(Some).collect();
                let row = |&number: &usize| rows.get(number * dim..(number + 1) * dim).unwrap_or_default();
                let asked: Vec<f32> = numbers.iter().flat_map(row).copied().collect();
                let asked_classes: Vec<u32> =
                    numbers.iter().filter_map(|&n| classes.get(n).copied()).collect();
                let queries = Classed { rows: &asked, classes: &asked_classes };
                let corpus = Classed { rows: &rows, classes: &classes };
                rungs.iter().map(|&rung| class_ndcg(queries, corpus, &own, (dim, rung), 10)).collect()
            }
        }
    }

    fn ndcg(&self, ranked: &[u32], judged: &Judged) -> f64 {
        let id = |&number: &u32| self.corpus.ids.get(number as usize).cloned().unwrap_or_default();
        let ids: Vec<String> = ranked.iter().map(id).collect();
        trainer::ndcg(&ids, &judged.grades, 10)
    }

    /// Vectors of texts as a view has them.
    pub(super) fn seen(&self, view: &View<'_>, texts: &[&str], role: Role) -> Result<Vec<f32>> {
        let known = || self.material.vectors.rows_of(texts.iter().map(|&text| (text, role)));
        match view.candidate.map(|candidate| (&candidate.encoder, &candidate.rows)) {
            None => Ok(known()),
            Some((_, CandidateRows::QueriesMapped(_))) if role == Role::Document => Ok(known()),
            Some((_, CandidateRows::Mapped(matrix) | CandidateRows::QueriesMapped(matrix))) => {
                apply(matrix, &known(), self.encoder.dim())
            }
            Some((encoder, CandidateRows::Embedded(_))) => match role {
                Role::Query => encoder.encode_queries(texts, &self.options.task),
                Role::Document => encoder.encode(texts, &self.options.task),
            },
        }
    }
}

impl Material {
    /// What pairs and triplets say of each distinct query.
    fn judgements(&self, numbers: &[usize]) -> Vec<Judged> {
        let of = |&number: &usize| {
            let example = self.examples.get(number)?;
            let query = example.texts.first()?.as_str();
            Some((query, self.positives.get(number)?.as_str(), example.weight))
        };
        trainer::judgements(numbers.iter().filter_map(of))
    }

    fn likenesses(&self, numbers: &[usize]) -> Questions {
        let examples = numbers.iter().filter_map(|&number| self.examples.get(number));
        let (mut pairs, mut scores) = (Vec::new(), Vec::new());
        for example in examples {
            if let ([a, b], [score]) = (example.texts.as_slice(), example.targets.as_slice()) {
                pairs.push([a.clone(), b.clone()]);
                scores.push(f64::from(*score));
            }
        }
        Questions::Likeness { pairs, scores }
    }
}

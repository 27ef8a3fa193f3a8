//! Held-out queries that a candidate changes most, each with what it finds before and after.

use std::borrow::Cow;

use super::Run;
use super::exam::{Exam, Questions, View};
use super::searches::Searched;
use crate::encoder::Role;
use crate::error::Result;
use crate::trainer::report::{Asked, HITS, Shown, most_changed};
use crate::trainer::{self, HeldOut, Judged};

impl Run<'_> {
    /// Where to note such queries; nowhere if nobody wants a report.
    pub(super) fn noting<'v>(&self, asked: &'v mut Vec<Asked>) -> Option<&'v mut Vec<Asked>> {
        self.options.report.is_some().then_some(asked)
    }

    /// The queries of an exam that gained and lost most at the full dimension; of other questions none.
    pub(super) fn most_changed(&self, exam: &Exam, view: &View<'_>, result: &HeldOut) -> Result<Vec<Asked>> {
        let Some(&rung) = result.rungs.last().map(|(rung, _)| rung) else { return Ok(Vec::new()) };
        let (judged, [before, after]) = self.judged(exam, result);
        let scores: Vec<(f64, f64)> = before.into_iter().zip(after).collect();
        let gains: Vec<f64> = scores.iter().map(|(before, after)| after - before).collect();
        let chosen: Vec<(&Judged, (f64, f64))> = most_changed(&gains)
            .into_iter()
            .filter_map(|number| Some((judged.get(number)?, *scores.get(number)?)))
            .collect();
        let texts: Vec<&str> = chosen.iter().map(|(judged, _)| judged.query.as_str()).collect();
        let old = View { candidate: None, rows: &self.corpus.rows, documents: &self.corpus.document_of };
        let ranked = |view: &View<'_>| -> Result<Vec<Vec<u32>>> {
            let queries = self.seen(view, &texts, Role::Query)?;
            trainer::rank_exact(&queries, view.rows, view.documents, self.encoder.dim(), rung, HITS)
        };
        let (before, after) = (ranked(&old)?, ranked(view)?);
        let strangers = self.material.strangers();
        let shown = |numbers: Vec<u32>, judged: &Judged| -> Result<Vec<Shown>> {
            let shown = |number: u32| {
                let number = number as usize;
                let id = self.corpus.ids.get(number).cloned().unwrap_or_default();
                let wanted = judged.grades.get(&id).is_some_and(|grade| *grade > 0.0);
                Ok(match self.corpus.documents.get(number) {
                    Some((place, _)) => {
                        Shown { id: Some(id), text: self.snapshot.document(*place)?.full_text(), wanted }
                    }
                    None => {
                        let text = strangers.get(&id).copied().unwrap_or_default().to_owned();
                        Shown { id: None, text, wanted }
                    }
                })
            };
            numbers.into_iter().map(shown).collect()
        };
        let hits = before.into_iter().zip(after);
        let asked = chosen.into_iter().zip(hits).map(|((judged, (before, after)), (old, new))| {
            let hits = [shown(old, judged)?, shown(new, judged)?];
            Ok(Asked { query: judged.query.clone(), before, after, hits })
        });
        asked.collect()
    }

    /// The queries of an exam with what they score at the full dimension, before and after. Of a log's texts what was clicked
    /// counts as wanted, and the scores are those that these texts alone would give.
    fn judged<'e>(&'e self, exam: &'e Exam, result: &HeldOut) -> (Cow<'e, [Judged]>, [Vec<f64>; 2]) {
        let full = result.rungs.last().map(|(_, paired)| paired);
        match &exam.questions {
            Questions::Search(judged) => {
                let scores = full.map(|full| [full.before.clone(), full.after.clone()]).unwrap_or_default();
                (judged.into(), scores)
            }
            Questions::Searched(numbers) => {
                let (scored, _) = trainer::choice::scored(&result.searched);
                let texts = numbers.iter().filter_map(|&number| self.searched.get(number));
                let judged: Vec<Judged> = texts.map(Searched::judged).collect();
                (judged.into(), scored.rungs.into_iter().next_back().unwrap_or_default())
            }
            Questions::Likeness { .. } | Questions::Classes(_) => (Cow::default(), Default::default()),
        }
    }
}

/// Of several exams' queries those that changed most of all.
pub(super) fn most_of_all(asked: Vec<Asked>) -> Vec<Asked> {
    let gains: Vec<f64> = asked.iter().map(Asked::gain).collect();
    most_changed(&gains).into_iter().filter_map(|number| asked.get(number).cloned()).collect()
}

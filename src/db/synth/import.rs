//! Which answers are learnt from: those about passages that are still as they were when they were asked about, fit to be
//! queries, said once, and found again.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::db::Db;
use crate::db::search::SearchOptions;
use crate::db::snapshot::Snapshot;
use crate::error::Result;
use crate::options::Task;
use crate::trainer::query_key;
use crate::trainer::synth::answer::{Proposal, proposals};
use crate::trainer::synth::judge::{Unfit, overlaps, unfit};
use crate::trainer::synth::prompt::PromptId;

/// Hits among which a query must find its document. With fewer, queries that the present encoder fails at, from which
/// there is most to learn, are lost; with more, wrong ones come in.
pub const FOUND_WITHIN: usize = 20;
/// Queries that are searched for together.
const BATCH: usize = 256;

/// A pair to learn from, as `retrain --data` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynthPair {
    /// The query.
    pub query: String,
    /// The document that it should find.
    pub positive: DocumentId,
    /// A text that it should not find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
}

/// Names a stored document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentId {
    /// Its id.
    pub id: String,
}

/// What became of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ImportReport {
    /// Answers read.
    pub answers: usize,
    /// Pairs written.
    pub pairs: usize,
    /// Of them, with a hard negative.
    pub negatives: usize,
    /// Of them, found by their words alone.
    pub by_words: usize,
    /// Answers to no prompt of this kind, or about documents that are not stored.
    pub foreign: usize,
    /// Answers about passages that have changed since.
    pub stale: usize,
    /// Answers in which there is no query.
    pub unreadable: usize,
    /// Queries that say nothing.
    pub empty: usize,
    /// Queries that are too long.
    pub too_long: usize,
    /// Queries that are a part of their passage.
    pub copies: usize,
    /// Queries that speak of "the passage" instead of naming what they are about.
    pub pointing: usize,
    /// Queries that came before.
    pub repeated: usize,
    /// Queries that do not find their document.
    pub not_found: usize,
}

impl ImportReport {
    /// What was left out, for the user.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.foreign + self.stale > 0 {
            notes.push(format!(
                "{} answers are about no document of this database, {} about passages that have changed since: they were \
                 left out",
                self.foreign, self.stale
            ));
        }
        if self.not_found > 0 {
            notes.push(format!(
                "{} queries do not find their document among the first {FOUND_WITHIN} hits and share few words with it: \
                 they were left out (--keep-all keeps them)",
                self.not_found
            ));
        }
        notes
    }
}

/// A query that waits to be searched for.
struct Waiting {
    pair: SynthPair,
    overlaps: bool,
}

/// Answers coming in, pairs going out.
pub struct SynthImport<'a, T> {
    db: &'a Db,
    snapshot: Arc<Snapshot>,
    /// Whether queries need not find their documents.
    keep_all: bool,
    take: T,
    task: Task,
    seen: HashSet<u64>,
    waiting: Vec<Waiting>,
    report: ImportReport,
}

impl Db {
    /// Begins to read answers; each pair that is fit goes to `take`, in the order of the answers. Reports the stage
    /// "import".
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) for a database without an encoder.
    pub fn synth_import<T: FnMut(&SynthPair) -> Result<()>>(
        &self,
        keep_all: bool,
        take: T,
        task: &Task,
    ) -> Result<SynthImport<'_, T>> {
        self.refresh()?;
        self.encoder()?;
        Ok(SynthImport {
            db: self,
            snapshot: self.inner.snapshot(),
            keep_all,
            take,
            task: task.clone(),
            seen: HashSet::new(),
            waiting: Vec::new(),
            report: ImportReport::default(),
        })
    }
}

impl<T: FnMut(&SynthPair) -> Result<()>> SynthImport<'_, T> {
    /// Takes the answer to a prompt.
    ///
    /// # Errors
    /// Those of searching, of `take`, and [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn answer(&mut self, prompt_id: &str, answer: &Value) -> Result<()> {
        self.task.step("import", self.report.answers as u64, 0)?;
        self.report.answers += 1;
        let Some(prompt) = PromptId::parse(prompt_id) else {
            self.report.foreign += 1;
            return Ok(());
        };
        let Some(place) = self.snapshot.find(&prompt.id)? else {
            self.report.foreign += 1;
            return Ok(());
        };
        let document = self.snapshot.document(place)?;
        let Some(passage) = document.text.get(prompt.span.clone()).filter(|passage| prompt.fits(passage))
        else {
            self.report.stale += 1;
            return Ok(());
        };
        let proposals = proposals(answer);
        if proposals.is_empty() {
            self.report.unreadable += 1;
        }
        for Proposal { query, hard_negative } in proposals {
            match unfit(&query, passage) {
                Some(Unfit::Empty) => self.report.empty += 1,
                Some(Unfit::Long) => self.report.too_long += 1,
                Some(Unfit::Copy) => self.report.copies += 1,
                Some(Unfit::Pointing) => self.report.pointing += 1,
                None if !self.seen.insert(query_key(&query)) => self.report.repeated += 1,
                None => {
                    let overlaps = overlaps(&query, passage);
                    let negative = hard_negative.filter(|negative| query_key(negative) != query_key(passage));
                    let positive = DocumentId { id: prompt.id.clone() };
                    self.waiting.push(Waiting { pair: SynthPair { query, positive, negative }, overlaps });
                }
            }
        }
        if self.waiting.len() >= BATCH { self.search() } else { Ok(()) }
    }

    /// Ends the import.
    ///
    /// # Errors
    /// As of [`answer`](Self::answer).
    pub fn finish(mut self) -> Result<ImportReport> {
        self.search()?;
        Ok(self.report)
    }

    /// Searches for what waits, and hands on what finds its document.
    fn search(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let texts: Vec<String> = waiting.iter().map(|waiting| waiting.pair.query.clone()).collect();
        let found: Vec<bool> = match self.keep_all {
            true => vec![true; waiting.len()],
            false => {
                let options = SearchOptions { k: FOUND_WITHIN, ..SearchOptions::default() };
                let results = self.db.search_batch(&texts, &options, &self.task.quiet())?;
                let finds = |(waiting, result): (&Waiting, &crate::types::SearchResult)| {
                    result.hits.iter().any(|hit| hit.id == waiting.pair.positive.id)
                };
                waiting.iter().zip(&results).map(finds).collect()
            }
        };
        for (Waiting { pair, overlaps }, found) in waiting.into_iter().zip(found) {
            if !found && !overlaps {
                self.report.not_found += 1;
                continue;
            }
            self.report.pairs += 1;
            self.report.by_words += usize::from(!found);
            self.report.negatives += usize::from(pair.negative.is_some());
            (self.take)(&pair)?;
        }
        Ok(())
    }
}

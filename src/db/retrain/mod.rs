//! `retrain`: from the log (or a file) to a better generation, or to a reason why not.
//!
//! Everything is measured before anything is published: the candidate ranks held-out queries over the whole
//! corpus, at every rung, beside the generation that answers now.
//!
//! | file | what it holds |
//! |---|---|
//! | `corpus` | the documents and their rows as the generation that answers sees them |
//! | `exam` | what candidates are judged by |
//! | `queries` | vectors of the queries of pairs |
//! | `candidate` | what training makes, and publishing it |

mod candidate;
mod corpus;
mod exam;
mod queries;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::candidate::Candidate;
use self::corpus::Corpus;
use self::exam::Exam;
use self::queries::Queries;
use super::encoders::Encoder;
use super::snapshot::Snapshot;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::options::Task;
use crate::trainer::{
    self, Click, GateReport, HeldOut, LoggedQuery, Pair, ResolvedPair, SplitOptions, TrainReport,
};
use crate::types::Event;

/// With fewer queries held out than this, all judge, by cross-validation …
const CROSSED_BELOW: usize = 400;
/// … in so many parts.
const FOLDS: usize = 5;
/// Pairs from which on the encoder itself is trained unasked.
const LEAST_PAIRS: usize = 1_000;
/// Documents up to which everything is encoded again unasked.
const MOST_DOCUMENTS: u64 = 50_000;

/// How the encoder learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// The adapter; if the gate passes it and there is enough to learn from, also the encoder's upper layers.
    /// The better of both is published.
    #[default]
    Best,
    /// A linear map on queries and documents; stored vectors are mapped, nothing is encoded again.
    Adapter,
    /// The weights of the encoder, and an adapter to follow it; everything is encoded again.
    Full,
}

/// What `retrain` does.
#[derive(Debug, Clone, Default)]
pub struct RetrainOptions {
    /// JSONL pairs to learn from instead of the log.
    pub data: Option<PathBuf>,
    /// How to learn.
    pub method: Method,
    /// Matryoshka ladder of the new generation; by default that of the active one.
    pub dims: Option<Vec<usize>>,
    /// How many of the encoder's topmost layers are trained. By default all weights with [`Method::Full`], a third
    /// of the layers with [`Method::Best`].
    pub layers: Option<usize>,
    /// Passes over the data; by default 15 for the adapter, 1 for the encoder. This, the size of batches and the
    /// rate concern the adapter unless the method is [`Method::Full`].
    pub epochs: Option<usize>,
    /// Pairs in a batch; by default 512 for the adapter, 64 for upper layers, 32 for the whole encoder.
    pub batch_size: Option<usize>,
    /// Learning rate; by default 2e-3 for the adapter, 2e-4 for upper layers, 2e-5 for the whole encoder.
    pub lr: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Stop training after this time.
    pub time_budget: Option<Duration>,
    /// Say what would be done, and do nothing.
    pub plan: bool,
    /// Publish whatever the gate says.
    pub force: bool,
    /// Progress and cancellation.
    pub task: Task,
}

/// What `retrain` did; serialises to the object of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrainReport {
    /// Whether a new generation answers now.
    pub published: bool,
    /// The generation that answers.
    pub generation: u32,
    /// The one that answered before.
    pub previous: u32,
    /// Its encoder.
    pub model_id: String,
    /// Training.
    pub train: TrainReport,
    /// The verdict.
    pub gate: GateReport,
    /// Building the new generation.
    pub reindex: ReindexReport,
    /// For the user.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// What building the new generation took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ReindexReport {
    /// Documents.
    pub documents: u64,
    /// Wall time.
    pub seconds: f64,
}

impl Db {
    /// Learns from the log, or from a file; publishes only what is certainly better.
    pub fn retrain(&self, options: RetrainOptions) -> Result<RetrainReport> {
        self.refresh()?;
        let snapshot = self.inner.snapshot();
        let generation = match snapshot.generation() {
            Some(generation) if !generation.model_id.is_empty() => generation.clone(),
            _ => {
                return Err(Error::input(
                    "there is no encoder to train: this database is empty or stores plain vectors",
                ));
            }
        };
        if options.method == Method::Adapter && options.layers.is_some() {
            return Err(Error::input("an adapter trains none of the encoder's layers"));
        }
        let mut run = Run::new(&self.inner, generation, &options)?;
        let (pairs, notes) = match &options.data {
            Some(path) => pairs_from_file(path)?,
            None => (pairs_from_log(&self.log_events()?), Vec::new()),
        };
        run.notes.extend(notes);
        run.resolve(pairs)?;
        run.learn()
    }
}

fn pairs_from_file(path: &Path) -> Result<(Vec<Pair>, Vec<String>)> {
    let mut data = trainer::data::open(path, None)?;
    let notes = std::mem::take(&mut data.report.notes);
    Ok((data.into_pairs()?, notes))
}

fn pairs_from_log(events: &[Event]) -> Vec<Pair> {
    let mut queries: Vec<LoggedQuery> = Vec::new();
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for event in events {
        if let Event::Search(search) = event {
            by_id.insert(&search.query_id, queries.len());
            queries.push(LoggedQuery {
                query_id: search.query_id.clone(),
                text: search.text.clone(),
                time: search.time_ms * 1000,
                generation: search.generation,
                shown: search.shown.clone(),
                clicks: Vec::new(),
            });
        }
    }
    for event in events {
        if let Event::Click(click) = event
            && let Some(query) = by_id.get(click.query_id.as_str()).and_then(|&n| queries.get_mut(n))
        {
            query.clicks.push(Click { id: click.id.clone(), grade: click.grade, time: click.time_ms * 1000 });
        }
    }
    trainer::pairs_from_log(&queries).0
}

/// One run of `retrain`.
struct Run<'a> {
    inner: &'a Inner,
    snapshot: Arc<Snapshot>,
    generation: Generation,
    options: &'a RetrainOptions,
    encoder: Encoder,
    ladder: Vec<usize>,
    corpus: Corpus,
    pairs: Vec<ResolvedPair>,
    queries: Queries,
    notes: Vec<String>,
    start: Instant,
}

impl<'a> Run<'a> {
    fn new(inner: &'a Inner, generation: Generation, options: &'a RetrainOptions) -> Result<Self> {
        let snapshot = inner.snapshot();
        let encoder = inner.encoder(&generation.model_id)?;
        let dim = encoder.dim();
        let ladder = match &options.dims {
            Some(dims) => crate::types::checked_ladder(dims, dim)?,
            None => generation.ladder.iter().map(|&r| r as usize).collect(),
        };
        let corpus =
            Corpus { rows: Vec::new(), document_of: Vec::new(), documents: Vec::new(), ids: Vec::new() };
        let (pairs, queries, notes) = (Vec::new(), Queries::default(), Vec::new());
        let start = Instant::now();
        Ok(Self {
            inner,
            snapshot,
            generation,
            options,
            encoder,
            ladder,
            corpus,
            pairs,
            queries,
            notes,
            start,
        })
    }

    fn learn(mut self) -> Result<RetrainReport> {
        let keyed: Vec<(&str, u64)> = self.pairs.iter().map(|p| (p.query.as_str(), p.time)).collect();
        let split = match trainer::split(&keyed, &SplitOptions::default()) {
            Ok(split) => split,
            Err(too_little) => {
                return Ok(self.refused(GateReport::refused(too_little.0), TrainReport::default()));
            }
        };
        if split.leaks > 0 {
            self.notes.push(format!("{} pairs were left out: their query also judges", split.leaks));
        }
        if self.options.plan {
            let gate = GateReport::refused(self.plan(split.train.len(), split.held_out_queries));
            return Ok(self.refused(gate, TrainReport::default()));
        }
        let texts = self.pairs.iter().map(|pair| pair.query.as_str());
        self.queries = Queries::encode(&self.encoder, texts, &self.options.task)?;
        let guard = self.guard()?;
        let (candidate, mut gate) = match self.options.method {
            Method::Full => self.held_out(&split, &guard, Self::train_encoder)?,
            _ if split.held_out_queries < CROSSED_BELOW => self.crossed(&guard)?,
            _ => self.held_out(&split, &guard, Self::train_adapter)?,
        };
        if !gate.publish && self.options.force {
            gate.reason = format!("published by force: {}", gate.reason);
            return self.publish(candidate, gate);
        }
        if !gate.publish {
            candidate.rows.discard(self.inner)?;
            return Ok(self.refused(gate, candidate.train));
        }
        if self.options.method == Method::Best
            && let Some((better, gate)) = self.better_encoder(&split, &guard)?
        {
            return self.publish(better, gate);
        }
        let candidate = match self.options.method {
            Method::Full => candidate,
            _ => self.with_all_pairs(candidate, &split, &guard)?,
        };
        self.publish(candidate, gate)
    }

    /// Trains on the older pairs and judges by the newer.
    fn held_out(
        &self,
        split: &trainer::Split,
        guard: &Exam,
        train: impl Fn(&Self, &[usize]) -> Result<Candidate>,
    ) -> Result<(Candidate, GateReport)> {
        let exam = self.exam(&split.held_out)?;
        let candidate = train(self, &split.train)?;
        let [held_out, guard] = self.compare(&candidate, [&exam, guard])?;
        Ok((candidate, self.decide(&held_out, guard)))
    }

    /// An adapter from all pairs, judged by those of its like that lacked a fifth of them.
    fn crossed(&self, guard: &Exam) -> Result<(Candidate, GateReport)> {
        let mut all = HeldOut::default();
        let keyed: Vec<(&str, u64)> = self.pairs.iter().map(|p| (p.query.as_str(), p.time)).collect();
        for fold in trainer::folds(&keyed, FOLDS) {
            let exam = self.exam(&fold.held_out)?;
            let [held_out] = self.compare(&self.train_adapter(&fold.train)?, [&exam])?;
            all.append(held_out);
        }
        let pairs: Vec<usize> = (0..self.pairs.len()).collect();
        let candidate = self.train_adapter(&pairs)?;
        let [guard] = self.compare(&candidate, [guard])?;
        Ok((candidate, self.decide(&all, guard)))
    }

    /// The encoder with its upper layers trained, if there is enough to learn from, and it gains more than the adapter,
    /// which has passed. What the gate refuses as an adapter comes no further: a log that teaches a linear map nothing
    /// certain costs seconds, and gets one chance to be published by luck.
    fn better_encoder(
        &mut self,
        split: &trainer::Split,
        guard: &Exam,
    ) -> Result<Option<(Candidate, GateReport)>> {
        let spent = self.options.time_budget.is_some_and(|budget| self.start.elapsed() >= budget);
        if split.train.len() < LEAST_PAIRS || spent {
            return Ok(None);
        }
        if let Err(reason) = self.encoder.check_trainable() {
            self.notes.push(format!("only the adapter was trained: {reason}"));
            return Ok(None);
        }
        let documents = self.snapshot.count();
        if documents > MOST_DOCUMENTS {
            self.notes.push(format!(
                "only the adapter was trained: for more, {documents} documents would have to be encoded again, which \
                 `--method full` does"
            ));
            return Ok(None);
        }
        let (_, adapter) = self.held_out(split, guard, Self::train_adapter)?;
        let (mut candidate, gate) = self.held_out(split, guard, Self::train_encoder)?;
        let compared = format!(
            "on held-out queries the adapter alone gains {:.4}, the encoder {:.4}",
            adapter.gain, gate.gain
        );
        if !gate.publish || gate.gain <= adapter.gain {
            self.notes.push(compared);
            candidate.rows.discard(self.inner)?;
            return Ok(None);
        }
        candidate.train.notes.push(compared);
        Ok(Some((candidate, gate)))
    }

    /// Once the gate has passed what the older pairs taught, the newest, which judged, are learnt as well: they are
    /// what people search now. The result must not fail on the guard set, which is still unseen; else the judged
    /// candidate stays.
    fn with_all_pairs(&self, judged: Candidate, split: &trainer::Split, guard: &Exam) -> Result<Candidate> {
        if judged.pairs == self.pairs.len() {
            return Ok(judged);
        }
        let all: Vec<usize> = split.train.iter().chain(&split.held_out).copied().collect();
        let mut again = self.train_adapter(&all)?;
        let [guarded] = self.compare(&again, [guard])?;
        if !trainer::harmless(&guarded) {
            return Ok(judged);
        }
        again.train.notes.push("after the gate, trained again with the pairs that judged".into());
        Ok(again)
    }

    fn plan(&self, train: usize, held_out: usize) -> String {
        let documents = self.corpus.documents.len();
        let adapter = format!(
            "plan: train a linear adapter on {train} pairs, judge it on {held_out} held-out queries, and map the stored \
             vectors of {documents} documents; nothing is encoded again"
        );
        let layers = match self.layers() {
            Some(layers) => format!("{layers} upper layers of the encoder"),
            None => "all weights of the encoder".into(),
        };
        match self.options.method {
            Method::Best if train >= LEAST_PAIRS && documents as u64 <= MOST_DOCUMENTS => format!(
                "{adapter}; if that is better, train {layers} as well, encode the documents again, and publish the best"
            ),
            Method::Best | Method::Adapter => adapter,
            Method::Full => format!(
                "plan: train {layers} on {train} pairs, judge them on {held_out} held-out queries, and encode \
                 {documents} documents again"
            ),
        }
    }

    /// How many upper layers are trained; all weights if not given.
    fn layers(&self) -> Option<usize> {
        let third = || self.encoder.layers().div_ceil(3);
        match self.options.method {
            Method::Full => self.options.layers,
            Method::Best | Method::Adapter => Some(self.options.layers.unwrap_or_else(third)),
        }
    }

    fn refused(self, gate: GateReport, train: TrainReport) -> RetrainReport {
        let mut notes = self.notes;
        notes.extend(train.notes.iter().cloned());
        RetrainReport {
            published: false,
            generation: self.generation.id,
            previous: self.generation.id,
            model_id: self.generation.model_id,
            train,
            gate,
            reindex: ReindexReport::default(),
            notes,
        }
    }
}

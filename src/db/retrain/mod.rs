//! `retrain`: from the log (or a file) to a better generation, or to a reason why not.
//!
//! Everything is measured before anything is published: the candidate ranks held-out queries over the whole
//! corpus, at every rung, beside the generation that answers now.
//!
//! | file | what it holds |
//! |---|---|
//! | `corpus` | the documents and their rows as the generation that answers sees them |
//! | `exam` | what candidates are judged by |
//! | `candidate` | what training makes, and publishing it |

mod candidate;
mod corpus;
mod exam;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::candidate::Candidate;
use self::corpus::Corpus;
use self::exam::Exam;
use super::encoders::Encoder;
use super::feedback::logged_queries;
use super::snapshot::Snapshot;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::options::Task;
use crate::trainer::{
    self, ClickOptions, FromLog, GateReport, LoggedQuery, Pair, ResolvedPair, SplitOptions, TrainReport,
};

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
            None => pairs_from_log(&logged_queries(&self.log_events()?)),
        };
        run.notes.extend(notes);
        run.resolve(pairs)?;
        run.learn()
    }
}

fn pairs_from_file(path: &Path) -> Result<(Vec<Pair>, Vec<String>)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let (pairs, report) = trainer::read_pairs(BufReader::new(file), &path.display().to_string())?;
    let notes = match report.duplicates {
        0 => Vec::new(),
        n => vec![format!("{n} repeated pairs were dropped")],
    };
    Ok((pairs, notes))
}

fn pairs_from_log(queries: &[LoggedQuery]) -> (Vec<Pair>, Vec<String>) {
    let FromLog { pairs, bias, report, .. } = trainer::pairs_from_log(queries, &ClickOptions::default());
    let mut notes: Vec<String> = bias.note.into_iter().filter(|_| report.clicks > 0).collect();
    if report.cut.robots > 0 {
        notes.push(format!("{} searches look like those of robots and were left out", report.cut.robots));
    }
    if report.cut.capped_clients > 0 {
        notes.push(format!(
            "{} clients searched far more than others and count less",
            report.cut.capped_clients
        ));
    }
    if report.improbable > 0 {
        notes.push(format!(
            "{} clicked documents were left out: their clicks look like accidents",
            report.improbable
        ));
    }
    (pairs, notes)
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
        let (pairs, notes) = (Vec::new(), Vec::new());
        let start = Instant::now();
        Ok(Self { inner, snapshot, generation, options, encoder, ladder, corpus, pairs, notes, start })
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
        let exam = self.exam(&split.held_out)?;
        let train: Vec<ResolvedPair> = split.train.iter().map(|&n| self.pairs[n].clone()).collect();
        let candidate = match self.options.method {
            Method::Full => self.train_encoder(&train)?,
            Method::Adapter | Method::Best => self.train_adapter(&train)?,
        };
        let mut gate = self.judge(&candidate, &exam)?;
        if !gate.publish && self.options.force {
            gate.reason = format!("published by force: {}", gate.reason);
        } else if !gate.publish {
            candidate.rows.discard(self.inner)?;
            return Ok(self.refused(gate, candidate.train));
        } else if self.options.method != Method::Full {
            if let Some((better, gate)) = self.better_encoder(&train, &exam, &gate)? {
                return self.publish(better, gate);
            }
            let candidate = self.with_all_pairs(candidate, &split, &exam)?;
            return self.publish(candidate, gate);
        }
        self.publish(candidate, gate)
    }

    /// The encoder with its upper layers trained, if the method allows it, there is enough to learn from, and it
    /// gains more than the adapter that `passed`. What the gate refuses as an adapter comes no further: a log that
    /// teaches a linear map nothing certain costs seconds, and gets one chance to be published by luck.
    fn better_encoder(
        &mut self,
        train: &[ResolvedPair],
        exam: &Exam,
        passed: &GateReport,
    ) -> Result<Option<(Candidate, GateReport)>> {
        let spent = self.options.time_budget.is_some_and(|budget| self.start.elapsed() >= budget);
        if self.options.method != Method::Best || train.len() < LEAST_PAIRS || spent {
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
        let mut candidate = self.train_encoder(train)?;
        let gate = self.judge(&candidate, exam)?;
        let compared = format!(
            "on held-out queries the adapter alone gains {:.4}, the encoder {:.4}",
            passed.gain, gate.gain
        );
        if !gate.publish || gate.gain <= passed.gain {
            self.notes.push(compared);
            candidate.rows.discard(self.inner)?;
            return Ok(None);
        }
        candidate.train.notes.push(compared);
        Ok(Some((candidate, gate)))
    }

    /// Once the gate has passed what the older pairs taught, the newest, which judged, are learnt as well: they are
    /// what people search now. The result must pass the same exam, of which the guard set is still unseen; else the
    /// judged candidate stays.
    fn with_all_pairs(&self, judged: Candidate, split: &trainer::Split, exam: &Exam) -> Result<Candidate> {
        let all: Vec<ResolvedPair> =
            split.train.iter().chain(&split.held_out).map(|&n| self.pairs[n].clone()).collect();
        let mut again = self.train_adapter(&all)?;
        if !self.judge(&again, exam)?.publish {
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

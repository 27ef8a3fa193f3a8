//! `retrain` and `eval`: from the log (or a file) to a better generation, or to a reason why not.
//!
//! Everything is measured before anything is published: the candidate ranks held-out queries over the whole
//! corpus, at every rung, beside the generation that answers now.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::Serializer;

use super::encoders::Encoder;
use super::generations::{Embedded, NewGeneration, RowSource};
use super::mapped::Mapped;
use super::search::{SearchOptions, parallel};
use super::searcher::Searcher;
use super::snapshot::{Place, Snapshot};
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::options::Task;
use crate::trainer::adapter::apply;
use crate::trainer::{
    self, AdapterOptions, Click, FullOptions, GateOptions, GateReport, HeldOut, Judged, LoggedQuery, Pair,
    PairRows, Paired, ResolvedPair, Scores, SplitOptions, Target, TextPair, TrainReport,
};
use crate::types::Event;

/// Documents that must find themselves, at most.
const GUARD_DOCUMENTS: usize = 500;
/// Pairs from which on the encoder itself is trained unasked.
const LEAST_PAIRS: usize = 1_000;
/// Documents up to which everything is encoded again unasked.
const MOST_DOCUMENTS: u64 = 50_000;
/// Depth of `eval`.
const EVAL_DEPTH: usize = 100;

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

/// Relevant documents of each query, with grades.
pub type Qrels = HashMap<String, HashMap<String, f64>>;

/// How `eval` searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalOptions {
    /// Cut-off of NDCG, MRR and recall.
    pub k: usize,
    /// Rank by the first so many dimensions.
    pub dim: Option<usize>,
    /// Generation to judge; by default the active one.
    pub generation: Option<u32>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { k: 10, dim: None, generation: None }
    }
}

/// What `eval` measured.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalReport {
    /// Means over the queries.
    pub scores: Scores,
    /// Cut-off.
    pub k: usize,
    /// Queries with judgements.
    pub queries: usize,
    /// For the user.
    pub notes: Vec<String>,
}

impl Serialize for EvalReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.scores.to_json(self.k, self.queries).serialize(serializer)
    }
}

impl Db {
    /// Measures ranking quality (see [`trainer::metrics`]) by exact search. Queries without judgements are left out.
    /// Reports the stages "embed" and "search", and stops with [`Error::Cancelled`] between two batches of texts or two
    /// searches.
    pub fn eval(
        &self,
        queries: &[(String, String)],
        qrels: &Qrels,
        options: &EvalOptions,
        task: &Task,
    ) -> Result<EvalReport> {
        let snapshot = self.inner.snapshot();
        let active = snapshot.manifest.active_generation;
        let id = options.generation.unwrap_or(active);
        let Some(generation) = snapshot.manifest.generation(id) else {
            return Err(Error::input(format!("there is no generation {id}; `generations` lists them")));
        };
        if generation.model_id.is_empty() {
            return Err(Error::input(
                "this database stores plain vectors and has no encoder for the queries",
            ));
        }
        let judged: Vec<&(String, String)> = queries
            .iter()
            .filter(|q| qrels.get(&q.0).is_some_and(|r| r.values().any(|&g| g > 0.0)))
            .collect();
        if judged.is_empty() {
            return Err(Error::input("no query has a judgement: do the ids of queries and qrels agree?"));
        }
        let encoder = self.inner.encoder(&generation.model_id)?;
        let texts: Vec<&str> = judged.iter().map(|q| q.1.as_str()).collect();
        let vectors = encoder.encode_queries(&texts, task)?;
        let rows: Vec<&[f32]> = vectors.chunks_exact(encoder.dim()).collect();
        let search = SearchOptions {
            k: options.k.max(EVAL_DEPTH),
            dim: options.dim,
            exact: true,
            ..SearchOptions::default()
        };
        let searcher = Searcher::new(Arc::clone(&snapshot), generation.id, search, None)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let done = AtomicU64::new(0);
        let found = parallel(&rows, threads, |row| {
            task.step("search", done.fetch_add(1, Ordering::Relaxed), rows.len() as u64)?;
            let found = searcher.find(row)?;
            found.iter().map(|f| searcher.id(f).map(str::to_owned)).collect::<Result<Vec<String>>>()
        })?;
        let nobody = HashMap::new();
        let scores: Vec<Scores> = judged
            .iter()
            .zip(&found)
            .map(|(query, ranked)| Scores::of(ranked, qrels.get(&query.0).unwrap_or(&nobody), options.k))
            .collect();
        let notes = lacking_note(&snapshot, id, searcher.matches());
        Ok(EvalReport { scores: Scores::mean(&scores), k: options.k, queries: judged.len(), notes })
    }

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

fn lacking_note(snapshot: &Snapshot, generation: u32, found: usize) -> Vec<String> {
    let total = snapshot.count() as usize;
    if found >= total {
        return Vec::new();
    }
    vec![format!(
        "{} of {total} documents have no vectors of generation {generation} and could not be found",
        total - found
    )]
}

fn pairs_from_file(path: &std::path::Path) -> Result<(Vec<Pair>, Vec<String>)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let (pairs, report) = trainer::read_pairs(BufReader::new(file), &path.display().to_string())?;
    let notes = match report.duplicates {
        0 => Vec::new(),
        n => vec![format!("{n} repeated pairs were dropped")],
    };
    Ok((pairs, notes))
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

/// All rows of a generation in one array, for ranking.
struct Corpus {
    /// Row-major vectors.
    rows: Vec<f32>,
    /// Document of each row.
    document_of: Vec<u32>,
    /// Documents by number.
    documents: Vec<(Place, u64)>,
    /// Ids by number; texts of pairs that are not stored follow the documents.
    ids: Vec<String>,
}

/// One run of `retrain`.
struct Run<'a> {
    inner: &'a Inner,
    snapshot: std::sync::Arc<Snapshot>,
    generation: Generation,
    options: &'a RetrainOptions,
    encoder: Encoder,
    ladder: Vec<usize>,
    corpus: Corpus,
    pairs: Vec<ResolvedPair>,
    notes: Vec<String>,
    start: Instant,
}

/// Held-out queries and the guard set, with the current encoder's vectors of both, in this order.
struct Exam {
    judged: Vec<Judged>,
    guard: Vec<Judged>,
    queries: Vec<f32>,
}

/// What training made: an encoder, and how its rows come about.
struct Candidate {
    encoder: Encoder,
    train: TrainReport,
    /// The adapter, or else the rows made by the new encoder.
    rows: CandidateRows,
}

enum CandidateRows {
    Mapped(Vec<f32>),
    Embedded(Box<Embedded>),
}

impl CandidateRows {
    /// Throws away what was made for a candidate that is not published.
    fn discard(self, inner: &Inner) -> Result<()> {
        match self {
            Self::Mapped(_) => Ok(()),
            Self::Embedded(embedded) => embedded.discard(inner),
        }
    }
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

    /// Loads the rows and turns ids and texts of pairs into documents.
    fn resolve(&mut self, pairs: Vec<Pair>) -> Result<()> {
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

    fn full_text(&self, number: u32) -> Result<String> {
        let place = self.corpus.documents.get(number as usize).map(|d| d.0);
        let place = place.ok_or_else(|| Error::input("a document vanished while pairs were read"))?;
        Ok(self.snapshot.document(place)?.full_text())
    }

    /// Texts that pairs bring but the database lacks take part in the ranking, as documents of their own.
    fn add_strangers(&mut self, mut texts: Vec<String>) -> Result<()> {
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

    fn load_corpus(&mut self) -> Result<()> {
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

    /// What candidates are judged by.
    fn exam(&self, held_out: &[usize]) -> Result<Exam> {
        let judged = trainer::judgements(&self.pairs, held_out);
        let guard = self.guard()?;
        let mut texts: Vec<&str> = judged.iter().map(|j| j.query.as_str()).collect();
        texts.extend(guard.iter().map(|g| g.query.as_str()));
        let queries = self.encoder.encode_queries(&texts, &self.options.task)?;
        Ok(Exam { judged, guard, queries })
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

    fn train_adapter(&self, train: &[ResolvedPair]) -> Result<Candidate> {
        let dim = self.encoder.dim();
        let defaults = AdapterOptions::default();
        let options = AdapterOptions {
            epochs: self.options.epochs.unwrap_or(defaults.epochs),
            batch: self.options.batch_size.unwrap_or(defaults.batch),
            lr: self.options.lr.unwrap_or(defaults.lr),
            seed: self.options.seed,
            ..defaults
        };
        let queries: Vec<&str> = train.iter().map(|p| p.query.as_str()).collect();
        let queries = self.encoder.encode_queries(&queries, &self.options.task)?;
        let positives = self.positive_rows(train, &queries)?;
        let query_keys: Vec<u64> = train.iter().map(|p| trainer::query_key(&p.query)).collect();
        let positive_keys: Vec<u64> = train.iter().map(|p| trainer::target_key(&p.positive_id)).collect();
        // Ranks weigh what is judged. In training they cost more than they gave: .029 against .034 NDCG@10 on fin10k.
        let weights: Vec<f32> = train.iter().map(|p| p.weight.min(1.0)).collect();
        let pairs = PairRows {
            queries: &queries,
            positives: &positives,
            query_keys: &query_keys,
            positive_keys: &positive_keys,
            weights: &weights,
            dim,
        };
        let (matrix, report) = trainer::train_adapter(&pairs, &self.ladder, &options, &self.options.task)?;
        let encoder = self.encoder.with_adapter(matrix.clone())?;
        Ok(Candidate { encoder, train: report, rows: CandidateRows::Mapped(matrix) })
    }

    /// For each pair the row of its document that is nearest to the query.
    fn positive_rows(&self, train: &[ResolvedPair], queries: &[f32]) -> Result<Vec<f32>> {
        let dim = self.encoder.dim();
        let numbers: HashMap<&str, u32> = self.corpus.ids.iter().map(String::as_str).zip(0..).collect();
        let mut rows_of: HashMap<u32, Vec<usize>> = HashMap::new();
        for (row, &document) in self.corpus.document_of.iter().enumerate() {
            rows_of.entry(document).or_default().push(row);
        }
        let mut out = Vec::with_capacity(queries.len());
        for (pair, query) in train.iter().zip(queries.chunks_exact(dim)) {
            let rows = numbers.get(pair.positive_id.as_str()).and_then(|n| rows_of.get(n));
            let at = |row: usize| &self.corpus.rows[row * dim..(row + 1) * dim];
            let score = |row: &usize| crate::kernel::dot_f32(query, at(*row));
            let best = rows.into_iter().flatten().max_by(|a, b| score(a).total_cmp(&score(b)));
            let best = best.ok_or_else(|| Error::input(format!("{:?} has no vectors", pair.positive_id)))?;
            out.extend_from_slice(at(*best));
        }
        Ok(out)
    }

    fn train_encoder(&self, train: &[ResolvedPair]) -> Result<Candidate> {
        let defaults = FullOptions::of_layers(self.layers());
        let budget = self.options.time_budget.map(|budget| budget.saturating_sub(self.start.elapsed()));
        let mut options = FullOptions { seed: self.options.seed, time_budget: budget, ..defaults };
        if self.options.method == Method::Full {
            options.epochs = self.options.epochs.unwrap_or(options.epochs);
            options.batch = self.options.batch_size.unwrap_or(options.batch);
            options.lr = self.options.lr.unwrap_or(options.lr);
        }
        let pairs: Vec<TextPair> = train
            .iter()
            .map(|p| TextPair {
                query: p.query.clone(),
                positive: p.positive_text.clone(),
                key: trainer::target_key(&p.positive_id),
                weight: p.weight.min(1.0),
            })
            .collect();
        let trained = trainer::train_full(&self.encoder, &pairs, &self.ladder, &options, &self.options.task)?;
        let encoder = Encoder::from_files(trained.files, self.snapshot.manifest.precision())?;
        let encoder = encoder.with_adapter(trained.adapter)?;
        self.inner.encoders.keep(&encoder);
        let mut embedded = Box::<Embedded>::default();
        embedded.before(self.inner, &self.draft(&encoder), &self.options.task)?;
        Ok(Candidate { encoder, train: trained.report, rows: CandidateRows::Embedded(embedded) })
    }

    /// The candidate's generation, before it has a number.
    fn draft(&self, encoder: &Encoder) -> Generation {
        Generation {
            id: self.snapshot.manifest.next_generation,
            model_id: encoder.model_id().to_owned(),
            parent: self.generation.id,
            dim: encoder.dim() as u32,
            ladder: self.ladder.iter().map(|&r| r as u32).collect(),
            created_ms: 0,
            metrics: String::new(),
        }
    }

    /// The corpus as the candidate sees it.
    fn candidate_corpus(&self, candidate: &Candidate) -> Result<(Vec<f32>, Vec<u32>)> {
        let dim = self.encoder.dim();
        match &candidate.rows {
            CandidateRows::Mapped(matrix) => {
                Ok((apply(matrix, &self.corpus.rows, dim)?, self.corpus.document_of.clone()))
            }
            CandidateRows::Embedded(embedded) => {
                let mut rows = Vec::with_capacity(self.corpus.rows.len());
                let mut document_of = Vec::with_capacity(self.corpus.document_of.len());
                for (number, (_, sequence)) in self.corpus.documents.iter().enumerate() {
                    let made = embedded.made(*sequence);
                    let made =
                        made.ok_or_else(|| Error::input("a document was not embedded by the candidate"))?;
                    document_of.extend(made.spans.iter().map(|_| number as u32));
                    rows.extend_from_slice(&made.vectors);
                }
                let strangers: HashMap<&str, &str> =
                    self.pairs.iter().map(|p| (p.positive_id.as_str(), p.positive_text.as_str())).collect();
                for (number, id) in self.corpus.ids.iter().enumerate().skip(self.corpus.documents.len()) {
                    let text = strangers.get(id.as_str()).copied().unwrap_or_default();
                    rows.extend(candidate.encoder.encode(&[text], &self.options.task.quiet())?);
                    document_of.push(number as u32);
                }
                Ok((rows, document_of))
            }
        }
    }

    fn judge(&self, candidate: &Candidate, exam: &Exam) -> Result<GateReport> {
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

    /// Documents, evenly spread, each to be found by a passage of its own.
    fn guard(&self) -> Result<Vec<Judged>> {
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

    fn publish(self, candidate: Candidate, gate: GateReport) -> Result<RetrainReport> {
        let start = Instant::now();
        let model_id = candidate.encoder.model_id().to_owned();
        let metrics = serde_json::to_string(&gate).map_err(|e| Error::input(format!("metrics: {e}")))?;
        let new = NewGeneration {
            model_id: model_id.clone(),
            dim: candidate.encoder.dim(),
            ladder: self.ladder.clone(),
            metrics,
        };
        let inner = self.inner;
        let base_id = &self.generation.model_id;
        let encoder = &candidate.encoder;
        let (source, base): (Box<dyn RowSource>, Option<String>) = match candidate.rows {
            CandidateRows::Mapped(matrix) => {
                let dim = encoder.dim();
                let map = move |rows: &[f32]| apply(&matrix, rows, dim);
                let base = crate::storage::models::base(inner.vfs.as_ref(), &inner.dir, base_id)?;
                (
                    Box::new(Mapped { from: self.generation.id, map }),
                    Some(base.unwrap_or_else(|| base_id.clone())),
                )
            }
            CandidateRows::Embedded(embedded) => (embedded, None),
        };
        let id = inner.publish_generation(&new, source, &self.options.task, || {
            inner.store_model(encoder, base.as_deref())
        })?;
        let documents = inner.snapshot().count();
        let mut notes = self.notes;
        notes.extend(candidate.train.notes.iter().cloned());
        Ok(RetrainReport {
            published: true,
            generation: id,
            previous: self.generation.id,
            model_id,
            train: candidate.train,
            gate,
            reindex: ReindexReport { documents, seconds: start.elapsed().as_secs_f64() },
            notes,
        })
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

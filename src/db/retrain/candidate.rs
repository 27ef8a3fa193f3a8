//! What training makes: an encoder with the rows of all documents, and how it is published.

use std::collections::HashMap;
use std::time::Instant;

use super::Method;
use super::{ReindexReport, RetrainReport, Run};
use crate::db::Inner;
use crate::db::encoders::Encoder;
use crate::db::generations::{Embedded, NewGeneration, RowSource};
use crate::db::mapped::Mapped;
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::trainer::adapter::apply;
use crate::trainer::{
    self, AdapterOptions, FullOptions, GateReport, PairRows, ResolvedPair, TextPair, TrainReport,
};

/// What training made: an encoder, and how its rows come about.
pub(super) struct Candidate {
    pub encoder: Encoder,
    pub train: TrainReport,
    /// The adapter, or else the rows made by the new encoder.
    pub rows: CandidateRows,
}

pub(super) enum CandidateRows {
    Mapped(Vec<f32>),
    Embedded(Box<Embedded>),
}

impl CandidateRows {
    /// Throws away what was made for a candidate that is not published.
    pub fn discard(self, inner: &Inner) -> Result<()> {
        match self {
            Self::Mapped(_) => Ok(()),
            Self::Embedded(embedded) => embedded.discard(inner),
        }
    }
}

impl Run<'_> {
    pub(super) fn train_adapter(&self, train: &[ResolvedPair]) -> Result<Candidate> {
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
        let weights: Vec<f32> = train.iter().map(|p| p.weight).collect();
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
    pub(super) fn positive_rows(&self, train: &[ResolvedPair], queries: &[f32]) -> Result<Vec<f32>> {
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

    pub(super) fn train_encoder(&self, train: &[ResolvedPair]) -> Result<Candidate> {
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
                weight: p.weight,
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
    pub(super) fn draft(&self, encoder: &Encoder) -> Generation {
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
    pub(super) fn candidate_corpus(&self, candidate: &Candidate) -> Result<(Vec<f32>, Vec<u32>)> {
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

    pub(super) fn publish(self, candidate: Candidate, gate: GateReport) -> Result<RetrainReport> {
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

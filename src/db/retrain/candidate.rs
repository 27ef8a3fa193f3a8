//! What training makes: an encoder with the rows of all documents, and how it is published.

use std::time::Instant;

use super::Method;
use super::checkpoint::{self, Begun};
use super::{Details, ReindexReport, RetrainReport, Run};
use crate::db::Inner;
use crate::db::encoders::Encoder;
use crate::db::generations::{Embedded, NewGeneration, RowSource};
use crate::db::mapped::{Mapped, Same};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::trainer::adapter::apply;
use crate::trainer::report::Asked;
use crate::trainer::{
    self, Adapter, AdapterOptions, Example, FullOptions, GateReport, Hooks, LossOptions, OnSave, SideRows,
    TrainReport, TrainingSet,
};

/// What training made: an encoder, and how its rows come about.
pub(super) struct Candidate {
    pub encoder: Encoder,
    /// Pairs that it learnt from.
    pub pairs: usize,
    /// How far its adapter goes, if that is all that was trained.
    pub alpha: Option<f32>,
    pub train: TrainReport,
    /// Queries of those that judged it that changed most.
    pub asked: Vec<Asked>,
    /// How its rows come about.
    pub rows: CandidateRows,
}

pub(super) enum CandidateRows {
    /// By an adapter from those of the generation that answers.
    Mapped(Vec<f32>),
    /// They are those of the generation that answers; an adapter maps queries.
    QueriesMapped(Vec<f32>),
    /// By the new encoder.
    Embedded(Box<Embedded>),
}

impl Candidate {
    /// The adapter, if that is all that was trained.
    pub fn adapter(&self) -> Option<Adapter> {
        let (CandidateRows::Mapped(matrix) | CandidateRows::QueriesMapped(matrix)) = &self.rows else {
            return None;
        };
        Some(Adapter { matrix: matrix.clone(), alpha: self.alpha?, report: self.train.clone() })
    }
}

impl CandidateRows {
    /// Throws away what was made for a candidate that is not published.
    pub fn discard(self, inner: &Inner) -> Result<()> {
        match self {
            Self::Mapped(_) | Self::QueriesMapped(_) => Ok(()),
            Self::Embedded(embedded) => embedded.discard(inner),
        }
    }
}

impl Run<'_> {
    /// How an adapter is trained.
    pub(super) fn adapter_options(&self) -> AdapterOptions {
        let defaults = match self.searched.is_empty() {
            true => AdapterOptions::default(),
            false => AdapterOptions::of_clicks(),
        };
        AdapterOptions {
            epochs: self.options.epochs.unwrap_or(defaults.epochs),
            batch: self.options.batch_size.unwrap_or(defaults.batch),
            lr: self.options.lr.unwrap_or(defaults.lr),
            seed: self.options.seed,
            queries_only: self.options.method == Method::QueryAdapter,
            ..defaults
        }
    }

    /// How the encoder is trained, without a time budget.
    pub(super) fn full_options(&self) -> FullOptions {
        let low_rank = (self.options.method == Method::Lora).then(|| self.options.low_rank.clone());
        let defaults = match low_rank {
            Some(low_rank) => FullOptions::of_low_rank(self.layers(), low_rank),
            None => FullOptions::of_layers(self.layers()),
        };
        let mut options = FullOptions { seed: self.options.seed, device: self.options.device, ..defaults };
        options.accumulate = self.options.accumulate.unwrap_or(1);
        options.layer_rate = self.options.layer_rate.unwrap_or(options.layer_rate);
        if matches!(self.options.method, Method::Full | Method::Lora) {
            options.epochs = self.options.epochs.unwrap_or(options.epochs);
            options.batch = self.options.batch_size.unwrap_or(options.batch);
            options.lr = self.options.lr.unwrap_or(options.lr);
        }
        options
    }

    pub(super) fn train_adapter(&self, train: &[usize]) -> Result<Candidate> {
        self.train_adapter_from(None, train)
    }

    /// Trains an adapter, or trains one further.
    pub(super) fn train_adapter_from(&self, begun: Option<Adapter>, train: &[usize]) -> Result<Candidate> {
        let (dim, options) = (self.encoder.dim(), &self.adapter_options());
        let set = self.training_set(train)?;
        let texts = set.sides().iter().flatten().filter_map(|&text| set.texts.get(text));
        let rows = self.material.vectors.rows_of(texts.map(|(text, role)| (text.as_str(), *role)));
        let rows = SideRows { rows: &rows, dim };
        let task = &self.options.task;
        let train_adapter = || match begun {
            None => trainer::train_adapter(rows, &set, &self.ladder, options, task),
            Some(begun) => trainer::train_adapter_further(begun, rows, &set, &self.ladder, options, task),
        };
        let Adapter { matrix, alpha, report } = self.spent.on("train", train_adapter)?;
        let (encoder, rows) = match options.queries_only {
            true => (self.encoder.with_query_adapter(&matrix)?, CandidateRows::QueriesMapped(matrix)),
            false => (self.encoder.with_adapter(&matrix)?, CandidateRows::Mapped(matrix)),
        };
        let (alpha, pairs) = (Some(alpha), train.len());
        Ok(Candidate { encoder, pairs, alpha, train: report, asked: Vec::new(), rows })
    }

    /// Examples as training takes them.
    pub(super) fn training_set(&self, train: &[usize]) -> Result<TrainingSet> {
        let examples: Vec<Example> =
            train.iter().filter_map(|&n| self.material.examples.get(n)).cloned().collect();
        let loss = (self.loss, LossOptions::default());
        TrainingSet::new(self.learnt, &examples, loss, self.options.seed)
    }

    pub(super) fn train_encoder(&self, train: &[usize]) -> Result<Candidate> {
        let budget = self.options.time_budget.map(|budget| budget.saturating_sub(self.start.elapsed()));
        let examples = train.iter().filter_map(|&n| self.material.examples.get(n));
        let Begun { run, state, budget, saves } = self.keeper.begin(checkpoint::hash(examples), budget)?;
        let options = FullOptions { time_budget: budget, ..self.full_options() };
        let set = self.training_set(train)?;
        let mut save = |state: &[u8]| {
            self.keeper.save(state);
            Ok(())
        };
        let save: Option<OnSave<'_>> = if saves { Some(&mut save) } else { None };
        let mut hooks = Hooks { run, resume: state, save, every: Some(self.keeper.every()), step: None };
        let task = &self.options.task;
        let sample = self.sample_of_guard()?;
        let harmless = |files| self.harmless(&sample, files);
        let beside = (&mut hooks, &harmless as trainer::Harmless<'_>);
        let train_full =
            || trainer::train_full_from(&self.encoder, &set, &self.ladder, &options, beside, task);
        let trained = self.spent.on("train", train_full)?;
        let encoder = Encoder::from_files(trained.files, self.snapshot.manifest.precision())?;
        let encoder = encoder.with_adapter(&trained.adapter)?;
        self.inner.encoders.keep(&encoder);
        let mut embedded = Box::<Embedded>::default();
        let encode = || embedded.before(self.inner, &self.draft(&encoder), &self.options.task);
        self.spent.on("encode", encode)?;
        let rows = CandidateRows::Embedded(embedded);
        let pairs = train.len();
        Ok(Candidate { encoder, pairs, alpha: None, train: trained.report, asked: Vec::new(), rows })
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
            CandidateRows::QueriesMapped(_) => {
                Ok((self.corpus.rows.clone(), self.corpus.document_of.clone()))
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
                let strangers = self.material.strangers();
                for (number, id) in self.corpus.ids.iter().enumerate().skip(self.corpus.documents.len()) {
                    let text = strangers.get(id.as_str()).copied().unwrap_or_default();
                    rows.extend(candidate.encoder.encode(&[text], &self.options.task.quiet())?);
                    document_of.push(number as u32);
                }
                Ok((rows, document_of))
            }
        }
    }

    /// The stored encoder that adapters of this generation follow.
    fn base(&self) -> Result<String> {
        let id = &self.generation.model_id;
        let base = crate::storage::models::base(self.inner.vfs.as_ref(), &self.inner.dir, id)?;
        Ok(base.unwrap_or_else(|| id.clone()))
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
        let encoder = &candidate.encoder;
        // Of an adapter only the adapter is stored, beside the encoder that it follows.
        let derived = !matches!(candidate.rows, CandidateRows::Embedded(_));
        let base = if derived { Some(self.base()?) } else { None };
        let from = self.generation.id;
        let source: Box<dyn RowSource> = match candidate.rows {
            CandidateRows::Mapped(matrix) => {
                let dim = encoder.dim();
                Box::new(Mapped { from, map: move |rows: &[f32]| apply(&matrix, rows, dim) })
            }
            CandidateRows::QueriesMapped(_) => Box::new(Same { from }),
            CandidateRows::Embedded(embedded) => embedded,
        };
        let store = || inner.store_model(encoder, base.as_deref());
        let publish = || inner.publish_generation(&new, source, &self.options.task, store);
        let id = self.spent.on("reindex", publish)?;
        let documents = inner.snapshot().count();
        let mut notes = self.notes;
        notes.extend(candidate.train.notes.iter().cloned());
        let details = Details { asked: candidate.asked, stages: self.spent.stages(), bias: None };
        Ok(RetrainReport {
            published: true,
            generation: id,
            previous: self.generation.id,
            model_id,
            train: candidate.train,
            gate,
            reindex: ReindexReport { documents, seconds: start.elapsed().as_secs_f64() },
            plan: None,
            notes,
            details,
        })
    }
}

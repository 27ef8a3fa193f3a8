//! `retrain`: from the log (or a file) to a better generation, or to a reason why not.
//!
//! Everything is measured before anything is published: the candidate ranks held-out queries over the whole
//! corpus, at every rung, beside the generation that answers now.
//!
//! | file | what it holds |
//! |---|---|
//! | `corpus` | the documents and their rows as the generation that answers sees them |
//! | `sources` | pairs from the log, and from the documents alone |
//! | `options` | what is asked for, and what is said of it |
//! | `exam`, `guard` | what candidates are judged by |
//! | `searches` | the searches of a log as judges |
//! | `negatives` | hard negatives from the index |
//! | `material`, `vectors` | what is learnt from: records with their texts and vectors |
//! | `candidate` | what training makes, and publishing it |
//! | `checkpoint`, `saved` | going on with a run that was stopped |
//! | `plan` | what a run would do, gain and cost |
//! | `asked` | queries that changed most, with their hits |
//! | `page`, `spent` | the report of a run, and what the run spent |

mod asked;
mod candidate;
mod checkpoint;
mod corpus;
mod exam;
mod guard;
mod material;
mod negatives;
mod options;
mod page;
mod plan;
mod saved;
mod searches;
mod sources;
mod spent;
mod vectors;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use self::candidate::Candidate;
use self::checkpoint::Keeper;
use self::corpus::Corpus;
use self::guard::GuardExams;
use self::material::Material;
pub use self::options::{Method, ReindexReport, RetrainOptions, RetrainReport, Source};
pub use self::page::Details;
pub use self::plan::{Plan, PlannedSeconds};
use self::searches::Searched;
use self::sources::{Lessons, pairs_from_structure};
use self::spent::Spent;
use self::vectors::Vectors;
use super::encoders::Encoder;
use super::feedback::logged_queries;
use super::snapshot::Snapshot;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::trainer::report::Asked;
use crate::trainer::{
    self, ClickOptions, Example, GateReport, HeldOut, Keyed, LossKind, Shape, Split, StructureKind,
    TrainReport,
};

/// With fewer queries held out than this, all judge, by cross-validation …
const CROSSED_BELOW: usize = 400;
/// … or of a log with fewer than this, for a click tells less than a judgement …
const CROSSED_SEARCHES_BELOW: usize = 1_000;
/// … in so many parts.
const FOLDS: usize = 5;
/// Pairs from which on the encoder itself is trained unasked.
const LEAST_PAIRS: usize = 1_000;
/// Documents up to which everything is encoded again unasked.
const MOST_DOCUMENTS: u64 = 50_000;

impl Db {
    /// Learns from the log, or from a file; publishes only what is certainly better.
    ///
    /// While the encoder is trained, what is needed to go on after a stop is kept in the database, until the run has published
    /// or refused; see [`RetrainOptions::resume`].
    pub fn retrain(&self, options: RetrainOptions) -> Result<RetrainReport> {
        if let Some(path) = &options.report {
            page::check(path)?;
        }
        options.device.check()?;
        self.refresh()?;
        let spent = Spent::default();
        let snapshot = self.inner.snapshot();
        let generation = match snapshot.generation() {
            Some(generation) if !generation.model_id.is_empty() => generation.clone(),
            _ => {
                return Err(Error::input(
                    "there is no encoder to train: this database is empty or stores plain vectors",
                ));
            }
        };
        let corpus = spent.on("read", || Corpus::load(&snapshot, &generation))?;
        let (keeper, options, lessons) = match options.resume {
            true if options.plan => {
                return Err(Error::input(
                    "a run that goes on has no plan: its options are those it was begun with",
                ));
            }
            true => Keeper::resumed(&self.inner, &generation, &options)?,
            false => {
                let lessons = spent.on("read", || self.lessons(&snapshot, &corpus, &generation, &options))?;
                (Keeper::fresh(&self.inner, &generation, &options, &lessons)?, options, lessons)
            }
        };
        let bias = lessons.bias.clone();
        let run = || Run::new(&self.inner, generation, &options, (lessons, corpus), &keeper, spent)?.learn();
        let mut report = self.inner.behind(run)?;
        report.notes.extend(keeper.finish());
        report.details.bias = bias;
        if let Some(path) = &options.report {
            page::write(path, &report, &self.inner.dir, options.plan, self.inner.vfs.now_ms())?;
        }
        Ok(report)
    }

    /// What a new run learns from.
    fn lessons(
        &self,
        snapshot: &Snapshot,
        corpus: &Corpus,
        generation: &Generation,
        options: &RetrainOptions,
    ) -> Result<Lessons> {
        if options.method.is_linear() && options.layers.is_some() {
            return Err(Error::input("an adapter trains none of the encoder's layers"));
        }
        match (&options.data, options.source) {
            (Some(path), _) => Ok(Lessons::of(trainer::data::open(path, options.queries.as_deref())?)),
            (None, Source::Log) => {
                let queries = logged_queries(&self.log_events()?);
                let encoder = self.inner.encoder(&generation.model_id)?;
                let click_options = ClickOptions { half_life: options.half_life };
                Lessons::of_log(queries, &click_options, (corpus, &encoder), &options.task)
            }
            (None, Source::Structure) => {
                pairs_from_structure(snapshot, corpus, options.seed).map(Lessons::of)
            }
        }
    }
}

/// One run of `retrain`.
struct Run<'a> {
    inner: &'a Inner,
    snapshot: Arc<Snapshot>,
    generation: Generation,
    options: &'a RetrainOptions,
    keeper: &'a Keeper<'a>,
    encoder: Encoder,
    ladder: Vec<usize>,
    corpus: Corpus,
    material: Material,
    /// Of a log all texts that were searched for: they judge.
    searched: Vec<Searched>,
    /// Of queries made of documents, by key, the kind.
    kinds: HashMap<u64, StructureKind>,
    loss: LossKind,
    /// What examples are for training: pairs with mined negatives are triplets.
    learnt: Shape,
    notes: Vec<String>,
    spent: Spent,
    start: Instant,
}

/// What decides on which side of a division an example is.
fn keyed(example: &Example) -> Keyed<'_> {
    Keyed { keys: &example.keys, class: example.class, time: example.time }
}

impl<'a> Run<'a> {
    fn new(
        inner: &'a Inner,
        generation: Generation,
        options: &'a RetrainOptions,
        (lessons, mut corpus): (Lessons, Corpus),
        keeper: &'a Keeper<'a>,
        spent: Spent,
    ) -> Result<Self> {
        let start = Instant::now();
        let Lessons { mut data, mut searched, vectors, .. } = lessons;
        let snapshot = inner.snapshot();
        let encoder = inner.encoder(&generation.model_id)?;
        let ladder = match &options.dims {
            Some(dims) => crate::types::checked_ladder(dims, encoder.dim())?,
            None => generation.ladder.iter().map(|&r| r as usize).collect(),
        };
        let loss = options.loss.unwrap_or_else(|| LossKind::of_shape(data.shape));
        loss.check(data.shape)?;
        let learnt = data.shape;
        if options.method == Method::QueryAdapter && !learnt.has_query() {
            return Err(Error::input(format!(
                "{learnt} have no queries that a map of queries alone could learn from"
            )));
        }
        if options.hard_negatives > 0 && (learnt != Shape::Pairs || loss.check(Shape::Triplets).is_err()) {
            return Err(Error::input(format!(
                "hard negatives go with pairs, not with {learnt} learnt by {loss}"
            )));
        }
        let kinds = sources::kinds(&data);
        let mut notes = std::mem::take(&mut data.report.notes);
        let known: HashSet<&str> = corpus.ids.iter().map(String::as_str).collect();
        searched.retain_mut(|text| text.keep_known(&known));
        let vectors = vectors.unwrap_or_else(|| Vectors::new(encoder.dim()));
        let find =
            || Material::new((data, vectors), &mut corpus, (&snapshot, &generation, &encoder), &options.task);
        let mut material = spent.on("encode", find)?;
        notes.append(&mut material.notes);
        Ok(Self {
            inner,
            snapshot,
            generation,
            options,
            keeper,
            encoder,
            ladder,
            corpus,
            material,
            searched,
            kinds,
            loss,
            learnt,
            notes,
            spent,
            start,
        })
    }

    fn learn(mut self) -> Result<RetrainReport> {
        let split = match self.split() {
            Ok(split) => split,
            Err(too_little) => {
                return Ok(self.refused(
                    GateReport::refused(too_little.0),
                    TrainReport::default(),
                    Vec::new(),
                ));
            }
        };
        if split.leaks > 0 {
            self.notes.push(format!("{} pairs were left out: their query also judges", split.leaks));
        }
        if split.shared > 0 {
            self.notes.push(format!("{} triplets have a negative that also judges", split.shared));
        }
        if self.options.plan {
            let plan = self.plan(&split)?;
            let reason = format!("plan: {}; {plan}", self.steps(&split));
            let mut report = self.refused(GateReport::refused(reason), TrainReport::default(), Vec::new());
            report.plan = Some(plan);
            return Ok(report);
        }
        if let Some(budget) = self.inner.budget() {
            let bytes = self.plan(&split)?.memory_bytes;
            budget.check(
                "memory for training",
                bytes,
                "raise the bound on memory, or use --method adapter",
            )?;
        }
        if self.options.hard_negatives > 0 {
            let start = Instant::now();
            self.mine(self.options.hard_negatives)?;
            self.spent.add("negatives", start.elapsed());
        }
        let crossed = self.crosses(&split);
        let folds = if crossed { self.folds() } else { Vec::new() };
        let judges: Vec<usize> =
            folds.iter().chain([&split]).flat_map(|s| s.held_out.iter().chain(&s.older)).copied().collect();
        self.read_searched(&judges)?;
        let guard = self.guard(if crossed { &[] } else { &split.older })?;
        let (candidate, mut gate) = match self.options.method {
            Method::Full | Method::Lora => self.held_out(&split, &guard, Self::train_encoder)?,
            _ if crossed => self.crossed(&folds, &guard)?,
            _ => self.held_out(&split, &guard, Self::train_adapter)?,
        };
        if !gate.publish && self.options.force {
            gate.reason = format!("published by force: {}", gate.reason);
            return self.publish(candidate, gate);
        }
        if !gate.publish {
            candidate.rows.discard(self.inner)?;
            return Ok(self.refused(gate, candidate.train, candidate.asked));
        }
        if self.tries_encoder()
            && let Some((better, gate)) = self.better_encoder(&split, &guard)?
        {
            return self.publish(better, gate);
        }
        let candidate = match self.options.method {
            Method::Full | Method::Lora => candidate,
            _ => self.with_all_pairs(candidate, &guard)?,
        };
        self.publish(candidate, gate)
    }

    /// Whether the encoder may follow the adapter unasked. Of queries made of documents it learns too well what they are
    /// like. With pairs that named documents alone and the built-in encoder, it gained .1735 on such queries of fin10k where
    /// the adapter gained .0694, and lost real ones: NDCG@10 .7039 instead of .7234, of Cranfield .3215 instead of .3271
    /// (`retrain --from structure` with and without `--method adapter`, then `eval`).
    fn tries_encoder(&self) -> bool {
        self.options.method == Method::Best && self.kinds.is_empty()
    }

    /// Whether all queries judge, by cross-validation.
    fn crosses(&self, split: &Split) -> bool {
        let few = if self.searched.is_empty() { CROSSED_BELOW } else { CROSSED_SEARCHES_BELOW };
        (self.options.method == Method::Best || self.options.method.is_linear())
            && self.material.shape.has_query()
            && split.held_out_queries < few
    }

    /// Trains on the older pairs and judges by the newer.
    fn held_out(
        &self,
        split: &Split,
        guard: &GuardExams,
        train: impl Fn(&Self, &[usize]) -> Result<Candidate>,
    ) -> Result<(Candidate, GateReport)> {
        let exam = self.exam(&split.held_out)?;
        let mut candidate = train(self, &split.train)?;
        let mut asked = Vec::new();
        let [held_out] = self.compare(&candidate, [&exam], self.noting(&mut asked))?;
        candidate.asked = asked;
        let verdict = self.decide(&held_out, &self.guarded_by(guard, &candidate)?);
        Ok((candidate, verdict))
    }

    /// An adapter from all pairs or triplets, judged by those of its like that lacked a fifth of them.
    fn crossed(&self, folds: &[Split], guard: &GuardExams) -> Result<(Candidate, GateReport)> {
        let (mut all, mut asked) = (HeldOut::default(), Vec::new());
        for fold in folds {
            let exam = self.exam(&fold.held_out)?;
            let judged = self.train_adapter(&fold.train)?;
            let [held_out] = self.compare(&judged, [&exam], self.noting(&mut asked))?;
            all.append(held_out);
        }
        let pairs: Vec<usize> = (0..self.material.examples.len()).collect();
        let mut candidate = self.train_adapter(&pairs)?;
        candidate.asked = asked::most_of_all(asked);
        let verdict = self.decide(&all, &self.guarded_by(guard, &candidate)?);
        Ok((candidate, verdict))
    }

    /// The encoder with its upper layers trained, if there is enough to learn from, and it gains more than the adapter,
    /// which has passed. What the gate refuses as an adapter comes no further: a log that teaches a linear map nothing
    /// certain costs seconds, and gets one chance to be published by luck.
    fn better_encoder(
        &mut self,
        split: &Split,
        guard: &GuardExams,
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
    fn with_all_pairs(&self, judged: Candidate, guard: &GuardExams) -> Result<Candidate> {
        let Some(begun) = judged.adapter().filter(|_| judged.pairs < self.material.examples.len()) else {
            return Ok(judged);
        };
        let all: Vec<usize> = (0..self.material.examples.len()).collect();
        let mut further = self.train_adapter_from(Some(begun), &all)?;
        if !trainer::harmless(&self.guarded_by(guard, &further)?.documents) {
            return Ok(judged);
        }
        further.asked = judged.asked;
        further.train.notes.push("after the gate, trained further with the pairs that judged".into());
        Ok(further)
    }

    fn refused(self, gate: GateReport, train: TrainReport, asked: Vec<Asked>) -> RetrainReport {
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
            plan: None,
            notes,
            details: Details { asked, stages: self.spent.stages(), bias: None },
        }
    }
}

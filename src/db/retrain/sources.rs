//! Pairs from the log, and from the documents alone.

use super::corpus::Corpus;
use super::searches::{Searched, searched};
use super::vectors::Vectors;
use crate::db::encoders::Encoder;
use crate::db::snapshot::Snapshot;
use crate::encoder::Role;
use crate::error::Result;
use crate::options::Task;
use crate::trainer::{
    self, ClickOptions, Data, FromLog, LoggedQuery, Pair, PositionBias, StructureOptions, StructurePair,
    StructureSource, Target, clicks::Score,
};

/// What a run learns from, and what judges it.
#[derive(Debug, Clone)]
pub(super) struct Lessons {
    /// The records.
    pub data: Data,
    /// Of a log all texts that were searched for: they judge. Otherwise records do that have no part in training.
    pub searched: Vec<Searched>,
    /// Position bias of the log.
    pub bias: Option<PositionBias>,
    /// Vectors of texts that were encoded on the way.
    pub vectors: Option<Vectors>,
}

impl Lessons {
    /// Records that judge themselves.
    pub fn of(data: Data) -> Self {
        Self { data, searched: Vec::new(), bias: None, vectors: None }
    }

    /// What searches and clicks teach.
    pub fn of_log(
        queries: Vec<LoggedQuery>,
        options: &ClickOptions,
        (corpus, encoder): (&Corpus, &Encoder),
        task: &Task,
    ) -> Result<Self> {
        let mut vectors = Vectors::new(encoder.dim());
        let texts = queries.iter().map(|query| query.text.as_str()).filter(|text| !text.trim().is_empty());
        vectors.encode(encoder, texts, Role::Query, task)?;
        let by_id = corpus.by_id();
        let score = |text: &str, id: &str| corpus.cosine(*by_id.get(id)?, vectors.row(text, Role::Query));
        let (data, bias) = pairs_from_log(&queries, options, &score);
        Ok(Self { data, searched: searched(queries, options), bias: Some(bias), vectors: Some(vectors) })
    }
}

fn pairs_from_log(queries: &[LoggedQuery], options: &ClickOptions, score: Score<'_>) -> (Data, PositionBias) {
    let FromLog { pairs, bias, report, .. } = trainer::pairs_from_log(queries, options, score);
    let mut data = Data::of_pairs(pairs);
    let notes = &mut data.report.notes;
    if report.cut.robots > 0 {
        notes.push(format!("{} searches look like those of robots and were left out", report.cut.robots));
    }
    if report.cut.capped_clients > 0 {
        let clients = report.cut.capped_clients;
        notes.push(format!("{clients} clients searched far more than others and count less"));
    }
    if report.improbable > 0 {
        let n = report.improbable;
        notes.push(format!("{n} clicked documents were left out: their clicks look like accidents"));
    }
    (data, bias)
}

/// Each pair's query should find its document, and not the passage without it: the document is what is ranked.
pub(super) fn pairs_from_structure(snapshot: &Snapshot, corpus: &Corpus, seed: u64) -> Result<Data> {
    let mut sources = Vec::with_capacity(corpus.documents.len());
    for ((place, _), id) in corpus.documents.iter().zip(&corpus.ids) {
        let document = snapshot.document(*place)?;
        sources.push(StructureSource { id: id.clone(), title: document.title, text: document.text });
    }
    let options = StructureOptions { seed, ..StructureOptions::default() };
    let (pairs, report) = trainer::structure_pairs(sources, &options);
    let pair =
        |pair: StructurePair| Pair { query: pair.query, positive: Target::Id(pair.id), weight: 1.0, time: 0 };
    let mut data = Data::of_pairs(pairs.into_iter().map(pair).collect());
    data.report.notes.extend(report.notes());
    Ok(data)
}

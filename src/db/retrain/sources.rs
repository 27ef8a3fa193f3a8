//! Pairs from the log, and from the documents alone.

use std::collections::HashMap;

use super::corpus::Corpus;
use super::searches::{Searched, searched};
use super::vectors::Vectors;
use crate::db::encoders::Encoder;
use crate::db::snapshot::Snapshot;
use crate::encoder::Role;
use crate::error::Result;
use crate::options::Task;
use crate::trainer::{
    self, ClickOptions, Data, FromLog, LoggedQuery, Pair, PositionBias, Record, StructureKind,
    StructureOptions, StructurePair, StructureSource, Target, clicks::Score,
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

/// Of so many sentences one is to find the document as it is, itself in it: of Lee, Chang and Toutanova's (2019,
/// arXiv:1906.00300) one in ten, so that what the words of a query say is not unlearnt.
const SENTENCES_LEFT: u64 = 10;

/// Pairs of the documents alone. Titles, headings and sentences learn to find the text that they were taken from, without
/// them; words the document. Where they judge, all are to find the document, for documents are what is ranked.
pub(super) fn pairs_from_structure(snapshot: &Snapshot, corpus: &Corpus, seed: u64) -> Result<Data> {
    let mut sources = Vec::with_capacity(corpus.documents.len());
    for ((place, _), id) in corpus.documents.iter().zip(&corpus.ids) {
        let document = snapshot.document(*place)?;
        sources.push(StructureSource { id: id.clone(), title: document.title, text: document.text });
    }
    let options = StructureOptions { seed, ..StructureOptions::default() };
    let (pairs, report) = trainer::structure_pairs(sources, &options);
    let mut data = Data::of_pairs(Vec::new());
    for pair in pairs {
        let kind = pair.kind;
        let (query, positive) = (pair.query.clone(), target(pair, seed));
        let record = Record::from(Pair { query, positive, weight: 1.0, time: 0 });
        data.records.push(Record { class: kind as u32, ..record });
    }
    data.labels = StructureKind::ALL.map(|kind| kind.name().to_owned()).to_vec();
    (data.report.lines, data.report.records) = (data.records.len(), data.records.len());
    data.report.notes.extend(report.notes());
    Ok(data)
}

/// What a pair learns to find.
fn target(pair: StructurePair, seed: u64) -> Target {
    let left = || (trainer::query_key(&pair.query) ^ seed).is_multiple_of(SENTENCES_LEFT);
    match pair.passage {
        Some(text) if pair.kind != StructureKind::Sentence || !left() => {
            Target::Passage { id: pair.id, text }
        }
        _ => Target::Id(pair.id),
    }
}

/// For data that came from [`pairs_from_structure`] the kind of each query, by its key; of others nothing.
pub(super) fn kinds(data: &Data) -> HashMap<u64, StructureKind> {
    if data.labels.is_empty() || !data.shape.has_query() {
        return HashMap::new();
    }
    let kind = |record: &Record| match record.texts.first() {
        Some(Target::Text(query)) => {
            let kind = StructureKind::ALL.get(record.class as usize)?;
            Some((trainer::query_key(query), *kind))
        }
        _ => None,
    };
    data.records.iter().filter_map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(kind: StructureKind, query: String, passage: Option<&str>) -> StructurePair {
        StructurePair { kind, query, id: "d".into(), passage: passage.map(str::to_owned) }
    }

    #[test]
    fn nine_sentences_of_ten_are_missing_from_what_they_learn_to_find() {
        let targets = |kind| -> Vec<Target> {
            (0..1_000).map(|n| target(pair(kind, format!("query {n}"), Some("the rest")), 7)).collect()
        };
        let passage = Target::Passage { id: "d".into(), text: "the rest".into() };
        let whole = |targets: Vec<Target>| {
            let (rest, whole): (Vec<Target>, Vec<Target>) =
                targets.into_iter().partition(|of| *of == passage);
            assert!(whole.iter().all(|of| *of == Target::Id("d".into())));
            (rest.len(), whole.len())
        };
        let (rest, left) = whole(targets(StructureKind::Sentence));
        assert!(rest + left == 1_000 && (60..140).contains(&left), "{left}");
        assert_eq!(whole(targets(StructureKind::Title)), (1_000, 0));
        assert_eq!(target(pair(StructureKind::Words, "some words".into(), None), 7), Target::Id("d".into()));
    }

    #[test]
    fn kinds_are_those_of_documents_alone() {
        let pair = Pair { query: "A  query".into(), positive: Target::Id("d".into()), weight: 1.0, time: 0 };
        let mut data = Data::of_pairs(vec![pair]);
        assert!(kinds(&data).is_empty());
        data.records[0].class = StructureKind::Words as u32;
        data.labels = StructureKind::ALL.map(|kind| kind.name().to_owned()).to_vec();
        let found = kinds(&data);
        assert_eq!(found.get(&trainer::query_key("a query")), Some(&StructureKind::Words));
    }
}

//! Pairs from the log, and from the documents alone.

use super::corpus::Corpus;
use crate::db::snapshot::Snapshot;
use crate::error::Result;
use crate::format::manifest::Generation;
use crate::trainer::{
    self, ClickOptions, Data, FromLog, LoggedQuery, Pair, PositionBias, StructureOptions, StructurePair,
    StructureSource, Target,
};

/// What searches and clicks teach, and the position bias that was found in them.
pub(super) fn pairs_from_log(queries: &[LoggedQuery]) -> (Data, PositionBias) {
    let FromLog { pairs, bias, report, .. } = trainer::pairs_from_log(queries, &ClickOptions::default());
    let mut data = Data::of_pairs(pairs);
    let notes = &mut data.report.notes;
    notes.extend(bias.note.clone().filter(|_| report.clicks > 0));
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
pub(super) fn pairs_from_structure(snapshot: &Snapshot, generation: &Generation, seed: u64) -> Result<Data> {
    let corpus = Corpus::load(snapshot, generation)?;
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

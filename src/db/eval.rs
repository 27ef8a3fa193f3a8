//! `eval`: how well a generation ranks what people judged.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Map, Value, json};

use super::search::{SearchOptions, parallel};
use super::searcher::Searcher;
use super::snapshot::Snapshot;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::trainer::significance::RESAMPLES;
use crate::trainer::trec::Run;
use crate::trainer::{Compared, Scores, compare};

/// Depth of `eval`.
const EVAL_DEPTH: usize = 100;

/// Relevant documents of each query, with grades.
pub type Qrels = HashMap<String, HashMap<String, f64>>;

/// How `eval` searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalOptions {
    /// Cut-off of the measures.
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
    /// The id of each query, in their order, and how well it was served.
    pub per_query: Vec<(String, Scores)>,
    /// For the user.
    pub notes: Vec<String>,
}

impl EvalReport {
    fn new(per_query: Vec<(String, Scores)>, k: usize, notes: Vec<String>) -> Self {
        let scores: Vec<Scores> = per_query.iter().map(|(_, scores)| *scores).collect();
        Self { scores: Scores::mean(&scores), k, queries: scores.len(), per_query, notes }
    }

    /// One object for each query: `query`, and the measures.
    pub fn rows(&self) -> Vec<Map<String, Value>> {
        let row = |(query, scores): &(String, Scores)| {
            let values = scores.named(self.k).into_iter().map(|(name, value)| (name, value.into()));
            std::iter::once(("query".to_owned(), query.as_str().into())).chain(values).collect()
        };
        self.per_query.iter().map(row).collect()
    }
}

impl Serialize for EvalReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.scores.to_json(self.k, self.queries).serialize(serializer)
    }
}

/// What `eval --compare` measured of two generations on the same queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The generations.
    pub generations: [u32; 2],
    /// What each reached.
    pub reports: [EvalReport; 2],
    /// Every measure by its name, the first of them NDCG, with the significance of its difference.
    pub measures: Vec<(String, Compared)>,
}

impl Comparison {
    /// One object for each query: `query`, and the two values of each measure.
    pub fn rows(&self) -> Vec<Map<String, Value>> {
        let [before, after] = &self.reports;
        let merge = |(mut row, other): (Map<String, Value>, Map<String, Value>)| {
            for (name, value) in row.iter_mut().filter(|(name, _)| *name != "query") {
                *value = json!([value, other.get(name)]);
            }
            row
        };
        before.rows().into_iter().zip(after.rows()).map(merge).collect()
    }
}

/// `generations`, `queries`, the two means of each measure by its name, then `difference`, `ci95`, `p_value`, `gained`,
/// `lost` and `equal` of the first measure (NDCG), and all of this of each in `measures`.
impl Serialize for Comparison {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut json = Map::new();
        json.insert("generations".into(), json!(self.generations));
        json.insert("queries".into(), self.reports[0].queries.into());
        for (name, compared) in &self.measures {
            json.insert(name.clone(), json!([compared.before, compared.after]));
        }
        if let Some((_, first)) = self.measures.first()
            && let Ok(Value::Object(fields)) = serde_json::to_value(first)
        {
            json.extend(fields.into_iter().filter(|(name, _)| name != "before" && name != "after"));
        }
        let measures: Map<String, Value> =
            self.measures.iter().map(|(name, compared)| (name.clone(), json!(compared))).collect();
        json.insert("measures".into(), measures.into());
        json.serialize(serializer)
    }
}

/// Measures a run, which any program may have made, without searching. As in trec_eval, queries count that are both
/// ranked and judged; how many are judged alone is noted.
///
/// # Errors
/// [`Error::Input`] if no query is in both.
pub fn eval_run(run: &Run, qrels: &Qrels, k: usize) -> Result<EvalReport> {
    let mut per_query: Vec<(String, Scores)> = qrels
        .iter()
        .filter_map(|(query, judged)| Some((query.clone(), Scores::of(run.get(query)?, judged, k))))
        .collect();
    per_query.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if per_query.is_empty() {
        return Err(Error::input("no query of the run has a judgement: do the ids of run and qrels agree?"));
    }
    let notes = match qrels.len() - per_query.len() {
        0 => Vec::new(),
        n => vec![format!("{n} judged queries are not in the run and were left out")],
    };
    Ok(EvalReport::new(per_query, k, notes))
}

impl Db {
    /// Measures ranking quality (see [`trainer::metrics`](crate::trainer::metrics)) by exact search. Queries without
    /// judgements are left out. Reports the stages "embed" and "search", and stops with [`Error::Cancelled`] between
    /// two batches of texts or two searches.
    pub fn eval(
        &self,
        queries: &[(String, String)],
        qrels: &Qrels,
        options: &EvalOptions,
        task: &Task,
    ) -> Result<EvalReport> {
        let snapshot = self.inner.snapshot();
        eval_on(&self.inner, &snapshot, queries, qrels, options, task)
    }

    /// Measures two generations on the same queries and documents, and how certain their difference is: the 95 %
    /// interval of a paired bootstrap and the p-value of a paired randomisation test
    /// ([`trainer::significance`](crate::trainer::significance)), both of `seed`. Of `options` the generation does not
    /// count. Else as [`Db::eval`].
    pub fn eval_compare(
        &self,
        queries: &[(String, String)],
        qrels: &Qrels,
        generations: [u32; 2],
        options: &EvalOptions,
        seed: u64,
        task: &Task,
    ) -> Result<Comparison> {
        let snapshot = self.inner.snapshot();
        let measure = |generation| {
            let options = EvalOptions { generation: Some(generation), ..*options };
            eval_on(&self.inner, &snapshot, queries, qrels, &options, task)
        };
        let reports = [measure(generations[0])?, measure(generations[1])?];
        let columns = |report: &EvalReport| -> Vec<Vec<(String, f64)>> {
            report.per_query.iter().map(|(_, scores)| scores.named(options.k)).collect()
        };
        let (before, after) = (columns(&reports[0]), columns(&reports[1]));
        let names = reports[0].scores.named(options.k).into_iter().map(|(name, _)| name);
        let column = |rows: &[Vec<(String, f64)>], at: usize| -> Vec<f64> {
            rows.iter().filter_map(|row| row.get(at).map(|cell| cell.1)).collect()
        };
        let measures = names
            .enumerate()
            .map(|(at, name)| (name, compare(&column(&before, at), &column(&after, at), RESAMPLES, seed)))
            .collect();
        Ok(Comparison { generations, reports, measures })
    }
}

/// [`Db::eval`] over one snapshot.
fn eval_on(
    inner: &Inner,
    snapshot: &Arc<Snapshot>,
    queries: &[(String, String)],
    qrels: &Qrels,
    options: &EvalOptions,
    task: &Task,
) -> Result<EvalReport> {
    let id = options.generation.unwrap_or(snapshot.manifest.active_generation);
    let Some(generation) = snapshot.manifest.generation(id) else {
        return Err(Error::input(format!("there is no generation {id}; `generations` lists them")));
    };
    if generation.model_id.is_empty() {
        return Err(Error::input("this database stores plain vectors and has no encoder for the queries"));
    }
    let judged = queries.iter().filter_map(|(id, text)| Some((id, text.as_str(), qrels.get(id)?)));
    let judged: Vec<(&String, &str, _)> = judged.collect();
    if judged.is_empty() {
        return Err(Error::input("no query has a judgement: do the ids of queries and qrels agree?"));
    }
    let encoder = inner.encoder(&generation.model_id)?;
    let texts: Vec<&str> = judged.iter().map(|(_, text, _)| *text).collect();
    let vectors = encoder.encode_queries(&texts, task)?;
    let rows: Vec<&[f32]> = vectors.chunks_exact(encoder.dim()).collect();
    let search = SearchOptions {
        k: options.k.max(EVAL_DEPTH),
        dim: options.dim,
        exact: true,
        ..SearchOptions::default()
    };
    let searcher = Searcher::new(Arc::clone(snapshot), generation.id, search, None, &Task::default())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = AtomicU64::new(0);
    let found = parallel(&rows, threads, |row| {
        task.step("search", done.fetch_add(1, Ordering::Relaxed), rows.len() as u64)?;
        let found = searcher.find(row)?;
        found.iter().map(|f| searcher.id(f).map(str::to_owned)).collect::<Result<Vec<String>>>()
    })?;
    let scored = judged.iter().zip(&found);
    let per_query = scored
        .map(|((id, _, judged), ranked)| ((*id).clone(), Scores::of(ranked, judged, options.k)))
        .collect();
    Ok(EvalReport::new(per_query, options.k, lacking_note(snapshot, id, searcher.matches())))
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

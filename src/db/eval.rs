//! `eval`: how well a generation ranks what people judged.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::ser::Serializer;

use super::Db;
use super::search::{SearchOptions, parallel};
use super::searcher::Searcher;
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::options::Task;
use crate::trainer::Scores;

/// Depth of `eval`.
const EVAL_DEPTH: usize = 100;

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

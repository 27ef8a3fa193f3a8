//! Searches: by text, by vector, one or many, over one snapshot.

use std::collections::HashSet;
use std::time::Instant;

use super::filter::Filter;
use super::growing::Growing;
use super::snapshot::{Place, Rows, Snapshot, Source};
use super::{Db, Inner, mask};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::index::{Query, SearchParams, search_block};
use crate::options::{Task, limits};
use crate::types::{ChunkRef, Hit, SearchResult, vector_problem};

/// What is asked of a search.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// Hits wanted.
    pub k: usize,
    /// Which documents may be hits.
    pub filter: Option<Filter>,
    /// Rank by the first so many dimensions.
    pub dim: Option<usize>,
    /// Width of the beam in a graph.
    pub ef: Option<usize>,
    /// Recall aimed at without `ef`.
    pub target_recall: f32,
    /// Compare with every vector exactly.
    pub exact: bool,
    /// Keep the search in the log.
    pub log: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { k: 10, filter: None, dim: None, ef: None, target_recall: 0.95, exact: false, log: false }
    }
}

/// A search being put together.
#[derive(Debug)]
pub struct Search<'a> {
    db: &'a Db,
    what: What<'a>,
    options: SearchOptions,
}

#[derive(Debug, Clone, Copy)]
enum What<'a> {
    Text(&'a str),
    Vector(&'a [f32]),
}

impl Search<'_> {
    /// Hits wanted; 10 by default.
    pub fn k(mut self, k: usize) -> Self {
        self.options.k = k;
        self
    }

    /// Only documents for which the expression is true (see [`Filter`]).
    pub fn filter(mut self, expression: &str) -> Result<Self> {
        self.options.filter = Some(Filter::parse(expression)?);
        Ok(self)
    }

    /// Rank by the first `dim` dimensions alone.
    pub fn dim(mut self, dim: usize) -> Self {
        self.options.dim = Some(dim);
        self
    }

    /// Width of the beam in a graph.
    pub fn ef(mut self, ef: usize) -> Self {
        self.options.ef = Some(ef);
        self
    }

    /// Recall aimed at without `ef`; 0.95 by default.
    pub fn target_recall(mut self, recall: f32) -> Self {
        self.options.target_recall = recall;
        self
    }

    /// Compare with every vector exactly.
    pub fn exact(mut self, exact: bool) -> Self {
        self.options.exact = exact;
        self
    }

    /// Keep the search in the log, for `click`.
    pub fn log(mut self, log: bool) -> Self {
        self.options.log = log;
        self
    }

    /// Runs it.
    pub fn run(self) -> Result<SearchResult> {
        match self.what {
            What::Text(text) => {
                let mut results =
                    self.db.search_batch(&[text.to_owned()], &self.options, &Task::default())?;
                results.pop().ok_or_else(|| Error::input("no result"))
            }
            What::Vector(vector) => {
                self.db.inner.search_one(&self.db.inner.snapshot(), vector, &self.options)
            }
        }
    }
}

/// What `knn` found and how long it took.
#[derive(Debug, Clone, PartialEq)]
pub struct KnnReport {
    /// Ids of the hits of each query, best first.
    pub ids: Vec<Vec<String>>,
    /// Wall time of the search alone.
    pub seconds: f64,
    /// Process CPU time of the search alone.
    pub cpu_seconds: f64,
    /// Median time of a query, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Width of the beam that was asked for; 0 where it was chosen by target.
    pub ef: usize,
}

impl Db {
    /// A search by text.
    pub fn search<'a>(&'a self, text: &'a str) -> Search<'a> {
        Search { db: self, what: What::Text(text), options: SearchOptions::default() }
    }

    /// A search by vector.
    pub fn search_vector<'a>(&'a self, vector: &'a [f32]) -> Search<'a> {
        Search { db: self, what: What::Vector(vector), options: SearchOptions::default() }
    }

    /// Many searches by text, encoded together, over one snapshot. Reports the stages "embed" and "search", and stops
    /// with [`Error::Cancelled`] between two batches of texts or two searches; then none is logged.
    pub fn search_batch(
        &self,
        texts: &[String],
        options: &SearchOptions,
        task: &Task,
    ) -> Result<Vec<SearchResult>> {
        let snapshot = self.inner.snapshot();
        check(options)?;
        if snapshot.generation().is_none() {
            return Ok(texts.iter().map(|_| nothing()).collect());
        }
        if let Some(text) = texts.iter().find(|t| t.trim().is_empty()) {
            return Err(Error::input(format!("the query {text:?} is empty")));
        }
        let model = snapshot.generation().map(|g| g.model_id.clone()).unwrap_or_default();
        let encoder = if model.is_empty() { self.encoder()? } else { self.inner.encoder(&model)? };
        let texts_ref: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = if texts.is_empty() { Vec::new() } else { encoder.encode(&texts_ref, task)? };
        let mut results = Vec::with_capacity(texts.len());
        for vector in vectors.chunks_exact(encoder.dim()) {
            task.step("search", results.len() as u64, texts.len() as u64)?;
            results.push(self.inner.search_one(&snapshot, vector, options)?);
        }
        if options.log {
            self.inner.log_searches(texts, &mut results);
        }
        Ok(results)
    }

    /// Many searches by vector; `queries` is row-major. Threads share the queries; 0: one a core.
    pub fn knn(&self, queries: &[f32], options: &SearchOptions, threads: usize) -> Result<KnnReport> {
        let snapshot = self.inner.snapshot();
        check(options)?;
        let Some(generation) = snapshot.generation() else {
            return Err(Error::input("the database is empty: there is nothing to search"));
        };
        let dim = generation.dim as usize;
        if !queries.len().is_multiple_of(dim) {
            return Err(Error::input(format!(
                "the queries are not rows of {dim} values, the database's dimension"
            )));
        }
        let rows: Vec<&[f32]> = queries.chunks_exact(dim).collect();
        for (n, row) in rows.iter().enumerate() {
            if let Some(problem) = vector_problem(row, dim, snapshot.manifest.metric()) {
                return Err(Error::input(format!("query {n}: {problem}")));
            }
        }
        let scope = Scope::new(&snapshot, generation, options, self.inner.growing.lock().clone())?;
        let threads =
            if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let timed = parallel(&rows, threads, |row| {
            let begun = Instant::now();
            let places = scope.search(row)?;
            Ok((places, begun.elapsed().as_secs_f64() * 1e6))
        })?;
        let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let mut times: Vec<f64> = timed.iter().map(|t| t.1).collect();
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        let name = |found: &Found| snapshot.part(found.place.part)?.id(found.place.document);
        let ids: Result<Vec<Vec<String>>> =
            timed.iter().map(|(found, _)| found.iter().map(name).collect()).collect();
        let ef = options.ef.unwrap_or_default();
        Ok(KnnReport { ids: ids?, seconds, cpu_seconds, p50_us: at(0.5), p99_us: at(0.99), ef })
    }
}

/// Runs `work` on every item, in order of items.
pub(crate) fn parallel<T: Send>(
    rows: &[&[f32]],
    threads: usize,
    work: impl Fn(&[f32]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let share = rows.len().div_ceil(threads.max(1)).max(1);
    if threads <= 1 || rows.len() <= 1 {
        return rows.iter().map(|row| work(row)).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let handles: Vec<_> = rows
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(|r| work(r)).collect::<Result<Vec<T>>>()))
            .collect();
        let mut all = Vec::with_capacity(rows.len());
        for handle in handles {
            all.extend(handle.join().unwrap_or_else(|_| Err(Error::input("a search thread stopped")))?);
        }
        Ok(all)
    })
}

/// CPU time of this process, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn check(options: &SearchOptions) -> Result<()> {
    if options.k == 0 {
        return Err(Error::input("k is 0: ask for at least one hit"));
    }
    if options.k > limits::K {
        return Err(Error::Limit {
            what: "k".into(),
            limit: limits::K as u64,
            actual: options.k as u64,
            raise: "ask for fewer hits".into(),
        });
    }
    if options.ef == Some(0) {
        return Err(Error::input("ef is 0: ask for at least 1, or leave it out"));
    }
    if !(0.0..=1.0).contains(&options.target_recall) {
        return Err(Error::input(format!(
            "a target recall of {} is not between 0 and 1",
            options.target_recall
        )));
    }
    Ok(())
}

fn nothing() -> SearchResult {
    SearchResult { query_id: None, generation: 0, took_us: 0, hits: Vec::new(), notes: Vec::new() }
}

/// A document that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub place: Place,
    pub chunk: ChunkRef,
    pub distance: f32,
}

/// Everything about a search that does not depend on the query: which rows of which blocks may be hits.
pub(crate) struct Scope<'a> {
    blocks: Vec<(u32, Rows<'a>, Option<roaring::RoaringBitmap>)>,
    /// Index of the growing segment, and the range of its blocks.
    growing: Option<(Growing, std::ops::Range<usize>)>,
    options: &'a SearchOptions,
    metric: crate::types::Metric,
    dim: usize,
    rank_dim: usize,
    /// Documents that may be hits and have rows.
    matches: usize,
    /// Rows that may be hits.
    rows: usize,
}

impl<'a> Scope<'a> {
    /// Evaluates the filter and opens the blocks of a generation.
    pub fn new(
        snapshot: &'a Snapshot,
        generation: &'a Generation,
        options: &'a SearchOptions,
        growing: Option<Growing>,
    ) -> Result<Self> {
        let dim = generation.dim as usize;
        let rank_dim = options.dim.unwrap_or(dim);
        if rank_dim == 0 || rank_dim > dim {
            return Err(Error::input(format!(
                "--dim {rank_dim} is not between 1 and the database's dimension {dim}"
            )));
        }
        let shape = snapshot.shape_of(generation.id)?;
        let mut scope = Self {
            growing: None,
            blocks: Vec::new(),
            options,
            metric: snapshot.manifest.metric(),
            dim,
            rank_dim,
            matches: 0,
            rows: 0,
        };
        for (number, part) in snapshot.parts.iter().enumerate() {
            let begin = scope.blocks.len();
            let documents = mask::allowed(part, options.filter.as_ref())?;
            for rows in part.rows(generation.id, shape)? {
                let allowed = documents.as_ref().map(|d| rows.mask(d));
                let count = allowed.as_ref().map_or(rows.vectors.len, |a| a.len() as usize);
                scope.rows += count;
                scope.matches += match &documents {
                    None => rows.first.len() - 1,
                    Some(d) => d
                        .range(rows.base..rows.base + rows.first.len() as u32 - 1)
                        .filter(|&d| !rows.rows_of(d).is_empty())
                        .count(),
                };
                if count > 0 || matches!(part.source, Source::Active(..)) {
                    scope.blocks.push((number as u32, rows, allowed));
                }
            }
            if let (Source::Active(log, _), Some(growing)) = (&part.source, &growing)
                && *log == growing.log
                && growing.generation == generation.id
            {
                scope.growing = Some((growing.clone(), begin..scope.blocks.len()));
            }
        }
        Ok(scope)
    }

    /// Documents that may be hits.
    #[cfg(feature = "trainer")]
    pub fn documents(&self) -> usize {
        self.matches
    }

    /// The best documents for a vector, best first: `min(k, matches)` of them.
    pub fn search(&self, vector: &[f32]) -> Result<Vec<Found>> {
        let query = Query::new(vector, self.metric, self.dim, self.rank_dim);
        let wanted = self.options.k.min(self.matches);
        let mut k = self.options.k;
        loop {
            let found = self.best(&query, k);
            // With fewer distinct documents than wanted, several rows were of one document: look at more rows.
            if found.len() >= wanted || k >= self.rows {
                return Ok(found.into_iter().take(wanted).collect());
            }
            k = (k * 4).min(self.rows);
        }
    }

    /// Adds hits from the index of the growing segment; returns the blocks that need no scan any more.
    fn search_growing(
        &self,
        query: &Query,
        params: &SearchParams,
        rows: &mut Vec<(f32, usize, u32)>,
    ) -> std::ops::Range<usize> {
        let Some((growing, range)) = &self.growing else { return 0..0 };
        let blocks: Vec<_> = self
            .blocks
            .get(range.clone())
            .unwrap_or_default()
            .iter()
            .map(|(_, r, a)| (r, a.as_ref()))
            .collect();
        let Some((hits, covered)) = growing.search(&blocks, query, params) else { return 0..0 };
        rows.extend(hits.into_iter().map(|(n, hit)| (hit.distance, range.start + n, hit.row)));
        range.start..range.start + covered
    }

    /// Distinct documents among the best `k` rows.
    fn best(&self, query: &Query, k: usize) -> Vec<Found> {
        let params = SearchParams {
            k,
            ef: self.options.ef,
            target_recall: self.options.target_recall,
            exact: self.options.exact,
        };
        let mut rows: Vec<(f32, usize, u32)> = Vec::new();
        let covered = self.search_growing(query, &params, &mut rows);
        for (n, (_, block, allowed)) in self.blocks.iter().enumerate() {
            if covered.contains(&n) {
                continue;
            }
            let found = search_block(&block.vectors, block.graph.as_ref(), query, &params, allowed.as_ref());
            rows.extend(found.into_iter().map(|f| (f.distance, n, f.row)));
        }
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut seen = HashSet::new();
        let mut documents = Vec::new();
        for (distance, n, row) in rows.into_iter().take(k) {
            let (part, block, _) = &self.blocks[n];
            let (document, chunk) = block.locate(row);
            let place = Place { part: *part, document };
            if seen.insert(place) {
                documents.push(Found { place, chunk, distance });
            }
        }
        documents
    }
}

impl Inner {
    /// One search by vector.
    pub fn search_one(
        &self,
        snapshot: &Snapshot,
        vector: &[f32],
        options: &SearchOptions,
    ) -> Result<SearchResult> {
        let start = Instant::now();
        check(options)?;
        let Some(generation) = snapshot.generation() else { return Ok(nothing()) };
        if let Some(problem) = vector_problem(vector, generation.dim as usize, snapshot.manifest.metric()) {
            return Err(Error::input(format!("the query: {problem}")));
        }
        let found = Scope::new(snapshot, generation, options, self.growing.lock().clone())?.search(vector)?;
        let mut hits = Vec::with_capacity(found.len());
        for (n, found) in found.iter().enumerate() {
            let document = snapshot.document(found.place)?;
            let range = found.chunk.start as usize..found.chunk.end as usize;
            let score = snapshot.manifest.metric().score(found.distance);
            hits.push(Hit {
                rank: n as u32 + 1,
                id: document.id,
                score,
                distance: found.distance,
                text: document.text.get(range).unwrap_or_default().to_owned(),
                title: document.title,
                meta: document.meta,
                chunk: found.chunk,
            });
        }
        let notes = match options.filter.as_ref().filter(|_| hits.is_empty()) {
            Some(filter) => mask::unknown_keys(snapshot, filter)?,
            None => Vec::new(),
        };
        let took_us = start.elapsed().as_micros() as u64;
        Ok(SearchResult { query_id: None, generation: generation.id, took_us, hits, notes })
    }
}

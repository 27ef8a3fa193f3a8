//! Searches: by text, by vector, one or many, over one snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::encoders::Encoder;
use super::filter::Filter;
use super::page::{self, Arrangement};
use super::searcher::Searcher;
use super::snapshot::Snapshot;
use super::{Db, Inner, mask};
use crate::error::{Error, Result};
use crate::options::{Task, limits};
use crate::types::{Hit, SearchResult, vector_problem};

/// Queries between two looks at whether the caller wants to stop.
const STEP: usize = 32;

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
    /// Who searches, for the log: any name that the application gives them.
    pub client: Option<String>,
    /// Show the hits after this rank in random order, so that the log tells how probably each rank is looked at. Only
    /// logged searches by text.
    pub randomize_below: Option<usize>,
    /// Show the hits of this generation and of the active one by turns, so that clicks tell which is better. Only logged
    /// searches by text.
    pub interleave: Option<u32>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            k: 10,
            filter: None,
            dim: None,
            ef: None,
            target_recall: 0.95,
            exact: false,
            log: false,
            client: None,
            randomize_below: None,
            interleave: None,
        }
    }
}

/// A search being put together.
#[derive(Debug)]
pub struct Search<'a> {
    db: &'a Db,
    what: What<'a>,
    options: SearchOptions,
    task: Task,
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

    /// Who searches, for the log.
    pub fn client(mut self, client: impl Into<String>) -> Self {
        self.options.client = Some(client.into());
        self
    }

    /// Show the hits after this rank in random order ([`SearchOptions::randomize_below`]).
    pub fn randomize_below(mut self, rank: usize) -> Self {
        self.options.randomize_below = Some(rank);
        self
    }

    /// Show the hits of this generation and of the active one by turns ([`SearchOptions::interleave`]).
    pub fn interleave(mut self, generation: u32) -> Self {
        self.options.interleave = Some(generation);
        self
    }

    /// Stop when so much time has passed. It is looked at between segments, and in a scan every few thousand rows.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.task = self.task.within(limit);
        self
    }

    /// Stop when this task is cancelled; looked at as [`timeout`](Self::timeout) is.
    pub fn task(mut self, task: &Task) -> Self {
        self.task = task.quiet();
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Limit`] when its time is over, [`Error::Cancelled`].
    pub fn run(self) -> Result<SearchResult> {
        match self.what {
            What::Text(text) => {
                let mut results = self.db.search_batch(&[text.to_owned()], &self.options, &self.task)?;
                results.pop().ok_or_else(|| Error::input("no result"))
            }
            What::Vector(vector) => {
                check_arrangement(&self.options, false)?;
                self.db.inner.search_one(&self.db.inner.snapshot(), vector, &self.options, &self.task)
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
        Search { db: self, what: What::Text(text), options: SearchOptions::default(), task: Task::default() }
    }

    /// A search by vector.
    pub fn search_vector<'a>(&'a self, vector: &'a [f32]) -> Search<'a> {
        let (options, task) = (SearchOptions::default(), Task::default());
        Search { db: self, what: What::Vector(vector), options, task }
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
        check_arrangement(options, true)?;
        if snapshot.generation().is_none() {
            return Ok(texts.iter().map(|_| nothing()).collect());
        }
        if let Some(text) = texts.iter().find(|t| t.trim().is_empty()) {
            return Err(Error::input(format!("the query {text:?} is empty")));
        }
        let model = snapshot.generation().map(|g| g.model_id.clone()).unwrap_or_default();
        let encoder = if model.is_empty() { self.encoder()? } else { self.inner.encoder(&model)? };
        let vectors = encoded(&encoder, texts, task)?;
        let other = match options.interleave {
            Some(generation) => Some(self.inner.challenger(&snapshot, generation, texts, task)?),
            None => None,
        };
        let mut results = Vec::with_capacity(texts.len());
        let mut arrangements = Vec::with_capacity(texts.len());
        for (number, vector) in vectors.chunks_exact(encoder.dim()).enumerate() {
            task.step("search", number as u64, texts.len() as u64)?;
            let mut result = self.inner.search_one(&snapshot, vector, options, task)?;
            arrangements.push(match (&other, options.randomize_below) {
                (Some(other), _) => self.inner.interleave(&snapshot, &mut result, other, number, options)?,
                (None, Some(below)) => page::randomize(&mut result.hits, below, || self.inner.vfs.random()),
                (None, None) => Arrangement::default(),
            });
            results.push(result);
        }
        if options.log {
            self.inner.log_searches(texts, &mut results, arrangements, options.client.as_deref());
        }
        Ok(results)
    }

    /// A search prepared for many vectors, over what is visible now.
    ///
    /// # Errors
    /// Those of the options, and [`Error::Input`] for a database in which nothing is committed.
    pub fn searcher(&self, options: &SearchOptions) -> Result<Searcher> {
        check(options)?;
        let snapshot = self.inner.snapshot();
        let Some(generation) = snapshot.generation().map(|g| g.id) else {
            return Err(Error::input("the database is empty: there is nothing to search"));
        };
        let task = Task::default();
        let searcher =
            Searcher::new(snapshot, generation, options.clone(), Some(&self.inner.growing), &task)?;
        Ok(searcher.within(self.inner.cap))
    }

    /// Many searches by vector; `queries` is row-major. Threads share the queries; 0: one a core.
    pub fn knn(
        &self,
        queries: &[f32],
        options: &SearchOptions,
        threads: usize,
        task: &Task,
    ) -> Result<KnnReport> {
        let searcher = self.searcher(options)?;
        let dim = searcher.dim();
        if !queries.len().is_multiple_of(dim) {
            return Err(Error::input(format!(
                "the queries are not rows of {dim} values, the database's dimension"
            )));
        }
        let rows: Vec<&[f32]> = queries.chunks_exact(dim).collect();
        for (n, row) in rows.iter().enumerate() {
            if let Some(problem) = vector_problem(row, dim, searcher.metric) {
                return Err(Error::input(format!("query {n}: {problem}")));
            }
        }
        let threads =
            if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let done = AtomicUsize::new(0);
        let timed = parallel(&rows, threads, |row| {
            let before = done.fetch_add(1, Ordering::Relaxed);
            if before.is_multiple_of(STEP) {
                task.step("search", before as u64, rows.len() as u64)?;
            }
            let begun = Instant::now();
            let found = searcher.find(row)?;
            Ok((found, begun.elapsed().as_secs_f64() * 1e6))
        })?;
        let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let mut times: Vec<f64> = timed.iter().map(|t| t.1).collect();
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        let ids: Result<Vec<Vec<String>>> = timed
            .iter()
            .map(|(found, _)| found.iter().map(|f| searcher.id(f).map(str::to_owned)).collect())
            .collect();
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

/// Pages are arranged for the log's sake only, and vectors are not logged.
fn check_arrangement(options: &SearchOptions, text: bool) -> Result<()> {
    let asked = [
        (options.randomize_below.is_some(), "--randomize-below"),
        (options.interleave.is_some(), "--interleave"),
        (options.client.is_some(), "--client"),
    ];
    if let Some((_, flag)) = asked.iter().find(|(asked, _)| *asked && !(options.log && text)) {
        let needs =
            if text { "is for searches that are logged: add --log" } else { "is for searches by text" };
        return Err(Error::input(format!("{flag} {needs}")));
    }
    if options.randomize_below.is_some() && options.interleave.is_some() {
        return Err(Error::input(
            "--randomize-below and --interleave cannot both arrange a page: ask for one",
        ));
    }
    if let Some(below) = options.randomize_below.filter(|below| below.saturating_add(1) >= options.k) {
        let k = options.k;
        return Err(Error::input(format!(
            "--randomize-below {below} leaves fewer than two of {k} hits in random order"
        )));
    }
    if let Some(client) = options.client.as_ref().filter(|c| c.is_empty() || c.len() > limits::ID_BYTES) {
        return Err(Error::input(format!(
            "--client: a name of {} bytes; 1 to {} are allowed",
            client.len(),
            limits::ID_BYTES
        )));
    }
    Ok(())
}

/// A row for each text.
fn encoded(encoder: &Encoder, texts: &[String], task: &Task) -> Result<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    if texts.is_empty() { Ok(Vec::new()) } else { encoder.encode_queries(&texts, task) }
}

/// A generation that competes with the active one, and its vectors of the queries.
struct Challenger {
    generation: u32,
    dim: usize,
    queries: Vec<f32>,
}

fn nothing() -> SearchResult {
    SearchResult { query_id: None, generation: 0, took_us: 0, hits: Vec::new(), notes: Vec::new() }
}

impl Inner {
    /// Encodes queries for a generation that is not the active one.
    fn challenger(
        &self,
        snapshot: &Snapshot,
        generation: u32,
        texts: &[String],
        task: &Task,
    ) -> Result<Challenger> {
        let Some(found) = snapshot.manifest.generation(generation) else {
            return Err(Error::input(format!(
                "--interleave: there is no generation {generation}; `generations` lists them"
            )));
        };
        if generation == snapshot.manifest.active_generation {
            return Err(Error::input(format!(
                "--interleave: generation {generation} is the active one; name another"
            )));
        }
        let encoder = self.encoder(&found.model_id)?;
        let queries = encoded(&encoder, texts, &task.quiet())?;
        Ok(Challenger { generation, dim: encoder.dim(), queries })
    }

    /// Drafts a page from the hits of the active generation, in `result`, and those of a challenger.
    fn interleave(
        &self,
        snapshot: &Arc<Snapshot>,
        result: &mut SearchResult,
        other: &Challenger,
        number: usize,
        options: &SearchOptions,
    ) -> Result<Arrangement> {
        let start = Instant::now();
        let vector = other.queries.chunks_exact(other.dim).nth(number).unwrap_or_default();
        let hits = self.hits(snapshot, other.generation, vector, options, &Task::default())?;
        let teams = [result.generation, other.generation];
        let (page, arrangement) =
            page::interleave([std::mem::take(&mut result.hits), hits], teams, options.k, || {
                self.vfs.random()
            });
        result.hits = page;
        result.took_us += start.elapsed().as_micros() as u64;
        Ok(arrangement)
    }

    /// One search by vector.
    pub fn search_one(
        &self,
        snapshot: &Arc<Snapshot>,
        vector: &[f32],
        options: &SearchOptions,
        task: &Task,
    ) -> Result<SearchResult> {
        let start = Instant::now();
        check(options)?;
        let Some(generation) = snapshot.generation() else { return Ok(nothing()) };
        if let Some(problem) = vector_problem(vector, generation.dim as usize, snapshot.manifest.metric()) {
            return Err(Error::input(format!("the query: {problem}")));
        }
        let hits = self.hits(snapshot, generation.id, vector, options, task)?;
        let notes = match options.filter.as_ref().filter(|_| hits.is_empty()) {
            Some(filter) => mask::unknown_keys(snapshot, filter)?,
            None => Vec::new(),
        };
        let took_us = start.elapsed().as_micros() as u64;
        Ok(SearchResult { query_id: None, generation: generation.id, took_us, hits, notes })
    }

    /// What a generation finds.
    fn hits(
        &self,
        snapshot: &Arc<Snapshot>,
        generation: u32,
        vector: &[f32],
        options: &SearchOptions,
        task: &Task,
    ) -> Result<Vec<Hit>> {
        let searcher =
            Searcher::new(Arc::clone(snapshot), generation, options.clone(), Some(&self.growing), task)?;
        let found = searcher.find(vector)?;
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
        Ok(hits)
    }
}

//! The phases that read: `open`, `search`, `filter`, `scan`, `memory`.

use std::collections::HashSet;
use std::time::Instant;

use embdb::options::Durability;
use embdb::{Db, Filter, Match, SearchOptions};
use serde_json::{Map, Value, json};

use crate::data::Matrix;
use crate::measure::Times;
use crate::options::Options;
use crate::{Failure, data, measure};

/// Widths of the beam that are tried, ascending, until recall is high enough.
const SWEEP: [usize; 17] = [10, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 1536];
/// Recall at which a sweep ends.
const ENOUGH: f64 = 0.992;
/// CPU seconds for one width.
const BUDGET: f64 = 0.7;

fn opened(options: &Options) -> Result<Db, Failure> {
    let open = options.open(0, Durability::Full);
    let db = Db::open_with(&options.path, open)?;
    if !db.exists() {
        return Err(format!("no database at {}", options.path.display()).into());
    }
    Ok(db)
}

fn sweep(options: &Options) -> &[usize] {
    if options.sweep.is_empty() { &SWEEP } else { &options.sweep }
}

fn asked(options: &Options, ef: usize) -> SearchOptions {
    SearchOptions { k: options.k, ef: Some(ef), ..SearchOptions::default() }
}

fn numbers(found: &[Match<'_>]) -> Vec<i32> {
    found.iter().filter_map(|m| m.id.parse().ok()).collect()
}

/// Share of the true `k` nearest that were found.
fn recall(found: &[Vec<i32>], truth: &Matrix<i32>, k: usize) -> f64 {
    let hits = found.iter().zip(truth.rows()).map(|(found, truth)| {
        let truth: HashSet<&i32> = truth.iter().take(k).collect();
        found.iter().collect::<HashSet<_>>().intersection(&truth).count()
    });
    hits.sum::<usize>() as f64 / (found.len() * k).max(1) as f64
}

/// Time from nothing to the first answer.
pub fn open(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let before = measure::memory();
    let (start, cpu) = (Instant::now(), measure::cpu());
    let db = opened(options)?;
    let open = start.elapsed().as_secs_f64();
    let searcher = db.searcher(&asked(options, 48))?;
    let found = searcher.search(queries.row(0))?.len();
    let all = start.elapsed().as_secs_f64();
    Ok(json!({
        "import_s": 0.0,
        "open_s": open,
        "first_query_s": all - open,
        "open_to_answer_s": all,
        "cpu_s": measure::cpu() - cpu,
        "found": found,
        "mem0": before,
        "mem": measure::memory(),
    }))
}

/// Recall and speed at each width, one query after the other on one thread.
pub fn search(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let truth = data::integers(&options.dataset, "gt100")?;
    let before = measure::memory();
    let db = opened(options)?;
    let at_open = measure::memory();
    let mut curve = Vec::new();
    for &ef in sweep(options) {
        let searcher = db.searcher(&asked(options, ef))?;
        for n in 0..queries.len().min(30) {
            searcher.search(queries.row(queries.len() - 1 - n))?;
        }
        let (mut times, mut found) = (Times::default(), Vec::new());
        for query in queries.rows() {
            let hits = times.measure(|| searcher.search(query))?;
            found.push(numbers(&hits));
            if times.cpu() > BUDGET && times.len() > 99 {
                break;
            }
        }
        let recall = recall(&found, &truth, options.k);
        curve.push(json!({
            "p": ef,
            "recall": recall,
            "nq": times.len(),
            "qps": times.len() as f64 / times.cpu(),
            "wall_qps": times.len() as f64 / times.wall(),
            "cpu_p50_us": times.cpu_at(0.5) * 1e6,
            "cpu_p99_us": times.cpu_at(0.99) * 1e6,
            "p50_us": times.wall_at(0.5) * 1e6,
            "p99_us": times.wall_at(0.99) * 1e6,
        }));
        if recall >= ENOUGH && options.sweep.is_empty() {
            break;
        }
    }
    Ok(json!({
        "curve": curve,
        "mem0": before,
        "mem_open": at_open,
        "mem": measure::memory(),
        "version": env!("CARGO_PKG_VERSION"),
        "kind": "db",
    }))
}

/// Searches under `bucket < 10` (1 % of the rows) and `bucket < 100` (10 %). Each query brings its filter, as in
/// the other systems; the entries whose key ends in `prepared` evaluate it once for all queries instead.
pub fn filter(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let bucket = data::integers(&options.dataset, "bucket")?;
    let db = opened(options)?;
    let mut results = Map::new();
    for (below, name) in [(10, "1%"), (100, "10%")] {
        let truth = data::integers(&options.dataset, &format!("gtf{below}"))?;
        for prepared in [false, true] {
            let mut curve = Vec::new();
            for &ef in sweep(options).iter().skip(2).step_by(3) {
                let found =
                    Filtered { db: &db, options, below, ef, prepared }.run(&queries, &bucket, &truth)?;
                let recall = found["recall"].as_f64().unwrap_or_default();
                curve.push(found);
                if recall > 0.995 {
                    break;
                }
            }
            let key = if prepared { format!("{name} prepared") } else { name.to_owned() };
            results.insert(key, json!(curve));
        }
        results.insert(format!("{name} mask_us"), json!(mask_us(&db, below)?));
    }
    Ok(Value::Object(results))
}

/// CPU microseconds to parse a filter and to evaluate it, in the median.
fn mask_us(db: &Db, below: i32) -> Result<f64, Failure> {
    let mut times = Times::default();
    for _ in 0..200 {
        times.measure(|| -> Result<_, Failure> {
            let filter = Some(Filter::parse(&format!("bucket < {below}"))?);
            Ok(db.searcher(&SearchOptions { filter, ..SearchOptions::default() })?.matches())
        })?;
    }
    Ok(times.cpu_at(0.5) * 1e6)
}

/// One width of the beam under one filter.
struct Filtered<'a> {
    db: &'a Db,
    options: &'a Options,
    below: i32,
    ef: usize,
    prepared: bool,
}

impl Filtered<'_> {
    fn run(
        &self,
        queries: &Matrix<f32>,
        bucket: &Matrix<i32>,
        truth: &Matrix<i32>,
    ) -> Result<Value, Failure> {
        let searcher = || -> Result<_, Failure> {
            let filter = Some(Filter::parse(&format!("bucket < {}", self.below))?);
            Ok(self.db.searcher(&SearchOptions { filter, ..asked(self.options, self.ef) })?)
        };
        let ready = searcher()?;
        ready.search(queries.row(queries.len() - 1))?;
        let (mut times, mut found) = (Times::default(), Vec::new());
        for query in queries.rows().take(500) {
            found.push(times.measure(|| -> Result<_, Failure> {
                match self.prepared {
                    true => Ok(numbers(&ready.search(query)?)),
                    false => Ok(numbers(&searcher()?.search(query)?)),
                }
            })?);
            if times.cpu() > BUDGET && times.len() > 19 {
                break;
            }
        }
        let passes = |n: &i32| bucket.values.get(*n as usize).is_some_and(|&b| b < self.below);
        if !found.iter().flatten().all(passes) {
            return Err("a hit does not pass the filter".into());
        }
        Ok(json!({
            "p": self.ef,
            "recall": recall(&found, truth, self.options.k),
            "qps": times.len() as f64 / times.cpu(),
            "p50_us": times.cpu_at(0.5) * 1e6,
            "p99_us": times.cpu_at(0.99) * 1e6,
            "short": found.iter().filter(|f| f.len() < self.options.k).count(),
            "nq": times.len(),
        }))
    }
}

/// Exact search over all rows: every f32 row, and the codes with the best compared exactly.
pub fn scan(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let truth = data::integers(&options.dataset, "gt100")?;
    let db = opened(options)?;
    let mut results = Map::new();
    // A beam as wide as the database costs more than the scan, which is therefore chosen.
    let codes = SearchOptions { ef: Some(usize::MAX), ..asked(options, 0) };
    let exact = SearchOptions { exact: true, ef: None, ..codes.clone() };
    for (name, asked) in [("codes", codes), ("exact", exact)] {
        let searcher = db.searcher(&asked)?;
        searcher.search(queries.row(0))?;
        let (mut times, mut found) = (Times::default(), Vec::new());
        for query in queries.rows().take(100) {
            found.push(numbers(&times.measure(|| searcher.search(query))?));
        }
        results.insert(format!("{name}_p50_ms"), json!(times.cpu_at(0.5) * 1e3));
        results.insert(format!("{name}_recall"), json!(recall(&found, &truth, options.k)));
    }
    Ok(Value::Object(results))
}

/// Memory before opening, when open, and after many searches at one width.
pub fn memory(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let before = measure::memory();
    let db = opened(options)?;
    let at_open = measure::memory();
    let searcher = db.searcher(&asked(options, 64))?;
    for query in queries.rows() {
        searcher.search(query)?;
    }
    Ok(json!({"mem0": before, "mem_open": at_open, "mem": measure::memory()}))
}

//! `search` and `batch-search`: queries of text.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use embdb::Error;
use embdb::db::filter::Filter;
use embdb::db::search::SearchOptions;
use embdb::types::SearchResult;
use serde_json::{Value, json};

use super::queries::{self, Query};
use crate::args::{self, Ranking};
use crate::context::{Context, path_text};
use crate::failure::{Failure, Outcome};
use crate::output::{Mode, Rows, printable, snippet};

/// Queries that are encoded together.
const GROUP: usize = 256;
/// Characters of a snippet, on a terminal of unknown width.
const WIDTH: usize = 100;

/// Search for a text
#[derive(Debug, Args)]
pub struct SearchText {
    /// What to search for
    #[arg(required = true)]
    text: Vec<String>,
    #[command(flatten)]
    ranking: Ranking,
    /// What is compared: vector
    #[arg(long, default_value = "vector", value_parser = args::mode)]
    mode: String,
    /// Answer as generation GEN would have
    #[arg(long, value_name = "GEN", hide = true, value_parser = args::later)]
    as_of: Option<String>,
    #[command(flatten)]
    logging: Logging,
}

/// What is kept of a search, and what a page is arranged like to learn from it.
#[derive(Debug, Default, Args)]
struct Logging {
    /// Keep the search, for `click` and `retrain`
    #[arg(long)]
    log: bool,
    /// Who searches, for the log, so that nobody's clicks outweigh those of all others
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Show the hits after rank R in random order, so that the log tells how likely each rank is looked at
    #[arg(long, value_name = "R")]
    randomize_below: Option<usize>,
    /// Show hits of generation GEN and of the active one by turns: `log stats` tells whose are clicked more
    #[arg(long, value_name = "GEN", conflicts_with = "randomize_below")]
    interleave: Option<u32>,
}

impl Logging {
    fn set(self, options: &mut SearchOptions, log: bool) {
        options.log = self.log || log;
        options.client = self.client;
        options.randomize_below = self.randomize_below;
        options.interleave = self.interleave;
    }
}

impl SearchText {
    /// A search for a text with the defaults.
    pub fn plain(text: String) -> Self {
        let (k, filter, dim, ef) = (10, None, None, None);
        let ranking = Ranking { k, filter, dim, ef, target_recall: 0.95, exact: false };
        Self { text: vec![text], ranking, mode: "vector".into(), as_of: None, logging: Logging::default() }
    }

    /// Searches and prints the hits.
    pub fn run(self, context: &mut Context) -> Outcome {
        let mut options = options(&self.ranking)?;
        self.logging.set(&mut options, context.shell.as_ref().is_some_and(|shell| shell.log));
        let text = self.text.join(" ");
        if text.trim().is_empty() {
            return Err(Failure::input("the text to search for is empty"));
        }
        let db = context.read()?;
        let work = context.work();
        let found = db.search_batch(&[text], &options, &work.task.quiet())?;
        drop(work);
        let Some(result) = found.into_iter().next() else { return Ok(0) };
        print(context, &result)?;
        context.notes(&result.notes);
        context.remember(&result);
        Ok(0)
    }
}

/// The library's options.
pub fn options(ranking: &Ranking) -> Result<SearchOptions, Failure> {
    let filter = ranking.filter.as_deref().map(Filter::parse).transpose()?;
    Ok(SearchOptions {
        k: ranking.k()?,
        filter,
        dim: ranking.dim,
        ef: ranking.ef,
        target_recall: ranking.target_recall,
        exact: ranking.exact,
        ..SearchOptions::default()
    })
}

fn print(context: &mut Context, result: &SearchResult) -> Result<(), Failure> {
    match context.out.mode() {
        Mode::Json => context.out.json(result),
        Mode::Table => {
            hits(context, result)?;
            if let (Some(query_id), None) = (&result.query_id, &context.shell) {
                context.note(&format!("logged as {query_id}"));
            }
            Ok(())
        }
        Mode::Csv | Mode::Markdown => {
            let columns = ["rank", "id", "score", "distance", "title", "text"].map(String::from).to_vec();
            let cells = result.hits.iter().map(|hit| {
                let title = hit.title.clone().unwrap_or_default();
                let (score, distance) = (hit.score.to_string(), hit.distance.to_string());
                vec![hit.rank.to_string(), hit.id.clone(), score, distance, title, hit.text.clone()]
            });
            let rows = Rows { columns, cells: cells.collect() };
            context.out.rows(&rows)
        }
    }
}

/// Rank, score, id, title; below it what was found.
fn hits(context: &mut Context, result: &SearchResult) -> Result<(), Failure> {
    for hit in &result.hits {
        let id = context.out.bold(&printable(&hit.id));
        let title = hit.title.as_deref().filter(|title| !title.is_empty());
        match title {
            Some(title) => {
                context.out.line(&format!(
                    "{:>3}  {:.4}  {id}  {}",
                    hit.rank,
                    hit.score,
                    snippet(title, WIDTH)
                ))?;
                context.out.line(&format!("             {}", snippet(&hit.text, WIDTH)))?;
            }
            None => {
                let text = snippet(&hit.text, WIDTH);
                let line = format!("{:>3}  {:.4}  {id}  {text}", hit.rank, hit.score);
                context.out.line(line.trim_end())?;
            }
        }
    }
    if result.hits.is_empty() {
        context.note("no hits");
    }
    Ok(())
}

/// Search for many texts
#[derive(Debug, Args)]
pub struct BatchSearch {
    /// Queries: JSON lines with `_id` or `id`, and `text`
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    #[command(flatten)]
    ranking: Ranking,
    /// What is compared: vector
    #[arg(long, default_value = "vector", value_parser = args::mode)]
    mode: String,
    /// Write a TREC run file
    #[arg(long, value_name = "OUT")]
    trec: Option<PathBuf>,
    #[command(flatten)]
    logging: Logging,
}

impl BatchSearch {
    /// Searches and prints one result a line, or writes the run file.
    pub fn run(self, context: &mut Context) -> Outcome {
        let mut options = options(&self.ranking)?;
        self.logging.set(&mut options, false);
        let queries = queries::read(&self.queries)?;
        let db = context.read()?;
        let mut run = self.trec.as_deref().map(Run::create).transpose()?;
        let work = context.work();
        let (start, mut hits) = (Instant::now(), 0);
        for (number, group) in queries.chunks(GROUP).enumerate() {
            work.task.step("search", (number * GROUP) as u64, queries.len() as u64)?;
            let texts: Vec<String> = group.iter().map(|query| query.text.clone()).collect();
            for (query, result) in group.iter().zip(db.search_batch(&texts, &options, &work.task.quiet())?) {
                hits += result.hits.len();
                if number == 0 {
                    context.notes(&result.notes);
                }
                match &mut run {
                    Some(run) => run.write(query, &result)?,
                    None => print_query(context, query, &result)?,
                }
            }
        }
        drop(work);
        if let Some(run) = run {
            run.finish()?;
            let seconds = start.elapsed().as_secs_f64();
            let run = self.trec.as_deref().map(path_text);
            context
                .out
                .summary(&json!({"queries": queries.len(), "hits": hits, "seconds": seconds, "trec": run}))?;
        }
        Ok(0)
    }
}

fn print_query(context: &mut Context, query: &Query, result: &SearchResult) -> Result<(), Failure> {
    if context.out.mode() == Mode::Table {
        let heading = format!("{}  {}", printable(&query.id), snippet(&query.text, WIDTH));
        let heading = context.out.bold(&heading);
        context.out.line(&heading)?;
        return hits(context, result);
    }
    let mut object = serde_json::Map::new();
    object.insert("query".into(), query.id.as_str().into());
    let value = serde_json::to_value(result).map_err(|error| Failure::output(error.into()))?;
    if let Value::Object(fields) = value {
        object.extend(fields);
    }
    if context.out.is_json() { context.out.json(&object) } else { context.out.records(&[object]) }
}

/// A TREC run file: `query Q0 document rank score tag`, separated by spaces. trec_eval ignores the rank: it orders by
/// score, as 32-bit numbers, then by id. So that it keeps our order, a score that is not below the one before it is
/// written as the next number below that.
struct Run {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Run {
    fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        Ok(Self { path: path.to_path_buf(), out: BufWriter::new(file) })
    }

    fn write(&mut self, query: &Query, result: &SearchResult) -> Result<(), Error> {
        let text = trec(&query.id, result)?;
        self.out.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }

    fn finish(mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::io("write", &self.path))
    }
}

fn trec(query: &str, result: &SearchResult) -> Result<String, Error> {
    let mut lines = String::new();
    let mut last = f32::INFINITY;
    for hit in &result.hits {
        last = if hit.score < last { hit.score } else { last.next_down() };
        for id in [query, &hit.id] {
            if id.contains(char::is_whitespace) {
                return Err(Error::input(format!(
                    "--trec: the id {id:?} has white space, which a run file cannot hold"
                )));
            }
        }
        lines.push_str(&format!("{query} Q0 {} {} {} embdb\n", hit.id, hit.rank, last));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: &str) -> SearchResult {
        let hit = json!({"rank": 1, "id": id, "score": 0.5, "distance": 0.5, "text": "", "title": null,
            "meta": {}, "chunk": {"index": 0, "start": 0, "end": 0}});
        let value = json!({"query_id": null, "generation": 1, "took_us": 1, "hits": [hit]});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn run_lines_have_six_columns() {
        assert_eq!(trec("q1", &result("d7")).unwrap(), "q1 Q0 d7 1 0.5 embdb\n");
        assert_eq!(trec("q1", &result("d 7")).unwrap_err().exit_code(), 1);
    }

    #[cfg(feature = "trainer")]
    #[test]
    fn equal_scores_keep_our_order_in_a_run() {
        let scores = [0.75, 0.5, 0.5, 0.5, 0.0, -0.0, 0.25];
        let mut all = result("a");
        let first = all.hits[0].clone();
        all.hits = ["b", "a", "c", "B", "z", "y", "x"]
            .iter()
            .zip(scores)
            .map(|(id, score)| embdb::Hit { id: (*id).into(), score, ..first.clone() })
            .collect();
        let text = trec("q", &all).unwrap();
        assert!(text.starts_with("q Q0 b 1 0.75 embdb\nq Q0 a 1 0.5 embdb\n"), "{text}");
        let run = embdb::trainer::trec::read_run(text.as_bytes(), "run").unwrap();
        assert_eq!(run["q"], ["b", "a", "c", "B", "z", "y", "x"]);
    }
}

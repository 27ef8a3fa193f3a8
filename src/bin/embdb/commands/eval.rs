//! `eval`: quality of the ranking, by judged queries.

#[cfg(feature = "trainer")]
use std::fs::File;
#[cfg(feature = "trainer")]
use std::io::{BufWriter, Write};
#[cfg(feature = "trainer")]
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "trainer")]
use embdb::Error;
#[cfg(feature = "trainer")]
use embdb::db::eval::{EvalOptions, EvalReport, Qrels, eval_run};
#[cfg(feature = "trainer")]
use embdb::trainer::trec;
#[cfg(feature = "trainer")]
use serde_json::{Map, Value};

#[cfg(feature = "trainer")]
use super::{lines, qrels, queries};
use crate::args;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Measure the ranking with judged queries
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "trainer"), allow(dead_code))]
pub struct Eval {
    /// Queries: JSON lines with `_id` or `id`, and `text`
    #[arg(long, value_name = "FILE.jsonl", required_unless_present = "run")]
    queries: Option<PathBuf>,
    /// Judgements: BEIR (three columns with tabs and a header) or TREC (four columns)
    #[arg(long, value_name = "FILE.tsv")]
    qrels: PathBuf,
    /// Cut-off of the measures
    #[arg(short, default_value_t = 10, allow_negative_numbers = true)]
    k: u64,
    /// Rank by the first D dimensions alone
    #[arg(long, value_name = "D")]
    dim: Option<usize>,
    /// What is compared: vector
    #[arg(long, default_value = "vector", value_parser = args::mode)]
    mode: String,
    /// Rank by this generation
    #[arg(long, value_name = "G")]
    generation: Option<u32>,
    /// Measure two generations, and how certain their difference is
    #[arg(long, value_name = "G", num_args = 2, conflicts_with = "generation")]
    compare: Option<Vec<u32>>,
    /// Seed of the resampling of --compare
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Measure this TREC run instead of searching; DATABASE need not exist
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queries", "dim", "generation", "compare"])]
    run: Option<PathBuf>,
    /// Write the measures of each query as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    per_query: Option<PathBuf>,
}

#[cfg(feature = "trainer")]
impl Eval {
    /// Measures and prints.
    pub fn run(self, context: &mut Context) -> Outcome {
        let k = args::hits("-k", self.k)?;
        let qrels = qrels::read(&self.qrels)?;
        if let Some(path) = &self.run {
            let run = trec::read_run(lines::open(path)?, &path.to_string_lossy())?;
            let report = eval_run(&run, &qrels, k)?;
            return self.tell(context, &report);
        }
        let queries = self.judged_queries(context, &qrels)?;
        let options = EvalOptions { k, dim: self.dim, generation: self.generation };
        let db = context.read()?;
        let work = context.work();
        if let Some(&[before, after]) = self.compare.as_deref() {
            let compared =
                db.eval_compare(&queries, &qrels, [before, after], &options, self.seed, &work.task)?;
            drop(work);
            self.write_rows(compared.rows())?;
            for report in &compared.reports {
                context.notes(&report.notes);
            }
            context.out.summary(&compared)?;
            return Ok(0);
        }
        let report = db.eval(&queries, &qrels, &options, &work.task)?;
        drop(work);
        self.tell(context, &report)
    }

    fn tell(&self, context: &mut Context, report: &EvalReport) -> Outcome {
        self.write_rows(report.rows())?;
        context.notes(&report.notes);
        context.out.summary(report)?;
        Ok(0)
    }

    /// Ids and texts of the queries that have judgements.
    fn judged_queries(&self, context: &Context, qrels: &Qrels) -> Result<Vec<(String, String)>, Failure> {
        let path = self.queries.as_deref().unwrap_or(Path::new(""));
        let mut queries = queries::read(path)?;
        queries.retain(|query| qrels.contains_key(&query.id));
        if queries.is_empty() {
            let (queries, qrels) = (path.display(), self.qrels.display());
            return Err(Failure::input(format!("no query of {queries} has a judgement in {qrels}")));
        }
        if queries.len() < qrels.len() {
            let missing = qrels.len() - queries.len();
            context.note(&format!("note: {missing} judged queries are not in {}", path.display()));
        }
        Ok(queries.into_iter().map(|query| (query.id, query.text)).collect())
    }

    fn write_rows(&self, rows: Vec<Map<String, Value>>) -> Result<(), Error> {
        let Some(path) = &self.per_query else { return Ok(()) };
        let mut out = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
        let write = || {
            for row in rows {
                writeln!(out, "{}", Value::Object(row))?;
            }
            out.flush()
        };
        write().map_err(Error::io("write", path))
    }
}

#[cfg(not(feature = "trainer"))]
impl Eval {
    /// Without the trainer's measures there is nothing to run.
    pub fn run(self, _context: &mut Context) -> Outcome {
        Err(Failure::input("this program was built without the feature `trainer`"))
    }
}

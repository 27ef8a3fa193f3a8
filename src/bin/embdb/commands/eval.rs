//! `eval`: quality of the ranking, by judged queries.

use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "trainer")]
use embdb::db::eval::EvalOptions;

#[cfg(feature = "trainer")]
use super::{qrels, queries};
use crate::args;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Measure the ranking with judged queries
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "trainer"), allow(dead_code))]
pub struct Eval {
    /// Queries: JSON lines with `_id` or `id`, and `text`
    #[arg(long, value_name = "FILE.jsonl")]
    queries: PathBuf,
    /// Judgements: BEIR (three columns with tabs and a header) or TREC (four columns)
    #[arg(long, value_name = "FILE.tsv")]
    qrels: PathBuf,
    /// Cut-off of ndcg, mrr and recall
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
}

impl Eval {
    /// Measures and prints.
    #[cfg(feature = "trainer")]
    pub fn run(self, context: &mut Context) -> Outcome {
        let k = args::hits("-k", self.k)?;
        let qrels = qrels::read(&self.qrels)?;
        let mut queries = queries::read(&self.queries)?;
        queries.retain(|query| qrels.contains_key(&query.id));
        if queries.is_empty() {
            let (queries, qrels) = (self.queries.display(), self.qrels.display());
            return Err(Failure::input(format!("no query of {queries} has a judgement in {qrels}")));
        }
        if queries.len() < qrels.len() {
            let missing = qrels.len() - queries.len();
            context.note(&format!("note: {missing} judged queries are not in {}", self.queries.display()));
        }
        let queries: Vec<(String, String)> =
            queries.into_iter().map(|query| (query.id, query.text)).collect();
        let options = EvalOptions { k, dim: self.dim, generation: self.generation };
        let db = context.read()?;
        let work = context.work();
        let report = db.eval(&queries, &qrels, &options, &work.task)?;
        drop(work);
        context.notes(&report.notes);
        context.out.summary(&report)?;
        Ok(0)
    }

    /// Without the trainer's measures there is nothing to run.
    #[cfg(not(feature = "trainer"))]
    pub fn run(self, _context: &mut Context) -> Outcome {
        Err(Failure::input("this program was built without the feature `trainer`"))
    }
}

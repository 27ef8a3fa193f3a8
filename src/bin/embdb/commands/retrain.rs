//! `retrain`: learn from the log or from a file, and publish what is better.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
#[cfg(feature = "trainer")]
use embdb::db::retrain::{Method, RetrainOptions};

#[cfg(feature = "trainer")]
use super::lines;
use crate::args::{self, positive};
use crate::context::Context;
#[cfg(not(feature = "trainer"))]
use crate::failure::Failure;
use crate::failure::Outcome;

/// Exit code of a retrain that changed nothing.
#[cfg(feature = "trainer")]
const NOT_PUBLISHED: u8 = 7;

/// Learn from the log, validate, publish if better
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "trainer"), allow(dead_code))]
pub struct Retrain {
    /// Learn from this instead of the log: JSON lines {query, positive}, {query, positive, negative}, {sentence1, sentence2,
    /// score} or {text, label}; a BEIR folder; or its judgements (.tsv)
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Queries of the judgements in --data
    #[arg(long, value_name = "FILE", requires = "data")]
    queries: Option<PathBuf>,
    /// Loss, such as mnrl, mnrl-symmetric, gist, triplet, cosent, cosine, contrastive, batch-hard or margin-mse
    /// [default: mnrl; for scored pairs cosent]
    #[cfg(feature = "trainer")]
    #[arg(long)]
    loss: Option<embdb::trainer::LossKind>,
    /// What is trained: adapter, full, or best: the adapter, then upper layers of the encoder if it pays
    #[arg(long, default_value = "best", value_parser = method)]
    method: Trained,
    /// Topmost layers of the encoder that are trained [default: all with full, else a third]
    #[arg(long, value_name = "N", value_parser = positive)]
    layers: Option<usize>,
    /// Dimensions that are trained for, e.g. 384,128
    #[arg(long, value_name = "DIMS", value_delimiter = ',')]
    dims: Option<Vec<usize>>,
    /// Times that every pair is seen; this, --batch-size and --lr concern the adapter unless the method is full
    #[arg(long, value_name = "N", value_parser = positive)]
    epochs: Option<usize>,
    /// Pairs a step
    #[arg(long, value_name = "N", value_parser = positive)]
    batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE", value_parser = rate)]
    lr: Option<f64>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Stop training after this time, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    time_budget: Option<Duration>,
    /// Only tell what would be done, and its cost
    #[arg(long)]
    plan: bool,
    /// Publish even if it is not better
    #[arg(long)]
    force: bool,
}

/// What `--method` trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trained {
    Best,
    Adapter,
    Full,
}

fn method(text: &str) -> Result<Trained, String> {
    match text {
        "best" => Ok(Trained::Best),
        "adapter" => Ok(Trained::Adapter),
        "full" => Ok(Trained::Full),
        "lora" => args::later(text).map(|_| Trained::Full),
        _ => Err("expected best, adapter or full".into()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("expected a number above 0".into()),
    }
}

impl Retrain {
    /// Trains and prints the report; the code tells whether it was published.
    #[cfg(feature = "trainer")]
    pub fn run(self, context: &mut Context) -> Outcome {
        for path in self.data.iter().chain(&self.queries).filter(|path| !path.is_dir()) {
            // A missing file is wrong input, as everywhere.
            drop(lines::open(path)?);
        }
        let db = context.change()?;
        let work = context.work();
        let plan = self.plan;
        let report = db.retrain(RetrainOptions {
            data: self.data,
            queries: self.queries,
            loss: self.loss,
            method: match self.method {
                Trained::Best => Method::Best,
                Trained::Adapter => Method::Adapter,
                Trained::Full => Method::Full,
            },
            dims: self.dims,
            layers: self.layers,
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            seed: self.seed,
            time_budget: self.time_budget,
            plan,
            force: self.force,
            task: work.task.clone(),
        })?;
        drop(work);
        context.notes(&report.notes);
        context.out.summary(&report)?;
        Ok(if plan || report.published { 0 } else { NOT_PUBLISHED })
    }

    /// Without the trainer there is nothing to run.
    #[cfg(not(feature = "trainer"))]
    pub fn run(self, _context: &mut Context) -> Outcome {
        Err(Failure::input("this program was built without the feature `trainer`"))
    }
}

//! `retrain`: learn from the log or from a file, and publish what is better.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
#[cfg(feature = "trainer")]
use embdb::db::retrain::{Method, RetrainOptions, Source};
#[cfg(feature = "trainer")]
use embdb::encoder::{LowRank, TrainDevice};

#[cfg(feature = "trainer")]
use super::lines;
use crate::args::{self, positive};
use crate::context::Context;
#[cfg(not(feature = "trainer"))]
use crate::failure::Failure;
use crate::failure::Outcome;
#[cfg(feature = "trainer")]
use embdb::Error;

/// Exit code of a retrain that changed nothing.
#[cfg(feature = "trainer")]
const NOT_PUBLISHED: u8 = 7;

/// What a run that goes on has from its beginning.
const BEGUN_WITH: &[&str] = &[
    "data",
    "from",
    "half_life",
    "queries",
    #[cfg(feature = "trainer")]
    "loss",
    "method",
    "layers",
    "dims",
    "rank",
    "alpha",
    #[cfg(feature = "trainer")]
    "targets",
    "hard_negatives",
    "accumulate",
    "epochs",
    "batch_size",
    "lr",
    "layer_rate",
    "seed",
    "time_budget",
    "plan",
    "force",
];

/// Learn from the log, validate, publish if better
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "trainer"), allow(dead_code))]
pub struct Retrain {
    /// Learn from this instead of the log: JSON lines {query, positive}, {query, positive, negative}, {sentence1, sentence2,
    /// score} or {text, label}; a BEIR folder; or its judgements (.tsv)
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Learn from this: log (searches and clicks), or structure (titles, headings, sentences and words of the documents)
    #[arg(long, value_name = "SOURCE", default_value = "log", value_parser = source, conflicts_with = "data")]
    from: From,
    /// A search that is so much older than the newest counts half, e.g. 30d
    #[arg(long, value_name = "TIME", value_parser = args::duration, conflicts_with = "data")]
    half_life: Option<Duration>,
    /// Queries of the judgements in --data
    #[arg(long, value_name = "FILE", requires = "data")]
    queries: Option<PathBuf>,
    /// Loss, such as mnrl, mnrl-symmetric, gist, triplet, cosent, cosine, contrastive, batch-hard or margin-mse
    /// [default: mnrl; for scored pairs cosine]
    #[cfg(feature = "trainer")]
    #[arg(long)]
    loss: Option<embdb::trainer::LossKind>,
    /// What is trained: adapter, query-adapter (of queries alone: nothing stored changes), lora, full, or best: the adapter,
    /// then upper layers of the encoder if it pays
    #[arg(long, default_value = "best", value_parser = method)]
    method: Trained,
    /// Topmost layers of the encoder that are trained [default: all with full, else a third]
    #[arg(long, value_name = "N", value_parser = positive)]
    layers: Option<usize>,
    /// Dimensions that are trained for, e.g. 384,128
    #[arg(long, value_name = "DIMS", value_delimiter = ',')]
    dims: Option<Vec<usize>>,
    /// Rank of the matrices that learn, with --method lora
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 8)]
    rank: usize,
    /// Factor on what they learn, times the rank
    #[arg(long, value_name = "A", value_parser = factor, default_value_t = 16.0)]
    alpha: f32,
    /// Which matrices learn, of query, key, value, attention.output, intermediate, output
    #[cfg(feature = "trainer")]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["query", "value"])]
    targets: Vec<embdb::encoder::Target>,
    /// Negatives of each pair from the index: documents that stand high for its query and answer it not
    #[arg(long, value_name = "N", default_value_t = 0)]
    hard_negatives: usize,
    /// Batches that make one step of the encoder
    #[arg(long, value_name = "N", value_parser = positive)]
    accumulate: Option<usize>,
    /// Times that every pair is seen; this, --batch-size and --lr concern the adapter unless the method is lora or full
    #[arg(long, value_name = "N", value_parser = positive)]
    epochs: Option<usize>,
    /// Pairs a step
    #[arg(long, value_name = "N", value_parser = positive)]
    batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE", value_parser = rate)]
    lr: Option<f64>,
    /// Learning rate of a layer of the encoder by that of the layer above, such as 0.9 [default: 1]
    #[arg(long, value_name = "FACTOR", value_parser = args::share)]
    layer_rate: Option<f32>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Stop training after this time, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    time_budget: Option<Duration>,
    /// How often training of the encoder is saved, so that `--resume` goes on with it after a stop [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    checkpoint_every: Option<Duration>,
    /// Where the encoder is trained: cpu, cuda, cuda:N (built with the feature `cuda`), or tensors: the cpu in the way of
    /// cuda, to compare
    #[cfg(feature = "trainer")]
    #[arg(long, value_name = "DEVICE", default_value_t = TrainDevice::Processor)]
    device: TrainDevice,
    /// Only tell what would be done, and its cost
    #[arg(long)]
    plan: bool,
    /// Go on with the run that was stopped, with its options and its data
    #[arg(long, conflicts_with_all = BEGUN_WITH)]
    resume: bool,
    /// Publish even if it is not better
    #[arg(long)]
    force: bool,
    /// Write a report of the run as one page of HTML, whether or not it publishes
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// What `--from` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Log,
    Structure,
}

fn source(text: &str) -> Result<From, String> {
    match text {
        "log" => Ok(From::Log),
        "structure" => Ok(From::Structure),
        _ => Err("expected log or structure".into()),
    }
}

/// What `--method` trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trained {
    Best,
    Adapter,
    QueryAdapter,
    Lora,
    Full,
}

fn method(text: &str) -> Result<Trained, String> {
    match text {
        "best" => Ok(Trained::Best),
        "adapter" => Ok(Trained::Adapter),
        "query-adapter" => Ok(Trained::QueryAdapter),
        "full" => Ok(Trained::Full),
        "lora" => Ok(Trained::Lora),
        _ => Err("expected best, adapter, query-adapter, lora or full".into()),
    }
}

fn factor(text: &str) -> Result<f32, String> {
    rate(text).map(|factor| factor as f32)
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
        let options = RetrainOptions {
            data: self.data,
            source: match self.from {
                From::Log => Source::Log,
                From::Structure => Source::Structure,
            },
            half_life: self.half_life,
            queries: self.queries,
            loss: self.loss,
            method: match self.method {
                Trained::Best => Method::Best,
                Trained::Adapter => Method::Adapter,
                Trained::QueryAdapter => Method::QueryAdapter,
                Trained::Lora => Method::Lora,
                Trained::Full => Method::Full,
            },
            low_rank: LowRank { rank: self.rank, alpha: self.alpha, targets: self.targets, seed: self.seed },
            hard_negatives: self.hard_negatives,
            accumulate: self.accumulate,
            dims: self.dims,
            layers: self.layers,
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            layer_rate: self.layer_rate,
            seed: self.seed,
            time_budget: self.time_budget,
            device: self.device,
            plan,
            force: self.force,
            resume: self.resume,
            checkpoint_every: self.checkpoint_every,
            report: self.report,
            task: work.task.clone(),
        };
        let report = db.retrain(options);
        drop(work);
        if let Err(Error::Cancelled) = report
            && db.retrain_was_stopped()?
        {
            context.note("stopped; `retrain --resume` goes on from here");
        }
        let report = report?;
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

//! What `retrain` is asked to do, and what it says it did.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::page::Details;
use super::plan::Plan;
use crate::encoder::{LowRank, TrainDevice};
use crate::options::Task;
use crate::trainer::{GateReport, LossKind, TrainReport};
#[cfg(doc)]
use crate::trainer::{data, report, structure};

/// How the encoder learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The adapter; if the gate passes it and there is enough to learn from, also the encoder's upper layers.
    /// The better of both is published.
    #[default]
    Best,
    /// A linear map on queries and documents; stored vectors are mapped, nothing is encoded again.
    Adapter,
    /// A linear map on queries alone: the new generation has the vectors and graphs of the old one.
    #[serde(rename = "query-adapter")]
    QueryAdapter,
    /// Matrices of the encoder's layers at low rank ([`LowRank`]), and an adapter to follow; everything is encoded again.
    Lora,
    /// The weights of the encoder, and an adapter to follow it; everything is encoded again.
    Full,
}

impl Method {
    /// Whether all that is trained is a linear map.
    pub fn is_linear(self) -> bool {
        matches!(self, Self::Adapter | Self::QueryAdapter)
    }
}

/// What is learnt from, unless a file is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The log of searches and clicks.
    #[default]
    Log,
    /// The documents alone: pairs of their titles, headings, sentences and words with the documents
    /// ([`structure`]).
    Structure,
}

/// What `retrain` does.
#[derive(Debug, Clone, Default)]
pub struct RetrainOptions {
    /// What to learn from instead of the log: JSON lines of one shape, a BEIR folder, or judgements (see
    /// [`data`]).
    pub data: Option<PathBuf>,
    /// What to learn from without `data`.
    pub source: Source,
    /// A search older than the newest of the log by this counts half, in training and where it judges; without it, age
    /// does not matter.
    pub half_life: Option<Duration>,
    /// How to learn.
    pub method: Method,
    /// What is made small; by default what suits the data's shape.
    pub loss: Option<LossKind>,
    /// Queries of the judgements in `data`, where that is a file of judgements (`.tsv`).
    pub queries: Option<PathBuf>,
    /// Matryoshka ladder of the new generation; by default that of the active one.
    pub dims: Option<Vec<usize>>,
    /// How many of the encoder's topmost layers are trained. By default all weights with [`Method::Full`], a third
    /// of the layers with [`Method::Best`].
    pub layers: Option<usize>,
    /// What learns with [`Method::Lora`], and at which rank.
    pub low_rank: LowRank,
    /// Documents that stand high for a query and answer it not, of each pair, taught as negatives.
    pub hard_negatives: usize,
    /// Batches whose mean gradient makes one step of the encoder.
    pub accumulate: Option<usize>,
    /// Passes over the data; by default 15 for the adapter, 1 for the encoder. This, the size of batches and the
    /// rate concern the adapter unless the method is [`Method::Full`] or [`Method::Lora`].
    pub epochs: Option<usize>,
    /// Pairs in a batch; by default 512 for the adapter, 64 for upper layers, 32 for the whole encoder.
    pub batch_size: Option<usize>,
    /// Learning rate; by default 2e-3 for the adapter, 2e-4 for upper layers, 5e-4 at low rank,
    /// 2e-5 for the whole encoder.
    pub lr: Option<f64>,
    /// Learning rate of a layer of the encoder by that of the layer above, at most 1; by default 1.
    pub layer_rate: Option<f32>,
    /// Seed of everything random.
    pub seed: u64,
    /// Stop training after this time.
    pub time_budget: Option<Duration>,
    /// Where the encoder is trained.
    pub device: TrainDevice,
    /// Say what would be done, and do nothing.
    pub plan: bool,
    /// Publish whatever the gate says.
    pub force: bool,
    /// Go on with the run that was stopped while it trained the encoder, with its options and its data: of these here only
    /// `checkpoint_every`, `device`, `report` and `task` count.
    pub resume: bool,
    /// How much time passes from one saved state of the encoder's training to the next; by default half a minute.
    pub checkpoint_every: Option<Duration>,
    /// Where to write a report of the run, as one page of HTML ([`report`]), whether or not it publishes. A file
    /// that is there is replaced once the page is whole.
    pub report: Option<PathBuf>,
    /// Progress and cancellation.
    pub task: Task,
}

/// What `retrain` did; serialises to the object of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrainReport {
    /// Whether a new generation answers now.
    pub published: bool,
    /// The generation that answers.
    pub generation: u32,
    /// The one that answered before.
    pub previous: u32,
    /// Its encoder.
    pub model_id: String,
    /// Training.
    pub train: TrainReport,
    /// The verdict.
    pub gate: GateReport,
    /// Building the new generation.
    pub reindex: ReindexReport,
    /// What a run would gain and cost, if that is all that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// For the user.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What the report shows beyond that.
    #[serde(skip)]
    pub details: Details,
}

/// What building the new generation took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ReindexReport {
    /// Documents.
    pub documents: u64,
    /// Wall time.
    pub seconds: f64,
}

//! Learning from what people searched for and clicked.
//!
//! Knows texts, vectors and numbers, but no databases: the caller resolves ids, runs
//! the encoder and stores results. A `retrain` goes through these modules in order:
//!
//! | file | question it answers |
//! |---|---|
//! | `data` | what is in this file? |
//! | `crowd` | which searches count, and how much? |
//! | `bias` | how probably does anybody look at a rank? |
//! | `choice` | what did searchers want who clicked, or did not? |
//! | `clicks` | which pairs does the log make, and how much does each weigh? |
//! | `structure` | which pairs do the documents make by themselves? |
//! | `synth` | which queries does a language model make up, and which of them are any good? |
//! | `split`, `folds` | which queries are trained on, which judge? |
//! | `negatives` | which documents stand high for a query and answer it not? |
//! | `examples` | what does a step train on? |
//! | `adapter` | which linear map on frozen embeddings ranks better? |
//! | `full` | which weights of the encoder, or of its upper layers, do? |
//! | `rank`, `metrics`, `trec`, `judge` | how good is a candidate? |
//! | `gate`, `guard`, `significance` | is it certainly better, and nothing worse, so that it may be published? |
//! | `report` | how does all of that look on one page? |
//!
//! Shared by the methods: `model` (what learns), `losses`, `optimiser`, `fit` (the loop), `checkpoint` (its state as bytes),
//! `rng` and `golden` (a search for maxima).
//!
//! Invariants: the part that judges has no share in training; one seed, one result; nothing is
//! published without a lower bound above zero.

pub mod adapter;
pub mod bias;
mod checkpoint;
pub mod choice;
pub mod clicks;
pub mod crowd;
pub mod data;
pub mod distil;
pub mod examples;
pub mod fit;
pub mod folds;
pub mod full;
pub mod gate;
mod golden;
pub mod guard;
pub mod judge;
pub mod losses;
pub mod metrics;
mod model;
pub mod negatives;
pub mod optimiser;
pub mod rank;
pub mod report;
mod rng;
pub mod significance;
pub mod split;
pub mod structure;
pub mod synth;
pub mod trec;

pub use adapter::{Adapter, AdapterOptions, SideRows, train_adapter, train_adapter_further};
pub use bias::PositionBias;
pub use clicks::{
    Click, ClickOptions, ClickReport, FromLog, Judged, LoggedQuery, judgements, pairs_from_log,
};
pub use data::{Data, DataReport, Pair, Record, Shape, Target};
pub use distil::{DistilOptions, Distilled, distil};
pub use examples::{Example, TrainingSet};
pub use fit::{Hooks, OnSave, OnStep, StepRecord, TrainReport};
pub use folds::folds;
pub use full::{FullOptions, Harmless, Trained, train_full, train_full_from};
pub use gate::{GateOptions, GateReport, HeldOut, KindReport, Paired, decide};
pub use guard::{Guard, harmless};
pub use losses::{LossKind, LossOptions};
pub use metrics::{Scores, ndcg};
pub use rank::rank_exact;
pub use significance::{Compared, compare};
pub use split::{Keyed, Split, SplitOptions, TooLittle, query_key, split_shape, target_key};
pub use structure::{
    StructureKind, StructureOptions, StructurePair, StructureReport, StructureSource, structure_pairs,
};

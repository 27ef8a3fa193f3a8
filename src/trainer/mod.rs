//! Learning from what people searched for and clicked.
//!
//! Knows texts, vectors and numbers, but neither files nor databases: the caller resolves ids, runs
//! the encoder and stores results. A `retrain` goes through these modules in order:
//!
//! | file | question it answers |
//! |---|---|
//! | `data` | which pairs are in this file? |
//! | `clicks` | which pairs does the log make, and how much does each weigh? |
//! | `structure` | which pairs do the documents make by themselves? |
//! | `synth` | which queries does a language model make up, and which of them are any good? |
//! | `split` | which queries are trained on, which judge? |
//! | `adapter` | which linear map on frozen embeddings ranks better? |
//! | `full` | which weights of the encoder, or of its upper layers, do? |
//! | `rank`, `metrics` | how good is a candidate? |
//! | `gate` | is it certainly better, so that it may be published? |
//!
//! Shared by the methods: `loss`, `optimiser`, `fit` (the loop) and `rng`.
//!
//! Invariants: the part that judges has no share in training; one seed, one result; nothing is
//! published without a lower bound above zero.

pub mod adapter;
pub mod clicks;
pub mod data;
pub mod distil;
pub mod fit;
pub mod full;
pub mod gate;
pub mod loss;
pub mod metrics;
pub mod optimiser;
pub mod rank;
mod rng;
pub mod split;
pub mod structure;
pub mod synth;

pub use adapter::{AdapterOptions, PairRows, train_adapter};
pub use clicks::{Click, ClickReport, Judged, LoggedQuery, judgements, pairs_from_log};
pub use data::{DataReport, Pair, ResolvedPair, Target, TrainingSet, read_pairs};
pub use distil::{DistilOptions, Distilled, distil};
pub use fit::TrainReport;
pub use full::{FullOptions, TextPair, Trained, train_full};
pub use gate::{GateOptions, GateReport, HeldOut, Paired, decide};
pub use metrics::{Scores, ndcg};
pub use rank::rank_exact;
pub use split::{Split, SplitOptions, TooLittle, query_key, split, target_key};
pub use structure::{
    StructureKind, StructureOptions, StructurePair, StructureReport, StructureSource, structure_pairs,
};

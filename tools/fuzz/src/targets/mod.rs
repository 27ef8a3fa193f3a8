//! A function for each kind of input.
//!
//! | file | what comes from outside |
//! |---|---|
//! | `format` | pieces of the database's files |
//! | `text` | filters, logs, training data, answers: what people and programs write as text |
//! | `models` | files of encoders and generators |
//! | `import` | files that `import` reads |
//! | `directory` | a whole database |
//! | `operations` | calls on a database, with an oracle |
//! | `learning` | feedback, and the state of a stopped training |

mod directory;
mod format;
mod import;
mod learning;
mod models;
mod operations;
mod text;

pub use directory::{Base, SMALL};
pub use learning::{LINES, stopped};
pub use models::{FAMILIES, family, weights_header};
pub use text::FILTERS;

/// A kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target, of its fuzzer and of the folder of its corpus.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:literal: $run:path),+ $(,)?) => { &[$(Target { name: $name, run: $run }),+] };
}

/// All of them, by name.
pub const TARGETS: &[Target] = targets![
    "answers": text::answers,
    "attrs": format::attrs,
    "checkpoint": learning::checkpoint,
    "config": models::config,
    "container": format::container,
    "directory": directory::directory,
    "feedback": learning::feedback,
    "filter": text::filter,
    "frames": format::frames,
    "gguf": models::gguf,
    "graph": format::graph,
    "import_csv": import::csv,
    "import_fvecs": import::fvecs,
    "import_jsonl": import::jsonl,
    "import_npy": import::npy,
    "import_parquet": import::parquet,
    "manifest": format::manifest,
    "model": models::model,
    "operations": operations::operations,
    "records": format::records,
    "safetensors": models::safetensors,
    "tokenizer": models::tokenizer,
    "training_data": text::training_data,
    "trec": text::trec,
    "ubi": text::ubi,
];

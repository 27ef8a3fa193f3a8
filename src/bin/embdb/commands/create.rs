//! `create`: a new database, as its flags say.

use std::path::PathBuf;

use clap::Args;
use embdb::Db;
use embdb::options::CreateOptions;
use embdb::types::{Builder, Codec, IndexKind, Metric, Precision};

use crate::args;
use crate::context::Context;
use crate::failure::Outcome;

/// Create a database
#[derive(Debug, Args)]
pub struct Create {
    /// Folder of the encoder, in sentence-transformers layout, or builtin [default: builtin]
    #[arg(long, value_name = "DIR|builtin", conflicts_with = "vectors")]
    model: Option<PathBuf>,
    /// No encoder: plain vectors of D dimensions
    #[arg(long, value_name = "D")]
    vectors: Option<usize>,
    /// Dimensions that searches may be cut to, e.g. 384,256,128,64
    #[arg(long, value_name = "DIMS", value_delimiter = ',')]
    dims: Option<Vec<usize>>,
    /// cosine, dot or l2
    #[arg(long, default_value = "cosine", value_parser = args::metric)]
    metric: Metric,
    /// int8+f32, int8 or f32
    #[arg(long, default_value = "int8+f32", value_parser = args::codec)]
    codec: Codec,
    /// Arithmetic of the encoder: int8, about three times as fast as f32; by default int8 if the model bears it, else f32
    #[arg(long, value_parser = args::precision)]
    precision: Option<Precision>,
    /// What the encoder reads before each query, for a folder that does not say it (E5: "query: ")
    #[arg(long, value_name = "TEXT", conflicts_with = "vectors")]
    query_prompt: Option<String>,
    /// What the encoder reads before each document (E5: "passage: ")
    #[arg(long, value_name = "TEXT", conflicts_with = "vectors")]
    document_prompt: Option<String>,
    /// Kind of graph: fast to build, or dense, for more searches a second at a high recall
    #[arg(long, default_value = "fast", value_parser = args::index)]
    index: IndexKind,
    /// What builds graphs: flat (our own), or hnsw_rs, the reference, which takes longer
    #[arg(long, default_value = "flat", value_parser = args::builder)]
    builder: Builder,
}

impl Create {
    /// Creates it and prints what `info` prints.
    pub fn run(self, context: &mut Context) -> Outcome {
        let options = CreateOptions {
            model: self.model,
            vectors: self.vectors,
            dims: self.dims,
            metric: self.metric,
            codec: self.codec,
            precision: self.precision,
            query_prompt: self.query_prompt,
            document_prompt: self.document_prompt,
            index: self.index,
            builder: self.builder,
        };
        let db = Db::create(&context.path, context.options(options, 0))?;
        if context.out.is_json() {
            context.out.json(&db.info()?)?;
        } else {
            context.note(&format!("created {}", context.path.display()));
        }
        Ok(0)
    }
}

//! `model distil`: a small encoder out of a large one, from plain texts.

use std::path::{Path, PathBuf};

use clap::Args;
use embdb::encoder::{Encoder, Kept, ModelFiles};
use embdb::trainer::{DistilOptions, distil};
use embdb::{Error, Result};
use serde_json::json;

use super::lines;
use crate::args::positive;
use crate::context::{Context, path_text};
use crate::failure::Outcome;

/// What `model distil` is asked for.
#[derive(Debug, Args)]
pub struct Distil {
    /// Folder of the large encoder: a BERT with a WordPiece tokenizer
    teacher: PathBuf,
    /// Folder of the small one, which must not exist or be empty
    out: PathBuf,
    /// Texts to learn from, some ten thousands or more: JSON lines with `text` (and `title`), or JSON strings
    #[arg(long, value_name = "FILE.jsonl")]
    texts: PathBuf,
    /// Layers of the teacher that are kept, counted from 0 [default: the first and the last]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// Units inside each layer that are kept
    #[arg(long, value_name = "N", default_value_t = DistilOptions::default().kept.inner, value_parser = positive)]
    inner: usize,
    /// Tokens that are kept
    #[arg(long, value_name = "N", default_value_t = DistilOptions::default().kept.vocabulary, value_parser = positive)]
    vocabulary: usize,
    /// Tokens of a text that the small encoder reads
    #[arg(long, value_name = "N", default_value_t = DistilOptions::default().kept.tokens, value_parser = positive)]
    tokens: usize,
    /// Lengths of vectors that shall be good, the longest of them its dimension
    #[arg(long, value_name = "DIMS", value_delimiter = ',', default_values_t = DistilOptions::default().ladder)]
    dims: Vec<usize>,
    /// Times that every text is seen
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    epochs: usize,
    /// Seed of the order of texts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Distil {
    /// Distils, writes the folder and prints what was done.
    pub fn run(self, context: &mut Context) -> Outcome {
        check_empty(&self.out)?;
        let texts = lines::texts(&self.texts)?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let teacher = Encoder::with_precision(ModelFiles::find(&self.teacher)?, None)?;
        let last = teacher.layers().saturating_sub(1);
        let mut ladder = self.dims;
        ladder.sort_unstable();
        let options = DistilOptions {
            kept: Kept {
                layers: self.layers.unwrap_or_else(|| if last > 0 { vec![0, last] } else { vec![0] }),
                inner: self.inner,
                vocabulary: self.vocabulary,
                tokens: self.tokens,
            },
            ladder,
            epochs: self.epochs,
            seed: self.seed,
            ..DistilOptions::default()
        };
        let work = context.work();
        let distilled = distil(&teacher, &texts, &options, &work.task)?;
        drop(work);
        distilled.files.write_dir(&self.out)?;
        context.out.summary(&json!({
            "model": path_text(&self.out),
            "bytes": distilled.files.total_bytes(),
            "texts": distilled.report.pairs,
            "steps": distilled.report.steps,
            "seconds": distilled.report.seconds,
            "loss_first": distilled.report.loss_first,
            "loss_last": distilled.report.loss_last,
        }))?;
        Ok(0)
    }
}

fn check_empty(folder: &Path) -> Result<()> {
    let taken = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if taken { Err(Error::input(format!("{} exists and is not empty", folder.display()))) } else { Ok(()) }
}

//! `embed`: vectors of texts, without storing anything.

use std::path::PathBuf;

use clap::Args;
use embdb::types::Precision;

use crate::args;
use crate::context::Context;
#[cfg(not(feature = "encoder"))]
use crate::failure::Failure;
use crate::failure::Outcome;

/// Embed texts without storing them
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "encoder"), allow(dead_code))]
pub struct Embed {
    /// Folder of an encoder, name of a stored one, or builtin; by default the database's own, without a database builtin
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<PathBuf>,
    /// Texts: JSON lines with `text` (and `title`), or JSON strings
    #[arg(long, value_name = "FILE.jsonl")]
    input: Option<PathBuf>,
    /// Write a NumPy array, one row a text
    #[arg(long, value_name = "V.npy")]
    out: Option<PathBuf>,
    /// Arithmetic of the encoder: int8, about three times as fast as f32; by default int8 if the model bears it, else f32
    #[arg(long, value_parser = args::precision)]
    precision: Option<Precision>,
    /// The texts are queries: encode them after the model's prompt before queries, not that before documents
    #[arg(long)]
    query: bool,
    /// Texts, after those of the input
    #[arg(value_name = "TEXT", required_unless_present = "input")]
    texts: Vec<String>,
}

#[cfg(not(feature = "encoder"))]
impl Embed {
    /// Without an encoder there is nothing to run.
    pub fn run(self, _context: &mut Context) -> Outcome {
        Err(Failure::input("this program was built without the feature `encoder`"))
    }
}

#[cfg(feature = "encoder")]
mod with_encoder {
    use std::time::Instant;

    use embdb::encoder::{Encoder, ModelFiles};
    use embdb::storage::{models, real::RealVfs};
    use embdb::types::Precision;
    use serde_json::json;

    use super::super::lines;
    use super::{Context, Embed, Outcome};
    use crate::failure::Failure;
    use crate::input::npy;

    /// Texts that are encoded in one call: bounds memory, and how often progress is shown.
    const GROUP: usize = 1024;

    impl Embed {
        /// Encodes; writes the vectors to the file, or prints them.
        pub fn run(self, context: &mut Context) -> Outcome {
            let mut texts = match &self.input {
                Some(path) => lines::texts(path)?,
                None => Vec::new(),
            };
            texts.extend(self.texts.iter().cloned());
            let encoder = self.encoder(context)?;
            let (start, work) = (Instant::now(), context.work());
            let mut vectors = Vec::with_capacity(texts.len() * encoder.dim());
            for (number, group) in texts.chunks(GROUP).enumerate() {
                work.task.step("embed", (number * GROUP) as u64, texts.len() as u64)?;
                let group: Vec<&str> = group.iter().map(String::as_str).collect();
                vectors.extend(match self.query {
                    true => encoder.encode_queries(&group, &work.task)?,
                    false => encoder.encode(&group, &work.task)?,
                });
            }
            drop(work);
            let seconds = start.elapsed().as_secs_f64();
            let dim = encoder.dim();
            let mut summary = json!({"texts": texts.len(), "dim": dim, "seconds": seconds,
                "model_id": encoder.model_id()});
            if let Some(out) = &self.out {
                npy::write_f32(out, texts.len(), dim, &vectors)?;
                context.out.summary(&summary)?;
            } else if context.out.is_json() {
                if let Some(object) = summary.as_object_mut() {
                    object.insert("vectors".into(), vectors.chunks(dim.max(1)).collect());
                }
                context.out.json(&summary)?;
            } else {
                vectors.chunks(dim.max(1)).try_for_each(|vector| context.out.json(&vector))?;
            }
            Ok(0)
        }

        /// The database's, or what a new database would get.
        #[cfg(feature = "builtin")]
        fn own(&self, context: &mut Context) -> std::result::Result<Encoder, Failure> {
            match context.path.exists() {
                true => Ok(context.read()?.encoder()?),
                false => Ok(Encoder::with_precision(ModelFiles::builtin(), self.precision)?),
            }
        }

        #[cfg(not(feature = "builtin"))]
        fn own(&self, context: &mut Context) -> std::result::Result<Encoder, Failure> {
            Ok(context.read()?.encoder()?)
        }

        fn encoder(&self, context: &mut Context) -> std::result::Result<Encoder, Failure> {
            let Some(model) = &self.model else { return self.own(context) };
            // A name has no separator; a folder of that name in the current directory comes first.
            let named = model.components().count() == 1 && !model.exists() && context.path.exists();
            if named {
                return stored(context, &model.to_string_lossy(), self.precision);
            }
            let files = ModelFiles::find(model)?;
            Ok(Encoder::with_precision(files, self.precision)?)
        }
    }

    /// An encoder of the database, by name or id.
    fn stored(
        context: &mut Context,
        name: &str,
        precision: Option<Precision>,
    ) -> std::result::Result<Encoder, Failure> {
        let db = context.read()?;
        let precision = precision.unwrap_or(db.precision());
        let models = db.models()?;
        let found = models.into_iter().find(|model| model.name == name || model.model_id == name);
        let found = found
            .ok_or_else(|| Failure::input(format!("--model: no folder and no stored model {name:?}")))?;
        let mut files = ModelFiles::default();
        for (name, bytes) in models::read(&RealVfs, &context.path, &found.model_id)? {
            files.insert(name, bytes);
        }
        Ok(Encoder::with_precision(files, Some(precision))?)
    }
}

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
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use embdb::encoder::{Encoder, ModelFiles};
    use embdb::options::Task;
    use embdb::storage::{models, real::RealVfs};
    use embdb::types::Precision;
    use embdb::{Error, Result};
    use serde_json::json;

    use super::super::lines;
    use super::{Context, Embed, Outcome};
    use crate::failure::Failure;
    use crate::input::npy::F32Writer;
    use crate::output::Output;
    use crate::pipeline::{self, Feed};

    /// Texts that are encoded in one call, at most.
    const GROUP: usize = 1024;
    /// Bytes of texts that are encoded in one call, at most, if they are several.
    const GROUP_BYTES: usize = 512 << 10;
    /// Groups that are encoded at once: while the last texts of one are encoded, the other keeps the cores busy.
    const AT_ONCE: usize = 2;
    /// Groups that may wait to be written, those that are encoded included.
    const AHEAD: usize = 4;

    impl Embed {
        /// Reads, encodes and writes in a pipeline: vectors go to the file, or are printed, as they come.
        pub fn run(self, context: &mut Context) -> Outcome {
            let encoder = self.encoder(context)?;
            let (start, work) = (Instant::now(), context.work());
            let (dim, model_id) = (encoder.dim(), encoder.model_id().to_owned());
            let encode = encode(encoder, self.query, work.task.quiet());
            let (input, texts) = (self.input, self.texts);
            let groups = pipeline::start(AHEAD, AT_ONCE, encode, move |feed| read(input, texts, &feed));
            let mut sink = Sink::new(self.out.as_deref(), &context.out, dim)?;
            let mut count = 0;
            while let Some(vectors) = groups.next(&work.task)? {
                count += (vectors.len() / dim.max(1)) as u64;
                sink.write(&mut context.out, &vectors, dim, &model_id)?;
                work.task.step("embed", count, 0)?;
            }
            drop(work);
            let seconds = start.elapsed().as_secs_f64();
            match sink {
                Sink::File(file) => {
                    file.finish()?;
                    let summary =
                        json!({"texts": count, "dim": dim, "seconds": seconds, "model_id": model_id});
                    context.out.summary(&summary)?;
                }
                Sink::Object { .. } => {
                    context.out.bytes(format!("],\"texts\":{count},\"seconds\":{seconds}}}\n").as_bytes())?;
                }
                Sink::Lines => {}
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

    /// Where vectors go.
    enum Sink {
        /// A NumPy array.
        File(F32Writer),
        /// One JSON object, written as the vectors come; whether it was begun.
        Object { begun: bool },
        /// A line each.
        Lines,
    }

    impl Sink {
        fn new(file: Option<&Path>, out: &Output, dim: usize) -> Result<Self> {
            Ok(match file {
                Some(file) => Self::File(F32Writer::create(file, dim)?),
                None if out.is_json() => Self::Object { begun: false },
                None => Self::Lines,
            })
        }

        fn write(
            &mut self,
            out: &mut Output,
            vectors: &[f32],
            dim: usize,
            model_id: &str,
        ) -> std::result::Result<(), Failure> {
            match self {
                Self::File(file) => return Ok(file.write(vectors)?),
                Self::Lines => vectors.chunks(dim.max(1)).try_for_each(|vector| out.json(&vector))?,
                Self::Object { begun } => {
                    for vector in vectors.chunks(dim.max(1)) {
                        let before = match std::mem::replace(begun, true) {
                            true => ",".to_owned(),
                            false => {
                                format!("{{\"dim\":{dim},\"model_id\":{},\"vectors\":[", json!(model_id))
                            }
                        };
                        out.bytes(format!("{before}{}", numbers(vector)?).as_bytes())?;
                    }
                }
            }
            out.flush()
        }
    }

    /// A vector as JSON, with the digits that make its values and no more.
    fn numbers(vector: &[f32]) -> std::result::Result<String, Failure> {
        serde_json::to_string(vector).map_err(|error| Failure::output(error.into()))
    }

    /// What encodes a group. Groups that are encoded at the same time share the cores.
    fn encode(
        encoder: Encoder,
        query: bool,
        task: Task,
    ) -> impl Fn(Vec<String>) -> Result<Vec<f32>> + Clone + Send + 'static {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = Arc::new(AtomicUsize::new(0));
        move |group| {
            let encoder = encoder.with_threads(cores.div_ceil(busy.fetch_add(1, Ordering::Relaxed) + 1));
            let group: Vec<&str> = group.iter().map(String::as_str).collect();
            let vectors = match query {
                true => encoder.encode_queries(&group, &task),
                false => encoder.encode(&group, &task),
            };
            busy.fetch_sub(1, Ordering::Relaxed);
            vectors
        }
    }

    /// Feeds the texts of the input and of the command line, in groups.
    fn read(input: Option<PathBuf>, texts: Vec<String>, feed: &Feed<Vec<String>, Vec<f32>>) {
        let mut group = Group { texts: Vec::new(), bytes: 0, feed };
        let mut any = !texts.is_empty();
        let path = input.as_deref();
        let from_file = path.map_or(Ok(()), |path| {
            lines::each(path, |line| {
                any = true;
                group.push(lines::text(line)?)
            })
        });
        let rest = from_file.and_then(|()| match path {
            Some(path) if !any => Err(Error::input(format!("{} holds no texts", path.display()))),
            _ => texts.into_iter().try_for_each(|text| group.push(text).map_err(Error::Input)),
        });
        // Texts before a line that cannot be read are encoded, as those before it.
        group.send();
        if let Err(error) = rest {
            feed.done(Err(error));
        }
    }

    /// Texts that wait to be encoded together.
    struct Group<'a> {
        texts: Vec<String>,
        bytes: usize,
        feed: &'a Feed<Vec<String>, Vec<f32>>,
    }

    impl Group<'_> {
        /// Adds a text; fails if nobody listens any more, which ends the reading.
        fn push(&mut self, text: String) -> std::result::Result<(), String> {
            self.bytes += text.len();
            self.texts.push(text);
            let full = self.texts.len() >= GROUP || self.bytes >= GROUP_BYTES;
            if full && !self.send() { Err("the rest is not wanted".into()) } else { Ok(()) }
        }

        fn send(&mut self) -> bool {
            self.bytes = 0;
            let texts = std::mem::take(&mut self.texts);
            texts.is_empty() || self.feed.send(texts)
        }
    }
}

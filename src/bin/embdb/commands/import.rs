//! `import`: documents in, through a pipeline of three threads: read, encode, commit.
//!
//! Invariants: input order is kept; a batch is N consecutive inputs and one commit; of a batch with
//! a faulty input nothing is written, and nothing after it; a batch is acknowledged after it is
//! durable. Memory is bounded: at most [`AHEAD`] batches wait between two threads.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use crossbeam::channel::{Receiver, Sender, bounded};
use embdb::db::write::Batch;
use embdb::options::{Task, limits};
use embdb::types::Document;
use embdb::{Db, Error, Result};
use serde_json::json;

use crate::args;
use crate::context::Context;
use crate::failure::Outcome;
use crate::input::{self, Format, Input, InputOptions, Located};
use crate::progress::Work;

/// Inputs of a batch by default.
const BATCH_TEXTS: usize = 256;
/// The same for plain vectors, which need no encoding.
const BATCH_VECTORS: usize = 1024;
/// Batches that may wait between two stages.
const AHEAD: usize = 2;

/// Import files and folders
#[derive(Debug, Args)]
pub struct Import {
    /// Files and folders; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// auto, jsonl, csv, beir, text, npy or fvecs
    #[arg(long, default_value = "auto", value_parser = format)]
    format: FormatFlag,
    /// Field of the id, instead of `id` or `_id`
    #[arg(long, value_name = "F")]
    id_field: Option<String>,
    /// Field of the text, instead of `text`
    #[arg(long, value_name = "F")]
    text_field: Option<String>,
    /// Field of the vector, instead of `vector`
    #[arg(long, value_name = "F")]
    vector_field: Option<String>,
    /// Inputs of a batch, which is one commit; by default 256, for vectors 1024
    #[arg(long, value_name = "N", value_parser = args::positive)]
    batch: Option<usize>,
    /// After each batch is durable, append a line `batch first_id last_id count`
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    /// Threads to encode with; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = args::positive)]
    threads: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct FormatFlag(Option<Format>);

fn format(text: &str) -> std::result::Result<FormatFlag, String> {
    if text == "parquet" {
        return args::later(text).map(|_| FormatFlag(None));
    }
    let expected = |_| "expected auto, jsonl, csv, beir, text, npy or fvecs".to_string();
    Format::from_name(text).map(FormatFlag).map_err(expected)
}

impl Import {
    /// Imports and prints what was done.
    pub fn run(self, context: &mut Context) -> Outcome {
        let options = InputOptions {
            format: self.format.0,
            id_field: self.id_field,
            text_field: self.text_field,
            vector_field: self.vector_field,
        };
        let start = Instant::now();
        let input = input::open(&self.paths, &options)?;
        let read = input.progress();
        let db = context.write(Default::default(), self.threads.unwrap_or(0))?;
        if db.exists() {
            // Told now, not after the first batch was encoded. A missing database is created by the first batch.
            db.hold_writer()?;
        }
        let acks = self.acks.as_deref().map(Acks::open).transpose()?;
        let work = Work::counting(context.quiet);
        let progress = |done: &Done| work.documents(done.documents, read.read(), read.total());
        let done = pipeline(&db, input, self.batch, acks, &work.task, progress)?;
        drop(work);
        context.out.summary(&json!({
            "documents": done.documents,
            "batches": done.batches,
            "seconds": start.elapsed().as_secs_f64(),
            "skipped": done.repeated + read.skipped(),
        }))?;
        Ok(0)
    }
}

/// What has been committed.
#[derive(Default)]
struct Done {
    documents: u64,
    batches: u64,
    /// Inputs that a later one of their batch replaced.
    repeated: u64,
}

/// Consecutive inputs on their way.
struct Parcel<T> {
    load: T,
    first_id: String,
    last_id: String,
    inputs: usize,
}

fn pipeline(
    db: &Db,
    input: Input,
    batch: Option<usize>,
    acks: Option<Acks>,
    task: &Task,
    progress: impl Fn(&Done),
) -> Result<Done> {
    let (to_prepare, read) = bounded::<Result<Parcel<Vec<Located>>>>(AHEAD);
    let (to_commit, prepared) = bounded::<Result<Parcel<Batch>>>(AHEAD);
    // Each stage owns its ends of the channels: when one stops, its neighbours notice and stop too.
    std::thread::scope(|threads| {
        threads.spawn(move || read_batches(input, batch, to_prepare));
        threads.spawn(move || prepare_batches(db, task, read, to_commit));
        commit_batches(db, acks, task, prepared, progress)
    })
}

/// Groups inputs into batches. Ends with the input, an error, or when nobody listens any more.
fn read_batches(input: Input, batch: Option<usize>, out: Sender<Result<Parcel<Vec<Located>>>>) {
    let mut input = input.peekable();
    let plain = matches!(input.peek(), Some(Ok(first)) if first.document.vector.is_some());
    let size = batch.unwrap_or(if plain { BATCH_VECTORS } else { BATCH_TEXTS });
    loop {
        let parcel = match read_batch(&mut input, size) {
            Ok(Some(parcel)) => Ok(parcel),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = parcel.is_err();
        if out.send(parcel).is_err() || last {
            return;
        }
    }
}

fn read_batch(
    input: &mut impl Iterator<Item = Result<Located>>,
    size: usize,
) -> Result<Option<Parcel<Vec<Located>>>> {
    let mut load: Vec<Located> = Vec::new();
    let mut bytes = 0;
    for located in input.take(size) {
        let located = located?;
        bytes += located.document.id.len()
            + located.document.text.len()
            + located.document.title.as_ref().map_or(0, String::len)
            + located.document.vector.as_ref().map_or(0, |vector| 4 * vector.len());
        if bytes > limits::FRAME_BYTES {
            return Err(Error::Limit {
                what: format!("{}: the batch up to here, in bytes,", located.place),
                limit: limits::FRAME_BYTES as u64,
                actual: bytes as u64,
                raise: "import with a smaller --batch".into(),
            });
        }
        load.push(located);
    }
    let (Some(first), Some(last)) = (load.first(), load.last()) else { return Ok(None) };
    let (first_id, last_id) = (first.document.id.clone(), last.document.id.clone());
    let inputs = load.len();
    Ok(Some(Parcel { load, first_id, last_id, inputs }))
}

fn prepare_batches(
    db: &Db,
    task: &Task,
    input: Receiver<Result<Parcel<Vec<Located>>>>,
    out: Sender<Result<Parcel<Batch>>>,
) {
    for parcel in input {
        let parcel = parcel.and_then(|parcel| {
            task.step("import", 0, 0)?;
            let Parcel { load, first_id, last_id, inputs } = parcel;
            Ok(Parcel { load: prepare(db, task, load)?, first_id, last_id, inputs })
        });
        let last = parcel.is_err();
        if out.send(parcel).is_err() || last {
            return;
        }
    }
}

/// Encodes a batch; an error about one document names its place in the input.
fn prepare(db: &Db, task: &Task, load: Vec<Located>) -> Result<Batch> {
    let (mut documents, mut places): (Vec<Document>, Vec<_>) = (Vec::new(), Vec::new());
    for Located { document, place } in load {
        places.push((document.id.clone(), place));
        documents.push(document);
    }
    db.prepare(documents, task).map_err(|error| {
        let place = |what: &str| {
            let named = places.iter().find(|(id, _)| what.contains(&format!("document {id:?}")));
            named.map(|(_, place)| format!("{place}: {what}")).unwrap_or_else(|| match places.as_slice() {
                [(_, only)] => format!("{only}: {what}"),
                [(_, first), .., (_, last)] => format!("{first} to {last}: {what}"),
                [] => what.to_string(),
            })
        };
        match error {
            Error::Input(what) => Error::Input(place(&what)),
            Error::Limit { what, limit, actual, raise } => {
                Error::Limit { what: place(&what), limit, actual, raise }
            }
            other => other,
        }
    })
}

fn commit_batches(
    db: &Db,
    mut acks: Option<Acks>,
    task: &Task,
    input: Receiver<Result<Parcel<Batch>>>,
    progress: impl Fn(&Done),
) -> Result<Done> {
    let mut done = Done::default();
    for parcel in input {
        let parcel = parcel?;
        task.step("import", 0, 0)?;
        let report = db.commit(parcel.load)?;
        done.batches += 1;
        done.documents += report.documents;
        done.repeated += (parcel.inputs as u64).saturating_sub(report.documents);
        if let Some(acks) = &mut acks {
            acks.write(done.batches, &parcel.first_id, &parcel.last_id, parcel.inputs)?;
        }
        progress(&done);
    }
    Ok(done)
}

/// The file of acknowledgements.
struct Acks {
    path: PathBuf,
    file: File,
}

impl Acks {
    fn open(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// One write for each line: whoever reads the file sees whole lines.
    fn write(&mut self, batch: u64, first: &str, last: &str, count: usize) -> Result<()> {
        let line = format!("{batch} {} {} {count}\n", word(first), word(last));
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush())
            .map_err(Error::io("write", &self.path))
    }
}

/// An id as one word: as it is, or as JSON where white space or quotes would mislead.
fn word(id: &str) -> String {
    if id.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        serde_json::Value::from(id).to_string()
    } else {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_ids_are_plain_where_they_can_be() {
        assert_eq!(word("doc-1/ü"), "doc-1/ü");
        assert_eq!(word("a b\n"), "\"a b\\n\"");
    }

    #[test]
    fn a_batch_with_a_faulty_input_is_not_handed_on() {
        let located = |id: &str| Ok(Located { document: Document::new(id, "t"), place: id.into() });
        let mut input = [located("a"), located("b"), Err(Error::input("bad")), located("c")].into_iter();
        let first = read_batch(&mut input, 1).unwrap().unwrap();
        assert_eq!((first.first_id.as_str(), first.inputs), ("a", 1));
        assert!(read_batch(&mut input, 2).is_err());
    }
}

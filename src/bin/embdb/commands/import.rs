//! `import`: documents in, through a pipeline: one thread reads, two encode, this one commits.
//!
//! Invariants: input order is kept; a batch is N consecutive inputs and one commit; of a batch with
//! a faulty input nothing is written, and nothing after it; a batch is acknowledged after it is
//! durable. Memory is bounded: at most [`AHEAD`] batches are read and not yet committed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use embdb::db::write::Batch;
use embdb::options::{Task, limits};
use embdb::types::Document;
use embdb::{Db, Error, Result};
use serde_json::json;

use crate::args;
use crate::context::Context;
use crate::failure::Outcome;
use crate::input::{self, Format, Input, InputOptions, Located};
use crate::pipeline::{self, Feed, Results};

/// Inputs of a batch by default.
const BATCH_TEXTS: usize = 256;
/// The same for plain vectors, which need no encoding.
const BATCH_VECTORS: usize = 1024;
/// Batches that are encoded at once: while one is cut into chunks, or its last texts are encoded, the other keeps the
/// cores busy.
const AT_ONCE: usize = 2;
/// Batches that may wait to be committed, those that are encoded included.
const AHEAD: usize = 4;

/// Import files and folders
#[derive(Debug, Args)]
pub struct Import {
    /// Files and folders; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// auto (by the ending of each name), jsonl, csv, parquet, beir, text, npy or fvecs
    #[arg(long, default_value = "auto", value_parser = format)]
    format: FormatFlag,
    /// Field or column of the id, instead of `id` or `_id`
    #[arg(long, value_name = "F")]
    id_field: Option<String>,
    /// Field or column of the text, instead of `text`
    #[arg(long, value_name = "F")]
    text_field: Option<String>,
    /// Field or column of the vector, instead of `vector`
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
    let expected = |_| "expected auto, jsonl, csv, parquet, beir, text, npy or fvecs".to_string();
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
        let work = context.counting();
        let progress = |done: &Done| work.documents(done.documents, done.read, read.total());
        let done = pipeline(&db, input, self.batch, acks, &work.task, progress)?;
        drop(work);
        context.out.summary(&json!({
            "documents": done.documents,
            "batches": done.batches,
            "seconds": start.elapsed().as_secs_f64(),
            "skipped": done.repeated + read.skipped(),
            "unchanged": done.unchanged,
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
    /// Documents that were there already.
    unchanged: u64,
    /// Bytes of the input up to here.
    read: u64,
}

/// Consecutive inputs on their way.
struct Parcel<T> {
    load: T,
    extent: Extent,
}

/// Which inputs.
struct Extent {
    first_id: String,
    last_id: String,
    inputs: usize,
    /// Bytes of all inputs up to the last of these.
    read: u64,
}

/// Reads and encodes in threads of their own, commits in this one.
fn pipeline(
    db: &Db,
    input: Input,
    batch: Option<usize>,
    acks: Option<Acks>,
    task: &Task,
    progress: impl Fn(&Done),
) -> Result<Done> {
    let (writer, stop) = (db.clone(), task.clone());
    let prepare = move |parcel| prepare_parcel(&writer, &stop, parcel);
    let (creates, first) = (!db.exists(), prepare.clone());
    let read = move |feed: Feed<_, _>| {
        // The first batch creates the database, as its first document asks: no other may be there before it.
        let mut created = !creates;
        read_batches(input, batch, |parcel| match parcel {
            Ok(parcel) if created => feed.send(parcel),
            parcel => {
                created = true;
                feed.done(parcel.and_then(&first))
            }
        });
    };
    commit_batches(db, acks, task, &pipeline::start(AHEAD, AT_ONCE, prepare, read), progress)
}

/// Groups inputs into batches and hands them on. Ends with the input, an error, or when nobody listens any more.
fn read_batches(
    input: Input,
    batch: Option<usize>,
    mut send: impl FnMut(Result<Parcel<Vec<Located>>>) -> bool,
) {
    let progress = input.progress();
    let mut input = input.peekable();
    let plain = matches!(input.peek(), Some(Ok(first)) if first.document.vector.is_some());
    let size = batch.unwrap_or(if plain { BATCH_VECTORS } else { BATCH_TEXTS });
    loop {
        let parcel = match read_batch(&mut input, size) {
            Ok(Some(mut parcel)) => {
                parcel.extent.read = progress.read();
                Ok(parcel)
            }
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = parcel.is_err();
        if !send(parcel) || last {
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
    let extent = Extent { first_id, last_id, inputs: load.len(), read: 0 };
    Ok(Some(Parcel { load, extent }))
}

fn prepare_parcel(db: &Db, task: &Task, parcel: Parcel<Vec<Located>>) -> Result<Parcel<Batch>> {
    task.step("prepare", 0, 0)?;
    Ok(Parcel { load: prepare(db, task, parcel.load)?, extent: parcel.extent })
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
    input: &Results<Parcel<Batch>>,
    progress: impl Fn(&Done),
) -> Result<Done> {
    let mut done = Done::default();
    while let Some(Parcel { load, extent }) = input.next(task)? {
        let report = db.commit(load)?;
        done.batches += 1;
        done.documents += report.documents;
        done.unchanged += report.unchanged;
        done.repeated += (extent.inputs as u64).saturating_sub(report.documents);
        done.read = extent.read;
        if let Some(acks) = &mut acks {
            acks.write(done.batches, &extent)?;
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
    fn write(&mut self, batch: u64, extent: &Extent) -> Result<()> {
        let Extent { first_id, last_id, inputs, .. } = extent;
        let line = format!("{batch} {} {} {inputs}\n", word(first_id), word(last_id));
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
        assert_eq!((first.extent.first_id.as_str(), first.extent.inputs), ("a", 1));
        assert!(read_batch(&mut input, 2).is_err());
    }
}

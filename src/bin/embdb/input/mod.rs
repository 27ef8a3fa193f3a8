//! Files in, documents out: the readers of `import`.
//!
//! [`open`] looks at every path before anything is read, so that a missing file or an unknown format stops an import
//! before it begins. The documents then stream, in the order of the paths and within each of the file. Errors name
//! the file and the line (or row); after the first error the stream ends. Readers hold one document in memory, and
//! never more than [`LINE_BYTES`] for it, however long a line may be.

mod beir;
mod csv;
mod fields;
mod fvecs;
mod jsonl;
mod lines;
pub mod npy;
mod parquet;
pub mod queries;
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use embdb::options::limits;
use embdb::types::Document;
use embdb::{Error, Result};

use self::fields::Fields;

/// Longest line or CSV record, in bytes: a document at its limit, written with JSON escapes.
const LINE_BYTES: u64 = 4 * limits::DOCUMENT_BYTES as u64;

/// File formats of `import`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object on each line.
    Jsonl,
    /// A header line, then one document on each line; `.tsv` files are separated by tabs.
    Csv,
    /// A folder with a `corpus.jsonl`, or that file.
    Beir,
    /// A text file, or a folder of them.
    Text,
    /// A NumPy array of vectors, one a row.
    Npy,
    /// Vectors, each after its dimension.
    Fvecs,
    /// Columns that are named as the keys of JSON lines.
    Parquet,
}

impl Format {
    /// The format of a `--format` value; `None` for `auto`.
    ///
    /// # Errors
    /// [`Error::Input`] for an unknown name.
    pub fn from_name(name: &str) -> Result<Option<Self>> {
        Ok(Some(match name {
            "auto" => return Ok(None),
            "jsonl" => Self::Jsonl,
            "csv" => Self::Csv,
            "beir" => Self::Beir,
            "text" => Self::Text,
            "npy" => Self::Npy,
            "fvecs" => Self::Fvecs,
            "parquet" => Self::Parquet,
            _ => {
                let all = "auto, jsonl, csv, parquet, beir, text, npy or fvecs";
                return Err(Error::input(format!("--format {name} is unknown; use {all}")));
            }
        }))
    }
}

/// How `import` reads its files.
#[derive(Debug, Clone, Default)]
pub struct InputOptions {
    /// Format of all paths; `None`: told from each path.
    pub format: Option<Format>,
    /// Field of the id, instead of `id` or `_id`.
    pub id_field: Option<String>,
    /// Field of the text, instead of `text`.
    pub text_field: Option<String>,
    /// Field of the vector, instead of `vector`.
    pub vector_field: Option<String>,
}

/// A document and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The document.
    pub document: Document,
    /// `FILE:LINE`, `FILE: row N` or `FILE`, for messages.
    pub place: String,
}

/// How far reading has come; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct ReadProgress {
    read: AtomicU64,
    total: AtomicU64,
    skipped: AtomicU64,
}

impl ReadProgress {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of all files; standard input and pipes count as 0.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What was passed over: files of text folders that are not text or empty, empty documents of BEIR corpora.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn skip(&self, count: u64) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
    }
}

type Documents = Box<dyn Iterator<Item = Result<Located>> + Send>;

/// The documents of all paths.
pub struct Input {
    sources: std::vec::IntoIter<Source>,
    fields: Fields,
    progress: Arc<ReadProgress>,
    current: Option<Documents>,
    /// Rows of all vector files before the current one; ids go on counting from file to file.
    rows: u64,
}

impl Input {
    /// How far reading has come.
    pub fn progress(&self) -> Arc<ReadProgress> {
        Arc::clone(&self.progress)
    }

    fn start(&mut self, source: Source) -> Result<Documents> {
        let progress = Arc::clone(&self.progress);
        let first = self.rows;
        Ok(match source {
            Source::Jsonl(path) => Box::new(jsonl::open(&path, self.fields.clone(), progress)?),
            Source::Beir(path) => {
                let fields = Fields { skip_empty: true, ..self.fields.clone() };
                Box::new(jsonl::open(&path, fields, progress)?)
            }
            Source::Csv(path) => Box::new(csv::open(&path, self.fields.clone(), progress)?),
            Source::Parquet(path) => Box::new(parquet::open(&path, self.fields.clone(), progress)?),
            Source::Text(files) => Box::new(text::open(files, progress)),
            Source::Npy(path) => {
                let documents = npy::open(&path, first, progress)?;
                self.rows += documents.rows();
                Box::new(documents)
            }
            Source::Fvecs(path) => {
                let documents = fvecs::open(&path, first, progress)?;
                self.rows += documents.rows();
                Box::new(documents)
            }
        })
    }

    fn stop(&mut self) {
        self.current = None;
        self.sources = Vec::new().into_iter();
    }
}

impl Iterator for Input {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.current.as_mut().and_then(Iterator::next) {
                Some(Ok(located)) => return Some(Ok(located)),
                Some(Err(error)) => {
                    self.stop();
                    return Some(Err(error));
                }
                None => self.current = None,
            }
            let source = self.sources.next()?;
            match self.start(source) {
                Ok(documents) => self.current = Some(documents),
                Err(error) => {
                    self.stop();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A path whose format is known.
enum Source {
    Jsonl(PathBuf),
    /// The corpus itself.
    Beir(PathBuf),
    Csv(PathBuf),
    Parquet(PathBuf),
    Text(Vec<text::File>),
    Npy(PathBuf),
    Fvecs(PathBuf),
}

/// Opens `paths` for reading as documents; `-` is standard input.
///
/// # Errors
/// [`Error::Input`] naming a path that is missing or whose format is unknown; [`Error::Io`] if it cannot be looked at.
pub fn open(paths: &[PathBuf], options: &InputOptions) -> Result<Input> {
    let progress = Arc::new(ReadProgress::default());
    let sources: Result<Vec<Source>> =
        paths.iter().map(|path| resolve(path, options.format, &progress)).collect();
    Ok(Input {
        sources: sources?.into_iter(),
        fields: Fields::new(options),
        progress,
        current: None,
        rows: 0,
    })
}

fn resolve(path: &Path, format: Option<Format>, progress: &ReadProgress) -> Result<Source> {
    if lines::is_standard_input(path) {
        return match format {
            None | Some(Format::Jsonl) => Ok(Source::Jsonl(path.into())),
            Some(Format::Csv) => Ok(Source::Csv(path.into())),
            Some(_) => Err(Error::input("-: standard input is read as jsonl or csv only")),
        };
    }
    let found = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::input(format!("{}: no such file or folder", path.display())),
        _ => Error::io("read", path)(e),
    })?;
    let source = if found.is_dir() { folder(path, format, progress)? } else { file(path, format)? };
    let bytes = match &source {
        Source::Text(files) => files.iter().map(|file| file.bytes).sum(),
        Source::Beir(corpus) => fs::metadata(corpus).map_err(Error::io("read", corpus))?.len(),
        _ => found.len(),
    };
    progress.total.fetch_add(bytes, Ordering::Relaxed);
    Ok(source)
}

fn folder(path: &Path, format: Option<Format>, progress: &ReadProgress) -> Result<Source> {
    match (format, beir::corpus(path)) {
        (None | Some(Format::Beir), Some(corpus)) => Ok(Source::Beir(corpus)),
        (Some(Format::Beir), None) => Err(Error::input(format!("{}: no corpus.jsonl in it", path.display()))),
        (None | Some(Format::Text), _) => text::folder(path, progress).map(Source::Text),
        (Some(_), _) => Err(Error::input(format!(
            "{} is a folder; --format beir and text read folders, the others files",
            path.display()
        ))),
    }
}

fn file(path: &Path, format: Option<Format>) -> Result<Source> {
    let format = match format {
        Some(format) => format,
        None => format_of(path)?,
    };
    Ok(match format {
        Format::Jsonl => Source::Jsonl(path.into()),
        Format::Beir => Source::Beir(path.into()),
        Format::Csv => Source::Csv(path.into()),
        Format::Parquet => Source::Parquet(path.into()),
        Format::Text => Source::Text(vec![text::single(path)?]),
        Format::Npy => Source::Npy(path.into()),
        Format::Fvecs => Source::Fvecs(path.into()),
    })
}

/// The format that a file's extension says.
fn format_of(path: &Path) -> Result<Format> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "jsonl" if beir::is_corpus(path) => Ok(Format::Beir),
        "jsonl" | "ndjson" | "json" => Ok(Format::Jsonl),
        "csv" | "tsv" => Ok(Format::Csv),
        "npy" => Ok(Format::Npy),
        "fvecs" => Ok(Format::Fvecs),
        "parquet" => Ok(Format::Parquet),
        _ if text::has_text_name(path) => Ok(Format::Text),
        _ => Err(Error::input(format!(
            "{}: the extension .{extension} tells no format; give --format",
            path.display()
        ))),
    }
}

/// Refuses an id or a document that is empty or too long. `raw` is what the document took in its file: only beyond
/// the limit can its exact size matter.
fn check(document: &Document, raw: u64, place: &str) -> Result<()> {
    if document.id.is_empty() {
        return Err(Error::input(format!("{place}: the id is empty")));
    }
    over(place, "the id, in bytes,", document.id.len() as u64, limits::ID_BYTES as u64, "shorten it")?;
    if raw <= limits::DOCUMENT_BYTES as u64 {
        return Ok(());
    }
    let title = document.title.as_ref().map_or(0, String::len);
    let meta = if document.meta.is_empty() {
        0
    } else {
        serde_json::to_string(&document.meta).map_or(0, |s| s.len())
    };
    let bytes = document.id.len() + title + document.text.len() + meta;
    over(place, "the document, in bytes,", bytes as u64, limits::DOCUMENT_BYTES as u64, "split it")
}

fn over(place: &str, what: &str, actual: u64, limit: u64, raise: &str) -> Result<()> {
    if actual <= limit {
        return Ok(());
    }
    Err(Error::Limit { what: format!("{place}: {what}"), limit, actual, raise: raise.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

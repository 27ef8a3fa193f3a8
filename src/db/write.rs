//! The writer: one process at a time, one batch at a time.
//!
//! Documents are chunked and encoded before the lock is taken; a commit is one append and one sync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::active::ActiveDocument;
use super::rows::plain_rows;
use super::state::{Change, LogPosition, State, log_numbers};
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::attrs::check_meta;
use crate::format::frame::{FrameType, LogHeader};
use crate::format::manifest::{Generation, Manifest, NamedModel};
use crate::format::scan::Tail;
use crate::format::segment::{DocumentRecord, DocumentRows, encode_upsert};
use crate::mmap::faults;
use crate::options::{CreateOptions, Durability, Task, limits};
use crate::storage::documents::StoredText;
use crate::storage::lock::WriterLock;
use crate::storage::log::LogWriter;
use crate::storage::{self, LOG_DIR, manifests, numbered_path};
use crate::types::{Document, Meta, Metric, Precision, checked_ladder, default_ladder, vector_problem};

/// What a handle needs to write: the lock among processes and the open log.
#[derive(Default)]
pub(crate) struct Writer {
    /// Held from the first write on, until someone waits for it.
    pub lock: Option<WriterLock>,
    /// The log that is appended to.
    pub log: Option<LogWriter>,
    /// Work is under way that must not lose the lock.
    pub pinned: usize,
    /// The lock was taken since the last look at what had gathered meanwhile.
    pub fresh: bool,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddReport {
    /// Documents that are stored now: written, or there before.
    pub documents: u64,
    /// Documents among them that replaced one.
    pub replaced: u64,
    /// Documents among them whose title, text and metadata were stored already: they were neither encoded nor
    /// written. Vectors that come with a document are always written.
    pub unchanged: u64,
    /// Chunks (vectors) written.
    pub chunks: u64,
}

/// Documents ready to be committed: chunked and encoded.
#[derive(Debug)]
pub struct Batch {
    documents: Vec<Prepared>,
    model_id: String,
}

impl Batch {
    /// Number of documents.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Bytes of its texts and vectors.
    fn heap_bytes(&self) -> u64 {
        let of = |prepared: &Prepared| {
            let Document { id, title, text, .. } = &prepared.document;
            let texts = id.len() + title.as_ref().map_or(0, String::len) + text.len() + prepared.meta.len();
            texts + size_of_val(prepared.rows.vectors.as_slice())
        };
        self.documents.iter().map(of).sum::<usize>() as u64
    }
}

/// A document as it is stored, with rows of the active generation.
pub(crate) struct StoredDocument {
    /// Its id.
    pub id: String,
    /// Title, text and metadata.
    pub text: StoredText,
    /// Its rows.
    pub rows: DocumentRows,
}

impl Batch {
    /// Documents that were stored before, made by the encoder with this id: nothing about them is checked again.
    pub(crate) fn of_stored(documents: Vec<StoredDocument>, model_id: &str) -> Self {
        let prepared = |StoredDocument { id, text, rows }: StoredDocument| {
            let StoredText { title, text, meta } = text;
            let document = Document { id, title, text, meta: Meta::default(), vector: None };
            Prepared { document, meta, rows, unchanged: None }
        };
        Self { documents: documents.into_iter().map(prepared).collect(), model_id: model_id.to_owned() }
    }
}

#[derive(Debug)]
struct Prepared {
    document: Document,
    meta: String,
    rows: DocumentRows,
    /// Sequence number of a stored document that is the same in all, as of when this was prepared.
    unchanged: Option<u64>,
}

impl Db {
    /// Adds documents as one batch: after any crash all of them are there, or none. A document whose id exists
    /// replaces it, and is encoded as far as it is new; of several with one id in the batch the last wins.
    pub fn add(&self, documents: impl IntoIterator<Item = Document>) -> Result<AddReport> {
        let batch = self.prepare(documents.into_iter().collect(), &Task::default())?;
        self.commit(batch)
    }

    /// The first half of [`Db::add`]: checks, chunks and encodes; takes no lock (but creates a missing database). Calls
    /// at the same time share the threads of the options.
    pub fn prepare(&self, documents: Vec<Document>, task: &Task) -> Result<Batch> {
        if documents.is_empty() {
            return Ok(Batch { documents: Vec::new(), model_id: String::new() });
        }
        self.inner.ensure_created(&documents)?;
        self.inner.preparing.fetch_add(1, Ordering::Relaxed);
        let batch = self.inner.prepare(documents, task);
        self.inner.preparing.fetch_sub(1, Ordering::Relaxed);
        batch
    }

    /// The second half of [`Db::add`]: appends and syncs.
    pub fn commit(&self, batch: Batch) -> Result<AddReport> {
        if batch.is_empty() {
            return Ok(AddReport::default());
        }
        if let Some(budget) = self.inner.budget() {
            budget.check_batch(batch.heap_bytes())?;
            self.inner.make_room()?;
        }
        let mut writing = self.inner.writing(self.inner.options.busy_timeout)?;
        let batch = writing.current(batch)?;
        let report = writing.commit(batch)?;
        drop(writing);
        self.inner.after_write();
        Ok(report)
    }

    /// Deletes documents by id; returns how many there were.
    pub fn delete(&self, ids: &[String]) -> Result<u64> {
        if !self.exists() {
            return Ok(0);
        }
        let mut writing = self.inner.writing(self.inner.options.busy_timeout)?;
        let count = writing.delete(ids)?;
        drop(writing);
        self.inner.after_write();
        Ok(count)
    }

    /// Takes the writer's lock now, so that a busy database is told at once.
    pub fn hold_writer(&self) -> Result<()> {
        self.inner.writing(self.inner.options.busy_timeout).map(|_| ())
    }

    /// Gives the writer's lock back between writes.
    pub fn release_writer(&self) -> Result<()> {
        let mut writer = self.inner.writer.lock();
        if writer.pinned == 0 {
            if let Some(log) = writer.log.as_mut() {
                log.sync()?;
            }
            writer.log = None;
            writer.lock = None;
        }
        Ok(())
    }
}

impl Inner {
    /// Takes the right to write, with the state up to date and a log open (if the database exists).
    pub fn writing(&self, timeout: Duration) -> Result<Writing<'_>> {
        let mut writer = self.writer.lock();
        let waited_for = |lock: &WriterLock| lock.someone_waits();
        if writer.pinned == 0 && writer.lock.as_ref().map_or(Ok(false), waited_for)? {
            if let Some(log) = writer.log.as_mut() {
                log.sync()?;
            }
            writer.log = None;
            if let Some(lock) = writer.lock.take() {
                writer.lock = Some(lock.hand_over(timeout.max(Duration::from_secs(60)))?);
            }
        }
        if writer.lock.is_none() {
            make_dir(self.vfs.as_ref(), &self.dir)?;
            writer.lock = Some(WriterLock::acquire(&self.vfs, &self.dir, timeout)?);
            writer.log = None;
            writer.fresh = true;
        }
        let mut writing = Writing { inner: self, writer };
        writing.open_log()?;
        Ok(writing)
    }

    /// Creates the database if nothing is committed there: as the options say, or as the first of the documents asks.
    pub fn ensure_created(&self, documents: &[Document]) -> Result<()> {
        if self.snapshot().manifest.number > 0 {
            return Ok(());
        }
        let mut options = self.options.create.clone();
        if let (None, None, Some(vector)) =
            (&options.model, options.vectors, documents.first().and_then(|d| d.vector.as_ref()))
        {
            options.vectors = Some(vector.len());
        }
        let seed = Seed::new(&options)?;
        // A first batch that cannot be stored must not leave an empty database behind.
        let (dim, plain) = (seed.generation.dim as usize, seed.generation.model_id.is_empty());
        for document in documents {
            check_document(document, &meta_json(document), dim, options.metric, plain)?;
        }
        let mut writing = self.writing(self.options.busy_timeout)?;
        if writing.inner.snapshot().manifest.number > 0 {
            return Ok(());
        }
        writing.create(&options, seed)
    }

    fn prepare(&self, documents: Vec<Document>, task: &Task) -> Result<Batch> {
        let snapshot = self.snapshot();
        let Some(generation) = snapshot.generation() else {
            return Err(Error::corrupt(&self.dir, 0, "the database has no generation"));
        };
        let plain = generation.model_id.is_empty();
        let mut metas = Vec::with_capacity(documents.len());
        for document in &documents {
            let meta = meta_json(document);
            check_document(document, &meta, generation.dim as usize, snapshot.manifest.metric(), plain)?;
            metas.push(meta);
        }
        let shape = snapshot.shape_of(generation.id)?;
        if plain {
            let prepared = documents.into_iter().zip(metas).map(|(mut document, meta)| {
                let vector = shape.stored(document.vector.take().unwrap_or_default());
                let rows = plain_rows(&document, generation, vector);
                Prepared { document, meta, rows, unchanged: None }
            });
            return Ok(Batch { documents: prepared.collect(), model_id: String::new() });
        }
        let mut known = Vec::with_capacity(documents.len());
        let mut unchanged = Vec::with_capacity(documents.len());
        for (document, meta) in documents.iter().zip(&metas) {
            let found = snapshot.known(document, meta, generation)?;
            unchanged.push(found.unchanged());
            known.push(found);
        }
        let rows = self.rows_beside(shape, generation, &documents, known, task)?;
        let documents = documents.into_iter().zip(metas).zip(rows).zip(unchanged);
        let documents = documents.map(|(((document, meta), rows), unchanged)| Prepared {
            document,
            meta,
            rows,
            unchanged,
        });
        Ok(Batch { documents: documents.collect(), model_id: generation.model_id.clone() })
    }
}

/// The right to write, held as long as this lives.
pub(crate) struct Writing<'a> {
    pub inner: &'a Inner,
    pub writer: MutexGuard<'a, Writer>,
}

impl Writing<'_> {
    /// Brings the state up to date and opens the log, if there is a database and no log is open.
    fn open_log(&mut self) -> Result<()> {
        if let Some(log) = self.writer.log.as_mut() {
            // Not even a delete that finds nothing: what the failed sync leaves may still show up.
            log.check()?;
            if !log.is_broken() {
                return Ok(());
            }
            log.finish()?;
            self.writer.log = None;
        }
        let inner = self.inner;
        let mut state = inner.state.lock();
        if storage::presence(inner.vfs.as_ref(), &inner.dir)? == storage::Presence::Absent {
            return Ok(());
        }
        state.refresh(inner.vfs.as_ref(), &inner.dir)?;
        inner.publish(&state);
        // A writer that was killed, or met an error, may have published it without making its name durable.
        storage::sync_names(inner.vfs.as_ref(), &inner.dir.join(storage::MANIFEST_DIR))?;
        let Some(last) = state.logs.last().cloned() else { return Ok(()) };
        let log = LogWriter::resume(inner.vfs.as_ref(), &last.path, last.header, last.synced, last.end)?;
        // What a torn tail follows is on the disk now, and the next log may say so.
        let log = if last.tail == Tail::Clean { log } else { self.next_log(&mut state)? };
        self.writer.log = Some(log);
        inner.publish(&state);
        // With a pin, files are being written that no manifest names yet. What cannot be removed now is in nobody's
        // way, and the next commit tries again.
        if self.writer.pinned == 0 {
            let _ = super::clean::clean(inner.vfs.as_ref(), &inner.dir, &state.manifest);
        }
        Ok(())
    }

    /// Starts the next log after the committed end of the last one. The caller publishes the state.
    pub fn next_log(&self, state: &mut State) -> Result<LogWriter> {
        let inner = self.inner;
        let (number, previous_end) =
            state.logs.last().map_or((state.manifest.first_log, 0), |l| (l.header.number + 1, l.end));
        let header =
            LogHeader { number, salt: inner.vfs.random(), previous_end, database: state.manifest.database };
        let path = numbered_path(&inner.dir, LOG_DIR, number);
        if inner.vfs.exists(&path)? {
            // Left by a creation that did not finish: it holds a broken header and nothing else.
            inner.vfs.remove_file(&path)?;
        }
        let log = LogWriter::create(inner.vfs.as_ref(), &path, header)?;
        state.add_log(LogPosition { path, header, end: log.end(), tail: Tail::Clean, synced: log.end() });
        Ok(log)
    }

    fn create(&mut self, options: &CreateOptions, seed: Seed) -> Result<()> {
        let inner = self.inner;
        let vfs = inner.vfs.as_ref();
        storage::create_dirs(vfs, &inner.dir)?;
        let mut state = State::empty();
        let mut manifest = Manifest::clone(&state.manifest);
        manifest.number = 1;
        manifest.database[..8].copy_from_slice(&vfs.random().to_le_bytes());
        manifest.database[8..].copy_from_slice(&vfs.random().to_le_bytes());
        manifest.metric = options.metric as u8;
        manifest.codec = options.codec as u8;
        manifest.precision = seed.precision as u8;
        manifest.set_index(options.index, options.builder);
        manifest.asked_ladder = options.dims.iter().flatten().map(|&d| d as u32).collect();
        manifest.active_generation = 1;
        manifest.next_generation = 2;
        manifest.generations = vec![Generation { created_ms: vfs.now_ms(), ..seed.generation }];
        if let Some((name, files)) = seed.model {
            let model_id = manifest.generations[0].model_id.clone();
            storage::models::write(vfs, &inner.dir, &model_id, &files, None)?;
            manifest.models = vec![NamedModel { name, model_id }];
        }
        for number in log_numbers(vfs, &inner.dir)? {
            vfs.remove_file(&numbered_path(&inner.dir, LOG_DIR, number))?;
        }
        state.manifest = Arc::new(manifest);
        self.writer.log = Some(self.next_log(&mut state)?);
        if let Err(error) = manifests::commit(vfs, &inner.dir, &state.manifest) {
            // It may be there nevertheless: the next write looks.
            self.writer.log = None;
            return Err(error);
        }
        inner.publish(&state);
        *inner.state.lock() = state;
        Ok(())
    }

    /// The batch as the active generation wants it: encoded again if the generation changed meanwhile.
    fn current(&self, batch: Batch) -> Result<Batch> {
        let snapshot = self.inner.snapshot();
        let Some(generation) = snapshot.generation() else {
            return Err(Error::input("the database vanished while it was written"));
        };
        if generation.model_id != batch.model_id {
            let documents = batch.documents.into_iter().map(|p| p.document).collect();
            return self.inner.prepare(documents, &Task::default());
        }
        let id = generation.id;
        let mut batch = batch;
        for prepared in &mut batch.documents {
            prepared.rows.generation = id;
        }
        Ok(batch)
    }

    fn commit(&mut self, batch: Batch) -> Result<AddReport> {
        let last = last_of_each_id(&batch.documents);
        let mut report = AddReport::default();
        let mut frames = Vec::with_capacity(last.len());
        let mut changes = Vec::with_capacity(last.len());
        let state = self.inner.state.lock();
        let mut sequence = state.sequence;
        for (Prepared { document, meta, rows, unchanged }, _) in
            batch.documents.into_iter().zip(last).filter(|p| p.1)
        {
            report.documents += 1;
            let text = StoredText { title: document.title, text: document.text, meta };
            let stored = state.stored(&document.id)?;
            if let (Some(sequence), Some(stored)) = (unchanged, &stored)
                && stored.is(sequence, &text)?
            {
                report.unchanged += 1;
                continue;
            }
            sequence += 1;
            report.replaced += u64::from(stored.is_some());
            report.chunks += rows.spans.len() as u64;
            let record = DocumentRecord { title: text.title.as_deref(), text: &text.text, meta: &text.meta };
            frames.push((FrameType::Upsert, sequence, encode_upsert(&document.id, &rows, &record)));
            changes.push(Change::Upsert(Box::new(ActiveDocument::new(document.id, sequence, text)), rows));
        }
        drop(state);
        if frames.is_empty() {
            self.keep()?
        } else {
            self.append(&frames, changes)?
        }
        Ok(report)
    }

    /// Acknowledges what is stored already: at durability `Full` it is on the disk, as after any other write.
    fn keep(&mut self) -> Result<()> {
        match self.writer.log.as_mut() {
            Some(log) if self.inner.options.durability == Durability::Full => log.finish().map(|_| ()),
            _ => Ok(()),
        }
    }

    fn delete(&mut self, ids: &[String]) -> Result<u64> {
        let snapshot = self.inner.snapshot();
        let mut seen = std::collections::HashSet::new();
        let mut frames = Vec::new();
        let mut changes = Vec::new();
        let mut sequence = self.inner.state.lock().sequence;
        for id in ids {
            if seen.insert(id.as_str()) && snapshot.find(id)?.is_some() {
                sequence += 1;
                frames.push((FrameType::Delete, sequence, id.as_bytes().to_vec()));
                changes.push(Change::Delete(id.clone()));
            }
        }
        let count = changes.len() as u64;
        if count > 0 {
            self.append(&frames, changes)?;
        }
        Ok(count)
    }

    /// Appends one batch and applies it once it is acknowledged.
    fn append(&mut self, frames: &[(FrameType, u64, Vec<u8>)], changes: Vec<Change>) -> Result<()> {
        let Some(log) = self.writer.log.as_mut() else {
            return Err(Error::input("no log is open"));
        };
        let start = log.end();
        // Vectors made by a model that can no longer be read must not be kept.
        faults::check()?;
        log.append(frames, self.inner.options.durability)?;
        let end = log.end();
        let mut state = self.inner.state.lock();
        // Another thread's refresh may have read the batch from the file already.
        if state.logs.last().is_none_or(|last| last.end <= start) {
            state.apply(changes)?;
        }
        if let Some(last) = state.logs.last_mut() {
            last.end = last.end.max(end);
        }
        self.inner.publish(&state);
        Ok(())
    }
}

/// Which documents of a batch count: the last with each id.
fn last_of_each_id(documents: &[Prepared]) -> Vec<bool> {
    let mut seen = std::collections::HashSet::with_capacity(documents.len());
    let mut last: Vec<bool> = documents.iter().rev().map(|p| seen.insert(p.document.id.as_str())).collect();
    last.reverse();
    last
}

/// What a new database starts from.
struct Seed {
    generation: Generation,
    /// Name and files of the encoder.
    model: Option<(String, storage::models::Files)>,
    /// Arithmetic of the encoder.
    precision: Precision,
}

impl Seed {
    fn new(options: &CreateOptions) -> Result<Self> {
        let generation = |model_id: String, dim: usize| -> Result<Generation> {
            if dim == 0 {
                return Err(Error::input("the dimension of vectors is 0: they need at least one value"));
            }
            if dim > limits::DIM {
                return Err(Error::Limit {
                    what: "the dimension of vectors".into(),
                    limit: limits::DIM as u64,
                    actual: dim as u64,
                    raise: "use shorter vectors".into(),
                });
            }
            let ladder =
                options.dims.as_ref().map_or_else(|| Ok(default_ladder(dim)), |d| checked_ladder(d, dim))?;
            let ladder = ladder.into_iter().map(|r| r as u32).collect();
            Ok(Generation {
                id: 1,
                model_id,
                parent: 0,
                dim: dim as u32,
                ladder,
                created_ms: 0,
                metrics: String::new(),
            })
        };
        match (&options.model, options.vectors) {
            (Some(_), Some(_)) => Err(Error::input("--model and --vectors exclude each other")),
            (None, Some(dim)) => {
                let generation = generation(String::new(), dim)?;
                Ok(Self { generation, model: None, precision: Precision::F32 })
            }
            (Some(folder), None) => Self::from_folder(folder, options, generation),
            #[cfg(feature = "builtin")]
            (None, None) => {
                let name = crate::encoder::BUILTIN.to_owned();
                Self::from_files(crate::encoder::ModelFiles::builtin(), name, options, generation)
            }
            #[cfg(not(feature = "builtin"))]
            (None, None) => Err(Error::input(
                "no encoder: create the database with --model DIR (a sentence-transformers folder), or with --vectors D \
                 for plain vectors",
            )),
        }
    }

    #[cfg(feature = "encoder")]
    fn from_folder(
        folder: &Path,
        options: &CreateOptions,
        generation: impl Fn(String, usize) -> Result<Generation>,
    ) -> Result<Self> {
        let files = crate::encoder::ModelFiles::find(folder)?;
        let name =
            folder.file_name().map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned());
        Self::from_files(files, name, options, generation)
    }

    #[cfg(feature = "encoder")]
    fn from_files(
        mut files: crate::encoder::ModelFiles,
        name: String,
        options: &CreateOptions,
        generation: impl Fn(String, usize) -> Result<Generation>,
    ) -> Result<Self> {
        files.set_prompts(options.query_prompt.as_deref(), options.document_prompt.as_deref())?;
        let encoder = super::Encoder::with_precision(files, options.precision)?;
        let stored = encoder.files().iter().map(|(n, b)| (n.to_owned(), b.into())).collect();
        let generation = generation(encoder.model_id().to_owned(), encoder.dim())?;
        Ok(Self { generation, model: Some((name, stored)), precision: encoder.precision() })
    }

    #[cfg(not(feature = "encoder"))]
    fn from_folder(
        folder: &Path,
        _options: &CreateOptions,
        _generation: impl Fn(String, usize) -> Result<Generation>,
    ) -> Result<Self> {
        let what = format!("{}: this program was built without the feature `encoder`", folder.display());
        Err(Error::input(what))
    }
}

/// Makes room for the lock; [`storage::create_dirs`] makes it durable.
fn make_dir(vfs: &dyn storage::vfs::Vfs, dir: &Path) -> Result<()> {
    if vfs.exists(dir)? { Ok(()) } else { vfs.create_dir(dir) }
}

/// Metadata as it is stored; nothing for none.
fn meta_json(document: &Document) -> String {
    if document.meta.is_empty() {
        return String::new();
    }
    serde_json::to_string(&document.meta).unwrap_or_default()
}

/// Refuses what cannot be stored, naming the document.
fn check_document(document: &Document, meta: &str, dim: usize, metric: Metric, plain: bool) -> Result<()> {
    let id = &document.id;
    check_id(id)?;
    let size = id.len() + document.title.as_ref().map_or(0, String::len) + document.text.len() + meta.len();
    if size > limits::DOCUMENT_BYTES {
        return Err(Error::Limit {
            what: format!("document {id:?}, in bytes,"),
            limit: limits::DOCUMENT_BYTES as u64,
            actual: size as u64,
            raise: "split it into several documents".into(),
        });
    }
    check_meta(&document.meta)?;
    match (&document.vector, plain) {
        (None, true) => Err(Error::input(format!(
            "document {id:?} has no vector, and this database has no encoder to make one"
        ))),
        (Some(_), false) => Err(Error::input(format!(
            "document {id:?} brings a vector, but this database makes its own with an encoder; one for plain vectors is \
             created with --vectors D"
        ))),
        (Some(vector), true) => match vector_problem(vector, dim, metric) {
            Some(problem) => Err(Error::input(format!("document {id:?}: {problem}"))),
            None => Ok(()),
        },
        (None, false) if document.text.is_empty() && document.title.as_ref().is_none_or(String::is_empty) => {
            Err(Error::input(format!("document {id:?} has neither text nor title")))
        }
        (None, false) => Ok(()),
    }
}

/// Refuses an id that is empty or too long.
pub(crate) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::input("a document's id must not be empty"));
    }
    if id.len() > limits::ID_BYTES {
        return Err(Error::Limit {
            what: format!("the id {:?}…, in bytes,", id.chars().take(24).collect::<String>()),
            limit: limits::ID_BYTES as u64,
            actual: id.len() as u64,
            raise: "use a shorter id".into(),
        });
    }
    Ok(())
}

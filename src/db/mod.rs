//! The database: opening, writing, searching, learning.
//!
//! | module | what it does |
//! |---|---|
//! | `snapshot`, `newest`, `state`, `active`, `columns` | what is known: parts, their documents and rows |
//! | [`mod@write`] | the writer: prepare, commit, delete, create |
//! | `rows`, `known` | rows of documents: encoded, or taken from what is stored |
//! | `background`, [`maintain`], `heir`, `healing` | seal, merge, graphs, removal of what nobody names, repair of what follows from other files |
//! | [`search`], [`searcher`], [`filter`], `mask`, `page` | queries |
//! | [`feedback`], [`ubi`], [`interleaving`] | the log of searches and clicks |
//! | [`generations`] | publishing encoders with their vectors, rollback, re-indexing |
//! | [`retrain`], [`mod@eval`] | learning, and measuring what it brought |
//! | [`mod@synth`] | queries made up by language models |
//! | [`inspect`], [`check`], [`mod@repair`] | info, backup, check, and a new database of what is left of a damaged one |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;

pub(crate) mod active;
pub(crate) mod assemble;
pub(crate) mod background;
pub(crate) mod cap;
pub mod check;
pub(crate) mod clean;
pub(crate) mod columns;
pub(crate) mod encoders;
#[cfg(feature = "trainer")]
pub mod eval;
pub mod feedback;
pub mod filter;
pub mod generations;
pub(crate) mod graphs;
pub(crate) mod growing;
pub(crate) mod healing;
pub(crate) mod heir;
pub mod inspect;
pub mod interleaving;
pub(crate) mod known;
pub mod maintain;
pub(crate) mod mapped;
pub(crate) mod mask;
mod memory;
pub(crate) mod newest;
pub(crate) mod page;
pub mod repair;
#[cfg(feature = "trainer")]
pub mod retrain;
pub(crate) mod rows;
pub mod search;
pub mod searcher;
pub(crate) mod snapshot;
pub(crate) mod state;
#[cfg(feature = "trainer")]
pub mod synth;
pub(crate) mod turns;
pub mod ubi;
pub mod write;

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::mmap::faults;
use crate::options::{Io, OpenOptions};
use crate::storage::pread::PreadVfs;
use crate::storage::real::RealVfs;
use crate::storage::vfs::Vfs;
use crate::storage::{self, Presence};
use crate::types::Document;
use cap::Cap;
use encoders::{Encoder, Encoders};
use feedback::FeedbackLog;
use newest::Newest;
use snapshot::Snapshot;
use state::State;
use write::Writer;

/// The real file system, read in this way.
pub(crate) fn file_system(io: Io) -> Arc<dyn Vfs> {
    match io {
        Io::Map => Arc::new(RealVfs),
        Io::Pread => Arc::new(PreadVfs),
    }
}

/// A handle of a database. Clones share everything; all calls block; all may be made from any thread.
#[derive(Clone)]
pub struct Db {
    pub(crate) inner: Arc<Inner>,
    /// Ends background work with the last handle.
    _background: Option<Arc<background::Background>>,
}

pub(crate) struct Inner {
    pub vfs: Arc<dyn Vfs>,
    pub dir: PathBuf,
    pub options: OpenOptions,
    /// What is known; locked for short changes only, and always after `writer`.
    pub state: Mutex<State>,
    /// What readers see.
    pub snapshot: Newest<Snapshot>,
    pub writer: Mutex<Writer>,
    /// Held by seal, merge and whatever else writes segments: one at a time.
    pub maintenance: turns::Alone,
    pub load: turns::Load,
    pub encoders: Encoders,
    /// Batches that are being prepared: they share the threads.
    pub preparing: AtomicUsize,
    pub feedback: Mutex<FeedbackLog>,
    /// Index of the growing segment.
    pub growing: growing::GrowingSlot,
    /// Bound on mapped memory.
    pub cap: Option<Cap>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Db {
    /// Opens a database with default options. Where there is none, the first write creates it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, OpenOptions::default())
    }

    /// Opens a database.
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        Self::open_vfs(file_system(options.io), path, options)
    }

    /// Opens a database in another file system: what the crash tests do.
    pub fn open_vfs(vfs: Arc<dyn Vfs>, path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let dir = path.as_ref().to_path_buf();
        let cap = options.mapped_bytes.map(Cap::new);
        let state = match storage::presence(vfs.as_ref(), &dir)? {
            Presence::Absent => State::empty(),
            Presence::Database => {
                memory::check_files(&options, vfs.as_ref(), &dir)?;
                State::load(vfs.as_ref(), &dir, None)?.unwrap_or_else(State::empty)
            }
        };
        let background = options.background;
        let inner = Arc::new(Inner {
            snapshot: Newest::new(state.snapshot()),
            state: Mutex::new(state),
            writer: Mutex::default(),
            maintenance: turns::Alone::default(),
            load: turns::Load::default(),
            encoders: Encoders::default(),
            preparing: AtomicUsize::default(),
            feedback: Mutex::default(),
            growing: growing::GrowingSlot::default(),
            cap,
            vfs,
            dir,
            options,
        });
        let background =
            if background { Some(Arc::new(background::Background::start(&inner)?)) } else { None };
        Ok(Self { inner, _background: background })
    }

    /// Creates a database by `options.create`; there must be none.
    pub fn create(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let db = Self::open_with(path, options)?;
        if db.exists() {
            return Err(Error::input(format!("{} is a database already", db.inner.dir.display())));
        }
        db.inner.ensure_created(&[])?;
        Ok(db)
    }

    /// Whether anything is committed there.
    pub fn exists(&self) -> bool {
        self.inner.snapshot().manifest.number > 0
    }

    /// Sees what other processes committed.
    pub fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }

    /// A document by id.
    pub fn get(&self, id: &str) -> Result<Option<Document>> {
        let snapshot = self.inner.snapshot();
        let found = snapshot.find(id)?.map(|place| snapshot.document(place)).transpose()?;
        faults::check()?;
        Ok(found)
    }

    /// Ids of all live documents, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let snapshot = self.inner.snapshot();
        let mut ids = Vec::with_capacity(snapshot.count() as usize);
        for part in &snapshot.parts {
            for document in part.live_documents() {
                ids.push(part.id(document)?);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Number of live documents.
    pub fn count(&self) -> Result<u64> {
        Ok(self.inner.snapshot().count())
    }

    /// The encoder of the active generation.
    pub fn encoder(&self) -> Result<Encoder> {
        self.inner.active_encoder()
    }

    /// Brings everything acknowledged to the disk, whatever the durability level.
    pub fn flush(&self) -> Result<()> {
        self.inner.feedback.lock().flush()?;
        match self.inner.writer.lock().log.as_mut() {
            Some(log) => log.sync(),
            None => Ok(()),
        }
    }

    /// Waits for background work, flushes and closes. Dropping the last handle does the same, without telling of
    /// errors.
    pub fn close(self) -> Result<()> {
        let _idle = self.inner.maintenance.alone();
        self.flush()
    }
}

impl Drop for Inner {
    /// Nobody is left to be told of errors: what must be known to be on the disk is flushed or closed before.
    fn drop(&mut self) {
        let _ = self.feedback.get_mut().flush();
        if let Some(log) = self.writer.get_mut().log.as_mut() {
            let _ = log.sync();
        }
    }
}

impl Inner {
    /// The current view.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.get()
    }

    /// Makes the state visible to readers.
    pub fn publish(&self, state: &State) {
        let new = Arc::new(state.snapshot());
        let old = self.snapshot.replace(Arc::clone(&new));
        if let (Some(old), Some(new)) = (old.generation(), new.generation())
            && old.model_id != new.model_id
        {
            self.encoders.keep_only(&new.model_id);
        }
    }

    pub fn refresh(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.refresh(self.vfs.as_ref(), &self.dir)? {
            self.publish(&state);
        }
        Ok(())
    }

    /// The encoder of the active generation; an input error where there is none.
    pub fn active_encoder(&self) -> Result<Encoder> {
        let snapshot = self.snapshot();
        let model = snapshot.generation().map(|g| g.model_id.clone()).unwrap_or_default();
        if model.is_empty() {
            return Err(Error::input(
                "this database stores plain vectors and has no encoder: search it by vector (knn)",
            ));
        }
        self.encoder(&model)
    }

    /// A stored encoder, with the threads that the options allow.
    pub fn encoder(&self, model_id: &str) -> Result<Encoder> {
        let precision = self.snapshot().manifest.precision();
        let encoder = self.encoders.get(self.vfs.as_ref(), &self.dir, model_id, precision);
        let encoder = encoder.map(|encoder| encoder.with_threads(self.options.threads));
        encoder.map_err(|error| if self.is_removed(model_id) { outdated() } else { error })
    }

    /// Whether the database has no use any more for an encoder that this view names, or named.
    fn is_removed(&self, model_id: &str) -> bool {
        let newest = storage::manifests::newest(self.vfs.as_ref(), &self.dir);
        let listed = |manifest: &Manifest| {
            let of_generations = manifest.generations.iter().map(|g| &g.model_id);
            of_generations.chain(manifest.models.iter().map(|model| &model.model_id)).any(|id| id == model_id)
        };
        newest.is_ok_and(|newest| newest.is_some_and(|newest| !listed(&newest)))
    }
}

fn outdated() -> Error {
    Error::input("the encoder of the state that this handle sees was removed since: refresh the handle")
}

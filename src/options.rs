//! Options with their defaults, limits, and the handle through which long work reports and stops.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::types::{Builder, Codec, IndexKind, Metric, Precision};

/// Limits on what is accepted; above them a call fails with [`Error::Limit`].
pub mod limits {
    /// Bytes of an external id.
    pub const ID_BYTES: usize = 512;
    /// Bytes of a document: id, title, text and metadata together.
    pub const DOCUMENT_BYTES: usize = 16 << 20;
    /// Dimensions of a vector.
    pub const DIM: usize = 65_536;
    /// Hits of one search.
    pub const K: usize = 10_000;
    /// Bytes of one log frame.
    pub const FRAME_BYTES: usize = 256 << 20;
    /// Tokens of a text that an encoder reads; of longer chunks those behind are left out.
    pub const TOKENS: usize = 8_192;
    /// Bytes of a model folder.
    pub const MODEL_BYTES: u64 = 4 << 30;
}

/// When an acknowledged write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When the call returns: survives power loss.
    #[default]
    Full,
    /// Survives `kill -9`; power loss may lose at most the last second, always a suffix.
    Normal,
    /// Synced at seals, at close and by `flush` alone.
    Bulk,
}

/// What a new database stores; fixed at creation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreateOptions {
    /// Folder of the encoder; by default the built-in one, which also goes by the name `builtin`.
    pub model: Option<PathBuf>,
    /// Plain vectors of this dimension instead of an encoder.
    pub vectors: Option<usize>,
    /// Matryoshka ladder; by default [`default_ladder`](crate::types::default_ladder).
    pub dims: Option<Vec<usize>>,
    /// Metric.
    pub metric: Metric,
    /// Stored forms.
    pub codec: Codec,
    /// Arithmetic of the encoder; by default int8 where the model bears it, else f32. A model
    /// that does not is refused in int8.
    pub precision: Option<Precision>,
    /// What the encoder reads before each query; by default what its folder says.
    pub query_prompt: Option<String>,
    /// What it reads before each document.
    pub document_prompt: Option<String>,
    /// How much is spent on graphs.
    pub index: IndexKind,
    /// What builds them.
    pub builder: Builder,
}

/// How an encoder is stored beside others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelOptions {
    /// Its name; by default the folder's.
    pub name: Option<String>,
    /// What it reads before each query; by default what its folder says.
    pub query_prompt: Option<String>,
    /// What it reads before each document.
    pub document_prompt: Option<String>,
}

/// How immutable files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Mapped into memory: only what is touched is read.
    #[default]
    Map,
    /// Read into memory whole when they are opened: for files of unknown origin, and disks that may vanish. What becomes
    /// of a file afterwards harms nobody; a database takes as much memory as its files.
    Pread,
}

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Used where the database does not exist yet.
    pub create: CreateOptions,
    /// How its files are read.
    pub io: Io,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// How long to wait for the writer's lock.
    pub busy_timeout: Duration,
    /// Seal, merge and build graphs in a background thread.
    pub background: bool,
    /// Rows in the active segment at which it is sealed. A search scans them, so their number bounds what it takes longer
    /// while rows come in.
    pub seal_rows: usize,
    /// Bytes of log at which the active segment is sealed.
    pub seal_bytes: u64,
    /// Threads for encoding and building; 0: as many as there are cores.
    pub threads: usize,
    /// Bytes of files that this process may keep mapped into its memory from one search to the next, beyond what was
    /// mapped when the database was opened; `None`: no bound. What is given back stays in the system's cache while
    /// that has room, but each search then has to map it again. Only on Linux; memory for building is not counted.
    pub mapped_bytes: Option<u64>,
    /// Bytes of heap that the rows of the log, and each longer work, may take: what would take more is refused with
    /// [`Error::Limit`] before it begins, or done in smaller pieces. `None`: no bound. Counted are rows and texts of the log, batches
    /// of documents, files under [`Io::Pread`], construction of graphs, and training; the encoder and searches,
    /// which take little beside their files, are not.
    pub memory_bytes: Option<u64>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            create: CreateOptions::default(),
            io: Io::Map,
            durability: Durability::Full,
            busy_timeout: Duration::ZERO,
            background: true,
            seal_rows: 8_192,
            seal_bytes: 128 << 20,
            threads: 0,
            mapped_bytes: None,
            memory_bytes: None,
        }
    }
}

/// One step of long work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress<'a> {
    /// What is being done: "embed", "train", "graph" …
    pub stage: &'a str,
    /// Units done.
    pub done: u64,
    /// Units in all; 0 if unknown.
    pub total: u64,
    /// What else is to be shown, such as the loss; mostly empty.
    pub detail: &'a str,
}

type Callback = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Reports progress of long work and lets the caller cancel it. Cloning shares both.
#[derive(Clone, Default)]
pub struct Task {
    cancelled: Arc<AtomicBool>,
    callback: Option<Callback>,
    unwanted: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    time: Option<Time>,
}

/// How long work may take.
#[derive(Debug, Clone, Copy)]
struct Time {
    end: Instant,
    limit: Duration,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Task {
    /// A task that reports to `callback`.
    pub fn with_progress(callback: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        Self { callback: Some(Arc::new(callback)), ..Self::default() }
    }

    /// The same task, which also stops when so much time has passed, from now on.
    pub fn within(&self, limit: Duration) -> Self {
        let end = Instant::now().checked_add(limit);
        Self { time: end.map(|end| Time { end, limit }), ..self.clone() }
    }

    /// The same task without its reports: cancelled together.
    pub fn quiet(&self) -> Self {
        Self { callback: None, ..self.clone() }
    }

    /// The same task, which also stops as soon as `unwanted` says so.
    pub(crate) fn unless(&self, unwanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { unwanted: Some(Arc::new(unwanted)), ..self.clone() }
    }

    /// Asks the work to stop at its next safe point.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails with [`Error::Cancelled`] if the caller asked to stop, and with [`Error::Limit`] when the time is over.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) || self.unwanted.as_ref().is_some_and(|unwanted| unwanted())
        {
            return Err(Error::Cancelled);
        }
        match self.time {
            Some(Time { end, limit }) if Instant::now() >= end => Err(Error::Limit {
                what: "the time of this call, in milliseconds,".into(),
                limit: limit.as_millis() as u64,
                actual: (limit + end.elapsed()).as_millis() as u64,
                raise: "allow more (--timeout SECONDS), or ask for less".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Reports a step; fails as [`Self::check`] does.
    pub fn step(&self, stage: &str, done: u64, total: u64) -> Result<()> {
        self.tell(stage, done, total, "")
    }

    /// The same with more to show.
    pub fn tell(&self, stage: &str, done: u64, total: u64, detail: &str) -> Result<()> {
        self.check()?;
        if let Some(callback) = &self.callback {
            callback(Progress { stage, done, total, detail });
        }
        Ok(())
    }
}

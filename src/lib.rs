//! embdb: an embedded vector database that learns from its users.
//!
//! One library, one directory, no server, no network. Text goes in; an encoder in the same process cuts it into
//! chunks and embeds them; the nearest are found again; searches and clicks are logged; [`Db::retrain`] tunes the
//! encoder on that log, proves on held-out clicks that it got better, and swaps it in with one commit;
//! [`Db::rollback`] goes back.
//!
#![cfg_attr(all(feature = "trainer", feature = "builtin"), doc = "```")]
#![cfg_attr(not(all(feature = "trainer", feature = "builtin")), doc = "```ignore")]
//! use embdb::{Db, Document, RetrainOptions};
//!
//! # fn main() -> embdb::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("notes.embdb");
//! // With the built-in encoder; `Db::create` takes the folder of any other that sentence-transformers loads.
//! let db = Db::open(path)?;
//!
//! db.add([Document::new("a", "How do I reset my password?").meta("lang", "en")])?;
//! let found = db.search("forgot my login").k(5).filter("lang = 'en'")?.log(true).run()?;
//! if let (Some(query), Some(hit)) = (found.query_id, found.hits.first()) {
//!     db.click(query, &hit.id)?;
//! }
//! let report = db.retrain(RetrainOptions::default())?;
//! assert!(!report.published); // one click is too little to learn from, and it says so:
//! assert!(report.gate.reason.contains("too little"));
//! # Ok(())
//! # }
//! ```
//!
//! What survives what is stated in the README; every byte on disk in `storage-format.md`.
//!
//! # Layers
//! A module uses only what stands left of it (a test holds this):
//! `error, types, options ← kernel | mmap | format ← storage | index | text | encoder ← trainer ← db`.
//!
#![cfg_attr(not(feature = "trainer"), doc = "[`Db::retrain`]: Db")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod error;
pub mod options;
pub mod panics;
mod sync;
pub mod types;

pub mod format;
pub mod kernel;
pub mod mmap;

#[cfg(feature = "encoder")]
pub mod encoder;
pub mod index;
pub mod storage;
pub mod text;

#[cfg(feature = "trainer")]
pub mod trainer;

pub mod db;

pub use db::Db;
pub use db::check::{check_path, check_path_by};
#[cfg(feature = "trainer")]
pub use db::eval::EvalOptions;
pub use db::filter::Filter;
pub use db::repair::{RepairReport, repair_path};
#[cfg(feature = "trainer")]
pub use db::retrain::{Method, RetrainOptions};
pub use db::search::SearchOptions;
pub use db::searcher::{Match, Searcher};
pub use error::{Error, Result};
pub use mmap::faults::guard as guard_mapped_files;
pub use options::{CreateOptions, OpenOptions, Task};
pub use panics::hush_caught as hush_caught_panics;
pub use types::{Document, Hit, SearchResult};

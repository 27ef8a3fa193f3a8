//! An embedded vector database that learns from its users.
//!
//! A module uses only what stands left of it (a test holds this):
//! `error, types, options ← kernel | mmap | format ← storage | index | text | encoder ← trainer ← db`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod error;
pub mod options;
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
pub use db::check::check_path;
pub use error::{Error, Result};
pub use options::{CreateOptions, OpenOptions, Task};
pub use types::{Document, Hit, SearchResult};

//! Text before it is encoded: cutting long texts into chunks.

mod chunk;

pub use self::chunk::{ChunkOptions, chunk, pieces};

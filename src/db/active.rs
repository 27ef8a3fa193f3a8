//! The active segment: documents of one log, in memory, in small chunks that are shared with snapshots and copied
//! on write, so that a snapshot never changes and a commit never copies more than one chunk.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::columns::{ColumnsBuilder, Shape};
use crate::error::Result;
use crate::format::segment::DocumentRows;
use crate::storage::documents::StoredText;
use crate::types::Meta;

/// Documents of a chunk.
pub(crate) const CHUNK_DOCUMENTS: usize = 256;

/// A document in memory.
#[derive(Debug)]
pub(crate) struct ActiveDocument {
    /// Id.
    pub id: String,
    /// Sequence number.
    pub sequence: u64,
    /// Title, text, metadata as JSON.
    pub text: StoredText,
    meta: OnceLock<Meta>,
}

impl ActiveDocument {
    /// A document that came with this sequence number.
    pub fn new(id: String, sequence: u64, text: StoredText) -> Self {
        Self { id, sequence, text, meta: OnceLock::new() }
    }

    /// Its metadata, parsed once.
    pub fn meta(&self) -> &Meta {
        self.meta.get_or_init(|| parse_meta(&self.text.meta))
    }
}

/// Metadata from its stored JSON, which was valid when it was written.
pub(crate) fn parse_meta(json: &str) -> Meta {
    serde_json::from_str(json).unwrap_or_default()
}

/// Up to [`CHUNK_DOCUMENTS`] documents with their rows.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Documents, in order.
    pub documents: Vec<Arc<ActiveDocument>>,
    /// Their rows.
    pub rows: ColumnsBuilder,
    /// Last document with each id.
    by_id: HashMap<String, u32>,
}

impl Chunk {
    fn new(shape: Shape) -> Self {
        Self { documents: Vec::new(), rows: ColumnsBuilder::new(shape), by_id: HashMap::new() }
    }
}

/// All documents of one log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Active {
    /// Chunks; all but the last are full.
    pub chunks: Vec<Arc<Chunk>>,
}

impl Active {
    /// Documents, replaced and deleted ones included.
    pub fn documents(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_DOCUMENTS;
        (full + self.chunks.last().map_or(0, |c| c.documents.len())) as u32
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|c| c.rows.rows()).sum()
    }

    /// A document by number.
    pub fn document(&self, number: u32) -> Option<&Arc<ActiveDocument>> {
        let number = number as usize;
        self.chunks.get(number / CHUNK_DOCUMENTS)?.documents.get(number % CHUNK_DOCUMENTS)
    }

    /// The last document with this id.
    pub fn find(&self, id: &str) -> Option<u32> {
        let found = self.chunks.iter().enumerate().rev();
        found.filter_map(|(n, c)| c.by_id.get(id).map(|&at| (n * CHUNK_DOCUMENTS) as u32 + at)).next()
    }

    /// Appends a document; returns its number. [`Self::lay_out`] makes its rows searchable.
    pub fn push(&mut self, document: ActiveDocument, rows: &DocumentRows, shape: &Shape) -> Result<u32> {
        if self.chunks.last().is_none_or(|c| c.documents.len() >= CHUNK_DOCUMENTS) {
            self.lay_out();
            self.chunks.push(Arc::new(Chunk::new(shape.clone())));
        }
        let number = self.documents();
        if let Some(chunk) = self.chunks.last_mut().map(Arc::make_mut) {
            chunk.rows.push(rows)?;
            chunk.by_id.insert(document.id.clone(), chunk.documents.len() as u32);
            chunk.documents.push(Arc::new(document));
        }
        Ok(number)
    }

    /// Completes the columns of the last chunk.
    pub fn lay_out(&mut self) {
        if let Some(chunk) = self.chunks.last_mut().map(Arc::make_mut) {
            chunk.rows.lay_out();
        }
    }
}

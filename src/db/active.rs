//! The active segment: documents of one log, in memory, in small chunks that are shared with snapshots and copied
//! on write, so that a snapshot never changes and a commit never copies more than one chunk.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::columns::{ColumnsBuilder, Shape};
use crate::error::Result;
use crate::format::segment::DocumentRows;
use crate::index::VectorBlock;
use crate::index::sketch::Sketches;
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
    /// Set once it is full and was searched; none where sketches do not pay.
    sketches: OnceLock<Option<Sketches>>,
    /// Last document with each id.
    by_id: HashMap<String, u32>,
}

impl Chunk {
    fn new(shape: Shape) -> Self {
        let (rows, sketches) = (ColumnsBuilder::new(shape), OnceLock::new());
        Self { documents: Vec::new(), rows, sketches, by_id: HashMap::new() }
    }

    /// Sketches of its rows, if they were made.
    pub fn sketches(&self) -> Option<&Sketches> {
        self.sketches.get()?.as_ref()
    }

    /// Makes them of its rows; the chunk is full.
    pub fn sketch(&self, rows: &VectorBlock<'_>) {
        // Another search may have been faster.
        let _ = self.sketches.set(Sketches::of(rows));
    }

    fn is_full(&self) -> bool {
        self.documents.len() >= CHUNK_DOCUMENTS
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
        if self.chunks.last().is_none_or(|c| c.is_full()) {
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

    /// The first full chunk that was not sketched.
    pub fn unsketched(&self) -> Option<usize> {
        self.chunks.iter().position(|c| c.is_full() && c.sketches.get().is_none())
    }

    /// Completes the columns of the last chunk.
    pub fn lay_out(&mut self) {
        if let Some(chunk) = self.chunks.last_mut().map(Arc::make_mut) {
            chunk.rows.lay_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CHUNK_DOCUMENTS;
    use crate::db::snapshot::Source;
    use crate::types::Document;
    use crate::{CreateOptions, Db, OpenOptions};

    #[test]
    fn searches_sketch_one_full_chunk_each_and_find_what_a_scan_finds() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(160), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        let vector = |n: usize| -> Vec<f32> {
            (0..160).map(|i| ((n * 7919 + i * 104_729) % 1009) as f32 - 504.0).collect()
        };
        let sketched = || {
            let snapshot = db.inner.snapshot();
            let Source::Active(_, active) = &snapshot.parts.last().unwrap().source else { panic!("a log") };
            active.chunks.iter().map(|chunk| chunk.sketches().is_some()).collect::<Vec<_>>()
        };
        let documents = 2 * CHUNK_DOCUMENTS + 88;
        db.add((0..documents).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
        assert_eq!(sketched(), [false, false, false], "a load pays for none");
        let ids = |n: usize, exact: bool| -> Vec<String> {
            let found = db.search_vector(&vector(n)).k(5).exact(exact).run().unwrap();
            found.hits.into_iter().map(|hit| hit.id).collect()
        };
        assert_eq!(ids(1, true)[0], "1");
        assert_eq!(sketched(), [false, false, false], "an exact search reads none");
        for expected in [[true, false, false], [true, true, false], [true, true, false]] {
            assert_eq!(ids(7, false), ids(7, true));
            assert_eq!(sketched(), expected);
        }
        db.add([Document::from_vector("new", vector(documents))]).unwrap();
        assert_eq!(sketched(), [true, true, false], "what is added makes no chunk anew but the last");
        assert!((0..documents).step_by(37).all(|n| ids(n, false) == ids(n, true)));
        assert_eq!(ids(documents, false)[0], "new");
    }
}

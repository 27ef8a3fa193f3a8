//! Rows of a new generation as a map of an older one's, or the same: what publishes a linear adapter in seconds.

use super::Inner;
use super::generations::RowSource;
use super::snapshot::{Place, Rows, Snapshot};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::format::segment::DocumentRows;
use crate::options::Task;

/// Rows of another generation, each vector mapped by a function over many rows at once.
pub(crate) struct Mapped<F> {
    /// Generation whose vectors are mapped.
    pub from: u32,
    /// Maps row-major vectors.
    pub map: F,
}

impl<F: Fn(&[f32]) -> Result<Vec<f32>>> RowSource for Mapped<F> {
    fn rows(
        &mut self,
        _: &Inner,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[(Place, u64)],
        _: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let shape = snapshot.shape_of(self.from)?;
        let mut all = Vec::with_capacity(documents.len());
        for (place, _) in documents {
            let blocks = snapshot.part(place.part)?.rows(self.from, shape)?;
            all.push(extract(&blocks, place.document, generation)?);
        }
        let flat: Vec<f32> = all.iter().flat_map(|r| r.vectors.iter().copied()).collect();
        let mapped = (self.map)(&flat)?;
        let mut vectors = mapped.chunks_exact(generation.dim as usize).map(|v| shape.stored(v.to_vec()));
        for rows in &mut all {
            rows.vectors = vectors.by_ref().take(rows.spans.len()).flatten().collect();
        }
        Ok(all)
    }
}

/// The rows of another generation as they are: those of segments are copied as files, graphs included.
#[cfg(feature = "trainer")]
pub(crate) struct Same {
    /// The generation.
    pub from: u32,
}

#[cfg(feature = "trainer")]
impl RowSource for Same {
    fn copied(&self) -> Option<u32> {
        Some(self.from)
    }

    fn rows(
        &mut self,
        inner: &Inner,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[(Place, u64)],
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let map = |rows: &[f32]| Ok(rows.to_vec());
        Mapped { from: self.from, map }.rows(inner, snapshot, generation, documents, task)
    }
}

/// Plain vectors as they are: those of the generation that answers.
pub(crate) struct Plain;

impl RowSource for Plain {
    fn rows(
        &mut self,
        inner: &Inner,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[(Place, u64)],
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let from = snapshot.manifest.active_generation;
        let map = |rows: &[f32]| Ok(rows.to_vec());
        Mapped { from, map }.rows(inner, snapshot, generation, documents, task)
    }
}

fn extract(blocks: &[Rows<'_>], document: u32, generation: &Generation) -> Result<DocumentRows> {
    let block = blocks.iter().find(|b| b.documents().contains(&document));
    let rows = block.map(|b| b.extract(document, generation.id)).filter(|r| !r.spans.is_empty());
    rows.ok_or_else(|| Error::corrupt("rows", 0, format!("document {document} has no vectors to map")))
}

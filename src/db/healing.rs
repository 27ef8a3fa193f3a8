//! Healing: files that follow from others and were found damaged are made anew by whoever may write.
//!
//! Codes follow from f32 rows, metadata columns from documents, graphs from either form of the vectors. Until then
//! searches do without them ([`storage::derived`](crate::storage::derived)).

use std::sync::Arc;

use super::Inner;
use super::active::parse_meta;
use super::columns::{ColumnsBuilder, Shape};
use super::maintain::sealed;
use super::snapshot::{Part, Snapshot, Source};
use crate::error::Result;
use crate::format::attrs::AttrsBuilder;
use crate::format::manifest::{FileEntry, VectorSet};
use crate::options::Task;
use crate::storage::segment::{Segment, vectors_dir};
use crate::storage::segment_writer::Target;
use crate::types::Codec;

/// A file that a manifest names no more, and what it names in its place.
struct Change {
    path: String,
    entry: Option<FileEntry>,
}

impl Inner {
    /// Whether files are known to be damaged that can be made anew.
    pub fn wants_healing(&self) -> bool {
        sealed(&self.snapshot()).any(|segment| segment.is_healable())
    }

    /// Makes damaged codes and metadata columns anew and drops damaged graphs, which are then built like those that are
    /// missing; looks for damage first if `all`. The caller holds the maintenance lock and a pin.
    pub fn heal(&self, all: bool, task: &Task) -> Result<()> {
        let snapshot = self.snapshot();
        for part in &snapshot.parts {
            let Source::Sealed(segment) = &part.source else { continue };
            if all {
                segment.verify_derived()?;
            }
            let changes = self.changes(&snapshot, part, segment, task)?;
            if changes.is_empty() {
                continue;
            }
            self.commit(|manifest| {
                if let Some(entry) = manifest.segments.iter_mut().find(|s| s.id == segment.entry.id) {
                    entry.files.retain(|file| changes.iter().all(|change| change.path != file.path));
                    entry.files.extend(changes.iter().filter_map(|change| change.entry.clone()));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn changes(
        &self,
        snapshot: &Snapshot,
        part: &Part,
        segment: &Arc<Segment>,
        task: &Task,
    ) -> Result<Vec<Change>> {
        let target = self.target();
        let mut changes = Vec::new();
        let mut replace =
            |entry: FileEntry| changes.push(Change { path: entry.path.clone(), entry: Some(entry) });
        if segment.damaged_attrs().is_some() {
            replace(write_attrs(&target, segment)?);
        }
        for &set in &segment.entry.vectors {
            let Some(vectors) = segment.vectors(set.generation) else { continue };
            if vectors.damaged_codes().is_some() && vectors.has_full() {
                task.step("heal", 0, u64::from(part.documents()))?;
                let shape = snapshot.shape_of(set.generation)?;
                replace(write_codes(&target, segment, part, set, shape)?);
            }
        }
        for &set in &segment.entry.vectors {
            let damage = segment.vectors(set.generation).and_then(|vectors| vectors.damaged_graph());
            let path = format!("{}/graph", vectors_dir(segment.entry.id, set));
            changes.extend(damage.map(|_| Change { path, entry: None }));
        }
        Ok(changes)
    }
}

/// The codes of the f32 rows of a generation: the same as were stored before, to the bit.
fn write_codes(
    target: &Target<'_>,
    segment: &Segment,
    part: &Part,
    set: VectorSet,
    shape: &Shape,
) -> Result<FileEntry> {
    let mut builder = ColumnsBuilder::new(Shape { codec: Codec::Int8, ..shape.clone() });
    for rows in part.rows(set.generation, shape)? {
        builder.copy(&rows.vectors, rows.spans, 0..rows.vectors.len as u32)?;
    }
    target.write_codes(segment.entry.id, set, &builder.finish())
}

/// The metadata columns of all documents of a segment, deleted ones among them.
fn write_attrs(target: &Target<'_>, segment: &Segment) -> Result<FileEntry> {
    let mut columns = AttrsBuilder::default();
    for document in 0..segment.documents() {
        let text = segment.text(document)?;
        if !text.meta.is_empty() {
            columns.push(document, &parse_meta(&text.meta));
        }
    }
    target.write_attrs(segment.entry.id, &columns.finish()?)
}

/// That rows lack the codes that are stored beside f32 rows: they cannot be copied before they are made anew.
pub(super) fn needs_codes(segment: &Segment, generation: u32) -> Result<()> {
    let damage = segment.vectors(generation).and_then(|vectors| vectors.damaged_codes());
    damage.map_or(Ok(()), |damage| Err(damage.error()))
}

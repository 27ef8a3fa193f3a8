//! A segment is put together from the live documents of others and of logs.

use std::sync::Arc;

use super::Inner;
use super::active::parse_meta;
use super::healing::needs_codes;
use super::snapshot::{Part, Rows, Snapshot, Source};
use crate::error::{Error, Result};
use crate::format::attrs::AttrsBuilder;
use crate::format::manifest::{SegmentEntry, VectorSet};
use crate::format::segment::DocumentRecord;
use crate::index::{Codes, VectorBlock};
use crate::options::Task;
use crate::storage::segment_writer::{NewDocument, Run, SegmentBuilder, VectorRuns};

impl Inner {
    /// Writes the live documents of `parts` as one segment; `None` if there are none.
    pub fn write_segment(
        &self,
        snapshot: &Snapshot,
        parts: &[&Part],
        id: u64,
        task: &Task,
    ) -> Result<Option<SegmentEntry>> {
        let total: u64 = parts.iter().map(|p| p.live()).sum();
        if total == 0 {
            return Ok(None);
        }
        let version = snapshot.manifest.number as u32 + 1;
        let target = self.target();
        let mut builder = SegmentBuilder::create(&target, id)?;
        let mut attrs = AttrsBuilder::default();
        for part in parts {
            if let Source::Sealed(segment) = &part.source {
                segment.expect_all();
            }
            for document in part.live_documents() {
                if builder.len() % 1024 == 0 {
                    task.step("seal", u64::from(builder.len()), total)?;
                    if let Source::Sealed(segment) = &part.source {
                        segment.release(false);
                    }
                }
                let (title, text, meta) = raw_text(part, document)?;
                let record = DocumentRecord { title: title.as_deref(), text: &text, meta: &meta };
                let name = part.id_of(document)?;
                let number =
                    builder.push(&NewDocument { id: name, sequence: part.sequence(document)?, record })?;
                if !meta.is_empty() {
                    attrs.push(number, &parse_meta(&meta));
                }
            }
        }
        let documents = builder.len();
        if u64::from(documents) != total {
            return Err(Error::corrupt(
                &self.dir,
                0,
                format!("{documents} documents of {total} were written"),
            ));
        }
        let mut files = builder.finish(&target, &attrs.finish()?)?;
        let mut vectors = Vec::new();
        for generation in &snapshot.manifest.generations {
            let segments = parts.iter().filter_map(|part| match &part.source {
                Source::Sealed(segment) => Some(Arc::clone(segment)),
                Source::Active(..) => None,
            });
            let mut runs = VectorRuns { segments: segments.collect(), ..VectorRuns::default() };
            for part in parts {
                let blocks = blocks_of(snapshot, part, generation.id)?;
                if let Source::Sealed(segment) = &part.source {
                    needs_codes(segment, generation.id)?;
                }
                add_runs(part, &blocks, &mut runs);
            }
            if runs.spans.is_empty() {
                continue;
            }
            let set = VectorSet { generation: generation.id, version };
            files.extend(target.write_runs(id, set, &runs)?);
            vectors.push(set);
        }
        Ok(Some(SegmentEntry { id, documents, deleted: 0, tombstones: 0, vectors, files }))
    }
}

/// Blocks of a generation's rows in a part; none in an active part of another generation.
pub(super) fn blocks_of<'a>(
    snapshot: &'a Snapshot,
    part: &'a Part,
    generation: u32,
) -> Result<Vec<Rows<'a>>> {
    let active = generation == snapshot.manifest.active_generation;
    match part.source {
        Source::Active(..) if !active => Ok(Vec::new()),
        _ => part.rows(generation, snapshot.shape_of(generation)?),
    }
}

/// The rows of live documents of a part, in order; documents that lack them get none.
fn add_runs<'a>(part: &Part, blocks: &[Rows<'a>], out: &mut VectorRuns<'a>) {
    let mut total = out.runs.iter().map(|run| run.rows.len()).sum::<usize>();
    if out.first.is_empty() {
        out.first.push(0);
    }
    let mut blocks = blocks.iter().peekable();
    let mut last = None;
    for document in part.live_documents() {
        while blocks.next_if(|b| document >= b.documents().end).is_some() {
            last = None;
        }
        let rows = blocks.peek().map_or(0..0, |block| block.rows_of(document));
        let rows = rows.start as usize..rows.end as usize;
        if let Some(block) = blocks.peek().filter(|_| !rows.is_empty()) {
            total += rows.len();
            out.spans.extend(rows.clone().map(|row| block.spans.get(row).copied().unwrap_or_default()));
            match out.runs.last_mut().filter(|_| last == Some(rows.start)) {
                Some(run) => run.rows.end = rows.end,
                None => {
                    let VectorBlock { codes, scales, norms, full, len, .. } = block.vectors;
                    let Codes { high, low } = codes;
                    out.runs.push(Run { rows: rows.clone(), of: len, high, low, scales, norms, full });
                }
            }
            // The next row, if it is of this block, belongs to the same run.
            last = Some(rows.end);
        }
        out.first.push(total as u32);
    }
}

/// Title, text and metadata JSON of a document, as stored.
fn raw_text(part: &Part, document: u32) -> Result<(Option<String>, String, String)> {
    let text = match &part.source {
        Source::Sealed(segment) => segment.text(document)?,
        Source::Active(_, active) => match active.document(document) {
            Some(found) => found.text.clone(),
            None => return Err(Error::corrupt("log", 0, format!("no document {document} in memory"))),
        },
    };
    Ok((text.title, text.text, text.meta))
}

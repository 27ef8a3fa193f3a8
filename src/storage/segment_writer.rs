//! Writing a sealed segment: its documents one after the other, then vectors from the memory of a log or copied from other
//! segments, and what is added to it later.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64;

use super::container::ContainerWriter;
use super::documents::DocumentsWriter;
use super::segment::{Segment, segment_dir, vectors_dir};
use super::segment_file::RELEASED_AFTER;
use super::vfs::Vfs;
use super::{SEGMENT_DIR, remove_dir_if_present, write_new};
use crate::error::{Error, Result};
use crate::format::attrs::Columns;
use crate::format::file::{DatabaseId, FileBuilder, Kind};
use crate::format::manifest::{FileEntry, VectorSet};
use crate::format::segment::{DocumentRecord, ids, rows, tombstones, vectors};

/// A document on its way into a segment.
pub struct NewDocument<'a> {
    /// Id.
    pub id: &'a str,
    /// Sequence number.
    pub sequence: u64,
    /// Title, text, metadata.
    pub record: DocumentRecord<'a>,
}

/// Writes the files of a segment that do not depend on a generation: texts as they come, the rest at the end.
pub struct SegmentBuilder {
    segment: u64,
    documents: DocumentsWriter,
    ids: Vec<u8>,
    offsets: Vec<u32>,
    hashes: Vec<(u64, u32)>,
    sequences: Vec<u64>,
}

impl SegmentBuilder {
    /// Begins a segment in a fresh directory.
    pub fn create(target: &Target<'_>, segment: u64) -> Result<Self> {
        let base = segment_dir(segment);
        let folder = target.dir.join(&base);
        remove_dir_if_present(target.vfs, &folder)?;
        target.vfs.create_dir(&folder)?;
        Ok(Self {
            segment,
            documents: DocumentsWriter::create(target.vfs, folder.join("docs"), target.database)?,
            ids: Vec::new(),
            offsets: Vec::new(),
            hashes: Vec::new(),
            sequences: Vec::new(),
        })
    }

    /// Appends a document; returns its number.
    pub fn push(&mut self, document: &NewDocument<'_>) -> Result<u32> {
        let number = self.sequences.len() as u32;
        let end = self.ids.len() + document.id.len();
        if u32::try_from(end).is_err() {
            return Err(Error::Limit {
                what: "the ids of one segment, in bytes,".into(),
                limit: u64::from(u32::MAX),
                actual: end as u64,
                raise: "use shorter ids".into(),
            });
        }
        self.offsets.push(self.ids.len() as u32);
        self.ids.extend_from_slice(document.id.as_bytes());
        self.hashes.push((xxh3_64(document.id.as_bytes()), number));
        self.sequences.push(document.sequence);
        self.documents.push(&document.record)?;
        Ok(number)
    }

    /// Number of documents so far.
    pub fn len(&self) -> u32 {
        self.sequences.len() as u32
    }

    /// Whether no document was pushed.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Writes and syncs what is left, metadata columns among it.
    pub fn finish(mut self, target: &Target<'_>, columns: &Columns) -> Result<Vec<FileEntry>> {
        let (segment, base) = (self.segment, segment_dir(self.segment));
        self.offsets.push(self.ids.len() as u32);
        self.hashes.sort_unstable();
        let (hashes, order): (Vec<u64>, Vec<u32>) = self.hashes.into_iter().unzip();
        let ids = [
            (ids::OFFSETS, vec![bytemuck::cast_slice(&self.offsets)]),
            (ids::BYTES, vec![self.ids.as_slice()]),
            (ids::HASHES, vec![bytemuck::cast_slice(&hashes)]),
            (ids::ORDER, vec![bytemuck::cast_slice(&order)]),
            (ids::SEQUENCES, vec![bytemuck::cast_slice(&self.sequences)]),
        ];
        let entries = vec![
            target.write_pieces(format!("{base}/ids"), Kind::Ids, &ids)?,
            self.documents.finish(format!("{base}/docs"))?,
            target.write_attrs(segment, columns)?,
        ];
        target.vfs.sync_dir(&target.dir.join(SEGMENT_DIR))?;
        Ok(entries)
    }
}

/// Where files are written.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// File system.
    pub vfs: &'a dyn Vfs,
    /// Database directory.
    pub dir: &'a Path,
    /// Database id.
    pub database: DatabaseId,
}

impl Target<'_> {
    /// Writes and syncs one container; the caller syncs its directory.
    pub fn write(&self, path: String, bytes: Vec<u8>) -> Result<FileEntry> {
        let full = self.dir.join(&path);
        write_new(self.vfs, &full, &bytes)?;
        // The trailer ends in the checksum and the end mark.
        let at = bytes.len() - 16;
        let checksum = crate::format::u64_at(&bytes, at).unwrap_or_default();
        Ok(FileEntry { path, length: bytes.len() as u64, checksum })
    }

    /// Writes and syncs a tombstone file.
    pub fn write_tombstones(&self, segment: u64, version: u32, bitmap: &RoaringBitmap) -> Result<FileEntry> {
        let base = segment_dir(segment);
        let mut bytes = Vec::with_capacity(bitmap.serialized_size());
        let path = format!("{base}/del.{version}");
        bitmap.serialize_into(&mut bytes).map_err(Error::io("write", &self.dir.join(&path)))?;
        let file =
            FileBuilder::new(Kind::Tombstones, self.database).section(tombstones::BITMAP, bytes).finish();
        let entry = self.write(path, file)?;
        self.vfs.sync_dir(&self.dir.join(base))?;
        Ok(entry)
    }

    /// Writes and syncs the rows and vectors of a generation into a fresh directory.
    pub fn write_vectors(
        &self,
        segment: u64,
        set: VectorSet,
        columns: &VectorColumns,
    ) -> Result<Vec<FileEntry>> {
        let mut runs = VectorRuns {
            first: columns.first.clone(),
            spans: columns.spans.clone(),
            ..VectorRuns::default()
        };
        let rows = 0..columns.spans.len();
        let (high, low, scales) = (&columns.high[..], &columns.low[..], columns.scales.as_slice());
        let (norms, full) = (columns.norms.as_slice(), columns.full.as_slice());
        runs.runs.push(Run { of: rows.len(), rows, high, low, scales, norms, full });
        self.write_runs(segment, set, &runs)
    }

    /// The same for rows that lie in several places: each is read and written once, and none is copied meanwhile.
    pub fn write_runs(&self, segment: u64, set: VectorSet, runs: &VectorRuns<'_>) -> Result<Vec<FileEntry>> {
        let folder = vectors_dir(segment, set);
        remove_dir_if_present(self.vfs, &self.dir.join(&folder))?;
        self.vfs.create_dir(&self.dir.join(&folder))?;
        let single = runs.first.iter().enumerate().all(|(n, &first)| first as usize == n);
        let first = if single { &[] } else { runs.first.as_slice() };
        let empty = runs.spans.iter().all(|span| *span == [0, 0]);
        let spans = if empty { &[] } else { runs.spans.as_slice() };
        let columns = [
            (rows::FIRST, vec![bytemuck::cast_slice(first)]),
            (rows::SPANS, vec![bytemuck::cast_slice(spans)]),
        ];
        let mut entries = vec![self.write_pieces(format!("{folder}/rows"), Kind::Rows, &columns)?];
        if runs.runs.iter().any(|run| !run.high.is_empty()) {
            let rungs = runs.runs.iter().map(Run::rungs).max().unwrap_or_default();
            let norms = (0..rungs).flat_map(|rung| runs.pieces(move |run| run.norms_of(rung)));
            let columns = [
                (vectors::HIGH, runs.pieces(Run::high).collect()),
                (vectors::LOW, runs.pieces(Run::low).collect()),
                (vectors::SCALES, runs.pieces(Run::scales).collect()),
                (vectors::NORMS, norms.collect()),
            ];
            let path = format!("{folder}/codes");
            entries.push(self.write_pieces_of(&runs.segments, path, Kind::Codes, &columns)?);
        }
        if runs.runs.iter().any(|run| !run.full.is_empty()) {
            let columns = [(vectors::FULL, runs.pieces(Run::full).collect())];
            let path = format!("{folder}/full");
            entries.push(self.write_pieces_of(&runs.segments, path, Kind::Full, &columns)?);
        }
        self.vfs.sync_dir(&self.dir.join(&folder))?;
        self.vfs.sync_dir(&self.dir.join(segment_dir(segment)))?;
        Ok(entries)
    }

    /// Writes and syncs a container whose sections are put together from pieces.
    fn write_pieces(&self, path: String, kind: Kind, sections: &[(u32, Vec<&[u8]>)]) -> Result<FileEntry> {
        self.write_pieces_of(&[], path, kind, sections)
    }

    /// The same of pieces that belong to segments, which are taken out of memory piece by piece.
    fn write_pieces_of(
        &self,
        segments: &[Arc<Segment>],
        path: String,
        kind: Kind,
        sections: &[(u32, Vec<&[u8]>)],
    ) -> Result<FileEntry> {
        let full = self.dir.join(&path);
        let mut file = ContainerWriter::create(self.vfs, full, kind, self.database, sections.len())?;
        let mut read = 0;
        for (id, pieces) in sections {
            file.begin(*id);
            for piece in pieces.iter().flat_map(|piece| piece.chunks(RELEASED_AFTER)) {
                file.write(piece)?;
                read += piece.len();
                if read >= RELEASED_AFTER {
                    segments.iter().for_each(|segment| segment.release(true));
                    read = 0;
                }
            }
        }
        file.finish(path)
    }

    /// Writes and syncs the codes of a generation anew, in the place of a damaged file. Its name is free as soon as no
    /// manifest is read any more that has it: a reader of one meets another file there, which it holds for damage.
    pub fn write_codes(&self, segment: u64, set: VectorSet, columns: &VectorColumns) -> Result<FileEntry> {
        let folder = vectors_dir(segment, set);
        let sections = [
            (vectors::HIGH, vec![&columns.high[..]]),
            (vectors::LOW, vec![&columns.low[..]]),
            (vectors::SCALES, vec![bytemuck::cast_slice(&columns.scales)]),
            (vectors::NORMS, vec![bytemuck::cast_slice(&columns.norms)]),
        ];
        let entry = self.write_pieces(format!("{folder}/codes"), Kind::Codes, &sections)?;
        self.vfs.sync_dir(&self.dir.join(&folder))?;
        Ok(entry)
    }

    /// Writes and syncs the metadata columns of a segment.
    pub fn write_attrs(&self, segment: u64, columns: &Columns) -> Result<FileEntry> {
        let base = segment_dir(segment);
        let sections = columns.sections().map(|(id, bytes)| (id, vec![bytes]));
        let entry = self.write_pieces(format!("{base}/attrs"), Kind::Attrs, &sections)?;
        self.vfs.sync_dir(&self.dir.join(base))?;
        Ok(entry)
    }

    /// Writes and syncs the graph of a generation, and the heads of its rows, high and low plane, if there are any.
    pub fn write_graph(
        &self,
        segment: u64,
        set: VectorSet,
        graph: &[u8],
        head: &[Vec<u8>; 2],
    ) -> Result<FileEntry> {
        let folder = vectors_dir(segment, set);
        let heads = [vectors::HEAD_HIGH, vectors::HEAD_LOW].into_iter().zip(head);
        let heads = heads.filter(|(_, plane)| !plane.is_empty()).map(|(id, plane)| (id, vec![&plane[..]]));
        let sections: Vec<_> = [(vectors::GRAPH, vec![graph])].into_iter().chain(heads).collect();
        let entry = self.write_pieces(format!("{folder}/graph"), Kind::Graph, &sections)?;
        self.vfs.sync_dir(&self.dir.join(&folder))?;
        Ok(entry)
    }
}

/// Rows and vectors of a generation in memory, column by column.
#[derive(Debug, Clone, Default)]
pub struct VectorColumns {
    /// First row of each document, and the number of rows.
    pub first: Vec<u32>,
    /// Byte bounds of each row.
    pub spans: Vec<[u32; 2]>,
    /// High plane of the codes; empty without int8.
    pub high: Vec<u8>,
    /// Low plane.
    pub low: Vec<u8>,
    /// Scale of each row; empty under cosine.
    pub scales: Vec<f32>,
    /// Inverse norms, rung by rung.
    pub norms: Vec<f32>,
    /// Row-major values; empty without f32.
    pub full: Vec<f32>,
}

/// Rows of a generation on their way into a segment, as pieces of columns that lie elsewhere.
#[derive(Default)]
pub struct VectorRuns<'a> {
    /// First row of each document, and the number of rows.
    pub first: Vec<u32>,
    /// Byte bounds of each row.
    pub spans: Vec<[u32; 2]>,
    /// The rows, in order.
    pub runs: Vec<Run<'a>>,
    /// Segments to which they belong.
    pub segments: Vec<Arc<Segment>>,
}

/// Consecutive rows of a block.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// Which rows of the block.
    pub rows: Range<usize>,
    /// Rows of the block.
    pub of: usize,
    /// High plane of the whole block's codes; empty without int8.
    pub high: &'a [u8],
    /// Low plane.
    pub low: &'a [u8],
    /// Scales of the whole block; empty under cosine.
    pub scales: &'a [f32],
    /// Inverse norms of the whole block, rung by rung.
    pub norms: &'a [f32],
    /// Values of the whole block; empty without f32.
    pub full: &'a [f32],
}

impl<'a> VectorRuns<'a> {
    fn pieces(&self, column: impl Fn(&Run<'a>) -> &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.runs.iter().map(column)
    }
}

impl<'a> Run<'a> {
    /// The part of a column that belongs to the rows.
    fn part<T: Pod>(&self, column: &'a [T]) -> &'a [u8] {
        let width = column.len() / self.of.max(1);
        let part = column.get(self.rows.start * width..self.rows.end * width);
        bytemuck::cast_slice(part.unwrap_or_default())
    }

    fn high(&self) -> &'a [u8] {
        self.part(self.high)
    }

    fn low(&self) -> &'a [u8] {
        self.part(self.low)
    }

    fn scales(&self) -> &'a [u8] {
        self.part(self.scales)
    }

    fn full(&self) -> &'a [u8] {
        self.part(self.full)
    }

    fn rungs(&self) -> usize {
        self.norms.len() / self.of.max(1)
    }

    fn norms_of(&self, rung: usize) -> &'a [u8] {
        self.part(self.norms.get(rung * self.of..(rung + 1) * self.of).unwrap_or_default())
    }
}

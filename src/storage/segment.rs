//! Sealed segments: a directory of immutable files, written once (see [`segment_writer`](super::segment_writer)) and mapped.
//!
//! Opening checks headers, lengths and identities against the manifest; blocks are verified when first touched.

use std::collections::BTreeMap;
use std::path::Path;

use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64;

use super::SEGMENT_DIR;
use super::derived::Derived;
use super::documents::{Documents, StoredText};
use super::paging::Paging;
use super::segment_file::{Damage, SegmentFile};
use super::vfs::Vfs;
use crate::error::{Error, Result};
use crate::format::attrs::AttrsView;
use crate::format::file::{BLOCK_LEN, DatabaseId, Kind, PAGE_LEN};
use crate::format::guard::Guard;
use crate::format::manifest::{SegmentEntry, VectorSet};
use crate::format::segment::{ids, rows, tombstones, vectors};

/// The files of one generation in a segment.
pub struct SegmentVectors {
    rows: SegmentFile,
    codes: Option<Derived>,
    full: Option<SegmentFile>,
    graph: Option<Derived>,
    paging: Paging,
}

/// The columns of a generation that its codes lie in; all empty where there are none.
#[derive(Clone, Copy, Default)]
pub struct CodeColumns<'a> {
    /// The high and the low plane.
    pub planes: [&'a [u8]; 2],
    /// The scale of each row; empty under cosine.
    pub scales: &'a [f32],
    /// Inverse norms, rung by rung.
    pub norms: &'a [f32],
    /// Verifies what is read of them.
    pub guard: Option<Guard<'a>>,
}

/// What a file of a graph holds.
#[derive(Clone, Copy)]
pub struct GraphBytes<'a> {
    /// The frozen graph.
    pub graph: &'a [u8],
    /// The beginnings of all rows of the high and the low plane; empty where walks read none.
    pub head: [&'a [u8]; 2],
    /// Verifies what is read of them.
    pub guard: Option<Guard<'a>>,
}

impl SegmentVectors {
    /// First row of each document, and one past the last: `documents + 1` values, ascending. Empty where each
    /// document has one row.
    pub fn first(&self) -> Result<&[u32]> {
        self.rows.section(rows::FIRST)
    }

    /// Byte bounds of each row's chunk; empty where all chunks are empty.
    pub fn spans(&self) -> Result<&[[u32; 2]]> {
        self.rows.section(rows::SPANS)
    }

    /// The codes; empty where the codec stores none, or where they are damaged and f32 rows serve in their place.
    pub fn codes(&self) -> Result<CodeColumns<'_>> {
        let Some(codes) = &self.codes else { return Ok(CodeColumns::default()) };
        let found = codes.read(|file| {
            Ok(CodeColumns {
                planes: [file.scattered(vectors::HIGH)?, file.scattered(vectors::LOW)?],
                scales: file.scattered(vectors::SCALES)?,
                norms: file.scattered(vectors::NORMS)?,
                guard: file.guard(),
            })
        })?;
        match found {
            Some(columns) => Ok(columns),
            None if self.full.is_some() => Ok(CodeColumns::default()),
            None => Err(codes.error()),
        }
    }

    /// f32 rows, and what verifies those that are read; empty where the codec stores none.
    pub fn full(&self) -> Result<(&[f32], Option<Guard<'_>>)> {
        let Some(file) = &self.full else { return Ok((&[], None)) };
        match file.damage() {
            Some(damage) => Err(damage.error()),
            None => Ok((file.scattered(vectors::FULL)?, file.guard())),
        }
    }

    /// The frozen graph, if one was built and is sound, as are the codes that it was measured with.
    pub fn graph(&self) -> Result<Option<GraphBytes<'_>>> {
        if self.damaged_codes().is_some() {
            return Ok(None);
        }
        let Some(graph) = &self.graph else { return Ok(None) };
        graph.read(|file| {
            let head = |id| if file.has(id) { file.scattered(id) } else { Ok(&[][..]) };
            let head = [head(vectors::HEAD_HIGH)?, head(vectors::HEAD_LOW)?];
            Ok(GraphBytes { graph: file.scattered(vectors::GRAPH)?, head, guard: file.guard() })
        })
    }

    /// Notes that the graph contradicts itself or the rows, although its checksums hold.
    ///
    /// # Errors
    /// The error itself, if it says something else.
    pub fn condemn_graph(&self, error: Error) -> Result<()> {
        self.graph.as_ref().map_or(Ok(()), |graph| graph.condemn(error))
    }

    /// What is wrong with the codes, as far as is known.
    pub fn damaged_codes(&self) -> Option<&Damage> {
        self.codes.as_ref()?.damage()
    }

    /// What is wrong with the graph, as far as is known.
    pub fn damaged_graph(&self) -> Option<&Damage> {
        self.graph.as_ref()?.damage()
    }

    /// Whether codes can be made anew.
    pub fn has_full(&self) -> bool {
        self.full.is_some()
    }

    /// What is known of the pages that walks read.
    pub fn paging(&self) -> &Paging {
        &self.paging
    }

    /// Tells the system what a scan is about to read: codes, or f32 rows if it is exact or there are no codes.
    pub fn expect_scan(&self, exact: bool) {
        let codes = self.codes.as_ref().and_then(Derived::file);
        let scanned = if exact { self.full.as_ref().or(codes) } else { codes };
        scanned.or(self.full.as_ref()).into_iter().for_each(SegmentFile::expect_all);
    }

    /// Verifies all of it, once. Of damage that readers can do without a note is kept.
    pub fn verify(&self) -> Result<()> {
        [Some(&self.rows), self.full.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(SegmentFile::verify_rest)?;
        self.verify_derived()?;
        match &self.codes {
            Some(codes) if codes.damage().is_some() && self.full.is_none() => Err(codes.error()),
            _ => Ok(()),
        }
    }

    /// Verifies what follows from the rest, once, and keeps notes of damage.
    fn verify_derived(&self) -> Result<()> {
        self.derived().try_for_each(|derived| derived.read(SegmentFile::verify_rest).map(|_| ()))
    }

    fn derived(&self) -> impl Iterator<Item = &Derived> {
        [self.codes.as_ref(), self.graph.as_ref()].into_iter().flatten()
    }

    fn files(&self) -> impl Iterator<Item = &SegmentFile> {
        let derived = self.derived().filter_map(Derived::file);
        [Some(&self.rows), self.full.as_ref()].into_iter().flatten().chain(derived)
    }
}

/// A sealed segment.
pub struct Segment {
    /// Its entry in the manifest.
    pub entry: SegmentEntry,
    ids: SegmentFile,
    docs: Documents<SegmentFile>,
    attrs: Derived,
    generations: BTreeMap<u32, SegmentVectors>,
}

/// Directory of a segment, relative to the database.
pub fn segment_dir(id: u64) -> String {
    format!("{SEGMENT_DIR}/{id:010}")
}

/// Directory of a generation in a segment, relative to the database.
pub fn vectors_dir(segment: u64, set: VectorSet) -> String {
    format!("{}/gen.{}.{}", segment_dir(segment), set.generation, set.version)
}

/// Requests what opening reads of each file, the first block and the trailer, so that the disk serves all at a time.
fn expect_ends(vfs: &dyn Vfs, dir: &Path, entry: &SegmentEntry) {
    for file in &entry.files {
        // What is wrong with a file is said when it is opened.
        let Ok(bytes) = vfs.map(&dir.join(&file.path)) else { continue };
        /// Of page checksums a search needs those of the pages that it touches; so few may as well be read at once.
        const FEW: usize = 1 << 20;
        let sums =
            bytes.len() / BLOCK_LEN * size_of::<u64>() + (bytes.len() / PAGE_LEN * size_of::<u64>()).min(FEW);
        bytes.advise_willneed(0..BLOCK_LEN);
        bytes.advise_willneed(bytes.len().saturating_sub(sums + BLOCK_LEN / 16)..bytes.len());
    }
}

impl Segment {
    /// Opens all files of a segment.
    pub fn open(vfs: &dyn Vfs, dir: &Path, entry: &SegmentEntry, database: &DatabaseId) -> Result<Self> {
        expect_ends(vfs, dir, entry);
        let base = segment_dir(entry.id);
        let find = |path: &str| entry.files.iter().find(|f| f.path == path);
        let missing = |path: &str| {
            Error::corrupt(dir.join(path), 0, "the manifest does not list this file of the segment")
        };
        let open = |path: String, kind| {
            find(&path).map(|file| SegmentFile::open(vfs, dir, file, kind, database)).transpose()
        };
        let must = |path: String, kind| open(path.clone(), kind)?.ok_or_else(|| missing(&path));
        let derived = |path: String, kind, follows| {
            let opened = find(&path).map(|file| SegmentFile::map(vfs, dir, file, kind, database));
            opened.map(|opened| Derived::new(opened, follows)).transpose()
        };
        let mut generations = BTreeMap::new();
        for &set in &entry.vectors {
            let folder = vectors_dir(entry.id, set);
            let full = open(format!("{folder}/full"), Kind::Full)?;
            let files = SegmentVectors {
                rows: must(format!("{folder}/rows"), Kind::Rows)?,
                codes: derived(format!("{folder}/codes"), Kind::Codes, full.is_some())?,
                full,
                graph: derived(format!("{folder}/graph"), Kind::Graph, true)?,
                paging: Paging::default(),
            };
            generations.insert(set.generation, files);
        }
        let attrs = format!("{base}/attrs");
        let segment = Self {
            entry: entry.clone(),
            ids: must(format!("{base}/ids"), Kind::Ids)?,
            docs: Documents::new(must(format!("{base}/docs"), Kind::Docs)?),
            attrs: derived(attrs.clone(), Kind::Attrs, true)?.ok_or_else(|| missing(&attrs))?,
            generations,
        };
        if segment.ids.count::<u64>(ids::SEQUENCES)? != entry.documents as usize {
            return Err(segment.ids.corrupt(ids::SEQUENCES, "the number of documents is not the manifest's"));
        }
        Ok(segment)
    }

    /// Documents, deleted ones included.
    pub fn documents(&self) -> u32 {
        self.entry.documents
    }

    /// Id of a document.
    pub fn id(&self, document: u32) -> Result<&str> {
        let bounds: &[u32] = self.ids.section_range(ids::OFFSETS, document as usize, 2)?;
        let &[start, end] = bounds else { return Err(self.ids.corrupt(ids::OFFSETS, "an id is not listed")) };
        let bytes: &[u8] =
            self.ids.section_range(ids::BYTES, start as usize, end.saturating_sub(start) as usize)?;
        std::str::from_utf8(bytes).map_err(|_| self.ids.corrupt(ids::BYTES, "an id is not UTF-8"))
    }

    /// Requests the ids of documents that are read soon, all at a time, unless they were read before.
    pub fn expect_ids(&self, documents: impl Iterator<Item = u32> + Clone) {
        documents.clone().for_each(|d| self.ids.request::<u32>(ids::OFFSETS, d as usize, 2));
        for document in documents {
            if let Ok(&[start, end]) = self.ids.section_range(ids::OFFSETS, document as usize, 2) {
                self.ids.request::<u8>(ids::BYTES, start as usize, u32::saturating_sub(end, start) as usize);
            }
        }
    }

    /// Sequence number of a document.
    pub fn sequence(&self, document: u32) -> Result<u64> {
        let found: &[u64] = self.ids.section_range(ids::SEQUENCES, document as usize, 1)?;
        Ok(found.first().copied().unwrap_or_default())
    }

    /// The document with this id, deleted or not. Touches a logarithm of the hashes.
    pub fn find(&self, id: &str) -> Result<Option<u32>> {
        let wanted = xxh3_64(id.as_bytes());
        let hash = |at: usize| -> Result<u64> {
            let found: &[u64] = self.ids.section_range(ids::HASHES, at, 1)?;
            Ok(found.first().copied().unwrap_or_default())
        };
        let count = self.ids.count::<u64>(ids::HASHES)?;
        let (mut at, mut end) = (0, count);
        while at < end {
            let middle = at + (end - at) / 2;
            if hash(middle)? < wanted { at = middle + 1 } else { end = middle }
        }
        while at < count && hash(at)? == wanted {
            let order: &[u32] = self.ids.section_range(ids::ORDER, at, 1)?;
            let document = order.first().copied().unwrap_or_default();
            if self.id(document)? == id {
                return Ok(Some(document));
            }
            at += 1;
        }
        Ok(None)
    }

    /// Tells the system that all ids and documents are about to be read.
    pub fn expect_all(&self) {
        [&self.ids, self.docs.file()].into_iter().for_each(SegmentFile::expect_all);
    }

    /// Takes out of this process's memory what walks do not read, or all files.
    pub fn release(&self, all: bool) {
        let (walked, rest): (Vec<_>, Vec<_>) = self.files().partition(|file| file.is_walked());
        rest.into_iter().chain(walked.into_iter().filter(|_| all)).for_each(SegmentFile::release);
    }

    /// Title, text and metadata of a document.
    pub fn text(&self, document: u32) -> Result<StoredText> {
        self.docs.read(document)
    }

    /// The metadata columns.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are damaged.
    pub fn attrs(&self) -> Result<AttrsView<'_>> {
        let file = self.attrs.file().ok_or_else(|| self.attrs.error())?;
        Ok(AttrsView::new(file))
    }

    /// What is wrong with the metadata columns, as far as is known.
    pub fn damaged_attrs(&self) -> Option<&Damage> {
        self.attrs.damage()
    }

    /// Verifies the files that can be made anew, once, and keeps notes of damage.
    pub fn verify_derived(&self) -> Result<()> {
        self.attrs.read(SegmentFile::verify_rest)?;
        self.generations.values().try_for_each(SegmentVectors::verify_derived)
    }

    /// What is known to be wrong with files that searches may do without.
    pub fn damages(&self) -> impl Iterator<Item = &Damage> {
        self.derived().filter_map(Derived::damage)
    }

    /// Whether any file is known to be damaged that can be made anew.
    pub fn is_healable(&self) -> bool {
        self.derived().any(Derived::is_healable)
    }

    fn derived(&self) -> impl Iterator<Item = &Derived> {
        [&self.attrs].into_iter().chain(self.generations.values().flat_map(SegmentVectors::derived))
    }

    /// The vectors of a generation, if the segment has them.
    pub fn vectors(&self, generation: u32) -> Option<&SegmentVectors> {
        self.generations.get(&generation)
    }

    /// The tombstones that the manifest lists.
    pub fn tombstones(&self, vfs: &dyn Vfs, dir: &Path, database: &DatabaseId) -> Result<RoaringBitmap> {
        if self.entry.tombstones == 0 {
            return Ok(RoaringBitmap::new());
        }
        let path = format!("{}/del.{}", segment_dir(self.entry.id), self.entry.tombstones);
        let listed = self.entry.files.iter().find(|f| f.path == path);
        let entry = listed
            .ok_or_else(|| Error::corrupt(dir.join(&path), 0, "the manifest does not list this file"))?;
        let file = SegmentFile::open(vfs, dir, entry, Kind::Tombstones, database)?;
        let bytes: &[u8] = file.section(tombstones::BITMAP)?;
        let bitmap = RoaringBitmap::deserialize_from(bytes)
            .map_err(|e| file.corrupt(tombstones::BITMAP, &format!("the bitmap is malformed: {e}")))?;
        if bitmap.len() != u64::from(self.entry.deleted)
            || bitmap.max().is_some_and(|m| m >= self.entry.documents)
        {
            return Err(
                file.corrupt(tombstones::BITMAP, "the tombstones are not those that the manifest counts")
            );
        }
        Ok(bitmap)
    }

    /// Every file that was opened and is not known to be damaged.
    pub fn files(&self) -> impl Iterator<Item = &SegmentFile> {
        [&self.ids, self.docs.file()]
            .into_iter()
            .chain(self.attrs.file())
            .chain(self.generations.values().flat_map(SegmentVectors::files))
    }
}

//! Snapshots: one consistent, unchanging view of documents, vectors and generation, cloned once a query.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::active::{Active, ActiveDocument, CHUNK_DOCUMENTS, parse_meta};
use super::columns::Shape;
use crate::error::{Error, Result};
use crate::format::graph::GraphView;
use crate::format::manifest::{Generation, Manifest};
use crate::format::segment::DocumentRows;
use crate::index::mask::RowBits;
use crate::index::{Codes, Guards, OnDisk, RowMask, VectorBlock};
use crate::storage::documents::StoredText;
use crate::storage::paging::Paging;
use crate::storage::segment::{CodeColumns, GraphBytes, Segment, SegmentVectors};
use crate::types::{ChunkRef, Document};

/// Where the documents of a part lie.
#[derive(Clone)]
pub(crate) enum Source {
    /// In a sealed segment.
    Sealed(Arc<Segment>),
    /// In the log with this number.
    Active(u64, Active),
}

/// A sealed segment or an active one, with its deleted documents.
#[derive(Clone)]
pub(crate) struct Part {
    /// The documents.
    pub source: Source,
    /// Those deleted or replaced.
    pub dead: Arc<RoaringBitmap>,
}

/// A document's place: part and number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Part of the snapshot.
    pub part: u32,
    /// Document in the part.
    pub document: u32,
}

/// One consistent view.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The manifest it rests on.
    pub manifest: Arc<Manifest>,
    /// Sealed segments, then active ones in log order.
    pub parts: Vec<Part>,
    /// Shape of each generation's rows, in the manifest's order.
    pub shapes: Vec<Shape>,
}

/// Contiguous rows of a part, as the index wants them.
pub(crate) struct Rows<'a> {
    /// The vectors.
    pub vectors: VectorBlock<'a>,
    /// Their graph.
    pub graph: Option<GraphView<'a>>,
    /// First row of each document, and the number of rows; empty where each document has one row.
    pub first: &'a [u32],
    /// Bounds of each row's chunk; empty where all chunks are empty.
    pub spans: &'a [[u32; 2]],
    /// Number of the first document in the part.
    pub base: u32,
}

impl Rows<'_> {
    /// Has searches request pages, if the rows are not in memory.
    pub fn read_with(&mut self, paging: &Paging) {
        let head = paging.is_head_on_disk(&self.walked());
        let low = paging.is_low_on_disk(self.vectors.codes.low);
        let tail = paging.is_tail_on_disk();
        self.vectors.on_disk = OnDisk { head, low, tail };
        let rest = match self.vectors.has_codes() {
            true => low && self.vectors.head.codes.high.is_empty(),
            false => tail,
        };
        self.graph = self.graph.take().map(|graph| {
            let by_page = head || rest && !graph.sight().rough;
            graph.paged(by_page)
        });
    }

    /// Has the system load what comes next, if the rows are not in memory.
    pub fn request_next(&self, paging: &Paging) {
        if self.vectors.on_disk != OnDisk::default() {
            let VectorBlock { head, codes, full, .. } = self.vectors;
            let lists = self.graph.as_ref().map_or(&[][..], GraphView::lists);
            let rest = [codes.high, codes.low, bytemuck::cast_slice(full)];
            paging.request_next(&[&[lists, head.codes.high, head.codes.low][..], &rest].concat());
        }
    }

    /// What walks read of the lists and of the codes.
    fn walked(&self) -> [&[u8]; 3] {
        let VectorBlock { head, codes, .. } = self.vectors;
        let lists = self.graph.as_ref().map_or(&[][..], GraphView::lists);
        let [high, low] =
            if head.codes.high.is_empty() { [codes.high, &[]] } else { [head.codes.high, head.codes.low] };
        [lists, high, low]
    }

    /// Whether damage was found in what was read of them: then nothing that came of it counts. Read again, they are
    /// without the damaged part, or an error.
    pub fn is_damaged(&self) -> bool {
        self.vectors.guards.is_damaged() || self.graph.as_ref().is_some_and(GraphView::is_damaged)
    }

    /// Numbers in the part of the documents of this block.
    pub fn documents(&self) -> std::ops::Range<u32> {
        let count = if self.first.is_empty() { self.vectors.len } else { self.first.len() - 1 };
        self.base..self.base + count as u32
    }

    /// Document (number in the part) and chunk of a row.
    pub fn locate(&self, row: u32) -> (u32, ChunkRef) {
        let (document, start) = match self.first {
            [] => (row, row),
            first => {
                let document = first.partition_point(|&f| f <= row).saturating_sub(1);
                (document as u32, first.get(document).copied().unwrap_or_default())
            }
        };
        let [from, to] = self.spans.get(row as usize).copied().unwrap_or_default();
        (self.base + document, ChunkRef { index: row - start.min(row), start: from, end: to })
    }

    /// Rows of a document (number in the part); empty for a document of another block.
    pub fn rows_of(&self, document: u32) -> std::ops::Range<u32> {
        let Some(at) = document.checked_sub(self.base) else { return 0..0 };
        let len = self.vectors.len as u32;
        match self.first {
            [] if at < len => at..at + 1,
            [] => 0..0,
            first => match first.get(at as usize..at as usize + 2) {
                Some(&[start, end]) if start <= end && end <= len => start..end,
                _ => 0..0,
            },
        }
    }

    /// The rows of the given documents (numbers in the part), and how many of these documents have any.
    pub fn mask(&self, documents: &RowMask) -> (RowMask, usize) {
        let documents = documents.slice(self.documents());
        if self.first.is_empty() {
            let count = documents.len();
            return (documents, count);
        }
        let (mut bits, mut count) = (RowBits::new(self.vectors.len as u32), 0);
        documents.for_each_batch(|batch| {
            for rows in batch.iter().map(|document| self.rows_of(self.base + document)) {
                count += usize::from(!rows.is_empty());
                bits.insert_range(rows);
            }
        });
        (bits.finish(), count)
    }

    /// A document's rows with their vectors in f32.
    pub fn extract(&self, document: u32, generation: u32) -> DocumentRows {
        let mut vectors = Vec::new();
        let mut spans = Vec::new();
        let mut values = Vec::new();
        for row in self.rows_of(document) {
            self.vectors.values_of(row, &mut values);
            vectors.extend_from_slice(&values);
            spans.push(self.spans.get(row as usize).copied().unwrap_or_default());
        }
        DocumentRows { generation, dim: self.vectors.dim as u32, spans, vectors }
    }
}

impl Part {
    /// Documents, deleted ones included.
    pub fn documents(&self) -> u32 {
        match &self.source {
            Source::Sealed(segment) => segment.documents(),
            Source::Active(_, active) => active.documents(),
        }
    }

    /// Live documents.
    pub fn live(&self) -> u64 {
        u64::from(self.documents()) - self.dead.len()
    }

    /// Numbers of the live documents, ascending.
    pub fn live_documents(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.documents()).filter(|&d| !self.dead.contains(d))
    }

    /// Id of a document.
    pub fn id(&self, document: u32) -> Result<String> {
        self.id_of(document).map(str::to_owned)
    }

    /// Id of a document, in place.
    pub fn id_of(&self, document: u32) -> Result<&str> {
        match &self.source {
            Source::Sealed(segment) => segment.id(document),
            Source::Active(_, active) => Ok(&in_memory(active, document)?.id),
        }
    }

    /// Sequence number of a document.
    pub fn sequence(&self, document: u32) -> Result<u64> {
        match &self.source {
            Source::Sealed(segment) => segment.sequence(document),
            Source::Active(_, active) => Ok(in_memory(active, document)?.sequence),
        }
    }

    /// The live document with this id.
    pub fn find(&self, id: &str) -> Result<Option<u32>> {
        let found = match &self.source {
            Source::Sealed(segment) => segment.find(id)?,
            Source::Active(_, active) => active.find(id),
        };
        Ok(found.filter(|&d| !self.dead.contains(d)))
    }

    /// A whole document.
    pub fn document(&self, document: u32) -> Result<Document> {
        match &self.source {
            Source::Sealed(segment) => {
                let text = segment.text(document)?;
                let meta = parse_meta(&text.meta);
                let id = segment.id(document)?.to_owned();
                Ok(Document { id, title: text.title, text: text.text, meta, vector: None })
            }
            Source::Active(_, active) => {
                let found = in_memory(active, document)?;
                let (title, text) = (found.text.title.clone(), found.text.text.clone());
                Ok(Document { id: found.id.clone(), title, text, meta: found.meta().clone(), vector: None })
            }
        }
    }

    /// Title, text and metadata of a document as they are stored.
    pub fn text(&self, document: u32) -> Result<StoredText> {
        match &self.source {
            Source::Sealed(segment) => segment.text(document),
            Source::Active(_, active) => Ok(in_memory(active, document)?.text.clone()),
        }
    }

    /// Verified rows of one document in f32, if the part has them and storing them again gives the same bytes.
    pub fn stored_rows(&self, document: u32, generation: u32, shape: &Shape) -> Result<Option<DocumentRows>> {
        let number = match &self.source {
            Source::Sealed(segment) => {
                segment.vectors(generation).map_or(Ok(()), SegmentVectors::verify)?;
                0
            }
            Source::Active(..) => document as usize / CHUNK_DOCUMENTS,
        };
        let Some(block) = self.block(number, generation, shape)? else { return Ok(None) };
        let rows = block.extract(document, generation);
        let mut values = rows.vectors.chunks_exact(shape.dim.max(1)).zip(block.rows_of(document));
        let whole = !rows.spans.is_empty() && values.all(|(values, row)| block.vectors.restores(row, values));
        Ok(whole.then_some(rows))
    }

    /// Number of blocks that [`Self::block`] can give; some of them may be missing.
    pub fn blocks(&self) -> usize {
        match &self.source {
            Source::Sealed(_) => 1,
            Source::Active(_, active) => active.chunks.len(),
        }
    }

    /// What is known of the pages of the vectors of `generation`, if they lie in files.
    pub fn paging(&self, generation: u32) -> Option<&Paging> {
        match &self.source {
            Source::Sealed(segment) => segment.vectors(generation).map(SegmentVectors::paging),
            Source::Active(..) => None,
        }
    }

    /// One block of the vectors of `generation`; `None` where the part lacks them. The cost does not depend on the
    /// number of rows: what a search touches here and there is verified then, and [`Rows::is_damaged`] tells.
    pub fn block<'a>(&'a self, number: usize, generation: u32, shape: &'a Shape) -> Result<Option<Rows<'a>>> {
        match &self.source {
            Source::Sealed(segment) => {
                let vectors = segment.vectors(generation).filter(|_| number == 0);
                vectors.map(|v| sealed_rows(v, segment.documents(), shape)).transpose()
            }
            Source::Active(_, active) => {
                let Some(chunk) = active.chunks.get(number) else { return Ok(None) };
                let c = chunk.rows.columns();
                let codes = Codes { high: &c.high, low: &c.low };
                let vectors = block(shape, c.spans.len(), codes, &c.scales, &c.norms, &c.full)?;
                let vectors = vectors.sketched(chunk.sketches());
                let base = (number * CHUNK_DOCUMENTS) as u32;
                Ok(Some(Rows { vectors, graph: None, first: &c.first, spans: &c.spans, base }))
            }
        }
    }

    /// The vectors of `generation` in this part, block by block, verified; none where the part lacks them.
    pub fn rows<'a>(&'a self, generation: u32, shape: &'a Shape) -> Result<Vec<Rows<'a>>> {
        if let Source::Sealed(segment) = &self.source
            && let Some(vectors) = segment.vectors(generation)
        {
            vectors.verify()?;
        }
        (0..self.blocks()).filter_map(|n| self.block(n, generation, shape).transpose()).collect()
    }
}

fn in_memory(active: &Active, document: u32) -> Result<&Arc<ActiveDocument>> {
    active
        .document(document)
        .ok_or_else(|| Error::corrupt("log", 0, format!("no document {document} in memory")))
}

fn sealed_rows<'a>(vectors: &'a SegmentVectors, documents: u32, shape: &'a Shape) -> Result<Rows<'a>> {
    let CodeColumns { planes: [high, low], scales, norms, guard } = vectors.codes()?;
    let codes = Codes { high, low };
    let (first, spans) = (vectors.first()?, vectors.spans()?);
    let len = match first {
        [] => documents,
        [0, .., last] | [last @ 0] => *last,
        _ => return Err(Error::corrupt("rows", 0, "the rows of the first document do not begin at 0")),
    } as usize;
    if !first.is_empty() && first.len() != documents as usize + 1 || !spans.is_empty() && spans.len() != len {
        return Err(Error::corrupt("rows", 0, "the rows are not those of the documents"));
    }
    let (full, of_full) = vectors.full()?;
    let rows = block(shape, len, codes, scales, norms, full)?;
    let rows = rows.guarded(Guards { codes: guard, head: None, full: of_full });
    let (rows, graph) = match vectors.graph()?.map(|found| with_graph(&rows, &found)) {
        None => (rows, None),
        Some(Ok((rows, graph))) => (rows, Some(graph)),
        // Searches find the same without it, if later.
        Some(Err(error)) => vectors.condemn_graph(error).map(|()| (rows, None))?,
    };
    Ok(Rows { vectors: rows, graph, first, spans, base: 0 })
}

/// Rows with their heads, and their graph.
fn with_graph<'a>(
    rows: &VectorBlock<'a>,
    found: &GraphBytes<'a>,
) -> Result<(VectorBlock<'a>, GraphView<'a>)> {
    let graph = match found.guard {
        Some(guard) => GraphView::parse_guarded(found.graph, guard)?,
        None => GraphView::parse(found.graph)?,
    };
    if graph.nodes() != rows.len {
        let what = format!("{} nodes for {} rows", graph.nodes(), rows.len);
        return Err(Error::corrupt("graph", 8, what));
    }
    let [high, low] = found.head;
    let rows = rows.with_head(graph.sight().rung as usize, Codes { high, low })?;
    Ok((rows.guarded(Guards { head: found.guard, ..rows.guards }), graph))
}

/// Columns as a block.
pub(super) fn block<'a>(
    shape: &'a Shape,
    len: usize,
    codes: Codes<'a>,
    scales: &'a [f32],
    norms: &'a [f32],
    full: &'a [f32],
) -> Result<VectorBlock<'a>> {
    VectorBlock::new(shape.dim, shape.metric, &shape.ladder, len, codes, scales, norms, full)
}

impl Snapshot {
    /// Live documents.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(Part::live).sum()
    }

    /// The place of a live document.
    pub fn find(&self, id: &str) -> Result<Option<Place>> {
        for (number, part) in self.parts.iter().enumerate().rev() {
            if let Some(document) = part.find(id)? {
                return Ok(Some(Place { part: number as u32, document }));
            }
        }
        Ok(None)
    }

    /// A document by place.
    pub fn document(&self, place: Place) -> Result<Document> {
        self.part(place.part)?.document(place.document)
    }

    /// A part by number.
    pub fn part(&self, number: u32) -> Result<&Part> {
        self.parts
            .get(number as usize)
            .ok_or_else(|| Error::corrupt("manifest", 0, format!("no part {number}")))
    }

    /// The generation that answers.
    pub fn generation(&self) -> Option<&Generation> {
        self.manifest.active()
    }

    /// A view of parts under a manifest.
    pub fn new(manifest: Arc<Manifest>, parts: Vec<Part>) -> Self {
        let shapes = manifest.generations.iter().map(|g| shape(&manifest, g)).collect();
        Self { manifest, parts, shapes }
    }

    /// Shape of the rows of a generation.
    pub fn shape_of(&self, generation: u32) -> Result<&Shape> {
        let at = self.manifest.generations.iter().position(|g| g.id == generation);
        at.and_then(|at| self.shapes.get(at))
            .ok_or_else(|| Error::input(format!("there is no generation {generation}")))
    }
}

/// Shape of the rows of a generation.
pub(crate) fn shape(manifest: &Manifest, generation: &Generation) -> Shape {
    Shape {
        dim: generation.dim as usize,
        ladder: generation.ladder.iter().map(|&r| r as usize).collect(),
        metric: manifest.metric(),
        codec: manifest.codec(),
    }
}

//! The documents of a damaged segment.

use std::path::Path;

use roaring::RoaringBitmap;

use super::report::RepairReport;
use crate::db::columns::Shape;
use crate::db::snapshot::{Rows, block};
use crate::error::{Error, Result};
use crate::format::attrs::Sections;
use crate::format::file::{DatabaseId, Kind};
use crate::format::manifest::{SegmentEntry, VectorSet};
use crate::format::segment::{DocumentRows, rows, tombstones, vectors};
use crate::index::Codes;
use crate::kernel::planes::plane_len;
use crate::storage::documents::{Documents, StoredText};
use crate::storage::salvage::{Salvaged, SalvagedIds};
use crate::storage::segment::{segment_dir, vectors_dir};
use crate::storage::segment_file::Parts;
use crate::storage::vfs::Vfs;
use crate::types::Codec;

/// A segment as far as it can be read.
pub(super) struct SalvagedSegment {
    /// Its entry in the manifest, or what its directory says.
    pub entry: SegmentEntry,
    ids: Result<SalvagedIds>,
    docs: Result<Documents<Salvaged>>,
    dead: RoaringBitmap,
    vectors: Option<SalvagedVectors>,
}

/// The rows of one generation.
struct SalvagedVectors {
    rows: Salvaged,
    codes: Option<Salvaged>,
    full: Option<Salvaged>,
}

/// Where the files of a damaged database lie.
pub(super) struct Place<'a> {
    pub vfs: &'a dyn Vfs,
    pub dir: &'a Path,
    pub database: DatabaseId,
}

impl Place<'_> {
    fn open(&self, path: String, kind: Kind) -> Result<Salvaged> {
        Salvaged::open(self.vfs, self.dir.join(path), kind, Some(&self.database))
    }
}

impl SalvagedSegment {
    /// Opens what can be opened of a segment, and of the rows of a generation.
    pub fn open(
        place: &Place<'_>,
        entry: &SegmentEntry,
        generation: u32,
        codec: Codec,
        report: &mut RepairReport,
    ) -> Self {
        let base = segment_dir(entry.id);
        let ids = place.open(format!("{base}/ids"), Kind::Ids);
        let docs = place.open(format!("{base}/docs"), Kind::Docs).map(Documents::new);
        let dead = tombstones_of(place, entry, report).unwrap_or_else(|error| {
            report.note(format!("deleted documents of segment {} may be back: {error}", entry.id));
            RoaringBitmap::new()
        });
        let set = entry.vectors.iter().find(|set| set.generation == generation);
        let vectors = set.and_then(|&set| SalvagedVectors::open(place, entry.id, set, codec).ok());
        let files = [ids.as_ref().ok(), docs.as_ref().ok().map(Documents::file)].into_iter().flatten();
        let of_rows =
            vectors.iter().flat_map(|v| [Some(&v.rows), v.codes.as_ref(), v.full.as_ref()]).flatten();
        report.bits_turned += files.chain(of_rows).map(Salvaged::turned).sum::<u64>();
        Self { entry: entry.clone(), ids: ids.map(SalvagedIds::new), docs, dead, vectors }
    }

    /// Numbers of the documents that were not deleted here.
    pub fn live(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.documents()).filter(|&document| !self.dead.contains(document))
    }

    /// Documents, deleted ones included.
    pub fn documents(&self) -> u32 {
        let listed = self.entry.documents;
        self.ids.as_ref().map_or(listed, |ids| if listed == 0 { ids.len() } else { listed })
    }

    /// The id of a document, if it can be told.
    pub fn id(&self, document: u32) -> Option<&str> {
        self.ids.as_ref().ok()?.id(document)
    }

    /// Its sequence number; 0 if it cannot be told.
    pub fn sequence(&self, document: u32) -> u64 {
        self.ids.as_ref().map_or(0, |ids| ids.sequence(document))
    }

    /// Why ids cannot be told.
    pub fn ids_error(&self) -> Error {
        match &self.ids {
            Ok(ids) => ids.file().corrupt(0, "ids are damaged"),
            Err(error) => again(error),
        }
    }

    /// Its text.
    pub fn text(&self, document: u32) -> Result<StoredText> {
        self.docs.as_ref().map_err(again).and_then(|docs| docs.read(document))
    }

    /// Its rows in the generation.
    pub fn rows(&self, document: u32, generation: u32, shape: &Shape) -> Result<DocumentRows> {
        let missing = || Error::corrupt(segment_dir(self.entry.id), 0, "its vectors cannot be read");
        self.vectors.as_ref().ok_or_else(missing)?.rows(document, generation, shape)
    }
}

/// The same error once more.
fn again(error: &Error) -> Error {
    match error {
        Error::Corrupt { file, offset, what } => Error::corrupt(file, *offset, what),
        Error::Io { path, source, .. } => Error::corrupt(path, 0, source.to_string()),
        other => Error::input(other.to_string()),
    }
}

fn tombstones_of(
    place: &Place<'_>,
    entry: &SegmentEntry,
    report: &mut RepairReport,
) -> Result<RoaringBitmap> {
    if entry.tombstones == 0 {
        return Ok(RoaringBitmap::new());
    }
    let path = format!("{}/del.{}", segment_dir(entry.id), entry.tombstones);
    let file = place.open(path, Kind::Tombstones)?;
    report.bits_turned += file.turned();
    let bytes: &[u8] = file.section_range(tombstones::BITMAP, 0, file.size(tombstones::BITMAP))?;
    RoaringBitmap::deserialize_from(bytes)
        .map_err(|e| file.corrupt(tombstones::BITMAP, &format!("the bitmap is malformed: {e}")))
}

impl SalvagedVectors {
    fn open(place: &Place<'_>, segment: u64, set: VectorSet, codec: Codec) -> Result<Self> {
        let folder = vectors_dir(segment, set);
        let rows = place.open(format!("{folder}/rows"), Kind::Rows)?;
        // Codes follow from f32 rows, so they are read only where there are none.
        let (codes, full) = if codec.has_full() {
            (None, Some(place.open(format!("{folder}/full"), Kind::Full)?))
        } else {
            (Some(place.open(format!("{folder}/codes"), Kind::Codes)?), None)
        };
        Ok(Self { rows, codes, full })
    }

    /// The rows of a document: those of a block that holds no others.
    fn rows(&self, document: u32, generation: u32, shape: &Shape) -> Result<DocumentRows> {
        let bounds = if self.rows.size(rows::FIRST) == 0 {
            [document, document + 1]
        } else {
            let found: &[u32] = self.rows.section_range(rows::FIRST, document as usize, 2)?;
            found.try_into().map_err(|_| self.rows.corrupt(rows::FIRST, "a document is not listed"))?
        };
        let (from, count) = (bounds[0] as usize, bounds[1].saturating_sub(bounds[0]) as usize);
        if count == 0 {
            return Err(self.rows.corrupt(rows::FIRST, "a document has no rows"));
        }
        let spans: &[[u32; 2]] = match self.rows.size(rows::SPANS) {
            0 => &[],
            _ => self.rows.section_range(rows::SPANS, from, count)?,
        };
        let full: &[f32] = match &self.full {
            Some(full) => full.section_range(vectors::FULL, from * shape.dim, count * shape.dim)?,
            None => &[],
        };
        let (codes, scales) = match &self.codes {
            Some(codes) => codes_of(codes, from, count, shape.dim)?,
            None => (Codes::default(), &[][..]),
        };
        let first = [0, count as u32];
        let vectors = block(shape, count, codes, scales, &[], full)?;
        let rows = Rows { vectors, graph: None, first: &first, spans, base: 0 };
        Ok(rows.extract(0, generation))
    }
}

fn codes_of(file: &Salvaged, from: usize, count: usize, dim: usize) -> Result<(Codes<'_>, &[f32])> {
    let len = plane_len(dim);
    let plane = |id| file.section_range(id, from * len, count * len);
    let scales = match file.size(vectors::SCALES) {
        0 => &[][..],
        _ => file.section_range(vectors::SCALES, from, count)?,
    };
    Ok((Codes { high: plane(vectors::HIGH)?, low: plane(vectors::LOW)? }, scales))
}

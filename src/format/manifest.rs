//! The manifest: what is live. An rkyv body in a [`file`](super::file) container of kind
//! [`Kind::Manifest`]; plain shapes only, checked access only, and only after the checksums held.
//! The archived types never change; a new shape becomes `ManifestV2`.

use std::path::Path;

use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::file::{DatabaseId, FileBuilder, Kind, Layout};
use crate::error::{Error, Result};
use crate::types::{Builder, Codec, IndexKind, Metric, Precision};

/// Section of the rkyv body.
pub const BODY: u32 = 1;
/// Largest manifest that is read.
pub const MANIFEST_BYTES: u64 = 64 << 20;
/// Bits of [`Manifest::index`].
const DENSE: u8 = 1;
const HNSW_RS: u8 = 2;

/// One immutable file.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the database directory, with `/`.
    pub path: String,
    /// Length in bytes.
    pub length: u64,
    /// Checksum in its trailer.
    pub checksum: u64,
}

/// One encoder with all vectors made by it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Generation {
    /// Number, from 1.
    pub id: u32,
    /// Content hash of the encoder; empty for plain vectors.
    pub model_id: String,
    /// Generation that it was learnt from; 0 for none.
    pub parent: u32,
    /// Dimension of its vectors.
    pub dim: u32,
    /// Matryoshka ladder, ascending; ends in `dim`.
    pub ladder: Vec<u32>,
    /// Creation, in Unix milliseconds.
    pub created_ms: u64,
    /// What the gate measured, as JSON; empty for none.
    pub metrics: String,
}

/// The vectors of one generation in one segment; they lie in `gen.<generation>.<version>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VectorSet {
    /// Generation.
    pub generation: u32,
    /// Number of the manifest that first named it; a rewritten set has a new one.
    pub version: u32,
}

/// One sealed segment.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Number; names its directory.
    pub id: u64,
    /// Documents in it, deleted ones included.
    pub documents: u32,
    /// Documents marked in its tombstone file.
    pub deleted: u32,
    /// Version of its tombstone file; 0 for none.
    pub tombstones: u32,
    /// Generations whose vectors it holds.
    pub vectors: Vec<VectorSet>,
    /// All files of it.
    pub files: Vec<FileEntry>,
}

/// A name for a stored encoder.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NamedModel {
    /// Name given by the user.
    pub name: String,
    /// Content hash.
    pub model_id: String,
}

/// The list of what is live.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Manifest {
    /// Number; also its file's name.
    pub number: u64,
    /// The database.
    pub database: DatabaseId,
    /// Metric: 0 cosine, 1 dot, 2 L2.
    pub metric: u8,
    /// Codec: 0 int8+f32, 1 int8, 2 f32.
    pub codec: u8,
    /// Precision of the encoder: 0 f32, 1 int8.
    pub precision: u8,
    /// Graphs: bit 0, dense instead of fast; bit 1, built by hnsw_rs.
    pub index: u8,
    /// Ladder that was asked for at creation; empty for the default.
    pub asked_ladder: Vec<u32>,
    /// Generation that answers; 0 while the database has neither encoder nor vectors.
    pub active_generation: u32,
    /// Number of the next generation.
    pub next_generation: u32,
    /// Number of the next segment.
    pub next_segment: u64,
    /// First log that is replayed.
    pub first_log: u64,
    /// Highest sequence number in sealed segments.
    pub sequence: u64,
    /// Generations, ascending.
    pub generations: Vec<Generation>,
    /// Segments, ascending.
    pub segments: Vec<SegmentEntry>,
    /// Stored encoders.
    pub models: Vec<NamedModel>,
    /// Merged feedback files.
    pub feedback: Vec<FileEntry>,
}

impl Manifest {
    /// Metric of the database.
    pub fn metric(&self) -> Metric {
        match self.metric {
            1 => Metric::Dot,
            2 => Metric::L2,
            _ => Metric::Cosine,
        }
    }

    /// Codec of the database.
    pub fn codec(&self) -> Codec {
        match self.codec {
            1 => Codec::Int8,
            2 => Codec::F32,
            _ => Codec::Int8F32,
        }
    }

    /// How much is spent on graphs.
    pub fn index(&self) -> IndexKind {
        if self.index & DENSE != 0 { IndexKind::Dense } else { IndexKind::Fast }
    }

    /// What builds graphs.
    pub fn builder(&self) -> Builder {
        if self.index & HNSW_RS != 0 { Builder::HnswRs } else { Builder::Flat }
    }

    /// Sets what is spent on graphs, and what builds them.
    pub fn set_index(&mut self, kind: IndexKind, builder: Builder) {
        let kind = if kind == IndexKind::Dense { DENSE } else { 0 };
        self.index = kind | if builder == Builder::HnswRs { HNSW_RS } else { 0 };
    }

    /// Precision of the encoder.
    pub fn precision(&self) -> Precision {
        if self.precision == Precision::Int8 as u8 { Precision::Int8 } else { Precision::F32 }
    }

    /// A generation by number.
    pub fn generation(&self, id: u32) -> Option<&Generation> {
        self.generations.iter().find(|g| g.id == id)
    }

    /// The generation that answers.
    pub fn active(&self) -> Option<&Generation> {
        self.generation(self.active_generation)
    }

    /// Every immutable file that this manifest names.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.segments.iter().flat_map(|s| &s.files).chain(&self.feedback)
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let body = rkyv::to_bytes::<rancor::Error>(self)
            .map_err(|e| Error::input(format!("the manifest cannot be encoded: {e}")))?;
        Ok(FileBuilder::new(Kind::Manifest, self.database).section(BODY, body.into_vec()).finish())
    }

    /// Parses a manifest; `number` is what its file name says.
    pub fn parse(bytes: &[u8], number: u64, path: &Path) -> Result<Self> {
        let layout = Layout::parse(bytes, Kind::Manifest, path)?;
        layout.verify(bytes, 0, bytes.len(), path)?;
        let range =
            layout.section(BODY).ok_or_else(|| Error::corrupt(path, 0, "the manifest has no body"))?;
        let offset = range.start as u64;
        let mut body = rkyv::util::AlignedVec::<16>::with_capacity(range.len());
        body.extend_from_slice(&bytes[range]);
        let manifest: Self = rkyv::from_bytes::<Self, rancor::Error>(&body)
            .map_err(|e| Error::corrupt(path, offset, format!("the manifest's body is malformed: {e}")))?;
        manifest.check(number, &layout.database).map_err(|what| Error::corrupt(path, offset, what))?;
        Ok(manifest)
    }

    /// The invariants of storage-format.md.
    fn check(&self, number: u64, database: &DatabaseId) -> std::result::Result<(), String> {
        if self.number != number || self.database != *database {
            return Err("the manifest is not the one that its file name and header say".into());
        }
        if self.metric > 2 || self.codec > 2 || self.precision > 1 || self.index > (DENSE | HNSW_RS) {
            return Err("unknown metric, codec, precision or index".into());
        }
        if self.active_generation != 0 && self.active().is_none() {
            return Err(format!("the active generation {} is not listed", self.active_generation));
        }
        for generation in &self.generations {
            let ladder = &generation.ladder;
            let ascending = ladder.windows(2).all(|w| w[0] < w[1]) && ladder.first().is_some_and(|&r| r > 0);
            if !ascending
                || ladder.last() != Some(&generation.dim)
                || generation.dim as usize > crate::options::limits::DIM
            {
                return Err(format!("generation {} has an impossible ladder", generation.id));
            }
        }
        for segment in &self.segments {
            if segment.deleted > segment.documents || segment.id >= self.next_segment {
                return Err(format!("segment {} has impossible counts", segment.id));
            }
        }
        for file in self.files() {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !file.path.split('/').all(plain) {
                return Err(format!("the path {:?} leaves the database", file.path));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Manifest {
        Manifest {
            number: 3,
            database: [9; 16],
            metric: 0,
            codec: 0,
            precision: 0,
            index: 1,
            asked_ladder: vec![],
            active_generation: 1,
            next_generation: 2,
            next_segment: 2,
            first_log: 4,
            sequence: 77,
            generations: vec![Generation {
                id: 1,
                model_id: "abc".into(),
                parent: 0,
                dim: 128,
                ladder: vec![64, 128],
                created_ms: 5,
                metrics: String::new(),
            }],
            segments: vec![SegmentEntry {
                id: 1,
                documents: 10,
                deleted: 1,
                tombstones: 2,
                vectors: vec![VectorSet { generation: 1, version: 3 }],
                files: vec![FileEntry { path: "seg/1/ids".into(), length: 5, checksum: 6 }],
            }],
            models: vec![],
            feedback: vec![],
        }
    }

    #[test]
    fn it_comes_back_and_no_flipped_bit_passes() {
        let manifest = sample();
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::parse(&bytes, 3, Path::new("m")).unwrap(), manifest);
        assert!(Manifest::parse(&bytes, 4, Path::new("m")).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&copy, 3, Path::new("m")).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn kind_and_builder_of_graphs_share_a_byte() {
        let mut manifest = sample();
        let mut bytes = Vec::new();
        for builder in [Builder::Flat, Builder::HnswRs] {
            for kind in [IndexKind::Fast, IndexKind::Dense] {
                manifest.set_index(kind, builder);
                bytes.push(manifest.index);
                let read = Manifest::parse(&manifest.encode().unwrap(), 3, Path::new("m")).unwrap();
                assert_eq!((read.index(), read.builder()), (kind, builder));
            }
        }
        assert_eq!(bytes, [0, 1, 2, 3]);
        manifest.index = 4;
        assert!(Manifest::parse(&manifest.encode().unwrap(), 3, Path::new("m")).is_err());
    }

    #[test]
    fn impossible_contents_are_refused() {
        type Change = fn(&mut Manifest);
        let sound: [Change; 3] = [
            |m| (m.active_generation, m.generations) = (0, vec![]),
            |m| (m.metric, m.codec, m.precision, m.index) = (2, 2, 1, 3),
            |m| m.generations[0].ladder = vec![128],
        ];
        let impossible: [Change; 17] = [
            |m| m.segments[0].files[0].path = "../x".into(),
            |m| m.segments[0].files[0].path = "./x".into(),
            |m| m.segments[0].files[0].path = "/x".into(),
            |m| m.segments[0].files[0].path = "seg//x".into(),
            |m| m.feedback.push(FileEntry { path: String::new(), length: 0, checksum: 0 }),
            |m| m.active_generation = 9,
            |m| m.generations[0].ladder = vec![128, 64],
            |m| m.generations[0].ladder = vec![64, 64, 128],
            |m| m.generations[0].ladder = vec![0, 128],
            |m| m.generations[0].ladder = vec![64],
            |m| m.generations[0].ladder = vec![],
            |m| {
                let dim = crate::options::limits::DIM as u32 + 1;
                (m.generations[0].dim, m.generations[0].ladder) = (dim, vec![dim]);
            },
            |m| m.metric = 3,
            |m| m.codec = 3,
            |m| m.precision = 2,
            |m| m.segments[0].deleted = 11,
            |m| m.segments[0].id = 2,
        ];
        let read = |change: Change| {
            let mut manifest = sample();
            change(&mut manifest);
            Manifest::parse(&manifest.encode().unwrap(), 3, Path::new("m"))
        };
        let [.., precise, _] = sound.map(|change| read(change).unwrap());
        assert_eq!((precise.precision(), sample().precision()), (Precision::Int8, Precision::F32));
        for (n, change) in impossible.into_iter().enumerate() {
            assert_eq!(read(change).unwrap_err().exit_code(), 2, "change {n}");
        }
        // A body that was put behind the header of another database.
        let body = rkyv::to_bytes::<rancor::Error>(&sample()).unwrap().into_vec();
        let moved = FileBuilder::new(Kind::Manifest, [5; 16]).section(BODY, body).finish();
        let error = Manifest::parse(&moved, 3, Path::new("m")).unwrap_err().to_string();
        assert!(error.contains("not the one"), "{error}");
    }
}

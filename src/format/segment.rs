//! Sections of a segment's files, and the byte layouts of document records and log payloads.

use super::{u32_at, u64_at};

/// Sections of the ids file.
pub mod ids {
    /// `n + 1` × u32: where each id begins in [`BYTES`].
    pub const OFFSETS: u32 = 1;
    /// The ids, in document order, without separators.
    pub const BYTES: u32 = 2;
    /// `n` × u64: xxh3-64 of each id, ascending.
    pub const HASHES: u32 = 3;
    /// `n` × u32: the document of each hash.
    pub const ORDER: u32 = 4;
    /// `n` × u64: the sequence number of each document.
    pub const SEQUENCES: u32 = 5;
}

/// Sections of the documents file.
pub mod docs {
    /// zstd dictionary; may be empty.
    pub const DICTIONARY: u32 = 1;
    /// `blocks + 1` × u64: where each compressed block begins in [`BLOCKS`].
    pub const BLOCK_OFFSETS: u32 = 2;
    /// `blocks` × u32: uncompressed length of each block.
    pub const BLOCK_LENGTHS: u32 = 3;
    /// `n` × (u32 block, u32 offset in the uncompressed block).
    pub const PLACES: u32 = 4;
    /// The compressed blocks.
    pub const BLOCKS: u32 = 5;
}

/// Sections of the attributes file (see [`crate::format::attrs`]).
pub mod attrs {
    /// One record for each key.
    pub const COLUMNS: u32 = 1;
    /// The keys, without separators.
    pub const KEYS: u32 = 2;
    /// The distinct values of each column, in order.
    pub const VALUES: u32 = 3;
    /// Where each value's documents begin in [`DOCS`].
    pub const STARTS: u32 = 4;
    /// The documents of each value.
    pub const DOCS: u32 = 5;
    /// Where each string begins in [`TEXTS`].
    pub const TEXT_OFFSETS: u32 = 6;
    /// The strings, without separators.
    pub const TEXTS: u32 = 7;
}

/// Section of a tombstone file.
pub mod tombstones {
    /// A roaring bitmap in its portable serialisation: the deleted documents.
    pub const BITMAP: u32 = 1;
}

/// Sections of a generation's rows file.
pub mod rows {
    /// `n + 1` × u32: first row of each document; empty where each has one row.
    pub const FIRST: u32 = 1;
    /// `rows` × (u32 start, u32 end): bytes of each chunk in its document's text; empty where all are empty.
    pub const SPANS: u32 = 2;
}

/// Sections of a generation's vector files (codes, full, graph).
pub mod vectors {
    /// High plane of the codes (see [`crate::kernel::planes`]): `rows` × ⌈dim / 64⌉ × 32 bytes.
    pub const HIGH: u32 = 1;
    /// Low plane, of the same length.
    pub const LOW: u32 = 2;
    /// `rows` × f32: scale of each row; empty under cosine.
    pub const SCALES: u32 = 3;
    /// `rungs × rows` × f32: inverse norms of the codes, rung by rung.
    pub const NORMS: u32 = 4;
    /// `rows × dim` × f32, row by row.
    pub const FULL: u32 = 5;
    /// The frozen graph (see [`crate::format::graph`]).
    pub const GRAPH: u32 = 6;
    /// Where walks compare a rung: the beginnings of all rows of the high plane, `rows` × ⌈rung / 64⌉ × 32 bytes.
    pub const HEAD_HIGH: u32 = 7;
    /// The same of the low plane, where walks compare both.
    pub const HEAD_LOW: u32 = 8;
}

/// Uncompressed bytes at which a block of documents is closed.
pub const DOCUMENT_BLOCK_BYTES: usize = 16 << 10;

/// A document as its record holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentRecord<'a> {
    /// Title, if there is one.
    pub title: Option<&'a str>,
    /// Text.
    pub text: &'a str,
    /// Metadata as a JSON object; empty for none.
    pub meta: &'a str,
}

/// Marks an absent title in the length field.
pub const NO_TITLE: u32 = u32::MAX;
/// Bytes of the lengths before a document record.
pub const RECORD_HEADER_LEN: usize = 12;
/// Offset of the title's length in a document record.
pub const RECORD_TITLE_OFFSET: usize = 0;
/// Offset of the text's length.
pub const RECORD_TEXT_OFFSET: usize = 4;
/// Offset of the metadata's length.
pub const RECORD_META_OFFSET: usize = 8;

impl<'a> DocumentRecord<'a> {
    /// Appends: u32 title length ([`NO_TITLE`] for none), u32 text length, u32 metadata length, then the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let title = self.title.unwrap_or_default();
        let title_len = self.title.map_or(NO_TITLE, |t| t.len() as u32);
        for len in [title_len, self.text.len() as u32, self.meta.len() as u32] {
            out.extend_from_slice(&len.to_le_bytes());
        }
        for part in [title, self.text, self.meta] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// Parses a record at the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let title_len = u32_at(bytes, RECORD_TITLE_OFFSET)?;
        let mut rest = bytes.get(RECORD_HEADER_LEN..)?;
        let mut take = |len: u32| -> Option<&'a str> {
            let (part, tail) = rest.split_at_checked(len as usize)?;
            rest = tail;
            std::str::from_utf8(part).ok()
        };
        let title = if title_len == NO_TITLE { None } else { Some(take(title_len)?) };
        let text = take(u32_at(bytes, RECORD_TEXT_OFFSET)?)?;
        let meta = take(u32_at(bytes, RECORD_META_OFFSET)?)?;
        Some(Self { title, text, meta })
    }
}

/// The rows of one document: chunk bounds and vectors, made by one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentRows {
    /// Generation that made the vectors.
    pub generation: u32,
    /// Dimension.
    pub dim: u32,
    /// Byte bounds of each chunk in the text.
    pub spans: Vec<[u32; 2]>,
    /// `spans.len() × dim` values.
    pub vectors: Vec<f32>,
}

/// Bytes of the fixed part of encoded rows.
pub const ROWS_HEADER_LEN: usize = 16;
/// Offset of the generation in encoded rows.
pub const ROWS_GENERATION_OFFSET: usize = 0;
/// Offset of the dimension.
pub const ROWS_DIM_OFFSET: usize = 4;
/// Offset of the number of rows.
pub const ROWS_COUNT_OFFSET: usize = 8;

/// Bytes before the rows in the payload of an UPSERT frame.
pub const UPSERT_HEADER_LEN: usize = 8;
/// Bytes before the rows in the payload of a ROWS frame.
pub const JOB_HEADER_LEN: usize = 16;
/// Offset in it of the document's sequence number.
pub const JOB_SEQUENCE_OFFSET: usize = 0;
/// Offset in it of the hash of what was encoded.
pub const JOB_HASH_OFFSET: usize = 8;

impl DocumentRows {
    /// Appends: u32 generation, u32 dim, u32 rows, u32 zero; spans; vectors.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for field in [self.generation, self.dim, self.spans.len() as u32, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(bytemuck::cast_slice(&self.spans));
        out.extend_from_slice(bytemuck::cast_slice(&self.vectors));
    }

    /// Parses rows at the start of `bytes`; returns them and the bytes after them.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let generation = u32_at(bytes, ROWS_GENERATION_OFFSET)?;
        let (dim, rows) = (u32_at(bytes, ROWS_DIM_OFFSET)?, u32_at(bytes, ROWS_COUNT_OFFSET)?);
        let spans_len = (rows as usize).checked_mul(8)?;
        let vectors_len = (rows as usize).checked_mul(dim as usize)?.checked_mul(4)?;
        let (spans, rest) = bytes.get(ROWS_HEADER_LEN..)?.split_at_checked(spans_len)?;
        let (vectors, rest) = rest.split_at_checked(vectors_len)?;
        let rows = Self {
            generation,
            dim,
            spans: bytemuck::allocation::pod_collect_to_vec(spans),
            vectors: bytemuck::allocation::pod_collect_to_vec(vectors),
        };
        Some((rows, rest))
    }
}

/// Payload of an UPSERT frame: u32 id length, u32 zero, rows, id, document record.
pub fn encode_upsert(id: &str, rows: &DocumentRows, document: &DocumentRecord<'_>) -> Vec<u8> {
    let size = 64
        + rows.vectors.len() * 4
        + rows.spans.len() * 8
        + id.len()
        + document.text.len()
        + document.meta.len();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&(id.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    rows.encode(&mut out);
    out.extend_from_slice(id.as_bytes());
    document.encode(&mut out);
    out
}

/// Parses the payload of an UPSERT frame.
pub fn parse_upsert(payload: &[u8]) -> Option<(&str, DocumentRows, DocumentRecord<'_>)> {
    let id_len = u32_at(payload, 0)? as usize;
    let (rows, rest) = DocumentRows::parse(payload.get(UPSERT_HEADER_LEN..)?)?;
    let (id, rest) = rest.split_at_checked(id_len)?;
    Some((std::str::from_utf8(id).ok()?, rows, DocumentRecord::parse(rest)?))
}

/// What a job keeps of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRows {
    /// Sequence number of the document.
    pub sequence: u64,
    /// Hash of what was encoded; see [`encoded_hash`].
    pub hash: u64,
    /// The rows.
    pub rows: DocumentRows,
}

/// Hash of what is encoded of a document: xxh3 of its record without metadata, so that neither the title's end nor a
/// missing title can be mistaken.
pub fn encoded_hash(title: Option<&str>, text: &str) -> u64 {
    let mut record = Vec::with_capacity(RECORD_HEADER_LEN + title.map_or(0, str::len) + text.len());
    DocumentRecord { title, text, meta: "" }.encode(&mut record);
    xxhash_rust::xxh3::xxh3_64(&record)
}

/// Payload of a ROWS frame of a job: u64 sequence number of the document, u64 hash, rows.
pub fn encode_job_rows(done: &JobRows) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&done.sequence.to_le_bytes());
    out.extend_from_slice(&done.hash.to_le_bytes());
    done.rows.encode(&mut out);
    out
}

/// Parses the payload of a ROWS frame.
pub fn parse_job_rows(payload: &[u8]) -> Option<JobRows> {
    let (sequence, hash) = (u64_at(payload, JOB_SEQUENCE_OFFSET)?, u64_at(payload, JOB_HASH_OFFSET)?);
    let (rows, _) = DocumentRows::parse(payload.get(JOB_HEADER_LEN..)?)?;
    Some(JobRows { sequence, hash, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upsert_comes_back_and_no_truncation_passes_or_panics() {
        let rows = DocumentRows {
            generation: 3,
            dim: 2,
            spans: vec![[0, 4], [3, 9]],
            vectors: vec![1., 2., 3., 4.],
        };
        for title in [None, Some(""), Some("Title")] {
            let document = DocumentRecord { title, text: "some text", meta: "{\"a\":1}" };
            let payload = encode_upsert("id", &rows, &document);
            assert_eq!(parse_upsert(&payload).unwrap(), ("id", rows.clone(), document));
            for len in 0..payload.len() {
                assert!(parse_upsert(&payload[..len]).is_none());
            }
        }
    }

    #[test]
    fn what_is_encoded_differs_whenever_title_or_text_do() {
        let parts = [(None, "ab"), (None, "a\nb"), (Some("a"), "b"), (Some("ab"), ""), (Some(""), "ab")];
        let hashes: std::collections::BTreeSet<u64> =
            parts.iter().map(|(t, x)| encoded_hash(*t, x)).collect();
        assert_eq!(hashes.len(), parts.len());
    }
}

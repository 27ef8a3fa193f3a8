//! Documents of a segment: records packed into blocks, each compressed by zstd with one dictionary.

use super::segment::SegmentFile;
use crate::error::{Error, Result};
use crate::format::file::{DatabaseId, FileBuilder, Kind};
use crate::format::segment::{DOCUMENT_BLOCK_BYTES, DocumentRecord, docs};

/// Compression level: fast to write, and close to the best size with a dictionary.
const LEVEL: i32 = 3;
/// Bytes of the dictionary.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Below this much text a dictionary costs more than it saves.
const DICTIONARY_FROM: usize = 1 << 20;
/// A block is at most this long uncompressed (one large document has a block of its own).
const BLOCK_MAX: usize = 64 << 20;

/// Collects documents in order and makes their file.
#[derive(Default)]
pub struct DocumentsBuilder {
    blocks: Vec<Vec<u8>>,
    places: Vec<[u32; 2]>,
}

impl DocumentsBuilder {
    /// Appends a document.
    pub fn push(&mut self, document: &DocumentRecord<'_>) {
        if self.blocks.last().is_none_or(|block| block.len() >= DOCUMENT_BLOCK_BYTES) {
            self.blocks.push(Vec::new());
        }
        let number = self.blocks.len() as u32 - 1;
        if let Some(block) = self.blocks.last_mut() {
            self.places.push([number, block.len() as u32]);
            document.encode(block);
        }
    }

    /// The bytes of the file.
    pub fn finish(self, database: DatabaseId) -> Result<Vec<u8>> {
        let failed = |e: std::io::Error| Error::input(format!("documents cannot be compressed: {e}"));
        let dictionary = self.dictionary();
        let mut compressor = zstd::bulk::Compressor::with_dictionary(LEVEL, &dictionary).map_err(failed)?;
        let mut offsets = vec![0u64];
        let mut packed = Vec::new();
        for block in &self.blocks {
            packed.extend(compressor.compress(block).map_err(failed)?);
            offsets.push(packed.len() as u64);
        }
        let lengths: Vec<u32> = self.blocks.iter().map(|b| b.len() as u32).collect();
        Ok(FileBuilder::new(Kind::Docs, database)
            .section(docs::DICTIONARY, dictionary)
            .section(docs::BLOCK_OFFSETS, bytemuck::cast_slice(&offsets).to_vec())
            .section(docs::BLOCK_LENGTHS, bytemuck::cast_slice(&lengths).to_vec())
            .section(docs::PLACES, bytemuck::cast_slice(&self.places).to_vec())
            .section(docs::BLOCKS, packed)
            .finish())
    }

    /// A dictionary trained on a sample of the blocks; empty where it would not pay.
    fn dictionary(&self) -> Vec<u8> {
        let total: usize = self.blocks.iter().map(Vec::len).sum();
        if total < DICTIONARY_FROM {
            return Vec::new();
        }
        let step = self.blocks.len().div_ceil(512).max(1);
        let sample: Vec<&[u8]> =
            self.blocks.iter().step_by(step).map(|b| &b[..b.len().min(8 << 10)]).collect();
        zstd::dict::from_samples(&sample, DICTIONARY_BYTES).unwrap_or_default()
    }
}

/// A document read back: title, text, metadata as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredText {
    /// Title.
    pub title: Option<String>,
    /// Text.
    pub text: String,
    /// Metadata as a JSON object; empty for none.
    pub meta: String,
}

/// Reads document `document` of a documents file.
pub fn read_document(file: &SegmentFile, document: u32) -> Result<StoredText> {
    let places: &[[u32; 2]] = file.section_range(docs::PLACES, document as usize, 1)?;
    let [block, offset] = places.first().copied().unwrap_or_default();
    let bytes = read_block(file, block as usize)?;
    let record = bytes.get(offset as usize..).and_then(DocumentRecord::parse);
    let record = record.ok_or_else(|| file.corrupt(docs::PLACES, "a document does not fit its block"))?;
    Ok(StoredText {
        title: record.title.map(str::to_owned),
        text: record.text.to_owned(),
        meta: record.meta.to_owned(),
    })
}

fn read_block(file: &SegmentFile, block: usize) -> Result<Vec<u8>> {
    let offsets: &[u64] = file.section_range(docs::BLOCK_OFFSETS, block, 2)?;
    let lengths: &[u32] = file.section_range(docs::BLOCK_LENGTHS, block, 1)?;
    let (&[start, end], &[length]) = (offsets, lengths) else {
        return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block is not listed"));
    };
    if end < start || length as usize > BLOCK_MAX {
        return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block has an impossible length"));
    }
    let packed: &[u8] = file.section_range(docs::BLOCKS, start as usize, (end - start) as usize)?;
    let dictionary: &[u8] = file.section(docs::DICTIONARY)?;
    let unpacked = zstd::bulk::Decompressor::with_dictionary(dictionary)
        .and_then(|mut d| d.decompress(packed, length as usize))
        .map_err(|e| file.corrupt(docs::BLOCKS, &format!("a block does not decompress: {e}")))?;
    Ok(unpacked)
}

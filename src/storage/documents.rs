//! Documents of a segment: records packed into blocks, each compressed by zstd with one dictionary.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Compressor;
use zstd::dict::DecoderDictionary;
use zstd::zstd_safe::DCtx;

use super::container::ContainerWriter;
use super::room::reserve;
use super::segment_file::Parts;
use super::vfs::Vfs;
use crate::error::{Error, Result};
use crate::format::file::{DatabaseId, Kind};
use crate::format::manifest::FileEntry;
use crate::format::segment::{DOCUMENT_BLOCK_BYTES, DocumentRecord, docs};

/// Compression level: fast to write, and close to the best size with a dictionary.
const LEVEL: i32 = 3;
/// Bytes of the dictionary.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Below this much text a dictionary costs more than it saves.
const DICTIONARY_FROM: usize = 1 << 20;
/// A block is at most this long uncompressed (one large document has a block of its own).
const BLOCK_MAX: usize = 64 << 20;

/// Bytes of documents from which a dictionary is trained: the first ones, so that the rest can be packed as it comes.
const SAMPLE_BYTES: usize = 8 << 20;
/// Sections of the file.
const SECTIONS: usize = 5;

/// Writes documents in order. At most a sample of them, some megabytes, is in memory, and where each lies.
pub struct DocumentsWriter {
    file: ContainerWriter,
    /// The block under way.
    block: Vec<u8>,
    /// Blocks before it that wait for a dictionary.
    waiting: Vec<Vec<u8>>,
    waiting_bytes: usize,
    compressor: Option<Compressor<'static>>,
    /// Where each packed block begins, and their length.
    offsets: Vec<u64>,
    /// Bytes of each block.
    lengths: Vec<u32>,
    places: Vec<[u32; 2]>,
}

impl DocumentsWriter {
    /// Begins the file at `path`.
    pub fn create(vfs: &dyn Vfs, path: PathBuf, database: DatabaseId) -> Result<Self> {
        Ok(Self {
            file: ContainerWriter::create(vfs, path, Kind::Docs, database, SECTIONS)?,
            block: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            compressor: None,
            offsets: vec![0],
            lengths: Vec::new(),
            places: Vec::new(),
        })
    }

    /// Appends a document.
    pub fn push(&mut self, document: &DocumentRecord<'_>) -> Result<()> {
        if self.block.len() >= DOCUMENT_BLOCK_BYTES {
            self.end_block()?;
        }
        self.places.push([self.lengths.len() as u32, self.block.len() as u32]);
        document.encode(&mut self.block);
        Ok(())
    }

    /// Packs the block under way, or has it wait.
    fn end_block(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        self.lengths.push(block.len() as u32);
        if self.compressor.is_some() {
            return self.pack(&block);
        }
        self.waiting_bytes += block.len();
        self.waiting.push(block);
        if self.waiting_bytes >= SAMPLE_BYTES { self.pack_waiting() } else { Ok(()) }
    }

    /// Makes the dictionary, and packs what waited for it.
    fn pack_waiting(&mut self) -> Result<()> {
        let dictionary = self.dictionary();
        self.file.begin(docs::DICTIONARY);
        self.file.write(&dictionary)?;
        self.file.begin(docs::BLOCKS);
        self.compressor = Some(Compressor::with_dictionary(LEVEL, &dictionary).map_err(failed)?);
        std::mem::take(&mut self.waiting).iter().try_for_each(|block| self.pack(block))
    }

    fn pack(&mut self, block: &[u8]) -> Result<()> {
        let Some(compressor) = &mut self.compressor else { return Ok(()) };
        let packed = compressor.compress(block).map_err(failed)?;
        self.offsets.push(self.offsets.last().copied().unwrap_or_default() + packed.len() as u64);
        self.file.write(&packed)
    }

    /// Completes the file, which is listed as `path`.
    pub fn finish(mut self, path: String) -> Result<FileEntry> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        if self.compressor.is_none() {
            self.pack_waiting()?;
        }
        let sections: [(u32, &[u8]); 3] = [
            (docs::BLOCK_OFFSETS, bytemuck::cast_slice(&self.offsets)),
            (docs::BLOCK_LENGTHS, bytemuck::cast_slice(&self.lengths)),
            (docs::PLACES, bytemuck::cast_slice(&self.places)),
        ];
        for (id, bytes) in sections {
            self.file.begin(id);
            self.file.write(bytes)?;
        }
        self.file.finish(path)
    }

    /// A dictionary trained on a sample of the blocks that wait; empty where it would not pay.
    fn dictionary(&self) -> Vec<u8> {
        if self.waiting_bytes < DICTIONARY_FROM {
            return Vec::new();
        }
        let step = self.waiting.len().div_ceil(512).max(1);
        let sample: Vec<&[u8]> =
            self.waiting.iter().step_by(step).map(|b| &b[..b.len().min(8 << 10)]).collect();
        zstd::dict::from_samples(&sample, DICTIONARY_BYTES).unwrap_or_default()
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::input(format!("documents cannot be compressed: {error}"))
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
pub fn read_document(file: &impl Parts, document: u32) -> Result<StoredText> {
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

fn read_block(file: &impl Parts, block: usize) -> Result<Vec<u8>> {
    let offsets: &[u64] = file.section_range(docs::BLOCK_OFFSETS, block, 2)?;
    let lengths: &[u32] = file.section_range(docs::BLOCK_LENGTHS, block, 1)?;
    let (&[start, end], &[length]) = (offsets, lengths) else {
        return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block is not listed"));
    };
    if end < start || length as usize > BLOCK_MAX {
        return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block has an impossible length"));
    }
    let packed: &[u8] = file.section_range(docs::BLOCKS, start as usize, (end - start) as usize)?;
    let dictionary: &[u8] = file.section_range(docs::DICTIONARY, 0, file.size(docs::DICTIONARY))?;
    let mut bytes = Vec::new();
    reserve(&mut bytes, length as usize).map_err(Error::io("unpack", Path::new("documents")))?;
    let unpacked = UNPACKER.with_borrow_mut(|unpacker| unpacker.unpack(dictionary, packed, &mut bytes));
    unpacked.map_err(|error| file.corrupt(docs::BLOCKS, &format!("a block does not decompress: {error}")))?;
    Ok(bytes)
}

thread_local! {
    static UNPACKER: RefCell<Unpacker> = RefCell::new(Unpacker { context: DCtx::create(), dictionary: None });
}

/// What unpacks blocks on one thread: making it anew for each block costs more than unpacking.
struct Unpacker {
    context: DCtx<'static>,
    /// The dictionary of the last block, by its hash.
    dictionary: Option<(u64, DecoderDictionary<'static>)>,
}

impl Unpacker {
    /// Unpacks a block into as many bytes as there is room for.
    fn unpack(
        &mut self,
        dictionary: &[u8],
        packed: &[u8],
        bytes: &mut Vec<u8>,
    ) -> std::result::Result<(), &'static str> {
        let done = if dictionary.is_empty() {
            self.context.decompress(bytes, packed)
        } else {
            let hash = xxh3_64(dictionary);
            if self.dictionary.as_ref().is_none_or(|(of, _)| *of != hash) {
                self.dictionary = None;
            }
            let (_, prepared) =
                self.dictionary.get_or_insert_with(|| (hash, DecoderDictionary::copy(dictionary)));
            self.context.decompress_using_ddict(bytes, packed, prepared.as_ddict())
        };
        done.map(|_| ()).map_err(zstd::zstd_safe::get_error_name)
    }
}

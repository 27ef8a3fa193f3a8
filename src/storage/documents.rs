//! Documents of a segment: records packed into blocks, each compressed by zstd with one dictionary.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Documents of a segment, to be read.
pub struct Documents<F> {
    file: F,
    /// Among all that this process opened.
    number: u64,
    dictionary: OnceLock<DecoderDictionary<'static>>,
}

impl<F: Parts> Documents<F> {
    /// Reads from a documents file.
    pub fn new(file: F) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        Self { file, number: OPENED.fetch_add(1, Ordering::Relaxed), dictionary: OnceLock::new() }
    }

    /// The file.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// Reads a document. The last blocks that the thread read are not unpacked again.
    pub fn read(&self, document: u32) -> Result<StoredText> {
        let places: &[[u32; 2]] = self.file.section_range(docs::PLACES, document as usize, 1)?;
        let [block, offset] = places.first().copied().unwrap_or_default();
        let copied = |bytes: &[u8]| {
            let record = bytes.get(offset as usize..).and_then(DocumentRecord::parse)?;
            Some(StoredText {
                title: record.title.map(str::to_owned),
                text: record.text.to_owned(),
                meta: record.meta.to_owned(),
            })
        };
        let read = READER.with_borrow_mut(|reader| reader.read(self, block, copied))?;
        read.ok_or_else(|| self.file.corrupt(docs::PLACES, "a document does not fit its block"))
    }

    fn unpack(&self, context: &mut DCtx<'_>, block: u32, bytes: &mut Vec<u8>) -> Result<()> {
        let (file, block) = (&self.file, block as usize);
        let offsets: &[u64] = file.section_range(docs::BLOCK_OFFSETS, block, 2)?;
        let lengths: &[u32] = file.section_range(docs::BLOCK_LENGTHS, block, 1)?;
        let (&[start, end], &[length]) = (offsets, lengths) else {
            return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block is not listed"));
        };
        if end < start || length as usize > BLOCK_MAX {
            return Err(file.corrupt(docs::BLOCK_OFFSETS, "a block has an impossible length"));
        }
        let packed: &[u8] = file.section_range(docs::BLOCKS, start as usize, (end - start) as usize)?;
        bytes.clear();
        reserve(bytes, length as usize).map_err(Error::io("unpack", Path::new("documents")))?;
        let done = match self.dictionary()? {
            None => context.decompress(bytes, packed),
            Some(dictionary) => context.decompress_using_ddict(bytes, packed, dictionary.as_ddict()),
        };
        let failed = |code| format!("a block does not decompress: {}", zstd::zstd_safe::get_error_name(code));
        done.map(|_| ()).map_err(|code| file.corrupt(docs::BLOCKS, &failed(code)))
    }

    /// The dictionary, if the file has one: prepared once, which costs more than to unpack a block.
    fn dictionary(&self) -> Result<Option<&DecoderDictionary<'static>>> {
        let len = self.file.size(docs::DICTIONARY);
        if len == 0 || self.dictionary.get().is_some() {
            return Ok(self.dictionary.get());
        }
        let bytes: &[u8] = self.file.section_range(docs::DICTIONARY, 0, len)?;
        Ok(Some(self.dictionary.get_or_init(|| DecoderDictionary::copy(bytes))))
    }
}

/// Blocks that a thread keeps: two megabytes.
const KEPT: usize = 128;
/// Places that a block may have. In but one, blocks of many segments would drive each other out.
const WAYS: usize = 4;
/// A longer block is not kept: it has one large document.
const KEPT_BYTES: usize = 2 * DOCUMENT_BLOCK_BYTES;

thread_local! {
    static READER: RefCell<Reader> =
        RefCell::new(Reader { context: DCtx::create(), blocks: std::array::from_fn(|_| Block::default()) });
}

/// What unpacks blocks on one thread, and the last that it unpacked.
struct Reader {
    context: DCtx<'static>,
    /// Each in one of the places that its number gives it, of which the first are those that were read last.
    blocks: [Block; KEPT],
}

#[derive(Default)]
struct Block {
    /// The documents that it is of, and its number.
    of: Option<(u64, u32)>,
    bytes: Vec<u8>,
}

impl Reader {
    /// Looks at the bytes of a block.
    fn read<F: Parts, T>(
        &mut self,
        documents: &Documents<F>,
        number: u32,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let of = (documents.number, number);
        // Blocks that follow each other have places of their own; those of the next file begin a golden section farther.
        let begin = (documents.number as usize).wrapping_mul(19);
        let set = begin.wrapping_add(number as usize) % (KEPT / WAYS);
        let places = &mut self.blocks[set * WAYS..][..WAYS];
        let place = places.iter().position(|block| block.of == Some(of)).unwrap_or(WAYS - 1);
        places[..=place].rotate_right(1);
        let block = &mut places[0];
        if block.of != Some(of) {
            // Not kept if unpacking fails.
            block.of = None;
            documents.unpack(&mut self.context, number, &mut block.bytes)?;
            block.of = Some(of);
        }
        let seen = look(&block.bytes);
        if block.bytes.capacity() > KEPT_BYTES {
            *block = Block::default();
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::segment_file::SegmentFile;
    use super::super::sim::SimVfs;
    use super::super::write_new;
    use super::*;
    use crate::format::file::{FileBuilder, Layout, PAGE_LEN};

    const DATABASE: DatabaseId = [5; 16];

    fn text(name: &str, n: u32) -> String {
        // Digits by chance, which do not pack.
        let digits = (8 * n..8 * n + 8).map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()).to_string());
        format!("{name} {n} {}{}", "and so on ".repeat(n as usize % 30), digits.collect::<String>())
    }

    fn written(vfs: &SimVfs, name: &str, count: u32) -> FileEntry {
        let mut writer = DocumentsWriter::create(vfs, name.into(), DATABASE).unwrap();
        for n in 0..count {
            let (text, title) = (text(name, n), n.is_multiple_of(3).then_some(name));
            writer.push(&DocumentRecord { title, text: &text, meta: "{}" }).unwrap();
        }
        writer.finish(name.into()).unwrap()
    }

    fn open(vfs: &SimVfs, entry: &FileEntry) -> Documents<SegmentFile> {
        Documents::new(SegmentFile::open(vfs, Path::new(""), entry, Kind::Docs, &DATABASE).unwrap())
    }

    /// Lengths behind a right checksum are not believed either.
    #[test]
    fn blocks_of_impossible_lengths_are_refused() {
        let vfs = SimVfs::new(1);
        written(&vfs, "docs", 400);
        let whole = vfs.read(Path::new("docs")).unwrap();
        let layout = Layout::parse(&whole, Kind::Docs, Path::new("docs")).unwrap();
        type Change = fn(&mut [u8]);
        let cases: [(u32, Change); 3] = [
            (docs::BLOCK_OFFSETS, |offsets| offsets[..8].copy_from_slice(&u64::MAX.to_le_bytes())),
            (docs::BLOCK_LENGTHS, |lengths| lengths[..4].copy_from_slice(&u32::MAX.to_le_bytes())),
            (docs::BLOCK_LENGTHS, |lengths| lengths[..4].copy_from_slice(&1u32.to_le_bytes())),
        ];
        for (n, (section, change)) in cases.into_iter().enumerate() {
            let sections = (0..16).filter_map(|id| Some((id, whole[layout.section(id)?].to_vec())));
            let rewritten = sections.fold(FileBuilder::new(Kind::Docs, DATABASE), |file, (id, mut bytes)| {
                if id == section {
                    change(&mut bytes);
                }
                file.section(id, bytes)
            });
            let (bytes, path) = (rewritten.finish(), format!("changed-{n}"));
            let checksum = Layout::parse(&bytes, Kind::Docs, Path::new("")).unwrap().checksum;
            write_new(&vfs, Path::new(&path), &bytes).unwrap();
            let entry = FileEntry { path, length: bytes.len() as u64, checksum };
            assert_eq!(open(&vfs, &entry).read(0).unwrap_err().exit_code(), 2, "case {n}");
            assert_eq!(open(&vfs, &entry).read(399).unwrap().text, text("docs", 399), "case {n}");
        }
    }

    #[test]
    fn documents_of_many_files_are_read_in_any_order() {
        let vfs = SimVfs::new(1);
        // The longest has a dictionary, and more blocks than a thread keeps.
        let sizes = [("a", 300), ("b", 20_000), ("c", 1)];
        let files = sizes.map(|(name, count)| (name, count, open(&vfs, &written(&vfs, name, count))));
        assert!(files[0].2.dictionary().unwrap().is_none() && files[1].2.dictionary().unwrap().is_some());
        for i in 0..6000u32 {
            let (name, count, documents) = &files[i as usize % 3];
            let n = if i < 3000 { i / 3 } else { i.wrapping_mul(2_654_435_761) >> 8 } % count;
            let read = documents.read(n).unwrap();
            let title = n.is_multiple_of(3).then(|| (*name).to_owned());
            assert_eq!(read, StoredText { title, text: text(name, n), meta: "{}".into() });
        }
        files.iter().for_each(|(_, count, documents)| assert!(documents.read(*count).is_err()));
        let long = "word ".repeat(100_000);
        let mut writer = DocumentsWriter::create(&vfs, "long".into(), DATABASE).unwrap();
        writer.push(&DocumentRecord { title: None, text: &long, meta: "" }).unwrap();
        let documents = open(&vfs, &writer.finish("long".into()).unwrap());
        assert_eq!(documents.read(0).unwrap().text, long);
        READER.with_borrow(|reader| assert!(reader.blocks.iter().all(|b| b.bytes.capacity() <= KEPT_BYTES)));
    }

    /// Once the sample is complete, blocks are packed as they come; and what has no document is a file too.
    #[test]
    fn more_than_a_sample_and_nothing_at_all_are_files() {
        let vfs = SimVfs::new(1);
        let entry =
            DocumentsWriter::create(&vfs, "none".into(), DATABASE).unwrap().finish("none".into()).unwrap();
        assert!(open(&vfs, &entry).read(0).is_err());
        // Long enough that there are few of them, alike enough to pack well.
        let text = |n: u32| text(&"long ".repeat(2_000), n);
        let mut writer = DocumentsWriter::create(&vfs, "many".into(), DATABASE).unwrap();
        let count = 3 * SAMPLE_BYTES as u32 / 20_000;
        for n in 0..count {
            let waits = writer.compressor.is_none();
            writer.push(&DocumentRecord { title: None, text: &text(n), meta: "" }).unwrap();
            assert!(!waits || writer.waiting_bytes <= SAMPLE_BYTES + 2 * DOCUMENT_BLOCK_BYTES);
        }
        assert!(writer.compressor.is_some() && writer.waiting.is_empty());
        let documents = open(&vfs, &writer.finish("many".into()).unwrap());
        for n in [0, 1, count / 3, count / 2, count - 1] {
            assert_eq!(documents.read(n).unwrap().text, text(n));
        }
    }

    #[test]
    fn blocks_of_many_files_stay_beside_each_other() {
        let vfs = SimVfs::new(1);
        let files = ["a", "b", "c", "d"].map(|name| open(&vfs, &written(&vfs, name, 700)));
        let read = || files.iter().for_each(|file| (0..700).for_each(|n| drop(file.read(n).unwrap())));
        read();
        let kept =
            || READER.with_borrow(|reader| reader.blocks.iter().filter_map(|b| b.of).collect::<HashSet<_>>());
        let before = kept();
        assert!(before.len() > KEPT / 8 && before.len() < KEPT / 2, "{}", before.len());
        read();
        assert_eq!(kept(), before);
        // One that is read again and again outlasts others that come and go in its places.
        let first = files.iter().map(|file| (file.number, 0)).min().unwrap();
        let other = open(&vfs, &written(&vfs, "e", 20_000));
        for n in 0..20_000 {
            files.iter().filter(|file| file.number == first.0).for_each(|file| drop(file.read(0).unwrap()));
            other.read(n).unwrap();
        }
        assert!(kept().contains(&first) && !before.is_subset(&kept()));
    }

    #[test]
    fn a_damaged_block_fails_each_time_and_the_others_do_not() {
        let vfs = SimVfs::new(1);
        let entry = written(&vfs, "a", 2_000);
        let mut bytes = vfs.read(Path::new("a")).unwrap();
        let layout = Layout::parse(&bytes, Kind::Docs, Path::new("a")).unwrap();
        // Of the first block, but not in the page that is verified when the file is opened.
        bytes[layout.section(docs::BLOCKS).unwrap().start.max(PAGE_LEN)] ^= 1;
        vfs.remove_file(Path::new("a")).unwrap();
        write_new(&vfs, Path::new("a"), &bytes).unwrap();
        let documents = open(&vfs, &entry);
        for _ in 0..2 {
            assert_eq!(documents.read(0).unwrap_err().exit_code(), 2);
            assert_eq!(documents.read(1_999).unwrap().text, text("a", 1_999));
        }
    }
}

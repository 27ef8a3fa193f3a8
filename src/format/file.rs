//! The container of every immutable file: a checked header, a table of 64-byte aligned sections, and
//! checksums of pages, so that a reader verifies just the pages it touches.
//!
//! ```text
//! header | section table | section … section | page checksums | block checksums | trailer
//! ```
//!
//! The trailer's checksum covers the block checksums, each of these the checksums of a block's pages, and these cover
//! all bytes before them: it is the identity of the file that the manifest records. Opening a file verifies the block
//! checksums alone, 8 bytes for 64 KiB.
//!
//! Files of version 2.0 have no page checksums: there a block checksum covers the block itself, and what is verified at
//! a touch is the block.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{MAJOR, MINOR, u16_at, u32_at, u64_at};
use crate::error::{Error, Result};

/// First bytes of every container.
pub const MAGIC: [u8; 8] = *b"EMBDB\0\0\0";
/// Last bytes of every container.
pub const END_MAGIC: [u8; 8] = *b"EMBDBEND";
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of one entry of the section table.
pub const SECTION_LEN: usize = 24;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 32;
/// Bytes covered by one block checksum.
pub const BLOCK_LEN: usize = 65_536;
/// Bytes covered by one page checksum: what a system reads of a file at least.
pub const PAGE_LEN: usize = 4096;
/// Feature that a reader must know: there are page checksums.
pub const PAGE_SUMS: u64 = 1;
/// Pages of a block.
const BLOCK_PAGES: usize = BLOCK_LEN / PAGE_LEN;
/// Alignment of sections.
pub const ALIGN: usize = 64;
/// Most sections of a file.
pub const SECTIONS_MAX: usize = 64;

/// Offset of the kind in the header.
pub const KIND_OFFSET: usize = 8;
/// Offset of the major version.
pub const MAJOR_OFFSET: usize = 10;
/// Offset of the minor version.
pub const MINOR_OFFSET: usize = 12;
/// Offset of the flags.
pub const FLAGS_OFFSET: usize = 14;
/// Offset of the features that a reader must know.
pub const INCOMPAT_OFFSET: usize = 16;
/// Offset of the features that a writer must know.
pub const ROCOMPAT_OFFSET: usize = 24;
/// Offset of the database id.
pub const DATABASE_OFFSET: usize = 32;
/// Offset of the number of sections.
pub const COUNT_OFFSET: usize = 48;
/// Offset of the header checksum, over the bytes before it.
pub const CHECKSUM_OFFSET: usize = 56;

/// Offset of a section's id in its entry of the table.
pub const SECTION_ID_OFFSET: usize = 0;
/// Offset of the section's place in the file.
pub const SECTION_START_OFFSET: usize = 8;
/// Offset of the section's length.
pub const SECTION_LENGTH_OFFSET: usize = 16;

/// Offset in the trailer of the number of bytes before the page checksums.
pub const TRAILER_BODY_OFFSET: usize = 0;
/// Offset in the trailer of the length of the file.
pub const TRAILER_LENGTH_OFFSET: usize = 8;
/// Offset in the trailer of the file's checksum.
pub const TRAILER_CHECKSUM_OFFSET: usize = 16;
/// Offset in the trailer of the end mark.
pub const TRAILER_MAGIC_OFFSET: usize = 24;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A manifest.
    Manifest = 1,
    /// Ids of a segment.
    Ids = 2,
    /// Documents of a segment.
    Docs = 3,
    /// Metadata columns of a segment.
    Attrs = 4,
    /// Tombstones of a segment.
    Tombstones = 5,
    /// Rows (chunks) of a generation in a segment.
    Rows = 6,
    /// int8 codes of a generation in a segment.
    Codes = 7,
    /// f32 rows of a generation in a segment.
    Full = 8,
    /// Graph of a generation in a segment.
    Graph = 9,
    /// Merged feedback.
    Feedback = 10,
    /// The state of an unfinished training.
    Checkpoint = 11,
}

/// Sixteen random bytes that all files of one database share.
pub type DatabaseId = [u8; 16];

/// Builds a container in memory.
#[derive(Debug)]
pub struct FileBuilder {
    kind: Kind,
    database: DatabaseId,
    sections: Vec<(u32, Vec<u8>)>,
}

impl FileBuilder {
    /// An empty container.
    pub fn new(kind: Kind, database: DatabaseId) -> Self {
        Self { kind, database, sections: Vec::new() }
    }

    /// Adds a section; ids must be unique.
    pub fn section(mut self, id: u32, bytes: Vec<u8>) -> Self {
        debug_assert!(self.sections.len() < SECTIONS_MAX && self.sections.iter().all(|s| s.0 != id));
        self.sections.push((id, bytes));
        self
    }

    /// The bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let lengths: Vec<(u32, u64)> = self.sections.iter().map(|s| (s.0, s.1.len() as u64)).collect();
        let mut out = head(self.kind, self.database, &lengths);
        let body: usize = self.sections.iter().map(|s| s.1.len().next_multiple_of(ALIGN)).sum();
        out.reserve_exact(body + body / 8192 + 128);
        for (_, bytes) in &self.sections {
            out.extend_from_slice(bytes);
            out.resize(out.len().next_multiple_of(ALIGN), 0);
        }
        let sums: Vec<u64> = page_checksums(&out).collect();
        let tail = tail(out.len() as u64, &sums);
        out.extend_from_slice(&tail);
        out
    }
}

/// All bytes before the first section: header, section table and gap. `sections` are ids and lengths, in order.
pub fn head(kind: Kind, database: DatabaseId, sections: &[(u32, u64)]) -> Vec<u8> {
    let table_end = HEADER_LEN + sections.len() * SECTION_LEN;
    let mut out = Vec::with_capacity(table_end.next_multiple_of(ALIGN));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&MAJOR.to_le_bytes());
    out.extend_from_slice(&MINOR.to_le_bytes());
    out.extend_from_slice(&[0; 2]); // flags
    out.extend_from_slice(&PAGE_SUMS.to_le_bytes());
    out.extend_from_slice(&[0; 8]); // what a writer must know
    out.extend_from_slice(&database);
    out.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    let mut offset = table_end.next_multiple_of(ALIGN) as u64;
    for (id, length) in sections {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        offset += length.next_multiple_of(ALIGN as u64);
    }
    out.resize(table_end.next_multiple_of(ALIGN), 0);
    out
}

/// The checksums of the pages of a body, or of a part of it that begins with a page.
pub fn page_checksums(body: &[u8]) -> impl Iterator<Item = u64> {
    body.chunks(PAGE_LEN).map(xxh3_64)
}

/// All bytes after the last section and its gap: checksums of pages and blocks, and the trailer.
pub fn tail(body: u64, pages: &[u64]) -> Vec<u8> {
    let blocks = pages.len().div_ceil(BLOCK_PAGES);
    let mut out = Vec::with_capacity((pages.len() + blocks) * 8 + TRAILER_LEN);
    pages.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    let covered = out.len();
    for block in 0..blocks {
        let sums = &out[8 * BLOCK_PAGES * block..covered.min(8 * BLOCK_PAGES * (block + 1))];
        let sum = xxh3_64(sums);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    out.extend_from_slice(&body.to_le_bytes());
    let length = body + (out.len() + TRAILER_LEN - 8) as u64;
    out.extend_from_slice(&length.to_le_bytes());
    let checksum = xxh3_64(&out[covered..]);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&END_MAGIC);
    out
}

/// A section of a parsed container.
#[derive(Debug, Clone, Copy)]
struct Section {
    id: u32,
    start: usize,
    len: usize,
}

/// The parsed frame of a container: where sections and checksums lie. Holds no bytes.
#[derive(Debug, Clone)]
pub struct Layout {
    sections: Vec<Section>,
    body_len: usize,
    /// Bytes of page checksums; 0 in files without.
    sums_len: usize,
    /// Database id in the header.
    pub database: DatabaseId,
    /// The trailer's checksum: the identity of the file.
    pub checksum: u64,
}

impl Layout {
    /// Parses header, section table and trailer and verifies their checksums (blocks are verified by
    /// [`Layout::verify`]). `path` serves error messages.
    pub fn parse(bytes: &[u8], kind: Kind, path: &Path) -> Result<Self> {
        let bad = |offset: usize, what: &str| Error::corrupt(path, offset as u64, what);
        if bytes.len() < HEADER_LEN + TRAILER_LEN {
            return Err(bad(bytes.len(), "the file is shorter than its header and trailer"));
        }
        let (count, has_pages) = check_header(bytes, kind, path)?;
        let trailer = bytes.len() - TRAILER_LEN;
        let field = |offset: usize| u64_at(bytes, trailer + offset).unwrap_or_default();
        if bytes[trailer + TRAILER_MAGIC_OFFSET..] != END_MAGIC {
            return Err(bad(
                trailer + TRAILER_MAGIC_OFFSET,
                "the end mark is missing: truncated or overwritten",
            ));
        }
        if field(TRAILER_LENGTH_OFFSET) != bytes.len() as u64 {
            return Err(bad(trailer + TRAILER_LENGTH_OFFSET, "the recorded length is not the file's"));
        }
        let body_len = usize::try_from(field(TRAILER_BODY_OFFSET)).unwrap_or(usize::MAX);
        let blocks = body_len.div_ceil(BLOCK_LEN);
        let sums_len = if has_pages { body_len.div_ceil(PAGE_LEN).saturating_mul(8) } else { 0 };
        let sums = blocks.checked_mul(8).and_then(|blocks| blocks.checked_add(sums_len));
        if sums.and_then(|sums| sums.checked_add(body_len)) != Some(trailer) {
            return Err(bad(trailer, "the number of checksums does not fit the length"));
        }
        let checksum = field(TRAILER_CHECKSUM_OFFSET);
        if xxh3_64(&bytes[body_len + sums_len..trailer + TRAILER_CHECKSUM_OFFSET]) != checksum {
            return Err(bad(body_len + sums_len, "the checksum of the block checksums does not match"));
        }
        let table_end = HEADER_LEN + count * SECTION_LEN;
        if table_end > body_len {
            return Err(bad(COUNT_OFFSET, "the section table does not fit the file"));
        }
        let sections = Vec::with_capacity(count);
        let mut layout = Self { sections, body_len, sums_len, database: [0; 16], checksum };
        layout.database.copy_from_slice(&bytes[DATABASE_OFFSET..COUNT_OFFSET]);
        layout.verify(bytes, 0, table_end, path)?;
        for i in 0..count {
            layout.sections.push(read_section(bytes, i, table_end, body_len, path)?);
        }
        Ok(layout)
    }

    /// The range of section `id`, if the file has it.
    pub fn section(&self, id: u32) -> Option<std::ops::Range<usize>> {
        self.sections.iter().find(|s| s.id == id).map(|s| s.start..s.start + s.len)
    }

    /// Bytes that are verified together, a power of two.
    pub fn page_len(&self) -> usize {
        if self.sums_len > 0 { PAGE_LEN } else { BLOCK_LEN }
    }

    /// Number of checksummed pages.
    pub fn pages(&self) -> usize {
        self.body_len.div_ceil(self.page_len())
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// Verifies one page.
    pub fn verify_page(&self, bytes: &[u8], page: usize, path: &Path) -> Result<()> {
        let len = self.page_len();
        let start = page * len;
        let stored = if self.sums_len > 0 {
            let first = self.body_len + 8 * (page / BLOCK_PAGES * BLOCK_PAGES);
            let end = (first + 8 * BLOCK_PAGES).min(self.body_len + self.sums_len);
            let of_block = u64_at(bytes, self.body_len + self.sums_len + 8 * (page / BLOCK_PAGES));
            if bytes.get(first..end).map(xxh3_64) != of_block {
                return Err(Error::corrupt(path, first as u64, "these page checksums are damaged"));
            }
            u64_at(bytes, self.body_len + 8 * page)
        } else {
            u64_at(bytes, self.body_len + 8 * page)
        };
        match bytes.get(start..(start + len).min(self.body_len)) {
            Some(data) if Some(xxh3_64(data)) == stored => Ok(()),
            _ => {
                let what = format!("the checksum of these {} KiB does not match", len >> 10);
                Err(Error::corrupt(path, start as u64, what))
            }
        }
    }

    /// Verifies the pages that overlap `start..end`.
    pub fn verify(&self, bytes: &[u8], start: usize, end: usize, path: &Path) -> Result<()> {
        let len = self.page_len();
        for page in start / len..end.min(self.body_len).div_ceil(len) {
            self.verify_page(bytes, page, path)?;
        }
        Ok(())
    }
}

/// Checks the header; returns the number of sections, and whether there are page checksums.
fn check_header(bytes: &[u8], kind: Kind, path: &Path) -> Result<(usize, bool)> {
    let bad = |offset: usize, what: &str| Error::corrupt(path, offset as u64, what);
    if bytes[..8] != MAGIC {
        return Err(bad(0, "not an embdb file: wrong magic"));
    }
    if Some(xxh3_64(&bytes[..CHECKSUM_OFFSET])) != u64_at(bytes, CHECKSUM_OFFSET) {
        return Err(bad(0, "the checksum of the header does not match"));
    }
    let major = u16_at(bytes, MAJOR_OFFSET).unwrap_or_default();
    let minor = u16_at(bytes, MINOR_OFFSET).unwrap_or_default();
    if major != MAJOR {
        return Err(Error::other_format(path, major, minor, MAJOR));
    }
    let features = u64_at(bytes, INCOMPAT_OFFSET).unwrap_or_default();
    if features & !PAGE_SUMS != 0 || u64_at(bytes, ROCOMPAT_OFFSET) != Some(0) {
        return Err(Error::TooNew {
            file: path.to_path_buf(),
            needs: format!("{major}.{minor} of the file format"),
        });
    }
    if u16_at(bytes, KIND_OFFSET) != Some(kind as u16) {
        return Err(bad(KIND_OFFSET, &format!("the file is not of kind {kind:?}")));
    }
    match u32_at(bytes, COUNT_OFFSET) {
        Some(count) if count as usize <= SECTIONS_MAX => Ok((count as usize, features & PAGE_SUMS != 0)),
        _ => Err(bad(COUNT_OFFSET, "more sections than a file may have")),
    }
}

fn read_section(bytes: &[u8], i: usize, table_end: usize, body_len: usize, path: &Path) -> Result<Section> {
    let at = HEADER_LEN + i * SECTION_LEN;
    let id = u32_at(bytes, at + SECTION_ID_OFFSET).unwrap_or_default();
    let start = u64_at(bytes, at + SECTION_START_OFFSET).and_then(|v| usize::try_from(v).ok());
    let len = u64_at(bytes, at + SECTION_LENGTH_OFFSET).and_then(|v| usize::try_from(v).ok());
    match (start, len) {
        (Some(start), Some(len))
            if start % ALIGN == 0
                && start >= table_end
                && start.checked_add(len).is_some_and(|e| e <= body_len) =>
        {
            Ok(Section { id, start, len })
        }
        _ => Err(Error::corrupt(path, at as u64, format!("section {id} lies outside the file"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        FileBuilder::new(Kind::Docs, [7; 16])
            .section(1, vec![1; 100_000])
            .section(2, b"hello".to_vec())
            .finish()
    }

    #[test]
    fn sections_come_back() {
        let bytes = sample();
        let layout = Layout::parse(&bytes, Kind::Docs, Path::new("f")).unwrap();
        assert_eq!(&bytes[layout.section(2).unwrap()], b"hello");
        assert_eq!(layout.section(1).unwrap().len(), 100_000);
        assert_eq!(layout.section(1).unwrap().start % ALIGN, 0);
        assert!(layout.section(3).is_none());
        layout.verify(&bytes, 0, bytes.len(), Path::new("f")).unwrap();
    }

    /// The same file as version 2.0 wrote it.
    fn without_pages(bytes: &[u8]) -> Vec<u8> {
        let body = u64_at(bytes, bytes.len() - TRAILER_LEN).unwrap() as usize;
        let mut old = bytes[..body].to_vec();
        old[MINOR_OFFSET] = 0;
        old[INCOMPAT_OFFSET] = 0;
        let sum = xxh3_64(&old[..CHECKSUM_OFFSET]);
        old[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
        let sums: Vec<u8> = old.chunks(BLOCK_LEN).flat_map(|block| xxh3_64(block).to_le_bytes()).collect();
        old.extend(sums);
        old.extend((body as u64).to_le_bytes());
        let length = (old.len() + TRAILER_LEN - 8) as u64;
        old.extend(length.to_le_bytes());
        let sum = xxh3_64(&old[body..]);
        old.extend(sum.to_le_bytes());
        old.extend(END_MAGIC);
        old
    }

    #[test]
    fn a_file_without_page_checksums_is_read_by_blocks() {
        let old = without_pages(&sample());
        let layout = Layout::parse(&old, Kind::Docs, Path::new("f")).unwrap();
        assert_eq!((layout.page_len(), layout.pages()), (BLOCK_LEN, 2));
        assert_eq!(&old[layout.section(2).unwrap()], b"hello");
        layout.verify(&old, 0, old.len(), Path::new("f")).unwrap();
        let layout = Layout::parse(&sample(), Kind::Docs, Path::new("f")).unwrap();
        assert_eq!((layout.page_len(), layout.pages()), (PAGE_LEN, 25));
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_found() {
        let bytes = FileBuilder::new(Kind::Docs, [7; 16]).section(1, vec![5; 300]).finish();
        every_bit_counts(&bytes);
        every_bit_counts(&without_pages(&bytes));
    }

    fn every_bit_counts(bytes: &[u8]) {
        let intact = |b: &[u8]| {
            Layout::parse(b, Kind::Docs, Path::new("f"))
                .and_then(|l| l.verify(b, 0, b.len(), Path::new("f")))
                .is_ok()
        };
        assert!(intact(bytes));
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(!intact(&copy), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(!intact(&bytes[..len]), "length {len}");
        }
    }

    /// The same file with its body changed and all that surrounds it made anew.
    fn rebuilt(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let body = u64_at(bytes, bytes.len() - TRAILER_LEN).unwrap() as usize;
        let mut body = bytes[..body].to_vec();
        change(&mut body);
        let sums: Vec<u64> = page_checksums(&body).collect();
        let end = tail(body.len() as u64, &sums);
        [body, end].concat()
    }

    /// What says that bytes are ours is not enough: each of these contradictions has checksums that hold.
    #[test]
    fn contradictions_behind_right_checksums_are_found() {
        let bytes = sample();
        let parse = |bytes: &[u8]| Layout::parse(bytes, Kind::Docs, Path::new("f"));
        assert!(parse(&rebuilt(&bytes, |_| {})).is_ok());
        for (field, value) in
            [(SECTION_LENGTH_OFFSET, 1u64 << 40), (SECTION_START_OFFSET, 1 << 40), (SECTION_START_OFFSET, 7)]
        {
            let at = HEADER_LEN + SECTION_LEN + field;
            let wrong = rebuilt(&bytes, |body| body[at..at + 8].copy_from_slice(&value.to_le_bytes()));
            assert!(parse(&wrong).unwrap_err().to_string().contains("lies outside"), "{field} {value}");
        }
        let long = rebuilt(&bytes, |body| body[HEADER_LEN + SECTION_LENGTH_OFFSET] = 255);
        assert!(parse(&long).is_ok(), "a section may end anywhere in the body");

        // A length that is not the file's.
        let mut wrong = bytes.clone();
        let trailer = wrong.len() - TRAILER_LEN;
        wrong[trailer + TRAILER_LENGTH_OFFSET] ^= 1;
        let body = u64_at(&wrong, trailer).unwrap() as usize;
        let sums = body + 8 * body.div_ceil(PAGE_LEN);
        let checksum = xxh3_64(&wrong[sums..trailer + TRAILER_CHECKSUM_OFFSET]);
        wrong[trailer + TRAILER_CHECKSUM_OFFSET..][..8].copy_from_slice(&checksum.to_le_bytes());
        assert!(parse(&wrong).unwrap_err().to_string().contains("length"));

        // A page with its own checksum, which that of the block does not cover.
        let mut wrong = bytes.clone();
        wrong[5000] ^= 1;
        let sum = xxh3_64(&wrong[PAGE_LEN..2 * PAGE_LEN]);
        wrong[body + 8..body + 16].copy_from_slice(&sum.to_le_bytes());
        let layout = Layout::parse(&wrong, Kind::Docs, Path::new("f"));
        let verified = layout.and_then(|layout| layout.verify_page(&wrong, 1, Path::new("f")));
        assert_eq!(verified.unwrap_err().exit_code(), 2);
    }

    #[test]
    fn another_kind_and_a_newer_version_are_told_apart() {
        let bytes = sample();
        assert_eq!(Layout::parse(&bytes, Kind::Ids, Path::new("f")).unwrap_err().exit_code(), 2);
        for (offset, value) in [(MAJOR_OFFSET, MAJOR as u8 + 1), (INCOMPAT_OFFSET, 2), (ROCOMPAT_OFFSET, 1)] {
            let mut newer = bytes.clone();
            newer[offset] |= value;
            assert_eq!(Layout::parse(&newer, Kind::Docs, Path::new("f")).unwrap_err().exit_code(), 2);
            let sum = xxh3_64(&newer[..CHECKSUM_OFFSET]);
            newer[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Layout::parse(&newer, Kind::Docs, Path::new("f")).unwrap_err().exit_code(), 6);
        }
        let mut earlier = bytes.clone();
        earlier[MAJOR_OFFSET] = MAJOR as u8 - 1;
        let sum = xxh3_64(&earlier[..CHECKSUM_OFFSET]);
        earlier[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
        let error = Layout::parse(&earlier, Kind::Docs, Path::new("f")).unwrap_err();
        assert!(error.exit_code() == 6 && error.to_string().contains("earlier"), "{error}");
    }
}

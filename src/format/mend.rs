//! What can be read of damaged bytes: containers page by page, records one by one, and single bits that flipped.
//!
//! A bit that flipped is found by trying: with it turned back the checksum holds. Of a page's 64 bits a wrong turn
//! passes once in 10¹⁴ pages; of a record's 32 once in 2³² / (8 × its bytes) records that are damaged otherwise.

use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::file::{
    BLOCK_LEN, DatabaseId, HEADER_LEN, Kind, Layout, PAGE_LEN, SECTION_LEN, TRAILER_LEN, tail,
};
use super::frame::{
    FRAME_ALIGN, FRAME_CHECKSUM_OFFSET, FRAME_HEADER_LEN, FRAME_TYPE_OFFSET, Frame, FrameType,
    LOG_CHECKSUM_OFFSET, LOG_HEADER_LEN, checksum, frame_at, payload_len,
};
use super::u64_at;
use crate::error::{Error, Result};

/// Pages of a file in which flipped bits are looked for: one takes some milliseconds.
const PAGES_SEARCHED: usize = 256;
/// The same for files whose pages are blocks: one takes seconds.
const BLOCKS_SEARCHED: usize = 8;
/// The polynomial of crc32c, bits reversed.
const CRC_POLYNOMIAL: u32 = 0x82f6_3b78;

/// What is left of a container.
#[derive(Debug)]
pub struct Remains {
    /// Where its sections lie.
    pub layout: Layout,
    /// For each page whether its bytes are those that were written.
    pub sound: Vec<bool>,
    /// Bits that were turned back.
    pub turned: u64,
}

impl Remains {
    /// Whether all pages of a part of the file are sound.
    pub fn is_sound(&self, part: Range<usize>) -> bool {
        let len = self.layout.page_len();
        if part.is_empty() {
            return true;
        }
        self.sound.get(part.start / len..part.end.div_ceil(len)).is_some_and(|pages| pages.iter().all(|&s| s))
    }
}

/// Reads a container as far as its bytes are sound. Turns flipped bits back in `bytes`, and makes all that surrounds
/// the body, the page checksums apart, anew.
///
/// # Errors
/// [`Error::Corrupt`] if not even the places of its sections can be told, or it is cut short: its checksums stand at
/// its end.
pub fn mend(bytes: &mut [u8], kind: Kind, database: Option<&DatabaseId>, path: &Path) -> Result<Remains> {
    let [with_pages, without] = [PAGE_LEN, BLOCK_LEN].map(|page| Sums::read(bytes, page));
    let best = match (with_pages, without) {
        (Some(a), Some(b)) => Some(if a.matching >= b.matching { a } else { b }),
        (a, b) => a.or(b),
    };
    let what =
        "its length is not that of a whole file, and what its checksums would say is lost with its end";
    let mut sums = best.ok_or_else(|| Error::corrupt(path, bytes.len() as u64, what))?;
    let mut turned = sums.turn_back(bytes);
    let sound = sums.sound;
    if sound.first() == Some(&false) && !is_head_plausible(bytes, sums.body) {
        return Err(Error::corrupt(path, 0, "where its sections lie cannot be read"));
    }
    // The layout is parsed by the same code as ever: as if what the pages hold now had been written.
    let pages: Vec<u64> = bytes[..sums.body].chunks(sums.page).map(xxh3_64).collect();
    let surroundings =
        if sums.page == PAGE_LEN { tail(sums.body as u64, &pages) } else { old_tail(sums.body, &pages) };
    if !sound.contains(&false) {
        let changed =
            bytes[sums.body..].iter().zip(&surroundings).map(|(a, b)| u64::from((a ^ b).count_ones()));
        turned += changed.sum::<u64>();
    }
    bytes[sums.body..].copy_from_slice(&surroundings);
    let layout = Layout::parse(bytes, kind, path)?;
    if database.is_some_and(|database| layout.database != *database) {
        return Err(Error::corrupt(path, 0, "the file of another database"));
    }
    Ok(Remains { layout, sound, turned })
}

/// The checksums at the end of a container.
struct Sums {
    /// Bytes of a page.
    page: usize,
    /// Bytes of the body.
    body: usize,
    /// Checksum of each page.
    stored: Vec<u64>,
    /// Whether each page matches.
    sound: Vec<bool>,
    /// How many do.
    matching: usize,
}

impl Sums {
    /// The checksums of a file with pages of this length, if its length is one that such a file can have.
    fn read(bytes: &[u8], page: usize) -> Option<Self> {
        let body = body_len(bytes.len(), page)?;
        let stored: Option<Vec<u64>> =
            (0..body.div_ceil(page)).map(|n| u64_at(bytes, body + 8 * n)).collect();
        let stored = stored?;
        let found = bytes[..body].chunks(page).map(xxh3_64);
        // One bit of difference is a bit of the checksum that flipped: no other page comes so near.
        let sound: Vec<bool> = found.zip(&stored).map(|(found, s)| (found ^ s).count_ones() <= 1).collect();
        let matching = page * sound.iter().filter(|&&s| s).count();
        Some(Self { page, body, stored, sound, matching })
    }

    /// Turns back the bits by which pages differ from what was written; returns how many.
    fn turn_back(&mut self, bytes: &mut [u8]) -> u64 {
        let mut turned = 0;
        let mut searches = if self.page == PAGE_LEN { PAGES_SEARCHED } else { BLOCKS_SEARCHED };
        let body = &mut bytes[..self.body];
        for ((page, &sum), sound) in body.chunks_mut(self.page).zip(&self.stored).zip(&mut self.sound) {
            if !*sound && searches > 0 && page.iter().any(|&byte| byte != 0) {
                searches -= 1;
                *sound = turn_one(page, |page| xxh3_64(page) == sum);
                turned += u64::from(*sound);
            }
        }
        turned
    }
}

/// The body of a file of so many bytes, all in all.
fn body_len(file: usize, page: usize) -> Option<usize> {
    let whole = |body: usize| {
        let pages = if page == PAGE_LEN { body.div_ceil(PAGE_LEN) } else { 0 };
        body + 8 * (pages + body.div_ceil(BLOCK_LEN)) + TRAILER_LEN
    };
    // The length grows with the body, which is a multiple of 64.
    let (mut low, mut high) = (1, file / 64 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if whole(64 * middle) < file { low = middle + 1 } else { high = middle }
    }
    (whole(64 * low) == file).then_some(64 * low)
}

/// All after the body of a file of version 2.0.
fn old_tail(body: usize, blocks: &[u64]) -> Vec<u8> {
    let mut out: Vec<u8> = blocks.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    out.extend_from_slice(&(body as u64).to_le_bytes());
    out.extend_from_slice(&((body + out.len() + TRAILER_LEN - 8) as u64).to_le_bytes());
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&super::file::END_MAGIC);
    out
}

/// Whether header and section table in a damaged page are as they were written: the header has a checksum of its own,
/// and sections follow one another without a gap, up to the end of the body.
fn is_head_plausible(bytes: &[u8], body: usize) -> bool {
    use super::file::{ALIGN, CHECKSUM_OFFSET, COUNT_OFFSET, SECTION_LENGTH_OFFSET, SECTION_START_OFFSET};
    if bytes.get(..CHECKSUM_OFFSET).map(xxh3_64) != u64_at(bytes, CHECKSUM_OFFSET) {
        return false;
    }
    let count = super::u32_at(bytes, COUNT_OFFSET).unwrap_or_default() as usize;
    let mut next = (HEADER_LEN + count * SECTION_LEN).next_multiple_of(ALIGN) as u64;
    for section in 0..count {
        let at = HEADER_LEN + section * SECTION_LEN;
        let fields = [SECTION_START_OFFSET, SECTION_LENGTH_OFFSET].map(|field| u64_at(bytes, at + field));
        let [Some(start), Some(length)] = fields else { return false };
        if start != next {
            return false;
        }
        let Some(end) = start.checked_add(length).and_then(|end| end.checked_next_multiple_of(ALIGN as u64))
        else {
            return false;
        };
        next = end;
    }
    next == body as u64
}

/// Turns one bit, that with which it holds; leaves the bytes as they were if there is none.
fn turn_one(bytes: &mut [u8], holds: impl Fn(&[u8]) -> bool) -> bool {
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            if holds(bytes) {
                return true;
            }
            bytes[at] ^= 1 << bit;
        }
    }
    false
}

/// Turns back a flipped bit in the header of a log; returns whether its checksum holds now.
pub fn mend_log_header(header: &mut [u8]) -> bool {
    if header.len() < LOG_HEADER_LEN {
        return false;
    }
    let header = &mut header[..LOG_HEADER_LEN];
    let holds = |bytes: &[u8]| {
        super::u32_at(bytes, LOG_CHECKSUM_OFFSET) == Some(crc32c::crc32c(&bytes[..LOG_CHECKSUM_OFFSET]))
    };
    holds(header) || turn_one(header, holds)
}

/// Turns back a flipped bit in the frame at the start of `bytes`, which begin at offset `base` of their file; returns
/// whether a frame stands there now.
pub fn mend_frame(bytes: &mut [u8], base: u64, salt: u64) -> bool {
    let is_frame = |bytes: &[u8]| frame_at(bytes, 0, base, salt).is_some();
    if is_frame(bytes) {
        return true;
    }
    // First those of the header, which says where the payload ends.
    for at in 0..bytes.len().min(FRAME_HEADER_LEN) {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            if is_frame(bytes) {
                return true;
            }
            bytes[at] ^= 1 << bit;
        }
    }
    turn_payload_bit(bytes, base, salt).is_some()
}

/// Turns the bit of the payload by which the checksum of a frame is wrong, if there is one, and clears the padding,
/// which is no part of it. The checksum is linear: each bit changes it in a way of its own, whatever the others are.
fn turn_payload_bit(bytes: &mut [u8], base: u64, salt: u64) -> Option<()> {
    let len = payload_len(bytes, 0, salt)?;
    let padded = len.next_multiple_of(FRAME_ALIGN);
    let body = bytes.get_mut(..FRAME_HEADER_LEN + padded)?;
    let (header, rest) = body.split_at_mut(FRAME_HEADER_LEN);
    let (payload, padding) = rest.split_at_mut(len);
    let stored = super::u32_at(header, FRAME_CHECKSUM_OFFSET)?;
    let wrong = checksum(header, payload, salt, base) ^ stored;
    if wrong == 0 {
        padding.fill(0);
        return Some(());
    }
    let mut change = CRC_POLYNOMIAL;
    for byte in payload.iter_mut().rev() {
        for bit in (0..8).rev() {
            if change == wrong {
                *byte ^= 1 << bit;
                padding.fill(0);
                return Some(());
            }
            change = change >> 1 ^ if change & 1 == 1 { CRC_POLYNOMIAL } else { 0 };
        }
    }
    None
}

/// A piece of a damaged log.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A sound frame.
    Frame(Frame<'a>),
    /// Bytes that are none.
    Gap(Range<usize>),
}

/// The next piece of the bytes of a whole log from `at` on, a multiple of 8; none at its end.
pub fn next_piece(bytes: &[u8], at: usize, salt: u64) -> Option<Piece<'_>> {
    if at >= bytes.len() {
        return None;
    }
    if let Some(frame) = frame_at(bytes, at, 0, salt) {
        return Some(Piece::Frame(frame));
    }
    let mut places = (at + FRAME_ALIGN..bytes.len()).step_by(FRAME_ALIGN);
    let next = places.find(|&place| frame_at(bytes, place, 0, salt).is_some());
    Some(Piece::Gap(at..next.unwrap_or(bytes.len())))
}

/// Types and payloads of the damaged frames in `bytes`, one after the other as far as their headers can be read.
pub fn damaged_frames(bytes: &[u8], salt: u64) -> Vec<(FrameType, &[u8])> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(len) = payload_len(bytes, at, salt) {
        let start = at + FRAME_HEADER_LEN;
        let kind = bytes.get(at + FRAME_TYPE_OFFSET).and_then(|&byte| FrameType::from_byte(byte));
        let (Some(kind), Some(payload)) = (kind, bytes.get(start..start + len)) else { break };
        found.push((kind, payload));
        at = start + len.next_multiple_of(FRAME_ALIGN);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::file::FileBuilder;
    use super::super::frame::{BatchBuilder, LogHeader};
    use super::*;

    const DATABASE: DatabaseId = [3; 16];

    fn sample() -> Vec<u8> {
        let noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        FileBuilder::new(Kind::Docs, DATABASE).section(1, noise).section(2, b"hello".to_vec()).finish()
    }

    fn mended(bytes: &mut [u8]) -> Result<Remains> {
        mend(bytes, Kind::Docs, Some(&DATABASE), Path::new("f"))
    }

    #[test]
    fn one_flipped_bit_is_turned_back_wherever_it_is() {
        let whole = sample();
        let body = body_len(whole.len(), PAGE_LEN).unwrap();
        for bit in (0..whole.len() * 8).step_by(997).chain(body * 8..body * 8 + 64) {
            let mut copy = whole.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            let remains = mended(&mut copy).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
            assert!(remains.sound.iter().all(|&sound| sound), "bit {bit}");
            assert_eq!(copy, whole, "bit {bit}");
        }
    }

    #[test]
    fn of_a_damaged_page_nothing_counts_and_all_else_is_kept() {
        let mut bytes = sample();
        bytes[9000..9512].fill(0);
        let remains = mended(&mut bytes).unwrap();
        assert_eq!(remains.sound, [true, true, false, true, true]);
        assert!(
            remains.is_sound(0..8192) && !remains.is_sound(8191..8193) && remains.is_sound(12288..20_000)
        );
        assert!(remains.is_sound(9000..9000), "of nothing nothing is damaged");
        // A page of nothing but zeros was never written, so no bit of it is looked for.
        let mut bytes = sample();
        bytes[8192..12_288].fill(0);
        assert_eq!(mended(&mut bytes).unwrap().sound, [true, true, false, true, true]);
        // The table is known even though its own page is damaged.
        let mut bytes = sample();
        bytes[1000..1512].fill(0);
        let remains = mended(&mut bytes).unwrap();
        assert!(!remains.sound[0] && remains.layout.section(2).is_some());
        bytes[70..80].fill(9);
        assert_eq!(mended(&mut bytes).unwrap_err().exit_code(), 2);
        // So it is with the header, which has a checksum of its own.
        let mut bytes = sample();
        bytes[16..32].fill(9);
        assert_eq!(mended(&mut bytes).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_was_cut_or_is_another_databases_is_refused() {
        let whole = sample();
        for len in (0..whole.len()).step_by(511) {
            let cut = mended(&mut whole[..len].to_vec());
            assert!(cut.is_err() || cut.unwrap().sound.iter().all(|&sound| !sound), "{len}");
        }
        assert!(mend(&mut sample(), Kind::Docs, Some(&[4; 16]), Path::new("f")).is_err());
        assert!(mend(&mut sample(), Kind::Ids, Some(&DATABASE), Path::new("f")).is_err());
    }

    #[test]
    fn one_flipped_bit_of_a_log_is_turned_back_and_more_are_a_gap() {
        const SALT: u64 = 0x1234_5678_9abc_def0;
        let mut batch = BatchBuilder::new(0, SALT);
        for n in 0..3u8 {
            batch.push(FrameType::Delete, u64::from(n), &[b'a' + n; 21]).unwrap();
        }
        let whole = batch.commit(3, 0).unwrap();
        let frame = FRAME_HEADER_LEN + 24;
        assert!(mend_frame(&mut whole.clone()[frame..2 * frame], frame as u64, SALT), "it is sound");
        for bit in 0..frame * 8 {
            let mut copy = whole.clone();
            copy[frame + bit / 8] ^= 1 << (bit % 8);
            let Some(Piece::Gap(gap)) = next_piece(&copy, frame, SALT) else { panic!("bit {bit} is damage") };
            assert_eq!(gap, frame..2 * frame);
            assert!(mend_frame(&mut copy[gap], frame as u64, SALT), "bit {bit}");
            assert_eq!(copy, whole, "bit {bit}");
        }
        let mut copy = whole.clone();
        copy[frame + FRAME_HEADER_LEN..][..2].fill(0xee);
        assert!(!mend_frame(&mut copy[frame..2 * frame], frame as u64, SALT));
        let seen = damaged_frames(&copy[frame..2 * frame], SALT);
        let [(kind, payload)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((*kind, payload.len(), payload[5]), (FrameType::Delete, 21, b'b'));

        let header = LogHeader { number: 7, salt: SALT, previous_end: 9, database: DATABASE }.encode();
        for bit in 0..header.len() * 8 {
            let mut copy = header.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(mend_log_header(&mut copy) && copy == header, "bit {bit}");
        }
        assert!(!mend_log_header(&mut [0; 64]) && !mend_log_header(&mut [1; 9]));
    }
}

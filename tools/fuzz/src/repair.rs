//! Repairs what random bytes never get right, magic numbers and checksums, so that a fuzzer reaches what lies behind.

use embdb::format::file::{self, Kind};
use embdb::format::frame::{self, FrameType};
use embdb::format::{MAJOR, u32_at};
use xxhash_rust::xxh3::xxh3_64;

/// Makes a container of a kind out of any bytes: sections stay as they are, all that is checked before them fits.
pub fn container(data: &[u8], kind: Kind) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(file::HEADER_LEN).next_multiple_of(file::ALIGN), 0);
    put(&mut bytes, 0, &file::MAGIC);
    put(&mut bytes, file::KIND_OFFSET, &(kind as u16).to_le_bytes());
    put(&mut bytes, file::MAJOR_OFFSET, &MAJOR.to_le_bytes());
    put(&mut bytes, file::INCOMPAT_OFFSET, &file::PAGE_SUMS.to_le_bytes());
    put(&mut bytes, file::ROCOMPAT_OFFSET, &[0; 8]);
    sums(&bytes)
}

/// Gives a container whose body was changed the checksums of its header, its pages and its end.
pub fn sums(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    if bytes.len() >= file::HEADER_LEN {
        let checksum = xxh3_64(&bytes[..file::CHECKSUM_OFFSET]);
        put(&mut bytes, file::CHECKSUM_OFFSET, &checksum.to_le_bytes());
    }
    let sums: Vec<u64> = file::page_checksums(&bytes).collect();
    bytes.extend(file::tail(bytes.len() as u64, &sums));
    bytes
}

/// Makes whole frames, at offset `base` of a log with this salt, out of any bytes. Types stay as they are; a COMMIT covers
/// the frames before it unless its sequence number is odd.
pub fn frames(data: &[u8], base: u64, salt: u64) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().next_multiple_of(frame::FRAME_ALIGN), 0);
    let (mut at, mut start, mut count, mut digest) = (0, 0, 0u32, 0u32);
    while at + frame::FRAME_HEADER_LEN <= bytes.len() {
        let payload = at + frame::FRAME_HEADER_LEN;
        let commit = bytes[at + frame::FRAME_TYPE_OFFSET] == FrameType::Commit as u8;
        let whole = commit && bytes[at + frame::FRAME_SEQUENCE_OFFSET].is_multiple_of(2);
        let room = bytes.len() - payload;
        let asked = u32_at(&bytes, at + frame::FRAME_LENGTH_OFFSET).unwrap_or_default() as usize;
        // A length that fits is one that somebody meant; of any other, so much that something may follow.
        let asked = if asked <= room { asked } else { asked % 256 };
        let length = if whole { frame::COMMIT_LEN } else { asked };
        let length = length.min(room);
        put(&mut bytes, at, &frame::FRAME_MAGIC.to_le_bytes());
        put(&mut bytes, at + frame::FRAME_LENGTH_OFFSET, &(length as u32).to_le_bytes());
        put(&mut bytes, at + frame::FRAME_SALT_OFFSET, &(salt as u32).to_le_bytes());
        let next = payload + length.next_multiple_of(frame::FRAME_ALIGN);
        bytes[payload + length..next].fill(0);
        if whole && length == frame::COMMIT_LEN {
            put(&mut bytes, payload + frame::COMMIT_START_OFFSET, &(base + start as u64).to_le_bytes());
            put(&mut bytes, payload + frame::COMMIT_FRAMES_OFFSET, &count.to_le_bytes());
            put(&mut bytes, payload + frame::COMMIT_DIGEST_OFFSET, &digest.to_le_bytes());
        }
        let mut sum = crc32c::crc32c(&bytes[at..at + frame::FRAME_CHECKSUM_OFFSET]);
        sum = crc32c::crc32c_append(sum, &bytes[at + frame::FRAME_LENGTH_OFFSET..payload]);
        sum = crc32c::crc32c_append(sum, &salt.to_le_bytes());
        sum = crc32c::crc32c_append(sum, &(base + at as u64).to_le_bytes());
        sum = crc32c::crc32c_append(sum, &bytes[payload..payload + length]);
        put(&mut bytes, at + frame::FRAME_CHECKSUM_OFFSET, &sum.to_le_bytes());
        (count, digest) = (count + 1, crc32c::crc32c_append(digest, &sum.to_le_bytes()));
        at = next;
        if commit {
            (start, count, digest) = (at, 0, 0);
        }
    }
    bytes
}

/// Gives a log's header its magic number, version and checksum.
pub fn log_header(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(frame::LOG_HEADER_LEN), 0);
    put(&mut bytes, 0, &frame::LOG_MAGIC);
    put(&mut bytes, frame::LOG_MAJOR_OFFSET, &MAJOR.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..frame::LOG_CHECKSUM_OFFSET]);
    put(&mut bytes, frame::LOG_CHECKSUM_OFFSET, &checksum.to_le_bytes());
    bytes
}

/// Gives a graph its magic number, version and length.
pub fn graph(data: &[u8]) -> Vec<u8> {
    use embdb::format::graph::{HEADER_LEN, Header, MAGIC, VERSION};
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(HEADER_LEN), 0);
    let length = bytes.len() as u64;
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, std::mem::offset_of!(Header, version), &VERSION.to_le_bytes());
    put(&mut bytes, std::mem::offset_of!(Header, length), &length.to_le_bytes());
    // Small numbers of nodes are the ones whose links fit.
    let at = std::mem::offset_of!(Header, nodes);
    let nodes = u32_at(&bytes, at).unwrap_or_default() % 1024;
    put(&mut bytes, at, &nodes.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Gives the state of a training its checksum.
pub fn trainer_state(bytes: &mut [u8]) {
    const SUM: std::ops::Range<usize> = 16..24;
    if bytes.len() >= SUM.end {
        let sum = xxh3_64(&bytes[SUM.end..]).to_le_bytes();
        put(bytes, SUM.start, &sum);
    }
}

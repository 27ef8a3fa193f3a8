//! Frames: the records of the log and of feedback files.
//!
//! A frame's checksum covers its header, its payload, the salt of its file and its position, so that
//! neither a recycled block nor a moved record can pass. A batch of frames ends in one COMMIT, whose
//! payload covers the batch: a COMMIT is valid only if each frame of its batch is. A COMMIT, and the
//! SYNCED frame written after each sync, say how far the file had reached the disk: damage below that
//! point is corruption, damage above it is a torn tail.

use std::path::Path;

use super::file::DatabaseId;
use super::{MAJOR, MINOR, u16_at, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::options::limits;

/// First bytes of a log or feedback file.
pub const LOG_MAGIC: [u8; 8] = *b"EMBDBLOG";
/// Bytes of the file header.
pub const LOG_HEADER_LEN: usize = 64;
/// Offset of the major version.
pub const LOG_MAJOR_OFFSET: usize = 8;
/// Offset of the minor version.
pub const LOG_MINOR_OFFSET: usize = 10;
/// Offset of the file's number.
pub const NUMBER_OFFSET: usize = 16;
/// Offset of the salt.
pub const SALT_OFFSET: usize = 24;
/// Offset of the committed length of the log before this one.
pub const PREVIOUS_END_OFFSET: usize = 32;
/// Offset of the database id.
pub const LOG_DATABASE_OFFSET: usize = 40;
/// Offset of the header's checksum (crc32c over the bytes before it).
pub const LOG_CHECKSUM_OFFSET: usize = 60;

/// First bytes of a frame.
pub const FRAME_MAGIC: u32 = 0x4d52_4645; // "EFRM"
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 32;
/// Alignment of frames.
pub const FRAME_ALIGN: usize = 8;
/// Offset of the checksum in a frame.
pub const FRAME_CHECKSUM_OFFSET: usize = 4;
/// Offset of the payload's length.
pub const FRAME_LENGTH_OFFSET: usize = 8;
/// Offset of the type.
pub const FRAME_TYPE_OFFSET: usize = 12;
/// Offset of the sequence number.
pub const FRAME_SEQUENCE_OFFSET: usize = 16;
/// Offset of the low half of the salt.
pub const FRAME_SALT_OFFSET: usize = 24;

/// Bytes of a COMMIT's payload.
pub const COMMIT_LEN: usize = 24;
/// Offset in it of the batch's first byte.
pub const COMMIT_START_OFFSET: usize = 0;
/// Offset in it of how far the file had reached the disk.
pub const COMMIT_SYNCED_OFFSET: usize = 8;
/// Offset in it of the number of frames before the COMMIT.
pub const COMMIT_FRAMES_OFFSET: usize = 16;
/// Offset in it of the crc32c over the checksums of these frames.
pub const COMMIT_DIGEST_OFFSET: usize = 20;
/// Bytes of a SYNCED frame's payload: how far the file had reached the disk.
pub const SYNCED_LEN: usize = 8;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// A document with its rows.
    Upsert = 1,
    /// The id of a deleted document.
    Delete = 2,
    /// End of a batch.
    Commit = 3,
    /// All bytes before the given offset are on the disk.
    Synced = 4,
    /// A logged search (JSON).
    Query = 5,
    /// A click (JSON).
    Click = 6,
    /// Rows of one document in a job (re-embedding).
    Rows = 8,
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameType::*;
        [Upsert, Delete, Commit, Synced, Query, Click, Rows].into_iter().find(|&t| t as u8 == byte)
    }
}

/// Header of a log or feedback file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHeader {
    /// Number of the log.
    pub number: u64,
    /// Random; part of each frame's checksum.
    pub salt: u64,
    /// Where the committed part of log `number - 1` ends; 0 if there is none.
    pub previous_end: u64,
    /// The database.
    pub database: DatabaseId,
}

impl LogHeader {
    /// The 64 bytes of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LOG_HEADER_LEN);
        out.extend_from_slice(&LOG_MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.database);
        out.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Parses and checks a header.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let Some(head) = bytes.get(..LOG_HEADER_LEN) else {
            return Err(Error::corrupt(path, bytes.len() as u64, "the log ends within its header"));
        };
        if head[..8] != LOG_MAGIC {
            return Err(Error::corrupt(path, 0, "not an embdb log: wrong magic"));
        }
        if u32_at(head, LOG_CHECKSUM_OFFSET) != Some(crc32c::crc32c(&head[..LOG_CHECKSUM_OFFSET])) {
            return Err(Error::corrupt(path, 0, "the checksum of the log's header does not match"));
        }
        let major = u16_at(head, LOG_MAJOR_OFFSET).unwrap_or_default();
        if major != MAJOR {
            return Err(Error::TooNew { file: path.into(), needs: format!("{major}.0 of the file format") });
        }
        let field = |offset| u64_at(head, offset).unwrap_or_default();
        let mut database = [0; 16];
        database.copy_from_slice(&head[LOG_DATABASE_OFFSET..LOG_DATABASE_OFFSET + 16]);
        Ok(Self {
            number: field(NUMBER_OFFSET),
            salt: field(SALT_OFFSET),
            previous_end: field(PREVIOUS_END_OFFSET),
            database,
        })
    }
}

/// A frame read from a file.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Type.
    pub kind: FrameType,
    /// Sequence number.
    pub sequence: u64,
    /// Payload.
    pub payload: &'a [u8],
    /// Offset of the frame in its file.
    pub offset: u64,
    checksum: u32,
    /// Offset of the next frame.
    pub end: u64,
}

/// Collects the frames of one batch, positioned from `start` in a file with `salt`.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    start: u64,
    salt: u64,
    frames: u32,
    digest: u32,
}

impl BatchBuilder {
    /// An empty batch that will be written at offset `start`.
    pub fn new(start: u64, salt: u64) -> Self {
        Self { bytes: Vec::new(), start, salt, frames: 0, digest: 0 }
    }

    /// The same with room for so many bytes.
    pub fn with_capacity(start: u64, salt: u64, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::new(start, salt) }
    }

    /// Appends a frame. Payloads over the frame limit are refused.
    pub fn push(&mut self, kind: FrameType, sequence: u64, payload: &[u8]) -> Result<()> {
        if payload.len() > limits::FRAME_BYTES {
            return Err(Error::Limit {
                what: "one record with its vectors, in bytes,".into(),
                limit: limits::FRAME_BYTES as u64,
                actual: payload.len() as u64,
                raise: "split the document".into(),
            });
        }
        let offset = self.start + self.bytes.len() as u64;
        let from = self.bytes.len();
        self.bytes.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(&sequence.to_le_bytes());
        self.bytes.extend_from_slice(&(self.salt as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        let crc = checksum(&self.bytes[from..from + FRAME_HEADER_LEN], payload, self.salt, offset);
        let at = from + FRAME_CHECKSUM_OFFSET;
        self.bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        self.digest = crc32c::crc32c_append(self.digest, &crc.to_le_bytes());
        self.frames += 1;
        Ok(())
    }

    /// Ends the batch; `synced_to` is how much of the file is on the disk already.
    pub fn commit(mut self, sequence: u64, synced_to: u64) -> Result<Vec<u8>> {
        let mut payload = Vec::with_capacity(COMMIT_LEN);
        payload.extend_from_slice(&self.start.to_le_bytes());
        payload.extend_from_slice(&synced_to.to_le_bytes());
        payload.extend_from_slice(&self.frames.to_le_bytes());
        payload.extend_from_slice(&self.digest.to_le_bytes());
        self.push(FrameType::Commit, sequence, &payload)?;
        Ok(self.bytes)
    }

    /// The bytes as they are, without a COMMIT (a SYNCED frame stands alone).
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn checksum(header: &[u8], payload: &[u8], salt: u64, offset: u64) -> u32 {
    let mut crc = crc32c::crc32c(&header[..FRAME_CHECKSUM_OFFSET]);
    crc = crc32c::crc32c_append(crc, &header[FRAME_LENGTH_OFFSET..FRAME_HEADER_LEN]);
    crc = crc32c::crc32c_append(crc, &salt.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// The frame at `at` in `bytes`, which begin at offset `base` of the file; `None` if nothing valid stands there.
fn frame_at(bytes: &[u8], at: usize, base: u64, salt: u64) -> Option<Frame<'_>> {
    let header = bytes.get(at..at.checked_add(FRAME_HEADER_LEN)?)?;
    if u32_at(header, 0)? != FRAME_MAGIC || u32_at(header, FRAME_SALT_OFFSET)? != salt as u32 {
        return None;
    }
    let len = u32_at(header, FRAME_LENGTH_OFFSET)? as usize;
    let kind = FrameType::from_byte(header[FRAME_TYPE_OFFSET])?;
    if len > limits::FRAME_BYTES {
        return None;
    }
    let padded = len.next_multiple_of(FRAME_ALIGN);
    let body = bytes.get(at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + padded)?;
    let (payload, padding) = body.split_at(len);
    let offset = base + at as u64;
    let stored = u32_at(header, FRAME_CHECKSUM_OFFSET)?;
    if padding.iter().any(|&b| b != 0) || checksum(header, payload, salt, offset) != stored {
        return None;
    }
    Some(Frame {
        kind,
        sequence: u64_at(header, FRAME_SEQUENCE_OFFSET)?,
        payload,
        offset,
        checksum: stored,
        end: offset + (FRAME_HEADER_LEN + padded) as u64,
    })
}

/// How a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The bytes end after a whole batch.
    Clean,
    /// Something unfinished or torn follows the last whole batch.
    Torn,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// End of the last whole batch (and of SYNCED frames after it).
    pub end: u64,
    /// What follows it.
    pub tail: Tail,
    /// Everything before this offset had reached the disk, as its frames say; 0 if they say nothing.
    pub synced: u64,
}

/// Walks whole batches in `bytes` (which begin at offset `base` of the file) and hands each to `apply`,
/// without its COMMIT. Damage that was on the disk once is [`Error::Corrupt`]; a torn tail is not an error.
pub fn scan<'a>(
    bytes: &'a [u8],
    base: u64,
    salt: u64,
    path: &Path,
    mut apply: impl FnMut(&[Frame<'a>]) -> Result<()>,
) -> Result<Scan> {
    let mut end = base;
    let mut at = 0;
    let mut synced = 0;
    let mut batch: Vec<Frame<'a>> = Vec::new();
    while at < bytes.len() {
        let Some(frame) = frame_at(bytes, at, base, salt) else { break };
        at = (frame.end - base) as usize;
        match frame.kind {
            FrameType::Synced if batch.is_empty() => {
                synced = synced.max(u64_at(frame.payload, 0).unwrap_or_default());
                end = frame.end;
            }
            FrameType::Commit if commit_covers(&frame, &batch, end) => {
                synced = synced.max(u64_at(frame.payload, COMMIT_SYNCED_OFFSET).unwrap_or_default());
                apply(&batch)?;
                batch.clear();
                end = frame.end;
            }
            FrameType::Synced | FrameType::Commit => break,
            _ => batch.push(frame),
        }
    }
    let from = (end - base) as usize;
    if from == bytes.len() {
        return Ok(Scan { end, tail: Tail::Clean, synced: synced.min(end) });
    }
    match synced_beyond(bytes, from, base, salt) {
        Some(to) => {
            let what =
                format!("a record is damaged although everything before offset {to} had reached the disk");
            Err(Error::corrupt(path, end, what))
        }
        None => Ok(Scan { end, tail: Tail::Torn, synced: synced.min(end) }),
    }
}

/// Whether a COMMIT closes exactly this batch.
fn commit_covers(commit: &Frame<'_>, batch: &[Frame<'_>], start: u64) -> bool {
    let digest = batch.iter().fold(0, |crc, f| crc32c::crc32c_append(crc, &f.checksum.to_le_bytes()));
    let first = batch.first().map_or(commit.offset, |f| f.offset);
    commit.payload.len() == COMMIT_LEN
        && u64_at(commit.payload, COMMIT_START_OFFSET) == Some(first)
        && first == start
        && u32_at(commit.payload, COMMIT_FRAMES_OFFSET) == Some(batch.len() as u32)
        && u32_at(commit.payload, COMMIT_DIGEST_OFFSET) == Some(digest)
}

/// Looks behind a damaged place for a valid frame that says more had been synced: the highest such offset.
fn synced_beyond(bytes: &[u8], from: usize, base: u64, salt: u64) -> Option<u64> {
    let magic = FRAME_MAGIC.to_le_bytes();
    let damaged = base + from as u64;
    let mut found = None;
    for at in (from..bytes.len()).step_by(FRAME_ALIGN) {
        if bytes.get(at..at + 4) != Some(&magic[..]) {
            continue;
        }
        let Some(frame) = frame_at(bytes, at, base, salt) else { continue };
        let to = match frame.kind {
            FrameType::Commit => u64_at(frame.payload, COMMIT_SYNCED_OFFSET),
            FrameType::Synced => u64_at(frame.payload, 0),
            _ => None,
        };
        if let Some(to) = to.filter(|&to| to > damaged) {
            found = found.max(Some(to));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    fn log(batches: &[&[&str]], synced: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sequence = 0;
        for batch in batches {
            let start = bytes.len() as u64;
            let mut builder = BatchBuilder::new(start, SALT);
            for payload in *batch {
                sequence += 1;
                builder.push(FrameType::Delete, sequence, payload.as_bytes()).unwrap();
            }
            bytes.extend(builder.commit(sequence, if synced { start } else { 0 }).unwrap());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<usize>, Scan)> {
        let mut sizes = Vec::new();
        let scan = scan(bytes, 0, SALT, Path::new("log"), |batch| {
            sizes.push(batch.len());
            Ok(())
        })?;
        Ok((sizes, scan))
    }

    #[test]
    fn every_truncation_leaves_whole_batches() {
        let bytes = log(&[&["a", "bc"], &["d"], &["e", "f", "g"]], true);
        for len in 0..=bytes.len() {
            let (sizes, scan) = read(&bytes[..len]).unwrap();
            assert_eq!(sizes, [2, 1, 3][..sizes.len()]);
            assert_eq!(scan.tail == Tail::Clean, scan.end == len as u64);
        }
        assert_eq!(read(&bytes).unwrap().0, [2, 1, 3]);
    }

    #[test]
    fn damage_below_the_synced_point_is_corruption_above_it_a_torn_tail() {
        let bytes = log(&[&["a", "bc"], &["d"]], true);
        let second = log(&[&["a", "bc"]], true).len();
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            let result = read(&copy);
            if bit / 8 < second {
                assert_eq!(result.unwrap_err().exit_code(), 2, "bit {bit}");
            } else {
                assert_eq!(result.unwrap().0, [2], "bit {bit}");
            }
        }
        let unsynced = log(&[&["a", "bc"], &["d"]], false);
        let mut copy = unsynced.clone();
        copy[40] ^= 1;
        assert_eq!(read(&copy).unwrap().0, [0; 0]);
    }

    #[test]
    fn a_moved_or_foreign_frame_does_not_pass() {
        let bytes = log(&[&["a"]], true);
        let moved = [&[0u8; 8][..], &bytes].concat();
        assert!(frame_at(&moved, 8, 0, SALT).is_none());
        assert!(frame_at(&bytes, 0, 0, SALT + (1 << 40)).is_none());
    }
}

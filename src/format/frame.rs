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
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
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
            let minor = u16_at(head, LOG_MINOR_OFFSET).unwrap_or_default();
            return Err(Error::other_format(path, major, minor, MAJOR));
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
    pub(super) checksum: u32,
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

pub(super) fn checksum(header: &[u8], payload: &[u8], salt: u64, offset: u64) -> u32 {
    let mut crc = crc32c::crc32c(&header[..FRAME_CHECKSUM_OFFSET]);
    crc = crc32c::crc32c_append(crc, &header[FRAME_LENGTH_OFFSET..FRAME_HEADER_LEN]);
    crc = crc32c::crc32c_append(crc, &salt.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// The length of the payload that a frame at `at` would have, if its header may be one.
pub(super) fn payload_len(bytes: &[u8], at: usize, salt: u64) -> Option<usize> {
    let header = bytes.get(at..at.checked_add(FRAME_HEADER_LEN)?)?;
    if u32_at(header, 0)? != FRAME_MAGIC || u32_at(header, FRAME_SALT_OFFSET)? != salt as u32 {
        return None;
    }
    FrameType::from_byte(header[FRAME_TYPE_OFFSET])?;
    let len = u32_at(header, FRAME_LENGTH_OFFSET)? as usize;
    (len <= limits::FRAME_BYTES).then_some(len)
}

/// The bytes that must be there to tell what stands at `at`: at first those of a header, then those of its frame.
pub(super) fn wanted(bytes: &[u8], at: usize, salt: u64) -> usize {
    let payload = payload_len(bytes, at, salt).unwrap_or(0);
    FRAME_HEADER_LEN + payload.next_multiple_of(FRAME_ALIGN)
}

/// The frame at `at` in `bytes`, which begin at offset `base` of the file; `None` if nothing valid stands there.
pub(super) fn frame_at(bytes: &[u8], at: usize, base: u64, salt: u64) -> Option<Frame<'_>> {
    let len = payload_len(bytes, at, salt)?;
    let header = bytes.get(at..at + FRAME_HEADER_LEN)?;
    let kind = FrameType::from_byte(header[FRAME_TYPE_OFFSET])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn older_and_newer_logs_are_told_apart() {
        let header = LogHeader { number: 1, salt: SALT, previous_end: 0, database: [1; 16] }.encode();
        for (major, word) in [(MAJOR - 1, "import"), (MAJOR + 1, "newer")] {
            let mut other = header.clone();
            other[LOG_MAJOR_OFFSET..LOG_MAJOR_OFFSET + 2].copy_from_slice(&major.to_le_bytes());
            let crc = crc32c::crc32c(&other[..LOG_CHECKSUM_OFFSET]);
            other[LOG_CHECKSUM_OFFSET..].copy_from_slice(&crc.to_le_bytes());
            let error = LogHeader::parse(&other, Path::new("log")).unwrap_err();
            assert_eq!(error.exit_code(), 6);
            assert!(
                error.to_string().contains(word) && error.to_string().contains(&major.to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_frame_of_another_salt_or_beyond_the_limit_is_none() {
        let mut batch = BatchBuilder::new(0, SALT);
        batch.push(FrameType::Delete, 1, b"a").unwrap();
        let mut bytes = batch.into_bytes();
        assert_eq!(payload_len(&bytes, 0, SALT), Some(1));
        let mut other = bytes.clone();
        other[FRAME_SALT_OFFSET] ^= 1;
        let crc = checksum(&other[..FRAME_HEADER_LEN], b"a", SALT, 0);
        other[FRAME_CHECKSUM_OFFSET..][..4].copy_from_slice(&crc.to_le_bytes());
        assert!(frame_at(&other, 0, 0, SALT).is_none(), "its checksum holds, its salt is another");
        let long = limits::FRAME_BYTES as u32 + 1;
        bytes[FRAME_LENGTH_OFFSET..][..4].copy_from_slice(&long.to_le_bytes());
        assert_eq!(payload_len(&bytes, 0, SALT), None);
        assert_eq!(wanted(&bytes, 0, SALT), FRAME_HEADER_LEN, "no memory for what cannot be");
        let mut batch = BatchBuilder::new(0, SALT);
        let error = batch.push(FrameType::Upsert, 1, &vec![0; limits::FRAME_BYTES + 1]).unwrap_err();
        assert!(error.exit_code() == 5 && batch.into_bytes().is_empty(), "{error}");
    }

    #[test]
    fn a_moved_or_foreign_frame_does_not_pass() {
        let mut batch = BatchBuilder::new(0, SALT);
        batch.push(FrameType::Delete, 1, b"a").unwrap();
        let bytes = batch.commit(1, 0).unwrap();
        let moved = [&[0u8; 8][..], &bytes].concat();
        assert!(frame_at(&moved, 8, 0, SALT).is_none());
        assert!(frame_at(&bytes, 0, 0, SALT + (1 << 40)).is_none());
    }
}

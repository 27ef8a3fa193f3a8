//! Reading frames: whole batches from a file of any length, piece by piece.
//!
//! No more is held than one batch, the frame that follows it, and a piece; so a length that is a lie costs no memory.

use std::path::Path;

use super::frame::{
    COMMIT_DIGEST_OFFSET, COMMIT_FRAMES_OFFSET, COMMIT_LEN, COMMIT_START_OFFSET, COMMIT_SYNCED_OFFSET,
    FRAME_ALIGN, FRAME_HEADER_LEN, FRAME_MAGIC, Frame, FrameType, frame_at, wanted,
};
use super::{u32_at, u64_at};
use crate::error::{Error, Result};

/// Bytes that are asked for at once.
pub const PIECE: usize = 4 << 20;
/// Bytes of the longest frame that says how far the file had reached the disk.
const MARK_LEN: usize = FRAME_HEADER_LEN + COMMIT_LEN;

/// Where the bytes of a file come from.
pub trait Pieces {
    /// Appends up to `max` bytes from `offset` of the file: fewer at its end, none past it.
    fn read(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<()>;

    /// The first offset, `offset` or above, where something else than zeros may stand; [`u64::MAX`] if there is none.
    fn next_data(&mut self, offset: u64) -> Result<u64>;
}

/// Bytes in memory that begin at an offset of a file.
struct Memory<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl Pieces for Memory<'_> {
    fn read(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<()> {
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(max).min(self.bytes.len());
        into.extend_from_slice(self.bytes.get(start..end).unwrap_or_default());
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<u64> {
        Ok(offset)
    }
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

/// Walks whole batches in `bytes` (which begin at offset `base` of the file): see [`scan_pieces`].
pub fn scan(
    bytes: &[u8],
    base: u64,
    salt: u64,
    path: &Path,
    apply: impl FnMut(&[Frame<'_>]) -> Result<()>,
) -> Result<Scan> {
    scan_pieces(&mut Memory { base, bytes }, base..base + bytes.len() as u64, salt, path, apply)
}

/// Walks whole batches in the range of a file and hands each to `apply`, without its COMMIT. Damage that was on the disk
/// once is [`Error::Corrupt`]; a torn tail is not an error.
pub fn scan_pieces(
    pieces: &mut impl Pieces,
    range: std::ops::Range<u64>,
    salt: u64,
    path: &Path,
    mut apply: impl FnMut(&[Frame<'_>]) -> Result<()>,
) -> Result<Scan> {
    let mut window = Window { pieces, bytes: Vec::new(), base: range.start, until: range.end, salt };
    let (mut at, mut end, mut synced) = (range.start, range.start, 0);
    // Where the frames of the batch begin that is not closed yet.
    let mut batch: Vec<u64> = Vec::new();
    while window.fill(at, end)? {
        let Some(frame) = window.frame(at) else { break };
        let next = frame.end;
        match frame.kind {
            FrameType::Synced if batch.is_empty() => {
                synced = synced.max(u64_at(frame.payload, 0).unwrap_or_default());
                end = next;
            }
            FrameType::Commit => {
                let frames: Vec<Frame<'_>> = batch.iter().filter_map(|&at| window.frame(at)).collect();
                if !commit_covers(&frame, &frames, end) {
                    break;
                }
                synced = synced.max(u64_at(frame.payload, COMMIT_SYNCED_OFFSET).unwrap_or_default());
                apply(&frames)?;
                batch.clear();
                end = next;
            }
            FrameType::Synced => break,
            _ => batch.push(at),
        }
        at = next;
    }
    if end == window.until {
        return Ok(Scan { end, tail: Tail::Clean, synced: synced.min(end) });
    }
    match window.synced_beyond(end)? {
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

/// The part of a file that is held.
struct Window<'a, P> {
    pieces: &'a mut P,
    bytes: Vec<u8>,
    /// Offset of the first byte in the file.
    base: u64,
    /// End of what may be read, at most the end of the file.
    until: u64,
    salt: u64,
}

impl<P: Pieces> Window<'_, P> {
    /// Reads on until the frame at `at` is held whole, as far as the file has it, and lets go of what is before `keep`.
    /// Returns whether anything stands at `at`.
    fn fill(&mut self, at: u64, keep: u64) -> Result<bool> {
        loop {
            let place = (at - self.base) as usize;
            let held = self.bytes.len().saturating_sub(place);
            let missing = wanted(&self.bytes, place, self.salt).saturating_sub(held);
            let end = self.base + self.bytes.len() as u64;
            let rest = usize::try_from(self.until.saturating_sub(end)).unwrap_or(usize::MAX);
            if missing == 0 || rest == 0 {
                return Ok(held > 0);
            }
            self.bytes.drain(..(keep - self.base) as usize);
            self.base = keep;
            let before = self.bytes.len();
            self.pieces.read(end, missing.max(PIECE).min(rest), &mut self.bytes)?;
            if self.bytes.len() == before {
                self.until = end;
            }
        }
    }

    /// The frame at an offset that is held; `None` if nothing valid stands there.
    fn frame(&self, at: u64) -> Option<Frame<'_>> {
        frame_at(&self.bytes, (at - self.base) as usize, self.base, self.salt)
    }

    /// Looks behind a damaged place for a valid frame that says more had been synced: the highest such offset.
    fn synced_beyond(mut self, damaged: u64) -> Result<Option<u64>> {
        let mut found = None;
        let mut at = damaged;
        while at < self.until {
            let zeros = self.pieces.next_data(at)?.saturating_sub(at);
            at += zeros - zeros % FRAME_ALIGN as u64;
            let rest = usize::try_from(self.until.saturating_sub(at)).unwrap_or(usize::MAX);
            let max = rest.min(PIECE + MARK_LEN);
            self.bytes.clear();
            self.pieces.read(at, max, &mut self.bytes)?;
            // What begins behind the piece is looked at with the next one.
            let looked_at = if max == rest { self.bytes.len() } else { self.bytes.len().min(PIECE) };
            for place in (0..looked_at).step_by(FRAME_ALIGN) {
                found = found.max(self.mark(place, at).filter(|&to| to > damaged));
            }
            if self.bytes.len() < max {
                break;
            }
            at += looked_at.max(1) as u64;
        }
        Ok(found)
    }

    /// How far the file had reached the disk, as the frame at `place` of the bytes says, if one says so. `base` is the
    /// offset of the bytes. Frames that say so are short, so no length that stands there leads further than that.
    fn mark(&self, place: usize, base: u64) -> Option<u64> {
        let bytes = self.bytes.get(place..(place + MARK_LEN).min(self.bytes.len()))?;
        if !bytes.starts_with(&FRAME_MAGIC.to_le_bytes()) {
            return None;
        }
        let frame = frame_at(bytes, 0, base + place as u64, self.salt)?;
        match frame.kind {
            FrameType::Commit => u64_at(frame.payload, COMMIT_SYNCED_OFFSET),
            FrameType::Synced => u64_at(frame.payload, 0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::BatchBuilder;
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    /// A file of zeros behind some bytes, with all that was read of it.
    struct Sparse {
        bytes: Vec<u8>,
        length: u64,
        /// Whether the file system tells holes from data.
        tells: bool,
        read: u64,
    }

    impl Pieces for Sparse {
        fn read(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<()> {
            let end = self.length.min(offset + max as u64);
            let len = end.saturating_sub(offset) as usize;
            let start = self.bytes.len().min(offset as usize);
            let held = &self.bytes[start..self.bytes.len().min(start + len)];
            into.extend_from_slice(held);
            into.resize(into.len() + len - held.len(), 0);
            self.read += len as u64;
            Ok(())
        }

        fn next_data(&mut self, offset: u64) -> Result<u64> {
            let hole = self.tells && offset >= self.bytes.len() as u64;
            Ok(if hole { u64::MAX } else { offset })
        }
    }

    /// Batches of any lengths are found in pieces as they are in one, those longer than a piece too.
    #[test]
    fn pieces_give_what_the_whole_gives() {
        let long = "x".repeat(PIECE + 1000);
        let half = "y".repeat(PIECE / 3);
        let batches: [&[&str]; 4] = [&["a"], &[&long], &[&half, &half, &half, &half, "b"], &["c"]];
        let ends = [1, 2, 3, 4].map(|count| log(&batches[..count], true).len());
        let bytes = log(&batches, true);
        for cut in [bytes.len(), bytes.len() - 1, bytes.len() - 100, PIECE + 500, PIECE * 2, PIECE * 2 + 40] {
            let mut file = Sparse { bytes: bytes.clone(), length: cut as u64, tells: true, read: 0 };
            let mut sizes = Vec::new();
            let scan = scan_pieces(&mut file, 0..cut as u64, SALT, Path::new("log"), |batch| {
                sizes.push(batch.iter().map(|frame| frame.payload.len()).sum::<usize>());
                Ok(())
            });
            let all = [1, PIECE + 1000, PIECE / 3 * 4 + 1, 1];
            assert_eq!(sizes, all[..sizes.len()]);
            let scan = scan.unwrap();
            assert_eq!(scan.tail == Tail::Clean, cut == bytes.len());
            // A file may become shorter after its length was asked for.
            let shorter = scan_pieces(&mut file, 0..cut as u64 + 4096, SALT, Path::new("log"), |_| Ok(()));
            let shorter = shorter.unwrap();
            assert_eq!((shorter.end, shorter.tail == Tail::Clean), (scan.end, cut == bytes.len()));
            assert_eq!(sizes.len(), ends.iter().filter(|&&end| end <= cut).count(), "cut at {cut}");
        }
    }

    #[test]
    fn a_mark_inside_a_batch_ends_the_log() {
        let mut batch = BatchBuilder::new(0, SALT);
        batch.push(FrameType::Delete, 1, b"a").unwrap();
        batch.push(FrameType::Synced, 0, &0u64.to_le_bytes()).unwrap();
        let bytes = batch.commit(1, 0).unwrap();
        let length = bytes.len() as u64;
        let mut file = Sparse { bytes, length, tells: true, read: 0 };
        let none = |_: &[Frame<'_>]| panic!("it is no batch");
        let scan = scan_pieces(&mut file, 0..length, SALT, Path::new("log"), none).unwrap();
        assert_eq!((scan.end, scan.tail), (0, Tail::Torn));
    }

    #[test]
    fn zeros_behind_the_last_batch_are_a_torn_tail_and_holes_are_not_read() {
        let bytes = log(&[&["a", "bc"], &["d"]], true);
        let length = 10 << 30;
        let mut file = Sparse { bytes: bytes.clone(), length, tells: true, read: 0 };
        let scan = scan_pieces(&mut file, 0..length, SALT, Path::new("log"), |_| Ok(())).unwrap();
        assert_eq!((scan.end, scan.tail), (bytes.len() as u64, Tail::Torn));
        assert!(file.read < 3 * PIECE as u64, "{} bytes were read", file.read);
        let length = 20 << 20;
        let mut file = Sparse { bytes, length, tells: false, read: 0 };
        let scan = scan_pieces(&mut file, 0..length, SALT, Path::new("log"), |_| Ok(())).unwrap();
        assert_eq!(scan.tail, Tail::Torn);
    }

    /// A mark is found wherever it stands, the edges of pieces included.
    #[test]
    fn damage_before_a_mark_that_is_far_away_is_corruption() {
        let bytes = log(&[&["a"]], true);
        let end = bytes.len();
        for distance in [PIECE - 64, PIECE - 48, PIECE - 8, PIECE, PIECE + 8, 2 * PIECE - 24, 3 * PIECE + 16]
        {
            let place = end + distance;
            let mut mark = BatchBuilder::new(place as u64, SALT);
            mark.push(FrameType::Synced, 0, &(place as u64).to_le_bytes()).unwrap();
            let mut file = bytes.clone();
            file.resize(place, 0);
            file.extend(mark.into_bytes());
            for more in [0, 8, 5 * PIECE as u64] {
                let length = file.len() as u64 + more;
                let mut file = Sparse { bytes: file.clone(), length, tells: true, read: 0 };
                let error =
                    scan_pieces(&mut file, 0..length, SALT, Path::new("log"), |_| Ok(())).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                assert!(error.to_string().contains(&format!("offset {place}")), "{distance}: {error}");
            }
        }
    }

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

    /// Each COMMIT here has a checksum that holds, and says something else than what stands before it.
    #[test]
    fn a_commit_covers_exactly_the_frames_before_it() {
        let whole = log(&[&["a", "bc"]], false);
        let at = whole.len() - FRAME_HEADER_LEN - COMMIT_LEN;
        let commit = &whole[at + FRAME_HEADER_LEN..];
        let with = |payloads: &[&str], commit: &[u8]| {
            let mut batch = BatchBuilder::new(0, SALT);
            for (n, payload) in payloads.iter().enumerate() {
                batch.push(FrameType::Delete, n as u64 + 1, payload.as_bytes()).unwrap();
            }
            batch.push(FrameType::Commit, 2, commit).unwrap();
            read(&batch.into_bytes()).unwrap().0
        };
        assert_eq!(with(&["a", "bc"], commit), [2]);
        let nothing: [usize; 0] = [];
        for field in [COMMIT_START_OFFSET, COMMIT_FRAMES_OFFSET, COMMIT_DIGEST_OFFSET] {
            let mut wrong = commit.to_vec();
            wrong[field] ^= 8;
            assert_eq!(with(&["a", "bc"], &wrong), nothing, "field at {field}");
        }
        assert_eq!(with(&["a"], commit), nothing, "a frame is missing");
        assert_eq!(with(&["a", "bd"], commit), nothing, "another frame");
        assert_eq!(with(&["a", "bc"], &commit[..COMMIT_LEN - 1]), nothing);
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
}

//! Byte layouts, and nothing else: no I/O. `storage-format.md` is the law; a test compares its tables
//! with the constants here.
//!
//! | module | bytes |
//! |---|---|
//! | [`mod@file`] | the container of every immutable file: header, sections, checksums |
//! | [`frame`] | records of the log and of feedback files |
//! | [`scan`] | whole batches of frames in a file of any length |
//! | [`manifest`] | the list of what is live |
//! | [`segment`] | sections of a segment's files |
//! | [`attrs`] | metadata columns |
//! | [`graph`] | the frozen graph |
//! | [`guard`], [`seen`] | no bytes: verification of those that are touched |

pub mod attrs;
pub mod file;
pub mod frame;
pub mod graph;
pub mod guard;
pub mod links;
pub mod manifest;
pub mod mend;
pub mod scan;
pub mod seen;
pub mod segment;

/// Major version of every file; another major cannot be read.
pub const MAJOR: u16 = 2;
/// Minor version; informative.
pub const MINOR: u16 = 1;

/// Reads a little-endian `u16` at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

/// Reads a little-endian `u32` at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// Reads a little-endian `u64` at `offset`.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

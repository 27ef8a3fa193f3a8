//! Read-only maps of immutable files.
//!
//! A file of the database is mapped only after it is complete: it was synced, renamed to its final name and is
//! never written, truncated or extended again, only unlinked (which leaves a map valid). Nothing is ever written
//! through a map. The length is read before mapping, so that an empty file needs no map at all and a caller can
//! compare the length with what the manifest says before it touches a byte.

#![allow(unsafe_code)]

pub mod faults;

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap};

use crate::error::{Error, Result};

/// The bytes of an immutable file, mapped read-only. Starts at a page boundary.
#[derive(Debug)]
pub struct Map {
    /// `None` for an empty file.
    pages: Option<Mmap>,
    /// Its number among those whose faults are caught.
    watched: Option<usize>,
}

impl Map {
    /// Maps the whole file at `path` as long as it is now.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&File::open(path).map_err(Error::io("open", path))?, path)
    }

    /// Maps the whole of an open file; `path` serves error messages.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        if file.metadata().map_err(Error::io("read the length of", path))?.len() == 0 {
            return Ok(Self { pages: None, watched: None });
        }
        // SAFETY: the map is valid memory of the mapped length for as long as `Mmap` lives, and it is read-only.
        // What the compiler cannot know is that nobody changes the file meanwhile. Every writer of this crate gives
        // a file its final name only after the last write and afterwards does nothing but unlink it, so within the
        // protocol the bytes are constant. Should a foreign program break it, readers see other *values*: every
        // type that is cast from a map admits any bit pattern, and every offset or count read from one is
        // checked where it is used. A foreign truncation raises SIGBUS, which ends the process rather than
        // corrupting it, or is caught (`faults`).
        let pages = unsafe { Mmap::map(file) }.map_err(Error::io("map", path))?;
        let watched = faults::watch(&pages);
        Ok(Self { pages: Some(pages), watched })
    }

    /// Tells the system that reads will jump about, so that reading ahead is wasted. A hint: failure is ignored.
    pub fn advise_random(&self) {
        if let Some(pages) = &self.pages {
            let _ = pages.advise(Advice::Random);
        }
    }

    /// Takes [`Self::advise_random`] back. A hint: failure is ignored.
    pub fn advise_normal(&self) {
        if let Some(pages) = &self.pages {
            let _ = pages.advise(Advice::Normal);
        }
    }

    /// Takes the pages out of this process's memory; they come back when they are read. A hint: failure is ignored.
    pub fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Some(pages) = &self.pages {
            // SAFETY: of a read-only map of a file nothing is lost: what is read next is the file again.
            let _ = unsafe { pages.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// Asks the system to load these bytes soon. A hint: failure, and any part past the end, is ignored.
    pub fn advise_willneed(&self, range: Range<usize>) {
        let Some(pages) = &self.pages else { return };
        let end = range.end.min(pages.len());
        if range.start < end {
            let _ = pages.advise_range(Advice::WillNeed, range.start, end - range.start);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // First this: the system may give the addresses to another map at once.
        self.watched.take().into_iter().for_each(faults::forget);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_deref().unwrap_or_default()
    }
}

/// Asks the system to load the pages of these bytes if they belong to a map, and does not wait: the disk serves many
/// such requests in the time of a few. A hint: failure is ignored, and elsewhere than on Linux nothing happens.
pub fn request_pages(bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    if let Some((start, len)) = pages_of(bytes) {
        // SAFETY: this advice changes no memory; for memory that is no map of a file it does nothing.
        unsafe { libc::madvise(start, len, libc::MADV_WILLNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// Whether the page where the bytes begin is in memory, or true where the system does not tell.
pub fn is_in_memory(bytes: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    if let Some((start, _)) = pages_of(bytes.get(..1).unwrap_or_default()) {
        let mut state = 1u8;
        // SAFETY: the page is part of a live slice; for a length of 1 the call writes one byte.
        unsafe { libc::mincore(start, 1, &raw mut state) };
        return state & 1 == 1;
    }
    let _ = bytes;
    true
}

/// Bytes of files that are mapped into the memory of this process, its own program among them; 0 where the system does
/// not tell.
pub fn mapped_bytes() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let fields = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = fields.split(' ').nth(2).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
        pages * page_len() as u64
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// Bytes of memory that could be had without swapping; 0 where the system does not tell.
pub fn available_bytes() -> u64 {
    let kibibytes = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    kibibytes.unwrap_or_default() * 1024
}

/// Gives memory that was freed back to the system. The allocator keeps it for each thread that asked for it, and after a
/// segment was sealed it is much. Elsewhere than with glibc nothing happens.
pub fn release_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it touches free memory alone, and takes the allocator's own locks.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(target_os = "linux")]
fn page_len() -> usize {
    // SAFETY: asks for a constant of the system.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// How often this thread has waited for a page to be loaded; 0 where the system does not tell.
pub fn waits_for_pages() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a `rusage` is numbers alone, for which zero bytes are valid, and the call fills the one it is given.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage
        };
        u64::try_from(usage.ru_majflt).unwrap_or_default()
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// Start and length of the whole pages that hold these bytes; none for no bytes.
#[cfg(target_os = "linux")]
fn pages_of(bytes: &[u8]) -> Option<(*mut libc::c_void, usize)> {
    let before = bytes.as_ptr() as usize % page_len();
    let start = bytes.as_ptr().wrapping_sub(before);
    (!bytes.is_empty()).then_some((start.cast_mut().cast(), before + bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_the_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(&map[..], &content[..]);
        assert_eq!(map.as_ptr().align_offset(4096), 0);
        map.advise_random();
        map.advise_normal();
        map.release();
        map.advise_willneed(5_000..usize::MAX);
        map.advise_willneed(20_000..30_000);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&map[..], &content[..], "a map outlives the name of its file");
    }

    #[test]
    fn pages_can_be_requested_from_any_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let map = Map::open(&path).unwrap();
        let owned = vec![1; 10_000];
        for bytes in [&map[..], &map[99_999..], &map[5000..5001], &[], &owned] {
            request_pages(bytes);
            assert!(bytes.iter().all(|&byte| byte > 0));
            assert!(is_in_memory(bytes), "what was just read is in memory");
        }
        assert!(waits_for_pages() <= waits_for_pages());
    }

    #[test]
    fn an_empty_file_gives_an_empty_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let map = Map::open(&path).unwrap();
        assert!(map.is_empty());
        map.advise_willneed(0..10);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Map::open(Path::new("/nonexistent/file")).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("/nonexistent/file"));
    }
}

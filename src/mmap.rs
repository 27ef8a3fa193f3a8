//! Read-only maps of immutable files.
//!
//! A file of the database is mapped only after it is complete: it was synced, renamed to its final name and is
//! never written, truncated or extended again, only unlinked (which leaves a map valid). Nothing is ever written
//! through a map. The length is read before mapping, so that an empty file needs no map at all and a caller can
//! compare the length with what the manifest says before it touches a byte.

#![allow(unsafe_code)]

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
}

impl Map {
    /// Maps the whole file at `path` as long as it is now.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().map_err(Error::io("read the length of", path))?.len() == 0 {
            return Ok(Self { pages: None });
        }
        // SAFETY: the map is valid memory of the mapped length for as long as `Mmap` lives, and it is read-only.
        // What the compiler cannot know is that nobody changes the file meanwhile. Every writer of this crate gives
        // a file its final name only after the last write and afterwards does nothing but unlink it, so within the
        // protocol the bytes are constant. Should a foreign program break it, readers see other *values*: every
        // type that is cast from a map admits any bit pattern, and every offset or count read from one is
        // checked where it is used. A foreign truncation raises SIGBUS, which ends the process rather than
        // corrupting it.
        let pages = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self { pages: Some(pages) })
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

    /// Asks the system to load these bytes soon. A hint: failure, and any part past the end, is ignored.
    pub fn advise_willneed(&self, range: Range<usize>) {
        let Some(pages) = &self.pages else { return };
        let end = range.end.min(pages.len());
        if range.start < end {
            let _ = pages.advise_range(Advice::WillNeed, range.start, end - range.start);
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_deref().unwrap_or_default()
    }
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
        map.advise_willneed(5_000..usize::MAX);
        map.advise_willneed(20_000..30_000);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&map[..], &content[..], "a map outlives the name of its file");
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

//! Whether what searches read of a segment is in memory.
//!
//! A walk through a graph reads a page here and a page there. From a file that the system has not loaded, or no longer
//! holds because memory is short, each costs a wait for the disk, one after the other. A search that knows so requests
//! all pages of a step before it reads the first of them, and waits once. Where all is in memory these requests would
//! cost more than the search, so that it pays to know.
//!
//! Where memory has room for the whole segment, each such search also requests the next piece of it in order, once: so
//! it is soon in memory, at the price of a long read instead of many short ones.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::mmap::{available_bytes, is_in_memory, request_pages, waits_for_pages};

/// Pages that are looked at, to judge all.
const SAMPLE: usize = 128;
/// A search that waited for so many pages was not served from memory.
const MANY_WAITS: u64 = 4;
/// For so many searches after one that waited, pages of the tail are requested.
const DISTRUST: u32 = 16;
/// Bytes that a search requests of those that come next in order.
const PIECE: usize = 1 << 20;

/// Of so many searches in memory one is watched.
const WATCHED: u32 = 8;

thread_local! {
    static SEARCHES: Cell<u32> = const { Cell::new(0) };
}

/// What is known of a segment's pages. One search may misjudge: that costs time alone.
///
/// The head is what walks read, the graph and the high plane of the codes: if memory suffices at all, all of it is
/// there soon; so is the low plane, of which scans read a second time what the high one cannot tell apart. The tail is
/// what is read of the few rows that are compared exactly, f32 values: some of it may never be read.
#[derive(Debug)]
pub struct Paging {
    head_on_disk: AtomicBool,
    low_on_disk: AtomicBool,
    /// Searches that are to request the tail.
    distrust: AtomicU32,
    /// Bytes requested in order.
    requested: AtomicUsize,
    /// Whether memory has room for all.
    fits: OnceLock<bool>,
}

impl Default for Paging {
    /// Of a segment that was just opened nothing is known.
    fn default() -> Self {
        Self {
            head_on_disk: AtomicBool::new(true),
            low_on_disk: AtomicBool::new(true),
            distrust: AtomicU32::new(DISTRUST),
            requested: AtomicUsize::new(0),
            fits: OnceLock::new(),
        }
    }
}

impl Paging {
    /// Whether a search should request pages of the head: `parts` are its bytes.
    pub fn is_head_on_disk(&self, parts: &[&[u8]]) -> bool {
        looked_at(&self.head_on_disk, parts)
    }

    /// The same of the low plane.
    pub fn is_low_on_disk(&self, low: &[u8]) -> bool {
        looked_at(&self.low_on_disk, &[low])
    }

    /// Whether a search should request pages of the tail.
    pub fn is_tail_on_disk(&self) -> bool {
        self.distrust.load(Ordering::Relaxed) > 0
    }

    /// Requests the next piece of all that searches read, in this order, unless that was done or memory has no room for
    /// it twice.
    pub fn request_next(&self, parts: &[&[u8]]) {
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if self.requested.load(Ordering::Relaxed) >= all
            || !self.fits.get_or_init(|| 2 * all as u64 <= available_bytes())
        {
            return;
        }
        let mut at = self.requested.fetch_add(PIECE, Ordering::Relaxed);
        let mut left = PIECE;
        for part in parts {
            let piece = part.get(at..part.len().min(at + left)).unwrap_or_default();
            request_pages(piece);
            left -= piece.len();
            at = at.saturating_sub(part.len());
        }
    }

    /// Runs a search and notes whether it had to wait for pages that nobody requested. Of a segment in memory only one
    /// search in some is watched: to ask the system costs a microsecond.
    pub fn watch<T>(&self, search: impl FnOnce() -> T) -> T {
        let sampled = [&self.head_on_disk, &self.low_on_disk];
        let is_trusted = !sampled.iter().any(|flag| flag.load(Ordering::Relaxed)) && !self.is_tail_on_disk();
        if is_trusted && !SEARCHES.replace(SEARCHES.get().wrapping_add(1)).is_multiple_of(WATCHED) {
            return search();
        }
        let before = waits_for_pages();
        let result = search();
        if waits_for_pages() - before >= MANY_WAITS {
            sampled.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
            self.distrust.store(DISTRUST, Ordering::Relaxed);
        } else {
            let trusted = self.distrust.load(Ordering::Relaxed).saturating_sub(1);
            self.distrust.store(trusted, Ordering::Relaxed);
        }
        result
    }
}

/// Whether some of what a flag stands for is on disk: looks at a sample of pages, until all of that are in memory.
fn looked_at(flag: &AtomicBool, parts: &[&[u8]]) -> bool {
    if !flag.load(Ordering::Relaxed) {
        return false;
    }
    let all: usize = parts.iter().map(|part| part.len()).sum();
    let sample = (0..SAMPLE).filter_map(|n| {
        let mut at = (all / SAMPLE) * n;
        parts.iter().find_map(|part| {
            let found = part.get(at..);
            at = at.saturating_sub(part.len());
            found.filter(|rest| !rest.is_empty())
        })
    });
    // One page in a hundred that is missing costs as much as requesting all of them.
    let missing = sample.filter(|bytes| !is_in_memory(bytes)).count();
    flag.store(missing > 1, Ordering::Relaxed);
    missing > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_needs_no_requests_until_a_search_has_waited() {
        let paging = Paging::default();
        let (long, short) = (vec![1u8; 1 << 20], [2u8; 3]);
        assert!(!paging.is_head_on_disk(&[&long, &short, &[]]));
        for _ in 0..DISTRUST {
            assert!(paging.is_tail_on_disk());
            assert_eq!(paging.watch(|| 5), 5);
        }
        assert!(!paging.is_tail_on_disk());
        for _ in 0..3 {
            paging.request_next(&[&short, &long, &short]);
        }
        assert_eq!(paging.requested.load(Ordering::Relaxed), 2 * PIECE, "all of it, and no more");
        assert!(!paging.is_head_on_disk(&[]));
    }
}

//! Verification of mapped bytes at the moment they are first touched.
//!
//! A search reads a few rows here and there of a file of any length. What it touches is verified once, page by page; a
//! bit for each page remembers that. Whoever reads asks [`Guard::is_damaged`] at the end, and throws away what was
//! found if so: an inner loop need not stop for what happens once in the life of a disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who verifies pages.
pub trait Verify: Sync {
    /// Verifies a page that was not verified before, and notes what came of it.
    fn verify_page(&self, page: usize);

    /// Whether damage was found in any page.
    fn is_damaged(&self) -> bool;
}

/// Watches over the bytes of one file.
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// Address of the first byte.
    start: usize,
    /// Length of a page, as a power of two.
    shift: u32,
    /// A bit for each page that was verified.
    seen: &'a [AtomicU64],
    file: &'a dyn Verify,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("pages", &(64 * self.seen.len())).finish_non_exhaustive()
    }
}

impl<'a> Guard<'a> {
    /// Watches over `bytes`, pages of `1 << shift` bytes.
    pub fn new(bytes: &'a [u8], shift: u32, seen: &'a [AtomicU64], file: &'a dyn Verify) -> Self {
        Self { start: bytes.as_ptr() as usize, shift, seen, file }
    }

    /// Verifies what was not verified before of a part of the file. Bytes that lie elsewhere are passed over.
    #[inline]
    pub fn touch<T>(&self, part: &[T]) {
        if part.is_empty() {
            return;
        }
        let at = (part.as_ptr() as usize).wrapping_sub(self.start);
        let last = at.wrapping_add(size_of_val(part) - 1) >> self.shift;
        let first = at >> self.shift;
        self.touch_page(first);
        if last > first {
            self.touch_pages(first + 1, last);
        }
    }

    #[inline]
    fn touch_page(&self, page: usize) {
        if let Some(word) = self.seen.get(page / 64)
            && word.load(Ordering::Relaxed) >> (page % 64) & 1 == 0
        {
            self.file.verify_page(page);
        }
    }

    fn touch_pages(&self, mut page: usize, last: usize) {
        while page <= last {
            page = next_unseen(self.seen, page);
            if page <= last && page < 64 * self.seen.len() {
                self.touch_page(page);
            }
            page = page.saturating_add(1);
        }
    }

    /// Whether damage was found in the file.
    pub fn is_damaged(&self) -> bool {
        self.file.is_damaged()
    }
}

/// What touches bytes that may be watched over: those in memory are not.
pub trait Touch {
    /// See [`Guard::touch`].
    fn touch<T>(&self, part: &[T]);
}

impl Touch for Option<Guard<'_>> {
    #[inline]
    fn touch<T>(&self, part: &[T]) {
        if let Some(guard) = self {
            guard.touch(part);
        }
    }
}

/// The first page from `page` on that was not verified, or one after the last.
pub fn next_unseen(seen: &[AtomicU64], page: usize) -> usize {
    let (first, bit) = (page / 64, page % 64);
    for (number, word) in seen.iter().enumerate().skip(first) {
        let seen = word.load(Ordering::Relaxed) | if number == first { (1 << bit) - 1 } else { 0 };
        if seen != u64::MAX {
            return 64 * number + seen.trailing_ones() as usize;
        }
    }
    usize::MAX
}

/// A bit for each page of a file, none of them set.
pub fn none_seen(pages: usize) -> Box<[AtomicU64]> {
    (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct File {
        seen: Box<[AtomicU64]>,
        verified: Mutex<Vec<usize>>,
        damaged: usize,
    }

    impl Verify for File {
        fn verify_page(&self, page: usize) {
            self.verified.lock().unwrap().push(page);
            self.seen[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }

        fn is_damaged(&self) -> bool {
            self.verified.lock().unwrap().contains(&self.damaged)
        }
    }

    #[test]
    fn each_page_is_verified_when_it_is_first_touched() {
        let bytes = vec![0u8; 100 * 16];
        let file = File { seen: none_seen(100), verified: Mutex::default(), damaged: 99 };
        let guard = Guard::new(&bytes, 4, &file.seen, &file);
        guard.touch(&bytes[5..5]);
        guard.touch(&bytes[15..17]);
        guard.touch(&bytes[0..48]);
        guard.touch(&[1u64; 3]);
        assert_eq!([0, 2, 3, 64].map(|page| next_unseen(&file.seen, page)), [3, 3, 3, 64]);
        assert_eq!([next_unseen(&file.seen, 128), next_unseen(&[], 0)], [usize::MAX; 2]);
        assert_eq!(*file.verified.lock().unwrap(), [0, 1, 2]);
        assert!(!guard.is_damaged());
        Some(guard).touch(&bytes[70 * 16..]);
        None::<Guard<'_>>.touch(&bytes);
        assert_eq!(file.verified.lock().unwrap()[3..], (70..100).collect::<Vec<_>>());
        assert!(guard.is_damaged());
    }
}

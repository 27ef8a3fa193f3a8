//! Verification of mapped bytes at the moment they are first touched.
//!
//! A search reads a few rows here and there of a file of any length. What it touches is verified once, page by page; a
//! bit for each page remembers that. Whoever reads asks [`Guard::is_damaged`] at the end, and throws away what was
//! found if so: an inner loop need not stop for what happens once in the life of a disk.

use super::seen::Seen;

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
    seen: &'a Seen,
    file: &'a dyn Verify,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("shift", &self.shift).finish_non_exhaustive()
    }
}

impl<'a> Guard<'a> {
    /// Watches over `bytes`, pages of `1 << shift` bytes.
    pub fn new(bytes: &'a [u8], shift: u32, seen: &'a Seen, file: &'a dyn Verify) -> Self {
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
        if !self.seen.has(page) {
            self.file.verify_page(page);
        }
    }

    fn touch_pages(&self, mut page: usize, last: usize) {
        while page <= last {
            page = self.seen.next_unseen(page);
            if page <= last {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct File {
        seen: Seen,
        verified: Mutex<Vec<usize>>,
        damaged: usize,
    }

    impl Verify for File {
        fn verify_page(&self, page: usize) {
            self.verified.lock().unwrap().push(page);
            self.seen.note(page);
        }

        fn is_damaged(&self) -> bool {
            self.verified.lock().unwrap().contains(&self.damaged)
        }
    }

    #[test]
    fn each_page_is_verified_when_it_is_first_touched() {
        let bytes = vec![0u8; 100 * 16];
        let file = File { seen: Seen::none(100), verified: Mutex::default(), damaged: 99 };
        let guard = Guard::new(&bytes, 4, &file.seen, &file);
        guard.touch(&bytes[5..5]);
        guard.touch(&bytes[15..17]);
        guard.touch(&bytes[0..48]);
        guard.touch(&[1u64; 3]);
        assert_eq!(*file.verified.lock().unwrap(), [0, 1, 2]);
        assert!(!guard.is_damaged());
        Some(guard).touch(&bytes[70 * 16..]);
        None::<Guard<'_>>.touch(&bytes);
        assert_eq!(file.verified.lock().unwrap()[3..], (70..100).collect::<Vec<_>>());
        assert!(guard.is_damaged());
    }
}

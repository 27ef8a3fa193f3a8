//! Which pages of a file were verified.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// A bit for each page of a file, set once the page was verified.
///
/// Verified pages never change, so that a thread that does not see a bit yet verifies the page once more, and no order
/// need hold between a bit and the bytes. It must only hold between the bits and their number.
pub struct Seen {
    bits: Box<[AtomicU64]>,
    /// How many are not set.
    left: AtomicUsize,
}

impl Seen {
    /// Of so many pages none was verified.
    pub fn none(pages: usize) -> Self {
        let bits = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { bits, left: AtomicUsize::new(pages) }
    }

    /// Notes a page that was verified.
    pub fn note(&self, page: usize) {
        if let Some(word) = self.bits.get(page / 64) {
            let bit = 1 << (page % 64);
            if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                self.left.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Whether a page was verified; of one that the file does not have there is nothing to verify.
    #[inline]
    pub fn has(&self, page: usize) -> bool {
        let word = self.bits.get(page / 64);
        word.is_none_or(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    /// How many pages were not verified; once none is left, every page is seen to be verified.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// The first page from `page` on that was not verified, or one after the last.
    pub fn next_unseen(&self, page: usize) -> usize {
        let (first, bit) = (page / 64, page % 64);
        for (number, word) in self.bits.iter().enumerate().skip(first) {
            let seen = word.load(Ordering::Relaxed) | if number == first { (1 << bit) - 1 } else { 0 };
            if seen != u64::MAX {
                return 64 * number + seen.trailing_ones() as usize;
            }
        }
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_counts_once() {
        let seen = Seen::none(100);
        assert_eq!([seen.left(), seen.next_unseen(0)], [100, 0]);
        [0, 1, 2, 64, 1, 64].into_iter().for_each(|page| seen.note(page));
        assert_eq!(seen.left(), 96);
        assert_eq!([0, 2, 3, 63, 64].map(|page| seen.next_unseen(page)), [3, 3, 3, 63, 65]);
        assert_eq!(
            [0, 3, 63, 64, 99, 128].map(|page| seen.has(page)),
            [true, false, false, true, false, true]
        );
        assert_eq!([seen.next_unseen(128), Seen::none(0).next_unseen(0)], [usize::MAX; 2]);
        seen.note(usize::MAX);
        (0..100).for_each(|page| seen.note(page));
        assert_eq!(seen.left(), 0);
    }
}

//! Which rows of a block may be found: an exact, counted, unchanging set.
//!
//! A set of few rows is a sorted list, one of many a bit for each row of the block: whichever is smaller, so never
//! more than four bytes for each row of the set, nor more than an eighth of a byte for each row of the block. Which of
//! the two it is follows from the numbers alone: equal sets are equal values.
//!
//! Searches take the rows in batches (`RowMask::for_each_batch`): what a bitmap costs for each row would be a third
//! of a scan of one row in ten.

use std::borrow::Cow;
use std::ops::Range;

use roaring::RoaringBitmap;

/// One row in so many makes bits as small as a list.
const SPARSE: usize = 32;
/// Up to so many rows are handed out at once.
pub(crate) const BATCH: usize = 256;

/// A set of some of the rows `0..universe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMask {
    form: Form,
    count: usize,
    universe: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Ascending.
    List(Vec<u32>),
    /// Row `64 i + j` is bit `j` of word `i`; no bits beyond the universe.
    Bits(Vec<u64>),
}

impl RowMask {
    /// No rows.
    pub fn none(universe: u32) -> Self {
        Self { form: Form::List(Vec::new()), count: 0, universe }
    }

    /// All rows.
    pub fn all(universe: u32) -> Self {
        let mut bits = RowBits::new(universe);
        bits.insert_range(0..universe);
        bits.finish()
    }

    /// The rows listed, in any order and as often as they like; those beyond the universe are left out.
    pub fn from_rows(universe: u32, rows: impl IntoIterator<Item = u32>) -> Self {
        let mut bits = RowBits::new(universe);
        rows.into_iter().for_each(|row| bits.insert(row));
        bits.finish()
    }

    /// The rows in any of the lists, which need not be in order.
    pub fn from_lists(universe: u32, lists: &[&[u32]]) -> Self {
        let total: usize = lists.iter().map(|list| list.len()).sum();
        // Sorting so few is cheaper than looking through the bits.
        if total.saturating_mul(SPARSE * SPARSE) > universe as usize {
            return Self::from_rows(universe, lists.iter().copied().flatten().copied());
        }
        let mut rows: Vec<u32> = lists.concat();
        rows.retain(|&row| row < universe);
        rows.sort_unstable();
        rows.dedup();
        Self { count: rows.len(), form: Form::List(rows), universe }
    }

    /// The rows of a bitmap that lie in the universe.
    pub fn from_bitmap(universe: u32, bitmap: &RoaringBitmap) -> Self {
        Self::from_rows(universe, bitmap.range(0..universe))
    }

    /// How many rows are in the set.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no row is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many rows there are, in the set or not.
    pub fn universe(&self) -> u32 {
        self.universe
    }

    /// Whether a row is in the set.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        match &self.form {
            Form::List(rows) => rows.binary_search(&row).is_ok(),
            Form::Bits(words) => words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1),
        }
    }

    /// The rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (rows, words): (&[u32], &[u64]) = match &self.form {
            Form::List(rows) => (rows, &[]),
            Form::Bits(words) => (&[], words),
        };
        rows.iter().copied().chain(words.iter().zip(0u32..).flat_map(|(&word, at)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        }))
    }

    /// About `count` rows from all over the set; all of them if there are fewer.
    pub(crate) fn sample(&self, count: usize) -> Vec<u32> {
        match &self.form {
            Form::List(rows) => rows.iter().step_by((rows.len() / count.max(1)).max(1)).copied().collect(),
            Form::Bits(words) => {
                let step = (words.len() / count.max(1)).max(1);
                let stretches = words.chunks(step).zip((0u32..).step_by(step));
                let first = |(words, base): (&[u64], u32)| {
                    let at = words.iter().position(|&word| word != 0)?;
                    words.get(at).map(|word| (base + at as u32) * 64 + word.trailing_zeros())
                };
                stretches.filter_map(first).collect()
            }
        }
    }

    /// Hands out the rows, ascending, up to [`BATCH`] at once.
    #[inline]
    pub(crate) fn for_each_batch(&self, mut each: impl FnMut(&[u32])) {
        match &self.form {
            Form::List(rows) => rows.chunks(BATCH).for_each(each),
            Form::Bits(words) => {
                /// Places are written so many at once, without a look at how many are wanted.
                const STEP: usize = 4;
                let mut batch = [0; BATCH];
                let mut filled = 0;
                for (&word, base) in words.iter().zip((0u32..).step_by(64)) {
                    let (mut rest, mut at) = (word, filled);
                    while rest != 0 {
                        for place in &mut batch[at..at + STEP] {
                            *place = base + rest.trailing_zeros();
                            rest &= rest.wrapping_sub(1);
                        }
                        at += STEP;
                    }
                    filled += word.count_ones() as usize;
                    if filled > BATCH - 64 - STEP {
                        each(&batch[..filled]);
                        filled = 0;
                    }
                }
                if filled > 0 {
                    each(&batch[..filled]);
                }
            }
        }
    }

    /// The rows of both; the sets are of one universe.
    pub fn and(self, other: &Self) -> Self {
        let universe = self.universe;
        match (self.form, &other.form) {
            (Form::List(rows), _) => Self::kept(universe, rows, |row| other.contains(row)),
            (Form::Bits(words), Form::List(rows)) => {
                Self::kept(universe, rows.clone(), |row| has(&words, row))
            }
            (Form::Bits(words), Form::Bits(others)) => Self::combined(universe, words, others, |a, b| a & b),
        }
    }

    /// The rows of either; the sets are of one universe.
    pub fn or(self, other: &Self) -> Self {
        let universe = self.universe;
        match (self.form, &other.form) {
            (Form::Bits(words), Form::Bits(others)) => Self::combined(universe, words, others, |a, b| a | b),
            (Form::Bits(words), Form::List(rows)) => Self::with(universe, words, rows),
            (Form::List(rows), Form::Bits(words)) => Self::with(universe, words.clone(), &rows),
            (Form::List(rows), Form::List(others)) => Self::from_lists(universe, &[&rows, others]),
        }
    }

    /// The rows that are not in `other`; the sets are of one universe.
    pub fn minus(self, other: &Self) -> Self {
        let universe = self.universe;
        match (self.form, &other.form) {
            (Form::List(rows), _) => Self::kept(universe, rows, |row| !other.contains(row)),
            (Form::Bits(words), Form::List(rows)) => Self::cleared(universe, words, rows.iter().copied()),
            (Form::Bits(words), Form::Bits(others)) => Self::combined(universe, words, others, |a, b| a & !b),
        }
    }

    /// The rows that are not in a bitmap.
    pub fn minus_bitmap(self, other: &RoaringBitmap) -> Self {
        if other.is_empty() {
            return self;
        }
        match self.form {
            Form::List(rows) => Self::kept(self.universe, rows, |row| !other.contains(row)),
            Form::Bits(words) => Self::cleared(self.universe, words, other.range(0..self.universe)),
        }
    }

    /// The rows of a range, counted from its beginning: a set of a universe as long as the range.
    pub fn slice(&self, range: Range<u32>) -> Self {
        let universe = range.end.saturating_sub(range.start);
        if range.start == 0 && universe == self.universe {
            return self.clone();
        }
        let mut bits = RowBits::new(universe);
        match &self.form {
            Form::List(rows) => {
                let begin = rows.partition_point(|&row| row < range.start);
                let rows = rows.iter().skip(begin).take_while(|&&row| row < range.end);
                rows.for_each(|row| bits.insert(row - range.start));
            }
            Form::Bits(words) => {
                let (skip, shift) = (range.start as usize / 64, range.start % 64);
                let word = |at: usize| words.get(skip + at).copied().unwrap_or_default();
                for (at, out) in bits.words.iter_mut().enumerate() {
                    let above = if shift == 0 { 0 } else { word(at + 1) << (64 - shift) };
                    *out = word(at) >> shift | above;
                }
                bits.clear_beyond();
            }
        }
        bits.finish()
    }

    /// The set without rows from `len` on.
    pub(crate) fn below(&self, len: usize) -> Cow<'_, Self> {
        match u32::try_from(len) {
            Ok(len) if len < self.universe => Cow::Owned(self.slice(0..len)),
            _ => Cow::Borrowed(self),
        }
    }

    fn kept(universe: u32, mut rows: Vec<u32>, keep: impl Fn(u32) -> bool) -> Self {
        rows.retain(|&row| keep(row));
        Self { count: rows.len(), form: Form::List(rows), universe }
    }

    fn with(universe: u32, words: Vec<u64>, rows: &[u32]) -> Self {
        let mut bits = RowBits { words, universe };
        rows.iter().for_each(|&row| bits.insert(row));
        bits.finish()
    }

    fn cleared(universe: u32, mut words: Vec<u64>, rows: impl Iterator<Item = u32>) -> Self {
        for row in rows {
            if let Some(word) = words.get_mut(row as usize / 64) {
                *word &= !(1 << (row % 64));
            }
        }
        RowBits { words, universe }.finish()
    }

    fn combined(universe: u32, mut words: Vec<u64>, others: &[u64], f: impl Fn(u64, u64) -> u64) -> Self {
        // A shorter set has nothing beyond its end.
        let others = others.iter().copied().chain(std::iter::repeat(0));
        words.iter_mut().zip(others).for_each(|(word, other)| *word = f(*word, other));
        let mut bits = RowBits { words, universe };
        bits.clear_beyond();
        bits.finish()
    }
}

fn has(words: &[u64], row: u32) -> bool {
    words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
}

/// A set of rows in the making.
#[derive(Debug)]
pub struct RowBits {
    words: Vec<u64>,
    universe: u32,
}

impl RowBits {
    /// No rows yet.
    pub fn new(universe: u32) -> Self {
        Self { words: vec![0; universe.div_ceil(64) as usize], universe }
    }

    /// Adds a row, unless it lies beyond the universe.
    #[inline]
    pub fn insert(&mut self, row: u32) {
        if row < self.universe
            && let Some(word) = self.words.get_mut(row as usize / 64)
        {
            *word |= 1 << (row % 64);
        }
    }

    /// Adds the rows of a range that lie in the universe.
    pub fn insert_range(&mut self, rows: Range<u32>) {
        let rows = rows.start..rows.end.min(self.universe);
        if rows.is_empty() {
            return;
        }
        let (first, last) = (rows.start as usize / 64, (rows.end - 1) as usize / 64);
        let (from, to) = (u64::MAX << (rows.start % 64), u64::MAX >> (63 - (rows.end - 1) % 64));
        match self.words.get_mut(first..=last) {
            Some([word]) => *word |= from & to,
            Some([word, between @ .., end]) => {
                *word |= from;
                between.fill(u64::MAX);
                *end |= to;
            }
            _ => {}
        }
    }

    /// The finished set.
    pub fn finish(self) -> RowMask {
        let Self { words, universe } = self;
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        let mut mask = RowMask { form: Form::Bits(words), count, universe };
        if count.saturating_mul(SPARSE) <= universe as usize {
            let mut rows = Vec::with_capacity(count);
            mask.for_each_batch(|batch| rows.extend_from_slice(batch));
            mask.form = Form::List(rows);
        }
        mask
    }

    fn clear_beyond(&mut self) {
        if let (Some(last), beyond @ 1..) = (self.words.last_mut(), self.universe % 64) {
            *last &= u64::MAX >> (64 - beyond);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::index::testing::Random;

    /// Sets of every density, the model of each beside it.
    fn sets(random: &mut Random, universe: u32) -> Vec<(RowMask, BTreeSet<u32>)> {
        let shares = [0.0, 0.01, 0.03, 0.1, 0.5, 0.95, 1.0];
        let drawn = shares.map(|share| {
            let wanted = (f64::from(universe) * share * 1.2) as usize;
            let rows = (0..wanted).map(|_| random.below(universe as usize + 5) as u32);
            rows.filter(|&row| row < universe).collect::<BTreeSet<u32>>()
        });
        let ranges = [0..universe, universe / 3..universe / 2].map(|range| range.collect());
        let models = drawn.into_iter().chain(ranges);
        models.map(|model| (RowMask::from_rows(universe, model.iter().copied()), model)).collect()
    }

    fn check(mask: &RowMask, model: &BTreeSet<u32>, what: &str) {
        assert_eq!(mask.len(), model.len(), "{what}");
        assert!(mask.iter().eq(model.iter().copied()), "{what}");
        let sample = mask.sample(16);
        assert!(sample.iter().all(|row| model.contains(row)) && sample.is_sorted_by(|a, b| a < b), "{what}");
        assert_eq!(sample.is_empty(), model.is_empty(), "{what}");
        let mut batches = Vec::new();
        mask.for_each_batch(|batch| {
            assert!(!batch.is_empty() && batch.len() <= BATCH);
            batches.extend_from_slice(batch);
        });
        assert!(batches.iter().eq(model), "{what}");
        assert!((0..mask.universe() + 70).all(|row| mask.contains(row) == model.contains(&row)), "{what}");
        assert_eq!(mask, &RowMask::from_rows(mask.universe(), model.iter().copied()), "{what}");
        let bytes = match &mask.form {
            Form::List(rows) => rows.len() * 4,
            Form::Bits(words) => words.len() * 8,
        };
        assert!(
            bytes <= 4 * model.len() + 7 && bytes <= 8 * (mask.universe() as usize).div_ceil(64),
            "{what}"
        );
    }

    #[test]
    fn a_mask_is_the_set_it_was_made_of() {
        let mut random = Random(3);
        for universe in [0, 1, 63, 64, 65, 100, 1000, 2048, 5000] {
            assert!(RowMask::none(universe).is_empty());
            check(&RowMask::all(universe), &(0..universe).collect(), "all");
            for (mask, model) in sets(&mut random, universe) {
                check(&mask, &model, "rows");
                let mut rows: Vec<u32> = model.iter().copied().chain([universe, u32::MAX]).collect();
                rows.reverse();
                let (some, others) = rows.split_at(rows.len() / 2);
                check(&RowMask::from_lists(universe, &[some, others, some]), &model, "lists");
                let bitmap: RoaringBitmap = rows.iter().copied().collect();
                check(&RowMask::from_bitmap(universe, &bitmap), &model, "bitmap");
            }
        }
    }

    #[test]
    fn sets_are_combined_as_sets_are() {
        let mut random = Random(5);
        for universe in [1, 64, 130, 3000] {
            let sets = sets(&mut random, universe);
            for (a, x) in &sets {
                for (b, y) in &sets {
                    check(&a.clone().and(b), &(x & y), "and");
                    check(&a.clone().or(b), &(x | y), "or");
                    check(&a.clone().minus(b), &(x - y), "minus");
                    let bitmap = y.iter().copied().chain([universe, universe + 64]).collect();
                    check(&a.clone().minus_bitmap(&bitmap), &(x - y), "minus bitmap");
                }
                for _ in 0..20 {
                    let start = random.below(universe as usize + 2) as u32;
                    let end = start + random.below(universe as usize) as u32;
                    let model = x.iter().filter(|row| (start..end).contains(row)).map(|row| row - start);
                    let slice = a.slice(start..end);
                    assert_eq!(slice.universe(), end - start);
                    check(&slice, &model.collect(), "slice");
                }
            }
        }
    }

    #[test]
    fn ranges_are_inserted_whole() {
        let mut random = Random(7);
        for _ in 0..200 {
            let universe = 1 + random.below(400) as u32;
            let (mut bits, mut model) = (RowBits::new(universe), BTreeSet::new());
            for _ in 0..3 {
                let start = random.below(450) as u32;
                let end = start + random.below(150) as u32;
                bits.insert_range(start..end);
                model.extend((start..end).filter(|&row| row < universe));
            }
            check(&bits.finish(), &model, "ranges");
        }
    }
}

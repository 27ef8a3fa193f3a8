//! Which rows may be among the nearest, as the high plane of their codes tells, and which of them are.
//!
//! A pass over all rows keeps the nearest by codes, which err a little. Where rows lie far apart, as they do near a
//! query, that is no loss: the best forty by codes hold the best ten. Where they are many and differ by less than codes
//! err (rows of one dense cluster; a filter that lets through only what is far from the query) these forty hold as
//! little as a third of them. So the pass also keeps all rows that are within the reach of the errors, and where the
//! last of the ten lies in such a crowd, these are compared too: by finer codes, and what is still in reach exactly.

use super::block::{Neighbour, Query, TopK, VectorBlock};
use super::distance::{CodeDistance, ExactDistance, Grade};
use super::flat::{best_of, for_all_by_codes, for_each_by_codes, nearest_of, rescored};
use super::mask::RowMask;
use crate::types::Metric;

/// Rows within so many times the root mean square of the errors may be nearer than the last found. In a crowd each row
/// that errs by more is lost, so it takes more than the thousandth that lies beyond three.
const REACH: f32 = 5.0;
/// The same where what follows is costly: another search, for the sake of rows that a walk passed by.
const REACH_OF_WALKS: f32 = 3.0;
/// So many rows of a crowd for each neighbour wanted are compared exactly, but no fewer than for ten.
const COMPARED: usize = 256;

/// How much distances by codes err: root mean squares, under L2 of squared distances, whose errors are the same near and
/// far.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    squared: bool,
    /// Of a grade's distances.
    first: f32,
    /// Of those by both codes of the query.
    fine: f32,
}

impl Errors {
    /// They are measured on so many rows: the same for every query, so that they stay in the processor's cache, and
    /// not on candidates, which are candidates because their codes err towards the query.
    const SAMPLE: usize = 16;

    fn sample(codes: &CodeDistance<'_>) -> impl Iterator<Item = u32> + use<> {
        let len = codes.block().len;
        (0..Self::SAMPLE).map(move |i| (len * i / Self::SAMPLE) as u32)
    }

    fn of(codes: &CodeDistance<'_>) -> Self {
        let exact = ExactDistance::new(codes.block(), codes.query());
        let squared = codes.query().metric == Metric::L2;
        let size = |distance: f32| if squared { distance * distance } else { distance };
        let mut squares = [0.0; 2];
        for row in Self::sample(codes) {
            exact.touch(&[row]);
            codes.touch_whole(&[row]);
            let distance = size(exact.distance(row));
            squares[0] += (size(codes.row(row)) - distance).powi(2);
            squares[1] += (size(codes.fine(row)) - distance).powi(2);
        }
        let [first, fine] = squares.map(|sum| (sum / Self::SAMPLE as f32).sqrt());
        Self { squared, first, fine }
    }

    /// The same by the high plane, but no less than is to be expected: rows that are nearly equal err alike, and a sample
    /// of them may err little by chance.
    fn at_least(codes: &CodeDistance<'_>) -> Self {
        let measured = Self::of(codes);
        let expected = Self::sample(codes).map(|row| codes.rough_error(row));
        Self { first: expected.fold(measured.first, f32::max), ..measured }
    }

    /// The distance that is by an error beyond another.
    fn beyond(self, distance: f32, error: f32) -> f32 {
        if self.squared { (distance * distance + error).sqrt() } else { distance + error }
    }
}

/// Whether rows that a walk did not compare may well be as near as the last it found. Never where there are no codes.
pub(super) fn in_crowd(
    block: &VectorBlock<'_>,
    grade: Grade,
    query: &Query,
    candidates: &[Neighbour],
    found: &[Neighbour],
) -> bool {
    let (Some(bound), Some(last)) = (candidates.last(), found.last()) else { return false };
    let reach = || {
        let errors = Errors::of(&CodeDistance::new(block, query, grade));
        errors.beyond(last.distance, REACH_OF_WALKS * errors.first)
    };
    block.has_codes() && bound.distance < reach()
}

/// The rows of some blocks that may be among the `k` nearest; rows are counted through all blocks.
pub(super) struct Shortlist<'a> {
    blocks: Vec<CodeDistance<'a>>,
    /// The first row of each block.
    starts: Vec<u32>,
    k: usize,
    errors: Errors,
    /// The nearest by the high plane, nearest first.
    candidates: Vec<Neighbour>,
    /// Those, and all others that the errors of codes may have kept from among them.
    reached: Vec<Neighbour>,
}

impl<'a> Shortlist<'a> {
    /// One pass over the high plane of all rows, or of those allowed, that looks for rows `within` a distance. All blocks
    /// must have codes like the query's.
    pub fn of(
        blocks: &[(VectorBlock<'a>, Option<&RowMask>)],
        query: &'a Query,
        k: usize,
        within: f32,
    ) -> Self {
        let rows: usize = blocks.iter().map(|(block, allowed)| allowed.map_or(block.len, |a| a.len())).sum();
        let codes: Vec<_> =
            blocks.iter().map(|(block, _)| CodeDistance::new(block, query, Grade::Rough)).collect();
        // Codes err in one block as in the others. Of few rows all are compared exactly.
        let longest = codes.iter().max_by_key(|codes| codes.block().len);
        let errors = longest.filter(|_| rows > rescored(k)).map(Errors::at_least).unwrap_or_default();
        let within = if rows > rescored(k) { within } else { f32::INFINITY };
        let mut near = Near::new(rescored(k), errors, within);
        let mut starts = Vec::with_capacity(blocks.len());
        let mut start = 0;
        for (codes, (block, allowed)) in codes.iter().zip(blocks) {
            starts.push(start);
            match allowed {
                None => for_all_by_codes(codes, |first, distances| near.push_run(start + first, distances)),
                Some(rows) => for_each_by_codes(codes, &rows.below(block.len), |rows, distances| {
                    rows.iter().zip(distances).for_each(|(&row, &distance)| near.push(start + row, distance));
                }),
            }
            start += block.len as u32;
        }
        let (candidates, reached) = near.finish();
        Self { blocks: codes, starts, k, errors, candidates, reached }
    }

    /// The `k` nearest, each as (block, neighbour), nearest first.
    pub fn nearest(mut self) -> Vec<(usize, Neighbour)> {
        let found = self.compare(&self.candidates, self.k.saturating_mul(2), f32::INFINITY);
        let (Some(bound), Some((_, last))) = (self.candidates.last(), found.last()) else { return found };
        let reach = self.errors.beyond(last.distance, REACH * self.errors.first);
        if self.candidates.len() < rescored(self.k) || bound.distance >= reach {
            return found;
        }
        let mut crowd = std::mem::take(&mut self.reached);
        crowd.retain(|row| row.distance <= reach);
        let most = self.k.max(10).saturating_mul(COMPARED);
        self.compare(&crowd, most, self.errors.beyond(last.distance, REACH * self.errors.fine))
    }

    /// The `k` nearest of some rows: exactly compared are the nearest by both codes of the query, at most so many, and
    /// within so far.
    fn compare(&self, rows: &[Neighbour], most: usize, within: f32) -> Vec<(usize, Neighbour)> {
        let mut nearest = TopK::new(most);
        let mut rows: Vec<u32> = rows.iter().map(|neighbour| neighbour.row).collect();
        rows.sort_unstable();
        let mut distances = vec![0.0; rows.len()];
        for (number, rows) in self.by_block(&rows) {
            let (start, distances) = (self.starts[number], &mut distances[..rows.len()]);
            self.blocks[number].fine_rows(&rows, distances);
            let within = rows.iter().zip(distances).filter(|(_, distance)| **distance <= within);
            within.for_each(|(&row, &mut distance)| nearest.push(start + row, distance));
        }
        let mut nearest: Vec<u32> = nearest.into_sorted().iter().map(|neighbour| neighbour.row).collect();
        nearest.sort_unstable();
        let mut found = Vec::with_capacity(nearest.len());
        for (number, rows) in self.by_block(&nearest) {
            let codes = &self.blocks[number];
            let exact = nearest_of(codes.block(), codes.query(), rows.into_iter(), self.k);
            found.extend(exact.into_iter().map(|neighbour| (number, neighbour)));
        }
        best_of(found, self.k)
    }

    /// Rows in order, by the blocks that they are of, counted in each.
    fn by_block(&self, rows: &[u32]) -> Vec<(usize, Vec<u32>)> {
        let block_of = |row: u32| self.starts.partition_point(|&start| start <= row) - 1;
        let of_block = |rows: &[u32]| {
            let number = block_of(*rows.first()?);
            let start = *self.starts.get(number)?;
            Some((number, rows.iter().map(|row| row - start).collect()))
        };
        rows.chunk_by(|&a, &b| block_of(a) == block_of(b)).filter_map(of_block).collect()
    }
}

/// The nearest rows so far, and those not much farther.
struct Near {
    nearest: TopK,
    errors: Errors,
    /// Rows up to this distance are kept.
    limit: f32,
    rows: Vec<Neighbour>,
    /// Rows from which on those beyond the limit are dropped.
    room: usize,
}

impl Near {
    const ROOM: usize = 1024;

    fn new(count: usize, errors: Errors, within: f32) -> Self {
        let limit = if count == 0 { f32::NEG_INFINITY } else { errors.beyond(within, REACH * errors.first) };
        Self { nearest: TopK::new(count), errors, limit, rows: Vec::new(), room: Self::ROOM }
    }

    #[inline]
    fn push(&mut self, row: u32, distance: f32) {
        if distance <= self.limit {
            self.keep(Neighbour { row, distance });
        }
    }

    /// The same for rows that follow each other: most are farther than the limit, which is seen of many at a time.
    fn push_run(&mut self, first: u32, distances: &[f32]) {
        const MANY: usize = 16;
        for (first, distances) in (first..).step_by(MANY).zip(distances.chunks(MANY)) {
            let limit = self.limit;
            if distances.iter().fold(false, |near, &distance| near | (distance <= limit)) {
                distances.iter().zip(first..).for_each(|(&distance, row)| self.push(row, distance));
            }
        }
    }

    fn keep(&mut self, neighbour: Neighbour) {
        let bound = self.nearest.bound();
        self.nearest.push(neighbour.row, neighbour.distance);
        if self.nearest.bound() != bound {
            // Twice as far as a row may err: the last found may err as well.
            let margin = 2.0 * REACH * self.errors.first;
            let beyond = |farthest| self.errors.beyond(farthest, margin);
            self.limit =
                self.nearest.farthest().map_or(self.limit, |farthest| beyond(farthest).min(self.limit));
        }
        if self.rows.len() >= self.room {
            self.rows.retain(|row| row.distance <= self.limit);
            self.room = Self::ROOM.max(2 * self.rows.len());
        }
        self.rows.push(neighbour);
    }

    /// The nearest, nearest first, and all that were kept.
    fn finish(self) -> (Vec<Neighbour>, Vec<Neighbour>) {
        (self.nearest.into_sorted(), self.rows)
    }
}

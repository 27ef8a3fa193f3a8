//! Which rows may be among the nearest, as the high plane of their codes tells, and which of them are.
//!
//! A pass over all rows keeps the nearest by codes, which err a little. Where rows lie far apart, as they do near a
//! query, that is no loss: the best forty by codes hold the best ten. Where they are many and differ by less than codes
//! err (rows of one dense cluster; a filter that lets through only what is far from the query) these forty hold as
//! little as a third of them. So the pass also keeps all rows that are within the reach of the errors, and where the
//! last of the ten lies in such a crowd, these are compared too: by finer codes, and what is still in reach exactly.

use super::block::{Neighbour, Query, TopK, VectorBlock};
use super::distance::{CodeDistance, ExactDistance, Grade, farther};
use super::flat::{best_of, for_all_by_codes, for_each_by_codes, nearest_of, rescored};
use super::mask::{BATCH, RowMask};
use super::sketch::{SketchQuery, Sketches};
use crate::kernel;
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
    metric: Metric,
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
        let metric = codes.query().metric;
        let size = |distance: f32| if metric == Metric::L2 { distance * distance } else { distance };
        let mut squares = [0.0; 2];
        for row in Self::sample(codes) {
            exact.touch(&[row]);
            codes.touch_whole(&[row]);
            let distance = size(exact.distance(row));
            squares[0] += (size(codes.row(row)) - distance).powi(2);
            squares[1] += (size(codes.fine(row)) - distance).powi(2);
        }
        let [first, fine] = squares.map(|sum| (sum / Self::SAMPLE as f32).sqrt());
        Self { metric, first, fine }
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
        farther(self.metric, distance, error)
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
    /// Rows farther than this are not wanted.
    within: f32,
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
        let starts: Vec<u32> = blocks
            .iter()
            .scan(0, |start, (block, _)| Some(std::mem::replace(start, *start + block.len as u32)))
            .collect();
        let (mut sketch, mut left) =
            (None, Left { blocks: &codes, starts: &starts, rows: Vec::new(), skipped: 0 });
        for ((codes, (block, allowed)), &start) in codes.iter().zip(blocks).zip(&starts) {
            match (allowed, block.sketches.filter(|_| query.rank_dim == query.dim)) {
                (None, Some(sketches)) => {
                    let query = sketch.get_or_insert_with(|| SketchQuery::new(query));
                    left.add(start, codes, sketches, query, &mut near);
                }
                (None, None) => {
                    for_all_by_codes(codes, |first, distances| near.push_run(start + first, distances))
                }
                (Some(rows), _) => for_each_by_codes(codes, &rows.below(block.len), |rows, distances| {
                    rows.iter().zip(distances).for_each(|(&row, &distance)| near.push(start + row, distance));
                }),
            }
        }
        left.compare(&mut near);
        let (candidates, reached) = near.finish();
        Self { blocks: codes, starts, k, within, errors, candidates, reached }
    }

    /// The `k` nearest, each as (block, neighbour), nearest first.
    pub fn nearest(mut self) -> Vec<(usize, Neighbour)> {
        let few = self.k.saturating_mul(2);
        let found =
            self.compare(&self.candidates, few, self.errors.beyond(self.within, REACH * self.errors.fine));
        let last =
            found.last().filter(|_| found.len() >= self.k).map_or(self.within, |(_, last)| last.distance);
        let Some(bound) = self.candidates.last() else { return found };
        let reach = self.errors.beyond(last, REACH * self.errors.first);
        if self.candidates.len() < rescored(self.k) || bound.distance >= reach {
            return found;
        }
        let mut crowd = std::mem::take(&mut self.reached);
        crowd.retain(|row| row.distance <= reach);
        let most = self.k.max(10).saturating_mul(COMPARED);
        self.compare(&crowd, most, self.errors.beyond(last, REACH * self.errors.fine))
    }

    /// The `k` nearest of some rows: exactly compared are the nearest by both codes of the query, at most so many, and
    /// within so far.
    fn compare(&self, rows: &[Neighbour], most: usize, within: f32) -> Vec<(usize, Neighbour)> {
        let mut nearest = TopK::new(most);
        let mut rows: Vec<u32> = rows.iter().map(|neighbour| neighbour.row).collect();
        rows.sort_unstable();
        let mut distances = vec![0.0; rows.len()];
        let groups = by_block(&self.starts, &rows);
        for (number, rows) in &groups {
            rows.iter().for_each(|&row| self.blocks[*number].request_whole(row));
        }
        for (number, rows) in groups {
            let (start, distances) = (self.starts[number], &mut distances[..rows.len()]);
            self.blocks[number].fine_rows(&rows, distances);
            let within = rows.iter().zip(distances).filter(|(_, distance)| **distance <= within);
            within.for_each(|(&row, &mut distance)| nearest.push(start + row, distance));
        }
        let mut nearest: Vec<u32> = nearest.into_sorted().iter().map(|neighbour| neighbour.row).collect();
        nearest.sort_unstable();
        let mut found = Vec::with_capacity(nearest.len());
        let groups = by_block(&self.starts, &nearest);
        for (number, rows) in &groups {
            let block = self.blocks[*number].block();
            rows.iter().for_each(|&row| kernel::prefetch(bytemuck::cast_slice(block.full_of(row))));
        }
        for (number, rows) in groups {
            let codes = &self.blocks[number];
            let exact = nearest_of(codes.block(), codes.query(), rows.into_iter(), self.k);
            found.extend(exact.into_iter().map(|neighbour| (number, neighbour)));
        }
        best_of(found, self.k)
    }
}

/// Rows in order, by the blocks that they are of, counted in each.
fn by_block(starts: &[u32], rows: &[u32]) -> Vec<(usize, Vec<u32>)> {
    let block_of = |row: u32| starts.partition_point(|&start| start <= row) - 1;
    let of_block = |rows: &[u32]| {
        let number = block_of(*rows.first()?);
        let start = *starts.get(number)?;
        Some((number, rows.iter().map(|row| row - start).collect()))
    };
    rows.chunk_by(|&a, &b| block_of(a) == block_of(b)).filter_map(of_block).collect()
}

/// Rows that their sketches left, which are compared many at a time: each waits for memory, but all at once.
struct Left<'l, 'a> {
    blocks: &'l [CodeDistance<'a>],
    starts: &'l [u32],
    rows: Vec<u32>,
    /// Runs of rows yet that are compared without a look at their sketches.
    skipped: usize,
}

impl Left<'_, '_> {
    /// So many are compared at a time.
    const MANY: usize = 128;
    /// Where sketches leave more than this share of a run, it is faster to compare all of it: one after the other.
    const SHARE: usize = 8;
    /// Runs that are compared whole after such a one.
    const SKIPPED: usize = 7;

    /// Adds the rows of a block that may be as near as is wanted.
    fn add(
        &mut self,
        start: u32,
        codes: &CodeDistance<'_>,
        sketches: &Sketches,
        query: &SketchQuery,
        near: &mut Near,
    ) {
        let (mut room, mut distances, len) = ([0; 2 * BATCH], [0.0; BATCH], codes.block().len);
        codes.touch_all();
        for first in (0..len).step_by(BATCH) {
            if first.is_multiple_of(Query::ASKED) && codes.query().is_over() {
                return;
            }
            let distances = &mut distances[..BATCH.min(len - first)];
            let before = self.rows.len();
            if near.limit < f32::INFINITY && self.skipped == 0 {
                sketches.bounds(query, first, &mut room, distances);
                for_each_within(distances, near.limit, |at| self.rows.push(start + (first + at) as u32));
                if (self.rows.len() - before) * Self::SHARE <= distances.len() {
                    self.rows[before..].iter().for_each(|row| codes.request(row - start, true));
                    if self.rows.len() >= Self::MANY {
                        self.compare(near);
                    }
                    continue;
                }
                self.rows.truncate(before);
                self.skipped = Self::SKIPPED;
            } else {
                self.skipped = self.skipped.saturating_sub(1);
            }
            codes.run(first as u32, &mut room, distances);
            near.push_run(start + first as u32, distances);
        }
    }

    /// Compares what was added.
    fn compare(&mut self, near: &mut Near) {
        let (mut room, mut distances) = ([0; 2 * BATCH], [0.0; BATCH]);
        for (number, rows) in by_block(self.starts, &self.rows) {
            for rows in rows.chunks(BATCH) {
                self.blocks[number].rows(rows, &mut room, &mut distances);
                let start = self.starts[number];
                rows.iter().zip(&distances).for_each(|(&row, &distance)| near.push(start + row, distance));
            }
        }
        self.rows.clear();
    }
}

/// Hands out the places of distances within a limit: most are farther, which is seen of many at a time.
#[inline]
fn for_each_within(distances: &[f32], limit: f32, mut each: impl FnMut(usize)) {
    const MANY: usize = 16;
    for (number, distances) in distances.chunks(MANY).enumerate() {
        if distances.iter().fold(false, |near, &distance| near | (distance <= limit)) {
            let near = distances.iter().enumerate().filter(|(_, distance)| **distance <= limit);
            near.for_each(|(at, _)| each(number * MANY + at));
        }
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

    /// The same for rows that follow each other.
    fn push_run(&mut self, first: u32, distances: &[f32]) {
        for_each_within(distances, self.limit, |at| self.push(first + at as u32, distances[at]));
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

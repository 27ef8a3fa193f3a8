//! Sketches: one bit a dimension, which tells of nearly all rows of a log that they are too far.
//!
//! A row is turned at random and of each value only the sign is kept; two numbers say how long a row these signs stand
//! for, and how much they may err. A query is turned alike and rounded to four bits, so that its product with a row is a
//! matter of counting bits. (RaBitQ: Gao and Long, SIGMOD 2024, arXiv 2405.12497; here the query is rounded to the nearest, and
//! the turn is by random signs and Hadamard transforms, as in Ailon and Chazelle, STOC 2006.) The rows of a log of 8,192 and
//! 384 dimensions take half a megabyte so, which stays in the processor's cache; their codes do not.

use super::block::{Query, VectorBlock};
use super::random::Random;
use crate::kernel;
use crate::kernel::bits::{BitQuery, LANES, Lanes};
use crate::types::Metric;

/// Fewer dimensions tell too little, and are compared fast enough.
const DIMS: usize = 128;
/// A row is ruled out if it would have to err by so many standard deviations to be near. Those of its own signs and of the
/// query's rounding are added, which makes them four and more of both: one row of 30,000 errs so much.
const SIGMAS: f32 = 3.5;

/// Turns a vector: `values.len()` is a power of two, the vector's length is kept.
fn turn(values: &mut [f32]) {
    let mut random = Random(0);
    for values in values.chunks_mut(64) {
        let signs = random.next();
        for (at, value) in values.iter_mut().enumerate() {
            *value = f32::from_bits(value.to_bits() ^ ((signs >> at & 1) as u32) << 31);
        }
    }
    hadamard(values);
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// The sums and differences of the Walsh-Hadamard transform, in place.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// A vector turned, filled with zeros to a power of two.
fn turned(vector: &[f32]) -> Vec<f32> {
    let mut values = Vec::with_capacity(vector.len().next_power_of_two());
    values.extend_from_slice(vector);
    values.resize(vector.len().next_power_of_two(), 0.0);
    turn(&mut values);
    values
}

fn square(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum()
}

/// The sketches of many rows of one dimension.
#[derive(Debug, Clone, Default)]
pub struct Sketches {
    /// The signs: groups of [`LANES`] rows, word by word.
    lanes: Vec<Lanes>,
    /// By how much the product of a query with a row's signs is that with the row.
    scales: Vec<f32>,
    /// The standard deviation of such a product, for a query of length 1.
    spreads: Vec<f32>,
    /// Squared lengths.
    squares: Vec<f32>,
}

impl Sketches {
    /// Of all rows of a block; none where they would not pay.
    pub fn of(block: &VectorBlock<'_>) -> Option<Self> {
        if !block.has_codes() || block.dim < DIMS {
            return None;
        }
        let (mut sketches, mut values) = (Self::default(), Vec::with_capacity(block.dim));
        for row in 0..block.len as u32 {
            block.values_of(row, &mut values);
            sketches.push(&values);
        }
        Some(sketches)
    }

    fn push(&mut self, row: &[f32]) {
        let values = turned(row);
        let (at, words) = (self.scales.len(), values.len().div_ceil(64));
        if at.is_multiple_of(LANES) {
            self.lanes.resize(self.lanes.len() + words, [0; LANES]);
        }
        for (values, lanes) in values.chunks(64).zip(&mut self.lanes[at / LANES * words..]) {
            let signs = values.iter().rev().fold(0, |signs, value| signs << 1 | u64::from(*value >= 0.0));
            lanes[at % LANES] = signs;
        }
        let (square, sum): (f32, f32) = (square(row), values.iter().map(|x| x.abs()).sum());
        let scale = if sum > 0.0 { square / sum } else { 0.0 };
        // Of the signs' own squared length, the part that does not lie along the row.
        let aside = values.len() as f32 - sum * sum / square.max(f32::MIN_POSITIVE);
        self.spreads.push(scale * (aside.max(0.0) / values.len() as f32).sqrt());
        self.scales.push(scale);
        self.squares.push(square);
    }

    /// For the rows from `first` on, a multiple of eight, how near each may be at least; `room` is as long as `bounds`.
    pub fn bounds(&self, query: &SketchQuery, first: usize, room: &mut [i32], bounds: &mut [f32]) {
        let words = query.bits.words();
        let groups = first / LANES * words..((first + bounds.len()).div_ceil(LANES) * words);
        kernel::dot_bits(&query.bits, self.lanes.get(groups).unwrap_or_default(), room);
        let rows = first..first + bounds.len();
        let [scales, spreads, squares] = [&self.scales, &self.spreads, &self.squares]
            .map(|column| column.get(rows.clone()).unwrap_or_default());
        // One loop without a choice in it, of which the compiler makes wide instructions.
        for (((most, &scale), &spread), &product) in bounds.iter_mut().zip(scales).zip(spreads).zip(&*room) {
            // A bit says whether a sign is plus: each counts twice, less all.
            let product = query.step * (2 * product - query.bits.sum) as f32;
            *most = scale * (product + query.error) + spread * query.length;
        }
        match query.metric {
            // Both are of length 1.
            Metric::Cosine => bounds.iter_mut().for_each(|most| *most = 1.0 - *most),
            Metric::Dot => bounds.iter_mut().for_each(|most| *most = -*most),
            Metric::L2 => {
                for (most, square) in bounds.iter_mut().zip(squares) {
                    *most = (query.square + square - 2.0 * *most).max(0.0).sqrt();
                }
            }
        }
    }
}

/// A query as sketches are compared with it.
#[derive(Debug, Clone)]
pub struct SketchQuery {
    bits: BitQuery,
    /// What one of the query's steps stands for.
    step: f32,
    /// The squared length of the query.
    square: f32,
    /// Its length, and that of what rounding took from it, [`SIGMAS`] times.
    length: f32,
    error: f32,
    metric: Metric,
}

impl SketchQuery {
    /// Of a query that compares all dimensions.
    pub fn new(query: &Query) -> Self {
        let mut values = turned(&query.values);
        let most = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let step = if most > 0.0 { most / 15.0 } else { 1.0 };
        values.iter_mut().for_each(|x| *x /= step);
        let off = values.iter().map(|&x| x - BitQuery::rounded(x)).map(|x| x * x).sum::<f32>();
        let square = square(&query.values);
        let (length, error) = (SIGMAS * square.sqrt(), SIGMAS * step * off.sqrt());
        Self { bits: BitQuery::new(&values), step, square, length, error, metric: query.metric }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Data, METRICS};
    use super::*;
    use crate::index::distance::ExactDistance;
    use crate::types::Codec;

    #[test]
    fn turning_keeps_products() {
        let mut random = Random(3);
        let [a, b]: [Vec<f32>; 2] = [(); 2].map(|()| (0..384).map(|_| random.signed()).collect());
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (before, after) = (product(&a, &b), product(&turned(&a), &turned(&b)));
        assert!((before - after).abs() < 1e-3 * (square(&a) * square(&b)).sqrt(), "{before} {after}");
        let one: Vec<f32> = (0..384).map(|i| if i == 7 { 1.0 } else { 0.0 }).collect();
        assert!(turned(&one).iter().all(|x| x.abs() < 0.3), "one value is spread over all");
    }

    /// Few rows are nearer than their bound, and of those far away few have a near one.
    #[test]
    fn bounds_hold_and_tell_far_rows_from_near_ones() {
        for metric in METRICS {
            for dim in [128, 200, 384] {
                let data = Data::clustered(1000, dim, metric, Codec::Int8F32, 11);
                let sketches = Sketches::of(&data.block()).unwrap();
                let (mut nearer, mut near, mut asked) = (0, 0, 0);
                let block = data.block();
                for vector in data.queries(30, 5) {
                    let query = Query::new(&vector, metric, dim, dim);
                    let exact = ExactDistance::new(&block, &query);
                    let distances: Vec<f32> = (0..1000).map(|row| exact.distance(row)).collect();
                    let mut sorted = distances.clone();
                    sorted.sort_by(f32::total_cmp);
                    let (mut room, mut bounds) = (vec![0; 1000], vec![0.0; 1000]);
                    sketches.bounds(&SketchQuery::new(&query), 0, &mut room, &mut bounds);
                    for (&distance, &bound) in distances.iter().zip(&bounds) {
                        nearer += usize::from(distance < bound);
                        near += usize::from(bound <= sorted[10]);
                        asked += 1;
                    }
                    let mut later = [0.0; 5];
                    sketches.bounds(&SketchQuery::new(&query), 992, &mut room[..5], &mut later);
                    assert_eq!(later, bounds[992..997]);
                }
                assert!(nearer * 1000 < asked, "{metric:?} {dim}: {nearer} of {asked} are nearer");
                assert!(near * 10 < asked, "{metric:?} {dim}: {near} of {asked} may be near");
            }
        }
    }

    #[test]
    fn short_rows_and_rows_without_codes_have_none() {
        let sketched =
            |dim, codec| Sketches::of(&Data::clustered(9, dim, Metric::Cosine, codec, 1).block()).is_some();
        assert!(sketched(DIMS, Codec::Int8) && sketched(DIMS, Codec::Int8F32));
        assert!(!sketched(DIMS - 1, Codec::Int8) && !sketched(DIMS, Codec::F32));
    }

    #[test]
    fn rows_of_no_length_are_bounded_too() {
        let mut sketches = Sketches::default();
        sketches.push(&[0.0; 128]);
        sketches.push(&[1.0; 128]);
        for metric in METRICS {
            let query = Query::new(&[1.0; 128], metric, 128, 128);
            let (mut room, mut bounds) = ([0; 2], [f32::NAN; 2]);
            sketches.bounds(&SketchQuery::new(&query), 0, &mut room, &mut bounds);
            assert!(bounds.iter().all(|bound| bound.is_finite()), "{bounds:?}");
            assert!(bounds[1] <= bounds[0], "{metric:?}: {bounds:?}");
        }
    }
}

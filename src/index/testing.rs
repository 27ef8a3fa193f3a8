//! Seeded data for the tests of this module: clustered rows with their stored forms.

use super::block::{Codes, Neighbour, VectorBlock};
use super::quantize::{normalize, quantize, rung_norms};
use crate::kernel::planes::split;
use crate::types::{Codec, Metric};

pub(crate) const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

/// A small generator of random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Roughly normal: mean 0, deviation 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }
}

/// Rows in memory, with everything a block borrows.
pub(crate) struct Data {
    pub(crate) dim: usize,
    pub(crate) len: usize,
    pub(crate) metric: Metric,
    pub(crate) rows: Vec<f32>,
    codec: Codec,
    ladder: Vec<usize>,
    high: Vec<u8>,
    low: Vec<u8>,
    scales: Vec<f32>,
    norms: Vec<f32>,
}

impl Data {
    pub(crate) fn new(rows: Vec<f32>, dim: usize, metric: Metric, codec: Codec) -> Self {
        let len = rows.len() / dim;
        let ladder = vec![dim.div_ceil(3), dim];
        let mut data = Self {
            dim,
            len,
            metric,
            codec,
            high: Vec::new(),
            low: Vec::new(),
            scales: vec![0.0; len],
            norms: vec![0.0; len * ladder.len()],
            ladder,
            rows,
        };
        let (mut codes, mut norms) = (vec![0; dim], [0.0; 2]);
        for row in 0..len {
            let values = &mut data.rows[row * dim..(row + 1) * dim];
            if metric == Metric::Cosine {
                normalize(values);
            }
            data.scales[row] = quantize(values, &mut codes);
            split(&codes, &mut data.high, &mut data.low);
            rung_norms(&codes, &data.ladder, &mut norms);
            data.norms[row] = norms[0];
            data.norms[len + row] = norms[1];
        }
        data
    }

    /// Clustered rows; if they truncate well, the dimensions beyond the first third hardly matter.
    pub(crate) fn truncated(len: usize, dim: usize, metric: Metric, truncates: bool) -> Self {
        let mut rows = Self::clustered(len, dim, metric, Codec::F32, 5).rows;
        if truncates {
            rows.chunks_mut(dim).flat_map(|row| &mut row[dim / 3..]).for_each(|value| *value *= 0.02);
        }
        Self::new(rows, dim, metric, Codec::Int8F32)
    }

    /// Rows around random centres, with lengths that vary.
    pub(crate) fn clustered(len: usize, dim: usize, metric: Metric, codec: Codec, seed: u64) -> Self {
        let mut random = Random(seed);
        let clusters = (len / 50).max(1);
        let centres: Vec<f32> = (0..clusters * dim).map(|_| random.normal()).collect();
        let mut rows = Vec::with_capacity(len * dim);
        for _ in 0..len {
            let centre = random.below(clusters) * dim;
            let length = 1.0 + 0.1 * random.normal();
            rows.extend((0..dim).map(|i| length * (centres[centre + i] + 0.6 * random.normal())));
        }
        Self::new(rows, dim, metric, codec)
    }

    pub(crate) fn block(&self) -> VectorBlock<'_> {
        let codes = Codes { high: &self.high, low: &self.low };
        let (codes, scales, norms): (Codes<'_>, &[f32], &[f32]) = match self.codec.has_codes() {
            true => (codes, &self.scales, &self.norms),
            false => (Codes::default(), &[], &[]),
        };
        let full: &[f32] = if self.codec.has_full() { &self.rows } else { &[] };
        VectorBlock::new(self.dim, self.metric, &self.ladder, self.len, codes, scales, norms, full).unwrap()
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.dim..(row + 1) * self.dim]
    }

    /// Vectors near random rows.
    pub(crate) fn queries(&self, count: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = Random(seed);
        let spread = self.rows.iter().map(|x| x * x).sum::<f32>() / self.rows.len() as f32;
        (0..count)
            .map(|_| {
                let row = random.below(self.len);
                self.row(row).iter().map(|x| x + 0.4 * spread.sqrt() * random.normal()).collect()
            })
            .collect()
    }
}

/// Share of `truth` that was found.
pub(crate) fn overlap(truth: &[u32], found: &[Neighbour]) -> f64 {
    let hits = truth.iter().filter(|row| found.iter().any(|n| n.row == **row)).count();
    hits as f64 / truth.len() as f64
}

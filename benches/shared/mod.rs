//! Data for the benches: seeded vectors, rows in their stored forms, databases.

#![allow(dead_code, reason = "each bench uses a part")]

pub mod latency;

use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use embdb::index::quantize::{normalize, quantize, rung_norms};
use embdb::index::{Codes, Query, VectorBlock};
use embdb::kernel::planes::split;
use embdb::types::{Document, Metric};
use embdb::{CreateOptions, Db, OpenOptions};

const SEED: u64 = 7;

/// Clusters of [`clustered`].
pub const CLUSTERS: u64 = 100;

/// Short enough that every bench ends in seconds: figures within a few percent, not within one.
pub fn criterion(measurement: Duration) -> Criterion {
    let warm_up = measurement / 4;
    Criterion::default().sample_size(10).nresamples(2000).measurement_time(measurement).warm_up_time(warm_up)
}

/// Numbers of xorshift64.
pub fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// The `n`th vector, of values that are uniform in −0.5..0.5.
pub fn vector(n: u64, dim: usize) -> Vec<f32> {
    let mut next = random(n + SEED);
    (0..dim).map(|_| (next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5).collect()
}

/// The `n`th of the vectors around the centres of clusters; it is in cluster `n % CLUSTERS`.
pub fn clustered(n: u64, dim: usize) -> Vec<f32> {
    let centre = vector(n % CLUSTERS, dim);
    centre.iter().zip(vector(n + CLUSTERS, dim)).map(|(centre, noise)| centre + 0.7 * noise).collect()
}

/// Rows under the cosine metric, in every stored form.
pub struct Rows {
    dim: usize,
    ladder: [usize; 1],
    full: Vec<f32>,
    high: Vec<u8>,
    low: Vec<u8>,
    scales: Vec<f32>,
    norms: Vec<f32>,
}

impl Rows {
    /// The first `len` clustered vectors.
    pub fn clustered(len: u64, dim: usize) -> Self {
        let mut rows = Self {
            dim,
            ladder: [dim],
            full: Vec::with_capacity(len as usize * dim),
            high: vec![],
            low: vec![],
            scales: vec![],
            norms: vec![],
        };
        let (mut codes, mut norm) = (vec![0; dim], [0.0]);
        for mut vector in (0..len).map(|n| clustered(n, dim)) {
            normalize(&mut vector);
            rows.scales.push(quantize(&vector, &mut codes));
            split(&codes, &mut rows.high, &mut rows.low);
            rung_norms(&codes, &rows.ladder, &mut norm);
            rows.norms.push(norm[0]);
            rows.full.extend(vector);
        }
        rows
    }

    /// The rows as the index reads them.
    pub fn block(&self) -> VectorBlock<'_> {
        let codes = Codes { high: &self.high, low: &self.low };
        let len = self.scales.len();
        let (scales, norms) = (&self.scales, &self.norms);
        VectorBlock::new(self.dim, Metric::Cosine, &self.ladder, len, codes, scales, norms, &self.full)
            .unwrap()
    }

    /// Queries from clusters that have rows, none of them a row.
    pub fn queries(&self, count: u64) -> Vec<Query> {
        let of = |n| Query::new(&clustered((1 << 32) + n, self.dim), Metric::Cosine, self.dim, self.dim);
        (0..count).map(of).collect()
    }
}

/// How a database of vectors is opened, or created where it is missing; nothing runs in the background.
pub fn plain(dim: usize) -> OpenOptions {
    let create = CreateOptions { vectors: Some(dim), ..CreateOptions::default() };
    OpenOptions { create, background: false, ..OpenOptions::default() }
}

/// A database of `documents` random vectors, not sealed.
pub fn filled(path: &Path, documents: u64, dim: usize) -> Db {
    let db = Db::open_with(path, plain(dim)).unwrap();
    for start in (0..documents).step_by(4096) {
        let end = (start + 4096).min(documents);
        db.add((start..end).map(|n| Document::from_vector(n.to_string(), vector(n, dim)))).unwrap();
    }
    db
}

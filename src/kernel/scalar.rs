//! The reference kernels, in plain Rust: what every other path must equal.

use super::{CodeMatrix, CodeQuery};

/// Inner product in i32, modulo 2³².
pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).fold(0, |sum: i32, (&x, &y)| sum.wrapping_add(i32::from(x) * i32::from(y)))
}

/// Inner products of one query with many rows.
pub fn dot_i8_rows(query: CodeQuery<'_>, matrix: CodeMatrix<'_>, rows: &[u32], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        *out = dot_i8(query.codes, matrix.row(row, query.codes.len()));
    }
}

/// Inner product, summed in eight lanes so that the compiler can use whatever vectors it may.
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_in_lanes(a, b, |x, y| x * y)
}

/// Squared Euclidean distance.
pub fn l2_sq_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_in_lanes(a, b, |x, y| (x - y) * (x - y))
}

#[inline(always)]
fn sum_in_lanes(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let len = a.len().min(b.len());
    let (a, a_tail) = a[..len].as_chunks::<8>();
    let (b, b_tail) = b[..len].as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for (x, y) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += term(x[i], y[i]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(&x, &y)| term(x, y)).sum();
    lanes.iter().sum::<f32>() + tail
}

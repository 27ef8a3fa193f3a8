//! Arithmetic on vectors: safe functions over the widest instructions this processor has.
//!
//! The choice is made once, at the first call: AVX-512 with VNNI, else AVX2 with FMA, else plain Rust.
//! `EMBDB_SIMD=avx512|avx2|scalar` forces a path; one that the processor lacks is ignored, so the variable
//! can never make a program crash. Plain Rust is the reference: every other path gives the same integers,
//! and the same floats up to the order of summation.
//!
//! Two slices of different lengths are compared over the shorter length; no input panics.

pub(crate) mod bits;
#[cfg(feature = "encoder")]
pub(crate) mod exp;
pub mod planes;
#[cfg(feature = "encoder")]
pub(crate) mod product;
mod scalar;
#[cfg(feature = "encoder")]
pub(crate) mod threads;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use bits::{BitQuery, Lanes};
use planes::{Plane, PlaneQuery};

/// One implementation of every kernel.
#[derive(Clone, Copy)]
struct Kernels {
    isa: &'static str,
    dot_i8: fn(&[i8], &[i8]) -> i32,
    dot_i8_rows: fn(CodeQuery<'_>, CodeMatrix<'_>, &[u32], &mut [i32]),
    dot_plane: fn(&[i8], &[u8]) -> i32,
    dot_plane_rows: fn(&PlaneQuery, Plane<'_>, &[u32], &mut [i32]),
    dot_plane_run: fn(&PlaneQuery, Plane<'_>, u32, &mut [i32]),
    dot_bits: fn(&BitQuery, &[Lanes], &mut [i32]),
    dot_f32: fn(&[f32], &[f32]) -> f32,
    l2_sq_f32: fn(&[f32], &[f32]) -> f32,
}

const SCALAR: Kernels = Kernels {
    isa: "scalar",
    dot_i8: scalar::dot_i8,
    dot_i8_rows: scalar::dot_i8_rows,
    dot_plane: planes::dot_plane,
    dot_plane_rows: planes::dot_plane_rows,
    dot_plane_run: planes::dot_plane_run,
    dot_bits: bits::dot_bits,
    dot_f32: scalar::dot_f32,
    l2_sq_f32: scalar::l2_sq_f32,
};

/// The codes of a query, with their sum, which products of signed bytes need on some processors.
#[derive(Debug, Clone, Copy)]
pub struct CodeQuery<'a> {
    codes: &'a [i8],
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "plain Rust needs no sum"))]
    sum: i32,
}

impl<'a> CodeQuery<'a> {
    /// Sums the codes once.
    pub fn new(codes: &'a [i8]) -> Self {
        Self { codes, sum: code_sum(codes) }
    }

    /// With the sum that [`code_sum`] gave; a wrong one gives wrong products.
    #[inline]
    pub fn with_sum(codes: &'a [i8], sum: i32) -> Self {
        Self { codes, sum }
    }
}

/// The sum of a row's codes.
pub fn code_sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

/// Rows of int8 codes, `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct CodeMatrix<'a> {
    /// All rows.
    pub codes: &'a [i8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

impl<'a> CodeMatrix<'a> {
    /// The first `len` codes of a row; empty for a row that is not there.
    #[inline]
    pub fn row(&self, row: u32, len: usize) -> &'a [i8] {
        let start = row as usize * self.stride;
        self.codes.get(start..start + len).unwrap_or(&[])
    }
}

/// The paths this processor can run, the widest first; never empty.
fn available() -> Vec<Kernels> {
    let mut paths = Vec::new();
    #[cfg(target_arch = "x86_64")]
    paths.extend(x86::available());
    paths.push(SCALAR);
    paths
}

fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var("EMBDB_SIMD").ok().as_deref()))
}

fn choose(wish: Option<&str>) -> Kernels {
    let paths = available();
    let wished = wish.and_then(|name| paths.iter().find(|path| path.isa == name));
    *wished.or(paths.first()).unwrap_or(&SCALAR)
}

/// The instructions in use: `avx512`, `avx2` or `scalar`.
pub fn isa() -> &'static str {
    kernels().isa
}

/// Inner product of two int8 vectors. Exact up to 131,071 values, modulo 2³² beyond.
#[inline]
pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    (kernels().dot_i8)(a, b)
}

/// Inner products of a query with the rows of a matrix that are named, in order; 0 for a row that is not
/// there. A query shorter than the rows meets their beginnings. `out` takes one product for each of `rows`; where it is
/// shorter, the rest is left out. Rows are requested from memory ahead of their turn, which is why many are asked for at
/// once.
#[inline]
pub fn dot_i8_rows(query: CodeQuery<'_>, matrix: CodeMatrix<'_>, rows: &[u32], out: &mut [i32]) {
    (kernels().dot_i8_rows)(query, matrix, rows, out);
}

/// Inner product of a query with one plane of a row of codes, [`plane_len`](planes::plane_len) bytes: Σ code × nibble,
/// the nibbles unsigned. [`PlaneQuery::exact`] and [`PlaneQuery::rough`] turn it into products with the codes. Exact up
/// to 65,536 dimensions.
#[inline]
pub fn dot_plane(query: &PlaneQuery, row: &[u8]) -> i32 {
    (kernels().dot_plane)(query.codes(), row)
}

/// The same for the rows that are named, in order; 0 for a row that is not there. Rows are requested from memory
/// ahead of their turn.
#[inline]
pub fn dot_plane_rows(query: &PlaneQuery, plane: Plane<'_>, rows: &[u32], out: &mut [i32]) {
    (kernels().dot_plane_rows)(query, plane, rows, out);
}

/// The same for the rows from `first` on, one for each place in `out`; 0 for a row that is not there.
#[inline]
pub fn dot_plane_run(query: &PlaneQuery, plane: Plane<'_>, first: u32, out: &mut [i32]) {
    (kernels().dot_plane_run)(query, plane, first, out);
}

/// Products of a query with rows of bits, eight to each group of as many words as the query has: for
/// each the sum of the query's values where its bits are 1. `out` takes one product for each row.
#[inline]
pub fn dot_bits(query: &BitQuery, rows: &[Lanes], out: &mut [i32]) {
    (kernels().dot_bits)(query, rows, out);
}

/// Inner product of two f32 vectors, summed in f32, in an order of the processor's own.
#[inline]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    (kernels().dot_f32)(a, b)
}

/// Squared Euclidean distance of two f32 vectors, summed in f32, in an order of the processor's own.
#[inline]
pub fn l2_sq_f32(a: &[f32], b: &[f32]) -> f32 {
    (kernels().l2_sq_f32)(a, b)
}

/// Asks the processor to load the first kilobyte of `bytes` into its caches; a hint without effect on
/// results. Hardware prefetchers follow a stream from there on.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Asks the processor to load the line where a value begins.
#[inline]
pub fn prefetch_value<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch_value(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Makes this thread treat denormal numbers as zero: arithmetic on them is up to a hundred times slower,
/// and the tails of softmax and of weight decay are full of them. No effect on other threads, nor on
/// processors other than x86-64.
pub fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    x86::flush_denormals();
}

/// Maps `n` rows of `dim_in` values through a matrix: `out[r][o] = ⟨rows[r], matrix[o]⟩`.
///
/// `matrix` is row-major, `dim_out × dim_in`; `out` is row-major, `n × dim_out`. Where a slice is shorter
/// than the dimensions say, the rows that are missing are left out.
pub fn matmul_rows(rows: &[f32], n: usize, matrix: &[f32], dim_in: usize, dim_out: usize, out: &mut [f32]) {
    /// Rows of the matrix that are reused while they lie in the first-level cache.
    const TILE: usize = 16;
    /// Rows that share one pass over the matrix.
    const PANEL: usize = 64;
    if dim_in == 0 || dim_out == 0 {
        out.fill(0.0);
        return;
    }
    let dot = kernels().dot_f32;
    let rows = rows.get(..n.saturating_mul(dim_in)).unwrap_or(rows);
    for (panel, results) in rows.chunks(PANEL * dim_in).zip(out.chunks_mut(PANEL * dim_out)) {
        for (tile, weights) in matrix.chunks(TILE * dim_in).enumerate() {
            for (row, result) in panel.chunks_exact(dim_in).zip(results.chunks_exact_mut(dim_out)) {
                let targets = result.iter_mut().skip(tile * TILE);
                for (weight, target) in weights.chunks_exact(dim_in).zip(targets) {
                    *target = dot(row, weight);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f32, b: f32, magnitude: f32) -> bool {
        (a - b).abs() <= 1e-4 * magnitude.max(1e-3)
    }

    proptest! {
        #[test]
        fn every_path_gives_the_scalar_integers(
            pairs in prop::collection::vec((any::<i8>(), any::<i8>()), 0..700),
        ) {
            let (a, b): (Vec<i8>, Vec<i8>) = pairs.into_iter().unzip();
            let expected: i64 = a.iter().zip(&b).map(|(&x, &y)| i64::from(x) * i64::from(y)).sum();
            for path in available() {
                prop_assert_eq!(i64::from((path.dot_i8)(&a, &b)), expected, "{}", path.isa);
            }
        }

        #[test]
        fn products_with_rows_are_those_of_the_rows(
            codes in prop::collection::vec(any::<i8>(), 0..3000),
            stride in 1usize..300,
            len in 0usize..300,
            rows in prop::collection::vec(0u32..40, 0..20),
        ) {
            let query: Vec<i8> = codes.iter().rev().copied().chain([-127, 127, -128]).take(len.min(stride)).collect();
            let matrix = CodeMatrix { codes: &codes, stride };
            for path in available() {
                let mut out = vec![i32::MAX; rows.len()];
                (path.dot_i8_rows)(CodeQuery::new(&query), matrix, &rows, &mut out);
                for (&row, &product) in rows.iter().zip(&out) {
                    let expected = scalar::dot_i8(&query, matrix.row(row, query.len()));
                    prop_assert_eq!(product, expected, "{}, row {}", path.isa, row);
                }
            }
        }

        #[test]
        fn every_path_gives_the_scalar_floats(
            pairs in prop::collection::vec((-10f32..10.0, -10f32..10.0), 0..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let size: f32 = a.iter().zip(&b).map(|(x, y)| (x * y).abs()).sum();
            let l2 = scalar::l2_sq_f32(&a, &b);
            for path in available() {
                prop_assert!(close((path.dot_f32)(&a, &b), scalar::dot_f32(&a, &b), size), "{}", path.isa);
                prop_assert!(close((path.l2_sq_f32)(&a, &b), l2, l2), "{}", path.isa);
            }
        }
    }

    #[test]
    fn every_length_and_alignment_of_extreme_codes() {
        let a: Vec<i8> = (0..400).map(|i| if i % 3 == 0 { -128 } else { 127 }).collect();
        let b: Vec<i8> = (0..400).map(|i| if i % 5 == 0 { 127 } else { -128 }).collect();
        for path in available() {
            for start in [0, 1, 3] {
                for end in start..400 {
                    let expected = scalar::dot_i8(&a[start..end], &b[start..end]);
                    assert_eq!((path.dot_i8)(&a[start..end], &b[start..end]), expected, "{}", path.isa);
                }
            }
        }
    }

    #[test]
    fn different_lengths_use_the_shorter() {
        for path in available() {
            assert_eq!((path.dot_i8)(&[1, 2, 3], &[4, 5]), 14, "{}", path.isa);
            assert_eq!((path.dot_f32)(&[1.0; 40], &[2.0; 33]), 66.0, "{}", path.isa);
            assert_eq!((path.l2_sq_f32)(&[1.0; 2], &[3.0; 50]), 8.0, "{}", path.isa);
        }
    }

    #[test]
    fn longest_vectors_do_not_overflow() {
        let low = vec![-128i8; 65_536];
        for path in available() {
            assert_eq!((path.dot_i8)(&low, &low), 1 << 30, "{}", path.isa);
            assert_eq!((path.dot_i8)(&low, &vec![127; 65_536]), -128 * 127 * 65_536, "{}", path.isa);
        }
    }

    #[test]
    fn a_wish_is_granted_where_possible() {
        assert_eq!(choose(Some("scalar")).isa, "scalar");
        assert_eq!(choose(Some("abacus")).isa, choose(None).isa);
        for path in available() {
            assert_eq!(choose(Some(path.isa)).isa, path.isa);
        }
    }

    #[test]
    fn matmul_equals_the_definition() {
        let (n, dim_in, dim_out) = (70, 19, 37);
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
        let rows: Vec<f32> = (0..n * dim_in).map(value).collect();
        let matrix: Vec<f32> = (0..dim_out * dim_in).map(|i| value(i + 7)).collect();
        let mut out = vec![f32::NAN; n * dim_out];
        matmul_rows(&rows, n, &matrix, dim_in, dim_out, &mut out);
        for r in 0..n {
            for o in 0..dim_out {
                let expected: f32 = (0..dim_in).map(|i| rows[r * dim_in + i] * matrix[o * dim_in + i]).sum();
                assert!((out[r * dim_out + o] - expected).abs() < 1e-4, "row {r}, column {o}");
            }
        }
    }

    #[test]
    fn matmul_takes_any_lengths() {
        let mut out = [7.0; 4];
        matmul_rows(&[1.0, 2.0], 9, &[3.0], 1, 1, &mut out);
        assert_eq!(out, [3.0, 6.0, 7.0, 7.0]);
        matmul_rows(&[], 2, &[], 0, 2, &mut out);
        assert_eq!(out, [0.0; 4]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn denormals_are_flushed_on_this_thread_alone() {
        let tiny = std::hint::black_box(f32::MIN_POSITIVE);
        let halve = move || std::hint::black_box(tiny) * std::hint::black_box(0.5);
        let flushed = std::thread::spawn(move || {
            flush_denormals();
            halve()
        });
        assert_eq!(flushed.join().unwrap(), 0.0);
        assert!(halve() > 0.0);
    }

    #[test]
    fn prefetch_takes_any_slice() {
        for len in [0, 1, 63, 64, 65, 5000] {
            prefetch(&vec![0; len]);
        }
    }
}

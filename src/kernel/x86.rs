//! Kernels for x86-64: AVX2 with FMA, and AVX-512 with VNNI.
//!
//! Nothing here is required at compile time; [`available`] asks the processor. The safe wrappers it hands
//! out are private to this file and reach no one unless the features they need were found.
#![allow(unsafe_code)]

mod bits;
mod planes;

use std::arch::x86_64::*;

use super::{CodeMatrix, CodeQuery, Kernels};
use bits::{dot_bits_avx2, dot_bits_avx512};
use planes::{
    dot_plane_avx2, dot_plane_avx512, dot_plane_rows_avx2, dot_plane_rows_avx512, dot_plane_run_avx2,
    dot_plane_run_avx512,
};

/// The paths this processor has, the widest first.
pub(super) fn available() -> Vec<Kernels> {
    let mut paths = Vec::new();
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
    {
        paths.push(Kernels {
            isa: "avx512",
            // SAFETY: the three features were found on the lines above.
            dot_i8: |a, b| unsafe { dot_i8_avx512(a, b) },
            // SAFETY: as above.
            dot_i8_rows: |query, matrix, rows, out| unsafe { dot_i8_rows_avx512(query, matrix, rows, out) },
            // SAFETY: as above.
            dot_plane: |query, row| unsafe { dot_plane_avx512(query, row) },
            // SAFETY: as above.
            dot_plane_rows: |query, plane, rows, out| unsafe {
                dot_plane_rows_avx512(query, plane, rows, out)
            },
            // SAFETY: as above.
            dot_plane_run: |query, plane, first, out| unsafe {
                dot_plane_run_avx512(query, plane, first, out)
            },
            dot_bits: if is_x86_feature_detected!("avx512vpopcntdq") {
                // SAFETY: the feature was found on the line above.
                |query, rows, out| unsafe { dot_bits_avx512(query, rows, out) }
            } else {
                // SAFETY: both features are part of every processor that has the three above.
                |query, rows, out| unsafe { dot_bits_avx2(query, rows, out) }
            },
            // SAFETY: as above.
            dot_f32: |a, b| unsafe { dot_f32_avx512(a, b) },
            // SAFETY: as above.
            l2_sq_f32: |a, b| unsafe { l2_sq_f32_avx512(a, b) },
        });
    }
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("popcnt")
    {
        paths.push(Kernels {
            isa: "avx2",
            // SAFETY: the three features were found on the lines above.
            dot_i8: |a, b| unsafe { dot_i8_avx2(a, b) },
            // SAFETY: as above.
            dot_i8_rows: |query, matrix, rows, out| unsafe { dot_i8_rows_avx2(query, matrix, rows, out) },
            // SAFETY: as above.
            dot_plane: |query, row| unsafe { dot_plane_avx2(query, row) },
            // SAFETY: as above.
            dot_plane_rows: |query, plane, rows, out| unsafe { dot_plane_rows_avx2(query, plane, rows, out) },
            // SAFETY: as above.
            dot_plane_run: |query, plane, first, out| unsafe { dot_plane_run_avx2(query, plane, first, out) },
            // SAFETY: as above.
            dot_bits: |query, rows, out| unsafe { dot_bits_avx2(query, rows, out) },
            // SAFETY: as above.
            dot_f32: |a, b| unsafe { dot_f32_avx2(a, b) },
            // SAFETY: as above.
            l2_sq_f32: |a, b| unsafe { l2_sq_f32_avx2(a, b) },
        });
    }
    paths
}

/// Prefetches the first kilobyte of a slice.
#[inline]
pub(super) fn prefetch(bytes: &[u8]) {
    const LINE: usize = 64;
    const LINES: usize = 16;
    for line in bytes.chunks(LINE).take(LINES) {
        // SAFETY: a prefetch reads nothing and faults on no address; this one lies inside the slice.
        // SSE, which holds the instruction, is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// Prefetches the line where a value begins.
#[inline]
pub(super) fn prefetch_value<T>(value: &T) {
    // SAFETY: as above; the address is that of a reference.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
}

/// Sets flush-to-zero and denormals-are-zero for this thread.
pub(super) fn flush_denormals() {
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    let mut control = 0u32;
    // SAFETY: stores and loads the SSE control register through a local; SSE is part of x86-64. Only the
    // two denormal bits change: rounding and exception masks stay as the compiler assumes them. What the
    // compiler folds at build time may keep a denormal that the processor would flush: callers of this
    // function accept either result.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack, preserves_flags));
        control |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, preserves_flags));
    }
}

/// VNNI multiplies unsigned by signed bytes, so 128 is added to `a` (an XOR of the sign bit) and
/// 128·Σb is taken off at the end. All sums are exact modulo 2³².
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_i8_avx512(a: &[i8], b: &[i8]) -> i32 {
    let flip = _mm512_set1_epi8(-128);
    let ones = _mm512_set1_epi8(1);
    let mut product = _mm512_setzero_si512();
    let mut sum_b = _mm512_setzero_si512();
    let len = a.len().min(b.len());
    let (a_blocks, a_tail) = a[..len].as_chunks::<64>();
    let (b_blocks, b_tail) = b[..len].as_chunks::<64>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        // SAFETY: each block is 64 bytes long; the loads need no alignment.
        let (x, y) =
            unsafe { (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(y.as_ptr().cast())) };
        product = _mm512_dpbusd_epi32(product, _mm512_xor_si512(x, flip), y);
        sum_b = _mm512_dpbusd_epi32(sum_b, ones, y);
    }
    if !a_tail.is_empty() {
        let mask = (1u64 << a_tail.len()) - 1;
        // SAFETY: the tails are equally long, shorter than 64, and the mask admits their bytes alone;
        // masked bytes are not read. A masked byte of `y` is 0 and adds nothing.
        let (x, y) = unsafe {
            (_mm512_maskz_loadu_epi8(mask, a_tail.as_ptr()), _mm512_maskz_loadu_epi8(mask, b_tail.as_ptr()))
        };
        product = _mm512_dpbusd_epi32(product, _mm512_xor_si512(x, flip), y);
        sum_b = _mm512_dpbusd_epi32(sum_b, ones, y);
    }
    _mm512_reduce_add_epi32(_mm512_sub_epi32(product, _mm512_slli_epi32::<7>(sum_b)))
}

/// Rows whose products are summed side by side, and how far ahead rows are requested from memory.
const GROUP: usize = 4;

/// Requests the rows of a group that are there.
#[inline(always)]
fn prefetch_group(matrix: CodeMatrix<'_>, rows: &[u32], len: usize) {
    for &row in rows {
        prefetch(bytemuck::cast_slice(matrix.row(row, len)));
    }
}

/// Four rows at a time share the loads of the query and the sums across lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_i8_rows_avx512(query: CodeQuery<'_>, matrix: CodeMatrix<'_>, rows: &[u32], out: &mut [i32]) {
    let (groups, rest) = rows.as_chunks::<GROUP>();
    let mut ahead = rows.chunks(GROUP).skip(1);
    let (out_groups, out_rest) = out.split_at_mut((groups.len() * GROUP).min(out.len()));
    let len = query.codes.len();
    let correction = query.sum.wrapping_mul(128);
    for (group, out) in groups.iter().zip(out_groups.chunks_mut(GROUP)) {
        prefetch_group(matrix, ahead.next().unwrap_or_default(), len);
        let four = group.map(|row| matrix.row(row, len));
        if four.iter().any(|row| row.len() < len) {
            out.iter_mut().zip(four).for_each(|(out, row)| *out = dot_i8_avx512(query.codes, row));
            continue;
        }
        let sums = dot_four_avx512(query.codes, four);
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.wrapping_sub(correction));
    }
    for (&row, out) in rest.iter().zip(out_rest) {
        *out = dot_i8_avx512(matrix.row(row, len), query.codes);
    }
}

/// `Σ (row + 128) · query` for four rows, each as long as the query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_four_avx512(query: &[i8], rows: [&[i8]; GROUP]) -> [i32; GROUP] {
    let flip = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_si512(); GROUP];
    let (blocks, tail) = query.as_chunks::<64>();
    let tail_mask = (1u64 << tail.len()) - 1;
    let row_blocks = rows.map(|row| row.as_chunks::<64>());
    for (at, block) in blocks.iter().enumerate() {
        // SAFETY: the block is 64 bytes long; the load needs no alignment.
        let q = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        for (sum, (blocks, _)) in sums.iter_mut().zip(&row_blocks) {
            // SAFETY: as above. The row is as long as the query, so it has this block.
            let x = unsafe { _mm512_loadu_si512(blocks[at].as_ptr().cast()) };
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(x, flip), q);
        }
    }
    if !tail.is_empty() {
        // SAFETY: the mask admits the bytes of the tail alone, the others are not read and count as 0.
        let q = unsafe { _mm512_maskz_loadu_epi8(tail_mask, tail.as_ptr()) };
        for (sum, (_, tail)) in sums.iter_mut().zip(&row_blocks) {
            // SAFETY: as above; the row is as long as the query, so is its tail.
            let x = unsafe { _mm512_maskz_loadu_epi8(tail_mask, tail.as_ptr()) };
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(x, flip), q);
        }
    }
    let halves =
        sums.map(|sum| _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum)));
    sum_across(halves)
}

/// The sum of the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_across(vectors: [__m256i; GROUP]) -> [i32; GROUP] {
    let [a, b, c, d] = vectors;
    let all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    bytemuck::cast(sums)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_f32_avx512(a: &[f32], b: &[f32]) -> f32 {
    fold_f32_avx512(a, b, |x, y, sum| _mm512_fmadd_ps(x, y, sum))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn l2_sq_f32_avx512(a: &[f32], b: &[f32]) -> f32 {
    fold_f32_avx512(a, b, |x, y, sum| {
        let difference = _mm512_sub_ps(x, y);
        _mm512_fmadd_ps(difference, difference, sum)
    })
}

/// Folds pairs of values into four sums; `step(0, 0, s)` must be `s`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn fold_f32_avx512(a: &[f32], b: &[f32], step: impl Fn(__m512, __m512, __m512) -> __m512) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    let len = a.len().min(b.len());
    let (a_blocks, a_tail) = a[..len].as_chunks::<64>();
    let (b_blocks, b_tail) = b[..len].as_chunks::<64>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        let (x, y) = (x.as_chunks::<16>().0, y.as_chunks::<16>().0);
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            // SAFETY: each part is 16 floats long; the loads need no alignment.
            let (x, y) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(y.as_ptr())) };
            *sum = step(x, y, *sum);
        }
    }
    for (sum, (x, y)) in sums.iter_mut().zip(a_tail.chunks(16).zip(b_tail.chunks(16))) {
        let mask = ((1u32 << x.len()) - 1) as __mmask16;
        // SAFETY: both parts have the same length, at most 16, and the mask admits their floats alone;
        // masked floats are not read and count as 0 on both sides.
        let (x, y) =
            unsafe { (_mm512_maskz_loadu_ps(mask, x.as_ptr()), _mm512_maskz_loadu_ps(mask, y.as_ptr())) };
        *sum = step(x, y, *sum);
    }
    let [s0, s1, s2, s3] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)))
}

/// Widens to 16 bits first: the byte product of AVX2 would saturate.
#[target_feature(enable = "avx2,fma")]
fn dot_i8_avx2(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = [_mm256_setzero_si256(); 2];
    let len = a.len().min(b.len());
    let (a_blocks, a_tail) = a[..len].as_chunks::<32>();
    let (b_blocks, b_tail) = b[..len].as_chunks::<32>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        let (x, y) = (x.as_chunks::<16>().0, y.as_chunks::<16>().0);
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            // SAFETY: each part is 16 bytes long; the loads need no alignment.
            let (x, y) = unsafe { (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(y.as_ptr().cast())) };
            let product = _mm256_madd_epi16(_mm256_cvtepi8_epi16(x), _mm256_cvtepi8_epi16(y));
            *sum = _mm256_add_epi32(*sum, product);
        }
    }
    let both = _mm256_add_epi32(sums[0], sums[1]);
    let half = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
    let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let eighth = _mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter));
    _mm_cvtsi128_si32(eighth).wrapping_add(super::scalar::dot_i8(a_tail, b_tail))
}

#[target_feature(enable = "avx2,fma")]
fn dot_i8_rows_avx2(query: CodeQuery<'_>, matrix: CodeMatrix<'_>, rows: &[u32], out: &mut [i32]) {
    let len = query.codes.len();
    prefetch_group(matrix, rows.get(..GROUP).unwrap_or(rows), len);
    for (at, (&row, out)) in rows.iter().zip(out).enumerate() {
        prefetch_group(matrix, rows.get(at + GROUP..at + GROUP + 1).unwrap_or_default(), len);
        *out = dot_i8_avx2(query.codes, matrix.row(row, len));
    }
}

#[target_feature(enable = "avx2,fma")]
fn dot_f32_avx2(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let whole = len - len % 8;
    let sum = fold_f32_avx2(&a[..whole], &b[..whole], |x, y, sum| _mm256_fmadd_ps(x, y, sum));
    sum + super::scalar::dot_f32(&a[whole..len], &b[whole..len])
}

#[target_feature(enable = "avx2,fma")]
fn l2_sq_f32_avx2(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let whole = len - len % 8;
    let sum = fold_f32_avx2(&a[..whole], &b[..whole], |x, y, sum| {
        let difference = _mm256_sub_ps(x, y);
        _mm256_fmadd_ps(difference, difference, sum)
    });
    sum + super::scalar::l2_sq_f32(&a[whole..len], &b[whole..len])
}

/// Folds the whole groups of eight pairs into four sums.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fold_f32_avx2(a: &[f32], b: &[f32], step: impl Fn(__m256, __m256, __m256) -> __m256) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    for (x, y) in a.chunks(32).zip(b.chunks(32)) {
        let (x, y) = (x.as_chunks::<8>().0, y.as_chunks::<8>().0);
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            // SAFETY: each part is 8 floats long; the loads need no alignment.
            let (x, y) = unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(y.as_ptr())) };
            *sum = step(x, y, *sum);
        }
    }
    let [s0, s1, s2, s3] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3));
    let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}

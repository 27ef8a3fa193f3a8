//! Products of a query with planes of codes: nibbles are unsigned bytes below 16, which the byte products of both
//! instruction sets take as they are.

use std::arch::x86_64::*;

use super::{GROUP, prefetch, sum_across};
use crate::kernel::planes::{GROUP_BYTES, GROUP_CODES, Plane, PlaneQuery};

/// Two groups of a row fill a vector.
const PAIR_BYTES: usize = 2 * GROUP_BYTES;
const PAIR_CODES: usize = 2 * GROUP_CODES;
/// How far ahead rows that follow each other are requested, in bytes.
const AHEAD: usize = 2 << 10;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_plane_avx512(query: &[i8], row: &[u8]) -> i32 {
    let groups = (query.len() / GROUP_CODES).min(row.len() / GROUP_BYTES);
    let (query, row) = (&query[..groups * GROUP_CODES], &row[..groups * GROUP_BYTES]);
    let (pairs, last) = query.as_chunks::<PAIR_CODES>();
    let (row_pairs, row_last) = row.as_chunks::<PAIR_BYTES>();
    let mut sum = _mm512_setzero_si512();
    for (codes, row) in pairs.iter().zip(row_pairs) {
        let codes = pair(codes);
        // SAFETY: the part is 64 bytes long; the load needs no alignment.
        let row = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        sum = add_nibbles(sum, row, codes);
    }
    if let (Some(codes), Some(row)) = (last.first_chunk(), row_last.first_chunk()) {
        sum = add_nibbles(sum, single(row), halves(codes).map(|half| _mm512_zextsi256_si512(half)));
    }
    _mm512_reduce_add_epi32(sum)
}

/// The codes that meet the lower, and those that meet the upper halves of the bytes of one group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn halves(codes: &[i8; GROUP_CODES]) -> [__m256i; 2] {
    // SAFETY: the group is 64 bytes long, so both loads of 32 lie inside; they need no alignment.
    unsafe {
        [
            _mm256_loadu_si256(codes.as_ptr().cast()),
            _mm256_loadu_si256(codes.as_ptr().add(GROUP_BYTES).cast()),
        ]
    }
}

/// The same of two groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pair(codes: &[i8; PAIR_CODES]) -> [__m512i; 2] {
    let (first, second) = codes.split_at(GROUP_CODES);
    let [[a, b], [c, d]] =
        [first, second].map(|group| halves(group.first_chunk().unwrap_or(&[0; GROUP_CODES])));
    [
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), c),
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(b), d),
    ]
}

/// A group of a row that has no second to go with it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn single(row: &[u8; GROUP_BYTES]) -> __m512i {
    // SAFETY: the group is 32 bytes long; the load needs no alignment.
    _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(row.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_nibbles(sum: __m512i, row: __m512i, [lower, upper]: [__m512i; 2]) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    let sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(row, nibble), lower);
    _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16::<4>(row), nibble), upper)
}

/// Requests the rows of a group that are there.
#[inline(always)]
fn prefetch_rows(plane: Plane<'_>, rows: &[u32], len: usize) {
    for &row in rows {
        prefetch(plane.row(row, len));
    }
}

/// Four rows at a time share the loads of the query and the sums across lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_plane_rows_avx512(query: &PlaneQuery, plane: Plane<'_>, rows: &[u32], out: &mut [i32]) {
    let (groups, rest) = rows.as_chunks::<GROUP>();
    let mut ahead = rows.chunks(GROUP).skip(1);
    let (out_groups, out_rest) = out.split_at_mut((groups.len() * GROUP).min(out.len()));
    let len = query.plane_len();
    for (group, out) in groups.iter().zip(out_groups.chunks_mut(GROUP)) {
        prefetch_rows(plane, ahead.next().unwrap_or_default(), len);
        let [a, b, c, d] = *group;
        let four = [plane.row(a, len), plane.row(b, len), plane.row(c, len), plane.row(d, len)];
        if four.iter().any(|row| row.len() < len) {
            out.iter_mut().zip(four).for_each(|(out, row)| *out = dot_plane_avx512(query.codes(), row));
            continue;
        }
        let sums = dot_four_avx512(query.codes(), four);
        match out.first_chunk_mut() {
            Some(out) => *out = sums,
            None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum),
        }
    }
    for (&row, out) in rest.iter().zip(out_rest) {
        *out = dot_plane_avx512(query.codes(), plane.row(row, len));
    }
}

/// Rows that follow each other need no list, no look whether each is there, and are requested from far ahead.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_plane_run_avx512(query: &PlaneQuery, plane: Plane<'_>, first: u32, out: &mut [i32]) {
    let (len, stride) = (query.plane_len(), plane.stride);
    let (groups, rest) = out.as_chunks_mut::<GROUP>();
    let mut row = first;
    for out in groups {
        let start = row as usize * stride;
        let ahead = start + AHEAD;
        prefetch(plane.bytes.get(ahead..ahead + GROUP * stride).unwrap_or_default());
        match plane.bytes.get(start..start + GROUP * stride) {
            Some(rows) if len <= stride => {
                let (ab, cd) = rows.split_at(2 * stride);
                let ((a, b), (c, d)) = (ab.split_at(stride), cd.split_at(stride));
                *out = dot_four_avx512(query.codes(), [&a[..len], &b[..len], &c[..len], &d[..len]]);
            }
            _ => {
                for (out, row) in out.iter_mut().zip(row..) {
                    *out = dot_plane_avx512(query.codes(), plane.row(row, len));
                }
            }
        }
        row += GROUP as u32;
    }
    for (out, row) in rest.iter_mut().zip(row..) {
        *out = dot_plane_avx512(query.codes(), plane.row(row, len));
    }
}

/// Products with four rows, each as long as the query asks for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_four_avx512(query: &[i8], rows: [&[u8]; GROUP]) -> [i32; GROUP] {
    let (pairs, last) = query.as_chunks::<PAIR_CODES>();
    // Not by a closure: that would not be inlined into a function of other instructions.
    let [a, b, c, d] = rows;
    let [a, b, c, d] = [a.as_chunks::<PAIR_BYTES>(), b.as_chunks(), c.as_chunks(), d.as_chunks()];
    let mut sums = [_mm512_setzero_si512(); GROUP];
    for ((((codes, a), b), c), d) in pairs.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        let codes = pair(codes);
        for (sum, part) in sums.iter_mut().zip([a, b, c, d]) {
            // SAFETY: the part is 64 bytes long; the load needs no alignment.
            let row = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
            *sum = add_nibbles(*sum, row, codes);
        }
    }
    if let Some(codes) = last.first_chunk() {
        let codes = halves(codes).map(|half| _mm512_zextsi256_si512(half));
        for (sum, last) in sums.iter_mut().zip([a.1, b.1, c.1, d.1]) {
            if let Some(row) = last.first_chunk() {
                *sum = add_nibbles(*sum, single(row), codes);
            }
        }
    }
    let [a, b, c, d] = sums;
    sum_across([fold(a), fold(b), fold(c), fold(d)])
}

/// The sum of both halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn fold(sum: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum))
}

/// A nibble times a code is at most 15 × 128, and four such products fit 16 bits: nothing saturates.
#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_plane_avx2(query: &[i8], row: &[u8]) -> i32 {
    let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sum = _mm256_setzero_si256();
    for (codes, row) in query.as_chunks::<GROUP_CODES>().0.iter().zip(row.as_chunks::<GROUP_BYTES>().0) {
        // SAFETY: the group has 64 codes and 32 bytes, so all three loads of 32 bytes lie inside; they need no
        // alignment.
        let (row, lower, upper) = unsafe {
            (
                _mm256_loadu_si256(row.as_ptr().cast()),
                _mm256_loadu_si256(codes.as_ptr().cast()),
                _mm256_loadu_si256(codes.as_ptr().add(GROUP_BYTES).cast()),
            )
        };
        let lower = _mm256_maddubs_epi16(_mm256_and_si256(row, nibble), lower);
        let upper = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(row), nibble), upper);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(lower, upper), ones));
    }
    let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter)))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_plane_rows_avx2(query: &PlaneQuery, plane: Plane<'_>, rows: &[u32], out: &mut [i32]) {
    let len = query.plane_len();
    prefetch_rows(plane, rows.get(..GROUP).unwrap_or(rows), len);
    for (at, (&row, out)) in rows.iter().zip(out).enumerate() {
        prefetch_rows(plane, rows.get(at + GROUP..at + GROUP + 1).unwrap_or_default(), len);
        *out = dot_plane_avx2(query.codes(), plane.row(row, len));
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_plane_run_avx2(query: &PlaneQuery, plane: Plane<'_>, first: u32, out: &mut [i32]) {
    let len = query.plane_len();
    for (out, row) in out.iter_mut().zip(first..) {
        let ahead = row as usize * plane.stride + AHEAD;
        prefetch(plane.bytes.get(ahead..ahead + plane.stride).unwrap_or_default());
        *out = dot_plane_avx2(query.codes(), plane.row(row, len));
    }
}

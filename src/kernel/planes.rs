//! Rows of int8 codes in two planes: the upper four bits of every code apart from the lower four.
//!
//! The upper plane alone tells the distance of a row to within a hundredth or so, and is half the memory: walks and
//! first passes read only that; the few rows that matter are then compared by both planes, which together are the
//! code, bit by bit. (Two-level quantisation as in LVQ, Aguerrebere et al., arXiv 2304.04759, with one scale.)
//!
//! A code c is stored as the byte c + 128: its upper four bits in the high plane, its lower four in the low one.
//! In a plane each group of 64 codes takes 32 bytes: byte j holds code j in its lower half, code j + 32 in its upper
//! half. The last group is filled with zeros.

/// Codes that share a group.
pub const GROUP_CODES: usize = 64;
/// Bytes of a group in one plane.
pub const GROUP_BYTES: usize = GROUP_CODES / 2;

/// Bytes of a row of `dim` codes in one plane.
pub const fn plane_len(dim: usize) -> usize {
    dim.div_ceil(GROUP_CODES) * GROUP_BYTES
}

/// Appends the planes of a row of codes, [`plane_len`] bytes to each.
pub fn split(codes: &[i8], high: &mut Vec<u8>, low: &mut Vec<u8>) {
    for group in codes.chunks(GROUP_CODES) {
        let at = high.len();
        high.resize(at + GROUP_BYTES, 0);
        low.resize(at + GROUP_BYTES, 0);
        for (i, &code) in group.iter().enumerate() {
            let (byte, shift) = (at + i % GROUP_BYTES, i / GROUP_BYTES * 4);
            let code = code as u8 ^ 0x80;
            high[byte] |= code >> 4 << shift;
            low[byte] |= (code & 15) << shift;
        }
    }
}

/// Writes the codes of a row, as many as there is room for; those that its planes lack become 0.
pub fn join(high: &[u8], low: &[u8], codes: &mut [i8]) {
    codes.fill(0);
    let groups = high.chunks_exact(GROUP_BYTES).zip(low.chunks_exact(GROUP_BYTES));
    for (codes, (high, low)) in codes.chunks_mut(GROUP_CODES).zip(groups) {
        let (first, second) = codes.split_at_mut(codes.len().min(GROUP_BYTES));
        for ((code, high), low) in first.iter_mut().zip(high).zip(low) {
            *code = (high << 4 | (low & 15)) as i8 ^ i8::MIN;
        }
        for ((code, high), low) in second.iter_mut().zip(high).zip(low) {
            *code = ((high & 0xf0) | low >> 4) as i8 ^ i8::MIN;
        }
    }
}

/// One plane of many rows, `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// All rows.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next: [`plane_len`] of the dimension.
    pub stride: usize,
}

impl<'a> Plane<'a> {
    /// The first `len` bytes of a row; empty for a row that is not there.
    #[inline]
    pub fn row(&self, row: u32, len: usize) -> &'a [u8] {
        let start = row as usize * self.stride;
        self.bytes.get(start..start + len).unwrap_or(&[])
    }
}

/// The codes of a query, filled with zeros to whole groups, and their sum, by which products with the unsigned bytes of
/// planes become products with signed codes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlaneQuery {
    codes: Vec<i8>,
    sum: i32,
}

impl PlaneQuery {
    /// Fills up a copy of the codes.
    pub fn new(codes: &[i8]) -> Self {
        let mut filled = Vec::with_capacity(codes.len().next_multiple_of(GROUP_CODES));
        filled.extend_from_slice(codes);
        filled.resize(codes.len().next_multiple_of(GROUP_CODES), 0);
        Self { codes: filled, sum: super::code_sum(codes) }
    }

    /// The codes, with the zeros after them.
    #[inline]
    pub(super) fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// Bytes of a row that the codes meet in one plane.
    #[inline]
    pub fn plane_len(&self) -> usize {
        self.codes.len() / 2
    }

    /// The product with a row's codes, from those with its planes.
    #[inline]
    pub fn exact(&self, high: i32, low: i32) -> i32 {
        high.wrapping_mul(16).wrapping_add(low).wrapping_sub(self.sum.wrapping_mul(128))
    }

    /// The product with a row's codes as its high plane tells it: the lower four bits count as their mean, 7.5.
    #[inline]
    pub fn rough(&self, high: i32) -> f32 {
        16.0 * high as f32 - 120.5 * self.sum as f32
    }
}

/// The reference: product of a query with one plane of a row; nothing past the end of either.
pub(super) fn dot_plane(query: &[i8], row: &[u8]) -> i32 {
    let groups = query.chunks_exact(GROUP_CODES).zip(row.chunks_exact(GROUP_BYTES));
    groups.fold(0, |sum, (codes, bytes)| {
        let (first, second) = codes.split_at(GROUP_BYTES);
        let pairs = first.iter().zip(second).zip(bytes);
        sum + pairs
            .map(|((&a, &b), &x)| i32::from(a) * i32::from(x & 15) + i32::from(b) * i32::from(x >> 4))
            .sum::<i32>()
    })
}

/// The reference for many rows.
pub(super) fn dot_plane_rows(query: &PlaneQuery, plane: Plane<'_>, rows: &[u32], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        *out = dot_plane(&query.codes, plane.row(row, query.plane_len()));
    }
}

/// The reference for rows that follow each other.
pub(super) fn dot_plane_run(query: &PlaneQuery, plane: Plane<'_>, first: u32, out: &mut [i32]) {
    for (out, row) in out.iter_mut().zip(first..) {
        *out = dot_plane(&query.codes, plane.row(row, query.plane_len()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{available, scalar};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn planes_are_the_codes(codes in prop::collection::vec(any::<i8>(), 0..300)) {
            let (mut high, mut low) = (vec![], vec![]);
            split(&codes, &mut high, &mut low);
            prop_assert_eq!(high.len(), plane_len(codes.len()));
            let mut joined = vec![7; codes.len()];
            join(&high, &low, &mut joined);
            prop_assert_eq!(joined, codes);
        }

        #[test]
        fn products_of_planes_make_the_product_of_codes(
            pairs in prop::collection::vec((any::<i8>(), any::<i8>()), 0..700),
            rank in 0usize..700,
        ) {
            let (row, query): (Vec<i8>, Vec<i8>) = pairs.into_iter().unzip();
            let (mut high, mut low) = (vec![], vec![]);
            split(&row, &mut high, &mut low);
            let codes = &query[..rank.min(query.len())];
            let query = PlaneQuery::new(codes);
            let expected = scalar::dot_i8(codes, &row);
            for path in available() {
                let [h, l] = [&high, &low].map(|plane| (path.dot_plane)(query.codes(), plane));
                prop_assert_eq!(query.exact(h, l), expected, "{}", path.isa);
                // Each code is off by at most 7.5.
                let most: i32 = codes.iter().map(|c| i32::from(*c).abs()).sum();
                prop_assert!((query.rough(h) - expected as f32).abs() <= 7.5 * most as f32 + 1.0);
            }
        }

        #[test]
        fn products_with_rows_are_those_of_the_rows(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            groups in 1usize..6,
            query in prop::collection::vec(any::<i8>(), 0..384),
            rows in prop::collection::vec(0u32..40, 0..20),
        ) {
            let plane = Plane { bytes: &bytes, stride: groups * GROUP_BYTES };
            let query = PlaneQuery::new(query.get(..groups * GROUP_CODES).unwrap_or(&query));
            for path in available() {
                let mut out = vec![i32::MAX; rows.len()];
                (path.dot_plane_rows)(&query, plane, &rows, &mut out);
                for (&row, &product) in rows.iter().zip(&out) {
                    let expected = dot_plane(query.codes(), plane.row(row, query.plane_len()));
                    prop_assert_eq!(product, expected, "{}, row {}", path.isa, row);
                }
            }
        }

        #[test]
        fn products_with_rows_that_follow_each_other_are_those_of_the_rows(
            bytes in prop::collection::vec(any::<u8>(), 0..6000),
            groups in 1usize..6,
            query in prop::collection::vec(any::<i8>(), 0..384),
            first in 0u32..200,
            count in 0usize..40,
        ) {
            let plane = Plane { bytes: &bytes, stride: groups * GROUP_BYTES };
            let query = PlaneQuery::new(query.get(..groups * GROUP_CODES).unwrap_or(&query));
            for path in available() {
                let mut out = vec![i32::MAX; count];
                (path.dot_plane_run)(&query, plane, first, &mut out);
                for (product, row) in out.into_iter().zip(first..) {
                    let expected = dot_plane(query.codes(), plane.row(row, query.plane_len()));
                    prop_assert_eq!(product, expected, "{}, row {}", path.isa, row);
                }
            }
        }
    }

    #[test]
    fn extreme_codes_of_every_length() {
        for len in (0..500).chain([65_535, 65_536]) {
            let row: Vec<i8> = (0..len).map(|i| if i % 3 == 0 { -128 } else { 127 }).collect();
            let codes: Vec<i8> = (0..len).map(|i| if i % 5 == 0 { 127 } else { -128 }).collect();
            let (mut high, mut low) = (vec![], vec![]);
            split(&row, &mut high, &mut low);
            let query = PlaneQuery::new(&codes);
            for path in available() {
                let [h, l] = [&high, &low].map(|plane| (path.dot_plane)(query.codes(), plane));
                assert_eq!(query.exact(h, l), scalar::dot_i8(&codes, &row), "{}, {len}", path.isa);
            }
        }
    }
}

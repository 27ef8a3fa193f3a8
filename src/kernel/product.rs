//! Products of f32 matrices in memory, on one thread.
//!
//! They are those of the `gemm` crate, which packs blocks of both sides and has code for AVX-512: near what the
//! processor can do, in any order of storage. What may go wrong with them is checked here.
//!
//! The result is a function of the matrices alone, to the bit; that of a row may depend on how many rows there are.
#![allow(unsafe_code)]

use gemm::{Parallelism, gemm};

/// A matrix: value (r, c) stands at r · `down` + c · `across`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    down: usize,
    across: usize,
}

impl<'a> Matrix<'a> {
    /// Rows, one after the other.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::apart(values, rows, columns, columns)
    }

    /// Rows whose beginnings are `down` values apart.
    ///
    /// # Panics
    /// If `values` do not hold them.
    pub(crate) fn apart(values: &'a [f32], rows: usize, columns: usize, down: usize) -> Self {
        assert!(holds(values.len(), rows, columns, down), "values of a matrix are missing");
        Self { values, rows, columns, down, across: 1 }
    }

    /// Rows as columns.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, down: self.across, across: self.down, ..self }
    }
}

/// What becomes of the values that stand where a product goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// They are replaced.
    Lost,
    /// The product is added to them.
    Kept,
}

/// Writes `a` · `b` times `factor` to rows of `out`, `down` values apart.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn product(
    out: &mut [f32],
    down: usize,
    before: Before,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
) {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert!(inner == b.rows, "matrices of a product do not fit");
    assert!(down >= columns && holds(out.len(), rows, columns, down), "no room for a product");
    if rows == 0 || columns == 0 {
        return;
    }
    if inner == 0 {
        if before == Before::Lost {
            out.chunks_mut(down).take(rows).for_each(|row| row[..columns].fill(0.0));
        }
        return;
    }
    // SAFETY: `Matrix` holds all values that its shape and distances reach, and `out`, which is borrowed for this call
    // alone, has `rows` rows of `columns` values, `down` apart, which do not overlap: both were asserted. Distances are
    // within slices, so that they fit `isize`.
    unsafe {
        gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            down as isize,
            before == Before::Kept,
            a.values.as_ptr(),
            a.across as isize,
            a.down as isize,
            b.values.as_ptr(),
            b.across as isize,
            b.down as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Whether `len` values hold rows of `columns`, `down` apart.
fn holds(len: usize, rows: usize, columns: usize, down: usize) -> bool {
    match rows.checked_sub(1) {
        None => true,
        Some(last) => {
            last.checked_mul(down).and_then(|start| start.checked_add(columns)).is_some_and(|end| end <= len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_are_their_definition_in_any_order_of_storage() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 7), (17, 33, 4), (40, 1, 65), (5, 0, 3)] {
            let (a, b) = (values(rows * (inner + 2), 1), values(inner * columns, 2));
            let (turned_a, turned_b) = (values(inner * rows, 3), values(columns * inner, 4));
            for (a, b) in [
                (Matrix::apart(&a, rows, inner, inner + 2), Matrix::new(&b, inner, columns)),
                (Matrix::new(&turned_a, inner, rows).t(), Matrix::new(&turned_b, columns, inner).t()),
            ] {
                let at = |m: Matrix<'_>, r: usize, c: usize| m.values[r * m.down + c * m.across];
                for before in [Before::Lost, Before::Kept] {
                    let start = values(rows * (columns + 3), 5);
                    let mut out = start.clone();
                    product(&mut out, columns + 3, before, a, b, 0.5);
                    for (at_out, (&out, &start)) in out.iter().zip(&start).enumerate() {
                        let (r, c) = (at_out / (columns + 3), at_out % (columns + 3));
                        let sum: f32 = match c < columns {
                            true => (0..inner).map(|i| at(a, r, i) * at(b, i, c)).sum(),
                            false => 0.0,
                        };
                        let kept = c >= columns || before == Before::Kept;
                        let expected = 0.5 * sum + if kept { start } else { 0.0 };
                        assert!((out - expected).abs() < 1e-4, "{rows} {inner} {columns} {r} {c}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_matrix_without_its_values_is_refused() {
        Matrix::apart(&[0.0; 10], 3, 4, 4);
    }

    #[test]
    #[should_panic(expected = "no room")]
    fn a_product_without_room_is_refused() {
        let values = [0.0; 4];
        product(&mut [0.0; 3], 2, Before::Lost, Matrix::new(&values, 2, 2), Matrix::new(&values, 2, 2), 1.0);
    }
}

//! Principal axes: the directions along which vectors differ most.
//!
//! Eigenvectors of the matrix of mean products, not centred, so that inner products are kept, by cyclic rotations
//! (Jacobi 1846): slower than other methods by a factor, exact, and short.

/// Rounds of rotations; a dozen bring a matrix of any size here to the limits of its numbers.
const ROUNDS: usize = 12;

/// Below this share of the diagonal, what is beside it counts as nothing.
const NOTHING: f64 = 1e-12;

/// The `count` axes of the largest mean square of `vectors` (rows of `dim`), one after the other, orthonormal.
pub(super) fn principal_axes(vectors: &[f32], dim: usize, count: usize) -> Vec<f32> {
    let (values, axes) = eigenvectors(mean_products(vectors, dim), dim);
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let axis = |number: usize| axes[number * dim..(number + 1) * dim].iter().map(|&v| v as f32);
    order.into_iter().take(count).flat_map(axis).collect()
}

/// Coordinates of `vectors` along `axes`, both rows of `dim`.
pub(super) fn project(vectors: &[f32], dim: usize, axes: &[f32]) -> Vec<f32> {
    let count = axes.len() / dim;
    let mut result = vec![0.0; vectors.len() / dim * count];
    for (rows, out) in vectors.chunks(dim * ROWS).zip(result.chunks_mut(count * ROWS)) {
        crate::kernel::matmul_rows(rows, rows.len() / dim, axes, dim, count, out);
    }
    result
}

/// Vectors multiplied at a time.
const ROWS: usize = 256;

/// The matrix of mean products of two coordinates, dim × dim.
fn mean_products(vectors: &[f32], dim: usize) -> Vec<f64> {
    let mut sums = vec![0f64; dim * dim];
    for block in vectors.chunks(dim * ROWS) {
        let count = block.len() / dim;
        let columns: Vec<f32> =
            (0..dim).flat_map(|column| block.iter().skip(column).step_by(dim).copied()).collect();
        let mut products = vec![0f32; dim * dim];
        crate::kernel::matmul_rows(&columns, dim, &columns, count, dim, &mut products);
        sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += f64::from(product));
    }
    let count = (vectors.len() / dim).max(1) as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors, one a row.
fn eigenvectors(mut matrix: Vec<f64>, dim: usize) -> (Vec<f64>, Vec<f64>) {
    let mut axes = vec![0f64; dim * dim];
    axes.iter_mut().step_by(dim + 1).for_each(|v| *v = 1.0);
    let size: f64 = matrix.iter().step_by(dim + 1).map(|v| v.abs()).sum();
    for _ in 0..ROUNDS {
        for p in 0..dim {
            for q in p + 1..dim {
                let beside = matrix[p * dim + q];
                if beside.abs() > NOTHING * size / dim as f64 {
                    let half = (matrix[q * dim + q] - matrix[p * dim + p]) / (2.0 * beside);
                    let tangent = half.signum() / (half.abs() + (half * half + 1.0).sqrt());
                    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                    let rotation = (cosine, tangent * cosine);
                    rotate_rows(&mut matrix, dim, p, q, rotation);
                    rotate_columns(&mut matrix, dim, p, q, rotation);
                    rotate_rows(&mut axes, dim, p, q, rotation);
                }
            }
        }
    }
    (matrix.iter().step_by(dim + 1).copied().collect(), axes)
}

fn rotate_rows(matrix: &mut [f64], dim: usize, p: usize, q: usize, (cosine, sine): (f64, f64)) {
    let (upper, lower) = matrix.split_at_mut(q * dim);
    for (a, b) in upper[p * dim..(p + 1) * dim].iter_mut().zip(&mut lower[..dim]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

fn rotate_columns(matrix: &mut [f64], dim: usize, p: usize, q: usize, (cosine, sine): (f64, f64)) {
    for row in matrix.chunks_exact_mut(dim) {
        (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of which each coordinate but the last is stretched, turned by an orthonormal matrix (a reflection).
    fn vectors(dim: usize, count: usize) -> Vec<f32> {
        let mut rng = crate::trainer::rng::Rng::new(5);
        let mut random = || rng.below(20_001) as f32 / 10_000.0 - 1.0;
        let mirror: Vec<f32> = (0..dim).map(|i| 1.0 + i as f32).collect();
        let length: f32 = mirror.iter().map(|v| v * v).sum();
        let mut all = Vec::new();
        for _ in 0..count {
            let row: Vec<f32> = (0..dim).map(|i| random() * (dim - i) as f32).collect();
            let along: f32 = 2.0 * row.iter().zip(&mirror).map(|(a, b)| a * b).sum::<f32>() / length;
            all.extend(row.iter().zip(&mirror).map(|(value, m)| value - along * m));
        }
        all
    }

    #[test]
    fn axes_are_orthonormal_and_in_order_of_what_they_hold() {
        let dim = 12;
        let vectors = vectors(dim, 600);
        let axes = principal_axes(&vectors, dim, dim);
        for (i, a) in axes.chunks(dim).enumerate() {
            for (j, b) in axes.chunks(dim).enumerate() {
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-5, "{i} {j}: {dot}");
            }
        }
        let along = project(&vectors, dim, &axes);
        let held: Vec<f32> =
            (0..dim).map(|at| along.iter().skip(at).step_by(dim).map(|v| v * v).sum::<f32>()).collect();
        assert!(held.is_sorted_by(|a, b| a >= b), "{held:?}");
        let products = mean_products(&along, dim);
        let beside = products.iter().enumerate().filter(|(at, _)| at % (dim + 1) != 0).map(|(_, v)| v.abs());
        assert!(beside.fold(0.0, f64::max) < 1e-3 * products[0]);
        assert_eq!(project(&vectors, dim, &axes[..3 * dim]).len(), 600 * 3);
    }
}

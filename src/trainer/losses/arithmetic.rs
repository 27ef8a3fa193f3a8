//! What the losses share: rows of length 1 and the way back from them, similarities row by row, products of matrices.

use crate::kernel::product::{Before, Matrix, product as multiply};
use crate::kernel::threads::for_parts;

/// A row shorter than this has no direction.
const LEAST_NORM: f64 = 1e-8;

/// How alike two rows are; larger is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// The cosine of the angle between them.
    #[default]
    Cosine,
    /// Their dot product.
    Dot,
}

/// How far two rows are apart; smaller is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distance {
    /// The length of their difference.
    #[default]
    Euclidean,
    /// One minus the cosine of the angle between them.
    Cosine,
}

/// Sums, and the like, that go on side by side, so that one addition need not wait for the one before.
const LANES: usize = 8;

/// The largest value, of nothing negative infinity.
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    for values in values.chunks(LANES) {
        for (most, &value) in most.iter_mut().zip(values) {
            *most = if value > *most { value } else { *most };
        }
    }
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum, in f64 in an order that does not depend on the machine.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    for values in values.chunks(LANES) {
        sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.iter().sum()
}

/// The dot product, summed as [`sum`] does.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum()
}

fn inverse_norm(row: &[f32]) -> f64 {
    let norm = dot(row, row).sqrt();
    if norm < LEAST_NORM { 0.0 } else { 1.0 / norm }
}

/// Prefixes of rows, brought to length 1, with what the way back needs.
#[derive(Debug)]
pub(super) struct Units {
    /// rows × `dim`.
    pub values: Vec<f32>,
    /// Length of the prefixes.
    pub dim: usize,
    inverse_norms: Vec<f32>,
}

impl Units {
    /// The prefixes of length `dim` of rows of `full` values, from one side after the other.
    pub fn new<'a>(sides: impl IntoIterator<Item = &'a &'a [f32]>, full: usize, dim: usize) -> Self {
        let mut units = Self { values: Vec::new(), dim, inverse_norms: Vec::new() };
        for side in sides {
            units.values.reserve(side.len() / full.max(1) * dim);
            for row in side.chunks_exact(full.max(1)) {
                let prefix = row.get(..dim).unwrap_or(row);
                let inverse = inverse_norm(prefix) as f32;
                units.values.extend(prefix.iter().map(|v| v * inverse));
                units.inverse_norms.push(inverse);
            }
        }
        units
    }

    /// Rows that have length 1 already, or none: the way back leaves derivatives as they are.
    pub fn given(sides: &[&[f32]], dim: usize) -> Self {
        Self { values: sides.concat(), dim, inverse_norms: Vec::new() }
    }

    /// Adds to `slope` (rows of `full` values each) `share` of the derivative by the rows, given that by their unit
    /// prefixes: for u = x/‖x‖ and g = ∂L/∂u it is (g − u⟨u, g⟩)/‖x‖.
    pub fn backward(&self, by_unit: &[f32], share: f32, full: usize, slope: &mut [f32]) {
        if self.inverse_norms.is_empty() {
            return slope.iter_mut().zip(by_unit).for_each(|(out, g)| *out += share * g);
        }
        let rows = by_unit.chunks_exact(self.dim.max(1)).zip(self.values.chunks_exact(self.dim.max(1)));
        for (((g, u), inverse), out) in rows.zip(&self.inverse_norms).zip(slope.chunks_exact_mut(full.max(1)))
        {
            let along = dot(g, u) as f32;
            let factor = share * inverse;
            for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
                *out += (g - u * along) * factor;
            }
        }
    }
}

/// Rows of a product that one thread makes at once.
const ROWS_AT_ONCE: usize = 256;

/// `a` bᵀ, row-major; both have rows of `inner` values.
pub(in crate::trainer) fn product_transposed(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let other = matrix(b, inner).t();
    by_rows(a.len() / inner.max(1), b.len() / inner.max(1), |from, rows| {
        let part = a.get(from * inner..(from + rows) * inner).unwrap_or_default();
        (Matrix::new(part, rows, inner), other)
    })
}

/// `a` b, where `b` has rows of `columns` values and `a` as many columns as `b` has rows.
pub(super) fn product(a: &[f32], b: &[f32], columns: usize) -> Vec<f32> {
    let inner = b.len() / columns.max(1);
    let other = matrix(b, columns);
    by_rows(a.len() / inner.max(1), columns, |from, rows| {
        let part = a.get(from * inner..(from + rows) * inner).unwrap_or_default();
        (Matrix::new(part, rows, inner), other)
    })
}

/// aᵀ `b`, where `b` has rows of `columns` values and `a` as many rows as `b`.
pub(in crate::trainer) fn transposed_product(a: &[f32], b: &[f32], columns: usize) -> Vec<f32> {
    let inner = b.len() / columns.max(1);
    let width = a.len() / inner.max(1);
    let other = matrix(b, columns);
    by_rows(width, columns, |from, rows| {
        // Of `a` the columns from here on: rows of the same distance that begin later.
        let part = a.get(from..).unwrap_or_default();
        (Matrix::apart(part, inner, rows, width).t(), other)
    })
}

fn matrix(values: &[f32], columns: usize) -> Matrix<'_> {
    Matrix::new(values, values.len() / columns.max(1), columns)
}

/// A product of so many rows and columns, of which `factors` gives those of some rows: from the first, so many.
fn by_rows<'a>(
    rows: usize,
    columns: usize,
    factors: impl Fn(usize, usize) -> (Matrix<'a>, Matrix<'a>) + Sync,
) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    if out.is_empty() {
        return out;
    }
    let parts = out.chunks_mut(ROWS_AT_ONCE * columns).enumerate();
    for_parts(
        0,
        parts,
        || (),
        |(), (number, part)| {
            let (a, b) = factors(number * ROWS_AT_ONCE, part.len() / columns);
            multiply(part, columns, Before::Lost, a, b, 1.0);
        },
    );
    out
}

/// Some rows of `dim` values, by number, one after the other; of numbers that there are not, nothing.
pub(in crate::trainer) fn gathered(rows: &[f32], numbers: &[usize], dim: usize) -> Vec<f32> {
    let mut gathered = Vec::with_capacity(numbers.len() * dim);
    numbers.iter().for_each(|&number| gathered.extend_from_slice(row(rows, number, dim)));
    gathered
}

/// Adds one vector to another of the same length.
pub(in crate::trainer) fn add(to: &mut [f32], values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}

/// Adds `factor` × `values`.
fn add_times(to: &mut [f32], factor: f64, values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, &value)| *to += (factor * f64::from(value)) as f32);
}

/// The row `at` of rows of `dim` values.
pub(super) fn row(rows: &[f32], at: usize, dim: usize) -> &[f32] {
    rows.get(at * dim..(at + 1) * dim).unwrap_or_default()
}

fn row_mut(rows: &mut [f32], at: usize, dim: usize) -> &mut [f32] {
    rows.get_mut(at * dim..(at + 1) * dim).unwrap_or_default()
}

/// Two rows of a batch: side and row of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Between {
    pub a: (usize, usize),
    pub b: (usize, usize),
}

impl Similarity {
    /// How alike two rows are.
    pub(super) fn of(self, a: &[f32], b: &[f32]) -> f64 {
        match self {
            Self::Dot => dot(a, b),
            Self::Cosine => dot(a, b) * inverse_norm(a) * inverse_norm(b),
        }
    }

    /// Adds the derivatives by two rows of the batch, given `by`, that by their similarity.
    pub(super) fn backward(self, sides: &[&[f32]], dim: usize, at: Between, by: f64, slope: &mut [Vec<f32>]) {
        let of = |(side, number): (usize, usize)| row(sides.get(side).copied().unwrap_or(&[]), number, dim);
        let (a, b) = (of(at.a), of(at.b));
        let (own_a, own_b, cross) = match self {
            Self::Dot => (0.0, 0.0, by),
            Self::Cosine => {
                // By a the cosine has the derivative (b/‖b‖ − cos · a/‖a‖) / ‖a‖.
                let (inverse_a, inverse_b) = (inverse_norm(a), inverse_norm(b));
                let cosine = dot(a, b) * inverse_a * inverse_b;
                let own = |inverse: f64| -by * cosine * inverse * inverse;
                (own(inverse_a), own(inverse_b), by * inverse_a * inverse_b)
            }
        };
        combine(slope, at.a, dim, [(own_a, a), (cross, b)]);
        combine(slope, at.b, dim, [(own_b, b), (cross, a)]);
    }
}

impl Distance {
    /// How far two rows are apart.
    pub(super) fn of(self, a: &[f32], b: &[f32]) -> f64 {
        match self {
            Self::Cosine => 1.0 - Similarity::Cosine.of(a, b),
            Self::Euclidean => {
                a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
            }
        }
    }

    /// Adds the derivatives by two rows of the batch, given `by`, that by their distance. Rows that lie upon each
    /// other have no direction apart: nothing is added for them.
    pub(super) fn backward(self, sides: &[&[f32]], dim: usize, at: Between, by: f64, slope: &mut [Vec<f32>]) {
        if self == Self::Cosine {
            return Similarity::Cosine.backward(sides, dim, at, -by, slope);
        }
        let of = |(side, number): (usize, usize)| row(sides.get(side).copied().unwrap_or(&[]), number, dim);
        let (a, b) = (of(at.a), of(at.b));
        let distance = self.of(a, b);
        if distance < LEAST_NORM {
            return;
        }
        let factor = by / distance;
        combine(slope, at.a, dim, [(factor, a), (-factor, b)]);
        combine(slope, at.b, dim, [(factor, b), (-factor, a)]);
    }
}

/// Adds multiples of rows to a row of the slope.
fn combine(slope: &mut [Vec<f32>], at: (usize, usize), dim: usize, parts: [(f64, &[f32]); 2]) {
    let Some(side) = slope.get_mut(at.0) else { return };
    let [(x, a), (y, b)] = parts;
    let to = row_mut(side, at.1, dim);
    if x == 0.0 {
        return add_times(to, y, b);
    }
    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
        *to += (x * f64::from(a) + y * f64::from(b)) as f32;
    }
}

/// ln(1 + eˣ) and its derivative, without overflow.
pub(super) fn softplus(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    let sigmoid = if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
    (x.max(0.0) + small.ln_1p(), sigmoid)
}

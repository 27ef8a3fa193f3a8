//! What is done to single rows: softmax, GELU, LayerNorm, quantization.
//!
//! Plain loops over lanes, inlined into functions that are compiled for wider instructions. Products and sums are
//! rounded one by one, so that the same bits come out on every path.

use super::{NormParameters, QUAD};

/// The functions of this file, compiled for certain instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        fn gelu(row: &mut [f32]) {
            rows::gelu(row);
        }

        #[target_feature(enable = $features)]
        fn norm(row: &mut [f32], other: &[f32], parameters: super::NormParameters<'_>) {
            rows::norm(row, other, parameters);
        }

        #[target_feature(enable = $features)]
        fn softmax(row: &mut [f32], len: usize) -> f32 {
            rows::softmax(row, len)
        }

        #[target_feature(enable = $features)]
        fn gelu_back(slope: &mut [f32], inputs: &[f32]) {
            slopes::gelu_back(slope, inputs);
        }

        #[target_feature(enable = $features)]
        fn norm_back(
            slope: &mut [f32],
            x: &[f32],
            parameters: super::NormParameters<'_>,
            weight: &mut [f32],
            bias: &mut [f32],
        ) {
            slopes::norm_back(slope, x, parameters, weight, bias);
        }

        #[target_feature(enable = $features)]
        fn softmax_back(slope: &mut [f32], shares: &[f32]) {
            slopes::softmax_back(slope, shares);
        }

        #[target_feature(enable = $features)]
        fn add(row: &mut [f32], other: &[f32]) {
            rows::add(row, other);
        }

        #[target_feature(enable = $features)]
        fn quantize(row: &[f32], codes: &mut [u8]) -> (f32, i32) {
            rows::quantize(row, codes)
        }

        #[target_feature(enable = $features)]
        fn multiply(row: &[f32], factors: &[f32], out: &mut [f32]) {
            rows::multiply(row, factors, out);
        }

        #[target_feature(enable = $features)]
        fn softmax_codes(row: &mut [f32], len: usize, codes: &mut [u8]) -> f32 {
            rows::softmax_codes(row, len, codes)
        }

        #[target_feature(enable = $features)]
        fn quantize_signed(row: &[f32], codes: &mut [i8]) -> f32 {
            rows::quantize_signed(row, codes)
        }

        #[target_feature(enable = $features)]
        fn largest(most: &mut [f32], row: &[f32]) {
            rows::most(most, row);
        }

        #[target_feature(enable = $features)]
        fn interleave(rows: [&[f32]; QUAD], steps: &[f32], codes: &mut [u32]) {
            rows::interleave(rows, steps, codes);
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use compiled_for;

/// Partial sums of a row; as many as the widest registers have.
pub(super) const LANES: usize = 16;

/// 1.5 · 2²³: adding it rounds to an integer, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Exponents below this are raised to it, so that no denormal number comes up: 2⁻⁶⁰ is nothing beside 1.
const EXPONENT_MIN: f32 = -60.0;

/// Steps between the least and the largest code.
const STEPS: f32 = 255.0;

/// The largest signed code.
const SIGNED_STEPS: f32 = 127.0;

/// Ranges below it, whose inverse may overflow, hold nothing but 0 as far as the next layer can tell.
const RANGE_MIN: f32 = 1e-30;

/// 2^x on −½..½ to 7.5e-8 of itself: a minimax polynomial, lowest power first.
const EXP2: [f32; 6] =
    [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_135, 0.009_675_542, 0.001_327_647_7];

/// Beyond this distance from 0 the normal distribution is 0 or 1, to 1e-7.
pub(super) const NORMAL_MAX: f32 = 5.2;

/// (Φ(x) − ½) / x in t = 2x²/[`NORMAL_MAX`]² − 1, a minimax polynomial weighted by x², lowest power first:
/// GELU is right to 1e-6.
pub(super) const NORMAL: [f32; 14] = [
    0.135_949_98,
    -0.067_743_62,
    0.050_025_616,
    -0.039_931_986,
    0.031_973_917,
    -0.024_698_839,
    0.018_038_78,
    -0.012_619_664,
    0.008_365_083,
    -0.004_542_305_6,
    0.002_005_194_3,
    -0.001_468_781_4,
    0.001_188_680_3,
    -0.000_388_232_12,
];

/// 2^x for x ≤ 0; at least 2^[`EXPONENT_MIN`].
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    let x = larger(x, EXPONENT_MIN);
    let rounded = x + ROUND;
    let rest = x - (rounded - ROUND);
    let [a, b, c, d, e, f] = EXP2;
    let power = a + rest * (b + rest * (c + rest * (d + rest * (e + rest * f))));
    let exponent = (rounded.to_bits() << 23).wrapping_add(1f32.to_bits());
    power * f32::from_bits(exponent)
}

/// GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415) x · Φ(x).
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    let x = larger(x, -NORMAL_MAX);
    let near = smaller(x, NORMAL_MAX);
    let t = near * near * (2.0 / (NORMAL_MAX * NORMAL_MAX)) - 1.0;
    let mut sum = 0.0;
    for coefficient in NORMAL.into_iter().rev() {
        sum = sum * t + coefficient;
    }
    x * (0.5 + near * sum)
}

#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Joins the lanes by halves.
#[inline(always)]
pub(super) fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Joins what `of` makes of each value, lane by lane.
#[inline(always)]
pub(super) fn reduce(
    row: &[f32],
    start: f32,
    of: impl Fn(f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, of(value));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, of(value));
    }
    fold(lanes, join)
}

#[inline(always)]
pub(super) fn gelu(row: &mut [f32]) {
    for value in row {
        *value = gelu_of(*value);
    }
}

#[inline(always)]
pub(super) fn norm(row: &mut [f32], other: &[f32], parameters: NormParameters<'_>) {
    let count = row.len() as f32;
    for (value, &other) in row.iter_mut().zip(other) {
        *value += other;
    }
    let mean = reduce(row, 0.0, |value| value, |a, b| a + b) / count;
    let square = |value: f32| (value - mean) * (value - mean);
    let variance = reduce(row, 0.0, square, |a, b| a + b) / count;
    let factor = 1.0 / (variance + parameters.epsilon).sqrt();
    for ((value, &weight), &bias) in row.iter_mut().zip(parameters.weight).zip(parameters.bias) {
        *value = (*value - mean) * factor * weight + bias;
    }
}

#[inline(always)]
pub(super) fn softmax(row: &mut [f32], len: usize) -> f32 {
    if let Some(rest) = row.get_mut(len..) {
        rest.fill(f32::MIN);
    }
    let most = reduce(row, f32::MIN, |value| value, larger);
    for value in row.iter_mut() {
        *value = exp2(*value - most);
    }
    reduce(row.get(..len).unwrap_or(row), 0.0, |value| value, |a, b| a + b)
}

#[inline(always)]
pub(super) fn add(row: &mut [f32], other: &[f32]) {
    for (value, &other) in row.iter_mut().zip(other) {
        *value += other;
    }
}

#[inline(always)]
pub(super) fn multiply(row: &[f32], factors: &[f32], out: &mut [f32]) {
    for ((out, &value), &factor) in out.iter_mut().zip(row).zip(factors) {
        *out = value * factor;
    }
}

#[inline(always)]
pub(super) fn quantize(row: &[f32], codes: &mut [u8]) -> (f32, i32) {
    // 0 is a code of its own: what is 0 stays so.
    let least = reduce(row, 0.0, |value| value, smaller);
    let most = reduce(row, 0.0, |value| value, larger);
    let range = most - least;
    let steps = if range > RANGE_MIN { STEPS / range } else { 0.0 };
    let zero = (-least * steps).round_ties_even();
    for (code, &value) in codes.iter_mut().zip(row) {
        let step = smaller(larger(value * steps + zero, 0.0), STEPS);
        *code = (step + ROUND).to_bits() as u8;
    }
    (range / STEPS, zero as i32)
}

#[inline(always)]
pub(super) fn softmax_codes(row: &mut [f32], len: usize, codes: &mut [u8]) -> f32 {
    if let Some(rest) = row.get_mut(len..) {
        rest.fill(f32::MIN);
    }
    let most = reduce(row, f32::MIN, |value| value, larger);
    for (value, code) in row.iter_mut().zip(codes) {
        let rounded = exp2(*value - most) * STEPS + ROUND;
        *value = rounded - ROUND;
        *code = rounded.to_bits() as u8;
    }
    reduce(row.get(..len).unwrap_or(row), 0.0, |value| value, |a, b| a + b)
}

#[inline(always)]
pub(super) fn quantize_signed(row: &[f32], codes: &mut [i8]) -> f32 {
    let most = reduce(row, 0.0, f32::abs, larger);
    let steps = if most > RANGE_MIN { SIGNED_STEPS / most } else { 0.0 };
    for (code, &value) in codes.iter_mut().zip(row) {
        *code = signed(value * steps) as i8;
    }
    most / SIGNED_STEPS
}

/// Rounds a value between −127 and 127; its code is in the lowest byte.
#[inline(always)]
fn signed(value: f32) -> u32 {
    (value + ROUND).to_bits()
}

#[inline(always)]
pub(super) fn most(most: &mut [f32], row: &[f32]) {
    for (most, &value) in most.iter_mut().zip(row) {
        *most = larger(value.abs(), *most);
    }
}

#[inline(always)]
pub(super) fn interleave(rows: [&[f32]; QUAD], steps: &[f32], codes: &mut [u32]) {
    let [a, b, c, d] = rows;
    for (((code, &steps), (&a, &b)), (&c, &d)) in
        codes.iter_mut().zip(steps).zip(a.iter().zip(b)).zip(c.iter().zip(d))
    {
        let byte = |value: f32| signed(value * steps) & 0xff;
        // The first row's byte comes first in memory.
        *code = (byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24).to_le();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two() {
        for i in 0..=60_000 {
            let x = -f64::from(i) / 1000.0;
            let error = f64::from(exp2(x as f32)) / f64::from(x as f32).exp2() - 1.0;
            assert!(error.abs() < 3e-7, "2^{x}: {error}");
        }
        assert_eq!(exp2(f32::MIN), exp2(EXPONENT_MIN));
        assert!((f64::from(exp2(-1e30)) / (-60f64).exp2() - 1.0).abs() < 3e-7);
    }

    /// The error function by its series, or its continued fraction far from 0 (Abramowitz and Stegun 7.1.6, 7.1.14).
    fn erf(x: f64) -> f64 {
        let x2 = x * x;
        if x2 < 9.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..100 {
                term *= 2.0 * x2 / f64::from(2 * n + 1);
                sum += term;
            }
            return sum * (-x2).exp() * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut fraction = x.abs();
        for n in (1..100).rev() {
            fraction = x.abs() + f64::from(n) / 2.0 / fraction;
        }
        x.signum() * (1.0 - (-x2).exp() / fraction / std::f64::consts::PI.sqrt())
    }

    #[test]
    fn gelu_is_that_of_the_error_function() {
        assert!((erf(1.0) - 0.842_700_792_949_714_9).abs() < 1e-15, "DLMF table 7.23");
        for i in -120_000..=120_000 {
            let x = f64::from(i) / 10_000.0;
            let expected = x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2));
            let error = f64::from(gelu_of(x as f32)) - expected;
            assert!(error.abs() <= 1e-6 * x.abs().max(1.0), "{x}: {error}");
        }
        assert!(gelu_of(-1e9).abs() < 1e-6);
        assert!((gelu_of(1e9) / 1e9 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn codes_stand_for_their_values() {
        let row: Vec<f32> = (0..100).map(|i| (i * 37 % 101) as f32 / 25.0 - 1.0).collect();
        let mut codes = [0; 100];
        let (scale, zero) = quantize(&row, &mut codes);
        assert_eq!((codes.iter().min(), codes.iter().max()), (Some(&0), Some(&255)));
        for (&code, &value) in codes.iter().zip(&row) {
            assert!(((i32::from(code) - zero) as f32 * scale - value).abs() <= 0.51 * scale);
        }
        for constant in [0.0, 1e-40, 5.0, -3.0, f32::MAX] {
            let (scale, zero) = quantize(&[constant; 20], &mut codes);
            let back = (i32::from(codes[7]) - zero) as f32 * scale;
            assert!((back - constant).abs() <= 1e-6 * constant.abs() + 1e-30, "{constant}: {back}");
        }
    }

    #[test]
    fn a_row_of_zeros_stays_finite_in_norm_and_softmax() {
        let (one, zero) = ([1.0; 36], [0.0; 36]);
        let mut row = [0.0; 36];
        norm(&mut row, &zero, NormParameters { weight: &one, bias: &zero, epsilon: 1e-12 });
        assert_eq!(row, zero);
        let mut row = [0.0; 64];
        assert!((softmax(&mut row, 33) - 33.0).abs() < 1e-4);
    }
}

//! The exponential function, for sums of probabilities.

/// Below it, the exponential is zero.
const LEAST: f32 = -50.0;

/// eˣ for x ≤ 0 with a relative error below 3e-7; exactly 0 below −50. Beside the terms it is added to
/// such a value is nothing, and products of it would be denormal numbers.
///
/// Written so that the compiler turns a loop over it into vector code: rounding adds and subtracts
/// 1.5·2²³, whose low bits then hold the exponent. Polynomial: Taylor's, to degree 7, on |r| ≤ ln 2 / 2.
#[inline(always)]
pub(crate) fn exp_negative(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that x − n·ln 2 keeps its low bits.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < LEAST { LEAST } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < LEAST { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units() {
        for i in 0..100_000 {
            let x = -(i as f32) * 50.0 / 100_000.0;
            let (ours, exact) = (f64::from(exp_negative(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 3e-7, "{x}: {ours} and {exact}");
        }
        assert_eq!(exp_negative(-50.1), 0.0);
        assert_eq!(exp_negative(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_negative(0.0), 1.0);
    }
}

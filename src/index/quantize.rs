//! Vectors as int8 codes, and their norms at every rung of the Matryoshka ladder.
//!
//! A row x is stored as `codes = round(x / scale)` with one scale for the row, `scale = max|x| / 127`; −128
//! is never written. A prefix of the codes is a valid vector of the lower dimension, but only with its own
//! norm, hence one inverse norm for each rung.
//!
//! A query can be spent two codes: `q ≈ s·q₁ + (s/254)·q₂`. The second holds what rounding lost in the
//! first, so that the product with a row's codes is as good as one with the query in f32 (asymmetric
//! quantisation), at the price of two integer products over one loaded row.

use crate::kernel;

/// Parts of one quantisation step that the second code of a query resolves.
pub(crate) const SECOND_PART: f32 = 254.0;

/// Writes the codes of `row` and returns its scale: 0, with codes 0, for a row of zeros.
///
/// Values that are not finite do not occur in stored rows; here they saturate (NaN becomes 0).
pub fn quantize(row: &[f32], codes: &mut [i8]) -> f32 {
    let peak = row.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    let scale = peak / 127.0;
    if scale == 0.0 {
        codes.fill(0);
        return 0.0;
    }
    for (code, x) in codes.iter_mut().zip(row) {
        *code = round_code(x / scale);
    }
    scale
}

/// Codes of a query in two parts, with the scale of the first; the scale of the second is smaller by 254.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoPart {
    /// Codes of the values.
    pub first: Vec<i8>,
    /// Codes of what rounding lost.
    pub second: Vec<i8>,
    /// Value of one step of `first`.
    pub scale: f32,
}

impl TwoPart {
    /// Quantises a query.
    pub fn new(query: &[f32]) -> Self {
        let mut first = vec![0; query.len()];
        let scale = quantize(query, &mut first);
        let lost = |(&x, &code): (&f32, &i8)| {
            if scale == 0.0 { 0 } else { round_code((x / scale - f32::from(code)) * SECOND_PART) }
        };
        let second = query.iter().zip(&first).map(lost).collect();
        Self { first, second, scale }
    }
}

/// Inverse norms `1 / ‖codes[..d]‖` for each `d` of `ladder`; 0 where the norm is 0.
pub fn rung_norms(codes: &[i8], ladder: &[usize], out: &mut [f32]) {
    for (norm, &rung) in out.iter_mut().zip(ladder) {
        *norm = inverse_norm(codes.get(..rung).unwrap_or(codes));
    }
}

/// `1 / ‖codes‖`, or 0 for codes that are all 0. The sum of squares is an exact integer, so any reader can
/// recompute a stored norm bit by bit.
pub fn inverse_norm(codes: &[i8]) -> f32 {
    inverse_root(kernel::dot_i8(codes, codes))
}

/// `1 / √squares`, or 0 for 0.
pub(super) fn inverse_root(squares: i32) -> f32 {
    if squares == 0 { 0.0 } else { (1.0 / f64::from(squares).sqrt()) as f32 }
}

/// Scales a vector to length 1; leaves a zero vector as it is.
pub fn normalize(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if squares > 0.0 {
        let norm = squares.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

fn round_code(steps: f32) -> i8 {
    steps.round().clamp(-127.0, 127.0) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_lie_within_half_a_step(row in prop::collection::vec(-1e6f32..1e6, 1..200)) {
            let mut codes = vec![0; row.len()];
            let scale = quantize(&row, &mut codes);
            for (x, &code) in row.iter().zip(&codes) {
                prop_assert!(code != i8::MIN);
                prop_assert!((x - scale * f32::from(code)).abs() <= 0.5001 * scale);
            }
        }

        #[test]
        fn two_parts_are_254_times_finer(row in prop::collection::vec(-3f32..3.0, 1..200)) {
            let parts = TwoPart::new(&row);
            for (i, x) in row.iter().enumerate() {
                let coarse = parts.scale * f32::from(parts.first[i]);
                let fine = coarse + parts.scale / SECOND_PART * f32::from(parts.second[i]);
                prop_assert!((x - fine).abs() <= 0.51 * parts.scale / SECOND_PART + 1e-6);
            }
        }
    }

    #[test]
    fn the_peak_becomes_127_and_zero_stays_zero() {
        let mut codes = [1; 3];
        assert_eq!(quantize(&[2.54, -2.54, 0.02], &mut codes), 0.02);
        assert_eq!(codes, [127, -127, 1]);
        assert_eq!(quantize(&[0.0; 3], &mut codes), 0.0);
        assert_eq!(codes, [0; 3]);
    }

    #[test]
    fn any_value_gives_codes() {
        let mut codes = [0; 4];
        quantize(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0], &mut codes);
        assert_ne!(codes[1], i8::MIN);
        let mut code = [9];
        assert_eq!(quantize(&[f32::from_bits(1)], &mut code), 0.0);
        assert_eq!(code, [0]);
    }

    #[test]
    fn norms_are_those_of_the_prefixes() {
        let mut norms = [9.0; 3];
        rung_norms(&[0, 3, 4, 12], &[1, 3, 4], &mut norms);
        assert_eq!(norms, [0.0, 0.2, 1.0 / 13.0]);
    }

    #[test]
    fn normalize_keeps_zero_and_large_values() {
        let mut large = [3e30, 4e30];
        normalize(&mut large);
        assert!((large[0] - 0.6).abs() < 1e-6 && (large[1] - 0.8).abs() < 1e-6);
        let mut zero = [0.0; 2];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 2]);
    }
}

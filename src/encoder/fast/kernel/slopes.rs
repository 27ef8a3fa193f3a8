//! The way back through what is done to single rows: derivatives by outputs become those by inputs.
//!
//! Written as [`rows`](super::rows) is, and compiled with it.

use super::NormParameters;
use super::rows::{LANES, NORMAL, NORMAL_MAX, exp2, fold, larger, reduce, smaller};

/// The derivative of GELU: Φ(x) + x · φ(x).
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    /// 1/√(2π).
    const DENSITY: f32 = 0.398_942_3;
    let near = smaller(larger(x, -NORMAL_MAX), NORMAL_MAX);
    let square = near * near;
    let t = square * (2.0 / (NORMAL_MAX * NORMAL_MAX)) - 1.0;
    let mut sum = 0.0;
    for coefficient in NORMAL.into_iter().rev() {
        sum = sum * t + coefficient;
    }
    let density = DENSITY * exp2(-0.5 * std::f32::consts::LOG2_E * square);
    0.5 + near * (sum + density)
}

#[inline(always)]
pub(super) fn gelu_back(slope: &mut [f32], inputs: &[f32]) {
    for (slope, &input) in slope.iter_mut().zip(inputs) {
        *slope *= gelu_slope(input);
    }
}

/// The sum of what `of` makes of two rows' values, lane by lane.
#[inline(always)]
fn sum_of_pairs(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += of(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += of(a, b);
    }
    fold(lanes, |a, b| a + b)
}

#[inline(always)]
pub(super) fn norm_back(
    slope: &mut [f32],
    x: &[f32],
    parameters: NormParameters<'_>,
    weight: &mut [f32],
    bias: &mut [f32],
) {
    let count = x.len() as f32;
    let mean = reduce(x, 0.0, |value| value, |a, b| a + b) / count;
    let square = |value: f32| (value - mean) * (value - mean);
    let variance = reduce(x, 0.0, square, |a, b| a + b) / count;
    let factor = 1.0 / (variance + parameters.epsilon).sqrt();
    let sums = weight.iter_mut().zip(bias);
    for (((slope, &x), &scale), (weight, bias)) in slope.iter_mut().zip(x).zip(parameters.weight).zip(sums) {
        *weight += *slope * ((x - mean) * factor);
        *bias += *slope;
        *slope *= scale;
    }
    let along_one = reduce(slope, 0.0, |value| value, |a, b| a + b) / count;
    let along_x = sum_of_pairs(slope, x, |slope, x| slope * (x - mean)) * factor * factor / count;
    for (slope, &x) in slope.iter_mut().zip(x) {
        *slope = (*slope - along_one - (x - mean) * along_x) * factor;
    }
}

#[inline(always)]
pub(super) fn softmax_back(slope: &mut [f32], shares: &[f32]) {
    let mean = sum_of_pairs(slope, shares, |slope, share| slope * share);
    for (slope, &share) in slope.iter_mut().zip(shares) {
        *slope = share * (*slope - mean);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{available, kernels};
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 40.0 - 1.25).collect()
    }

    /// Σ slope · f(x), by which derivatives are measured.
    fn measured(x: &[f32], slope: &[f32], f: impl Fn(&mut [f32])) -> Vec<f64> {
        let value = |x: Vec<f32>| {
            let mut y = x;
            f(&mut y);
            y.iter().zip(slope).map(|(y, s)| f64::from(*y) * f64::from(*s)).sum::<f64>()
        };
        let moved = |at: usize, by: f32| {
            let mut x = x.to_vec();
            x[at] += by;
            value(x)
        };
        (0..x.len()).map(|at| (moved(at, 0.01) - moved(at, -0.01)) / 0.02).collect()
    }

    fn assert_near(slope: &[f32], measured: &[f64]) {
        for (at, (slope, measured)) in slope.iter().zip(measured).enumerate() {
            assert!((f64::from(*slope) - measured).abs() < 2e-3, "{at}: {slope} {measured}");
        }
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let (x, slope) = (values(37, 1), values(37, 2));
        let mut back = slope.clone();
        gelu_back(&mut back, &x);
        assert_near(&back, &measured(&x, &slope, |x| (kernels().gelu)(x)));

        let (weight, bias) = (values(37, 3), values(37, 4));
        let parameters = NormParameters { weight: &weight, bias: &bias, epsilon: 1e-5 };
        let (mut back, mut by_weight, mut by_bias) = (slope.clone(), vec![0.0; 37], vec![0.0; 37]);
        norm_back(&mut back, &x, parameters, &mut by_weight, &mut by_bias);
        assert_near(&back, &measured(&x, &slope, |x| (kernels().norm)(x, &[], parameters)));
        assert_eq!(by_bias, slope);
        let of_weight = |weight: &mut [f32]| {
            let mut y = x.clone();
            (kernels().norm)(&mut y, &[], NormParameters { weight, ..parameters });
            weight.copy_from_slice(&y);
        };
        assert_near(&by_weight, &measured(&weight, &slope, of_weight));

        let shares = |x: &mut [f32]| {
            x.iter_mut().for_each(|x| *x *= std::f32::consts::LOG2_E);
            let sum = (kernels().softmax)(x, 37);
            x.iter_mut().for_each(|x| *x /= sum);
        };
        let (mut back, mut of_x) = (slope.clone(), x.clone());
        shares(&mut of_x);
        softmax_back(&mut back, &of_x);
        assert_near(&back, &measured(&x, &slope, shares));
    }

    #[test]
    fn every_path_gives_the_same_bits() {
        let (x, slope, weight) = (values(100, 1), values(100, 2), values(100, 3));
        let parameters = NormParameters { weight: &weight, bias: &weight, epsilon: 1e-12 };
        let run = |path: &super::super::Kernels| {
            let mut results = vec![slope.clone(); 6];
            let [gelu, softmax, add, norm, by_weight, by_bias] = results.as_mut_slice() else {
                unreachable!()
            };
            (path.gelu_back)(gelu, &x);
            (path.softmax_back)(softmax, &x);
            (path.add)(add, &x);
            (path.norm_back)(norm, &x, parameters, by_weight, by_bias);
            results
        };
        let paths = available();
        let expected = run(&paths[paths.len() - 1]);
        assert!(paths.iter().all(|path| run(path) == expected));
    }
}

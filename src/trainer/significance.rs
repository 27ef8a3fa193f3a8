//! Whether two rankings of the same queries differ by more than chance.
//!
//! Both questions are asked of the paired differences, so that easy and hard queries cancel out:
//! - [`interval`]: between which bounds does the mean difference lie? The percentile interval of a paired
//!   bootstrap (Efron and Tibshirani: An Introduction to the Bootstrap, 1993).
//! - [`p_value`]: how often would chance alone make a mean difference as large? A paired randomisation
//!   test, two-sided (Smucker, Allan and Carterette: A Comparison of Statistical Significance Tests for
//!   Information Retrieval Evaluation, 2007): if nothing sets the rankings apart, the two scores of a query
//!   could be exchanged, so signs are drawn at random.
//!
//! Both are seeded: one seed, one result.

use serde::Serialize;

use super::rng::Rng;

/// How often is resampled if nothing else is asked for.
pub const RESAMPLES: usize = 10_000;

/// A measure of two rankings of the same queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// Mean of the first ranking.
    pub before: f64,
    /// Mean of the second.
    pub after: f64,
    /// `after - before`.
    pub difference: f64,
    /// 95 % bootstrap interval of the difference.
    pub ci95: [f64; 2],
    /// Of the randomisation test, two-sided.
    pub p_value: f64,
    /// Queries that the second ranking serves better.
    pub gained: usize,
    /// Queries that the first one serves better.
    pub lost: usize,
    /// Queries that both serve equally well.
    pub equal: usize,
}

/// Compares the scores of the same queries, in the same order. Of queries that only one side has, nothing is said.
pub fn compare(before: &[f64], after: &[f64], resamples: usize, seed: u64) -> Compared {
    let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    let n = differences.len().max(1) as f64;
    let mean = |values: &[f64]| values.iter().take(differences.len()).sum::<f64>() / n;
    let (before, after) = (mean(before), mean(after));
    let count = |which: fn(f64) -> bool| differences.iter().filter(|d| which(**d)).count();
    let weighed: Vec<(f64, f64)> = differences.iter().map(|&d| (1.0, d)).collect();
    let ci95 = if differences.is_empty() { [0.0; 2] } else { interval(&weighed, resamples, seed) };
    Compared {
        before,
        after,
        difference: after - before,
        ci95,
        p_value: p_value(&differences, resamples, seed),
        gained: count(|d| d > 0.0),
        lost: count(|d| d < 0.0),
        equal: count(|d| d == 0.0),
    }
}

/// The 95 % percentile interval of the weighted mean, from the weight and the weighted difference of each query.
/// NaN if there is nothing to draw from.
pub fn interval(differences: &[(f64, f64)], resamples: usize, seed: u64) -> [f64; 2] {
    let n = differences.len();
    let mut rng = Rng::new(seed);
    let mut resampled = || {
        let drawn = (0..n).filter_map(|_| differences.get(rng.below(n)));
        let (weight, sum) =
            drawn.fold((0.0, 0.0), |(w, s), (weight, difference)| (w + weight, s + difference));
        sum / weight
    };
    percentiles((0..resamples.max(1)).map(|_| resampled()).collect())
}

/// The bounds between which 95 % of the values lie. NaN if there are none.
pub(super) fn percentiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    let at = |share: f64| values.get((last * share).round() as usize).copied().unwrap_or(f64::NAN);
    [at(0.025), at(0.975)]
}

/// The share of `rounds` exchanges of scores that make a mean difference at least as large; the observed one counts
/// as a round, so that it is never 0. 1 if no query differs.
pub fn p_value(differences: &[f64], rounds: usize, seed: u64) -> f64 {
    // What does not differ stays the same under any exchange.
    let differences: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    let observed = differences.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order may differ in the last digits.
    let least = observed - 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let mut rng = Rng::new(seed);
    let mut exchanged = || {
        let mut sum = 0.0;
        for part in differences.chunks(64) {
            let bits = rng.bits();
            sum +=
                part.iter().enumerate().map(|(at, d)| if bits >> at & 1 == 0 { *d } else { -d }).sum::<f64>();
        }
        sum.abs() >= least
    };
    let as_large = (0..rounds).filter(|_| exchanged()).count();
    (as_large + 1) as f64 / (rounds + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_agrees_with_the_normal_approximation() {
        let mut rng = Rng::new(9);
        let differences: Vec<(f64, f64)> = (0..500)
            .map(|_| (1.0, 0.05 + 0.4 * (rng.below(1 << 20) as f64 / f64::from(1 << 20) - 0.5)))
            .collect();
        let [low, high] = interval(&differences, RESAMPLES, 0);
        let mean = differences.iter().map(|d| d.1).sum::<f64>() / 500.0;
        let variance = differences.iter().map(|(_, d)| (d - mean).powi(2)).sum::<f64>() / 499.0;
        let half = 1.96 * (variance / 500.0).sqrt();
        assert!((low - (mean - half)).abs() < 0.1 * half, "{low} {}", mean - half);
        assert!((high - (mean + half)).abs() < 0.1 * half, "{high} {}", mean + half);
        assert_eq!([low, high], interval(&differences, RESAMPLES, 0), "seeded");
    }

    /// Of the 2^8 signs, only all plus and all minus make a sum as large: p = 2/256.
    #[test]
    fn the_randomisation_test_agrees_with_counting_all_exchanges() {
        let differences = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2];
        let p = p_value(&differences, 100_000, 1);
        assert!((p - 2.0 / 256.0).abs() < 0.001, "{p}");
        let mixed = [0.3, -0.2, 0.1, -0.25];
        let exact = (0..16u32)
            .filter(|signs| {
                let sum: f64 =
                    mixed.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 0 { *d } else { -d }).sum();
                sum.abs() >= 0.05 - 1e-12
            })
            .count() as f64
            / 16.0;
        assert!((p_value(&mixed, 100_000, 1) - exact).abs() < 0.01);
        assert_eq!(p_value(&[0.0; 9], 100, 1), 1.0);
        assert_eq!(p_value(&[], 100, 1), 1.0);
    }

    #[test]
    fn without_a_difference_small_p_values_are_as_rare_as_they_say() {
        let mut rng = Rng::new(4);
        let mut below = 0;
        for seed in 0..400 {
            let differences: Vec<f64> =
                (0..40).map(|_| rng.below(1 << 20) as f64 / f64::from(1 << 20) - 0.5).collect();
            below += usize::from(p_value(&differences, 400, seed) < 0.05);
        }
        assert!((8..=34).contains(&below), "{below} of 400");
    }

    #[test]
    fn compared_counts_gains_and_losses() {
        let compared = compare(&[0.5, 0.2, 0.9, 0.4], &[0.6, 0.2, 0.8, 0.9], 1000, 0);
        assert_eq!((compared.gained, compared.lost, compared.equal), (2, 1, 1));
        assert!((compared.difference - 0.125).abs() < 1e-12 && compared.ci95[0] < 0.125);
        let none = compare(&[], &[], 1000, 0);
        assert_eq!((none.difference, none.ci95, none.p_value), (0.0, [0.0; 2], 1.0));
    }
}

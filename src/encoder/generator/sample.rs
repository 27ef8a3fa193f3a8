//! The choice of the next token: the likeliest that together have a share of the probability (Holtzman et al., *The
//! Curious Case of Neural Text Degeneration*, 2020, arXiv:1904.09751).

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// How freely; 0: always the likeliest token.
    pub temperature: f64,
    /// Share of the probability that the tokens to choose from have together.
    pub top_p: f64,
    /// Tokens, at most.
    pub tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.9, tokens: 40 }
    }
}

/// The token that `chance`, from 0 to below 1, falls on. Scores that are no numbers count as impossible.
pub(super) fn choose(scores: &[f32], sampling: &Sampling, chance: f64) -> u32 {
    let score =
        |&at: &u32| scores.get(at as usize).copied().filter(|s| !s.is_nan()).unwrap_or(f32::NEG_INFINITY);
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let Some(&best) = order.iter().max_by(|a, b| score(a).total_cmp(&score(b)).then(b.cmp(a))) else {
        return 0;
    };
    // Below this a temperature only makes infinities.
    if sampling.temperature < 1e-3 || !score(&best).is_finite() {
        return best;
    }
    let top = f64::from(score(&best));
    let weight = |at: &u32| ((f64::from(score(at)) - top) / sampling.temperature).exp();
    let total: f64 = order.iter().map(weight).sum();
    // What has less than a millionth of the best one's weight is never among the likeliest, and need not be sorted.
    order.retain(|at| weight(at) > 1e-6);
    order.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    let mut kept = 0.0;
    let mut count = 0;
    for at in &order {
        kept += weight(at);
        count += 1;
        if kept >= sampling.top_p * total {
            break;
        }
    }
    let mut left = chance * kept;
    for at in order.iter().take(count) {
        left -= weight(at);
        if left < 0.0 {
            return *at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_p: f64) -> Sampling {
        Sampling { temperature, top_p, tokens: 1 }
    }

    #[test]
    fn without_temperature_the_first_of_the_likeliest_is_taken() {
        assert_eq!(choose(&[1.0, 3.0, 3.0], &sampling(0.0, 1.0), 0.9), 1);
        assert_eq!(choose(&[f32::NAN, -1.0], &sampling(0.0, 1.0), 0.9), 1);
        assert_eq!(choose(&[f32::INFINITY, 1.0], &sampling(1.0, 1.0), 0.9), 0);
        assert_eq!(choose(&[], &sampling(1.0, 1.0), 0.9), 0);
    }

    #[test]
    fn chances_fall_on_tokens_by_their_probability() {
        // Probabilities ½, ¼, ¼.
        let scores = [0.0, 2f32.ln(), 0.0];
        let drawn = |chance| choose(&scores, &sampling(1.0, 1.0), chance);
        assert_eq!([0.0, 0.49, 0.51, 0.74, 0.76, 0.999].map(drawn), [1, 1, 0, 0, 2, 2]);
        // At half the temperature ⅔, ⅙, ⅙.
        assert_eq!([0.66, 0.68].map(|chance| choose(&scores, &sampling(0.5, 1.0), chance)), [1, 0]);
    }

    #[test]
    fn what_lies_beyond_the_share_is_never_taken() {
        let scores = [0.0, 2f32.ln(), -0.1];
        assert!((0..100).all(|n| choose(&scores, &sampling(1.0, 0.6), f64::from(n) / 100.0) != 2));
    }
}

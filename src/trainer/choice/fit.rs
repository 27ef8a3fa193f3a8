//! Fitting what is wanted and how it is clicked, by expectation maximisation.

use super::clicks::{Clicks, Counts};
use super::{Search, Text};

/// Iterations at most.
const ROUNDS: usize = 500;
/// Gain of the likelihood's logarithm, per search, at which the fit is done.
const DONE: f64 = 1e-8;
/// b and c to begin with.
const FIRST: f64 = 10.0;
/// Searches for nothing, and for something, that are assumed.
const NOTHING: [f64; 2] = [1.0, 4.0];
/// Pull of b and c to zero, so that they stay finite whatever the log: 1 / σ².
const PULL: f64 = 2e-4;

/// The model of what searchers want and click.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanting {
    /// b and c: how strongly the scores of the generation that answers, and of the candidate, say what is wanted.
    pub taste: [f64; 2],
    /// How probably nothing is wanted.
    pub nothing: f64,
    /// How it is clicked.
    pub clicks: Clicks,
}

impl Default for Wanting {
    fn default() -> Self {
        let nothing = NOTHING[0] / (NOTHING[0] + NOTHING[1]);
        Self { taste: [FIRST; 2], nothing, clicks: Clicks::default() }
    }
}

/// What a search tells, by a model.
pub(super) struct Posterior {
    /// For each document of the text how probably it was wanted.
    pub wanted: Vec<f64>,
    /// Logarithm of the likelihood of its clicks, without what they have in common whatever was wanted.
    pub likelihood: f64,
}

/// A symmetric matrix: first diagonal, off the diagonal, second diagonal.
type Symmetric = [f64; 3];

impl Wanting {
    /// The model under which the searches are most probable, and the logarithm of that (times what is assumed).
    /// Texts without documents tell nothing.
    pub fn fit(texts: &[Text]) -> (Self, f64) {
        Self::default().fitted(texts)
    }

    /// The same without the candidate: c is zero.
    pub fn fit_current(texts: &[Text]) -> (Self, f64) {
        Self { taste: [FIRST, 0.0], ..Self::default() }.fitted(texts)
    }

    fn fitted(self, texts: &[Text]) -> (Self, f64) {
        let mut model = self;
        let searches: f64 = texts.iter().flat_map(|text| &text.searches).map(|search| search.weight).sum();
        let mut before = f64::NEG_INFINITY;
        for _ in 0..ROUNDS {
            let (next, likelihood) = model.refitted(texts);
            let done = likelihood - before <= DONE * searches;
            before = likelihood;
            if done {
                break;
            }
            model = next;
        }
        (model, before)
    }

    /// One iteration, and the logarithm of the likelihood (times what is assumed) before it.
    fn refitted(&self, texts: &[Text]) -> (Self, f64) {
        let mut counts = Counts::default();
        let mut nothing = NOTHING;
        let mut sums = Sums::default();
        let mut likelihood = 0.0;
        for text in texts {
            let prior = self.prior(text);
            let mean = mean(&prior, &text.scores);
            let spread = spread(&prior, &text.scores, mean);
            for search in &text.searches {
                let posterior = self.posterior(&prior, search);
                let something: f64 = posterior.wanted.iter().sum();
                likelihood += search.weight * posterior.likelihood;
                nothing[0] += search.weight * (1.0 - something);
                nothing[1] += search.weight * something;
                sums.add(search.weight, something, &posterior.wanted, (text, mean, spread));
                for seen in &search.seen {
                    let wanted = posterior.wanted.get(seen.document).copied().unwrap_or(0.0);
                    counts.add(*seen, search.weight, wanted);
                }
            }
        }
        likelihood += self.assumed();
        let next = Self {
            taste: self.stepped(&sums),
            nothing: nothing[0] / (nothing[0] + nothing[1]),
            clicks: self.clicks.refitted(&counts),
        };
        (next, likelihood)
    }

    /// Logarithm of what is assumed of these parameters.
    pub(super) fn assumed(&self) -> f64 {
        let nothing = NOTHING[0] * self.nothing.ln() + NOTHING[1] * (1.0 - self.nothing).ln();
        nothing + self.clicks.assumed() - PULL / 2.0 * self.taste.iter().map(|t| t * t).sum::<f64>()
    }

    /// A Newton step of b and c; of b alone if c is zero.
    fn stepped(&self, sums: &Sums) -> [f64; 2] {
        let [b, c] = self.taste;
        let slope = [sums.slope[0] - PULL * b, sums.slope[1] - PULL * c];
        let curve = [sums.curve[0] + PULL, sums.curve[1], sums.curve[2] + PULL];
        let [x, y] = if c == 0.0 { [slope[0] / curve[0], 0.0] } else { solve(curve, slope) };
        // Far from the top the curve is flatter than it will be, and a whole step too long.
        let longest = FIRST.max(b.abs()).max(c.abs());
        let share = (longest / x.abs().max(y.abs())).min(1.0);
        [b + share * x, c + share * y]
    }

    /// How probably each document is wanted before anything is seen, if anything is.
    pub(super) fn prior(&self, text: &Text) -> Vec<f64> {
        let [b, c] = self.taste;
        let value = |[s, t]: &[f64; 2]| b * s + c * t;
        let top = text.scores.iter().map(value).fold(f64::NEG_INFINITY, f64::max);
        let mut prior: Vec<f64> = text.scores.iter().map(|scores| (value(scores) - top).exp()).collect();
        let sum: f64 = prior.iter().sum();
        prior.iter_mut().for_each(|p| *p /= sum);
        prior
    }

    /// What is known of a search once its clicks are seen.
    pub(super) fn posterior(&self, prior: &[f64], search: &Search) -> Posterior {
        // Relative to what the clicks were if nothing that was seen had been wanted.
        let mut wanted: Vec<f64> = prior.iter().map(|p| p * (1.0 - self.nothing)).collect();
        let mut common = 0.0;
        for seen in &search.seen {
            let [if_wanted, otherwise] = self.clicks.likelihood(*seen);
            common += otherwise;
            if let Some(wanted) = wanted.get_mut(seen.document) {
                *wanted *= (if_wanted - otherwise).exp();
            }
        }
        let whole = wanted.iter().sum::<f64>() + self.nothing;
        wanted.iter_mut().for_each(|p| *p /= whole);
        Posterior { wanted, likelihood: whole.ln() + common }
    }
}

/// Sums for a step of b and c.
#[derive(Default)]
struct Sums {
    slope: [f64; 2],
    curve: Symmetric,
}

impl Sums {
    fn add(&mut self, weight: f64, something: f64, wanted: &[f64], of: (&Text, [f64; 2], Symmetric)) {
        let (text, prior, spread) = of;
        let found = mean(wanted, &text.scores);
        for ((slope, found), prior) in self.slope.iter_mut().zip(found).zip(prior) {
            *slope += weight * (found - something * prior);
        }
        for (curve, spread) in self.curve.iter_mut().zip(spread) {
            *curve += weight * something * spread;
        }
    }
}

/// Weighted sum of scores.
pub(super) fn mean(weights: &[f64], scores: &[[f64; 2]]) -> [f64; 2] {
    let add = |[b, c]: [f64; 2], (weight, [s, t]): (&f64, &[f64; 2])| [b + weight * s, c + weight * t];
    weights.iter().zip(scores).fold([0.0; 2], add)
}

/// Weighted sum of squared distances of scores from a point.
fn spread(weights: &[f64], scores: &[[f64; 2]], from: [f64; 2]) -> Symmetric {
    let add = |[ss, st, tt]: Symmetric, (weight, [s, t]): (&f64, &[f64; 2])| {
        let (s, t) = (s - from[0], t - from[1]);
        [ss + weight * s * s, st + weight * s * t, tt + weight * t * t]
    };
    weights.iter().zip(scores).fold([0.0; 3], add)
}

/// The solution of curve · x = slope; zero if there is none.
fn solve([ss, st, tt]: Symmetric, [s, t]: [f64; 2]) -> [f64; 2] {
    let determinant = ss * tt - st * st;
    if determinant > 0.0 {
        [(tt * s - st * t) / determinant, (ss * t - st * s) / determinant]
    } else {
        [0.0; 2]
    }
}

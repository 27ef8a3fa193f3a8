//! What rankings score by a fitted model, and what each text did to it.

use super::clicks::{PARAMETERS, rate};
use super::fit::{Wanting, mean};
use super::{Search, Text};

/// Parameters of the model: b, c, the odds of nothing, and those of clicks.
const ALL: usize = 3 + PARAMETERS;
/// How far they are moved to see what that does.
const STEP: f64 = 1e-3;

/// [`Scored::evidence`] that chance makes once in a thousand times.
pub const CERTAIN: f64 = 10.83;

/// Scores of texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scored {
    /// How much each text judges.
    pub weights: Vec<f64>,
    /// For each rung the expected NDCG@10 of each text by the generation that answers and by the candidate.
    pub rungs: Vec<[Vec<f64>; 2]>,
    /// For each rung what each text did to the mean gain through the model, to be added to its own gain; over all texts that
    /// is zero.
    pub influence: Vec<Vec<f64>>,
    /// By how much the candidate's scores make the searches more probable than they are without: twice the
    /// difference of the likelihoods' logarithms. Chance alone makes this a χ² of one degree of freedom (Wilks: The
    /// Large-Sample Distribution of the Likelihood Ratio, 1938).
    pub evidence: f64,
}

/// What a text says by a model.
struct Told {
    /// Slope of its likelihood's logarithm, by each parameter.
    pull: [f64; ALL],
    /// For each rung its expected discounts before and after, times its weight.
    expected: Vec<[f64; 2]>,
}

/// Fits the model to all searches and scores each text by it.
pub fn scored(texts: &[Text]) -> (Scored, Wanting) {
    let texts = &texts.iter().map(Text::merged).collect::<Vec<_>>();
    let (model, likelihood) = Wanting::fit(texts);
    let (_, without) = Wanting::fit_current(texts);
    let told: Vec<Told> = texts.iter().map(|text| model.told(text)).collect();
    let rungs = texts.iter().map(|text| text.discounts.len()).max().unwrap_or(0);
    let moves = moves(&model, texts, rungs);
    let weights: Vec<f64> = texts.iter().map(Text::weight).collect();
    let rung = |number: usize| {
        [0, 1].map(|side| {
            let of = |told: &Told| told.expected.get(number).map_or(0.0, |expected| expected[side]);
            told.iter().zip(&weights).map(|(told, weight)| of(told) / weight).collect()
        })
    };
    let influence = |moves: &[f64; ALL]| {
        let of = |told: &Told| told.pull.iter().zip(moves).map(|(pull, moves)| pull * moves).sum::<f64>();
        told.iter().zip(&weights).map(|(told, weight)| of(told) / weight).collect()
    };
    let scored = Scored {
        rungs: (0..rungs).map(rung).collect(),
        influence: moves.iter().map(influence).collect(),
        evidence: 2.0 * (likelihood - without).max(0.0),
        weights,
    };
    (scored, model)
}

impl Wanting {
    fn told(&self, text: &Text) -> Told {
        let prior = self.prior(text);
        let at = mean(&prior, &text.scores);
        let mut told = Told { pull: [0.0; ALL], expected: vec![[0.0; 2]; text.discounts.len()] };
        for search in &text.searches {
            let wanted = self.posterior(&prior, search).wanted;
            let pull = self.pull(text, search, &wanted, at);
            told.pull.iter_mut().zip(pull).for_each(|(sum, pull)| *sum += search.weight * pull);
            for (sum, discounts) in told.expected.iter_mut().zip(&text.discounts) {
                for (wanted, discounts) in wanted.iter().zip(discounts) {
                    sum[0] += search.weight * wanted * f64::from(discounts[0]);
                    sum[1] += search.weight * wanted * f64::from(discounts[1]);
                }
            }
        }
        told
    }

    /// Slope of the logarithm of a search's likelihood, given what was wanted and the mean scores `at` of what might have been.
    fn pull(&self, text: &Text, search: &Search, wanted: &[f64], at: [f64; 2]) -> [f64; ALL] {
        let something: f64 = wanted.iter().sum();
        let found = mean(wanted, &text.scores);
        let mut pull = [0.0; ALL];
        pull[0] = found[0] - something * at[0];
        pull[1] = found[1] - something * at[1];
        pull[2] = 1.0 - something - self.nothing;
        for seen in &search.seen {
            let wanted = wanted.get(seen.document).copied().unwrap_or(0.0);
            for (pull, [if_wanted, otherwise]) in pull.iter_mut().skip(3).zip(self.clicks.slopes(*seen)) {
                *pull += wanted * if_wanted + (1.0 - wanted) * otherwise;
            }
        }
        pull
    }

    /// With the parameter of this number moved, if that can be.
    fn moved(mut self, number: usize, by: f64) -> Option<Self> {
        match number {
            0 | 1 => self.taste[number] += by,
            2 => self.nothing = rate((self.nothing / (1.0 - self.nothing)).ln() + by),
            _ => self.clicks = self.clicks.moved(number - 3, by)?,
        }
        Some(self)
    }
}

/// For each rung by how much the summed gain moves for each unit by which the searches pull a parameter: the curve of the
/// likelihood's logarithm, inverted, times the gain's slope.
fn moves(model: &Wanting, texts: &[Text], rungs: usize) -> Vec<[f64; ALL]> {
    let mut curve = [[0.0; ALL]; ALL];
    let mut slopes = vec![[0.0; ALL]; rungs];
    for number in 0..ALL {
        let both = [STEP, -STEP].map(|by| model.moved(number, by));
        let [Some(above), Some(below)] = both else {
            // At the end of its range it stays.
            curve[number][number] = 1.0;
            continue;
        };
        let [above, below] = [above, below].map(|model| sums(&model, texts, rungs));
        for other in (0..ALL).filter(|&other| model.moved(other, 0.0).is_some()) {
            let of = |pull: &[f64; ALL]| pull[other] / (2.0 * STEP);
            curve[number][other] = of(&below.0) - of(&above.0);
        }
        for (slope, (above, below)) in slopes.iter_mut().zip(above.1.iter().zip(&below.1)) {
            slope[number] = (above - below) / (2.0 * STEP);
        }
    }
    slopes.into_iter().map(|slope| solved(curve, slope)).collect()
}

/// Pulls of all texts and of what is assumed together, and for each rung the summed gain.
fn sums(model: &Wanting, texts: &[Text], rungs: usize) -> ([f64; ALL], Vec<f64>) {
    let mut pulls = [0.0; ALL];
    let mut gains = vec![0.0; rungs];
    for told in texts.iter().map(|text| model.told(text)) {
        pulls.iter_mut().zip(told.pull).for_each(|(sum, pull)| *sum += pull);
        gains.iter_mut().zip(told.expected).for_each(|(sum, [before, after])| *sum += after - before);
    }
    for (number, pull) in pulls.iter_mut().enumerate() {
        if let [Some(above), Some(below)] = [STEP, -STEP].map(|by| model.moved(number, by)) {
            *pull += (above.assumed() - below.assumed()) / (2.0 * STEP);
        }
    }
    (pulls, gains)
}

/// The solution of `curve` · x = `slope` by Cholesky's decomposition. What the searches do not tell (no curve)
/// is given as much as makes the matrix positive definite.
fn solved(curve: [[f64; ALL]; ALL], slope: [f64; ALL]) -> [f64; ALL] {
    let mut ridge = 1e-9;
    while ridge < 1e3 {
        let mut matrix = curve;
        for (number, row) in matrix.iter_mut().enumerate() {
            row[number] += ridge * (1.0 + row[number].abs());
        }
        if let Some(solution) = cholesky(&mut matrix, slope) {
            return solution;
        }
        ridge *= 10.0;
    }
    [0.0; ALL]
}

/// Nothing if the matrix, of which the lower half counts, is not positive definite.
fn cholesky(matrix: &mut [[f64; ALL]; ALL], mut x: [f64; ALL]) -> Option<[f64; ALL]> {
    for row in 0..ALL {
        for column in 0..=row {
            let known: f64 = (0..column).map(|k| matrix[row][k] * matrix[column][k]).sum();
            let rest = matrix[row][column] - known;
            matrix[row][column] = if row > column {
                rest / matrix[column][column]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    for row in 0..ALL {
        let known: f64 = (0..row).map(|k| matrix[row][k] * x[k]).sum();
        x[row] = (x[row] - known) / matrix[row][row];
    }
    for row in (0..ALL).rev() {
        let known: f64 = (row + 1..ALL).map(|k| matrix[k][row] * x[k]).sum();
        x[row] = (x[row] - known) / matrix[row][row];
    }
    Some(x)
}

//! What the searchers of a log wanted, to be learnt from.

use super::Text;
use super::fit::Wanting;

/// How many searches the scores of a text's documents count as much as.
const SCORES: f64 = 5.0;
/// Iterations in which searches for a text learn from each other.
const ROUNDS: usize = 20;

/// How probably each document of each text was wanted, in the mean of the text's searches, by a model without a candidate.
/// People who search for the same want much the same: what others wanted counts beside the scores.
pub fn wanted(texts: &[Text]) -> Vec<Vec<f64>> {
    let merged: Vec<Text> = texts.iter().map(Text::merged).collect();
    let (model, _) = Wanting::fit_current(&merged);
    let of_text = |(text, count): (&Text, usize)| {
        let scores = model.prior(text);
        let mut prior = scores.clone();
        let mut mean = Vec::new();
        let count = count as f64;
        for _ in 0..ROUNDS {
            mean = model.mean_wanted(text, &prior);
            let something: f64 = mean.iter().sum();
            let of =
                |(score, mean): (&f64, &f64)| (SCORES * score + count * mean) / (SCORES + count * something);
            prior = scores.iter().zip(&mean).map(of).collect();
        }
        mean
    };
    merged.iter().zip(texts.iter().map(|text| text.searches.len())).map(of_text).collect()
}

impl Wanting {
    /// How probably each document was wanted, in the mean of a text's searches.
    fn mean_wanted(&self, text: &Text, prior: &[f64]) -> Vec<f64> {
        let weight = text.weight();
        let mut mean = vec![0.0; prior.len()];
        for search in &text.searches {
            let wanted = self.posterior(prior, search).wanted;
            mean.iter_mut().zip(wanted).for_each(|(mean, p)| *mean += search.weight / weight * p);
        }
        mean
    }
}

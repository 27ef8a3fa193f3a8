//! What searchers wanted, told from what they were shown and what they clicked.
//!
//! Clicks alone are bad judges of a candidate. People click what they are shown and look at: what the answering
//! generation puts on top is clicked most, what it does not show is never clicked, so whatever ranks otherwise seems
//! worse. Weights by rank do not mend that, for they say nothing of documents that were not shown. (Twenty logs simulated
//! on a financial corpus, rank r looked at with probability 1/r: adapters that gained .013 to .032 NDCG@10 on the judging
//! queries came out between -.013 and -.003 by clicks, between .015 and .033 by this model.)
//!
//! So the clicks are explained, by a model of two steps that is fitted to the searches that judge:
//! 1. *Wanting*: a searcher wants one document, d with probability ∝ exp(b·s(d) + c·t(d)), where s and t are its cosines by
//!    the generation that answers and by the candidate (McFadden: Conditional Logit Analysis of Qualitative Choice
//!    Behavior, 1974), or with some probability nothing.
//! 2. *Clicking*: rank r is looked at with probability r^-η; what is wanted is clicked at one rate by those who look, anything
//!    else at a lower one, and some clicks fall anywhere ([`Clicks`]).
//!
//! Which document was wanted is not known; expectation maximisation fits the model all the same ([`Wanting::fit`]):
//! - documents of almost the same score s that stand at different ranks tell η, without randomised pages;
//! - of documents at the same rank those that the candidate scores higher are clicked more often, or are not. That is c, and
//!   position has no part in it. Clicks at random give b and c near zero, and then no ranking is better than another;
//! - what was not shown is wanted as its scores say, the more so where nothing that was shown was clicked.
//!
//! A ranking scores the expected discount 1/log₂(1 + rank) of the wanted document, to rank 10: the expected NDCG@10. (The
//! direct method of counterfactual evaluation: Oosterhuis: Doubly-Robust Estimation for Correcting Position-Bias in Click
//! Feedback for Unbiased Learning to Rank, 2022.) As b and c are estimated from the searches that they judge, each search
//! also answers for what it did to them: its influence (Hampel: The Influence Curve and its Role in Robust Estimation, 1974)
//! is added to its score, which widens the interval of the mean and leaves the mean where it is.

mod clicks;
mod fit;
mod score;
mod wanted;

use std::collections::HashMap;

#[cfg(test)]
mod tests;

pub use self::clicks::Clicks;
pub use self::fit::Wanting;
pub use self::score::{CERTAIN, Scored, scored};
pub use self::wanted::wanted;

/// A query text with the documents that its searchers may have wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Text {
    /// Cosine of each document with the text: by the generation that answers, and by the candidate.
    pub scores: Vec<[f64; 2]>,
    /// For each rung of the ladder the discount of each document in the ranking of either; 0 beyond rank 10.
    pub discounts: Vec<Vec<[f32; 2]>>,
    /// The searches.
    pub searches: Vec<Search>,
}

impl Text {
    /// How much it judges: as much as its searches together.
    fn weight(&self) -> f64 {
        self.searches.iter().map(|search| search.weight).sum()
    }

    /// The same with one search for all that saw and clicked the same: of what is asked often there are few kinds.
    fn merged(&self) -> Self {
        let mut searches: Vec<Search> = Vec::new();
        let mut numbers: HashMap<&[Seen], usize> = HashMap::new();
        for search in &self.searches {
            let number = *numbers.entry(&search.seen).or_insert(searches.len());
            match searches.get_mut(number) {
                Some(same) => same.weight += search.weight,
                None => searches.push(search.clone()),
            }
        }
        Self { scores: self.scores.clone(), discounts: self.discounts.clone(), searches }
    }
}

/// One search for a text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Search {
    /// Its share in all that is estimated; above zero.
    pub weight: f64,
    /// What was shown or clicked.
    pub seen: Vec<Seen>,
}

/// A document that a search showed, or whose click it led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its number among the documents of the text.
    pub document: usize,
    /// Where it stood, from 0; none if it was clicked without being shown.
    pub position: Option<usize>,
    /// Whether it was clicked.
    pub clicked: bool,
}

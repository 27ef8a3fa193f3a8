//! Queries that a language model makes up for passages of the database, so that there is something to learn from before
//! anybody has searched.
//!
//! | file | what it holds |
//! |---|---|
//! | `prompt` | what a model is asked about a passage, and the id by which its answer finds back |
//! | `ask` | the same for a small model in this process, with examples |
//! | `answer` | what the answer holds |
//! | `judge` | whether a query is fit to be learnt from |
//!
//! After Wang et al., *Improving Text Embeddings with Large Language Models* (2024, arXiv:2401.00368): a search task is
//! thought up, then a query for it and a hard negative, of stated length, clarity and difficulty. Here the positive is
//! there already: it is the passage. The filter by which a query must find its passage again is that of Alberti et al.,
//! *Synthetic QA Corpora Generation with Roundtrip Consistency* (2019, arXiv:1906.05416).
//!
//! Invariants: one seed and one passage, one prompt; an answer counts only for the passage that was asked about.

pub mod answer;
pub mod ask;
pub mod judge;
pub mod prompt;

use super::rng::Rng;
use super::split::target_key;

/// Numbers from 0 to below 1 that depend on the seed and the prompt.
pub fn chances(seed: u64, prompt_id: &str) -> impl FnMut() -> f64 {
    let mut rng = Rng::new(seed ^ target_key(prompt_id));
    // As many bits as the number holds.
    move || (rng.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// A seeded order of `count` things.
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    Rng::new(seed).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_lie_below_one_and_depend_on_seed_and_prompt() {
        let drawn = |seed, id| -> Vec<f64> {
            let mut chance = chances(seed, id);
            (0..1000).map(|_| chance()).collect()
        };
        assert!(drawn(1, "a").iter().all(|c| (0.0..1.0).contains(c)));
        assert_eq!(drawn(1, "a"), drawn(1, "a"));
        assert_ne!(drawn(1, "a"), drawn(2, "a"));
        assert_ne!(drawn(1, "a"), drawn(1, "b"));
        let mut order = shuffled(100, 3);
        assert_ne!(order, shuffled(100, 4));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}

//! Measures of ranking quality, as trec_eval defines them (<https://github.com/usnistgov/trec_eval>; a fixture
//! that it computed holds us to it).
//!
//! Judgements give each relevant document a grade; unjudged documents have grade 0. A grade above 0
//! is relevant (trec_eval's level 1, as grades there are integers). A document that is ranked twice
//! counts once, at its first rank. A query without any relevant document scores 0 throughout, and counts
//! in means.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use serde_json::{Map, Value};

/// The measures of one query, or their means.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// Normalised discounted cumulative gain at the cut-off (trec_eval `ndcg_cut`).
    pub ndcg: f64,
    /// Reciprocal rank of the first relevant document, 0 beyond the cut-off.
    pub mrr: f64,
    /// Share of the relevant documents within the cut-off.
    pub recall: f64,
    /// Relevant documents within the cut-off, divided by the cut-off (trec_eval `P`).
    pub precision: f64,
    /// Average precision within the cut-off (trec_eval `map_cut`).
    pub map: f64,
    /// Share of the relevant documents within rank 100.
    pub recall_100: f64,
    /// Average precision within rank 100 (trec_eval `map_cut_100`).
    pub map_100: f64,
}

impl Scores {
    /// Measures one ranking, best first, at cut-off `k`.
    pub fn of<T, Q>(ranked: &[T], judged: &HashMap<Q, f64>, k: usize) -> Self
    where
        T: Borrow<Q>,
        Q: Hash + Eq,
    {
        let gains = gains(ranked, judged);
        let relevant = judged.values().filter(|&&grade| grade > 0.0).count();
        let within = |k: usize| gains.iter().take(k).filter(|&&gain| gain > 0.0).count();
        let share = |k| if relevant == 0 { 0.0 } else { within(k) as f64 / relevant as f64 };
        Self {
            ndcg: normalised_gain(&gains, judged, k),
            mrr: gains.iter().take(k).position(|&gain| gain > 0.0).map_or(0.0, |at| 1.0 / (at + 1) as f64),
            recall: share(k),
            precision: within(k) as f64 / k.max(1) as f64,
            map: average_precision(&gains, relevant, k),
            recall_100: share(100),
            map_100: average_precision(&gains, relevant, 100),
        }
    }

    /// The mean over queries; all 0 if there are none.
    pub fn mean(scores: &[Self]) -> Self {
        let n = scores.len().max(1) as f64;
        let mean = |part: fn(&Self) -> f64| scores.iter().map(part).sum::<f64>() / n;
        Self {
            ndcg: mean(|s| s.ndcg),
            mrr: mean(|s| s.mrr),
            recall: mean(|s| s.recall),
            precision: mean(|s| s.precision),
            map: mean(|s| s.map),
            recall_100: mean(|s| s.recall_100),
            map_100: mean(|s| s.map_100),
        }
    }

    /// The measures with their names: `ndcg@k`, `mrr@k`, `recall@k`, `precision@k`, `map@k`, `recall@100`, `map@100`.
    pub fn named(self, k: usize) -> Vec<(String, f64)> {
        let mut named: Vec<(String, f64)> = [
            ("ndcg", self.ndcg),
            ("mrr", self.mrr),
            ("recall", self.recall),
            ("precision", self.precision),
            ("map", self.map),
        ]
        .into_iter()
        .map(|(name, value)| (format!("{name}@{k}"), value))
        .collect();
        if k != 100 {
            named.push(("recall@100".into(), self.recall_100));
            named.push(("map@100".into(), self.map_100));
        }
        named
    }

    /// The JSON that `eval` prints: the names of [`Scores::named`], and `queries`.
    pub fn to_json(self, k: usize, queries: usize) -> Map<String, Value> {
        let mut json: Map<String, Value> =
            self.named(k).into_iter().map(|(name, value)| (name, value.into())).collect();
        json.insert("queries".into(), queries.into());
        json
    }
}

/// NDCG at cut-off `k` of one ranking, best first.
pub fn ndcg<T, Q>(ranked: &[T], judged: &HashMap<Q, f64>, k: usize) -> f64
where
    T: Borrow<Q>,
    Q: Hash + Eq,
{
    normalised_gain(&gains(ranked, judged), judged, k)
}

/// The grade of each ranked document; 0 for unjudged ones and repetitions.
fn gains<T, Q>(ranked: &[T], judged: &HashMap<Q, f64>) -> Vec<f64>
where
    T: Borrow<Q>,
    Q: Hash + Eq,
{
    let mut seen = HashSet::new();
    let gain = |id: &T| match judged.get_key_value(id.borrow()) {
        Some((id, &grade)) if grade > 0.0 && seen.insert(id) => grade,
        _ => 0.0,
    };
    ranked.iter().map(gain).collect()
}

/// Gain is the grade itself, discounted by log2(rank + 1), over that of the ideal ranking.
fn normalised_gain<Q>(gains: &[f64], judged: &HashMap<Q, f64>, k: usize) -> f64 {
    let mut ideal: Vec<f64> = judged.values().copied().filter(|&grade| grade > 0.0).collect();
    ideal.sort_unstable_by(|a, b| b.total_cmp(a));
    let best = discounted(&ideal, k);
    if best > 0.0 { discounted(gains, k) / best } else { 0.0 }
}

/// What a result counts at `position`, from 0: 1 / log₂(rank + 1).
pub fn discount(position: usize) -> f64 {
    1.0 / ((position + 2) as f64).log2()
}

fn discounted(gains: &[f64], k: usize) -> f64 {
    gains.iter().take(k).enumerate().map(|(at, gain)| gain * discount(at)).sum()
}

fn average_precision(gains: &[f64], relevant: usize, k: usize) -> f64 {
    let mut found = 0.0;
    let mut sum = 0.0;
    for (at, _) in gains.iter().take(k).enumerate().filter(|(_, gain)| **gain > 0.0) {
        found += 1.0;
        sum += found / (at + 1) as f64;
    }
    if relevant == 0 { 0.0 } else { sum / relevant as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    /// Grades a 3, b 2, c 1, d 0; ranking x a c y b: by hand,
    /// DCG = 3/log2(3) + 1/log2(4) + 2/log2(6); ideal = 3/log2(2) + 2/log2(3) + 1/log2(4).
    #[test]
    fn graded_example_by_hand() {
        let judged: HashMap<&str, f64> = [("a", 3.0), ("b", 2.0), ("c", 1.0), ("d", 0.0)].into();
        let ranked = ["x", "a", "c", "y", "b", "d"];
        let scores = Scores::of(&ranked, &judged, 10);
        let dcg = 3.0 / 3f64.log2() + 0.5 + 2.0 / 6f64.log2();
        near(scores.ndcg, dcg / (3.0 + 2.0 / 3f64.log2() + 0.5));
        near(scores.ndcg, 0.664_970_243_323);
        near(scores.mrr, 0.5);
        near(scores.recall, 1.0);
        near(scores.map_100, (1.0 / 2.0 + 2.0 / 3.0 + 3.0 / 5.0) / 3.0);
        let cut = Scores::of(&ranked, &judged, 2);
        near(cut.ndcg, (3.0 / 3f64.log2()) / (3.0 + 2.0 / 3f64.log2()));
        near(cut.recall, 1.0 / 3.0);
        near(cut.recall_100, 1.0);
        near(Scores::of(&ranked, &judged, 1).mrr, 0.0);
    }

    #[test]
    fn repetitions_count_once_and_nothing_relevant_scores_zero() {
        let judged: HashMap<u32, f64> = [(7, 1.0)].into();
        near(Scores::of(&[7, 7, 7], &judged, 10).map_100, 1.0);
        near(ndcg(&[7, 7, 7], &judged, 10), 1.0);
        assert_eq!(Scores::of(&[7u32], &HashMap::from([(7, 0.0)]), 10), Scores::default());
        assert_eq!(Scores::of::<u32, u32>(&[], &judged, 10), Scores::default());
    }

    #[test]
    fn more_relevant_documents_than_the_cut_off_holds() {
        let judged: HashMap<u32, f64> = (0..20).map(|i| (i, 1.0)).collect();
        let ranked: Vec<u32> = (0..20).collect();
        let scores = Scores::of(&ranked, &judged, 10);
        near(scores.ndcg, 1.0);
        near(scores.recall, 0.5);
    }

    #[test]
    fn means_and_json_keys() {
        let judged: HashMap<u32, f64> = [(1, 1.0)].into();
        let all = [Scores::of(&[1u32], &judged, 10), Scores::of(&[2u32], &judged, 10)];
        let mean = Scores::mean(&all);
        near(mean.ndcg, 0.5);
        let json = mean.to_json(10, 2);
        let keys: Vec<&str> = json.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["ndcg@10", "mrr@10", "recall@10", "precision@10", "map@10", "recall@100", "map@100", "queries"]
        );
        assert_eq!(mean.to_json(100, 2).len(), 6);
        assert_eq!(Scores::mean(&[]), Scores::default());
    }

    #[derive(serde::Deserialize)]
    struct Case {
        qrels: HashMap<String, f64>,
        run: Vec<(String, f64)>,
        repeated: Vec<usize>,
        measures: HashMap<usize, HashMap<String, f64>>,
    }

    /// tools/fixtures/trec_eval.py made the fixture.
    #[test]
    fn every_measure_agrees_with_trec_eval() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/trainer/trec_eval.json")).unwrap();
        assert_eq!(cases.len(), 60);
        assert!(cases.iter().any(|c| c.qrels.values().all(|&g| g <= 0.0)), "nothing relevant");
        assert!(cases.iter().any(|c| !c.repeated.is_empty()) && cases.iter().any(|c| c.run.len() > 100));
        for (number, case) in cases.into_iter().enumerate() {
            let mut ranked = super::super::trec::ranked(case.run);
            for at in case.repeated {
                ranked[at] = ranked[at / 2].clone();
            }
            for (k, expected) in case.measures {
                let got = Scores::of(&ranked, &case.qrels, k);
                for (name, got) in [
                    ("ndcg", got.ndcg),
                    ("mrr", got.mrr),
                    ("recall", got.recall),
                    ("precision", got.precision),
                    ("map", got.map),
                ] {
                    let expected = expected[name];
                    assert!(
                        (got - expected).abs() < 1e-9,
                        "case {number}, {name}@{k}: {got}, not {expected}"
                    );
                }
                if k == 100 {
                    assert_eq!((got.recall, got.map), (got.recall_100, got.map_100));
                }
            }
        }
    }
}

//! What judges a model on held-out data of each shape.
//!
//! Pairs and triplets are judged by ranking ([`rank`](super::rank), [`metrics`](super::metrics)). Scored pairs are by the
//! rank correlation of cosines and scores (Spearman: The Proof and Measurement of Association between Two Things, 1904), a
//! statistic of all of them, which is therefore given for any resample. Texts with classes are by whether a text finds
//! others of its class: NDCG@k of each.

use std::collections::HashMap;

use super::rank::rank_exact;
use crate::error::{Error, Result};

/// Cosine of each row of `a` with the same row of `b`, by their first `rung` values. Both n × `dim`. A row of zeros has
/// cosine 0 with everything.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other.
pub fn cosines(a: &[f32], b: &[f32], dim: usize, rung: usize) -> Result<Vec<f64>> {
    if rung == 0 || rung > dim || a.len() != b.len() || !a.len().is_multiple_of(dim) {
        return Err(Error::input(format!(
            "judging: {} and {} values are not as many rows of {dim} dimensions, to be compared by {rung}",
            a.len(),
            b.len()
        )));
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let rows = a.chunks_exact(dim).zip(b.chunks_exact(dim));
    let cut = rows.map(|(a, b)| (a.get(..rung).unwrap_or(a), b.get(..rung).unwrap_or(b)));
    Ok(cut.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)).collect())
}

/// Spearman's rank correlation of two lists, of all items or of any resample of them. Ties share the mean of their ranks.
#[derive(Debug, Clone)]
pub struct RankCorrelation {
    /// Items in ascending order, ties together, for each list.
    orders: [Vec<Vec<usize>>; 2],
    items: usize,
}

impl RankCorrelation {
    /// Of a value in each list for each item; not a number counts as the smallest.
    ///
    /// # Errors
    /// [`Error::Input`] if the lists differ in length.
    pub fn new(a: &[f64], b: &[f64]) -> Result<Self> {
        if a.len() != b.len() {
            let what = format!("judging: {} values cannot be correlated with {}", a.len(), b.len());
            return Err(Error::Input(what));
        }
        Ok(Self { orders: [ordered(a), ordered(b)], items: a.len() })
    }

    /// Of all items.
    pub fn whole(&self) -> f64 {
        self.of(&vec![1; self.items])
    }

    /// Of a resample: how often each item is in it. 0 if one of the lists does not vary.
    pub fn of(&self, counts: &[u32]) -> f64 {
        let [a, b] = [0, 1].map(|list| self.ranks(list, counts));
        let count = |item: usize| counts.get(item).map_or(0.0, |&count| f64::from(count));
        let total: f64 = (0..self.items).map(count).sum();
        // Ranks 1 to n have this mean, whatever the ties.
        let mean = (total + 1.0) / 2.0;
        let mut sums = [0.0; 3];
        for (item, (a, b)) in a.iter().zip(&b).enumerate() {
            let (count, a, b) = (count(item), a - mean, b - mean);
            for (sum, term) in sums.iter_mut().zip([a * b, a * a, b * b]) {
                *sum += count * term;
            }
        }
        let [both, a, b] = sums;
        if a > 0.0 && b > 0.0 { both / (a * b).sqrt() } else { 0.0 }
    }

    fn ranks(&self, list: usize, counts: &[u32]) -> Vec<f64> {
        let mut ranks = vec![0.0; self.items];
        let mut below = 0.0;
        for ties in self.orders.get(list).into_iter().flatten() {
            let many: f64 = ties.iter().filter_map(|&item| counts.get(item)).map(|&c| f64::from(c)).sum();
            for &item in ties {
                if let Some(rank) = ranks.get_mut(item) {
                    *rank = below + (many + 1.0) / 2.0;
                }
            }
            below += many;
        }
        ranks
    }
}

/// Items in ascending order, ties together.
fn ordered(values: &[f64]) -> Vec<Vec<usize>> {
    // Zeros of both signs are the same value.
    let value =
        |&item: &usize| values.get(item).filter(|v| !v.is_nan()).map_or(f64::NEG_INFINITY, |v| v + 0.0);
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| value(a).total_cmp(&value(b)));
    order.chunk_by(|a, b| value(a) == value(b)).map(<[usize]>::to_vec).collect()
}

/// Rows with a class each.
#[derive(Debug, Clone, Copy)]
pub struct Classed<'a> {
    /// n × dim.
    pub rows: &'a [f32],
    /// Class of each row.
    pub classes: &'a [u32],
}

/// NDCG@k of each query whose answers are the other rows of its class. `own`: for each query the number of its own row among
/// the others, which is no answer, if it is one of them. A query whose class has no other row gets 0.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other.
pub fn class_ndcg(
    queries: Classed<'_>,
    corpus: Classed<'_>,
    own: &[Option<usize>],
    (dim, rung): (usize, usize),
    k: usize,
) -> Result<Vec<f64>> {
    if own.len() != queries.classes.len() || queries.rows.len() != own.len().saturating_mul(dim) {
        return Err(Error::input(format!(
            "judging: {} values, {} classes and {} rows do not fit together",
            queries.rows.len(),
            queries.classes.len(),
            own.len()
        )));
    }
    let numbers: Vec<u32> = (0..corpus.classes.len() as u32).collect();
    let ranked = rank_exact(queries.rows, corpus.rows, &numbers, dim, rung, k.saturating_add(1))?;
    let mut members = HashMap::new();
    corpus.classes.iter().for_each(|class| *members.entry(class).or_insert(0usize) += 1);
    let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let score = |((ranked, class), own): ((&Vec<u32>, &u32), &Option<usize>)| {
        let others = ranked.iter().filter(|&&row| Some(row as usize) != *own).take(k).enumerate();
        let right = |row: u32| corpus.classes.get(row as usize) == Some(class);
        let found: f64 = others.filter(|(_, row)| right(**row)).map(|(rank, _)| gain(rank)).sum();
        let itself = own.is_some_and(|own| corpus.classes.get(own) == Some(class));
        let answers = members.get(class).copied().unwrap_or(0) - usize::from(itself);
        let best: f64 = (0..answers.min(k)).map(gain).sum();
        if best > 0.0 { found / best } else { 0.0 }
    };
    Ok(ranked.iter().zip(queries.classes).zip(own).map(score).collect())
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn cosines_are_of_prefixes() {
        let found = cosines(&[3.0, 4.0, 9.0, 0.0, 0.0, 1.0], &[4.0, 3.0, -9.0, 1.0, 1.0, 1.0], 3, 2).unwrap();
        assert!((found[0] - 0.96).abs() < 1e-12);
        assert_eq!(found[1], 0.0);
        assert!(cosines(&[1.0; 4], &[1.0; 6], 2, 1).is_err() && cosines(&[1.0; 4], &[1.0; 4], 2, 3).is_err());
        assert!(cosines(&[], &[], 0, 0).is_err());
    }

    #[test]
    fn the_rank_correlation_is_scipys() {
        // scipy.stats.spearmanr of these lists, scipy 1.17.
        let a = [0.1, 0.4, 0.4, 0.2, 0.9, -0.3, 0.4];
        let b = [1.0, 3.0, 2.0, 2.0, 5.0, 0.0, 0.0];
        let correlation = RankCorrelation::new(&a, &b).unwrap();
        assert!((correlation.whole() - SPEARMAN).abs() < 1e-12, "{}", correlation.whole());
        assert_eq!(RankCorrelation::new(&a, &[1.0; 7]).unwrap().whole(), 0.0);
        assert_eq!(RankCorrelation::new(&[], &[]).unwrap().whole(), 0.0);
        assert!(RankCorrelation::new(&a, &b[1..]).is_err());
        assert!(RankCorrelation::new(&[f64::NAN, 1.0, 2.0], &[0.0, 1.0, 2.0]).unwrap().whole() > 0.999);
    }

    const SPEARMAN: f64 = 0.679_366_220_486_757_5;

    #[test]
    fn a_resample_is_as_if_its_items_were_listed() {
        let mut rng = Rng::new(4);
        let a: Vec<f64> = (0..40).map(|_| rng.below(12) as f64).collect();
        let b: Vec<f64> = a.iter().map(|a| a + rng.below(9) as f64).collect();
        let correlation = RankCorrelation::new(&a, &b).unwrap();
        for _ in 0..20 {
            let drawn: Vec<usize> = (0..40).map(|_| rng.below(40)).collect();
            let mut counts = [0; 40];
            drawn.iter().for_each(|&item| counts[item] += 1);
            let of = |list: &[f64]| drawn.iter().map(|&item| list[item]).collect::<Vec<f64>>();
            let listed = RankCorrelation::new(&of(&a), &of(&b)).unwrap().whole();
            assert!((correlation.of(&counts) - listed).abs() < 1e-12);
        }
    }

    #[test]
    fn classes_are_judged_without_the_text_itself() {
        // On a line, by angle: 0 and 1 are of class 5, 2 and 3 of class 6, 4 is alone.
        let angles = [0.0f32, 0.1, 0.5, 0.15, 1.5];
        let rows: Vec<f32> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
        let all = Classed { rows: &rows, classes: &[5, 5, 6, 6, 7] };
        let own: Vec<Option<usize>> = (0..5).map(Some).collect();
        let found = class_ndcg(all, all, &own, (2, 2), 2).unwrap();
        // 0 finds 1 first; 1 finds 3, then 0; 2 finds 3 first; 3 finds 1 and 0.
        let second = 1.0 / 3f64.log2();
        assert_eq!(found, [1.0, second, 1.0, 0.0, 0.0]);
        let stranger = Classed { rows: &rows[..2], classes: &[5] };
        assert_eq!(class_ndcg(stranger, all, &[None], (2, 2), 2).unwrap(), [1.0]);
        assert!(class_ndcg(stranger, all, &[], (2, 2), 2).is_err());
        assert!(class_ndcg(stranger, all, &[None], (2, 3), 2).is_err());
    }
}

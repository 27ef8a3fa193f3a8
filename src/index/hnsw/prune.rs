//! The choice of links: near, and in different directions.
//!
//! The nearest candidate is linked; every other candidate that lies nearer to it than to the node is dropped,
//! since a walk gets there through it; then the same with the nearest that is left (the heuristic of Malkov
//! and Yashunin, algorithm 4; with a factor α > 1, which drops less, that of DiskANN, Subramanya et al., 2019).
//! Where that leaves few links, as it does among near-duplicates, the nearest of the dropped fill up.

use super::links::Link;
use super::points::Points;
use super::walk::Score;

/// How links are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Links chosen, at most.
    pub(super) most: usize,
    /// Links to fill up to with dropped candidates.
    pub(super) least: usize,
    /// A candidate is dropped if `alpha` times its squared distance to a chosen one is less than that to the
    /// node.
    pub(super) alpha: f32,
}

/// Room to work in.
#[derive(Default)]
pub(super) struct Pruning {
    chosen: Vec<Link>,
    dropped: Vec<Link>,
    nodes: Vec<u32>,
    products: Vec<i32>,
    distances: Vec<f32>,
}

impl Pruning {
    /// Leaves the links that the rule chooses among `candidates`, which must be sorted by distance.
    pub(super) fn prune(&mut self, points: &Points, rule: Rule, candidates: &mut Vec<Link>) {
        self.chosen.clear();
        self.dropped.clear();
        while let Some((&nearest, rest)) = candidates.split_first() {
            self.chosen.push(nearest);
            if self.chosen.len() == rule.most || rest.is_empty() {
                break;
            }
            self.drop_near(points, rule.alpha, nearest.node, candidates);
        }
        if self.chosen.len() < rule.least {
            let missing = rule.least - self.chosen.len();
            self.dropped.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.node.cmp(&b.node)));
            self.chosen.extend(self.dropped.iter().take(missing));
        }
        std::mem::swap(candidates, &mut self.chosen);
    }

    /// Removes the first candidate, which was chosen, and all that lie nearer to it than to the node.
    fn drop_near(&mut self, points: &Points, alpha: f32, chosen: u32, candidates: &mut Vec<Link>) {
        candidates.remove(0);
        let count = candidates.len();
        self.nodes.clear();
        self.nodes.extend(candidates.iter().map(|link| link.node));
        self.products.resize(count, 0);
        self.distances.resize(count, 0.0);
        points.from(chosen).score(&self.nodes, &mut self.products, &mut self.distances);
        let mut between = self.distances.iter();
        let dropped = &mut self.dropped;
        candidates.retain(|link| {
            let keep = between.next().is_none_or(|&distance| alpha * distance >= link.distance);
            if !keep {
                dropped.push(*link);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::Data;
    use crate::types::{Codec, Metric};

    fn prune(rows: &[f32], rule: Rule) -> Vec<u32> {
        let data = Data::new(rows.to_vec(), 1, Metric::L2, Codec::Int8);
        let points = Points::new(&data.block());
        let from = points.from(0);
        let mut candidates: Vec<Link> = (1..rows.len() as u32)
            .map(|node| Link { distance: from.score_one(node).distance, node })
            .collect();
        candidates.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        Pruning::default().prune(&points, rule, &mut candidates);
        candidates.iter().map(|link| link.node).collect()
    }

    #[test]
    fn what_lies_behind_a_nearer_one_is_dropped() {
        let rows = [0.0, 1.0, 3.0, -2.0, -10.0, 100.0];
        let rule = Rule { most: 9, least: 0, alpha: 1.0 };
        assert_eq!(prune(&rows, rule), [1, 3]);
        assert_eq!(prune(&rows, Rule { least: 4, ..rule }), [1, 3, 2, 4]);
        assert_eq!(prune(&rows, Rule { most: 1, ..rule }), [1]);
        // 3 − 1 = 2 is less than 3, but 3 × 2² is more than 3².
        assert_eq!(prune(&rows, Rule { alpha: 3.0, ..rule }), [1, 3, 2, 4, 5]);
        assert!(prune(&[0.0], rule).is_empty());
    }
}

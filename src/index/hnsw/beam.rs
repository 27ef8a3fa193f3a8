//! How wide a walk is and how far it reaches, and how both follow from the recall curve of a graph.
//!
//! A beam of fixed width spends as much on a query in a crowd, where it finds the nearest at once, as on one between
//! crowds, where it must look farther. A walk with a reach also ends where the next node is farther than the k-th
//! nearest so far by more than a factor (Al-Jazzazi et al., Distance Adaptive Beam Search, arXiv 2505.15636), and may be
//! wider in return: at the same mean recall it compares about half as many rows. The factor is measured with the
//! curve.

use super::calibrate::MEASURED_K;
use crate::format::graph::{GraphView, RecallPoint};
use crate::index::block::Query;
use crate::types::Metric;

/// Width used where no curve was measured.
pub const DEFAULT_WIDTH: usize = 128;

/// What a walk keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// The width asked for.
    pub ef: usize,
    /// Nodes kept at most.
    pub(super) width: usize,
    /// Nodes kept however far they are: where many lie at a distance of about 0, codes cannot tell how far they reach.
    pub(super) least: usize,
    /// The how many-th nearest node the reach refers to.
    pub(super) near: usize,
    /// Nodes farther than so many times its distance are not kept.
    pub(super) factor: f32,
    /// The distance that counts as 0.
    pub(super) origin: f32,
    /// The distance of the [`near`](Self::near)-th nearest that is known from elsewhere, by another walk.
    pub(super) known: f32,
}

impl Beam {
    /// The `ef` nearest nodes, however far.
    pub fn plain(ef: usize) -> Self {
        let ef = ef.max(1);
        Self { ef, width: ef, least: ef, near: ef, factor: f32::INFINITY, origin: 0.0, known: f32::INFINITY }
    }

    /// About as many as a plain beam must keep for the same recall of `k` neighbours, by the curve of the graph.
    pub(crate) fn measured(graph: &GraphView<'_>, query: &Query, ef: usize, k: usize) -> Self {
        let near = k.max(MEASURED_K);
        match reach_at(graph.curve(), ef.saturating_mul(MEASURED_K) / near) {
            Some(reach) => Self::reaching(graph, query, ef, near, reach),
            None => Self::plain(ef),
        }
    }

    /// The nodes within a reach, given for squares of distances as [`RecallPoint::reach`] is.
    pub(super) fn reaching(graph: &GraphView<'_>, query: &Query, ef: usize, near: usize, reach: f32) -> Self {
        let (factor, origin) = match query.metric {
            // Half the square of the distance between unit vectors.
            Metric::Cosine => (1.0 + reach, 0.0),
            Metric::L2 => ((1.0 + reach).sqrt(), 0.0),
            // Seen from a query all rows lie on a sphere, one dimension up, and no product is larger than this.
            Metric::Dot => (1.0 + reach, -query.length() * graph.longest()),
        };
        let (width, least) = (ef.saturating_add(ef / 2), (ef / 8).max(near).min(ef));
        Self { ef, width, least, near, factor, origin, known: f32::INFINITY }
    }

    /// The same where so many rows are known already that are no farther than this: farther ones are not looked for.
    pub(crate) fn within(self, known: f32) -> Self {
        Self { known, ..self }
    }

    /// Nodes kept however far they are. More where rows are known: such a walk has to come near the query first, through
    /// nodes that lie beyond these, and with few of them it ends beside the nearest (with half of the width it loses .1 to
    /// .7 % of the recall in four blocks of clustered rows, with three quarters .1 %; both take about half of the time).
    pub(super) fn kept_anyway(&self) -> usize {
        if self.known < f32::INFINITY { self.least.max(self.ef * 3 / 4) } else { self.least }
    }

    /// The distance from which on nodes are not kept, given that of the [`near`](Self::near)-th nearest.
    #[inline]
    pub(super) fn limit(&self, near: f32) -> f32 {
        if self.factor == f32::INFINITY {
            return f32::INFINITY;
        }
        self.origin + (near - self.origin) * self.factor
    }
}

/// The reach at a width, between those of the curve; `None` outside of it, or where none was measured.
fn reach_at(curve: &[RecallPoint], ef: usize) -> Option<f32> {
    let after = curve.iter().position(|point| usize::from(point.ef) >= ef)?;
    let high = curve.get(after)?;
    if usize::from(high.ef) == ef {
        return high.reach();
    }
    let low = curve.get(after.checked_sub(1)?)?;
    let [from, to, at] = [usize::from(low.ef), usize::from(high.ef), ef].map(|ef| (ef as f32).ln());
    let part = if to > from { (at - from) / (to - from) } else { 1.0 };
    let (low, high) = (low.reach()?, high.reach()?);
    Some(low + part * (high - low))
}

/// The narrowest beam that reaches `target` by the curve, interpolated between its points; `None` if even
/// the widest measured does not. Without a curve, [`DEFAULT_WIDTH`].
pub fn ef_for(curve: &[RecallPoint], target: f32) -> Option<usize> {
    if curve.is_empty() {
        return Some(DEFAULT_WIDTH);
    }
    let reached = curve.iter().position(|point| point.recall >= target)?;
    let high = curve.get(reached)?;
    let low = reached.checked_sub(1).and_then(|i| curve.get(i));
    let width = match low {
        Some(low) if high.recall > low.recall && high.ef > low.ef => {
            let part = (target - low.recall) / (high.recall - low.recall);
            f32::from(low.ef) + part * f32::from(high.ef - low.ef)
        }
        _ => f32::from(high.ef),
    };
    Some(width.ceil().max(1.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::graph::GraphData;

    #[test]
    fn reaches_are_interpolated_within_the_curve_and_none_beyond() {
        let point = |ef, reach| RecallPoint::new(ef, reach, 0.5);
        let curve = [point(16, Some(0.125)), point(32, Some(0.25)), point(64, Some(0.5)), point(128, None)];
        let of = |ef| reach_at(&curve, ef);
        assert_eq!([of(16), of(32), of(64)], [0.125, 0.25, 0.5].map(Some));
        assert!((of(23).unwrap() - 0.19).abs() < 0.01, "{:?}", of(23));
        assert_eq!([of(15), of(65), of(128), of(129)], [None; 4]);
        assert_eq!(reach_at(&[], 16), None);
    }

    #[test]
    fn a_reach_is_a_share_of_squared_distances() {
        let graph = GraphData { stride: 2, longest: 2.0, ..GraphData::default() };
        let limit = |metric| {
            let query = Query::new(&[0.0, 3.0], metric, 2, 2);
            Beam::reaching(&graph.view(), &query, 64, 10, 0.44).limit(0.5)
        };
        assert!((limit(Metric::Cosine) - 0.72).abs() < 1e-6);
        assert!((limit(Metric::L2) - 0.6).abs() < 1e-6);
        // No product is larger than 3 × 2, so that a product of −0.5 is 6.5 away.
        assert!((limit(Metric::Dot) - (6.5 * 1.44 - 6.0)).abs() < 1e-5);
        assert_eq!(Beam::plain(5).limit(0.5), f32::INFINITY);
    }

    #[test]
    fn widths_are_interpolated() {
        let point = |ef, recall| RecallPoint::new(ef, None, recall);
        let curve = [point(16, 0.5), point(32, 0.9), point(64, 0.9), point(128, 1.0)];
        let of = |target| ef_for(&curve, target);
        assert_eq!(
            [of(0.2), of(0.5), of(0.7), of(0.9), of(0.95), of(1.0)],
            [16, 16, 24, 32, 96, 128].map(Some)
        );
        assert_eq!(ef_for(&curve[..3], 0.95), None);
        assert_eq!(ef_for(&[], 0.95), Some(DEFAULT_WIDTH));
        assert_eq!(ef_for(&[point(0, f32::NAN), point(0, 2.0)], 0.95), Some(1));
        assert_eq!(of(f32::NAN), None);
    }
}

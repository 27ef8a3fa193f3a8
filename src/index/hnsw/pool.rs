//! The nodes a walk keeps: the nearest of those met, in order, and which of them it has to expand.
//!
//! A sorted array rather than a heap: a beam is a few hundred nodes wide, so that moving a part of one or two
//! kilobytes costs less than the branches of a heap. Which node to expand next is known without a search: the array is
//! expanded up to a frontier, but for the few newcomers before it, which have a list of their own.

use super::beam::Beam;
use crate::index::block::Neighbour;

/// The nearest nodes met, nearest first; of equal distances the lower node first.
#[derive(Debug)]
pub(super) struct Pool {
    /// Distance above, then the node.
    keys: Vec<u64>,
    beam: Beam,
    /// Keys from here on lie beyond the reach of the beam.
    limit: u64,
    /// Keys from here on are not wanted.
    bound: u64,
    /// Nodes before this place were expanded, but for the late ones; those from it on were not.
    frontier: usize,
    /// Keys before the frontier that were not expanded, nearest last.
    late: Vec<u64>,
}

impl Default for Pool {
    fn default() -> Self {
        let beam = Beam::plain(1);
        Self { keys: Vec::new(), beam, limit: u64::MAX, bound: u64::MAX, frontier: 0, late: Vec::new() }
    }
}

impl Pool {
    /// Empties the pool and gives it room for what the beam keeps.
    pub(super) fn reset(&mut self, beam: Beam) {
        self.keys.clear();
        self.keys.reserve(beam.width.min(1 << 14) + 1);
        self.beam = Beam { least: beam.kept_anyway(), ..beam };
        self.limit = self.limit(f32::INFINITY);
        self.bound = u64::MAX;
        self.frontier = 0;
        self.late.clear();
    }

    /// Takes a node in if the beam keeps it: if it is within reach and among the nearest `width` so far, or among the
    /// nearest `least`. A node must be offered only once.
    #[inline]
    pub(super) fn offer(&mut self, candidate: Neighbour) {
        let key = candidate.key();
        if key < self.bound {
            self.insert(key);
        }
    }

    fn insert(&mut self, key: u64) {
        let place = self.keys.partition_point(|&kept| kept < key);
        self.keys.insert(place, key);
        if place < self.frontier {
            self.frontier += 1;
            let place = self.late.partition_point(|&waiting| waiting > key);
            self.late.insert(place, key);
        }
        let Beam { width, least, near, .. } = self.beam;
        if place < near
            && let Some(&near) = self.keys.get(near - 1)
        {
            self.limit = self.limit(Neighbour::from_key(near).distance);
        }
        while self.keys.len() > least
            && (self.keys.len() > width || self.keys.last().is_some_and(|&worst| worst >= self.limit))
        {
            self.drop_worst();
        }
        if let Some(&kept) = self.keys.get(least - 1) {
            self.bound = self.limit.max(kept);
            if self.keys.len() == width {
                self.bound = self.keys.last().map_or(self.bound, |&worst| worst.min(self.bound));
            }
        }
    }

    /// The key from which on nodes are beyond reach, where the how many-th nearest is at this distance.
    fn limit(&self, near: f32) -> u64 {
        let distance = self.beam.limit(near.min(self.beam.known));
        if distance.is_finite() { Neighbour { row: 0, distance }.key() } else { u64::MAX }
    }

    #[inline]
    fn drop_worst(&mut self) {
        let worst = self.keys.pop();
        if self.frontier > self.keys.len() {
            self.frontier = self.keys.len();
            if self.late.first().copied() == worst {
                self.late.remove(0);
            }
        }
    }

    /// The nearest node that was not expanded, which now counts as expanded.
    #[inline]
    pub(super) fn expand(&mut self) -> Option<u32> {
        let key = match self.late.pop() {
            Some(key) => key,
            None => {
                let key = *self.keys.get(self.frontier)?;
                self.frontier += 1;
                key
            }
        };
        Some(Neighbour::from_key(key).row)
    }

    /// The node that [`expand`](Self::expand) would return, if no nearer one comes.
    #[inline]
    pub(super) fn next(&self) -> Option<u32> {
        self.upcoming().next()
    }

    /// The nodes that are to be expanded, if no nearer ones come, in order.
    #[inline]
    pub(super) fn upcoming(&self) -> impl Iterator<Item = u32> + '_ {
        let rest = self.keys.get(self.frontier..).unwrap_or_default();
        self.late.iter().rev().chain(rest).map(|&key| Neighbour::from_key(key).row)
    }

    /// The nodes, nearest first.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = Neighbour> + '_ {
        self.keys.iter().map(|&key| Neighbour::from_key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_lies_beyond_the_reach_is_not_kept(
            distances in prop::collection::vec(0f32..2.0, 0..200),
            (least, more, near) in (1usize..30, 0usize..30, 1usize..20),
            factor in 1f32..2.0,
            every in 1usize..7,
        ) {
            let width = least + more;
            let beam = Beam { ef: width, width, least, near, factor, origin: 0.0, known: f32::INFINITY };
            let mut pool = Pool::default();
            pool.reset(beam);
            let mut expanded = std::collections::HashSet::new();
            for (row, &distance) in distances.iter().enumerate() {
                pool.offer(Neighbour { row: row as u32, distance });
                if row % every == 0 {
                    prop_assert!(pool.expand().is_none_or(|row| expanded.insert(row)));
                }
            }
            let mut all: Vec<Neighbour> =
                (0u32..).zip(&distances).map(|(row, &distance)| Neighbour { row, distance }).collect();
            all.sort_unstable();
            let limit = all.get(near - 1).map_or(f32::INFINITY, |near| near.distance * factor);
            let within = all.iter().filter(|node| node.distance < limit).count();
            all.truncate(within.max(least).min(width));
            prop_assert_eq!(&pool.nodes().collect::<Vec<_>>(), &all);
            while let Some(row) = pool.expand() {
                prop_assert!(expanded.insert(row));
            }
            prop_assert!(all.iter().all(|n| expanded.contains(&n.row)));
        }

        #[test]
        fn the_nearest_are_kept_in_order_and_each_is_expanded_once(
            distances in prop::collection::vec(-2f32..2.0, 0..300),
            width in 1usize..60,
            every in 1usize..7,
        ) {
            let mut pool = Pool::default();
            pool.reset(Beam::plain(width));
            let mut expanded = std::collections::HashSet::new();
            for (row, &distance) in distances.iter().enumerate() {
                pool.offer(Neighbour { row: row as u32, distance });
                if row % every == 0 {
                    let next = pool.next();
                    let row = pool.expand();
                    prop_assert_eq!(next, row);
                    prop_assert!(row.is_none_or(|row| expanded.insert(row)));
                }
            }
            let mut all: Vec<Neighbour> =
                (0u32..).zip(&distances).map(|(row, &distance)| Neighbour { row, distance }).collect();
            all.sort_unstable();
            all.truncate(width);
            prop_assert_eq!(&pool.nodes().collect::<Vec<_>>(), &all);
            while let Some(row) = pool.expand() {
                prop_assert!(expanded.insert(row));
            }
            prop_assert!(all.iter().all(|n| expanded.contains(&n.row)));
        }
    }

    #[test]
    fn the_largest_number_and_nan_are_kept_apart() {
        let mut pool = Pool::default();
        pool.reset(Beam::plain(3));
        let last = u32::MAX - 1;
        pool.offer(Neighbour { row: last, distance: f32::NAN });
        pool.offer(Neighbour { row: last - 1, distance: f32::NAN });
        pool.offer(Neighbour { row: 7, distance: 1.0 });
        assert_eq!(pool.nodes().map(|n| n.row).collect::<Vec<_>>(), [7, last - 1, last]);
        assert_eq!(
            [pool.expand(), pool.expand(), pool.expand(), pool.expand()],
            [Some(7), Some(last - 1), Some(last), None]
        );
    }
}

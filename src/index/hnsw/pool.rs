//! The nodes a walk keeps: the nearest `width` of those met, in order, each marked once it was expanded.
//!
//! A sorted array rather than a heap: a beam is a few hundred nodes wide, so that moving a part of one or two
//! kilobytes costs less than the branches of a heap, and the next node to expand is found by a cursor that
//! only a better newcomer moves back.

use crate::index::block::Neighbour;

/// Nodes are numbered below this, so that a mark fits beside the number.
pub(super) const MAX_NODES: usize = 1 << 31;

/// The nearest nodes met, nearest first; of equal distances the lower node first.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Distance above, then the node, then whether it was expanded.
    keys: Vec<u64>,
    width: usize,
    /// Every node before this one was expanded.
    cursor: usize,
}

const EXPANDED: u64 = 1;

/// The key of a node that was not expanded.
#[inline]
fn key(node: Neighbour) -> u64 {
    let key = node.key();
    (key & !0xffff_ffff) | (key & 0x7fff_ffff) << 1
}

#[inline]
fn node(key: u64) -> Neighbour {
    Neighbour::from_key((key & !0xffff_ffff) | (key & 0xffff_ffff) >> 1)
}

impl Pool {
    /// Empties the pool and gives it room for `width` nodes.
    pub(super) fn reset(&mut self, width: usize) {
        self.keys.clear();
        self.keys.reserve(width.min(1 << 14));
        self.width = width.max(1);
        self.cursor = 0;
    }

    /// Takes a node in if it is among the nearest `width` so far. A node must be offered only once.
    #[inline]
    pub(super) fn offer(&mut self, candidate: Neighbour) {
        let key = key(candidate);
        let full = self.keys.len() == self.width;
        if full && self.keys.last().is_some_and(|&worst| key >= worst) {
            return;
        }
        let place = self.keys.partition_point(|&kept| kept < key);
        if full {
            self.keys.pop();
        }
        self.keys.insert(place, key);
        self.cursor = self.cursor.min(place);
    }

    /// The nearest node that was not expanded, which now counts as expanded.
    #[inline]
    pub(super) fn expand(&mut self) -> Option<u32> {
        while let Some(key) = self.keys.get_mut(self.cursor) {
            self.cursor += 1;
            if *key & EXPANDED == 0 {
                *key |= EXPANDED;
                return Some(node(*key).row);
            }
        }
        None
    }

    /// The node that [`expand`](Self::expand) would return, if no nearer one comes.
    #[inline]
    pub(super) fn next(&self) -> Option<u32> {
        let waiting = self.keys.get(self.cursor..)?.iter().find(|&&key| key & EXPANDED == 0)?;
        Some(node(*waiting).row)
    }

    /// The nodes, nearest first.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = Neighbour> + '_ {
        self.keys.iter().map(|&key| node(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_nearest_are_kept_in_order_and_each_is_expanded_once(
            distances in prop::collection::vec(-2f32..2.0, 0..300),
            width in 1usize..60,
            every in 1usize..7,
        ) {
            let mut pool = Pool::default();
            pool.reset(width);
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
        pool.reset(3);
        let last = MAX_NODES as u32 - 1;
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

//! Links of one layer while it is built: read by walks without locks, written by many threads.
//!
//! Each node has a fixed number of places, of which `len` are used, and beside each link its distance, so that
//! pruning need not compute it again. A writer holds the node's lock; walks read in the meantime and may see a
//! list half old, half new: every number they read is a node, and an old link is as good a step as a new one.

use crate::sync::{AtomicU32, Mutex, Ordering};

/// A link to a node, and how far away it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Link {
    pub(super) distance: f32,
    pub(super) node: u32,
}

/// Lists of links of a fixed number of nodes.
pub(super) struct Links {
    places: usize,
    /// Of each node: the number of links, then the links.
    lists: Vec<AtomicU32>,
    /// The distances, as bits.
    distances: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
}

impl Links {
    /// Empty lists of `places` places each.
    pub(super) fn new(nodes: usize, places: usize) -> Self {
        let zeros = |len| (0..len).map(|_| AtomicU32::new(0)).collect();
        let locks = (0..nodes).map(|_| Mutex::new(())).collect();
        Self { places, lists: zeros(nodes * (places + 1)), distances: zeros(nodes * places), locks }
    }

    fn list(&self, node: u32) -> &[AtomicU32] {
        let start = node as usize * (self.places + 1);
        self.lists.get(start..start + self.places + 1).unwrap_or_default()
    }

    fn distances(&self, node: u32) -> &[AtomicU32] {
        let start = node as usize * self.places;
        self.distances.get(start..start + self.places).unwrap_or_default()
    }

    /// The links of a node, for prefetching.
    pub(super) fn memory(&self, node: u32) -> Option<&AtomicU32> {
        self.list(node).first()
    }

    /// Calls `each` with the links of a node.
    #[inline]
    pub(super) fn for_each(&self, node: u32, mut each: impl FnMut(u32)) {
        if let Some((len, links)) = self.list(node).split_first() {
            let used = links.get(..len.load(Ordering::Acquire) as usize).unwrap_or(links);
            used.iter().for_each(|link| each(link.load(Ordering::Relaxed)));
        }
    }

    /// Copies the links of a node.
    pub(super) fn of(&self, node: u32, out: &mut Vec<Link>) {
        out.clear();
        let distances = self.distances(node);
        self.for_each(node, |link| {
            let bits = distances.get(out.len()).map_or(0, |bits| bits.load(Ordering::Relaxed));
            out.push(Link { distance: f32::from_bits(bits), node: link });
        });
    }

    /// Replaces the links of a node by what `change` makes of them; nobody else changes them meanwhile. Links
    /// beyond the number of places are dropped.
    pub(super) fn update(&self, node: u32, room: &mut Vec<Link>, change: impl FnOnce(&mut Vec<Link>)) {
        let Some(lock) = self.locks.get(node as usize) else { return };
        let _alone = lock.lock();
        self.of(node, room);
        change(room);
        self.write(node, 0, room);
    }

    /// Adds a link if it is new and there is a place left; false if there is none.
    pub(super) fn push(&self, node: u32, link: Link) -> bool {
        let Some(lock) = self.locks.get(node as usize) else { return true };
        let _alone = lock.lock();
        let mut len = 0;
        let mut known = false;
        self.for_each(node, |target| {
            len += 1;
            known |= target == link.node;
        });
        if !known && len < self.places {
            self.write(node, len, &[link]);
        }
        known || len < self.places
    }

    /// Writes links from a place on; the list ends with them.
    fn write(&self, node: u32, start: usize, links: &[Link]) {
        let (Some((len, places)), distances) = (self.list(node).split_first(), self.distances(node)) else {
            return;
        };
        let places = places.iter().zip(distances).skip(start);
        let mut used = start;
        for (link, (place, distance)) in links.iter().zip(places) {
            place.store(link.node, Ordering::Relaxed);
            distance.store(link.distance.to_bits(), Ordering::Relaxed);
            used += 1;
        }
        len.store(used as u32, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(links: &Links, node: u32) -> Vec<u32> {
        let mut out = Vec::new();
        links.for_each(node, |link| out.push(link));
        out
    }

    #[test]
    fn lists_take_links_while_there_is_room() {
        let links = Links::new(2, 2);
        let link = |node| Link { distance: node as f32, node };
        assert!(links.push(1, link(5)) && links.push(1, link(5)) && links.push(1, link(6)));
        assert!(!links.push(1, link(7)));
        assert!(links.push(9, link(7)), "a node that is not there takes nothing and asks for nothing");
        assert_eq!(nodes(&links, 1), [5, 6]);
        let mut room = Vec::new();
        links.update(1, &mut room, |list| {
            assert_eq!(*list, [link(5), link(6)]);
            list.remove(0);
            list.extend([link(8), link(9)]);
        });
        assert_eq!(nodes(&links, 1), [6, 8]);
        assert!(nodes(&links, 0).is_empty() && nodes(&links, 7).is_empty());
    }

    #[test]
    fn many_threads_lose_no_link() {
        let links = Links::new(1, 4000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let links = &links;
                scope.spawn(move || {
                    (0..1000).for_each(|i| {
                        assert!(links.push(0, Link { distance: 0.0, node: thread * 1000 + i }))
                    });
                });
            }
        });
        let mut all = nodes(&links, 0);
        all.sort_unstable();
        assert_eq!(all, (0..4000).collect::<Vec<u32>>());
    }
}

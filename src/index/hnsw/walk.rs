//! Walks through a graph: a beam that keeps the nearest nodes, and the descent to where it starts.
//!
//! The same walk serves search in a mapped graph and construction, where links change under it. All links of
//! a node that were not seen yet are compared in one call, so that their rows are requested from memory
//! together.
//!
//! Links are foreign data: ids out of range are passed over, and no walk visits a node twice.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::beam::Beam;
use super::pool::Pool;
use crate::index::block::{Neighbour, TopK};

/// Lists of links of one layer.
pub(super) trait Adjacency {
    /// Number of nodes; links to others are passed over.
    fn nodes(&self) -> usize;
    /// Calls `each` with every link of a node.
    fn for_each(&self, node: u32, each: impl FnMut(u32));
    /// Requests the list of a node from where it lies.
    fn request(&self, node: u32);
    /// Whether lists and rows lie in files that may not be in memory.
    fn by_page(&self) -> bool {
        false
    }
}

/// Distances to the vector that a walk looks for.
pub(super) trait Score {
    /// Writes the distances of rows, in order; `room` to work in is twice as long as `rows`.
    fn score(&self, rows: &[u32], room: &mut [i32], distances: &mut [f32]);
    /// Requests what belongs to a row from memory; the row itself only if `whole`.
    fn request(&self, row: u32, whole: bool);
    /// Requests a row from where it lies, if that is not memory.
    fn request_pages(&self, _: u32) {}

    /// The distance of one row.
    #[inline]
    fn score_one(&self, row: u32) -> Neighbour {
        let mut distance = [0.0];
        self.score(&[row], &mut [0; 2], &mut distance);
        Neighbour { row, distance: distance[0] }
    }
}

/// Rows that are requested before they are compared; those after them are requested by the comparison.
const AHEAD: usize = 4;

/// Room for walks, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    visited: Visited,
    pub(super) pool: Pool,
    fresh: Vec<u32>,
    room: Vec<i32>,
    distances: Vec<f32>,
    lists_requested: HashMap<u32, Requested>,
    rows_requested: HashSet<u32>,
}

/// What was requested of a node from where it lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requested {
    List,
    /// The rows that its list leads to.
    Rows,
}

impl Scratch {
    /// Forgets earlier walks.
    pub(super) fn begin(&mut self, nodes: usize) {
        self.visited.begin(nodes);
        self.lists_requested.clear();
        self.rows_requested.clear();
    }

    /// Marks a node as visited; false if it was.
    pub(super) fn visit(&mut self, node: u32) -> bool {
        self.visited.insert(node)
    }

    /// Requests what the next steps of a walk will read if nothing nearer comes: the lists of the nodes to be expanded,
    /// and a step later the rows that these lead to. Each step would else wait twice for the disk.
    #[cold]
    fn look_ahead(&mut self, graph: &impl Adjacency, score: &impl Score, pool: &Pool) {
        /// Nodes that are looked at: of more, most would be overtaken by nearer ones.
        const NODES: usize = 6;
        for node in pool.upcoming().take(NODES) {
            match self.lists_requested.get(&node) {
                None => {
                    graph.request(node);
                    self.lists_requested.insert(node, Requested::List);
                }
                Some(Requested::List) => {
                    graph.for_each(node, |link| {
                        if !self.visited.contains(link) && self.rows_requested.insert(link) {
                            score.request_pages(link);
                        }
                    });
                    self.lists_requested.insert(node, Requested::Rows);
                }
                Some(Requested::Rows) => {}
            }
        }
    }

    /// Requests the rows that are compared next.
    #[cold]
    fn request_fresh(&mut self, score: &impl Score) {
        let wanted = self.fresh.iter().filter(|&&row| self.rows_requested.insert(row));
        wanted.for_each(|&row| score.request_pages(row));
    }

    /// The distances of all links of a node that were not visited before.
    #[inline]
    fn compare<'s, G: Adjacency, S: Score>(
        &'s mut self,
        graph: &G,
        score: &S,
        node: u32,
    ) -> impl ExactSizeIterator<Item = Neighbour> + use<'s, G, S> {
        self.fresh.clear();
        let (fresh, visited) = (&mut self.fresh, &mut self.visited);
        graph.for_each(node, |link| {
            if visited.insert(link) {
                score.request(link, fresh.len() < AHEAD);
                fresh.push(link);
            }
        });
        self.scored(graph, score)
    }

    /// Collects the links of a node that pass and were not visited before, and where they are fewer than `wanted`,
    /// those of its links that do not; `blocked` is room to work in.
    fn gather(
        &mut self,
        graph: &impl Adjacency,
        score: &impl Score,
        node: u32,
        passes: impl Fn(u32) -> bool,
        wanted: usize,
        blocked: &mut Vec<u32>,
    ) {
        self.fresh.clear();
        blocked.clear();
        let (fresh, visited) = (&mut self.fresh, &mut self.visited);
        graph.for_each(node, |link| {
            if !passes(link) {
                graph.request(link);
                blocked.push(link);
            } else if visited.insert(link) {
                score.request(link, fresh.len() < AHEAD);
                fresh.push(link);
            }
        });
        for &link in &*blocked {
            if fresh.len() >= wanted {
                break;
            }
            if visited.insert(link) {
                graph.for_each(link, |link| {
                    if passes(link) && visited.insert(link) {
                        score.request(link, fresh.len() < AHEAD);
                        fresh.push(link);
                    }
                });
            }
        }
    }

    /// The distances of the links that were collected.
    #[inline]
    fn scored<'s, G: Adjacency, S: Score>(
        &'s mut self,
        graph: &G,
        score: &S,
    ) -> impl ExactSizeIterator<Item = Neighbour> + use<'s, G, S> {
        if graph.by_page() {
            self.request_fresh(score);
        }
        let fresh = &self.fresh;
        let count = fresh.len();
        if self.distances.len() < count {
            self.room.resize(2 * count, 0);
            self.distances.resize(count, 0.0);
        }
        let (room, distances) = (&mut self.room[..2 * count], &mut self.distances[..count]);
        score.score(fresh, room, distances);
        self.fresh.iter().zip(&self.distances[..count]).map(|(&row, &distance)| Neighbour { row, distance })
    }
}

/// Walks from the starts; what the beam keeps is then in the pool. Returns the number of distances computed.
pub(super) fn beam(
    graph: &impl Adjacency,
    score: &impl Score,
    starts: &[Neighbour],
    kept: Beam,
    scratch: &mut Scratch,
) -> usize {
    scratch.begin(graph.nodes());
    let mut pool = std::mem::take(&mut scratch.pool);
    pool.reset(kept);
    for &start in starts {
        if scratch.visit(start.row) {
            pool.offer(start);
        }
    }
    let mut spent = starts.len();
    while let Some(node) = pool.expand() {
        if graph.by_page() {
            scratch.look_ahead(graph, score, &pool);
        } else if let Some(next) = pool.next() {
            graph.request(next);
        }
        for near in scratch.compare(graph, score, node) {
            spent += 1;
            pool.offer(near);
        }
    }
    scratch.pool = pool;
    spent
}

/// What a walk under a mask came to.
pub(super) struct Gated {
    pub(super) nearest: Vec<Neighbour>,
    pub(super) spent: usize,
    /// False if the budget ended the walk.
    pub(super) complete: bool,
}

/// Walks like [`beam`] with a width of `ef`, but keeps only what `keep` pushes for a node: of nodes that may not be results, the
/// walk passes through as many as it must to keep `ef`. Ends once `budget` distances were computed.
pub(super) fn gated_beam(
    graph: &impl Adjacency,
    score: &impl Score,
    starts: &[Neighbour],
    ef: usize,
    budget: usize,
    scratch: &mut Scratch,
    keep: impl Fn(Neighbour, &mut TopK),
) -> Gated {
    scratch.begin(graph.nodes());
    let mut nearest = TopK::new(ef);
    let mut open = BinaryHeap::with_capacity(2 * ef.min(1 << 12));
    for &start in starts {
        if scratch.visit(start.row) {
            keep(start, &mut nearest);
            open.push(Reverse(start.key()));
        }
    }
    let (mut spent, mut complete) = (starts.len(), true);
    while let Some(Reverse(key)) = open.pop() {
        if key > nearest.bound() {
            break;
        }
        if spent >= budget {
            complete = false;
            break;
        }
        for near in scratch.compare(graph, score, Neighbour::from_key(key).row) {
            spent += 1;
            if near.key() < nearest.bound() {
                if graph.by_page() {
                    graph.request(near.row);
                }
                open.push(Reverse(near.key()));
                keep(near, &mut nearest);
            }
        }
    }
    Gated { nearest: nearest.into_sorted(), spent, complete }
}

/// Walks from one node that passes to the next (ACORN-1, Patel et al., arXiv 2403.04871): in the place of a link that
/// does not pass stand those of its links that do, as long as a node has fewer than `wanted` neighbours. Only nodes
/// that pass are compared. Keeps what `keep` pushes for them, and ends once `budget` distances were computed. The
/// starts need not pass.
#[expect(clippy::too_many_arguments, reason = "those of a gated beam, and which nodes pass")]
pub(super) fn gated_hops(
    graph: &impl Adjacency,
    score: &impl Score,
    starts: &[Neighbour],
    passes: impl Fn(u32) -> bool,
    ef: usize,
    budget: usize,
    scratch: &mut Scratch,
    keep: impl Fn(Neighbour, &mut TopK),
) -> Gated {
    /// About as many as an unfiltered node has links.
    const WANTED: usize = 32;
    scratch.begin(graph.nodes());
    let mut nearest = TopK::new(ef);
    let mut open = BinaryHeap::with_capacity(2 * ef.min(1 << 12));
    for &start in starts {
        if scratch.visit(start.row) {
            if passes(start.row) {
                keep(start, &mut nearest);
            }
            open.push(Reverse(start.key()));
        }
    }
    let (mut spent, mut complete) = (starts.len(), true);
    let mut blocked = Vec::new();
    while let Some(Reverse(key)) = open.pop() {
        if key > nearest.bound() {
            break;
        }
        if spent >= budget {
            complete = false;
            break;
        }
        scratch.gather(graph, score, Neighbour::from_key(key).row, &passes, WANTED, &mut blocked);
        for near in scratch.scored(graph, score) {
            spent += 1;
            if near.key() < nearest.bound() {
                if graph.by_page() {
                    graph.request(near.row);
                }
                open.push(Reverse(near.key()));
                keep(near, &mut nearest);
            }
        }
    }
    Gated { nearest: nearest.into_sorted(), spent, complete }
}

/// Of the nodes within two links of one, how many pass: a share, some of them counted more than once.
pub(super) fn share_around(graph: &impl Adjacency, node: u32, passes: impl Fn(u32) -> bool) -> f64 {
    let mut links = Vec::new();
    graph.for_each(node, |link| {
        graph.request(link);
        links.push(link);
    });
    let (mut all, mut passing) = (0u32, 0u32);
    let mut look = |link| {
        all += 1;
        passing += u32::from(passes(link));
    };
    links.iter().for_each(|&link| graph.for_each(link, &mut look));
    f64::from(passing) / f64::from(all.max(1))
}

/// Goes on to the nearest link as long as it is nearer than the node itself.
pub(super) fn descend(
    graph: &impl Adjacency,
    score: &impl Score,
    start: Neighbour,
    scratch: &mut Scratch,
    spent: &mut usize,
) -> Neighbour {
    scratch.begin(graph.nodes());
    scratch.visit(start.row);
    let mut best = start;
    loop {
        let links = scratch.compare(graph, score, best.row);
        *spent += links.len();
        match links.min().filter(|nearest| *nearest < best) {
            Some(nearest) => best = nearest,
            None => return best,
        }
    }
}

/// Which nodes this walk has seen: a bit each, so that the marks of a hundred thousand nodes lie in the
/// nearest cache. The bits of a walk are cleared one by one before the next, unless it saw most words.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    nodes: usize,
    seen: Vec<u32>,
}

impl Visited {
    fn begin(&mut self, nodes: usize) {
        let (words, seen) = (&mut self.words, &mut self.seen);
        if seen.len() > words.len() / 4 {
            words.fill(0);
        } else {
            seen.iter().for_each(|&node| words[node as usize / 64] = 0);
        }
        seen.clear();
        if words.len() < nodes.div_ceil(64) {
            words.resize(nodes.div_ceil(64), 0);
        }
        self.nodes = nodes;
    }

    fn contains(&self, node: u32) -> bool {
        self.words.get(node as usize / 64).is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// Marks a node; false if it was marked already or is out of range.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        let bit = 1 << (node % 64);
        match self.words.get_mut(node as usize / 64) {
            Some(word) if *word & bit == 0 && (node as usize) < self.nodes => {
                *word |= bit;
                self.seen.push(node);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::Random;

    struct Lists(Vec<Vec<u32>>);

    impl Adjacency for Lists {
        fn nodes(&self) -> usize {
            self.0.len()
        }
        fn for_each(&self, node: u32, each: impl FnMut(u32)) {
            self.0[node as usize].iter().copied().for_each(each);
        }
        fn request(&self, _: u32) {}
    }

    struct Distances(Vec<f32>);

    impl Score for Distances {
        fn score(&self, rows: &[u32], _: &mut [i32], distances: &mut [f32]) {
            rows.iter().zip(distances).for_each(|(&row, d)| *d = self.0[row as usize]);
        }
        fn request(&self, _: u32, _: bool) {}
    }

    /// The sorted pool and the two heaps are two ways to the same nodes.
    #[test]
    fn both_beams_find_the_same() {
        let mut scratch = Scratch::default();
        for seed in 0..200 {
            let mut random = Random(seed);
            let n = 2 + random.below(300);
            let lists = (0..n).map(|_| (0..random.below(9)).map(|_| random.below(n + 3) as u32).collect());
            let graph = Lists(lists.collect());
            let score = Distances((0..n).map(|_| random.normal().abs()).collect());
            let starts = [score.score_one(0), score.score_one(n as u32 - 1)];
            let ef = 1 + random.below(40);
            let spent = beam(&graph, &score, &starts, Beam::plain(ef), &mut scratch);
            let pool: Vec<Neighbour> = scratch.pool.nodes().collect();
            let keep = |n: Neighbour, top: &mut TopK| top.push(n.row, n.distance);
            let gated = gated_beam(&graph, &score, &starts, ef, usize::MAX, &mut scratch, keep);
            assert_eq!((pool, spent), (gated.nearest, gated.spent), "seed {seed}");
        }
    }

    #[test]
    fn marks_last_for_one_walk() {
        let mut visited = Visited::default();
        for nodes in [3, 700, 2, 65, 64, 0, 1000] {
            visited.begin(nodes);
            for node in (0..nodes as u32 + 70).step_by(1 + nodes % 5) {
                assert_eq!(visited.insert(node), (node as usize) < nodes, "{node} of {nodes}");
                assert!(!visited.insert(node));
            }
        }
    }
}

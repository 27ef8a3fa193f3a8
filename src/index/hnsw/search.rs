//! Search in a frozen graph: down the upper layers, a beam through layer 0, the best compared exactly.
//!
//! Distances on the way are between int8 codes (f32 rows where there are none); the last
//! [`rescored`] are compared again by the most exact form stored. Marks of visited nodes are numbers
//! of searches, so that nothing need be cleared; each thread keeps its own. Memory of the next nodes is
//! requested while earlier ones are compared.
//!
//! The beam starts at the node that the descent found *and* at the entry, from which every node can be
//! reached: a beam as wide as the graph therefore finds everything.
//!
//! The graph is foreign data: ids out of range are passed over, and no walk visits a node twice.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use roaring::RoaringBitmap;

use crate::format::graph::{GraphView, MAX_STRIDE};
use crate::index::block::{CodeDistance, FullDistance, Neighbour, Query, TopK, VectorBlock};
use crate::index::flat::{matches, rescore, rescored};
use crate::kernel;

/// How many nodes ahead memory is requested.
const AHEAD: usize = 4;

/// What a walk through the graph came to.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The nearest nodes met, at most `ef`, nearest first, by the distance of the walk.
    pub neighbours: Vec<Neighbour>,
    /// Distances computed.
    pub spent: usize,
    /// False if the budget ended the walk.
    pub complete: bool,
}

/// The `k` nearest rows that a beam of width `ef` finds, compared exactly, among those allowed. All rows
/// are walked through, so a filter that leaves few of them makes for a long walk.
pub fn search(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    k: usize,
    ef: usize,
    allowed: Option<&RoaringBitmap>,
) -> Vec<Neighbour> {
    let found = traverse(block, graph, query, ef.max(k), allowed, usize::MAX);
    finish(block, query, &found, k)
}

/// Compares the best of a walk exactly.
pub(crate) fn finish(block: &VectorBlock<'_>, query: &Query, found: &Found, k: usize) -> Vec<Neighbour> {
    let best = found.neighbours.get(..rescored(k)).unwrap_or(&found.neighbours);
    rescore(block, query, best, k)
}

/// Walks the graph with a beam of width `ef`, until `budget` distances were computed.
pub(crate) fn traverse(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    ef: usize,
    allowed: Option<&RoaringBitmap>,
    budget: usize,
) -> Found {
    if !matches(block, query) || graph.nodes() != block.len || block.len == 0 {
        return Found { complete: true, ..Found::default() };
    }
    let mut visited = VISITED.take();
    visited.begin(block.len);
    let found = if block.has_codes() {
        Walk { graph, score: &CodeDistance::new(block, query), allowed, budget }.run(ef, &mut visited)
    } else {
        Walk { graph, score: &FullDistance::new(block, query), allowed, budget }.run(ef, &mut visited)
    };
    VISITED.set(visited);
    found
}

/// The distance that walks see between the query and a row.
pub(super) fn distance_of(block: &VectorBlock<'_>, query: &Query, row: u32) -> f32 {
    if block.has_codes() {
        CodeDistance::new(block, query).score(row)
    } else {
        FullDistance::new(block, query).score(row)
    }
}

thread_local! {
    static VISITED: Cell<Visited> = const { Cell::new(Visited { marks: Vec::new(), search: 0 }) };
}

/// Which nodes this search has seen.
#[derive(Default)]
struct Visited {
    marks: Vec<u16>,
    search: u16,
}

impl Visited {
    fn begin(&mut self, nodes: usize) {
        self.search = self.search.wrapping_add(1);
        if self.search == 0 {
            self.marks.fill(0);
            self.search = 1;
        }
        if self.marks.len() < nodes {
            self.marks.resize(nodes, 0);
        }
    }

    /// Marks a node; false if it was marked already or is out of range.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        match self.marks.get_mut(node as usize) {
            Some(mark) if *mark != self.search => {
                *mark = self.search;
                true
            }
            _ => false,
        }
    }
}

/// Distances to a query, for walks.
trait Score {
    fn score(&self, row: u32) -> f32;
    fn prefetch(&self, row: u32);
}

impl Score for CodeDistance<'_> {
    #[inline]
    fn score(&self, row: u32) -> f32 {
        self.coarse(row)
    }

    #[inline]
    fn prefetch(&self, row: u32) {
        kernel::prefetch(bytemuck::cast_slice(self.prefix(row)));
    }
}

impl Score for FullDistance<'_> {
    #[inline]
    fn score(&self, row: u32) -> f32 {
        self.distance(row)
    }

    #[inline]
    fn prefetch(&self, row: u32) {
        kernel::prefetch(bytemuck::cast_slice(self.prefix(row)));
    }
}

struct Walk<'w, 'a, S> {
    graph: &'w GraphView<'a>,
    score: &'w S,
    allowed: Option<&'w RoaringBitmap>,
    budget: usize,
}

impl<S: Score> Walk<'_, '_, S> {
    fn run(&self, ef: usize, visited: &mut Visited) -> Found {
        let mut found = Found { complete: true, ..Found::default() };
        let entry = self.neighbour(self.graph.entry());
        let start = self.descend(entry, &mut found.spent);
        let mut nearest = TopK::new(ef);
        let mut open = BinaryHeap::with_capacity(2 * ef.min(1 << 12));
        for node in [start, entry] {
            if visited.insert(node.row) {
                self.keep(&mut nearest, node);
                open.push(Reverse(node.key()));
            }
        }
        let mut fresh = [0u32; MAX_STRIDE];
        while let Some(Reverse(key)) = open.pop() {
            if key > nearest.bound() {
                break;
            }
            if found.spent >= self.budget {
                found.complete = false;
                break;
            }
            let count = self.gather(Neighbour::from_key(key).row, visited, &mut fresh);
            let fresh = &fresh[..count];
            found.spent += count;
            for (i, &row) in fresh.iter().enumerate() {
                if let Some(&later) = fresh.get(i + AHEAD) {
                    self.score.prefetch(later);
                }
                let node = self.neighbour(row);
                if node.key() < nearest.bound() {
                    open.push(Reverse(node.key()));
                    self.keep(&mut nearest, node);
                }
            }
        }
        found.neighbours = nearest.into_sorted();
        found
    }

    #[inline]
    fn neighbour(&self, row: u32) -> Neighbour {
        Neighbour { row, distance: self.score.score(row) }
    }

    #[inline]
    fn keep(&self, nearest: &mut TopK, node: Neighbour) {
        if self.allowed.is_none_or(|rows| rows.contains(node.row)) {
            nearest.push(node.row, node.distance);
        }
    }

    /// The links of a node that this search has not seen; requests the memory of the first.
    #[inline]
    fn gather(&self, node: u32, visited: &mut Visited, fresh: &mut [u32; MAX_STRIDE]) -> usize {
        let mut count = 0;
        for &link in self.graph.links(node) {
            if (link as usize) < self.graph.nodes() && visited.insert(link) {
                if count < AHEAD {
                    self.score.prefetch(link);
                }
                if let Some(place) = fresh.get_mut(count) {
                    *place = link;
                    count += 1;
                }
            }
        }
        count
    }

    /// Goes to the nearest member of each upper layer in turn, by steps that each come nearer.
    fn descend(&self, entry: Neighbour, spent: &mut usize) -> Neighbour {
        let mut best = entry;
        for layer in (1..=self.graph.layers()).rev() {
            loop {
                let links = self.graph.upper_links(layer, best.row);
                *spent += links.len();
                let in_range = links.iter().filter(|link| (**link as usize) < self.graph.nodes());
                let Some(next) = in_range.map(|&link| self.neighbour(link)).min().filter(|n| *n < best)
                else {
                    break;
                };
                best = next;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{BuildParams, build};
    use super::*;
    use crate::format::graph::GraphData;
    use crate::index::flat::scan;
    use crate::index::testing::{Data, METRICS, Random, overlap};
    use crate::options::Task;
    use crate::types::{Codec, Metric};

    const FAST: BuildParams = BuildParams { m: 8, ef_construction: 60, seed: 1 };

    fn graph_of(data: &Data) -> GraphData {
        build(&data.block(), &FAST, &Task::default(), 1).unwrap()
    }

    #[test]
    fn a_beam_as_wide_as_the_graph_equals_the_scan() {
        for metric in METRICS {
            let data = Data::clustered(400, 12, metric, Codec::Int8F32, 6);
            let graph = graph_of(&data);
            for vector in data.queries(10, 2) {
                let query = Query::new(&vector, metric, 12, 12);
                let found = search(&data.block(), &graph.view(), &query, 20, 400, None);
                assert_eq!(found, scan(&data.block(), &query, 20, None));
            }
        }
    }

    #[test]
    fn a_mask_gates_results_but_not_the_walk() {
        let data = Data::clustered(900, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        let allowed: RoaringBitmap = (0..900).filter(|row| row % 2 == 1).collect();
        let mut recall = 0.0;
        for vector in data.queries(30, 2) {
            let query = Query::new(&vector, Metric::Cosine, 12, 12);
            let found = search(&data.block(), &graph.view(), &query, 10, 80, Some(&allowed));
            assert!(found.iter().all(|n| n.row % 2 == 1));
            let truth: Vec<u32> =
                scan(&data.block(), &query, 10, Some(&allowed)).iter().map(|n| n.row).collect();
            recall += overlap(&truth, &found) / 30.0;
        }
        assert!(recall > 0.97, "{recall}");
    }

    #[test]
    fn a_budget_ends_the_walk() {
        let data = Data::clustered(500, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        let query = Query::new(&data.queries(1, 2)[0], Metric::Cosine, 12, 12);
        let walk = |budget| traverse(&data.block(), &graph.view(), &query, 500, None, budget);
        let (short, long) = (walk(100), walk(usize::MAX));
        assert!(!short.complete && short.spent < 100 + 2 * FAST.m);
        assert!(long.complete && long.neighbours.len() == 500);
    }

    #[test]
    fn marks_survive_the_wrap_of_their_numbers() {
        let mut visited = Visited::default();
        for _ in 0..70_000 {
            visited.begin(3);
            assert!(visited.insert(1) && !visited.insert(1) && !visited.insert(3));
        }
    }

    #[test]
    fn any_bytes_give_a_result_or_an_error() {
        let data = Data::clustered(300, 8, Metric::Cosine, Codec::Int8F32, 6);
        let bytes = graph_of(&data).encode();
        let query = Query::new(&data.queries(1, 2)[0], Metric::Cosine, 8, 8);
        let mut random = Random(1);
        let mut searched = 0;
        for round in 0..4000 {
            let mut damaged = bytes.clone();
            // Half of the damage in the header, where it matters most.
            let span = if round % 2 == 0 { 256 } else { damaged.len() };
            for _ in 0..1 + random.below(8) {
                let at = random.below(span);
                damaged[at] ^= 1 << random.below(8);
            }
            if round % 5 == 0 {
                let at = 256 + random.below(damaged.len() - 256);
                damaged[at..].iter_mut().take(400).for_each(|byte| *byte = random.next() as u8);
            }
            if let Ok(view) = GraphView::parse(&damaged) {
                let found = search(&data.block(), &view, &query, 10, 50, None);
                assert!(found.iter().all(|n| n.row < 300));
                searched += usize::from(!found.is_empty());
            }
        }
        assert!(searched > 1000, "only {searched} damaged graphs were searched");
    }

    #[test]
    fn a_graph_of_another_block_finds_nothing() {
        let (data, other) = (
            Data::clustered(100, 8, Metric::L2, Codec::Int8F32, 6),
            Data::clustered(99, 8, Metric::L2, Codec::Int8F32, 6),
        );
        let query = Query::new(&[0.0; 8], Metric::L2, 8, 8);
        assert!(search(&data.block(), &graph_of(&other).view(), &query, 5, 50, None).is_empty());
    }
}

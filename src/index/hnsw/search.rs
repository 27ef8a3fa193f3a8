//! Search in a frozen graph: down the upper layers, a beam through layer 0, the best compared exactly.
//!
//! Distances on the way are between int8 codes, by those of their planes that the graph's recall was measured with
//! (f32 rows where there are no codes); the best [`rescored`] are compared again by the most exact form stored.
//!
//! The beam starts at the node that the descent found *and* at the entry, from which every node can be
//! reached: a beam as wide as the graph therefore finds everything.

use std::cell::RefCell;

use super::beam::Beam;
use super::walk::{Adjacency, Score, Scratch, beam, descend, gated_beam, gated_hops, share_around};
use crate::format::graph::{GraphView, NO_NODE};
use crate::index::block::{Neighbour, Query, TopK, VectorBlock};
use crate::index::distance::{CodeDistance, FullDistance, Grade};
use crate::index::flat::{matches, rescore, rescored};
use crate::index::mask::RowMask;
use crate::kernel;
use crate::mmap;

/// Of a walk that saw fewer dimensions so many times as many rows are compared exactly as of a scan: 256 of 768
/// dimensions of a model that was trained for it hold .997 of the ten nearest among their best 40, all among 100.
const NARROW: usize = 3;

/// What a walk through the graph came to.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The nearest nodes met, at most `ef`, nearest first, by the distance of the walk.
    pub neighbours: Vec<Neighbour>,
    /// Distances computed.
    pub spent: usize,
    /// False if the budget ended the walk, or nothing around the query is allowed.
    pub complete: bool,
    /// Whether the walk compared fewer dimensions than the query ranks by.
    pub narrow: bool,
}

impl Found {
    /// Those to compare exactly for the `k` nearest: of a wide walk more than of a scan, since the recall that made it
    /// wide is lost where the order of its nodes is rough; and more again where it saw fewer dimensions.
    pub(crate) fn compared(&self, k: usize) -> &[Neighbour] {
        let few = rescored(k);
        let most = if self.narrow { NARROW * few } else { few.max((self.neighbours.len() / 2).min(2 * few)) };
        self.neighbours.get(..most).unwrap_or(&self.neighbours)
    }
}

/// The `k` nearest rows that a beam of width `ef` finds, compared exactly, among those allowed. All rows
/// are walked through, so a filter that leaves few of them makes for a long walk.
///
/// Nearest first, with the metric's distance. A beam narrower than `k` is widened to it. Nothing for a query prepared
/// for another dimension or metric, or a graph of another number of nodes than the block has rows.
pub fn search(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    k: usize,
    ef: usize,
    allowed: Option<&RowMask>,
) -> Vec<Neighbour> {
    let found = traverse(block, graph, query, Beam::plain(ef.max(k)), allowed, usize::MAX);
    finish(block, query, &found, k, f32::INFINITY)
}

/// The same with all rows allowed, as if the graph had no node for the row `without`: no link leads to it.
pub(crate) fn search_without(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    k: usize,
    beam: Beam,
    without: u32,
) -> Vec<Neighbour> {
    finish(block, query, &walk(block, graph, query, Way::Without(without), beam), k, f32::INFINITY)
}

/// Compares the best of a walk exactly, as far as they may be `within` a distance.
pub(crate) fn finish(
    block: &VectorBlock<'_>,
    query: &Query,
    found: &Found,
    k: usize,
    within: f32,
) -> Vec<Neighbour> {
    rescore(block, query, found.compared(k), k, within)
}

/// Walks the graph; under a mask with a plain beam, until `budget` distances were computed.
///
/// Walks with a budget end before they begin where around the query less than half of the share of rows is allowed
/// that is allowed in all: the nearest of them then lie elsewhere, in no order that a walk could follow.
pub(crate) fn traverse(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    beam: Beam,
    allowed: Option<&RowMask>,
    budget: usize,
) -> Found {
    walk(block, graph, query, Way::Through(allowed, budget), beam)
}

/// Walks from one allowed row to the next, over rows that are not allowed, until `budget` distances were computed.
pub(crate) fn traverse_allowed(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    ef: usize,
    allowed: &RowMask,
    budget: usize,
) -> Found {
    walk(block, graph, query, Way::Hops(allowed, budget), Beam::plain(ef))
}

/// How a walk goes through a graph.
enum Way<'m> {
    /// Through all nodes, to those that are allowed, within a budget.
    Through(Option<&'m RowMask>, usize),
    /// From one allowed row to the next, within a budget.
    Hops(&'m RowMask, usize),
    /// Through all nodes but one.
    Without(u32),
}

impl Way<'_> {
    /// Whether every row may be found. A filter may leave only far rows, which fewer dimensions cannot tell apart.
    fn is_free(&self) -> bool {
        !matches!(self, Self::Through(Some(_), _) | Self::Hops(..))
    }
}

fn walk(block: &VectorBlock<'_>, graph: &GraphView<'_>, query: &Query, way: Way<'_>, beam: Beam) -> Found {
    if !matches(block, query) || graph.nodes() != block.len || block.len == 0 {
        return Found { complete: true, ..Found::default() };
    }
    if block.has_codes() {
        let narrow = if way.is_free() { query.narrowed(graph.sight().rung as usize) } else { None };
        // Distances of fewer dimensions are others.
        let beam = if narrow.is_some() { beam.within(f32::INFINITY) } else { beam };
        let score = CodeDistance::new(block, narrow.as_ref().unwrap_or(query), Grade::of(graph));
        score.request_columns();
        Found { narrow: narrow.is_some(), ..Walk { graph, score: &score }.go(way, beam) }
    } else {
        Walk { graph, score: &FullDistance::new(block, query) }.go(way, beam)
    }
}

/// The distance that walks see between the query and a row.
pub(super) fn distance_of(block: &VectorBlock<'_>, grade: Grade, query: &Query, row: u32) -> f32 {
    if block.has_codes() {
        CodeDistance::new(block, query, grade).score_one(row).distance
    } else {
        FullDistance::new(block, query).score_one(row).distance
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Score for CodeDistance<'_> {
    #[inline]
    fn score(&self, rows: &[u32], room: &mut [i32], distances: &mut [f32]) {
        self.rows(rows, room, distances);
    }

    #[inline]
    fn request(&self, row: u32, whole: bool) {
        self.request(row, whole);
    }

    fn request_pages(&self, row: u32) {
        self.request_pages(row);
    }
}

impl Score for FullDistance<'_> {
    fn score(&self, rows: &[u32], _: &mut [i32], distances: &mut [f32]) {
        /// Rows are some kilobytes long: the next two hide the wait.
        const AHEAD: usize = 2;
        for (at, (&row, distance)) in rows.iter().zip(distances).enumerate() {
            if let Some(&later) = rows.get(at + AHEAD) {
                kernel::prefetch(bytemuck::cast_slice(self.prefix(later)));
            }
            *distance = self.distance(row);
        }
    }

    #[inline]
    fn request(&self, row: u32, whole: bool) {
        if whole {
            kernel::prefetch(bytemuck::cast_slice(self.prefix(row)));
        }
    }

    fn request_pages(&self, row: u32) {
        self.request_pages(row);
    }
}

/// Layer 0 of a frozen graph.
struct Bottom<'g, 'a>(&'g GraphView<'a>);

impl Adjacency for Bottom<'_, '_> {
    #[inline]
    fn nodes(&self) -> usize {
        self.0.nodes()
    }

    #[inline]
    fn for_each(&self, node: u32, mut each: impl FnMut(u32)) {
        for link in self.0.links(node) {
            each(link);
        }
    }

    #[inline]
    fn request(&self, node: u32) {
        let list = self.0.list(node);
        if self.0.by_page() {
            return mmap::request_pages(list);
        }
        kernel::prefetch(list);
        // Lists lie at any byte, so that the last of them may be in one line more.
        list.last().into_iter().for_each(kernel::prefetch_value);
    }

    #[inline]
    fn by_page(&self) -> bool {
        self.0.by_page()
    }
}

/// A layer above.
struct Upper<'g, 'a>(&'g GraphView<'a>, usize);

impl Adjacency for Upper<'_, '_> {
    fn nodes(&self) -> usize {
        self.0.nodes()
    }

    fn for_each(&self, node: u32, each: impl FnMut(u32)) {
        self.0.upper_links(self.1, node).iter().copied().for_each(each);
    }

    fn request(&self, _: u32) {}
}

/// Lists without the links to one node.
struct Without<G>(G, u32);

impl<G: Adjacency> Adjacency for Without<G> {
    fn nodes(&self) -> usize {
        self.0.nodes()
    }

    fn for_each(&self, node: u32, mut each: impl FnMut(u32)) {
        self.0.for_each(node, |link| {
            if link != self.1 {
                each(link);
            }
        });
    }

    fn request(&self, node: u32) {
        self.0.request(node);
    }
}

struct Walk<'w, 'a, S> {
    graph: &'w GraphView<'a>,
    score: &'w S,
}

impl<S: Score> Walk<'_, '_, S> {
    fn go(&self, way: Way<'_>, beam: Beam) -> Found {
        match way {
            Way::Through(allowed, budget) => self.run(beam, allowed, budget),
            Way::Hops(allowed, budget) => self.hops(beam.ef, allowed, budget),
            Way::Without(node) => self.leaving_out(node, beam),
        }
    }

    fn run(&self, beam: Beam, allowed: Option<&RowMask>, budget: usize) -> Found {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut spent = 0;
            let [start, entry] = self.starts(NO_NODE, scratch, &mut spent);
            match allowed {
                None => self.free(&[start, entry], beam, spent, scratch),
                Some(rows) if budget < usize::MAX && self.is_far(start.row, rows) => {
                    Found { spent, ..Found::default() }
                }
                Some(rows) => {
                    self.gated(&[start, entry], beam.ef, rows, budget.saturating_sub(spent), spent, scratch)
                }
            }
        })
    }

    /// Where the layers above lead to without one node, and the entry.
    fn starts(&self, without: u32, scratch: &mut Scratch, spent: &mut usize) -> [Neighbour; 2] {
        if self.graph.by_page() {
            self.graph.upper_bytes().for_each(mmap::request_pages);
        }
        let entry = self.score.score_one(self.graph.entry());
        let mut start = entry;
        for layer in (1..=self.graph.layers()).rev() {
            start = descend(&Without(Upper(self.graph, layer), without), self.score, start, scratch, spent);
        }
        [start, entry]
    }

    /// Whether a node or any row that it stands for is allowed.
    fn passes(&self, node: u32, allowed: &RowMask) -> bool {
        let folded = || self.graph.folded(node).iter().any(|fold| allowed.contains(fold.row));
        allowed.contains(node) || !self.graph.folds().is_empty() && folded()
    }

    /// Whether around a node less than half as many rows are allowed as everywhere.
    fn is_far(&self, node: u32, allowed: &RowMask) -> bool {
        let share = allowed.len() as f64 / self.graph.nodes().max(1) as f64;
        share_around(&Bottom(self.graph), node, |node| self.passes(node, allowed)) < share / 2.0
    }

    fn hops(&self, ef: usize, allowed: &RowMask, budget: usize) -> Found {
        /// Allowed rows to start from, in case the query is far from all of them.
        const SEEDS: usize = 16;
        SCRATCH.with_borrow_mut(|scratch| {
            let mut spent = 0;
            let bottom = Bottom(self.graph);
            let mut starts = self.starts(NO_NODE, scratch, &mut spent).to_vec();
            if self.is_far(starts[0].row, allowed) {
                return Found { spent, ..Found::default() };
            }
            let passes = |node| self.passes(node, allowed);
            starts.extend(allowed.sample(SEEDS).into_iter().map(|row| self.score.score_one(row)));
            let keep = |node: Neighbour, nearest: &mut TopK| {
                self.rows_of(node, |row| {
                    if allowed.contains(row) {
                        nearest.push(row, node.distance);
                    }
                });
            };
            let budget = budget.saturating_sub(spent);
            let gated = gated_hops(&bottom, self.score, &starts, passes, ef, budget, scratch, keep);
            Found {
                neighbours: gated.nearest,
                spent: spent + gated.spent,
                complete: gated.complete,
                ..Found::default()
            }
        })
    }

    fn leaving_out(&self, node: u32, kept: Beam) -> Found {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut spent = 0;
            let starts = self.starts(node, scratch, &mut spent);
            spent += beam(&Without(Bottom(self.graph), node), self.score, &starts, kept, scratch);
            self.found(kept, spent, scratch)
        })
    }

    fn free(&self, starts: &[Neighbour], kept: Beam, spent: usize, scratch: &mut Scratch) -> Found {
        let spent = spent + beam(&Bottom(self.graph), self.score, starts, kept, scratch);
        self.found(kept, spent, scratch)
    }

    /// The rows that the nodes of the last beam stand for.
    fn found(&self, kept: Beam, spent: usize, scratch: &Scratch) -> Found {
        let nodes = scratch.pool.nodes();
        let neighbours = if self.graph.folds().is_empty() {
            nodes.collect()
        } else {
            let mut all = TopK::new(kept.width);
            nodes.for_each(|node| self.rows_of(node, |row| all.push(row, node.distance)));
            all.into_sorted()
        };
        Found { neighbours, spent, complete: true, ..Found::default() }
    }

    fn gated(
        &self,
        starts: &[Neighbour],
        ef: usize,
        allowed: &RowMask,
        budget: usize,
        spent: usize,
        scratch: &mut Scratch,
    ) -> Found {
        let keep = |node: Neighbour, nearest: &mut TopK| {
            self.rows_of(node, |row| {
                if allowed.contains(row) {
                    nearest.push(row, node.distance);
                }
            });
        };
        let gated = gated_beam(&Bottom(self.graph), self.score, starts, ef, budget, scratch, keep);
        Found {
            neighbours: gated.nearest,
            spent: spent + gated.spent,
            complete: gated.complete,
            ..Found::default()
        }
    }

    /// The row of a node, and those it stands for besides.
    #[inline]
    fn rows_of(&self, node: Neighbour, mut each: impl FnMut(u32)) {
        each(node.row);
        if !self.graph.folds().is_empty() {
            let folded = self.graph.folded(node.row).iter().map(|fold| fold.row);
            folded.filter(|&row| (row as usize) < self.graph.nodes()).for_each(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{BuildParams, build};
    use super::*;
    use crate::format::graph::{GraphData, Sight};
    use crate::index::block::Codes;
    use crate::index::flat::scan;
    use crate::index::testing::{Data, METRICS, Random, overlap};
    use crate::options::Task;
    use crate::types::{Codec, Metric};

    const FAST: BuildParams = BuildParams { m: 8, ef_construction: 60, seed: 1, ..BuildParams::DEFAULT };

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
    fn a_walk_by_a_rung_ends_in_full_distances_and_reads_heads_alike() {
        let data = Data::truncated(2000, 192, Metric::Cosine, true);
        let graph = graph_of(&data);
        for rough in [true, false] {
            let view = graph.view().walked(Sight { rung: 64, rough });
            let [high, low] = data.block().cut_head(view.sight());
            assert_eq!((high.len(), low.len()), (2000 * 32, if rough { 0 } else { 2000 * 32 }));
            let headed = data.block().with_head(64, Codes { high: &high, low: &low }).unwrap();
            let mut recall = 0.0;
            for vector in data.queries(20, 3) {
                let query = Query::new(&vector, Metric::Cosine, 192, 192);
                let found = search(&data.block(), &view, &query, 10, 60, None);
                assert_eq!(found, search(&headed, &view, &query, 10, 60, None));
                let exact = crate::index::flat::scan_exact(&data.block(), &query, 10, None);
                assert!(found.iter().all(|n| exact.iter().all(|e| e.row != n.row || e == n)));
                recall += overlap(&exact.iter().map(|n| n.row).collect::<Vec<_>>(), &found) / 20.0;
            }
            assert!(recall > 0.9, "{recall}");
        }
        assert!(data.block().with_head(64, Codes { high: &[0; 31], low: &[] }).is_err());
        assert!(data.block().with_head(256, Codes { high: &[0; 2000 * 128], low: &[] }).is_err());
    }

    /// Its checksums hold, so whoever wrote it did so wrongly: no row that is not there is found.
    #[test]
    fn folded_rows_beyond_the_end_are_not_found() {
        let mut data = Data::clustered(300, 12, Metric::Cosine, Codec::Int8F32, 6);
        let first = data.row(0).to_vec();
        let rows = [data.rows.clone(), first.repeat(3)].concat();
        data = Data::new(rows, 12, Metric::Cosine, Codec::Int8F32);
        let mut graph = graph_of(&data);
        assert_eq!(graph.folds.len(), 3, "three rows are equal to the first");
        for (number, fold) in graph.folds.iter_mut().enumerate() {
            fold.row = [303, 1 << 20, u32::MAX][number];
        }
        let query = Query::new(&first, Metric::Cosine, 12, 12);
        let some = RowMask::from_rows(303, (0..303).step_by(2));
        for allowed in [None, Some(&some)] {
            for (k, ef) in [(5, 40), (400, 400)] {
                let found = search(&data.block(), &graph.view(), &query, k, ef, allowed);
                assert_eq!((found[0].row, found.iter().find(|n| n.row >= 303)), (0, None));
            }
        }
    }

    #[test]
    fn walks_that_request_pages_find_the_same() {
        use crate::index::OnDisk;
        for codec in [Codec::Int8F32, Codec::Int8, Codec::F32] {
            let data = Data::clustered(900, 12, Metric::Cosine, codec, 6);
            let graph = graph_of(&data);
            let masks = [2, 5].map(|n| RowMask::from_rows(900, (0..900).filter(|row| row % n == 1)));
            for [head, low, tail] in
                [[true; 3], [false, true, true], [true, false, false], [false, false, true]]
            {
                let block = VectorBlock { on_disk: OnDisk { head, low, tail }, ..data.block() };
                for vector in data.queries(10, 2) {
                    let query = Query::new(&vector, Metric::Cosine, 12, 12);
                    for rough in [false, true] {
                        let view = graph.view().walked(Sight { rung: 0, rough });
                        let paged = view.clone().paged(true);
                        for mask in [None, Some(&masks[0])] {
                            let found = search(&block, &paged, &query, 10, 40, mask);
                            assert_eq!(found, search(&data.block(), &view, &query, 10, 40, mask));
                        }
                        let hops = |block, view| traverse_allowed(block, view, &query, 40, &masks[1], 1000);
                        assert_eq!(hops(&block, &paged).neighbours, hops(&data.block(), &view).neighbours);
                    }
                    assert_eq!(scan(&block, &query, 10, None), scan(&data.block(), &query, 10, None));
                }
            }
        }
    }

    #[test]
    fn a_mask_gates_results_but_not_the_walk() {
        let data = Data::clustered(900, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        let allowed = RowMask::from_rows(900, (0..900).filter(|row| row % 2 == 1));
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
    fn a_walk_over_rows_that_are_not_allowed_finds_those_that_are() {
        let data = Data::clustered(3000, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        let allowed = RowMask::from_rows(3000, (0..3000).filter(|row| row % 5 == 1));
        let (mut recall, mut spent) = (0.0, 0);
        for vector in data.queries(30, 2) {
            let query = Query::new(&vector, Metric::Cosine, 12, 12);
            let walk = traverse_allowed(&data.block(), &graph.view(), &query, 40, &allowed, usize::MAX);
            assert!(walk.neighbours.iter().all(|n| n.row % 5 == 1));
            let found = finish(&data.block(), &query, &walk, 10, f32::INFINITY);
            let truth = scan(&data.block(), &query, 10, Some(&allowed));
            recall += overlap(&truth.iter().map(|n| n.row).collect::<Vec<_>>(), &found) / 30.0;
            spent += walk.spent;
        }
        assert!(recall > 0.95 && spent < 30 * 600, "{recall}, {} distances", spent / 30);
    }

    #[test]
    fn a_walk_is_not_begun_where_nothing_around_the_query_is_allowed() {
        let data = Data::clustered(3000, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        for vector in data.queries(10, 2) {
            let query = Query::new(&vector, Metric::Cosine, 12, 12);
            let all = scan(&data.block(), &query, 3000, None);
            let far = RowMask::from_rows(3000, all.iter().skip(2400).map(|n| n.row));
            let walk = traverse_allowed(&data.block(), &graph.view(), &query, 40, &far, usize::MAX);
            assert!(!walk.complete && walk.spent < 200, "{}", walk.spent);
        }
    }

    #[test]
    fn a_budget_ends_the_walk() {
        let data = Data::clustered(500, 12, Metric::Cosine, Codec::Int8F32, 6);
        let graph = graph_of(&data);
        let query = Query::new(&data.queries(1, 2)[0], Metric::Cosine, 12, 12);
        let all = RowMask::all(500);
        let walk =
            |budget| traverse(&data.block(), &graph.view(), &query, Beam::plain(500), Some(&all), budget);
        let (short, long) = (walk(100), walk(usize::MAX));
        assert!(!short.complete && short.spent < 100 + 2 * FAST.m);
        assert!(long.complete && long.neighbours.len() == 500);
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

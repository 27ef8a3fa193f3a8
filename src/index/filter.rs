//! The plan of a search in one block: a scan or a walk through its graph.
//!
//! The mask of allowed rows comes first, exact and counted, so nothing is estimated:
//!
//! | allowed rows | plan |
//! |---|---|
//! | no more than a walk would compare, or few under a filter | scan them |
//! | at least two in five | walk the graph, gating results alone |
//! | at least one in twenty, and many | walk from one allowed row to the next over others (ACORN-1, arXiv 2403.04871) |
//! | between | scan them |
//!
//! A filter may run against the query: the rows nearest to it are not allowed, those that are lie far away, about
//! equally far, and in no order that a walk could follow. Each walk under a mask therefore looks at the rows within
//! two links of where it begins, and if less than half as many are allowed as everywhere, the rows are scanned. A
//! walk that spends more than half of the scan's distances, ends with too few rows, or in a crowd of rows that codes
//! cannot tell apart, is finished by the scan too: a search returns `min(k, allowed)` rows whatever the graph is worth.
//!
//! Microseconds for ten neighbours, one core, of the best of three runs; a mask of random rows, of those nearest to
//! the query, of those farthest from it. The walk aims at a recall of .95; in parentheses what it reached.
//!
//! | rows × dimensions | allowed | scan: random, near, far | walk over allowed rows: random, near |
//! |---|---|---|---|
//! | 100,000 × 384 | 22 % | 473, 957, 1657 | 257 (.988), 141 (.977) |
//! | 100,000 × 384 | 30 % | 899, 1320, 2733 | 261 (.982), 149 (.977) |
//! | 339,479 × 100 | 15 % | 1004, 1797, 3637 | 1182 (.983), 606 (.963) |
//! | 339,479 × 100 | 20 % | 2377, 3180, 5069 | 1315 (.982), 692 (.963) |
//! | 339,479 × 100 | 30 % | 2857, 3092, 7129 | 969 (.978), 514 (.962) |
//!
//! Against the query the plan is the scan, which finds all (recall 1.000), and deciding so costs less than 5 %. Allowed
//! rows that lie one after the other are scanned two to three times as fast as random ones; this the plan ignores.

use super::block::{Neighbour, Query, VectorBlock};
use super::distance::Grade;
use super::flat::{matches, scan, scan_exact};
use super::hnsw::beam::{Beam, ef_for};
use super::hnsw::calibrate::MEASURED_K;
use super::hnsw::search::{Found, finish, traverse, traverse_allowed};
use super::mask::RowMask;
use super::shortlist::in_crowd;
use crate::format::graph::GraphView;

/// Up to so many rows a filter leaves, they are scanned: a fraction of a millisecond.
const FEW: usize = 20_000;
/// Share of the rows that a filter must leave for a gated walk.
const WALKED_SHARE: f64 = 0.4;
/// Share of the rows that a filter must leave for a walk from one allowed row to the next: with less, two links away
/// lie too few of them.
const HOPPED_SHARE: f64 = 0.05;
/// Such a walk costs as much as scanning so many rows for each place in its beam (166 and 219 in the measurements
/// above): it computes some 35 distances, each as dear as five of a scan.
const HOP_ROWS: usize = 220;

/// What is asked of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchParams {
    /// Neighbours wanted.
    pub k: usize,
    /// Width of the beam in a graph; by default chosen for `target_recall`.
    pub ef: Option<usize>,
    /// Share of the true neighbours that a graph search should find, in `0..=1`.
    pub target_recall: f32,
    /// Compare every row exactly.
    pub exact: bool,
    /// Rows farther than this are not wanted, as so many nearer ones are known already from other blocks.
    pub within: f32,
}

impl Default for SearchParams {
    fn default() -> Self {
        Self { k: 10, ef: None, target_recall: 0.95, exact: false, within: f32::INFINITY }
    }
}

/// The `k` nearest rows of a block among those allowed, nearest first: never fewer than there are, up to
/// `k`, but for those that are not wanted. Nothing for a query prepared for another dimension or
/// metric.
///
/// The graph is used where it is cheaper, and the query ranks by all dimensions or by as many as walks compare.
pub fn search_block(
    block: &VectorBlock<'_>,
    graph: Option<&GraphView<'_>>,
    query: &Query,
    params: &SearchParams,
    allowed: Option<&RowMask>,
) -> Vec<Neighbour> {
    if params.exact {
        return scan_exact(block, query, params.k, allowed);
    }
    let allowed = allowed.map(|rows| rows.below(block.len));
    let allowed = allowed.as_deref();
    let matching = allowed.map_or(block.len, RowMask::len);
    if let Some(graph) = graph {
        let budget = if allowed.is_some() { matching / 2 } else { usize::MAX };
        let found = match (plan(block, graph, query, params, matching), allowed) {
            (Plan::Walk(ef), _) => {
                // A reach is measured for so many neighbours: the distance of an earlier one would make it shorter.
                let known = if params.k < MEASURED_K { f32::INFINITY } else { params.within };
                let beam = Beam::measured(graph, query, ef, params.k).within(known);
                traverse(block, graph, query, beam, allowed, budget)
            }
            (Plan::Hops(ef), Some(rows)) => traverse_allowed(block, graph, query, ef, rows, budget),
            _ => Found::default(),
        };
        if found.complete && found.neighbours.len() >= params.k.min(matching) {
            // Under a filter the last of these tells whether the walk found enough.
            let within = if allowed.is_none() { params.within } else { f32::INFINITY };
            let nearest = finish(block, query, &found, params.k, within);
            let compared = found.compared(params.k);
            if allowed.is_none() || !in_crowd(block, Grade::of(graph), query, compared, &nearest) {
                return nearest;
            }
        }
    }
    scan(block, query, params.k, allowed)
}

/// How the nearest rows are found, and how wide the beam is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    Scan,
    /// Through all rows.
    Walk(usize),
    /// From one allowed row to the next.
    Hops(usize),
}

fn plan(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    params: &SearchParams,
    matching: usize,
) -> Plan {
    let share = matching as f64 / block.len.max(1) as f64;
    let few = matching < block.len && (matching <= FEW || share < HOPPED_SHARE);
    if few || graph.nodes() != block.len || !matches(block, query) || !serves(block, graph, query, matching) {
        return Plan::Scan;
    }
    let measured = ef_for(graph.curve(), params.target_recall).map(|ef| scaled(ef, params.k));
    let Some(ef) = params.ef.or(measured) else { return Plan::Scan };
    let ef = ef.max(params.k);
    // Each node of the beam is expanded, and about all of its links are compared once.
    let (plan, rows) = if matching == block.len || share >= WALKED_SHARE {
        (Plan::Walk(ef), ef.saturating_mul(graph.stride()))
    } else {
        // The rows that are allowed make for a sparser graph than that which the curve was measured on.
        let ef = ef.saturating_mul(3) / 2;
        (Plan::Hops(ef), ef.saturating_mul(HOP_ROWS))
    };
    if rows < matching { plan } else { Plan::Scan }
}

/// Whether the graph leads to what is near by the dimensions that the query ranks by: it was built for all of them, and
/// measured for those that walks compare.
fn serves(block: &VectorBlock<'_>, graph: &GraphView<'_>, query: &Query, matching: usize) -> bool {
    let rung = graph.sight().rung as usize;
    let measured = rung > 0 && rung <= query.rank_dim && matching == block.len;
    query.rank_dim == block.dim || measured && block.has_codes()
}

/// A width measured for ten neighbours, for `k`.
fn scaled(ef: usize, k: usize) -> usize {
    ef.saturating_mul(k.max(MEASURED_K)) / MEASURED_K
}

#[cfg(test)]
mod tests {
    use super::super::block::{Codes, TopK};
    use super::super::testing::{Data, METRICS, overlap};
    use super::*;
    use crate::format::graph::{GraphData, NO_NODE};
    use crate::index::hnsw::beam::DEFAULT_WIDTH;
    use crate::index::hnsw::{BuildParams, build, calibrate};
    use crate::options::Task;
    use crate::types::{Codec, Metric};

    fn graph_of(data: &Data) -> GraphData {
        let params = BuildParams { m: 8, ef_construction: 60, seed: 1, ..BuildParams::DEFAULT };
        let mut graph = build(&data.block(), &params, &Task::default(), 1).unwrap();
        let found = calibrate(&data.block(), &graph.view(), 1, &Task::default()).unwrap();
        (graph.curve, graph.sight, graph.longest) = (found.curve, found.sight, found.longest);
        graph
    }

    fn rows(found: &[Neighbour]) -> Vec<u32> {
        found.iter().map(|n| n.row).collect()
    }

    #[test]
    fn recall_holds_at_every_selectivity_and_correlation() {
        let data = Data::clustered(3000, 16, Metric::Cosine, Codec::Int8F32, 13);
        let graph = graph_of(&data);
        let params = SearchParams::default();
        for share in [1.0, 0.9, 0.5, 0.2, 0.05, 0.005, 0.0] {
            for order in ["random", "near", "far"] {
                let mut recall = 0.0;
                for vector in data.queries(10, 4) {
                    let query = Query::new(&vector, Metric::Cosine, 16, 16);
                    let mut all: Vec<u32> = match order {
                        "random" => (0..3000).map(|row| row * 7 % 3000).collect(),
                        _ => rows(&scan_exact(&data.block(), &query, 3000, None)),
                    };
                    if order == "far" {
                        all.reverse();
                    }
                    let some = all.iter().take((3000.0 * share) as usize).copied();
                    let allowed = RowMask::from_rows(3000, some);
                    let found =
                        search_block(&data.block(), Some(&graph.view()), &query, &params, Some(&allowed));
                    assert_eq!(found.len(), 10.min(allowed.len()));
                    assert!(found.iter().all(|n| allowed.contains(n.row)));
                    let truth = rows(&scan_exact(&data.block(), &query, 10, Some(&allowed)));
                    recall += if truth.is_empty() { 0.1 } else { overlap(&truth, &found) / 10.0 };
                }
                assert!(recall > 0.95, "share {share}, {order}: {recall}");
            }
        }
    }

    #[test]
    fn the_wanted_recall_is_reached_without_a_filter() {
        for metric in METRICS {
            let data = Data::clustered(3000, 16, metric, Codec::Int8F32, 13);
            let graph = graph_of(&data);
            let any = Query::new(&[1.0; 16], metric, 16, 16);
            let plan = plan(&data.block(), &graph.view(), &any, &SearchParams::default(), 3000);
            assert!(matches!(plan, Plan::Walk(_)), "{metric:?} must walk: {:?}", graph.curve);
            let queries = data.queries(50, 4);
            let found = queries.iter().map(|vector| {
                let query = Query::new(vector, metric, 16, 16);
                let truth = rows(&scan_exact(&data.block(), &query, 10, None));
                overlap(
                    &truth,
                    &search_block(&data.block(), Some(&graph.view()), &query, &SearchParams::default(), None),
                )
            });
            let recall = found.sum::<f64>() / 50.0;
            assert!(recall > 0.92, "{metric:?}: {recall}");
        }
    }

    #[test]
    fn the_plan_follows_the_table() {
        let nodes = 100_000;
        let graph = GraphData { nodes, stride: 32, ..GraphData::default() };
        let values = vec![0.0; nodes];
        let block =
            VectorBlock::new(1, Metric::L2, &[1], nodes, Codes::default(), &[], &[], &values).unwrap();
        let query = Query::new(&[1.0], Metric::L2, 1, 1);
        let params = SearchParams::default();
        let plan = |params: &SearchParams, matching| plan(&block, &graph.view(), &query, params, matching);
        assert_eq!(plan(&params, nodes), Plan::Walk(DEFAULT_WIDTH));
        assert_eq!(plan(&params, 50_000), Plan::Walk(DEFAULT_WIDTH));
        assert_eq!(plan(&SearchParams { ef: Some(80), ..params }, 39_000), Plan::Hops(120));
        assert_eq!(plan(&SearchParams { ef: Some(80), ..params }, 41_000), Plan::Walk(80));
        assert_eq!(plan(&params, FEW), Plan::Scan);
        assert_eq!(plan(&params, 1), Plan::Scan);
        assert_eq!(plan(&SearchParams { k: 30, ..params }, nodes), Plan::Walk(3 * DEFAULT_WIDTH));
        assert_eq!(plan(&SearchParams { ef: Some(5), ..params }, nodes), Plan::Walk(10));
        assert_eq!(plan(&SearchParams { ef: Some(5), ..params }, 30_000), Plan::Hops(15));
        assert_eq!(plan(&SearchParams { ef: Some(200), ..params }, 39_000), Plan::Scan);
        assert_eq!(plan(&SearchParams { k: 10_000, ..params }, nodes), Plan::Scan);
    }

    /// Rows of many blocks: what is known of the first narrows the walks through the others, which lose next to nothing.
    #[test]
    fn walks_through_many_blocks_may_know_of_each_other() {
        const SIZES: [usize; 4] = [9000, 3000, 3000, 3000];
        for metric in METRICS {
            let all = Data::clustered(SIZES.iter().sum(), 24, metric, Codec::Int8F32, 5);
            let mut start = 0;
            let blocks = SIZES.map(|len| {
                let rows = all.rows[start * 24..(start + len) * 24].to_vec();
                start += len;
                let data = Data::new(rows, 24, metric, Codec::Int8F32);
                let graph = graph_of(&data);
                (start - len, data, graph)
            });
            let mut recall = [0.0, 0.0];
            let queries = all.queries(1000, 7);
            for vector in &queries {
                let query = Query::new(vector, metric, 24, 24);
                let truth = rows(&scan(&all.block(), &query, 10, None));
                for (knows, recall) in [false, true].into_iter().zip(&mut recall) {
                    let mut nearest = TopK::new(10);
                    for (start, data, graph) in &blocks {
                        let within = nearest.farthest().filter(|_| knows).unwrap_or(f32::INFINITY);
                        let params = SearchParams { within, ..SearchParams::default() };
                        let found = search_block(&data.block(), Some(&graph.view()), &query, &params, None);
                        found.iter().for_each(|n| nearest.push(*start as u32 + n.row, n.distance));
                    }
                    *recall += overlap(&truth, &nearest.into_sorted()) / queries.len() as f64;
                }
            }
            let [alone, knowing] = recall;
            assert!(knowing > 0.95 && knowing > alone - 0.005, "{metric:?}: {alone}, {knowing}");
        }
    }

    #[test]
    fn a_useless_graph_costs_time_but_no_rows() {
        let data = Data::clustered(2500, 8, Metric::L2, Codec::Int8F32, 13);
        let graph =
            GraphData { nodes: 2500, stride: 16, layer0: vec![NO_NODE; 2500 * 16], ..GraphData::default() };
        let query = Query::new(data.row(3), Metric::L2, 8, 8);
        let params = SearchParams { k: 7, ..SearchParams::default() };
        let found = search_block(&data.block(), Some(&graph.view()), &query, &params, None);
        assert_eq!(found, scan(&data.block(), &query, 7, None));
        let shorter = Query::new(data.row(3), Metric::L2, 8, 4);
        let found = search_block(&data.block(), Some(&graph.view()), &shorter, &params, None);
        assert_eq!(found, scan(&data.block(), &shorter, 7, None));
        let exact = SearchParams { exact: true, ..params };
        let found = search_block(&data.block(), Some(&graph.view()), &query, &exact, None);
        assert_eq!(found, scan_exact(&data.block(), &query, 7, None));
    }
}

//! The plan of a search in one block: a scan or a walk through its graph.
//!
//! The mask of allowed rows comes first, exact and counted, so nothing is estimated:
//!
//! | allowed rows | plan |
//! |---|---|
//! | no more than a walk would compare, or few under a filter | scan them |
//! | at least two in five | walk the graph, gating results alone |
//! | between | scan them |
//!
//! Between, a gated walk spends most of its distances on rows that are not allowed, and walks restricted to
//! allowed rows lose recall where the filter runs against the query; the int8 scan of the mask costs a few
//! milliseconds for each hundred thousand rows and loses nothing.
//!
//! A walk that spends more than half of what the scan would, or ends with too few rows, is finished by the
//! scan: a search returns `min(k, allowed)` rows whatever the graph is worth, and costs at most half as much
//! again as a scan.

use super::block::{Neighbour, Query, VectorBlock};
use super::flat::{matches, scan, scan_exact};
use super::hnsw::calibrate::{MEASURED_K, ef_for};
use super::hnsw::search::{finish, traverse};
use super::mask::RowMask;
use crate::format::graph::GraphView;

/// Up to so many rows a filter leaves, they are scanned: a fraction of a millisecond.
const FEW: usize = 20_000;
/// Share of the rows that a filter must leave for a gated walk.
const WALKED_SHARE: f64 = 0.4;

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
}

impl Default for SearchParams {
    fn default() -> Self {
        Self { k: 10, ef: None, target_recall: 0.95, exact: false }
    }
}

/// The `k` nearest rows of a block among those allowed, nearest first: never fewer than there are, up to
/// `k`. Nothing for a query prepared for another dimension or metric.
///
/// The graph is used where it is cheaper and the query ranks by all dimensions, which it was built for.
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
    if let Some(graph) = graph
        && let Some(ef) = width(block, graph, query, params, matching)
    {
        let budget = if allowed.is_some() { matching / 2 } else { usize::MAX };
        let found = traverse(block, graph, query, ef, allowed, budget);
        if found.complete && found.neighbours.len() >= params.k.min(matching) {
            return finish(block, query, &found, params.k);
        }
    }
    scan(block, query, params.k, allowed)
}

/// The width of the beam, or `None` where a scan is the better plan.
fn width(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    query: &Query,
    params: &SearchParams,
    matching: usize,
) -> Option<usize> {
    if graph.nodes() != block.len || query.rank_dim < block.dim || !matches(block, query) {
        return None;
    }
    let share = matching as f64 / block.len.max(1) as f64;
    if matching < block.len && (matching <= FEW || share < WALKED_SHARE) {
        return None;
    }
    let ef = match params.ef {
        Some(ef) => ef,
        None => scaled(ef_for(graph.curve(), params.target_recall)?, params.k),
    };
    let ef = ef.max(params.k);
    // Each node of the beam is expanded, and about all of its links are compared once.
    (ef.saturating_mul(graph.stride()) < matching).then_some(ef)
}

/// A width measured for ten neighbours, for `k`.
fn scaled(ef: usize, k: usize) -> usize {
    ef.saturating_mul(k.max(MEASURED_K)) / MEASURED_K
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Data, METRICS, overlap};
    use super::*;
    use crate::format::graph::{GraphData, NO_NODE};
    use crate::index::hnsw::calibrate::DEFAULT_WIDTH;
    use crate::index::hnsw::{BuildParams, build, calibrate};
    use crate::options::Task;
    use crate::types::{Codec, Metric};

    fn graph_of(data: &Data) -> GraphData {
        let params = BuildParams { m: 8, ef_construction: 60, seed: 1, ..BuildParams::DEFAULT };
        let mut graph = build(&data.block(), &params, &Task::default(), 1).unwrap();
        graph.curve = calibrate(&data.block(), &graph.view(), 1, &Task::default()).unwrap();
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
            let plan = width(
                &data.block(),
                &graph.view(),
                &Query::new(&[1.0; 16], metric, 16, 16),
                &SearchParams::default(),
                3000,
            );
            assert!(plan.is_some(), "{metric:?} must walk: {:?}", graph.curve);
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
        let block = VectorBlock::new(1, Metric::L2, &[1], nodes, &[], &[], &[], &values).unwrap();
        let query = Query::new(&[1.0], Metric::L2, 1, 1);
        let params = SearchParams::default();
        let plan = |params: &SearchParams, matching| width(&block, &graph.view(), &query, params, matching);
        assert_eq!(plan(&params, nodes), Some(DEFAULT_WIDTH));
        assert_eq!(plan(&params, 50_000), Some(DEFAULT_WIDTH));
        assert_eq!(plan(&params, 39_000), None);
        assert_eq!(plan(&params, 1), None);
        assert_eq!(plan(&SearchParams { k: 30, ..params }, nodes), Some(3 * DEFAULT_WIDTH));
        assert_eq!(plan(&SearchParams { ef: Some(5), ..params }, nodes), Some(10));
        assert_eq!(plan(&SearchParams { k: 10_000, ..params }, nodes), None);
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

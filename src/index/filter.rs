//! The plan of a search in one block.

use roaring::RoaringBitmap;

use super::block::{Neighbour, Query, VectorBlock};
use super::flat::{scan, scan_exact};
use crate::format::graph::GraphView;

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

/// The `k` nearest rows of a block, among those allowed; never fewer than `min(k, allowed)`.
pub fn search_block(
    block: &VectorBlock<'_>,
    _graph: Option<&GraphView<'_>>,
    query: &Query,
    params: &SearchParams,
    allowed: Option<&RoaringBitmap>,
) -> Vec<Neighbour> {
    if params.exact {
        scan_exact(block, query, params.k, allowed)
    } else {
        scan(block, query, params.k, allowed)
    }
}

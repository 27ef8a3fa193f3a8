//! Nearest neighbours among the rows of one block: no I/O, no ids, no generations.
//!
//! | module | what it answers |
//! |---|---|
//! | [`block`] | which rows there are, and what a query and a result look like |
//! | `distance` | how far a row is, by how much of it |
//! | [`quantize`] | how an f32 row becomes int8 codes with a norm for each rung |
//! | [`mask`] | which rows of a block a search may return |
//! | [`flat`] | the nearest rows by looking at all of them |
//! | [`sketch`] | which rows are too far, by one bit a dimension |
//! | `shortlist` | which rows such a look has to compare again, and which of them are the nearest |
//! | `random` | random numbers that stay the same |
//! | [`hnsw`] | the nearest rows by walking a graph, and where graphs come from |
//! | [`filter`] | which of the two to use, under a mask of allowed rows |

pub mod block;
mod distance;
pub mod filter;
pub mod flat;
pub mod hnsw;
pub mod mask;
pub mod quantize;
mod random;
mod shortlist;
pub mod sketch;

#[cfg(test)]
pub(crate) mod testing;

pub use block::{Codes, Guards, Head, Neighbour, OnDisk, Query, TopK, VectorBlock};
pub use filter::{SearchParams, search_block};
pub use hnsw::{BuildParams, GrowingIndex};
pub use mask::RowMask;

use crate::error::Result;
use crate::format::graph::GraphData;
use crate::options::Task;

/// Builds a block's graph, repairs it and measures its recall: what a sealed segment stores, after
/// [`encode`](GraphData::encode). `threads` as for [`hnsw::build`](hnsw::build()).
///
/// # Errors
/// Those of the steps: parameters out of range, or the task was cancelled.
pub fn build_graph(
    block: &VectorBlock<'_>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    build_graph_upon(block, None, params, task, threads)
}

/// The same upon an older graph of some of the rows, whose links are taken over if it was built alike.
///
/// # Errors
/// As above.
pub fn build_graph_upon(
    block: &VectorBlock<'_>,
    old: Option<&hnsw::Old<'_>>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    let mut graph = hnsw::build_upon(block, old, params, task, threads)?;
    let found = hnsw::calibrate(block, &graph.view(), params.seed, task)?;
    (graph.curve, graph.sight, graph.longest) = (found.curve, found.sight, found.longest);
    Ok(graph)
}

//! Construction by hnsw_rs, frozen into the flat layout: the other back end, and what ours is compared with.
//!
//! hnsw_rs is slow to search (an object and a lock for each edge) and loses points behind near-duplicates,
//! but frozen it loses nothing more, and [`repair`](super::repair) finds and links what is lost. Codes are compared where
//! the block has them: graphs from codes and from f32 rows are equally good, and codes are a quarter of the
//! memory traffic.
//!
//! Several threads may insert at once, though not while others search: an edge to a point exists only once
//! that point stops looking for neighbours of its own, so the waits for locks have an order and cannot form
//! a ring. The result then depends on timing; with one thread it depends on the input alone.

use hnsw_rs::prelude::{Distance, Hnsw};

use super::build::BuildParams;
use super::order::{insert_all, insertion_order};
use super::rows::{LiftedCodes, LiftedFloats, Lifting, squares};
use crate::error::Result;
use crate::format::graph::{GraphData, MAX_LAYERS, NO_NODE, UpperLayer};
use crate::index::block::VectorBlock;
use crate::options::Task;
use crate::types::Metric;

/// Builds the graph of a block with `threads` threads; not yet repaired.
///
/// # Errors
/// [`Cancelled`](crate::Error::Cancelled) where the task was.
pub(super) fn build_hnsw_rs(
    block: &VectorBlock<'_>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    let order = insertion_order(block.len, params.seed);
    let lifting = Lifting { metric: block.metric, bound: largest_squares(block) };
    if block.has_codes() {
        let row = |row, out: &mut Vec<i8>| {
            let mut codes = vec![0; block.dim];
            block.codes_of(row, &mut codes);
            lifting.codes(&codes, block.scale_of(row), out);
        };
        let hnsw = hnsw(params.m, block.len, params.ef_construction, LiftedCodes);
        let insert = |node, room: &mut Vec<_>| {
            row(node, room);
            hnsw.insert((room, node as usize));
        };
        insert_all(&order, insert, task, threads)?;
        return Ok(freeze(&hnsw, block.len, params.m));
    }
    let row = |row, out: &mut Vec<f32>| lifting.floats(block.full_of(row), out);
    let hnsw = hnsw(params.m, block.len, params.ef_construction, LiftedFloats);
    let insert = |node, room: &mut Vec<_>| {
        row(node, room);
        hnsw.insert((room, node as usize));
    };
    insert_all(&order, insert, task, threads)?;
    Ok(freeze(&hnsw, block.len, params.m))
}

/// An empty hnsw_rs index.
pub(super) fn hnsw<T, D>(m: usize, capacity: usize, ef: usize, distance: D) -> Hnsw<'static, T, D>
where
    T: Clone + Send + Sync,
    D: Distance<T> + Send + Sync,
{
    Hnsw::new(m, capacity, MAX_LAYERS + 1, ef, distance)
}

/// The bound that lifting needs, with room for rounding; 0 where the metric has no use for it.
fn largest_squares(block: &VectorBlock<'_>) -> f32 {
    if block.metric != Metric::Dot {
        return 0.0;
    }
    let mut values = Vec::with_capacity(block.dim);
    let largest = (0..block.len as u32).fold(0.0f32, |largest, row| {
        block.values_of(row, &mut values);
        largest.max(squares(&values))
    });
    largest * 1.001
}

/// Copies the lists of links into the flat layout, without links to the node itself, twice to the same
/// node, or in an upper layer to a node that is not a member of it.
pub(super) fn freeze<T, D>(hnsw: &Hnsw<'static, T, D>, nodes: usize, m: usize) -> GraphData
where
    T: Clone + Send + Sync,
    D: Distance<T> + Send + Sync,
{
    let stride = 2 * m;
    let mut graph =
        GraphData { nodes, stride, m, layer0: vec![NO_NODE; nodes * stride], ..GraphData::default() };
    if hnsw.get_nb_point() == 0 {
        return graph;
    }
    let mut layers: Vec<Vec<(u32, Vec<u32>)>> = vec![Vec::new(); MAX_LAYERS];
    for point in hnsw.get_point_indexation() {
        let (id, level) = (point.get_origin_id() as u32, usize::from(point.get_point_id().0));
        for (layer, list) in point.get_neighborhood_id().iter().enumerate().take(level + 1) {
            let mut links = Vec::with_capacity(list.len());
            for link in list.iter().filter(|link| usize::from(link.p_id.0) >= layer) {
                let target = link.d_id as u32;
                if target != id && !links.contains(&target) {
                    links.push(target);
                }
            }
            match layer.checked_sub(1).and_then(|layer| layers.get_mut(layer)) {
                Some(members) => members.push((id, links)),
                None => graph.links_mut(id).iter_mut().zip(links).for_each(|(place, link)| *place = link),
            }
        }
    }
    layers.truncate(layers.iter().rposition(|members| !members.is_empty()).map_or(0, |top| top + 1));
    graph.upper = layers.into_iter().map(upper_layer).collect();
    let top = graph.upper.last().and_then(|layer| layer.members.first());
    graph.entry = top.copied().unwrap_or(0);
    graph
}

fn upper_layer(mut lists: Vec<(u32, Vec<u32>)>) -> UpperLayer {
    lists.sort_unstable_by_key(|(member, _)| *member);
    let mut layer = UpperLayer { offsets: vec![0], ..UpperLayer::default() };
    for (member, links) in lists {
        layer.members.push(member);
        layer.links.extend(links);
        layer.offsets.push(layer.links.len() as u32);
    }
    layer
}

//! Construction of a graph by hnsw_rs, frozen into the flat layout.
//!
//! hnsw_rs is slow to search (an object and a lock for each edge) and loses points behind near-duplicates,
//! but frozen it loses nothing more, and [`repair`](super::repair) finds and links what is lost. Codes are compared where
//! the block has them: graphs from codes and from f32 rows are equally good, and codes are a quarter of the
//! memory traffic.
//!
//! Several threads may insert at once, though not while others search: an edge to a point exists only once
//! that point stops looking for neighbours of its own, so the waits for locks have an order and cannot form
//! a ring. The result then depends on timing; with one thread it depends on the input alone.

use std::sync::atomic::{AtomicUsize, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use parking_lot::Mutex;

use super::repair::repair;
use super::rows::{LiftedCodes, LiftedFloats, Lifting, squares};
use crate::error::{Error, Result};
use crate::format::graph::{GraphData, MAX_LAYERS, NO_NODE, UpperLayer};
use crate::index::block::VectorBlock;
use crate::options::Task;
use crate::types::Metric;

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildParams {
    /// Links of a node in an upper layer; twice as many in layer 0. From 4 to 128.
    pub m: usize,
    /// Width of the beam that looks for neighbours.
    pub ef_construction: usize,
    /// Shuffles the order of insertion; 0 inserts in the order of rows.
    pub seed: u64,
}

impl Default for BuildParams {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, seed: 1 }
    }
}

impl BuildParams {
    /// hnsw_rs ends the process for links above its limit, so they are refused here.
    fn check(&self) -> Result<()> {
        if !(4..=128).contains(&self.m) {
            return Err(Error::input(format!("{} links a node, expected 4 to 128", self.m)));
        }
        if !(self.m..=10_000).contains(&self.ef_construction) {
            let ef = self.ef_construction;
            return Err(Error::input(format!("a beam of {ef}, expected {} to 10000", self.m)));
        }
        Ok(())
    }
}

/// Rows between two reports of progress.
const STEP: usize = 256;
/// Rows inserted by one thread before others join in.
const ALONE: usize = 1024;

/// Builds the graph of a block with `threads` threads (0: one a core); its recall curve is still empty.
///
/// # Errors
/// [`Error::Input`] for parameters out of range, [`Error::Cancelled`] where the task was.
pub fn build(
    block: &VectorBlock<'_>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    params.check()?;
    let order = insertion_order(block.len, params.seed);
    let lifting = Lifting { metric: block.metric, bound: largest_squares(block) };
    let mut graph = if block.has_codes() {
        let row = |row, out: &mut Vec<i8>| lifting.codes(block.codes_of(row), block.scale_of(row), out);
        let hnsw = hnsw(params.m, block.len, params.ef_construction, LiftedCodes);
        insert_all(&hnsw, &order, row, task, threads)?;
        freeze(&hnsw, block.len, params.m)
    } else {
        let row = |row, out: &mut Vec<f32>| lifting.floats(block.full_of(row), out);
        let hnsw = hnsw(params.m, block.len, params.ef_construction, LiftedFloats);
        insert_all(&hnsw, &order, row, task, threads)?;
        freeze(&hnsw, block.len, params.m)
    };
    graph.ef_construction = params.ef_construction;
    graph.seed = params.seed;
    graph.repaired = repair(&mut graph, block);
    Ok(graph)
}

/// An empty hnsw_rs index.
pub(super) fn hnsw<T, D>(m: usize, capacity: usize, ef: usize, distance: D) -> Hnsw<'static, T, D>
where
    T: Clone + Send + Sync,
    D: Distance<T> + Send + Sync,
{
    Hnsw::new(m, capacity, MAX_LAYERS + 1, ef, distance)
}

fn insertion_order(len: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    if seed != 0 {
        let mut random = Random(seed);
        for i in (1..len).rev() {
            order.swap(i, random.below(i + 1));
        }
    }
    order
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

fn insert_all<T, D>(
    hnsw: &Hnsw<'static, T, D>,
    order: &[u32],
    write_row: impl Fn(u32, &mut Vec<T>) + Sync,
    task: &Task,
    threads: usize,
) -> Result<()>
where
    T: Clone + Send + Sync,
    D: Distance<T> + Send + Sync,
{
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = |end: usize| {
        let mut row = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(&id) = order.get(i).filter(|_| i < end) else { break };
            if i.is_multiple_of(STEP)
                && let Err(error) = task.step("graph", i as u64, order.len() as u64)
            {
                next.store(order.len(), Ordering::Relaxed);
                *failure.lock() = Some(error);
                break;
            }
            write_row(id, &mut row);
            hnsw.insert((&row, id as usize));
        }
    };
    let alone = if threads == 1 { order.len() } else { ALONE.min(order.len()) };
    work(alone);
    if alone < order.len() && failure.lock().is_none() {
        next.store(alone, Ordering::Relaxed);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| work(order.len())))));
    }
    failure.into_inner().map_or(Ok(()), Err)
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

/// A small generator of random numbers (splitmix64): the order of insertion must not change with a
/// dependency's version.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Uniform in −1..1.
    pub(super) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::repair::unreachable;
    use super::super::search::search;
    use super::*;
    use crate::index::block::Query;
    use crate::index::flat::scan_exact;
    use crate::index::testing::{self, Data, METRICS, overlap};
    use crate::types::Codec;

    const FAST: BuildParams = BuildParams { m: 12, ef_construction: 80, seed: 1 };

    fn recall(data: &Data, graph: &GraphData, ef: usize) -> f64 {
        let queries = data.queries(50, 9);
        let found = queries.iter().map(|vector| {
            let query = Query::new(vector, data.metric, data.dim, data.dim);
            let truth: Vec<u32> = scan_exact(&data.block(), &query, 10, None).iter().map(|n| n.row).collect();
            overlap(&truth, &search(&data.block(), &graph.view(), &query, 10, ef, None))
        });
        found.sum::<f64>() / queries.len() as f64
    }

    #[test]
    fn every_metric_and_codec_gives_a_good_graph() {
        for metric in METRICS {
            for codec in [Codec::Int8F32, Codec::Int8, Codec::F32] {
                let data = Data::clustered(1200, 24, metric, codec, 4);
                let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
                assert!(unreachable(&graph).is_empty());
                assert!(!graph.upper.is_empty());
                let floor = if codec == Codec::Int8 { 0.93 } else { 0.97 };
                let recall = recall(&data, &graph, 96);
                assert!(recall >= floor, "{metric:?} {codec:?}: {recall}");
            }
        }
    }

    #[test]
    fn one_thread_is_deterministic_and_several_are_as_good() {
        let data = Data::clustered(2500, 16, Metric::Cosine, Codec::Int8F32, 8);
        let one = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        assert_eq!(one, build(&data.block(), &FAST, &Task::default(), 1).unwrap());
        let three = build(&data.block(), &FAST, &Task::default(), 3).unwrap();
        assert!(unreachable(&three).is_empty());
        let recall = recall(&data, &three, 96);
        assert!(recall >= 0.97, "{recall}");
    }

    /// hnsw_rs prunes by distance alone, so points inserted after many near-duplicates lose their in-links.
    #[test]
    fn near_duplicates_hide_nobody() {
        let (dim, near, far) = (32, 2000, 200);
        let mut random = testing::Random(5);
        let centre: Vec<f32> = (0..dim).map(|_| random.normal()).collect();
        let mut rows: Vec<f32> = Vec::new();
        for _ in 0..near {
            rows.extend(centre.iter().map(|x| x + 0.02 * random.normal()));
        }
        rows.extend((0..far * dim).map(|_| random.normal()));
        let data = Data::new(rows, dim, Metric::Cosine, Codec::Int8F32);
        let params = BuildParams { m: 16, ef_construction: 100, seed: 0 };
        let graph = build(&data.block(), &params, &Task::default(), 1).unwrap();
        assert!(graph.repaired > 0, "this data must exercise the repair");
        assert!(unreachable(&graph).is_empty());
        let find = |row: usize, ef| {
            let query = Query::new(data.row(row), Metric::Cosine, dim, dim);
            search(&data.block(), &graph.view(), &query, 1, ef, None)
        };
        for row in 0..near + far {
            let found = find(row, near + far);
            assert!(found[0].distance < 1e-6, "row {row}: {found:?}");
        }
        let lost: Vec<usize> = (0..near + far).filter(|&row| find(row, 64)[0].row != row as u32).collect();
        assert!(lost.is_empty(), "not found with a beam of 64: {lost:?}");
    }

    #[test]
    fn identical_rows_and_tiny_blocks_are_graphs_too() {
        for len in [0, 1, 2, 5] {
            let data = Data::clustered(len, 8, Metric::L2, Codec::Int8F32, 2);
            let graph = build(&data.block(), &FAST, &Task::default(), 0).unwrap();
            assert!(unreachable(&graph).is_empty());
            let query = Query::new(&[0.5; 8], Metric::L2, 8, 8);
            assert_eq!(search(&data.block(), &graph.view(), &query, 9, 9, None).len(), len);
        }
        let data = Data::new([1.0, 2.0].repeat(300), 2, Metric::Cosine, Codec::Int8F32);
        let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        assert!(unreachable(&graph).is_empty());
    }

    #[test]
    fn a_cancelled_task_stops_and_wrong_parameters_are_refused() {
        let data = Data::clustered(50, 8, Metric::Cosine, Codec::Int8, 2);
        let task = Task::default();
        task.cancel();
        assert!(matches!(build(&data.block(), &FAST, &task, 1), Err(Error::Cancelled)));
        assert!(matches!(build(&data.block(), &FAST, &task, 2), Err(Error::Cancelled)));
        for (m, ef_construction) in [(3, 100), (129, 200), (16, 8), (16, 20_000)] {
            let params = BuildParams { m, ef_construction, seed: 0 };
            assert!(matches!(build(&data.block(), &params, &Task::default(), 1), Err(Error::Input(_))));
        }
    }
}

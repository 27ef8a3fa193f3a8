//! How a graph is asked for: parameters, back end, order of insertion.

use super::construct::construct;
use super::inherit::Old;
use super::reference::build_hnsw_rs;
use super::repair::{Missed, repair};
use crate::error::{Error, Result};
use crate::format::graph::GraphData;
use crate::index::block::VectorBlock;
use crate::options::Task;
use crate::types::{Builder, IndexKind};

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuildParams {
    /// Links of a node in an upper layer; twice as many in layer 0. From 4 to 128.
    pub m: usize,
    /// Width of the beam that looks for neighbours.
    pub ef_construction: usize,
    /// Shuffles the order of insertion; 0 inserts in the order of rows.
    pub seed: u64,
    /// What builds.
    pub builder: Builder,
    /// Keeps links longer than the nearest-in-each-direction rule would (1 is that rule): the α of DiskANN, on
    /// squared distances. hnsw_rs has no such rule.
    pub alpha: f32,
}

impl BuildParams {
    /// Small and quick to build.
    pub const DEFAULT: Self =
        Self { m: 16, ef_construction: 150, seed: 1, builder: Builder::Flat, alpha: 1.0 };
}

impl BuildParams {
    /// What a kind of index asks for. Dense links give, for two and a half times the construction, 1.35 times the searches
    /// a second at a recall of .99 on GloVe vectors of words (1.2 at .95), and 1.2 times on MiniLM vectors of texts, where at
    /// .95 the default is faster.
    pub const fn of(kind: IndexKind) -> Self {
        match kind {
            IndexKind::Fast => Self::DEFAULT,
            IndexKind::Dense => Self { m: 28, ef_construction: 240, alpha: 1.15, ..Self::DEFAULT },
        }
    }
}

impl BuildParams {
    /// About the heap that construction takes for so many rows: their codes, lists with a quarter more places than links and
    /// a distance beside each, and the graph that comes of them. hnsw_rs keeps each list and each row by itself.
    pub fn heap_bytes(&self, rows: u64, dim: usize) -> u64 {
        let (dim, links) = (dim as u64, 2 * self.m as u64);
        let each = match self.builder {
            Builder::Flat => dim + 15 * links + 64,
            Builder::HnswRs => 2 * dim + 48 * links + 512,
        };
        rows.saturating_mul(each)
    }
}

impl Default for BuildParams {
    fn default() -> Self {
        Self::DEFAULT
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
        if !(1.0..=4.0).contains(&self.alpha) {
            return Err(Error::input(format!("an alpha of {}, expected 1 to 4", self.alpha)));
        }
        Ok(())
    }
}

/// Builds the graph of a block with `threads` threads (0: one a core); its recall curve is still empty. With
/// one thread the result depends on the block and the parameters alone.
///
/// # Errors
/// [`Error::Input`] for parameters out of range, [`Error::Cancelled`] where the task was.
pub fn build(
    block: &VectorBlock<'_>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    build_upon(block, None, params, task, threads)
}

/// The same upon an older graph, whose links are taken over where it was built alike, by our own builder.
///
/// # Errors
/// As above.
pub fn build_upon(
    block: &VectorBlock<'_>,
    old: Option<&Old<'_>>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    params.check()?;
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let alike = |old: &&Old<'_>| {
        let graph = &old.graph;
        graph.m() == params.m && graph.stride() == 2 * params.m && graph.nodes() == old.rows.len()
    };
    let (mut graph, missed) = match params.builder {
        Builder::Flat => (construct(block, old.filter(alike), params, task, threads)?, Missed::ByWalks),
        Builder::HnswRs => (build_hnsw_rs(block, params, task, threads)?, Missed::BySearches),
    };
    graph.ef_construction = params.ef_construction;
    graph.seed = params.seed;
    graph.repaired = repair(&mut graph, block, missed, threads);
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::super::repair::unreachable;
    use super::super::search::search;
    use super::*;
    use crate::index::block::Query;
    use crate::index::flat::scan_exact;
    use crate::index::mask::RowMask;
    use crate::index::testing::{self, Data, METRICS, overlap};
    use crate::types::{Codec, Metric};

    const FAST: BuildParams = BuildParams { m: 12, ef_construction: 80, seed: 1, ..BuildParams::DEFAULT };

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
                assert!(unreachable(&graph.view()).is_empty());
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
        assert!(unreachable(&three.view()).is_empty());
        let recall = recall(&data, &three, 96);
        assert!(recall >= 0.97, "{recall}");
    }

    /// hnsw_rs prunes by distance alone, so points inserted after many near-duplicates lose their in-links; a
    /// rule that looks at directions alone would leave the duplicates with one link each.
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
        for builder in [Builder::Flat, Builder::HnswRs] {
            let params =
                BuildParams { m: 16, ef_construction: 100, seed: 0, builder, ..BuildParams::DEFAULT };
            let graph = build(&data.block(), &params, &Task::default(), 1).unwrap();
            assert!(builder == Builder::Flat || graph.repaired > 0, "this data must exercise the repair");
            assert!(unreachable(&graph.view()).is_empty());
            let is_lost = |row: usize, ef| {
                let query = Query::new(data.row(row), Metric::Cosine, dim, dim);
                search(&data.block(), &graph.view(), &query, 1, ef, None)[0].row != row as u32
            };
            assert!((0..near + far).all(|row| !is_lost(row, near + far)), "{builder:?}");
            let lost: Vec<usize> = (0..near + far).filter(|&row| is_lost(row, 64)).collect();
            assert!(lost.len() * 100 <= near && lost.iter().all(|&row| row < near), "{builder:?}: {lost:?}");
        }
    }

    #[test]
    fn equal_rows_are_one_node_and_all_are_found() {
        for metric in METRICS {
            let unique = Data::clustered(300, 16, metric, Codec::Int8F32, 4);
            let rows: Vec<f32> = (0..900)
                .flat_map(|row| unique.row(row % 300).to_vec())
                .chain(unique.row(7).repeat(40))
                .collect();
            let data = Data::new(rows, 16, metric, Codec::Int8F32);
            let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
            assert_eq!(graph.folds.len(), 640);
            assert!(unreachable(&graph.view()).is_empty());
            let query = Query::new(unique.row(7), metric, 16, 16);
            let found = search(&data.block(), &graph.view(), &query, 43, 43, None);
            let exact = scan_exact(&data.block(), &query, 43, None);
            assert_eq!(found, exact);
            let odd = RowMask::from_rows(940, (0..940).filter(|row| row % 2 == 1));
            let found = search(&data.block(), &graph.view(), &query, 20, 50, Some(&odd));
            assert_eq!(found, scan_exact(&data.block(), &query, 20, Some(&odd)));
        }
    }

    #[test]
    fn identical_rows_and_tiny_blocks_are_graphs_too() {
        for len in [0, 1, 2, 5] {
            let data = Data::clustered(len, 8, Metric::L2, Codec::Int8F32, 2);
            let graph = build(&data.block(), &FAST, &Task::default(), 0).unwrap();
            assert!(unreachable(&graph.view()).is_empty());
            let query = Query::new(&[0.5; 8], Metric::L2, 8, 8);
            assert_eq!(search(&data.block(), &graph.view(), &query, 9, 9, None).len(), len);
        }
        let data = Data::new([1.0, 2.0].repeat(300), 2, Metric::Cosine, Codec::Int8F32);
        let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        assert!(unreachable(&graph.view()).is_empty());
    }

    #[test]
    fn a_cancelled_task_stops_and_wrong_parameters_are_refused() {
        let data = Data::clustered(50, 8, Metric::Cosine, Codec::Int8, 2);
        let task = Task::default();
        task.cancel();
        assert!(matches!(build(&data.block(), &FAST, &task, 1), Err(Error::Cancelled)));
        assert!(matches!(build(&data.block(), &FAST, &task, 2), Err(Error::Cancelled)));
        for (m, ef_construction) in [(3, 100), (129, 200), (16, 8), (16, 20_000)] {
            let params = BuildParams { m, ef_construction, seed: 0, ..BuildParams::DEFAULT };
            assert!(matches!(build(&data.block(), &params, &Task::default(), 1), Err(Error::Input(_))));
        }
    }
}

//! The recall curve of a graph: which width of the beam finds what share of the true neighbours.
//!
//! Measured once, at sealing, on the segment's own rows, so that callers can ask for a recall instead of a
//! width. Each query is a row, searched as if it were not in the graph: no link leads to it. What is left is a graph of
//! all other rows, a little worse around the query than if that had never been there, and so the curve is a little lower
//! than the recall of held-out queries: of a thousand on MiniLM vectors of texts .80 at a width of 16 where that was .86,
//! .96 at 64 where it was .97; on GloVe vectors of words .63 and .86 where it was .68 and .88. Twice the standard error is
//! taken off besides. Recall is counted by distance, not by row, so that equal rows are no misses.
//!
//! Under the inner product a row asks for rows longer than most, which are easily found. There queries are rows that were
//! pushed away, in a random direction, by twice the distance of their own tenth neighbour.

use super::build::Random;
use super::search::search_without;
use crate::error::Result;
use crate::format::graph::{GraphView, NO_NODE, RecallPoint};
use crate::index::block::{Query, VectorBlock};
use crate::index::flat::{scan, scan_exact};
use crate::options::Task;
use crate::types::Metric;

/// Widths of the beam that are measured.
pub const WIDTHS: [u32; 6] = [16, 32, 64, 128, 256, 512];
/// Neighbours whose recall is measured.
pub const MEASURED_K: usize = 10;
/// Width used where no curve was measured.
pub const DEFAULT_WIDTH: usize = 128;

const SAMPLES: usize = 100;
/// How far a row is pushed, in distances of its tenth neighbour.
const PUSH: f32 = 2.0;

/// What was measured of a graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Recall@10 at each of [`WIDTHS`], walked as `rough` says; empty for a block of ten rows or fewer.
    pub curve: Vec<RecallPoint>,
    /// Whether walks may compare the high plane of codes alone.
    pub rough: bool,
}

/// Measures recall@10 at each of [`WIDTHS`], by both planes of the codes and by the high one alone, and chooses.
///
/// # Errors
/// [`Error::Cancelled`](crate::Error::Cancelled) where the task was.
pub fn calibrate(
    block: &VectorBlock<'_>,
    graph: &GraphView<'_>,
    seed: u64,
    task: &Task,
) -> Result<Calibration> {
    if block.len <= MEASURED_K {
        return Ok(Calibration::default());
    }
    let mut random = Random(seed);
    let samples = SAMPLES.min(block.len);
    let walks = [graph.walked(false), graph.walked(true)];
    let mut hits = [[0usize; WIDTHS.len()]; 2];
    for sample in 0..samples {
        task.step("calibrate", sample as u64, samples as u64)?;
        let row = lone_row(graph, &mut random);
        let (query, without) = match block.metric {
            Metric::Dot => (pushed(block, row, &mut random), NO_NODE),
            _ => (query_of(block, row), row),
        };
        let nearest = scan_exact(block, &query, MEASURED_K + 1, None);
        let others = nearest.iter().filter(|n| n.row != without);
        let Some(limit) = others.take(MEASURED_K).last().map(|n| n.distance + 1e-6 * n.distance.abs()) else {
            continue;
        };
        for (graph, hits) in walks.iter().zip(&mut hits).take(if block.has_codes() { 2 } else { 1 }) {
            for (hits, &ef) in hits.iter_mut().zip(&WIDTHS) {
                let found = search_without(block, graph, &query, MEASURED_K, ef as usize, without);
                *hits += found.iter().filter(|n| n.distance <= limit).count();
            }
        }
    }
    let all = samples * MEASURED_K;
    let [coarse, rough] = &hits;
    let cheaper = block.has_codes() && is_cheaper(coarse, rough, all);
    let hits = if cheaper { rough } else { coarse };
    let curve = WIDTHS.iter().zip(hits).map(|(&ef, &hits)| RecallPoint { ef, recall: surely(hits, all) });
    Ok(Calibration { curve: curve.collect(), rough: cheaper })
}

/// A share of hits, less twice its standard error: who asks for a recall should not get less because few were asked.
fn surely(hits: usize, all: usize) -> f32 {
    let share = hits as f32 / all as f32;
    (share - 2.0 * (share * (1.0 - share) / all as f32).sqrt()).max(0.0)
}

/// Whether walks by the high plane alone, which reads half as much, find about what walks by both planes find: at no
/// width they miss so much more that a beam would have to be wider by a quarter.
fn is_cheaper(coarse: &[usize], rough: &[usize], all: usize) -> bool {
    const MORE: f32 = 1.25;
    /// Share of all that may be missed besides by chance.
    const CHANCE: f32 = 0.005;
    coarse.iter().zip(rough).all(|(coarse, rough)| {
        let [coarse, rough] = [coarse, rough].map(|hits| (all - hits.min(&all)) as f32);
        rough <= MORE * coarse + CHANCE * all as f32
    })
}

/// A row at random that is a node of its own and not the entry, where the first few tries find one.
fn lone_row(graph: &GraphView<'_>, random: &mut Random) -> u32 {
    const TRIES: usize = 8;
    let is_lone =
        |row: u32| row != graph.entry() && graph.links(row).next().is_some() && graph.folded(row).is_empty();
    let mut rows = (0..TRIES).map(|_| random.below(graph.nodes()) as u32);
    let first = rows.next().unwrap_or_default();
    if is_lone(first) { first } else { rows.find(|&row| is_lone(row)).unwrap_or(first) }
}

/// A row, pushed away from its neighbours.
fn pushed(block: &VectorBlock<'_>, row: u32, random: &mut Random) -> Query {
    let mut values = Vec::new();
    block.values_of(row, &mut values);
    // Euclidean distances between rows mean a length under every metric.
    let space = VectorBlock { metric: Metric::L2, ..*block };
    let near = scan(&space, &Query::new(&values, Metric::L2, block.dim, block.dim), MEASURED_K + 1, None);
    let near = near.last().map_or(0.0, |n| n.distance);
    let push: Vec<f32> = values.iter().map(|_| random.signed()).collect();
    let length = push.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    values.iter_mut().zip(push).for_each(|(x, step)| *x += PUSH * near * step / length);
    Query::new(&values, block.metric, block.dim, block.dim)
}

/// A row as a query.
fn query_of(block: &VectorBlock<'_>, row: u32) -> Query {
    let mut values = Vec::new();
    block.values_of(row, &mut values);
    Query::new(&values, block.metric, block.dim, block.dim)
}

/// The narrowest beam that reaches `target` by the curve, interpolated between its points; `None` if even
/// the widest measured does not. Without a curve, [`DEFAULT_WIDTH`].
pub fn ef_for(curve: &[RecallPoint], target: f32) -> Option<usize> {
    if curve.is_empty() {
        return Some(DEFAULT_WIDTH);
    }
    let reached = curve.iter().position(|point| point.recall >= target)?;
    let high = curve.get(reached)?;
    let low = reached.checked_sub(1).and_then(|i| curve.get(i));
    let width = match low {
        Some(low) if high.recall > low.recall && high.ef > low.ef => {
            let part = (target - low.recall) / (high.recall - low.recall);
            low.ef as f32 + part * (high.ef - low.ef) as f32
        }
        _ => high.ef as f32,
    };
    Some(width.ceil().max(1.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::super::build::{BuildParams, build};
    use super::*;
    use crate::index::testing::{Data, METRICS};
    use crate::types::Codec;

    #[test]
    fn recall_rises_with_the_beam_and_is_what_queries_see() {
        for metric in METRICS {
            let data = Data::clustered(1500, 24, metric, Codec::Int8F32, 21);
            let params = BuildParams { m: 6, ef_construction: 40, seed: 1, ..BuildParams::DEFAULT };
            let graph = build(&data.block(), &params, &Task::default(), 1).unwrap();
            let found = calibrate(&data.block(), &graph.view(), 3, &Task::default()).unwrap();
            let curve = found.curve.clone();
            assert_eq!(found, calibrate(&data.block(), &graph.view(), 3, &Task::default()).unwrap());
            assert_eq!(curve.len(), WIDTHS.len());
            assert!(curve.windows(2).all(|pair| pair[0].recall <= pair[1].recall + 0.02), "{curve:?}");
            assert!(curve[0].recall > 0.3 && curve[5].recall > 0.97, "{metric:?}: {curve:?}");
        }
    }

    #[test]
    fn codes_without_scales_and_tiny_blocks() {
        let data = Data::clustered(300, 12, Metric::Cosine, Codec::Int8, 21);
        let block = VectorBlock { scales: &[], ..data.block() };
        let graph = build(&block, &BuildParams::default(), &Task::default(), 1).unwrap();
        let curve = calibrate(&block, &graph.view(), 3, &Task::default()).unwrap().curve;
        assert!(curve[5].recall > 0.9, "{curve:?}");
        let tiny = Data::clustered(10, 12, Metric::Cosine, Codec::Int8, 21);
        let graph = build(&tiny.block(), &BuildParams::default(), &Task::default(), 1).unwrap();
        assert!(calibrate(&tiny.block(), &graph.view(), 3, &Task::default()).unwrap().curve.is_empty());
    }

    #[test]
    fn widths_are_interpolated() {
        let point = |ef, recall| RecallPoint { ef, recall };
        let curve = [point(16, 0.5), point(32, 0.9), point(64, 0.9), point(128, 1.0)];
        let of = |target| ef_for(&curve, target);
        assert_eq!(
            [of(0.2), of(0.5), of(0.7), of(0.9), of(0.95), of(1.0)],
            [16, 16, 24, 32, 96, 128].map(Some)
        );
        assert_eq!(ef_for(&curve[..3], 0.95), None);
        assert_eq!(ef_for(&[], 0.95), Some(DEFAULT_WIDTH));
        assert_eq!(ef_for(&[point(0, f32::NAN), point(0, 2.0)], 0.95), Some(1));
        assert_eq!(of(f32::NAN), None);
    }
}

//! The recall curve of a graph: which width of the beam finds what share of the true neighbours.
//!
//! Measured once, at sealing, on the segment's own rows, so that callers can ask for a recall instead of a
//! width. Queries are rows that were pushed away, in a random direction, by twice the distance of their own
//! tenth neighbour, whatever the metric and the scale: at that distance the curve agreed best with the recall
//! of held-out queries (within 3 points at a beam of 16, 2 at 32); less is optimistic, since a row is linked to
//! its own neighbours. Recall is counted by distance, not by row, so that equal rows are no misses.

use super::build::Random;
use super::search::search;
use crate::error::Result;
use crate::format::graph::{GraphView, RecallPoint};
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
/// How much wider a beam may be that reads half as much of each row: measured speeds differ by a third.
const WIDER: f32 = 1.2;
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
        let query = perturbed(block, random.below(block.len) as u32, &mut random);
        let truth = scan_exact(block, &query, MEASURED_K, None);
        let Some(limit) = truth.last().map(|n| n.distance + 1e-6 * n.distance.abs()) else { continue };
        for (graph, hits) in walks.iter().zip(&mut hits).take(if block.has_codes() { 2 } else { 1 }) {
            for (hits, &ef) in hits.iter_mut().zip(&WIDTHS) {
                let found = search(block, graph, &query, MEASURED_K, ef as usize, None);
                *hits += found.iter().filter(|n| n.distance <= limit).count();
            }
        }
    }
    let of =
        |(&ef, hits): (&u32, usize)| RecallPoint { ef, recall: hits as f32 / (samples * MEASURED_K) as f32 };
    let [coarse, rough] = hits.map(|hits| WIDTHS.iter().zip(hits).map(of).collect::<Vec<_>>());
    let cheaper = is_cheaper(&rough, &coarse);
    Ok(Calibration { curve: if cheaper { rough } else { coarse }, rough: cheaper })
}

/// Whether walks by the high plane alone, which reads half as much, reach what walks by both planes reach, without
/// beams so much wider that nothing is gained.
fn is_cheaper(rough: &[RecallPoint], coarse: &[RecallPoint]) -> bool {
    const TARGETS: [f32; 3] = [0.9, 0.95, 0.99];
    TARGETS.iter().all(|&target| match (ef_for(rough, target), ef_for(coarse, target)) {
        (Some(rough), Some(coarse)) => rough as f32 <= WIDER * coarse as f32,
        (rough, coarse) => rough == coarse,
    })
}

/// A row, pushed away from its neighbours.
fn perturbed(block: &VectorBlock<'_>, row: u32, random: &mut Random) -> Query {
    // Euclidean distances between rows mean a length under every metric.
    let space = VectorBlock { metric: Metric::L2, ..*block };
    let mut values = Vec::new();
    block.values_of(row, &mut values);
    let near = if block.scales.is_empty() && block.has_codes() {
        // Codes without scales occur under cosine alone, where length² = 2 − 2cos.
        let found =
            scan(block, &Query::new(&values, block.metric, block.dim, block.dim), MEASURED_K + 1, None);
        found.last().map_or(0.0, |n| (2.0 * n.distance).max(0.0).sqrt())
    } else {
        let found =
            scan(&space, &Query::new(&values, Metric::L2, block.dim, block.dim), MEASURED_K + 1, None);
        found.last().map_or(0.0, |n| n.distance)
    };
    let push: Vec<f32> = values.iter().map(|_| random.signed()).collect();
    let length = push.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    values.iter_mut().zip(push).for_each(|(x, step)| *x += PUSH * near * step / length);
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

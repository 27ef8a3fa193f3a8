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

use super::beam::Beam;
use super::search::search_without;
use crate::error::Result;
use crate::format::graph::{GraphView, NO_NODE, RecallPoint, Sight};
use crate::index::block::{Query, VectorBlock};
use crate::index::flat::scan;
use crate::index::random::Random;
use crate::kernel::planes::plane_len;
use crate::options::Task;
use crate::types::Metric;

/// Widths of the beam that are measured, up to the first that misses nothing.
pub const WIDTHS: [u32; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];
/// Neighbours whose recall is measured.
pub const MEASURED_K: usize = 10;

const SAMPLES: usize = 100;
/// How far a row is pushed, in distances of its tenth neighbour.
const PUSH: f32 = 2.0;
/// The first so many of [`WIDTHS`] decide what walks compare; wider beams take as long as all of these.
const DECISIVE: usize = 6;
/// The places in [`WIDTHS`] of those at which reaches are measured.
const REACHES_AT: [usize; 3] = [1, 3, 5];
/// Reaches that are tried, as shares of squared distances.
const LEAST_REACH: f32 = 0.02;
const MOST_REACH: f32 = 1.28;
/// How often the range of reaches is halved.
const REACH_STEPS: usize = 6;
/// The place in [`WIDTHS`] of that at which each sight is tried, before it is measured at all of them.
const TRIED: usize = 3;

/// What was measured of a graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Recall@10 at [`WIDTHS`], walked with this sight; empty for a block of ten rows or fewer.
    pub curve: Vec<RecallPoint>,
    /// What takes the least effort for the same recall.
    pub sight: Sight,
    /// Length of the longest row under the inner product; else 0.
    pub longest: f32,
}

/// Measures recall@10 at some widths, and chooses what walks compare.
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
    let longest = longest(block);
    let samples = Samples::take(block, graph, seed, task)?;
    let (sight, hits) = samples.sight(graph);
    let view = graph.walked(sight).of_rows(longest);
    let reaches = samples.reaches(&view, &hits);
    let curve = samples.curve(&view, reaches);
    Ok(Calibration { curve, sight, longest })
}

/// The length of the longest row, where walks have to know it.
fn longest(block: &VectorBlock<'_>) -> f32 {
    let mut values = Vec::new();
    let mut length = |row| {
        block.values_of(row, &mut values);
        values.iter().map(|x| x * x).sum::<f32>().sqrt()
    };
    match block.metric {
        Metric::Dot => (0..block.len as u32).map(&mut length).fold(0.0, f32::max),
        Metric::Cosine | Metric::L2 => 0.0,
    }
}

/// What walks may compare, besides all: the high plane alone, and the codes of half the dimensions or fewer.
fn sights_besides_all(block: &VectorBlock<'_>) -> Vec<Sight> {
    if !block.has_codes() {
        return Vec::new();
    }
    let halves = |rung: &&usize| 2 * plane_len(**rung) <= plane_len(block.dim);
    let rungs = block.ladder.iter().filter(halves).map(|&rung| rung as u32);
    let narrow = rungs.flat_map(|rung| [true, false].map(|rough| Sight { rung, rough }));
    narrow.chain([Sight { rung: 0, rough: true }]).collect()
}

/// What a place in the beam costs.
///
/// As much as links, visits and the order of nodes take (1), besides 5/3 for each plane of codes and as much again for each
/// 500 bytes of it: on 100,000 vectors of 384 dimensions, walked by 128 or all, by one plane or both, a place took 1.33,
/// 1.53, 2.20 and 2.60 µs; by this 1.31, 1.53, 2.16 and 2.59.
fn place(block: &VectorBlock<'_>, sight: Sight) -> f64 {
    let dims = if sight.rung == 0 { block.dim } else { sight.rung as usize };
    let plane = 5.0 / 3.0 * (1.0 + plane_len(dims) as f64 / 500.0);
    1.0 + if sight.rough { plane } else { 2.0 * plane }
}

/// Queries, and the distance of the last neighbour that each should find.
struct Samples<'a> {
    block: &'a VectorBlock<'a>,
    queries: Vec<Sample>,
}

struct Sample {
    query: Query,
    /// The node that walks leave out.
    without: u32,
    limit: f32,
}

impl<'a> Samples<'a> {
    fn take(block: &'a VectorBlock<'a>, graph: &GraphView<'_>, seed: u64, task: &Task) -> Result<Self> {
        let mut random = Random(seed);
        let count = SAMPLES.min(block.len);
        let mut queries = Vec::with_capacity(count);
        for done in 0..count {
            task.step("calibrate", done as u64, count as u64)?;
            let row = lone_row(graph, &mut random);
            let (query, without) = match block.metric {
                Metric::Dot => (pushed(block, row, &mut random), NO_NODE),
                _ => (query_of(block, row), row),
            };
            let nearest = scan(block, &query, MEASURED_K + 1, None);
            let others = nearest.iter().filter(|n| n.row != without);
            if let Some(last) = others.take(MEASURED_K).last() {
                let limit = last.distance + 1e-6 * last.distance.abs();
                queries.push(Sample { query, without, limit });
            }
        }
        Ok(Self { block, queries })
    }

    /// Neighbours that all queries together should find.
    fn all(&self) -> usize {
        self.queries.len() * MEASURED_K
    }

    /// What walks compare at the least effort, and what they find at the [`DECISIVE`] widths.
    fn sight(&self, graph: &GraphView<'_>) -> (Sight, Vec<usize>) {
        let all = Sight::default();
        let whole = self.hits_at(&graph.walked(all), &WIDTHS[..DECISIVE]);
        let mut best = (all, whole.clone());
        let mut least = place(self.block, all);
        for sight in sights_besides_all(self.block) {
            let view = graph.walked(sight);
            if self.is_hopeless(whole[TRIED], self.hits(&view, WIDTHS[TRIED], None)) {
                continue;
            }
            let hits = self.hits_at(&view, &WIDTHS[..DECISIVE]);
            let effort = place(self.block, sight) * self.wider(&whole, &hits);
            if effort < least {
                (best, least) = ((sight, hits), effort);
            }
        }
        best
    }

    /// How far walks must reach at each of [`WIDTHS`] to find what plain beams find.
    ///
    /// Measured at some of the widths. The reach grows with the logarithm of the width, on vectors of words as on vectors
    /// of texts, so that a line through what was measured evens out what a hundred samples err by.
    fn reaches(&self, graph: &GraphView<'_>, plain: &[usize]) -> Option<[f32; WIDTHS.len()]> {
        let measured: Option<Vec<(f32, f32)>> = REACHES_AT
            .iter()
            .map(|&at| Some((at as f32, self.reach(graph, WIDTHS[at], *plain.get(at)?)?)))
            .collect();
        let line = Line::through(&measured?);
        let least = line.at(0.0).max(LEAST_REACH);
        Some(std::array::from_fn(|at| line.at(at as f32).max(least)))
    }

    /// The shortest reach with which walks of one width find as much as a plain beam.
    fn reach(&self, graph: &GraphView<'_>, ef: u32, plain: usize) -> Option<f32> {
        let finds = |reach: f32| self.hits(graph, ef, Some(reach)) >= plain;
        let [mut short, mut long] = [LEAST_REACH, MOST_REACH];
        if !finds(long) {
            return None;
        }
        for _ in 0..REACH_STEPS {
            let middle = (short * long).sqrt();
            if finds(middle) { long = middle } else { short = middle }
        }
        Some(long)
    }

    /// Neighbours that walks of one width find: plain ones, or with a reach.
    fn hits(&self, graph: &GraphView<'_>, ef: u32, reach: Option<f32>) -> usize {
        let of = |sample: &Sample| {
            let Sample { query, without, limit } = sample;
            let ef = ef as usize;
            let beam = match reach {
                Some(reach) => Beam::reaching(graph, query, ef, MEASURED_K, reach),
                None => Beam::plain(ef),
            };
            let found = search_without(self.block, graph, query, MEASURED_K, beam, *without);
            found.iter().filter(|n| n.distance <= *limit).count()
        };
        self.queries.iter().map(of).sum()
    }

    /// What plain beams of some widths, ascending, find; all from the first that misses nothing.
    fn hits_at(&self, graph: &GraphView<'_>, widths: &[u32]) -> Vec<usize> {
        let mut hits = Vec::with_capacity(WIDTHS.len());
        for &ef in widths {
            let all = hits.last() == Some(&self.all());
            hits.push(if all { self.all() } else { self.hits(graph, ef, None) });
        }
        hits
    }

    fn missed(&self, hits: usize) -> usize {
        self.all().saturating_sub(hits)
    }

    /// Whether walks that compare less surely take more effort than by all, given what both find at one width.
    fn is_hopeless(&self, whole: usize, less: usize) -> bool {
        self.missed(less) > 3 * self.missed(whole) + self.all() / 100
    }

    /// How much wider a beam must be for walks that compare less: about as much as they miss more, since a beam twice
    /// as wide misses half as much. The same queries ask both, so that this differs less by chance than their curves.
    fn wider(&self, whole: &[usize], less: &[usize]) -> f64 {
        /// Share of all that may be missed by chance.
        const CHANCE: f64 = 0.003;
        let missed = |hits: usize| self.missed(hits) as f64 + CHANCE * self.all() as f64;
        let ratios = whole.iter().zip(less).map(|(&whole, &less)| missed(less) / missed(whole));
        ratios.sum::<f64>() / whole.len() as f64
    }

    /// Recall at [`WIDTHS`], up to the first that misses nothing.
    fn curve(&self, graph: &GraphView<'_>, reaches: Option<[f32; WIDTHS.len()]>) -> Vec<RecallPoint> {
        let mut curve = Vec::with_capacity(WIDTHS.len());
        for (at, &ef) in WIDTHS.iter().enumerate() {
            let reach = reaches.map(|reaches| reaches[at]);
            let recall = surely(self.hits(graph, ef, reach), self.all());
            curve.push(RecallPoint::new(ef as u16, reach, recall));
            if recall >= 1.0 {
                break;
            }
        }
        curve
    }
}

/// A straight line.
struct Line {
    start: f32,
    slope: f32,
}

impl Line {
    /// The line of the least squares.
    fn through(points: &[(f32, f32)]) -> Self {
        let count = points.len() as f32;
        let [x, y] =
            [points.iter().map(|p| p.0).sum::<f32>(), points.iter().map(|p| p.1).sum()].map(|s| s / count);
        let spread: f32 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
        let together: f32 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        let slope = (together / spread.max(f32::MIN_POSITIVE)).max(0.0);
        Self { start: y - slope * x, slope }
    }

    fn at(&self, x: f32) -> f32 {
        self.start + self.slope * x
    }
}

/// A share of hits, less twice its standard error: who asks for a recall should not get less because few were asked.
fn surely(hits: usize, all: usize) -> f32 {
    let share = hits as f32 / all as f32;
    (share - 2.0 * (share * (1.0 - share) / all as f32).sqrt()).max(0.0)
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
            assert!(curve.windows(2).all(|pair| pair[0].recall <= pair[1].recall + 0.02), "{curve:?}");
            assert!(curve[0].recall > 0.3 && curve.last().unwrap().recall > 0.97, "{metric:?}: {curve:?}");
        }
    }

    /// Rows that differ in their first 64 dimensions alone, but for a little; or in all.
    #[test]
    fn walks_compare_a_rung_where_rows_truncate_well_and_only_there() {
        for metric in METRICS {
            let sights = [true, false].map(|truncates| {
                let data = Data::truncated(3000, 192, metric, truncates);
                let graph = build(&data.block(), &BuildParams::default(), &Task::default(), 1).unwrap();
                calibrate(&data.block(), &graph.view(), 3, &Task::default()).unwrap().sight
            });
            assert_eq!(sights.map(|sight| sight.rung), [64, 0], "{metric:?}");
        }
    }

    #[test]
    fn codes_without_scales_and_tiny_blocks() {
        let data = Data::clustered(300, 12, Metric::Cosine, Codec::Int8, 21);
        let block = VectorBlock { scales: &[], ..data.block() };
        let graph = build(&block, &BuildParams::default(), &Task::default(), 1).unwrap();
        let curve = calibrate(&block, &graph.view(), 3, &Task::default()).unwrap().curve;
        assert!(curve.last().unwrap().recall > 0.9, "{curve:?}");
        let tiny = Data::clustered(10, 12, Metric::Cosine, Codec::Int8, 21);
        let graph = build(&tiny.block(), &BuildParams::default(), &Task::default(), 1).unwrap();
        assert!(calibrate(&tiny.block(), &graph.view(), 3, &Task::default()).unwrap().curve.is_empty());
    }
}

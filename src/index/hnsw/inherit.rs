//! What a graph takes over from an older one over some of its rows, as when segments are merged.
//!
//! Rows that live on keep their order in their segment, and their codes to the bit. So their nodes keep their layers
//! and their links, under new numbers, and only the other rows are inserted. A list that loses links to rows that are
//! gone takes the links of those in their place (as FreshDiskANN does, Singh et al., 2021), and is pruned as ever.
//! A row that folds under another stands in for it once that one is gone.
//!
//! The older graph is foreign data: whatever numbers it holds, links lead to nodes of the layer they are in.

use super::links::Link;
use super::points::Points;
use super::walk::Score;
use crate::format::graph::{Fold, GraphView, MAX_LAYERS, NO_NODE};

/// A graph, and what became of its rows.
#[derive(Debug, Clone)]
pub struct Old<'a> {
    /// The graph.
    pub graph: GraphView<'a>,
    /// The number of each of its rows among the rows of the new graph, [`NO_NODE`] for one that is gone.
    pub rows: &'a [u32],
}

/// Share of an older graph's rows that may be gone.
const GONE: f64 = 0.25;
/// Share of new rows among all.
const NEW: f64 = 0.75;

/// Whether to take over an older graph's links costs less than to look for them, where its rows get these numbers in a
/// graph of `total` rows.
///
/// Measured on 100,000 MiniLM vectors, as share of the CPU time of a fresh graph, and by how much recall@10 is higher at
/// beams of 48 and 128, in thousandths; beyond the limits nothing is gained, or more than three of these are lost:
///
/// | new | gone | time | recall |
/// |---|---|---|---|
/// | .02 | .02 | .05 | 0, 0 |
/// | .10 | 0 | .15 | −1, 0 |
/// | .10 | .10 | .19 | −1, 0 |
/// | .10 | .30 | .23 | −3.4, −1.6 |
/// | .25 | .25 | .34 | −1, −1 |
/// | .50 | 0 | .56 | −1, 0 |
/// | .50 | .25 | .43 | 2, 1 |
/// | .75 | 0 | .79 | −1, 0 |
///
/// Five merges one upon the other, each with a tenth of the rows gone, lose nothing either: .9591 and .9899, fresh .9576
/// and .9904.
pub fn pays(rows: &[u32], total: usize) -> bool {
    let kept = rows.iter().filter(|&&row| row != NO_NODE).count();
    let (gone, new) = (rows.len() - kept, total.saturating_sub(kept));
    gone as f64 <= GONE * rows.len() as f64 && new as f64 <= NEW * total as f64
}

/// The nodes that an older graph leaves to a new one.
pub(super) struct Heritage<'h> {
    graph: &'h GraphView<'h>,
    /// The new node of each old one; `NO_NODE` for one that is gone.
    new: Vec<u32>,
    /// The old node of each new one; `NO_NODE` for one that is new.
    old: Vec<u32>,
    /// The layer up to which each new node was linked.
    levels: Vec<u8>,
    entry: u32,
}

impl<'h> Heritage<'h> {
    /// Of a graph of `rows` rows with these folds; `None` if nothing is left.
    pub(super) fn new(old: &'h Old<'h>, folds: &[Fold], rows: usize) -> Option<Self> {
        let graph = &old.graph;
        let mut leaders: Vec<u32> = (0..rows as u32).collect();
        folds.iter().for_each(|fold| leaders[fold.row as usize] = fold.node);
        let mut stands_for: Vec<u32> = (0..graph.nodes() as u32).collect();
        for fold in graph.folds() {
            if let Some(node) = stands_for.get_mut(fold.row as usize) {
                *node = fold.node;
            }
        }
        let (new, old_of) = (vec![NO_NODE; graph.nodes()], vec![NO_NODE; rows]);
        let mut heritage = Self { graph, new, old: old_of, levels: vec![0; rows], entry: NO_NODE };
        for (&before, &row) in stands_for.iter().zip(old.rows) {
            let Some(&node) = leaders.get(row as usize) else { continue };
            if let (Some(new @ &mut NO_NODE), Some(old @ &mut NO_NODE)) =
                (heritage.new.get_mut(before as usize), heritage.old.get_mut(node as usize))
            {
                (*new, *old) = (node, before);
            }
        }
        for layer in 1..=graph.layers().min(MAX_LAYERS) {
            for &member in graph.members(layer) {
                let node = heritage.new_of(member);
                if let Some(level) = heritage.levels.get_mut(node as usize) {
                    *level = layer as u8;
                }
            }
        }
        let entry = heritage.new_of(graph.entry());
        let nodes = (0..rows as u32).filter(|&node| heritage.has(node));
        heritage.entry = nodes.max_by_key(|&node| (heritage.level(node), node == entry, u32::MAX - node))?;
        Some(heritage)
    }

    /// Whether a node has links to take over.
    pub(super) fn has(&self, node: u32) -> bool {
        self.old.get(node as usize).is_some_and(|&old| old != NO_NODE)
    }

    /// The highest layer in which a node has.
    pub(super) fn level(&self, node: u32) -> u8 {
        self.levels.get(node as usize).copied().unwrap_or(0)
    }

    /// Where walks begin: at the old entry, else at a node as high as any.
    pub(super) fn entry(&self) -> u32 {
        self.entry
    }

    /// Leaves in `out` the links of a node in a layer, nearest first. Where some of them are lost these are candidates,
    /// and the number of links it had is returned.
    pub(super) fn links(
        &self,
        points: &Points,
        layer: usize,
        node: u32,
        out: &mut Vec<Link>,
    ) -> Option<usize> {
        out.clear();
        let list = self.list(layer, self.old.get(node as usize).copied()?);
        let mut targets: Vec<u32> = Vec::new();
        let mut lost = None;
        for &link in &list {
            let target = self.new_of(link);
            if target == NO_NODE {
                lost = Some(list.len());
                targets.extend(self.list(layer, link).iter().map(|&link| self.new_of(link)));
            } else {
                targets.push(target);
            }
        }
        targets.sort_unstable();
        targets.dedup();
        targets.retain(|&target| target != node && target != NO_NODE && self.level(target) as usize >= layer);
        let (mut room, mut distances) = (vec![0; 2 * targets.len()], vec![0.0; targets.len()]);
        points.from(node).score(&targets, &mut room, &mut distances);
        out.extend(targets.iter().zip(distances).map(|(&node, distance)| Link { distance, node }));
        out.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.node.cmp(&b.node)));
        lost
    }

    fn new_of(&self, old: u32) -> u32 {
        self.new.get(old as usize).copied().unwrap_or(NO_NODE)
    }

    fn list(&self, layer: usize, old: u32) -> Vec<u32> {
        match layer {
            0 => self.graph.links(old).collect(),
            _ => self.graph.upper_links(layer, old).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{BuildParams, build, build_upon};
    use super::super::repair::unreachable;
    use super::super::search::search;
    use super::*;
    use crate::format::graph::GraphData;
    use crate::index::block::Query;
    use crate::index::flat::scan;
    use crate::index::testing::{Data, METRICS, Random, overlap};
    use crate::options::Task;
    use crate::types::{Builder, Codec, Metric};

    const FAST: BuildParams = BuildParams { m: 8, ef_construction: 60, seed: 1, ..BuildParams::DEFAULT };

    /// Rows with these numbers among `all`.
    fn chosen(all: &Data, rows: &[u32]) -> Data {
        let values = rows.iter().flat_map(|&row| all.row(row as usize).to_vec()).collect();
        Data::new(values, all.dim, all.metric, Codec::Int8F32)
    }

    /// What became of the rows `before` once they are `after`.
    fn moved(before: &[u32], after: &[u32]) -> Vec<u32> {
        let place = |row| after.iter().position(|&kept| kept == row).map_or(NO_NODE, |place| place as u32);
        before.iter().map(|&row| place(row)).collect()
    }

    fn upon(data: &Data, graph: &GraphData, rows: &[u32], threads: usize) -> GraphData {
        let old = Old { graph: graph.view(), rows };
        build_upon(&data.block(), Some(&old), &FAST, &Task::default(), threads).unwrap()
    }

    fn recall(data: &Data, graph: &GraphData) -> f64 {
        let queries = data.queries(300, 9);
        let found = queries.iter().map(|vector| {
            let query = Query::new(vector, data.metric, data.dim, data.dim);
            let truth: Vec<u32> = scan(&data.block(), &query, 10, None).iter().map(|n| n.row).collect();
            overlap(&truth, &search(&data.block(), &graph.view(), &query, 10, 48, None))
        });
        found.sum::<f64>() / queries.len() as f64
    }

    /// A link of each layer leads to a member of it, and each member of a layer is one of the layer below.
    fn assert_layered(graph: &GraphData) {
        let view = graph.view();
        assert!(graph.upper.is_empty() || view.members(graph.upper.len()).contains(&graph.entry));
        for layer in 1..=view.layers() {
            let members = view.members(layer);
            assert!(layer == 1 || members.iter().all(|node| view.members(layer - 1).contains(node)));
            for &node in members {
                assert!(view.upper_links(layer, node).iter().all(|link| members.contains(link)));
            }
        }
        for node in 0..graph.nodes as u32 {
            let links: Vec<u32> = view.links(node).collect();
            assert!(links.iter().all(|&link| link != node && (link as usize) < graph.nodes));
            assert!((1..links.len()).all(|n| !links[..n].contains(&links[n])), "a link twice");
        }
    }

    #[test]
    fn five_generations_are_as_good_as_a_fresh_graph() {
        for metric in METRICS {
            let all = Data::clustered(4000, 16, metric, Codec::Int8F32, 4);
            let mut random = Random(2);
            let mut rows: Vec<u32> = (0..1500).collect();
            let mut data = chosen(&all, &rows);
            let mut graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
            for generation in 0..5 {
                let mut next: Vec<u32> = rows.iter().copied().filter(|_| random.below(10) > 0).collect();
                // The others come before or after those that are kept, as their segments are older or newer.
                let new = 1500 + generation * 500..2000 + generation * 500;
                let at = if generation % 2 == 0 { next.len() } else { 0 };
                next.splice(at..at, new);
                data = chosen(&all, &next);
                graph = upon(&data, &graph, &moved(&rows, &next), 1);
                rows = next;
                assert!(unreachable(&graph.view()).is_empty());
                assert_layered(&graph);
            }
            let fresh = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
            let (reused, fresh) = (recall(&data, &graph), recall(&data, &fresh));
            assert!(reused >= fresh - 0.015, "{metric:?}: {reused}, fresh {fresh}");
        }
    }

    #[test]
    fn one_thread_is_deterministic_and_several_are_as_good() {
        let all = Data::clustered(3000, 16, Metric::Cosine, Codec::Int8F32, 8);
        let (before, after): (Vec<u32>, Vec<u32>) = ((0..2000).collect(), (100..3000).collect());
        let graph = build(&chosen(&all, &before).block(), &FAST, &Task::default(), 1).unwrap();
        let (data, rows) = (chosen(&all, &after), moved(&before, &after));
        let one = upon(&data, &graph, &rows, 1);
        assert_eq!(one, upon(&data, &graph, &rows, 1));
        let three = upon(&data, &graph, &rows, 3);
        assert!(unreachable(&three.view()).is_empty());
        assert!(recall(&data, &three) > recall(&data, &one) - 0.02);
    }

    #[test]
    fn a_graph_that_loses_nothing_keeps_its_links() {
        let data = Data::clustered(1000, 12, Metric::L2, Codec::Int8F32, 8);
        let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        let again = upon(&data, &graph, &(0..1000).collect::<Vec<_>>(), 2);
        let sorted = |graph: &GraphData, node| {
            let mut links: Vec<u32> = graph.view().links(node).collect();
            links.sort_unstable();
            links
        };
        assert_eq!(again.entry, graph.entry);
        assert!((0..1000).all(|node| sorted(&again, node) == sorted(&graph, node)));
        assert!(
            (1..=graph.upper.len()).all(|layer| again.view().members(layer) == graph.view().members(layer))
        );
    }

    #[test]
    fn folds_are_made_anew_and_the_next_of_equal_rows_stands_in() {
        let unique = Data::clustered(400, 8, Metric::Cosine, Codec::Int8F32, 8);
        let thrice: Vec<u32> = (0..400).chain(0..400).chain(0..400).collect();
        let data = chosen(&unique, &thrice);
        let graph = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        assert_eq!(graph.folds.len(), 800);
        // The first of each three go; a new row equals the last.
        let rows: Vec<u32> = (0..1200).map(|row: u32| row.checked_sub(400).unwrap_or(NO_NODE)).collect();
        let mut after = thrice[400..].to_vec();
        after.push(399);
        let data = chosen(&unique, &after);
        let merged = upon(&data, &graph, &rows, 1);
        assert_eq!(merged.folds.len(), 401);
        assert!(unreachable(&merged.view()).is_empty());
        assert_layered(&merged);
        assert!(recall(&data, &merged) > 0.95);
        let degree = |graph: &GraphData| graph.layer0.iter().filter(|&&link| link != NO_NODE).count();
        assert_eq!(degree(&merged), degree(&graph), "nothing was lost, nothing inserted");
    }

    #[test]
    fn a_graph_that_is_not_alike_or_all_gone_or_damaged_does_no_harm() {
        let data = Data::clustered(600, 8, Metric::Cosine, Codec::Int8F32, 8);
        let fresh = build(&data.block(), &FAST, &Task::default(), 1).unwrap();
        let all: Vec<u32> = (0..600).collect();
        assert_eq!(upon(&data, &fresh, &[NO_NODE; 600], 1), fresh);
        assert_eq!(upon(&data, &fresh, &all[..599], 1), fresh, "of another number of rows");
        let wide = BuildParams { m: 12, ..FAST };
        let old = Old { graph: fresh.view(), rows: &all };
        let other = build_upon(&data.block(), Some(&old), &wide, &Task::default(), 1).unwrap();
        assert_eq!(other, build(&data.block(), &wide, &Task::default(), 1).unwrap());
        let reference = BuildParams { builder: Builder::HnswRs, ..FAST };
        assert!(build_upon(&data.block(), Some(&old), &reference, &Task::default(), 1).is_ok());
        let mut random = Random(5);
        for _ in 0..20 {
            let mut damaged = fresh.clone();
            for _ in 0..200 {
                let at = random.below(damaged.layer0.len());
                damaged.layer0[at] = random.below(900) as u32;
                let upper = &mut damaged.upper[0];
                let (member, link) = (random.below(upper.members.len()), random.below(upper.links.len()));
                upper.members[member] = random.below(900) as u32;
                upper.links[link] = random.below(900) as u32;
            }
            damaged.entry = random.below(600) as u32;
            let rows: Vec<u32> = all
                .iter()
                .map(|&row| if row % 7 == 0 { NO_NODE } else { random.below(700) as u32 })
                .collect();
            let graph = upon(&data, &damaged, &rows, 1);
            assert!(unreachable(&graph.view()).is_empty());
            assert_layered(&graph);
        }
    }
}

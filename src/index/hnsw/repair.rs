//! Makes every node of a graph reachable from its entry along layer 0, and found by its own vector.
//!
//! A walk from the entry marks what it reaches and by which link first; these links form a tree. Then each
//! node is searched for by its own vector. One that the search misses is linked from the nearest nodes the
//! search did come by, so that the next search finds it there; one that the walk missed is also added to
//! the tree. A link takes a free place of a list, else that of its last link outside the tree, which
//! no node needs to be reached. Links of the tree are never taken away, so one pass reaches every node, and
//! there is always a place: a tree of r nodes has r − 1 links, and the lists of r nodes have more places.

use std::collections::HashSet;

use super::search::{distance_of, traverse};
use crate::format::graph::{GraphData, GraphView, NO_NODE};
use crate::index::block::{Neighbour, Query, VectorBlock};
use crate::index::distance::Grade;
use crate::types::Metric;

/// Width of the beam that looks for a node by its own vector.
const BEAM: usize = 32;
/// Links added to a node that was missed.
const LINKS: usize = 2;

/// Which nodes are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Those that no walk from the entry reaches.
    ByWalks,
    /// Those, and those that a search for their own vector does not find: a search for every node.
    BySearches,
}

/// Links the nodes that are not reached or not found; returns how many there were.
pub fn repair(graph: &mut GraphData, block: &VectorBlock<'_>, missed: Missed) -> usize {
    // Under the inner product a row is not the nearest to itself.
    let metric = if block.metric == Metric::Dot { Metric::L2 } else { block.metric };
    let block = VectorBlock { metric, ..*block };
    let mut tree = Tree::walk(graph);
    let mut values = Vec::with_capacity(block.dim);
    let mut repaired = 0;
    for node in 0..graph.nodes as u32 {
        if (missed == Missed::ByWalks && tree.reaches(node)) || tree.folded.contains(&node) {
            continue;
        }
        block.values_of(node, &mut values);
        let query = Query::new(&values, metric, block.dim, block.dim);
        let near = traverse(&block, &graph.view(), &query, BEAM, None, usize::MAX).neighbours;
        let own =
            Neighbour { row: node, distance: distance_of(&block, Grade::of(&graph.view()), &query, node) };
        if !tree.reaches(node) || !is_found(own, &near) {
            repaired += 1;
            tree.adopt(graph, node, &near);
        }
    }
    repaired
}

/// Whether a search returned the node, or as many others as it could that are no farther: one of many equal
/// rows is not missed.
fn is_found(own: Neighbour, near: &[Neighbour]) -> bool {
    let crowded = near.len() == BEAM && near.last().is_some_and(|last| last.distance <= own.distance);
    crowded || near.iter().any(|n| n.row == own.row)
}

/// Nodes that a walk from the entry does not reach, ascending; rows that another node stands for are none.
pub fn unreachable(graph: &GraphView<'_>) -> Vec<u32> {
    let nodes = graph.nodes() as u32;
    let mut reached = vec![0u64; graph.nodes().div_ceil(64)];
    let mut reach = |node: u32| match reached.get_mut(node as usize / 64) {
        Some(word) => {
            let bit = 1 << (node % 64);
            let new = *word & bit == 0;
            *word |= bit;
            new && node < nodes
        }
        None => false,
    };
    for fold in graph.folds() {
        reach(fold.row);
    }
    let mut open = vec![graph.entry()];
    open.retain(|&entry| reach(entry));
    while let Some(node) = open.pop() {
        open.extend(graph.links(node).iter().filter(|&&link| reach(link)));
    }
    (0..nodes).filter(|&node| reach(node)).collect()
}

fn link_back(graph: &mut GraphData, node: u32, to: u32) {
    let places = graph.links_mut(node);
    if !places.contains(&to)
        && let Some(free) = places.iter_mut().find(|place| **place == NO_NODE)
    {
        *free = to;
    }
}

/// The first link by which a walk reached each node.
struct Tree {
    /// Where the link to a node starts; `NO_NODE` for a node not reached, itself for the entry.
    parents: Vec<u32>,
    /// Rows that another node stands for.
    folded: HashSet<u32>,
}

impl Tree {
    fn walk(graph: &GraphData) -> Self {
        let folded = graph.folds.iter().map(|fold| fold.row).collect();
        let mut tree = Self { parents: vec![NO_NODE; graph.nodes], folded };
        if let Some(parent) = tree.parents.get_mut(graph.entry as usize) {
            *parent = graph.entry;
            tree.extend(graph, graph.entry);
        }
        tree
    }

    fn reaches(&self, node: u32) -> bool {
        self.parents.get(node as usize).is_some_and(|&parent| parent != NO_NODE)
    }

    /// Walks on from a node that was just reached.
    fn extend(&mut self, graph: &GraphData, from: u32) {
        let view = graph.view();
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            for &target in view.links(node) {
                if let Some(parent) = self.parents.get_mut(target as usize)
                    && *parent == NO_NODE
                {
                    *parent = node;
                    open.push(target);
                }
            }
        }
    }

    /// Links a node from the nearest reached nodes among `near`, or from any, if it was not reached yet.
    fn adopt(&mut self, graph: &mut GraphData, node: u32, near: &[Neighbour]) {
        let mut near = near.iter().map(|n| n.row);
        if !self.reaches(node) {
            let anywhere = 0..graph.nodes as u32;
            if let Some(from) = near.by_ref().chain(anywhere).find(|&from| self.link(graph, from, node)) {
                self.parents[node as usize] = from;
                link_back(graph, node, from);
                self.extend(graph, node);
            }
        }
        near.filter(|&from| self.link(graph, from, node)).take(LINKS).for_each(drop);
    }

    /// Adds a link from a reached node to another; false if `from` has no place for it or has it already.
    fn link(&mut self, graph: &mut GraphData, from: u32, to: u32) -> bool {
        let needed = |target: u32| self.parents.get(target as usize) == Some(&from);
        let places = graph.links_mut(from);
        if from == to || !self.reaches(from) || places.contains(&to) {
            return false;
        }
        let free = places.iter().position(|&place| place == NO_NODE);
        let Some(place) = free.or_else(|| places.iter().rposition(|&target| !needed(target))) else {
            return false;
        };
        places[place] = to;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{Data, METRICS, Random};
    use crate::types::Codec;

    fn graph(nodes: usize, stride: usize, links: impl Fn(u32, usize) -> u32) -> GraphData {
        let places = (0..nodes as u32).flat_map(|node| (0..stride).map(move |place| (node, place)));
        let layer0 = places.map(|(node, place)| links(node, place)).collect();
        GraphData { nodes, stride, m: stride / 2, layer0, ..GraphData::default() }
    }

    #[test]
    fn islands_are_joined_even_where_lists_are_full() {
        for metric in METRICS {
            let data = Data::clustered(90, 6, metric, Codec::Int8F32, 3);
            // Three islands of thirty, each a ring in which every list is full.
            let mut graph = graph(90, 4, |node, place| node / 30 * 30 + (node + 1 + place as u32) % 30);
            assert_eq!(unreachable(&graph.view()).len(), 60);
            assert!(repair(&mut graph, &data.block(), Missed::BySearches) >= 2);
            assert!(unreachable(&graph.view()).is_empty());
        }
    }

    #[test]
    fn nodes_without_links_are_all_reached() {
        let data = Data::clustered(300, 6, Metric::Cosine, Codec::Int8, 3);
        let mut empty = graph(300, 2, |_, _| NO_NODE);
        assert_eq!(repair(&mut empty, &data.block(), Missed::ByWalks), 299);
        assert!(unreachable(&empty.view()).is_empty());
    }

    #[test]
    fn a_reached_node_that_searches_miss_is_linked() {
        // A chain: each node is reached, but the search gives up long before the far end.
        let rows: Vec<f32> = (0..400).map(|i| if i == 399 { 0.5 } else { i as f32 }).collect();
        let data = Data::new(rows, 1, Metric::L2, Codec::F32);
        let mut chain =
            graph(400, 4, |node, place| if place == 0 && node < 399 { node + 1 } else { NO_NODE });
        assert!(unreachable(&chain.view()).is_empty());
        let query = Query::new(data.row(399), Metric::L2, 1, 1);
        let find = |graph: &GraphData| {
            traverse(&data.block(), &graph.view(), &query, BEAM, None, usize::MAX).neighbours[0].row
        };
        assert_ne!(find(&chain), 399);
        assert!(repair(&mut chain, &data.block(), Missed::BySearches) > 0);
        assert_eq!(find(&chain), 399);
        assert!(unreachable(&chain.view()).is_empty());
    }

    #[test]
    fn random_graphs_are_repaired() {
        let data = Data::clustered(200, 6, Metric::L2, Codec::F32, 3);
        for seed in 0..30 {
            let mut random = Random(seed);
            let targets: Vec<u32> = (0..400).map(|_| random.below(200) as u32).collect();
            let mut graph = graph(200, 2, |node, place| targets[node as usize * 2 + place]);
            let before = unreachable(&graph.view()).len();
            assert!(before == 0 || repair(&mut graph, &data.block(), Missed::BySearches) > 0);
            assert!(unreachable(&graph.view()).is_empty(), "seed {seed}");
        }
    }
}

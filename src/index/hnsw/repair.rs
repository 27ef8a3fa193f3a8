//! Makes every node of a graph reachable from its entry along layer 0.
//!
//! A walk from the entry marks what it reaches and by which link first; these links form a tree. Each node
//! left over is linked from a near node that was reached: in a free place of its list, else in place of its
//! last link outside the tree, which nobody needs to be reached. Links of the tree are never taken away, so
//! one pass suffices, and there is always a place: a tree on r nodes has r − 1 links, their lists have r
//! times as many places as one list.

use super::search::traverse;
use crate::format::graph::{GraphData, NO_NODE};
use crate::index::block::{Query, VectorBlock};
use crate::types::Metric;

/// Width of the beam that looks for a node to link from.
const BEAM: usize = 64;

/// Links every node that the entry does not reach; returns how many there were.
pub fn repair(graph: &mut GraphData, block: &VectorBlock<'_>) -> usize {
    // Near in space, whatever the metric: the rows of largest product are the same for most of the nodes.
    let metric = if block.metric == Metric::Dot { Metric::L2 } else { block.metric };
    let block = VectorBlock { metric, ..*block };
    let mut tree = Tree::walk(graph);
    let mut values = Vec::with_capacity(block.dim);
    let mut repaired = 0;
    for node in 0..graph.nodes as u32 {
        if tree.reaches(node) {
            continue;
        }
        block.values_of(node, &mut values);
        let query = Query::new(&values, metric, block.dim, block.dim);
        let near = traverse(&block, &graph.view(), &query, BEAM, None, usize::MAX).neighbours;
        let near = near.iter().map(|n| n.row).filter(|&from| tree.reaches(from)).collect::<Vec<_>>();
        let everywhere = 0..graph.nodes as u32;
        let linked = near.into_iter().chain(everywhere).find(|&from| tree.link(graph, from, node));
        if let Some(from) = linked {
            link_back(graph, node, from);
            tree.extend(graph, node);
        }
        repaired += 1;
    }
    repaired
}

/// Nodes that a walk from the entry does not reach, ascending.
pub fn unreachable(graph: &GraphData) -> Vec<u32> {
    let tree = Tree::walk(graph);
    (0..graph.nodes as u32).filter(|&node| !tree.reaches(node)).collect()
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
}

impl Tree {
    fn walk(graph: &GraphData) -> Self {
        let mut tree = Self { parents: vec![NO_NODE; graph.nodes] };
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

    /// Adds a link from a reached node to one not reached; false if `from` has no place for it.
    fn link(&mut self, graph: &mut GraphData, from: u32, to: u32) -> bool {
        if !self.reaches(from) {
            return false;
        }
        let needed = |target: u32| self.parents.get(target as usize) == Some(&from);
        let places = graph.links_mut(from);
        let free = places.iter().position(|&place| place == NO_NODE);
        let Some(place) = free.or_else(|| places.iter().rposition(|&target| !needed(target))) else {
            return false;
        };
        places[place] = to;
        self.parents[to as usize] = from;
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
            assert_eq!(unreachable(&graph).len(), 60);
            assert_eq!(repair(&mut graph, &data.block()), 2);
            assert!(unreachable(&graph).is_empty());
        }
    }

    #[test]
    fn nodes_without_links_are_all_reached() {
        let data = Data::clustered(300, 6, Metric::Cosine, Codec::Int8, 3);
        let mut empty = graph(300, 2, |_, _| NO_NODE);
        assert_eq!(repair(&mut empty, &data.block()), 299);
        assert!(unreachable(&empty).is_empty());
        assert_eq!(repair(&mut empty, &data.block()), 0);
    }

    #[test]
    fn random_graphs_are_repaired() {
        let data = Data::clustered(200, 6, Metric::L2, Codec::F32, 3);
        for seed in 0..30 {
            let mut random = Random(seed);
            let targets: Vec<u32> = (0..400).map(|_| random.below(200) as u32).collect();
            let mut graph = graph(200, 2, |node, place| targets[node as usize * 2 + place]);
            let before = unreachable(&graph).len();
            let repaired = repair(&mut graph, &data.block());
            assert!(repaired <= before && (before == 0) == (repaired == 0));
            assert!(unreachable(&graph).is_empty(), "seed {seed}");
        }
    }
}

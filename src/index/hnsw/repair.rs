//! Makes every node of a graph reachable from its entry along layer 0, and found by its own vector.
//!
//! A walk from the entry marks what it reaches and by which link first; these links form a tree. A node that it missed
//! is linked from the nearest that it reached. Then each node is searched for by its own vector. One that the search
//! misses is linked from the nearest nodes the search did come by, so that the next search finds it there. A link takes
//! a free place of a list, else that of its last link outside the tree that was not added for another missed
//! one: many may be missed at one place. Links of the tree are never taken away, so one pass reaches every node, and there is always a
//! place: a tree of r nodes has r − 1 links, and the lists of r nodes have more places.
//!
//! Searches are made after hnsw_rs, and for the inner product: a query is not lifted (`rows`) as the rows
//! are, so that it comes to a crowd of near-duplicates from another side than the row did that it equals, and a crowd
//! that is larger than the beam has no link out of it there.

use std::collections::HashSet;

use super::beam::Beam;
use super::search::{distance_of, traverse};
use crate::format::graph::{GraphData, GraphView, NO_NODE};
use crate::index::block::{Neighbour, Query, VectorBlock};
use crate::index::distance::Grade;
use crate::types::Metric;

/// Width of the beam that looks for a node by its own vector: of those that calibration measures the narrowest, since a
/// wider one finds what searches then miss.
const BEAM: usize = 16;
/// Links added to a node that was missed.
const LINKS: usize = 2;

/// Which nodes are looked for; under the inner product always also those that a crowd of near-duplicates hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Those that no walk from the entry reaches.
    ByWalks,
    /// Those, and those that a search for their own vector does not find: a search for every node.
    BySearches,
}

/// Links the nodes that are not reached or not found; returns how many there were. The result does not depend on the
/// number of threads.
pub fn repair(graph: &mut GraphData, block: &VectorBlock<'_>, missed: Missed, threads: usize) -> usize {
    // By the inner product a row is not the nearest to itself, but the lists are by distance.
    let metric = if block.metric == Metric::Dot { Metric::L2 } else { block.metric };
    let space = Finder { block: VectorBlock { metric, ..*block } };
    let mut tree = Tree::walk(graph);
    let mut repaired = 0;
    for node in unreachable(&graph.view()) {
        if !tree.reaches(node) {
            repaired += 1;
            tree.adopt(graph, node, &space.near(&graph.view(), node));
        }
    }
    if missed == Missed::BySearches {
        repaired += space.repair(graph, &mut tree, threads);
    }
    if block.metric == Metric::Dot {
        repaired += Finder { block: *block }.repair(graph, &mut tree, threads);
    }
    repaired
}

/// Looks for nodes by their own vectors.
struct Finder<'b> {
    block: VectorBlock<'b>,
}

impl Finder<'_> {
    fn query(&self, node: u32) -> Query {
        let mut values = Vec::with_capacity(self.block.dim);
        self.block.values_of(node, &mut values);
        Query::new(&values, self.block.metric, self.block.dim, self.block.dim)
    }

    /// What a search for a node finds.
    fn near(&self, graph: &GraphView<'_>, node: u32) -> Vec<Neighbour> {
        traverse(&self.block, graph, &self.query(node), Beam::plain(BEAM), None, usize::MAX).neighbours
    }

    /// Whether a search returned the node, or as many others as it could that are no farther: one of many equal
    /// rows is not missed. Under the inner product, where longer rows come before most, only one counts as missed that
    /// comes before all that were found, these being a crowd: to link all others would push better links out.
    fn is_found(&self, graph: &GraphView<'_>, node: u32, near: &[Neighbour]) -> bool {
        if near.iter().any(|n| n.row == node) {
            return true;
        }
        let own = self.distance(graph, &self.query(node), node);
        if self.block.metric == Metric::Dot {
            return near.first().is_some_and(|first| first.distance <= own)
                || !self.is_crowd(graph, node, near);
        }
        near.len() == BEAM && near.last().is_some_and(|last| last.distance <= own)
    }

    /// Whether rows lie closer together, by half at least, than to the node.
    fn is_crowd(&self, graph: &GraphView<'_>, node: u32, near: &[Neighbour]) -> bool {
        let Some((first, others)) = near.split_first() else { return false };
        let space = Finder { block: VectorBlock { metric: Metric::L2, ..self.block } };
        let query = space.query(first.row);
        let reach = space.distance(graph, &query, node) / 2.0;
        others.iter().all(|other| space.distance(graph, &query, other.row) < reach)
    }

    fn distance(&self, graph: &GraphView<'_>, query: &Query, node: u32) -> f32 {
        distance_of(&self.block, Grade::of(graph), query, node)
    }

    /// Links the nodes that searches miss; returns how many there were.
    fn repair(&self, graph: &mut GraphData, tree: &mut Tree, threads: usize) -> usize {
        let mut repaired = 0;
        for node in self.lost(&graph.view(), threads) {
            // A link to an earlier one may lead to this one too.
            let near = self.near(&graph.view(), node);
            if !self.is_found(&graph.view(), node, &near) {
                repaired += 1;
                tree.adopt(graph, node, &near);
            }
        }
        repaired
    }

    /// The nodes that searches miss, ascending.
    fn lost(&self, graph: &GraphView<'_>, threads: usize) -> Vec<u32> {
        let folded: HashSet<u32> = graph.folds().iter().map(|fold| fold.row).collect();
        let is_lost =
            |node: &u32| !folded.contains(node) && !self.is_found(graph, *node, &self.near(graph, *node));
        let nodes = graph.nodes() as u32;
        let share = nodes.div_ceil(threads.max(1) as u32).max(1);
        let mut lost = Vec::new();
        std::thread::scope(|scope| {
            let parts = (0..nodes).step_by(share as usize).map(|start| {
                let part = start..start.saturating_add(share).min(nodes);
                scope.spawn(move || part.filter(is_lost).collect::<Vec<u32>>())
            });
            let running: Vec<_> = parts.collect();
            running.into_iter().for_each(|part| lost.extend(part.join().unwrap_or_default()));
        });
        lost
    }
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
        open.extend(graph.links(node).filter(|&link| reach(link)));
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
    /// Links that were added to nodes that searches missed.
    added: HashSet<(u32, u32)>,
}

impl Tree {
    fn walk(graph: &GraphData) -> Self {
        let mut tree = Self { parents: vec![NO_NODE; graph.nodes], added: HashSet::new() };
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
            for target in view.links(node) {
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
        let was_reached = self.reaches(node);
        let mut near = near.iter().map(|n| n.row);
        if !was_reached {
            let anywhere = 0..graph.nodes as u32;
            if let Some(from) = near.by_ref().chain(anywhere).find(|&from| self.link(graph, from, node)) {
                self.parents[node as usize] = from;
                link_back(graph, node, from);
                self.extend(graph, node);
            }
        }
        let linked: Vec<u32> = near.filter(|&from| self.link(graph, from, node)).take(LINKS).collect();
        if was_reached {
            self.added.extend(linked.iter().map(|&from| (from, node)));
        }
    }

    /// Adds a link from a reached node to another; false if `from` has no place for it or has it already.
    fn link(&mut self, graph: &mut GraphData, from: u32, to: u32) -> bool {
        let in_tree = |target: u32| self.parents.get(target as usize) == Some(&from);
        let needed = |target: u32| in_tree(target) || self.added.contains(&(from, target));
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
            assert!(repair(&mut graph, &data.block(), Missed::BySearches, 2) >= 2);
            assert!(unreachable(&graph.view()).is_empty());
        }
    }

    #[test]
    fn nodes_without_links_are_all_reached() {
        let data = Data::clustered(300, 6, Metric::Cosine, Codec::Int8, 3);
        let mut empty = graph(300, 2, |_, _| NO_NODE);
        assert_eq!(repair(&mut empty, &data.block(), Missed::ByWalks, 1), 299);
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
            traverse(&data.block(), &graph.view(), &query, Beam::plain(BEAM), None, usize::MAX).neighbours[0]
                .row
        };
        assert_ne!(find(&chain), 399);
        assert!(repair(&mut chain, &data.block(), Missed::BySearches, 2) > 0);
        assert_eq!(find(&chain), 399);
        assert!(unreachable(&chain.view()).is_empty());
    }

    /// Without room left in any list of the crowd but that of its farthest links.
    #[test]
    fn what_was_linked_out_of_a_crowd_stays_linked() {
        let (crowd, far) = (60, 8);
        let mut random = Random(3);
        let mut rows: Vec<f32> = (0..crowd).flat_map(|_| [1.0 + 1e-3 * random.normal(), 0.0, 0.0]).collect();
        rows.extend((0..far).flat_map(|_| [1.5, random.normal(), random.normal()]));
        let data = Data::new(rows, 3, Metric::Dot, Codec::F32);
        // The crowd is a ring; the first of the far points hangs on its last place, the others on that one.
        let mut graph = graph(crowd + far, 8, |node, place| match (node, place) {
            (0, 7) => crowd as u32,
            (node, place) if node < crowd as u32 => (node + 1 + place as u32) % crowd as u32,
            (node, place) if node == crowd as u32 && place + 1 < far => node + 1 + place as u32,
            _ => NO_NODE,
        });
        graph.entry = 30;
        assert!(unreachable(&graph.view()).is_empty());
        let finder = Finder { block: data.block() };
        let before = finder.lost(&graph.view(), 1);
        assert!(before.len() > 1, "{before:?}");
        assert_eq!(before, finder.lost(&graph.view(), 3));
        assert!(repair(&mut graph, &data.block(), Missed::ByWalks, 1) > 0);
        assert!(unreachable(&graph.view()).is_empty());
        assert_eq!(finder.lost(&graph.view(), 1), [0u32; 0]);
    }

    #[test]
    fn random_graphs_are_repaired() {
        let data = Data::clustered(200, 6, Metric::L2, Codec::F32, 3);
        for seed in 0..30 {
            let mut random = Random(seed);
            let targets: Vec<u32> = (0..400).map(|_| random.below(200) as u32).collect();
            let mut graph = graph(200, 2, |node, place| targets[node as usize * 2 + place]);
            let before = unreachable(&graph.view()).len();
            assert!(before == 0 || repair(&mut graph, &data.block(), Missed::BySearches, 2) > 0);
            assert!(unreachable(&graph.view()).is_empty(), "seed {seed}");
        }
    }
}

//! Construction of a graph over flat arrays.
//!
//! Four rules keep near-duplicates, which documents are full of, from spoiling it: distances are between
//! normalised codes; a list that pruning leaves short is filled up with the nearest dropped candidates; rows
//! with equal codes are folded under one node; and whatever a walk from the entry misses in the end is linked
//! ([`repair`](super::repair)).
//!
//! Nodes come in by descending level, so that the entry stands from the start and never changes. Lists have a
//! quarter more places than links in the end, so that one pruning serves for many links that come back.
//! Nodes of an older graph, if it is built upon one, come before all others, with the links that they have
//! ([`inherit`](super::inherit)).
//!
//! Several threads insert at once after the first thousand nodes; the result then depends on timing, but with
//! one thread on the rows and the parameters alone.

use std::cmp::Reverse;

use super::beam::Beam;
use super::build::BuildParams;
use super::inherit::{Heritage, Old};
use super::links::{Link, Links};
use super::order::{insert_all, insertion_order};
use super::points::Points;
use super::prune::{Pruning, Rule};
use super::walk::{Adjacency, Score, Scratch, beam, descend};
use crate::error::Result;
use crate::format::graph::{Fold, GraphData, MAX_LAYERS, NO_NODE, UpperLayer};
use crate::index::block::{Neighbour, VectorBlock};
use crate::index::random::Random;
use crate::kernel;
use crate::options::Task;

/// Builds the graph of a block, upon an older one of some of its rows if there is one; not yet repaired.
///
/// # Errors
/// [`Cancelled`](crate::Error::Cancelled) where the task was.
pub(super) fn construct(
    block: &VectorBlock<'_>,
    old: Option<&Old<'_>>,
    params: &BuildParams,
    task: &Task,
    threads: usize,
) -> Result<GraphData> {
    let points = Points::new(block);
    let folds = equal_rows(&points);
    let heritage = old.and_then(|old| Heritage::new(old, &folds, points.len()));
    let levels = Levels::new(&points, &folds, params, heritage.as_ref());
    let layers = (0..=levels.top).map(|layer| Layer::new(&levels, layer, params)).collect();
    let construction = Construction { points: &points, params, levels: &levels, layers, heritage };
    insert_all(&levels.order, |node, room: &mut Room| construction.bring(node, room), task, threads)?;
    let mut graph = construction.freeze(threads);
    graph.folds = folds;
    Ok(graph)
}

/// Pairs (node, row) of rows that are the same point as a lower row, ascending.
fn equal_rows(points: &Points) -> Vec<Fold> {
    let hash = |row| xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(points.codes(row)));
    let mut hashes: Vec<(u64, u32)> = (0..points.len() as u32).map(|row| (hash(row), row)).collect();
    hashes.sort_unstable();
    let mut folds = Vec::new();
    for equal in hashes.chunk_by(|a, b| a.0 == b.0) {
        // Rows of one hash are almost always one point; the first of each point among them leads it.
        let mut leaders: Vec<u32> = Vec::new();
        for &(_, row) in equal {
            match leaders.iter().find(|&&leader| points.same(leader, row)) {
                Some(&node) => folds.push(Fold { node, row }),
                None => leaders.push(row),
            }
        }
    }
    folds.sort_unstable();
    folds
}

/// Which nodes there are in which layer, and in which order they come in.
struct Levels {
    /// Highest layer of each row; unused for folded ones.
    of: Vec<u8>,
    /// Nodes, those that are taken over first, then those of the highest level.
    order: Vec<u32>,
    /// A node of the top layer, unless there are no nodes.
    entry: Option<u32>,
    top: usize,
}

impl Levels {
    fn new(points: &Points, folds: &[Fold], params: &BuildParams, heritage: Option<&Heritage<'_>>) -> Self {
        let mut folded = vec![false; points.len()];
        folds.iter().for_each(|fold| folded[fold.row as usize] = true);
        let has = |row| heritage.is_some_and(|heritage| heritage.has(row));
        // No new node lies above those that are taken over, so that walks begin where they did.
        let highest = heritage.map_or(MAX_LAYERS as u8, |heritage| heritage.level(heritage.entry()));
        let level = |row| match heritage.filter(|_| has(row)) {
            Some(heritage) => heritage.level(row),
            None => level(row.into(), params).min(highest),
        };
        let of: Vec<u8> = (0..points.len() as u32).map(level).collect();
        let mut order = insertion_order(points.len(), params.seed);
        order.retain(|&row| !folded[row as usize]);
        order.sort_by_key(|&row| Reverse((has(row), of[row as usize])));
        let entry = heritage.map(Heritage::entry).or(order.first().copied());
        let top = entry.map_or(0, |row| usize::from(of[row as usize]));
        Self { of, order, entry, top }
    }

    fn of(&self, node: u32) -> usize {
        self.of.get(node as usize).copied().map_or(0, usize::from)
    }
}

/// The highest layer of a row: each layer holds one in `m` of the nodes of the one below.
fn level(row: u64, params: &BuildParams) -> u8 {
    let mut random = Random(params.seed ^ row.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let uniform = ((random.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    let level = -uniform.ln() / (params.m as f64).ln();
    level.min(MAX_LAYERS as f64) as u8
}

/// One layer, of some of the nodes.
struct Layer {
    links: Links,
    /// Place of each node among the members; empty where every row has one.
    places: Vec<u32>,
    members: Vec<u32>,
    rule: Rule,
    nodes: usize,
}

impl Layer {
    fn new(levels: &Levels, layer: usize, params: &BuildParams) -> Self {
        let m = params.m;
        let most = if layer == 0 { 2 * m } else { m };
        let mut members: Vec<u32> = Vec::new();
        let mut places = Vec::new();
        if layer > 0 {
            members.extend(levels.order.iter().filter(|&&node| levels.of(node) >= layer));
            members.sort_unstable();
            places = vec![NO_NODE; levels.of.len()];
            (0..).zip(&members).for_each(|(place, &node)| places[node as usize] = place);
        }
        let nodes = levels.of.len();
        let lists = if layer == 0 { nodes } else { members.len() };
        Self {
            links: Links::new(lists, most + most / 4),
            places,
            members,
            rule: Rule { most, least: m / 2, alpha: params.alpha },
            nodes,
        }
    }

    /// Where the list of a node is.
    #[inline]
    fn place(&self, node: u32) -> u32 {
        if self.places.is_empty() { node } else { self.places.get(node as usize).copied().unwrap_or(NO_NODE) }
    }
}

impl Adjacency for Layer {
    #[inline]
    fn nodes(&self) -> usize {
        self.nodes
    }

    #[inline]
    fn for_each(&self, node: u32, each: impl FnMut(u32)) {
        self.links.for_each(self.place(node), each);
    }

    #[inline]
    fn request(&self, node: u32) {
        if let Some(list) = self.links.memory(self.place(node)) {
            kernel::prefetch_value(list);
        }
    }
}

struct Construction<'c> {
    points: &'c Points,
    params: &'c BuildParams,
    levels: &'c Levels,
    /// From layer 0 up.
    layers: Vec<Layer>,
    heritage: Option<Heritage<'c>>,
}

/// What one thread works with.
#[derive(Default)]
struct Room {
    scratch: Scratch,
    pruning: Pruning,
    candidates: Vec<Link>,
    list: Vec<Link>,
}

impl Construction<'_> {
    /// Brings a node in: with the links that it had, if it had any.
    fn bring(&self, node: u32, room: &mut Room) {
        match self.heritage.as_ref().filter(|heritage| heritage.has(node)) {
            Some(heritage) => self.take_over(heritage, node, room),
            None => self.insert(node, room),
        }
    }

    /// Gives a node its links in an older graph.
    fn take_over(&self, heritage: &Heritage<'_>, node: u32, room: &mut Room) {
        for (number, layer) in self.layers.iter().enumerate().take(self.levels.of(node) + 1) {
            if let Some(had) = heritage.links(self.points, number, node, &mut room.candidates) {
                // As many as before: of few candidates the rule alone would leave too few.
                let rule = Rule { least: had.min(layer.rule.most), ..layer.rule };
                room.pruning.prune(self.points, rule, &mut room.candidates);
            }
            let links = &room.candidates;
            layer.links.update(layer.place(node), &mut room.list, |list| {
                list.splice(0..0, links.iter().copied()).for_each(drop)
            });
        }
    }

    /// Links a node into all of its layers, the highest first.
    fn insert(&self, node: u32, room: &mut Room) {
        let from = self.points.from(node);
        let level = self.levels.of(node);
        let Some(entry) = self.levels.entry else { return };
        let mut nearest = from.score_one(entry);
        for (number, layer) in self.layers.iter().enumerate().rev() {
            if number > level {
                nearest = descend(layer, &from, nearest, &mut room.scratch, &mut 0);
                continue;
            }
            beam(layer, &from, &[nearest], Beam::plain(self.params.ef_construction), &mut room.scratch);
            let near = room.scratch.pool.nodes().filter(|near| near.row != node);
            room.candidates.clear();
            room.candidates.extend(near.map(|near| Link { distance: near.distance, node: near.row }));
            if let Some(first) = room.candidates.first() {
                nearest = Neighbour { row: first.node, distance: first.distance };
            }
            self.link(layer, node, room);
        }
    }

    /// Links a node to the best of its candidates, and those back to it.
    fn link(&self, layer: &Layer, node: u32, room: &mut Room) {
        room.pruning.prune(self.points, layer.rule, &mut room.candidates);
        let chosen = &room.candidates;
        layer.links.update(layer.place(node), &mut room.list, |list| {
            // Others may have linked to this node since it was first linked in a layer above.
            list.retain(|old| !chosen.iter().any(|new| new.node == old.node));
            list.splice(0..0, chosen.iter().copied());
        });
        for &Link { distance, node: target } in chosen {
            let back = Link { distance, node };
            let place = layer.place(target);
            if !layer.links.push(place, back) {
                layer.links.update(place, &mut room.list, |list| {
                    list.push(back);
                    shorten(self.points, layer.rule, &mut room.pruning, list);
                });
            }
        }
    }

    /// Copies the lists into the flat layout, each cut to the number of links that stays.
    fn freeze(&self, threads: usize) -> GraphData {
        let (nodes, stride) = (self.points.len(), 2 * self.params.m);
        let mut graph = GraphData {
            nodes,
            stride,
            m: self.params.m,
            entry: self.levels.entry.unwrap_or(0),
            layer0: vec![NO_NODE; nodes * stride],
            ..GraphData::default()
        };
        let Some((bottom, upper)) = self.layers.split_first() else { return graph };
        let share = nodes.div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            for (part, lists) in graph.layer0.chunks_mut(share * stride).enumerate() {
                scope.spawn(move || {
                    let mut room = Room::default();
                    for (node, places) in lists.chunks_exact_mut(stride).enumerate() {
                        self.final_links(bottom, (part * share + node) as u32, &mut room);
                        places.iter_mut().zip(&room.list).for_each(|(place, link)| *place = link.node);
                    }
                });
            }
        });
        let mut room = Room::default();
        graph.upper = upper.iter().map(|layer| self.freeze_upper(layer, &mut room)).collect();
        graph
    }

    /// Leaves the links of a node in `room.list`.
    fn final_links(&self, layer: &Layer, node: u32, room: &mut Room) {
        layer.links.of(layer.place(node), &mut room.list);
        if room.list.len() > layer.rule.most {
            shorten(self.points, layer.rule, &mut room.pruning, &mut room.list);
        }
    }

    fn freeze_upper(&self, layer: &Layer, room: &mut Room) -> UpperLayer {
        let mut frozen = UpperLayer { offsets: vec![0], members: layer.members.clone(), links: Vec::new() };
        for &member in &layer.members {
            self.final_links(layer, member, room);
            frozen.links.extend(room.list.iter().map(|link| link.node));
            frozen.offsets.push(frozen.links.len() as u32);
        }
        frozen
    }
}

/// Prunes a whole list of links.
fn shorten(points: &Points, rule: Rule, pruning: &mut Pruning, list: &mut Vec<Link>) {
    list.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.node.cmp(&b.node)));
    pruning.prune(points, rule, list);
}

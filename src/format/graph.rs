//! A frozen HNSW graph: the bytes of a graph section, written once when a segment is sealed, read in place.
//!
//! All integers and floats are little-endian; offsets count from the start of the section, which lies at a
//! multiple of 64 in its file; each part starts at a multiple of 64, the gaps are zero. Nodes are the rows of
//! the segment, `0..nodes`.
//!
//! Header, 256 bytes:
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | `GRPH` |
//! | 4 | 4 | version | 2 |
//! | 8 | 4 | nodes | number of nodes; less than 2³² − 1 |
//! | 12 | 4 | stride | links a node has in layer 0, `2 × m`; 1 to 512 |
//! | 16 | 4 | layers | number of layers above layer 0; at most 15 |
//! | 20 | 4 | entry | node of the top layer at which searches start; 0 if there are no nodes |
//! | 24 | 4 | m | links a node has in an upper layer, at most |
//! | 28 | 4 | ef_construction | width of the beam during construction |
//! | 32 | 8 | seed | seed of the order of insertion; 0: in the order of rows |
//! | 40 | 4 | repaired | nodes that a walk from the entry, or a search for their own vector, missed until links to them were added |
//! | 44 | 4 | curve_len | entries used of `curve`; at most 8 |
//! | 48 | 64 | curve | 8 × (`ef` u16, `reach` u16, recall f32): recall@10 measured at that width of the beam, `ef` ascending |
//! | 112 | 120 | upper | 15 × (nodes u32, links u32): size of each upper layer, layer 1 first; zero where unused |
//! | 232 | 8 | length | bytes of the section |
//! | 240 | 4 | folds | rows that are folded under another |
//! | 244 | 4 | rough | 1: walks compare the high plane of codes alone; 0: both planes |
//! | 248 | 4 | rung | dimensions that walks compare; 0: all |
//! | 252 | 4 | longest | f32: length of the longest row, where distances are inner products; else 0 |
//!
//! Body:
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 256 | nodes × ⌈stride × bits / 8⌉ | layer0 | [links](crate::format::links) of each node in turn, `bits` as many as `nodes` needs |
//! | next multiple of 64 | 4 × upper.nodes | members | nodes of upper layer 1, ascending |
//! | next multiple of 64 | 4 × (upper.nodes + 1) | offsets | where each member's links begin in `links`; the last is upper.links |
//! | next multiple of 64 | 4 × upper.links | links | links of the members |
//! | … | … | … | the last three again for layers 2 to `layers` |
//! | next multiple of 64 | 8 × folds | folds | pairs (node u32, row u32), ascending: a row equal to that of a node, which stands for it |
//!
//! Invariants: the entry is a member of the top layer; a link of an upper layer leads to a member of it; a
//! folded row has no links, and none leads to it; every other node is reached from the entry along links of
//! layer 0. A reader relies on none of them: it checks every
//! size against the length before use, and every node id when it follows a link.

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};

use super::guard::{Guard, Touch};
use super::links::{Links, bits_of, list_len, pack};
use crate::error::{Error, Result};

/// First bytes of a section.
pub const MAGIC: [u8; 4] = *b"GRPH";
/// Version of the layout.
pub const VERSION: u32 = 2;
/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Multiple at which each part starts.
pub const ALIGN: usize = 64;
/// Layers above layer 0, at most.
pub const MAX_LAYERS: usize = 15;
/// Links of a node in layer 0, at most.
pub const MAX_STRIDE: usize = 512;
/// Entries of the recall curve, at most.
pub const MAX_CURVE: usize = 8;
/// Fills the unused places of a list of links.
pub const NO_NODE: u32 = u32::MAX;

/// Recall@10 measured at one width of the beam.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RecallPoint {
    /// Width of the beam.
    pub ef: u16,
    /// How far walks reach at that width, in 4096ths: nodes are passed over whose squared distance is larger than that
    /// of the tenth nearest so far by more than this share. 0: they are kept however far.
    pub reach: u16,
    /// Share of the true ten nearest that were found.
    pub recall: f32,
}

impl RecallPoint {
    /// A point with a reach, if there is one, rounded up.
    pub fn new(ef: u16, reach: Option<f32>, recall: f32) -> Self {
        Self { ef, reach: reach.map_or(0, |reach| (reach * 4096.0).ceil().max(1.0) as u16), recall }
    }

    /// The reach as a share.
    pub fn reach(&self) -> Option<f32> {
        (self.reach > 0).then(|| f32::from(self.reach) / 4096.0)
    }
}

/// What walks through a graph compare of the codes of rows, chosen by measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sight {
    /// The first so many dimensions, a rung of the ladder; 0: all.
    pub rung: u32,
    /// The high plane alone.
    pub rough: bool,
}

/// Size of one upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct UpperSize {
    /// Members of the layer.
    pub nodes: u32,
    /// Links in the layer.
    pub links: u32,
}

/// The first 256 bytes of a section; see the table above.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// `GRPH`.
    pub magic: [u8; 4],
    /// Version of the layout.
    pub version: u32,
    /// Number of nodes.
    pub nodes: u32,
    /// Links of a node in layer 0.
    pub stride: u32,
    /// Number of upper layers.
    pub layers: u32,
    /// Node at which searches start.
    pub entry: u32,
    /// Links of a node in an upper layer, at most.
    pub m: u32,
    /// Width of the beam during construction.
    pub ef_construction: u32,
    /// Seed of the order of insertion.
    pub seed: u64,
    /// Nodes that were linked after construction because a walk or a search missed them.
    pub repaired: u32,
    /// Entries used of `curve`.
    pub curve_len: u32,
    /// Recall measured at some widths of the beam.
    pub curve: [RecallPoint; MAX_CURVE],
    /// Sizes of the upper layers.
    pub upper: [UpperSize; MAX_LAYERS],
    /// Bytes of the section.
    pub length: u64,
    /// Rows that are folded under another.
    pub folds: u32,
    /// 1 where walks compare the high plane of codes alone.
    pub rough: u32,
    /// Dimensions that walks compare; 0: all.
    pub rung: u32,
    /// Length of the longest row under the inner product; else 0.
    pub longest: f32,
}

/// A row that equals that of a node, which stands for it: who finds the node has found the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Fold {
    /// The node.
    pub node: u32,
    /// The row.
    pub row: u32,
}

/// One layer above layer 0, owned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpperLayer {
    /// Its nodes, ascending.
    pub members: Vec<u32>,
    /// `members.len() + 1` positions in `links`.
    pub offsets: Vec<u32>,
    /// Links of all members.
    pub links: Vec<u32>,
}

/// A graph in memory, as construction leaves it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GraphData {
    /// Number of nodes.
    pub nodes: usize,
    /// Links of a node in layer 0.
    pub stride: usize,
    /// Links of a node in an upper layer, at most.
    pub m: usize,
    /// Width of the beam during construction.
    pub ef_construction: usize,
    /// Seed of the order of insertion.
    pub seed: u64,
    /// Node at which searches start.
    pub entry: u32,
    /// Nodes that were linked after construction because a walk or a search missed them.
    pub repaired: usize,
    /// What walks compare.
    pub sight: Sight,
    /// Length of the longest row under the inner product; else 0.
    pub longest: f32,
    /// Recall measured at some widths of the beam, ascending.
    pub curve: Vec<RecallPoint>,
    /// `nodes × stride` links.
    pub layer0: Vec<u32>,
    /// Layers 1, 2 …
    pub upper: Vec<UpperLayer>,
    /// Folded rows, ascending by node.
    pub folds: Vec<Fold>,
}

impl GraphData {
    /// The places for links of a node in layer 0.
    pub fn links_mut(&mut self, node: u32) -> &mut [u32] {
        let start = node as usize * self.stride;
        self.layer0.get_mut(start..start + self.stride).unwrap_or_default()
    }

    /// Borrows the graph in the form that searches read.
    pub fn view(&self) -> GraphView<'_> {
        let upper = self.upper.iter().map(|layer| UpperView {
            members: &layer.members,
            offsets: &layer.offsets,
            links: &layer.links,
        });
        GraphView {
            nodes: self.nodes,
            stride: self.stride,
            entry: self.entry,
            m: self.m,
            ef_construction: self.ef_construction,
            repaired: self.repaired,
            sight: self.sight,
            longest: self.longest,
            layer0: Links::of_words(&self.layer0, self.stride),
            upper: upper.collect(),
            folds: &self.folds,
            curve: self.curve.clone(),
            by_page: false,
            guard: None,
        }
    }

    /// The section as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            nodes: self.nodes as u32,
            stride: self.stride as u32,
            layers: self.upper.len() as u32,
            entry: self.entry,
            m: self.m as u32,
            ef_construction: self.ef_construction as u32,
            seed: self.seed,
            repaired: self.repaired as u32,
            curve_len: self.curve.len().min(MAX_CURVE) as u32,
            folds: self.folds.len() as u32,
            rough: self.sight.rough.into(),
            rung: self.sight.rung,
            longest: self.longest,
            ..Header::zeroed()
        };
        header.curve.iter_mut().zip(&self.curve).for_each(|(to, from)| *to = *from);
        for (size, layer) in header.upper.iter_mut().zip(&self.upper) {
            *size = UpperSize { nodes: layer.members.len() as u32, links: layer.links.len() as u32 };
        }
        let mut bytes = vec![0; HEADER_LEN];
        pack(&self.layer0, self.stride, bits_of(self.nodes), &mut bytes);
        pad(&mut bytes);
        for layer in &self.upper {
            push_part(&mut bytes, &layer.members);
            push_part(&mut bytes, &layer.offsets);
            push_part(&mut bytes, &layer.links);
        }
        push_part(&mut bytes, bytemuck::cast_slice(&self.folds));
        header.length = bytes.len() as u64;
        bytes[..HEADER_LEN].copy_from_slice(bytemuck::bytes_of(&header));
        bytes
    }
}

fn push_part(bytes: &mut Vec<u8>, part: &[u32]) {
    bytes.extend_from_slice(bytemuck::cast_slice(part));
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// One upper layer, borrowed.
#[derive(Debug, Clone, Copy)]
struct UpperView<'a> {
    members: &'a [u32],
    offsets: &'a [u32],
    links: &'a [u32],
}

/// A graph in place. Its ids are foreign data: compare each with [`nodes`](Self::nodes) before use.
#[derive(Debug, Clone)]
pub struct GraphView<'a> {
    nodes: usize,
    stride: usize,
    entry: u32,
    m: usize,
    ef_construction: usize,
    repaired: usize,
    sight: Sight,
    longest: f32,
    layer0: Links<'a>,
    upper: Vec<UpperView<'a>>,
    folds: &'a [Fold],
    curve: Vec<RecallPoint>,
    by_page: bool,
    /// What verifies lists when they are first read.
    guard: Option<Guard<'a>>,
}

impl<'a> GraphView<'a> {
    /// Reads a section of a file: its header, the upper layers and the folds are verified now, the lists of layer 0
    /// when they are followed, and [`Self::is_damaged`] tells.
    ///
    /// # Errors
    /// As for [`Self::parse`], and [`Error::Corrupt`] if any of it is damaged.
    pub fn parse_guarded(bytes: &'a [u8], guard: Guard<'a>) -> Result<Self> {
        let damaged = || if guard.is_damaged() { Err(Error::corrupt("graph", 0, "damaged")) } else { Ok(()) };
        guard.touch(bytes.get(..HEADER_LEN).unwrap_or(bytes));
        damaged()?;
        let graph = Self { guard: Some(guard), ..Self::parse(bytes)? };
        graph.upper_bytes().for_each(|part| guard.touch(part));
        guard.touch(graph.folds);
        damaged().map(|()| graph)
    }

    /// Whether damage was found in the file of the graph.
    pub fn is_damaged(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_damaged)
    }

    /// Reads a section, which must start at a multiple of 4 in memory. Its cost does not depend on the
    /// number of nodes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with an offset in the section where a field contradicts the layout or the length;
    /// [`Error::TooNew`] for a version above ours.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let corrupt = |offset: usize, what: String| Err(Error::corrupt("graph", offset as u64, what));
        let Some(header) = bytes.get(..HEADER_LEN).map(bytemuck::pod_read_unaligned::<Header>) else {
            return corrupt(0, format!("{} bytes, less than the header's {HEADER_LEN}", bytes.len()));
        };
        if header.magic != MAGIC {
            return corrupt(0, format!("magic {:02x?}, expected {MAGIC:02x?}", header.magic));
        }
        if header.version > VERSION {
            return Err(Error::TooNew { file: "graph".into(), needs: format!("graph {}", header.version) });
        }
        if header.version < VERSION {
            return corrupt(4, format!("version {}, expected {VERSION}", header.version));
        }
        if header.length != bytes.len() as u64 {
            return corrupt(232, format!("length {}, found {} bytes", header.length, bytes.len()));
        }
        if header.nodes == NO_NODE {
            return corrupt(8, "more nodes than ids".into());
        }
        let (nodes, stride, layers) = (header.nodes as usize, header.stride as usize, header.layers as usize);
        if !(1..=MAX_STRIDE).contains(&stride) {
            return corrupt(12, format!("{stride} links a node, expected 1 to {MAX_STRIDE}"));
        }
        if layers > MAX_LAYERS {
            return corrupt(16, format!("{layers} layers, expected at most {MAX_LAYERS}"));
        }
        if header.entry >= header.nodes.max(1) {
            return corrupt(20, format!("entry {} of {nodes} nodes", header.entry));
        }
        let Some(curve) = header.curve.get(..header.curve_len as usize) else {
            return corrupt(44, format!("{} entries in the recall curve", header.curve_len));
        };
        if header.rough > 1 {
            return corrupt(244, format!("{} where 0 or 1 is expected", header.rough));
        }
        let mut parts = Parts { bytes, at: HEADER_LEN };
        let bits = bits_of(nodes);
        let lists = parts.bytes(nodes as u64 * list_len(stride, bits) as u64)?;
        let layer0 = Links::new(lists, stride, bits);
        let mut upper = Vec::with_capacity(layers);
        for size in header.upper.iter().take(layers) {
            upper.push(UpperView {
                members: parts.words(u64::from(size.nodes))?,
                offsets: parts.words(u64::from(size.nodes) + 1)?,
                links: parts.words(u64::from(size.links))?,
            });
        }
        let folds = bytemuck::cast_slice(parts.words(2 * u64::from(header.folds))?);
        if parts.at != bytes.len() {
            return corrupt(parts.at, format!("{} bytes after the last part", bytes.len() - parts.at));
        }
        Ok(Self {
            nodes,
            stride,
            entry: header.entry,
            m: header.m as usize,
            ef_construction: header.ef_construction as usize,
            repaired: header.repaired as usize,
            sight: Sight { rung: header.rung, rough: header.rough == 1 },
            longest: header.longest,
            layer0,
            upper,
            folds,
            curve: curve.to_vec(),
            by_page: false,
            guard: None,
        })
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Node at which searches start.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// Number of layers above layer 0.
    pub fn layers(&self) -> usize {
        self.upper.len()
    }

    /// Links of a node in layer 0, at most.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Links of a node in an upper layer, at most.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Width of the beam during construction.
    pub fn ef_construction(&self) -> usize {
        self.ef_construction
    }

    /// Nodes that were linked after construction because a walk or a search missed them.
    pub fn repaired(&self) -> usize {
        self.repaired
    }

    /// What walks compare.
    #[inline]
    pub fn sight(&self) -> Sight {
        self.sight
    }

    /// Length of the longest row under the inner product; else 0.
    pub fn longest(&self) -> f32 {
        self.longest
    }

    /// The same graph, walked as told.
    pub fn walked(&self, sight: Sight) -> Self {
        Self { sight, ..self.clone() }
    }

    /// The same graph, of rows no longer than this.
    pub fn of_rows(&self, longest: f32) -> Self {
        Self { longest, ..self.clone() }
    }

    /// The same graph, which may not be in memory if `by_page`: walks then request its pages before they read them.
    pub fn paged(self, by_page: bool) -> Self {
        Self { by_page, ..self }
    }

    /// Whether walks should request pages.
    #[inline]
    pub fn by_page(&self) -> bool {
        self.by_page
    }

    /// The bytes of all lists of layer 0.
    pub fn lists(&self) -> &'a [u8] {
        self.layer0.bytes()
    }

    /// The bytes of the layers above layer 0.
    pub fn upper_bytes(&self) -> impl Iterator<Item = &'a [u8]> {
        let parts = self.upper.iter().flat_map(|layer| [layer.members, layer.offsets, layer.links]);
        parts.map(bytemuck::cast_slice)
    }

    /// Recall measured at some widths of the beam.
    pub fn curve(&self) -> &[RecallPoint] {
        &self.curve
    }

    /// Folded rows, ascending by node.
    pub fn folds(&self) -> &'a [Fold] {
        self.folds
    }

    /// The rows that a node stands for besides its own.
    pub fn folded(&self, node: u32) -> &'a [Fold] {
        let start = self.folds.partition_point(|fold| fold.node < node);
        let rest = self.folds.get(start..).unwrap_or_default();
        let len = rest.partition_point(|fold| fold.node == node);
        rest.get(..len).unwrap_or_default()
    }

    /// Links of a node in layer 0; none for an id out of range.
    #[inline]
    pub fn links(&self, node: u32) -> impl Iterator<Item = u32> + use<'a> {
        self.guard.touch(self.layer0.list(node));
        self.layer0.of(node)
    }

    /// The bytes in which the links of a node lie.
    #[inline]
    pub fn list(&self, node: u32) -> &'a [u8] {
        self.layer0.list(node)
    }

    /// Members of a layer above 0; none of one that is not there.
    pub fn members(&self, layer: usize) -> &'a [u32] {
        layer.checked_sub(1).and_then(|at| self.upper.get(at)).map_or(&[], |view| view.members)
    }

    /// Links of a node in a layer above 0; empty where it is no member.
    pub fn upper_links(&self, layer: usize, node: u32) -> &'a [u32] {
        let find = || {
            let view = self.upper.get(layer.checked_sub(1)?)?;
            let place = view.members.binary_search(&node).ok()?;
            let (start, end) = (*view.offsets.get(place)?, *view.offsets.get(place + 1)?);
            view.links.get(start as usize..end as usize)
        };
        find().unwrap_or(&[])
    }
}

/// Cuts the aligned parts of a section one after the other.
struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    fn words(&mut self, values: u64) -> Result<&'a [u32]> {
        let at = self.at;
        let part = self.bytes(values.saturating_mul(4))?;
        bytemuck::try_cast_slice(part).map_err(|_| {
            Error::corrupt("graph", at as u64, "the section does not start at a multiple of 4 in memory")
        })
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8]> {
        let corrupt = |what: String| Error::corrupt("graph", self.at as u64, what);
        let left = (self.bytes.len() - self.at) as u64;
        if len > left {
            return Err(corrupt(format!("{len} bytes expected, {left} left")));
        }
        let end = self.at + len as usize;
        let part = &self.bytes[self.at..end];
        // Padded by the writer, so a missing gap means that bytes were cut off.
        let next = end.next_multiple_of(ALIGN);
        if next > self.bytes.len() {
            return Err(corrupt("the section ends before the gap after this part".into()));
        }
        self.at = next;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> GraphData {
        GraphData {
            nodes: 3,
            stride: 2,
            m: 1,
            ef_construction: 10,
            seed: 7,
            entry: 1,
            repaired: 0,
            sight: Sight { rung: 64, rough: true },
            longest: 2.5,
            curve: vec![RecallPoint::new(16, Some(0.1), 0.5), RecallPoint::new(32, None, 1.0)],
            layer0: vec![1, NO_NODE, 0, 2, 1, NO_NODE],
            upper: vec![UpperLayer { members: vec![0, 1], offsets: vec![0, 1, 2], links: vec![1, 0] }],
            folds: vec![Fold { node: 1, row: 2 }],
        }
    }

    #[test]
    fn the_header_lies_as_the_table_says() {
        assert_eq!(HEADER_LEN, 256);
        let offsets = [
            std::mem::offset_of!(Header, nodes),
            std::mem::offset_of!(Header, seed),
            std::mem::offset_of!(Header, curve),
            std::mem::offset_of!(Header, upper),
            std::mem::offset_of!(Header, length),
            std::mem::offset_of!(Header, folds),
            std::mem::offset_of!(Header, rough),
            std::mem::offset_of!(Header, rung),
            std::mem::offset_of!(Header, longest),
        ];
        assert_eq!(offsets, [8, 32, 48, 112, 232, 240, 244, 248, 252]);
        let bytes = small().encode();
        assert_eq!(&bytes[..12], b"GRPH\x02\0\0\0\x03\0\0\0");
        assert_eq!(bytes.len(), 256 + 5 * 64);
        assert_eq!(bytes[256..260], [0b1101, 0b1000, 0b1101, 0]);
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let data = small();
        let bytes = data.encode();
        let (owned, read) = (data.view(), GraphView::parse(&bytes).unwrap());
        for view in [owned, read] {
            assert_eq!((view.nodes(), view.stride(), view.m(), view.ef_construction()), (3, 2, 1, 10));
            assert_eq!((view.entry(), view.layers(), view.repaired()), (1, 1, 0));
            assert_eq!((view.curve(), view.sight(), view.longest()), (&data.curve[..], data.sight, 2.5));
            assert_eq!(
                [0, 1, 2, 3].map(|node| view.links(node).collect::<Vec<_>>()),
                [vec![1], vec![0, 2], vec![1], vec![]]
            );
            assert_eq!([0, 1, 2].map(|node| view.upper_links(1, node).len()), [1, 1, 0]);
            assert_eq!([0, 1, 2].map(|node| view.folded(node).len()), [0, 1, 0]);
            assert!(view.upper_links(0, 0).is_empty() && view.upper_links(2, 0).is_empty());
        }
        let empty = GraphData { stride: 2, ..GraphData::default() }.encode();
        assert_eq!(GraphView::parse(&empty).unwrap().nodes(), 0);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = small().encode();
        for len in 0..bytes.len() {
            assert!(GraphView::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut longer = bytes;
        longer.resize(longer.len() + 64, 0);
        assert!(GraphView::parse(&longer).is_err());
    }

    #[test]
    fn wrong_fields_are_refused_with_their_offset() {
        let offset_of = |at: usize, value: u32| {
            let mut bytes = small().encode();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            match GraphView::parse(&bytes) {
                Err(Error::Corrupt { offset, .. }) => offset,
                other => panic!("{other:?}"),
            }
        };
        for (at, value) in
            [(0, 0), (4, 0), (8, NO_NODE), (12, 0), (12, 513), (16, 16), (20, 3), (44, 9), (232, 7), (244, 2)]
        {
            assert_eq!(offset_of(at, value), at as u64, "{value} at {at}");
        }
        assert_eq!(offset_of(8, 1 << 31), 256);
        let mut newer = small().encode();
        newer[4] = 3;
        assert!(matches!(GraphView::parse(&newer), Err(Error::TooNew { .. })));
    }
}

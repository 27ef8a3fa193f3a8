//! Lists of links, each number in as few bits as will do.
//!
//! A graph is walked by reading the list of one node after the other, from places all over the file. A hundred
//! thousand nodes need 17 bits each, not 32: half the file, and half of what has to come from memory.
//!
//! The list of a node takes `stride` places of `bits` bits, the first in the lowest bits of the first byte, and ends
//! with the byte in which its last place ends. Unused places, at its end, hold ones in all bits, which no node has for
//! a number.

/// Bits that the numbers of `nodes` nodes take, and one number more.
pub const fn bits_of(nodes: usize) -> u32 {
    let bits = usize::BITS - nodes.leading_zeros();
    if bits == 0 { 1 } else { bits }
}

/// Bytes of the list of a node.
pub const fn list_len(stride: usize, bits: u32) -> usize {
    (stride * bits as usize).div_ceil(8)
}

/// Appends lists of `stride` words, in which ones in all bits stand for an unused place.
pub fn pack(words: &[u32], stride: usize, bits: u32, out: &mut Vec<u8>) {
    for list in words.chunks_exact(stride.max(1)) {
        let (mut waiting, mut filled) = (0u64, 0);
        for &word in list {
            waiting |= (u64::from(word) & mask(bits)) << filled;
            filled += bits;
            while filled >= 8 {
                out.push(waiting as u8);
                waiting >>= 8;
                filled -= 8;
            }
        }
        if filled > 0 {
            out.push(waiting as u8);
        }
    }
}

/// Ones in the lowest `bits` bits, of 32 at most.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// The lists of many nodes, in place.
#[derive(Debug, Clone, Copy)]
pub struct Links<'a> {
    bytes: &'a [u8],
    stride: usize,
    bits: u32,
    len: usize,
}

impl<'a> Links<'a> {
    /// Lists of `stride` places, packed with 1 to 32 bits each.
    pub fn new(bytes: &'a [u8], stride: usize, bits: u32) -> Self {
        let bits = bits.clamp(1, u32::BITS);
        Self { bytes, stride, bits, len: list_len(stride, bits) }
    }

    /// Lists of `stride` words, as construction fills them.
    pub fn of_words(words: &'a [u32], stride: usize) -> Self {
        Self::new(bytemuck::cast_slice(words), stride, u32::BITS)
    }

    /// The bytes of a node's list; none for a node that is not there.
    #[inline]
    pub fn list(&self, node: u32) -> &'a [u8] {
        let start = node as usize * self.len;
        self.bytes.get(start..start + self.len).unwrap_or(&[])
    }

    /// The links of a node, up to the first unused place. They are foreign data: any of them may be out of range.
    #[inline]
    pub fn of(&self, node: u32) -> impl Iterator<Item = u32> + use<'a> {
        // Reading goes on into the bytes of later lists, which are masked out: whole words are faster to load.
        let start = node as usize * self.len;
        let (bits, unused) = (self.bits as usize, mask(self.bits));
        let places = if self.list(node).is_empty() { 0 } else { self.stride };
        let bytes = self.bytes;
        (0..places)
            .map(move |place| load(bytes, start + place * bits / 8) >> (place * bits % 8) & unused)
            .take_while(move |&link| link != unused)
            .map(|link| link as u32)
    }
}

/// Eight bytes as a number, the first lowest; those past the end are 0.
#[inline]
fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(word) => u64::from_le_bytes(*word),
        None => load_end(bytes.get(at..).unwrap_or(&[])),
    }
}

#[cold]
fn load_end(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_number_of_nodes_fits_beside_the_mark_of_an_unused_place() {
        let bits = [0, 1, 2, 3, 4, 7, 8, 99_999, 100_000, u32::MAX as usize - 1].map(bits_of);
        assert_eq!(bits, [1, 1, 2, 2, 3, 3, 4, 17, 17, 32]);
        for nodes in 1..2000 {
            assert!((nodes as u64 - 1) < mask(bits_of(nodes)));
        }
    }

    #[test]
    fn bits_lie_where_the_format_says() {
        let mut bytes = Vec::new();
        pack(&[1, 4, u32::MAX, 0, 2, 3], 3, 3, &mut bytes);
        assert_eq!(bytes, [0b1110_0001, 0b1, 0b1101_0000, 0b0]);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_back(
            stride in 1usize..40,
            nodes in 1usize..1000,
            numbers in prop::collection::vec((any::<u32>(), 0usize..41), 1..30),
        ) {
            let lists: Vec<Vec<u32>> = numbers
                .iter()
                .map(|&(number, used)| {
                    (0..used.min(stride)).map(|i| (number.wrapping_add(i as u32 * 7919)) % nodes as u32).collect()
                })
                .collect();
            let mut words = Vec::new();
            for list in &lists {
                words.extend(list);
                words.resize(words.len().next_multiple_of(stride), u32::MAX);
                words.resize(words.len() + if list.is_empty() { stride } else { 0 }, u32::MAX);
            }
            let mut bytes = Vec::new();
            pack(&words, stride, bits_of(nodes), &mut bytes);
            prop_assert_eq!(bytes.len(), lists.len() * list_len(stride, bits_of(nodes)));
            for links in [Links::new(&bytes, stride, bits_of(nodes)), Links::of_words(&words, stride)] {
                for (node, list) in lists.iter().enumerate() {
                    prop_assert_eq!(&links.of(node as u32).collect::<Vec<_>>(), list);
                }
                prop_assert_eq!(links.of(lists.len() as u32).count(), 0);
            }
        }

        #[test]
        fn any_bytes_are_lists(bytes in prop::collection::vec(any::<u8>(), 0..200), stride in 0usize..40, bits in 0u32..40) {
            let links = Links::new(&bytes, stride, bits);
            for node in 0..50 {
                prop_assert!(links.of(node).count() <= stride);
            }
            prop_assert_eq!(links.of(u32::MAX).count(), 0);
        }
    }
}

//! Random changes of inputs, for where there is no fuzzer: by chance alone, without looking at what an input reaches.

/// Numbers that look random, the same for a seed.
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// Numbers at which code errs.
const ODD: [u64; 12] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 40,
    0x7FF8_0000_0000_0000,
    u64::MAX,
];

/// An input with some changes; `other` is one to take pieces from.
pub fn shaken(data: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let left = bytes.len() - at;
        match chance.below(7) {
            0 if left > 0 => bytes[at] ^= 1 << chance.below(8),
            1 if left > 0 => bytes[at] = chance.below(256) as u8,
            2 => drop(bytes.drain(at..at + chance.below(left.min(16) + 1))),
            3 => {
                let new: Vec<u8> = (0..=chance.below(8)).map(|_| chance.below(256) as u8).collect();
                bytes.splice(at..at, new);
            }
            4 => {
                let number = ODD[chance.below(ODD.len())].to_le_bytes();
                let width = (1 << chance.below(4)).min(left);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            5 if !other.is_empty() => {
                let from = chance.below(other.len());
                let piece = &other[from..from + chance.below((other.len() - from).min(64)) + 1];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let piece = bytes[at..at + chance.below(left.min(32) + 1)].to_vec();
                let to = chance.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

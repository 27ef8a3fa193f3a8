//! Changes of something sound, given by bytes: a list of places, each with what to put there.

/// Reads numbers and runs of bytes from an input. Past its end all is zero and empty.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// From the beginning.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes, as many as there are up to `count`.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// Two bytes, the lower one first.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Eight bytes, the lowest one first.
    pub fn long(&mut self) -> u64 {
        (0..8).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }
}

/// A change: from `at` on (counted from the end, if `from_end`), so many bytes go, and others take their place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Where.
    pub at: u16,
    /// Whether `at` counts from the end.
    pub from_end: bool,
    /// Bytes that go. As many as come keeps the length.
    pub gone: u8,
    /// Bytes that come.
    pub new: Vec<u8>,
}

impl Patch {
    /// Reads one: flags (1: from the end; 2: the length may change), place, bytes that go, number of new bytes, these.
    pub fn read(input: &mut Input<'_>) -> Self {
        let (flags, at, gone, count) = (input.byte(), input.short(), input.byte(), input.byte());
        let new = input.bytes(usize::from(count)).to_vec();
        let gone = if flags & 2 == 0 { new.len() as u8 } else { gone };
        Self { at, from_end: flags & 1 != 0, gone, new }
    }

    /// Applies it.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        let at = usize::from(self.at).min(bytes.len());
        let at = if self.from_end { bytes.len() - at } else { at };
        let end = (at + usize::from(self.gone)).min(bytes.len());
        bytes.splice(at..end, self.new.iter().copied());
    }
}

/// Something sound with all changes that the rest of an input asks for.
pub fn patched(sound: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    while !input.is_empty() {
        Patch::read(input).apply(&mut bytes);
    }
    bytes
}

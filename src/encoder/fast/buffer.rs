//! Memory that starts at a cache line, so that no wide load crosses two.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

const LINE: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Numbers that start at a cache line.
#[derive(Clone)]
pub(in crate::encoder) struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    number: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// `len` zeros.
    pub(in crate::encoder) fn zeros(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.at_least(len);
        buffer
    }

    /// Grows, with zeros, to at least `len` numbers.
    pub(in crate::encoder) fn at_least(&mut self, len: usize) {
        if self.len < len {
            self.lines.resize((len * size_of::<T>()).div_ceil(LINE), Line::zeroed());
            self.len = len;
        }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), len: 0, number: PhantomData }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice::<Line, T>(&self.lines).get(..self.len).unwrap_or_default()
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut::<Line, T>(&mut self.lines).get_mut(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_at_a_line_and_keeps_what_it_holds() {
        let mut buffer = Buffer::<f32>::zeros(3);
        buffer.copy_from_slice(&[1.0, 2.0, 3.0]);
        buffer.at_least(100);
        buffer.at_least(50);
        assert_eq!((buffer.len(), buffer.as_ptr() as usize % LINE), (100, 0));
        assert_eq!(buffer[..5], [1.0, 2.0, 3.0, 0.0, 0.0]);
        assert!(Buffer::<i8>::default().is_empty());
    }
}

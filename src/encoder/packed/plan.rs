//! How texts are divided: strips, whose derivatives are kept together, of tiles, which go to threads. It depends on the
//! texts alone, so that sums over them are formed in the same order on any number of threads.

use std::ops::Range;

use super::super::run::runs;

/// Tokens of a tile, if its texts are not longer.
const TILE: usize = 128;

/// Tokens of a strip: enough for a product over them, few enough for what is kept of them on the way back.
pub(super) const STRIP: usize = 2048;

/// Consecutive texts of a strip, and their tokens, both counted from the strip's first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) texts: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// Consecutive texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) texts: Range<usize>,
    /// Tokens of each of its texts.
    pub(super) lengths: Vec<usize>,
    pub(super) tiles: Vec<Tile>,
    pub(super) tokens: usize,
}

/// Divides texts of these lengths.
pub(super) fn strips(lengths: &[usize]) -> Vec<Strip> {
    runs(lengths.iter().copied(), STRIP).into_iter().map(|texts| Strip::new(texts, lengths)).collect()
}

impl Strip {
    fn new(texts: Range<usize>, lengths: &[usize]) -> Self {
        let lengths = lengths[texts.clone()].to_vec();
        let mut tokens = 0;
        let tile = |texts: Range<usize>| {
            let start = tokens;
            tokens += lengths[texts.clone()].iter().sum::<usize>();
            Tile { texts, tokens: start..tokens }
        };
        let tiles = runs(lengths.iter().copied(), TILE).into_iter().map(tile).collect();
        Self { texts, tiles, tokens, lengths }
    }

    /// The parts of rows, `stride` apart, that belong to each tile.
    pub(super) fn rows<'a>(
        &self,
        rows: &'a mut [f32],
        stride: usize,
    ) -> impl Iterator<Item = &'a mut [f32]> + use<'a, '_> {
        let mut rest = rows;
        self.tiles.iter().map(move |tile| {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(tile.tokens.len() * stride);
            rest = behind;
            own
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_and_tiles_hold_every_text_once() {
        let lengths: Vec<usize> = (0..300).map(|i| 1 + i * 7919 % 200).chain([3000, 2]).collect();
        let (mut text, mut rows) = (0, 0);
        for strip in strips(&lengths) {
            assert_eq!(strip.texts.start, text);
            assert_eq!(strip.lengths, lengths[strip.texts.clone()]);
            assert!(strip.tokens <= STRIP || strip.lengths == [3000]);
            let (mut of_tile, mut tokens) = (0, 0);
            for tile in &strip.tiles {
                assert_eq!((tile.texts.start, tile.tokens.start), (of_tile, tokens));
                assert_eq!(tile.tokens.len(), strip.lengths[tile.texts.clone()].iter().sum::<usize>());
                assert!(tile.tokens.len() <= TILE || tile.texts.len() == 1);
                (of_tile, tokens) = (tile.texts.end, tile.tokens.end);
            }
            assert_eq!((of_tile, tokens), (strip.lengths.len(), strip.tokens));
            let mut values = vec![0.0; strip.tokens * 3];
            assert!(
                strip
                    .rows(&mut values, 3)
                    .map(|part| part.len())
                    .eq(strip.tiles.iter().map(|t| 3 * t.tokens.len()))
            );
            text = strip.texts.end;
            rows += strip.tokens;
        }
        assert_eq!((text, rows), (lengths.len(), lengths.iter().sum()));
        assert!(strips(&[]).is_empty());
    }
}

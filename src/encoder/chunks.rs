//! Where a text is cut into chunks: tokens of the model meet the rules of [`crate::text`].

use std::ops::Range;

use super::tokenize::TextTokenizer;
use crate::error::Result;
use crate::text::{ChunkOptions, chunk, pieces};

/// Bytes tokenized at once: the tokenizer's memory grows with the text, at about a hundred bytes a byte.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces tokenized side by side.
const PIECES: usize = 32;

/// Byte ranges of the chunks of a text, of at most so many tokens each; at least one.
pub(crate) fn chunks(tokenizer: &TextTokenizer, text: &str, tokens: usize) -> Result<Vec<Range<usize>>> {
    let options = ChunkOptions::new(tokens);
    // A token stands for at least a byte, so that such a text fits without being tokenized.
    if text.len() <= options.max_tokens {
        let whole = 0..text.len();
        return Ok(vec![whole]);
    }
    let pieces = pieces(text, PIECE_BYTES);
    let mut tokens = Vec::with_capacity(text.len() / 4);
    for group in pieces.chunks(PIECES) {
        let texts: Vec<&str> = group.iter().map(|piece| &text[piece.clone()]).collect();
        for (piece, offsets) in group.iter().zip(tokenizer.offsets(&texts)?) {
            tokens.extend(offsets.into_iter().map(|t| piece.start + t.start..piece.start + t.end));
        }
    }
    Ok(chunk(text, &tokens, &options))
}

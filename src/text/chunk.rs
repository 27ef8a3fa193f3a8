//! Cutting a long text into chunks that an encoder reads whole.
//!
//! A chunk ends at the best place in its second half: between paragraphs, else after a line or a
//! sentence, else between words, else between tokens. Neighbours overlap, so that a passage cut in
//! two stands whole in one of them.
//!
//! Invariants: ranges lie on character boundaries and in order; every token lies in a chunk; no chunk
//! holds more tokens than allowed.

use std::ops::Range;

/// How a text is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkOptions {
    /// Tokens of a chunk at most, special ones left out; at least 1.
    pub max_tokens: usize,
    /// Tokens that a chunk repeats of the one before, at most; half of `max_tokens` is the limit.
    pub overlap_tokens: usize,
}

impl ChunkOptions {
    /// Chunks of at most `max_tokens`, with an overlap of a tenth.
    pub fn new(max_tokens: usize) -> Self {
        Self { max_tokens, overlap_tokens: max_tokens / 10 }
    }
}

/// How well a text can be cut at a place; better ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Break {
    Inside,
    Word,
    Sentence,
    Paragraph,
}

/// Byte ranges of the chunks of `text`, whose tokens lie at `tokens` (bytes, in order); at least one.
///
/// A text that fits is one chunk from its first byte to its last. Ranges of tokens that reach out of
/// the text are cut to it.
pub fn chunk(text: &str, tokens: &[Range<usize>], options: &ChunkOptions) -> Vec<Range<usize>> {
    let most = options.max_tokens.max(1);
    let overlap = options.overlap_tokens.min(most / 2);
    let mut chunks = Vec::new();
    let (mut first, mut end) = (0, 0);
    while tokens.len() - first > most {
        // Beyond the last end, or a chunk would repeat part of the one before and nothing else.
        let earliest = (first + most.div_ceil(2)).max(end + 1);
        end = best_break(text, tokens, earliest..first + most);
        chunks.push(range(text, tokens, first..end));
        // From the best place on at which the overlap is not longer than asked.
        let from = (end - overlap).max(first + 1);
        first = if from < end { start_of_overlap(text, tokens, from..end) } else { end };
    }
    let mut last = range(text, tokens, first..tokens.len());
    last.end = text.len();
    chunks.push(last);
    if let Some(first) = chunks.first_mut() {
        first.start = 0;
    }
    chunks
}

/// The token before which a chunk best ends, in `window` (its end included); the last of the best.
fn best_break(text: &str, tokens: &[Range<usize>], window: Range<usize>) -> usize {
    let places = window.start..=window.end;
    places.max_by_key(|&at| (break_before(text, tokens, at), at)).unwrap_or(window.end)
}

/// The token with which the next chunk best begins, in `window`; the first of the best.
fn start_of_overlap(text: &str, tokens: &[Range<usize>], window: Range<usize>) -> usize {
    window
        .clone()
        .max_by_key(|&at| (break_before(text, tokens, at).min(Break::Sentence), std::cmp::Reverse(at)))
        .unwrap_or(window.end)
}

/// What lies between token `at` and the one before it.
fn break_before(text: &str, tokens: &[Range<usize>], at: usize) -> Break {
    let (Some(before), Some(after)) = (tokens.get(at.wrapping_sub(1)), tokens.get(at)) else {
        return Break::Inside;
    };
    let gap = text.get(before.end..after.start).unwrap_or("");
    let lines = gap.matches('\n').count();
    let ended = text.get(..before.end).and_then(last_letter);
    match ended {
        _ if lines > 1 => Break::Paragraph,
        _ if lines == 1 => Break::Sentence,
        Some('。' | '！' | '？') => Break::Sentence,
        Some('.' | '!' | '?' | '…') if !gap.is_empty() => Break::Sentence,
        _ if gap.is_empty() => Break::Inside,
        _ => Break::Word,
    }
}

/// The last character, closing quotes and brackets left out.
fn last_letter(text: &str) -> Option<char> {
    text.chars().rev().take(4).find(|c| !matches!(c, '"' | '\'' | '”' | '’' | '»' | ')' | ']' | '」' | '』'))
}

/// Bytes of the tokens `of`, widened to whole characters.
fn range(text: &str, tokens: &[Range<usize>], of: Range<usize>) -> Range<usize> {
    let tokens = tokens.get(of).unwrap_or(&[]);
    let start = tokens.first().map_or(0, |token| token.start);
    let end = tokens.iter().map(|token| token.end).max().unwrap_or(0);
    let start = text.floor_char_boundary(start);
    start..text.ceil_char_boundary(end).max(start)
}

/// Consecutive ranges of at most `most` bytes (at least one character) that make up the text, cut
/// after lines where possible, else after sentences, words, characters.
pub fn pieces(text: &str, most: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while text.len() - start > most {
        let limit = text.floor_char_boundary(start + most);
        let limit = if limit > start { limit } else { text.ceil_char_boundary(start + 1) };
        let half = text.floor_char_boundary(start + (limit - start) / 2).max(start);
        let window = text.get(half..limit).unwrap_or("");
        let cut = window
            .rfind('\n')
            .or_else(|| window.rfind(". ").map(|at| at + 1))
            .or_else(|| window.rfind(char::is_whitespace));
        // After the white space: a cut before it would leave it to the next piece, which is as good,
        // but a line's end belongs to its line.
        let end = cut.map_or(limit, |at| text.ceil_char_boundary(half + at + 1));
        pieces.push(start..end);
        start = end;
    }
    if start < text.len() || pieces.is_empty() {
        pieces.push(start..text.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words and single punctuation marks, as a tokenizer sees them.
    fn words(text: &str) -> Vec<Range<usize>> {
        let mut tokens: Vec<Range<usize>> = Vec::new();
        for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            match tokens.last_mut() {
                Some(last) if c.is_alphanumeric() && last.end == at && !text[last.clone()].contains('.') => {
                    last.end = at + c.len_utf8();
                }
                _ => tokens.push(at..at + c.len_utf8()),
            }
        }
        tokens
    }

    fn cut(text: &str, max_tokens: usize, overlap_tokens: usize) -> Vec<&str> {
        let options = ChunkOptions { max_tokens, overlap_tokens };
        chunk(text, &words(text), &options).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn what_fits_is_one_chunk_white_space_included() {
        assert_eq!(cut("", 8, 0), [""]);
        assert_eq!(cut("  one two ", 8, 0), ["  one two "]);
    }

    #[test]
    fn chunks_end_at_paragraphs_then_sentences_then_words() {
        assert_eq!(cut("a b c.\n\nd e. f g h", 8, 0), ["a b c.", "d e. f g h"]);
        assert_eq!(cut("a b c d e. f g h i", 8, 0), ["a b c d e.", "f g h i"]);
        assert_eq!(cut("a b c d e f g h i", 8, 0), ["a b c d e f g h", "i"]);
        assert_eq!(cut("He said \"yes.\" We all heard it then and there", 8, 0)[0], "He said \"yes.\"");
    }

    #[test]
    fn neighbours_overlap_from_a_sentence_on_where_there_is_one() {
        assert_eq!(cut("a b c d e f g h i j", 8, 2), ["a b c d e f g h", "g h i j"]);
        assert_eq!(cut("a b c d e. f g.\n\nh i j k l", 10, 4), ["a b c d e. f g.", "f g.\n\nh i j k l"]);
    }

    #[test]
    fn a_run_without_spaces_is_cut_between_tokens() {
        let text = "字".repeat(100);
        let tokens: Vec<_> = (0..100).map(|i| 3 * i..3 * i + 3).collect();
        let chunks = chunk(&text, &tokens, &ChunkOptions::new(10));
        assert!(chunks.len() > 10 && chunks.iter().all(|c| c.len() <= 30));
    }

    #[test]
    fn pieces_are_cut_after_lines() {
        assert_eq!(pieces("aaa\nbbb\nccc", 8), [0..8, 8..11]);
        assert_eq!(pieces("", 8), vec![0..0]);
        // A character longer than the limit is a piece of its own.
        assert_eq!(pieces("日本", 1), [0..3, 3..6]);
    }

    proptest! {
        #[test]
        fn no_token_is_lost_and_no_chunk_too_long(
            text in "([a-z]{1,9}[ .\n]{1,2}|[日本語é。]){0,200}",
            most in 1usize..40,
            overlap in 0usize..50,
        ) {
            let tokens = words(&text);
            let options = ChunkOptions { max_tokens: most, overlap_tokens: overlap };
            let chunks = chunk(&text, &tokens, &options);
            prop_assert!(chunks.iter().all(|c| text.get(c.clone()).is_some()));
            prop_assert!(chunks.windows(2).all(|w| w[0].start < w[1].start && w[0].end < w[1].end));
            for token in &tokens {
                prop_assert!(chunks.iter().any(|c| c.start <= token.start && token.end <= c.end));
            }
            for c in &chunks {
                let inside = tokens.iter().filter(|t| c.start <= t.start && t.end <= c.end).count();
                prop_assert!(inside <= most, "{} tokens", inside);
            }
        }

        #[test]
        fn foreign_ranges_do_no_harm(
            text in ".{0,40}",
            tokens in prop::collection::vec((0usize..200, 0usize..200).prop_map(|(a, b)| a..b), 0..60),
            most in 0usize..10,
        ) {
            for c in chunk(&text, &tokens, &ChunkOptions::new(most)) {
                prop_assert!(text.get(c).is_some());
            }
        }

        #[test]
        fn pieces_make_up_the_text(text in "(.|\n| ){0,200}", most in 1usize..50) {
            let pieces = pieces(&text, most);
            prop_assert_eq!(pieces.iter().map(|p| &text[p.clone()]).collect::<String>(), text.clone());
            prop_assert!(pieces.iter().all(|p| p.len() <= most.max(4)));
        }
    }
}

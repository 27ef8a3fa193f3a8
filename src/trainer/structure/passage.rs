//! Parts of a text: what is made a query of it, and what that should find.

use std::ops::Range;

use super::StructureOptions;
use super::parse::sentences;
use crate::trainer::rng::Rng;

/// Words of a text that some are drawn from together: about a chunk.
const WINDOW: usize = 200;

/// Whether a text holds another, case and white space aside.
pub(super) fn contains_folded(text: &str, part: &str) -> bool {
    let fold = |text: &str| {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.flat_map(|word| [word.to_lowercase(), " ".to_owned()]).collect::<String>()
    };
    fold(text).contains(&fold(part))
}

/// A few words in their order, out of as many as a chunk has, from anywhere in the text: at least as many as a query has,
/// at most half of them.
pub(super) fn scattered(words: &[&str], options: &StructureOptions, rng: &mut Rng) -> Option<String> {
    let start = rng.below(words.len().saturating_sub(WINDOW) + 1);
    let window = words.get(start..words.len().min(start + WINDOW))?;
    let most = options.scattered_most.min(window.len() / 2);
    if most < options.words_least {
        return None;
    }
    let count = options.words_least + rng.below(most - options.words_least + 1);
    let mut places: Vec<usize> = (0..window.len()).collect();
    rng.shuffle(&mut places);
    places.truncate(count);
    places.sort_unstable();
    let chosen: Vec<&str> = places.into_iter().filter_map(|at| window.get(at).copied()).collect();
    Some(chosen.join(" "))
}

/// Single spaces, and no Markdown around it.
pub(super) fn tidy(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_matches(['#', '*', '_', '`', '|', '-', '•', ' ']).to_owned()
}

/// The first sentences of a text, up to so many bytes.
pub(super) fn beginning(text: &str, bytes: usize) -> String {
    let text = text.trim();
    if text.len() <= bytes {
        return text.to_owned();
    }
    let head = text.get(..text.floor_char_boundary(bytes)).unwrap_or_default();
    let end = sentences(head).iter().rev().nth(1).map_or(head.len(), |range| range.end);
    head.get(..end).unwrap_or(head).trim().to_owned()
}

/// The sentences next to one, without it, nearest first until they are so many bytes.
pub(super) fn around(text: &str, all: &[Range<usize>], at: usize, bytes_most: usize) -> String {
    let (mut from, mut to) = (at, at + 1);
    let mut taken = 0;
    let start = |n: usize| all.get(n).map_or(0, |range| range.start);
    let end = |n: usize| all.get(n).map_or(usize::MAX, |range| range.end);
    loop {
        // With what stands between.
        let before = from.checked_sub(1).map(|n| (n, start(from) - start(n)));
        let after = Some(to).filter(|&n| n < all.len()).map(|n| (n, end(n) - end(to - 1)));
        let before = before.filter(|(_, bytes)| taken + bytes <= bytes_most);
        let after = after.filter(|(_, bytes)| taken + bytes <= bytes_most);
        match (before, after) {
            (Some((n, bytes)), other) if other.is_none() || at - from < to - at => {
                taken += bytes;
                from = n;
            }
            (_, Some((n, bytes))) => {
                taken += bytes;
                to = n + 1;
            }
            _ => break,
        }
    }
    let part = |range: Range<usize>| {
        let (start, end) = (all.get(range.start).map(|r| r.start), all.get(range.end - 1).map(|r| r.end));
        start.zip(end).and_then(|(start, end)| text.get(start..end)).unwrap_or_default()
    };
    let mut passage = String::new();
    for range in [from..at, at + 1..to].into_iter().filter(|range| !range.is_empty()) {
        if !passage.is_empty() {
            passage.push(' ');
        }
        passage.push_str(part(range).trim());
    }
    passage
}

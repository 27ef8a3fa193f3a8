//! Sections and sentences of a plain or Markdown text.
//!
//! Modest by intent: a heading that is missed costs a pair, one that is none teaches nonsense.

use std::ops::Range;

/// Bytes of a heading, at most.
const HEADING_BYTES: usize = 100;
/// Words of a heading without a mark, at most.
const HEADING_WORDS: usize = 12;
/// Abbreviations behind which a sentence goes on.
const ABBREVIATIONS: [&str; 22] = [
    "mr", "mrs", "ms", "dr", "prof", "inc", "corp", "ltd", "co", "no", "vs", "st", "fig", "figs", "eq",
    "eqs", "al", "cf", "approx", "e.g", "i.e", "u.s",
];

/// A heading and what stands below it, up to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section<'a> {
    /// The heading without its mark.
    pub heading: &'a str,
    /// What follows.
    pub body: &'a str,
}

/// The sections of a text; what stands before the first heading is none.
pub(super) fn sections(text: &str) -> Vec<Section<'_>> {
    let lines = lines(text);
    // Start of the heading's line, the heading, and where its body begins.
    let mut heads: Vec<(usize, &str, usize)> = Vec::new();
    let mut fenced = false;
    for (at, range) in lines.iter().enumerate() {
        let line = text.get(range.clone()).unwrap_or_default();
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let other = |n: Option<usize>| n.and_then(|n| lines.get(n)).and_then(|r| text.get(r.clone()));
        let (before, after) = (other(at.checked_sub(1)), other(Some(at + 1)));
        if let Some((heading, taken)) = heading(line, before, after) {
            let body = lines.get(at + taken - 1).map_or(text.len(), |range| range.end);
            heads.push((range.start, heading, body));
        }
    }
    let ends: Vec<usize> = heads.iter().skip(1).map(|head| head.0).chain([text.len()]).collect();
    let bodies = heads.iter().zip(ends);
    bodies
        .map(|(&(_, heading, from), to)| Section {
            heading,
            body: text.get(from..to).unwrap_or_default().trim(),
        })
        .collect()
}

/// Ranges of the lines, without their ends.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut start = 0;
    let range = |line: &str| {
        let from = start;
        start += line.len();
        from..from + line.trim_end_matches(['\n', '\r']).len()
    };
    text.split_inclusive('\n').map(range).collect()
}

/// The heading that a line holds, and the lines that it takes.
fn heading<'a>(line: &'a str, before: Option<&str>, after: Option<&str>) -> Option<(&'a str, usize)> {
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.len() > HEADING_BYTES {
        return None;
    }
    let marks = trimmed.bytes().take_while(|&b| b == b'#').count();
    if (1..=6).contains(&marks) {
        let rest = trimmed.get(marks..)?;
        return rest.starts_with([' ', '\t']).then(|| (rest.trim().trim_end_matches('#').trim_end(), 1));
    }
    let blank = |line: Option<&str>| line.is_none_or(|line| line.trim().is_empty());
    let letters = |text: &str| text.chars().any(char::is_alphabetic);
    if blank(before) && letters(trimmed) && after.is_some_and(is_underline) {
        return Some((trimmed, 2));
    }
    let ended = trimmed.ends_with(['.', ',', ';', ':', '!', '?']);
    let words = trimmed.split_whitespace().count();
    if !blank(before) || !blank(after) || after.is_none() || ended || words > HEADING_WORDS {
        return None;
    }
    let unnumbered = trimmed.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start();
    let numbered = trimmed.starts_with(|c: char| c.is_ascii_digit())
        && unnumbered.len() < trimmed.len()
        && unnumbered.starts_with(char::is_uppercase);
    let capitals = trimmed.chars().filter(|c| c.is_alphabetic()).count() >= 4
        && !trimmed.chars().any(char::is_lowercase)
        && trimmed.chars().any(char::is_uppercase);
    match (numbered, capitals) {
        (true, _) => Some((unnumbered, 1)),
        (_, true) => Some((trimmed, 1)),
        _ => None,
    }
}

fn is_underline(line: &str) -> bool {
    let line = line.trim();
    line.len() >= 3 && (line.bytes().all(|b| b == b'=') || line.bytes().all(|b| b == b'-'))
}

/// Ranges of the sentences of a text, in order, without white space around them.
pub(super) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, c)| c);
        let end = at + c.len_utf8();
        let ends = match c {
            '。' | '！' | '？' => true,
            '.' | '!' | '?' | '…' => {
                next.is_none_or(char::is_whitespace) && !is_abbreviation(text, start, at)
            }
            '"' | '\'' | '”' | '’' | ')' => {
                let before = text.get(start..at).and_then(|part| part.chars().next_back());
                matches!(before, Some('.' | '!' | '?' | '…')) && next.is_none_or(char::is_whitespace)
            }
            // A line that is not full goes on in the next; an empty one, or an item's, begins something new.
            '\n' => text.get(end..).is_none_or(begins_anew),
            _ => false,
        };
        if ends {
            push(text, start..end, &mut found);
            start = end;
        }
    }
    push(text, start..text.len(), &mut found);
    found
}

fn begins_anew(rest: &str) -> bool {
    let rest = rest.trim_start_matches([' ', '\t']);
    rest.is_empty() || rest.starts_with(['\n', '\r', '#', '-', '*', '•', '|', '>'])
}

/// Whether the full stop at `at` belongs to an abbreviation or an initial.
fn is_abbreviation(text: &str, start: usize, at: usize) -> bool {
    let sentence = text.get(start..at).unwrap_or_default();
    let word = sentence.rsplit(char::is_whitespace).next().unwrap_or_default();
    let word = word.trim_start_matches(['(', '"', '\'', '“', '‘', '[']);
    let initial = word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    initial || ABBREVIATIONS.iter().any(|known| word.eq_ignore_ascii_case(known))
}

fn push(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let part = text.get(range.clone()).unwrap_or_default();
    let trimmed = part.trim_start();
    let start = range.start + part.len() - trimmed.len();
    let trimmed = trimmed.trim_end();
    if trimmed.chars().any(char::is_alphanumeric) {
        found.push(start..start + trimmed.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads(text: &str) -> Vec<(&str, &str)> {
        sections(text).iter().map(|s| (s.heading, s.body)).collect()
    }

    fn cut(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn headings_of_four_kinds_begin_sections() {
        let text = "before\n\n# Install it #\nRun this.\n\nUse of it\n---------\nCall that.\n\n2.1 What it costs\n\nNothing.\n\n\
                    RISK FACTORS\n\nMany.\n";
        let expected = [
            ("Install it", "Run this."),
            ("Use of it", "Call that."),
            ("What it costs", "Nothing."),
            ("RISK FACTORS", "Many."),
        ];
        assert_eq!(heads(text), expected);
    }

    #[test]
    fn what_only_looks_like_a_heading_is_none() {
        for text in [
            "#hashtag of mine\nx",
            "```\n# a comment\n```\nx",
            "a sentence\n2 More of it\n\nx",
            "12 monkeys ran\n\nx",
            "\nTHIS IS SHOUTED!\n\nx",
            "\nUSA\n\nx",
            "RISK FACTORS",
            "| a |\n|---|\n",
            "",
        ] {
            assert_eq!(heads(text), [], "{text}");
        }
    }

    #[test]
    fn sentences_end_where_they_should() {
        assert_eq!(cut("One. Two! \"Three?\" Four"), ["One.", "Two!", "\"Three?\"", "Four"]);
        assert_eq!(
            cut("He of Acme Inc. paid 3.5 dollars, e.g. in the U.S. market."),
            ["He of Acme Inc. paid 3.5 dollars, e.g. in the U.S. market."]
        );
        assert_eq!(
            cut("a line\nthat goes on\n\nanother\n- an item\n- one more"),
            ["a line\nthat goes on", "another", "- an item", "- one more"]
        );
        assert_eq!(cut("一。二！"), ["一。", "二！"]);
        assert_eq!(cut(" ... \n"), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_text_is_cut_in_order(text in "([a-zA-Z0-9#.!? \n=é。-]|\"){0,120}") {
            let ranges = sentences(&text);
            prop_assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start));
            prop_assert!(ranges.iter().all(|r| text.get(r.clone()).is_some_and(|s| s.trim() == s && !s.is_empty())));
            for section in sections(&text) {
                prop_assert!(text.contains(section.heading) && text.contains(section.body));
            }
        }
    }
}

//! Whether a query that was made up is fit to be learnt from.

use std::collections::HashSet;

/// Words of a query, at most.
const WORDS_MOST: usize = 48;
/// Characters of a query, at most.
const CHARS_MOST: usize = 320;
/// Letters of a query, at least.
const LETTERS_LEAST: usize = 3;
/// Words in a row that make a query a copy of its passage.
const COPIED_WORDS: usize = 10;
/// Share of a query's words, the short ones left out, that the passage must hold for it to count as found by its text.
const OVERLAP: f64 = 0.6;
/// Such words, at least.
const OVERLAP_WORDS: usize = 3;
/// Letters of a word that counts.
const WORD_LETTERS: usize = 4;
/// What a query says that can only be understood beside its passage.
const POINTING: [&str; 14] = [
    "the passage",
    "this passage",
    "the text",
    "this text",
    "the article",
    "this article",
    "the document",
    "this document",
    "the excerpt",
    "this excerpt",
    "the author",
    "the given",
    "mentioned above",
    "described above",
];

/// Why a query is not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unfit {
    /// It says nothing.
    Empty,
    /// It is longer than any query.
    Long,
    /// It is a part of the passage.
    Copy,
    /// It speaks of "the passage" instead of naming what it is about.
    Pointing,
}

/// Judges a query by its text alone.
pub fn unfit(query: &str, passage: &str) -> Option<Unfit> {
    if query.chars().filter(|c| c.is_alphabetic()).take(LETTERS_LEAST).count() < LETTERS_LEAST {
        return Some(Unfit::Empty);
    }
    if query.chars().count() > CHARS_MOST || query.split_whitespace().count() > WORDS_MOST {
        return Some(Unfit::Long);
    }
    let (words, others) = (words(query), words(passage));
    let lower = words.join(" ");
    if POINTING.iter().any(|pointing| format!(" {lower} ").contains(&format!(" {pointing} "))) {
        return Some(Unfit::Pointing);
    }
    let passage = format!(" {} ", others.join(" "));
    let long = words.len() >= COPIED_WORDS || words.len() * 2 > others.len();
    (long && passage.contains(&format!(" {lower} "))).then_some(Unfit::Copy)
}

/// Whether most of a query's words stand in the passage: then it is about the passage, whatever the encoder thinks.
pub fn overlaps(query: &str, passage: &str) -> bool {
    let long = |text| words(text).into_iter().filter(|word| word.chars().count() >= WORD_LETTERS);
    let passage: HashSet<String> = long(passage).collect();
    let query: HashSet<String> = long(query).collect();
    let shared = query.iter().filter(|word| passage.contains(*word)).count();
    shared >= OVERLAP_WORDS && shared as f64 >= OVERLAP * query.len() as f64
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGE: &str = "The old museum repairs clocks. Its keeper closes the hall every evening at six and lets nobody stay.";

    #[test]
    fn queries_are_refused_for_a_reason() {
        let cases = [
            ("", Some(Unfit::Empty)),
            ("?? 12", Some(Unfit::Empty)),
            (&*"clock ".repeat(60), Some(Unfit::Long)),
            (&*"c".repeat(400), Some(Unfit::Long)),
            ("What does this passage tell about clocks?", Some(Unfit::Pointing)),
            ("the given clocks", Some(Unfit::Pointing)),
            ("its keeper closes the HALL every evening, at six and lets nobody stay", Some(Unfit::Copy)),
            ("museum repairs clocks", None),
            ("When does the keeper close the hall?", None),
            ("the context of texts", None),
        ];
        for (query, expected) in cases {
            assert_eq!(unfit(query, PASSAGE), expected, "{query}");
        }
        assert_eq!(unfit("Museum repairs clocks", "Museum repairs clocks, mostly."), Some(Unfit::Copy));
    }

    #[test]
    fn words_in_common_make_a_query_one_about_the_passage() {
        assert!(overlaps("which museum keeper repairs clocks", PASSAGE));
        assert!(!overlaps("museum clocks", PASSAGE));
        assert!(!overlaps("keeper museum clocks rockets planets oceans violins", PASSAGE));
        assert!(!overlaps("the and at six", PASSAGE));
    }
}

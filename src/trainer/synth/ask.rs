//! What a small model in this process is asked: one line, shown by examples. It would not keep to JSON, nor to a list of
//! wishes.

use super::prompt::Style;

/// Bytes of a passage that are shown; a small model loses itself in more.
pub const PASSAGE_BYTES: usize = 900;

/// What it is told, and questions with their answers. The passages are made up.
pub struct Lesson {
    /// What it is told.
    pub system: &'static str,
    /// Passages and what to write for them.
    pub examples: [(&'static str, &'static str); 3],
}

const LIGHTHOUSE: &str = "The lighthouse of Brenholm was built in 1863 after three ships had been lost on the reef. Its lamp, \
                          which burned oil until 1927, could be seen from eighteen miles.";
const WARRANTY: &str = "We repair or replace a device free of charge for twenty-four months after the purchase. Damage by \
                        water and worn batteries are not covered.";
const RIVER: &str = "Sales of Orlanda Foods fell by 4% to $312 million, mainly because two factories stood still after the \
                     flood of the river Marn in May.";

/// The lesson for a style; [`Style::Mixed`] is that of questions.
pub fn lesson(style: Style) -> Lesson {
    match style {
        Style::Question | Style::Mixed => Lesson {
            system: "You read a passage and write one short question that it answers. Name what the question is about. Do \
                     not answer it.",
            examples: [
                (LIGHTHOUSE, "Why was a lighthouse built at Brenholm in 1863?"),
                (WARRANTY, "Does the device warranty cover water damage?"),
                (RIVER, "What caused the fall in sales at Orlanda Foods?"),
            ],
        },
        Style::Keywords => Lesson {
            system: "You read a passage and write the few words that somebody would type into a search field to find it. \
                     No sentence.",
            examples: [
                (LIGHTHOUSE, "Brenholm lighthouse history oil lamp"),
                (WARRANTY, "device warranty repair water damage"),
                (RIVER, "Orlanda Foods sales decline flood"),
            ],
        },
        Style::Claim => Lesson {
            system: "You read a passage and write one short statement that it supports, in other words than its own.",
            examples: [
                (LIGHTHOUSE, "Shipwrecks led to the lighthouse at Brenholm."),
                (WARRANTY, "Broken devices are repaired without cost for two years."),
                (RIVER, "Flooded factories cost Orlanda Foods some of its sales."),
            ],
        },
    }
}

/// What is asked about a passage: the passage, below its title, its end left out if it is long.
pub fn question(title: Option<&str>, text: &str) -> String {
    let text = text.trim();
    let cut = text.get(..text.floor_char_boundary(PASSAGE_BYTES)).unwrap_or(text);
    match title.map(str::trim).filter(|title| !title.is_empty()) {
        Some(title) => format!("{title}\n{cut}"),
        None => cut.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_style_has_its_lesson_and_long_passages_are_cut() {
        let answers =
            [Style::Question, Style::Keywords, Style::Claim].map(|style| lesson(style).examples[0].1);
        assert_eq!(answers.map(|answer| answer.ends_with('?')), [true, false, false]);
        assert_eq!(question(Some(" T "), " text "), "T\ntext");
        let long = question(None, &"é".repeat(2_000));
        assert!(long.len() <= PASSAGE_BYTES && long.len() > PASSAGE_BYTES - 2);
    }
}

//! What a language model is asked about a passage, and the id by which its answer finds back.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::trainer::rng::Rng;
use crate::trainer::split::target_key;

/// Digits of the digest in a prompt's id.
const DIGEST_DIGITS: usize = 16;

/// What kind of query is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// A question.
    Question,
    /// A few words.
    Keywords,
    /// A statement to be supported or refuted.
    Claim,
    /// One of the three for each passage, by chance.
    #[default]
    Mixed,
}

impl Style {
    /// The style of one prompt.
    pub fn drawn(self, rng: &mut impl FnMut() -> f64) -> Self {
        match self {
            // People ask and type keywords more often than they claim.
            Self::Mixed => match (rng() * 5.0) as usize {
                0 | 1 => Self::Question,
                2 | 3 => Self::Keywords,
                _ => Self::Claim,
            },
            other => other,
        }
    }
}

/// A passage that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// Id of its document.
    pub id: &'a str,
    /// Title of its document.
    pub title: Option<&'a str>,
    /// First and last byte in the document's text.
    pub span: (u32, u32),
    /// The passage.
    pub text: &'a str,
}

impl Passage<'_> {
    /// Id of the prompt about it: where it stands, a digest of what it says, and its document. An answer that names it can
    /// be held against the database without the file of prompts.
    pub fn prompt_id(&self) -> String {
        let (start, end) = self.span;
        format!("{start}-{end}-{}-{}", digest(self.id, self.text), self.id)
    }
}

/// What a prompt's id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptId {
    /// Bytes of the passage in the document's text.
    pub span: Range<usize>,
    /// Digest of the passage.
    pub digest: String,
    /// Id of the document.
    pub id: String,
}

impl PromptId {
    /// Reads an id; `None` if it is not one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '-');
        let mut number = || parts.next()?.parse::<u32>().ok();
        let (start, end) = (number()?, number()?);
        let digest = parts.next().filter(|digest| digest.len() == DIGEST_DIGITS)?;
        let id = parts.next().filter(|id| !id.is_empty())?;
        let span = start as usize..end as usize;
        (start <= end).then(|| Self { span, digest: digest.to_owned(), id: id.to_owned() })
    }

    /// Whether this passage of the document is the one that was asked about.
    pub fn fits(&self, text: &str) -> bool {
        digest(&self.id, text) == self.digest
    }
}

fn digest(id: &str, text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes()).update(text.as_bytes());
    let mut hex = hasher.finalize().to_hex().to_string();
    hex.truncate(DIGEST_DIGITS);
    hex
}

const WHO: [&str; 8] = [
    "somebody who is new to the subject",
    "an expert who remembers half of it and wants the rest",
    "a student who prepares for an examination",
    "a journalist who checks a fact before a deadline",
    "a customer who wants to know what holds for them",
    "a colleague who has to decide something today",
    "a researcher who compares several sources",
    "somebody who heard about it and wants to read it for themselves",
];
const QUESTIONS: [&str; 4] = [
    "asks for one fact that stands here",
    "asks why or how something is as it is here",
    "asks about the consequences of what is told here",
    "asks about the matter as a whole",
];
const KEYWORDS: [&str; 3] = [
    "types the names and terms that matter here into a search field",
    "searches by describing the matter, for want of the right terms",
    "searches for a detail, with just enough words to tell it from others",
];
const CLAIMS: [&str; 3] = [
    "wants to see a statement confirmed",
    "wants to see a statement refuted",
    "looks for what speaks for or against an opinion",
];
const LENGTHS: [&str; 4] = ["fewer than 5 words", "5 to 10 words", "8 to 15 words", "more than 15 words"];
const CLARITIES: [&str; 3] =
    ["clear", "understandable with some effort", "a little ambiguous, as hasty queries are"];
const LEVELS: [&str; 3] =
    ["no knowledge beyond school", "some knowledge of the field", "an expert's knowledge"];

/// The task and the prompt for a passage.
///
/// # Errors
/// [`Error::Input`] for an empty passage.
pub fn prompt(passage: &Passage<'_>, style: Style, seed: u64) -> Result<(String, String)> {
    if passage.text.trim().is_empty() {
        return Err(Error::input(format!(
            "a passage of {:?} is empty: nothing can be asked about it",
            passage.id
        )));
    }
    let mut rng = Rng::new(seed ^ target_key(&passage.prompt_id()));
    let mut chance = super::chances(seed, passage.id);
    let style = style.drawn(&mut chance);
    let mut one = |list: &[&'static str]| list.get(rng.below(list.len())).copied().unwrap_or_default();
    let (what, form) = match style {
        Style::Keywords => {
            (one(&KEYWORDS), "a few words as one types them into a search field, not a sentence")
        }
        Style::Claim => (one(&CLAIMS), "a statement, not a question"),
        Style::Question | Style::Mixed => (one(&QUESTIONS), "a question"),
    };
    let task = format!("{} {what}", one(&WHO));
    let length = match style {
        Style::Keywords => one(LENGTHS.get(..2).unwrap_or(&LENGTHS)),
        _ => one(LENGTHS.get(1..).unwrap_or(&LENGTHS)),
    };
    let (clarity, level) = (one(&CLARITIES), one(&LEVELS));
    let from = passage.title.filter(|title| !title.trim().is_empty());
    let from = from.map(|title| format!("It stands in: {}\n", title.trim())).unwrap_or_default();
    let text = format!(
        "Below is a passage of a document. Think of this search: {task}.\n\
         Write the query with which this passage would be searched for by a person who has not seen it.\n\
         \n\
         The query\n\
         - is {form};\n\
         - has {length};\n\
         - is {clarity};\n\
         - takes {level} to understand;\n\
         - is written in the language of the passage;\n\
         - can be understood by itself: it names what it is about, and does not speak of a passage, text or document;\n\
         - takes no more than three words in a row from the passage, names and numbers aside.\n\
         \n\
         Write a hard negative as well: a text about as long as the passage that shares words with the query and looks as \
         if it answered it, but does not.\n\
         \n\
         Answer with one JSON object and nothing else: {{\"query\": \"…\", \"hard_negative\": \"…\"}}\n\
         \n\
         {from}The passage:\n\
         <<<\n\
         {}\n\
         >>>",
        passage.text.trim()
    );
    Ok((task, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage<'a>(id: &'a str, text: &'a str) -> Passage<'a> {
        Passage { id, title: None, span: (3, 9), text }
    }

    #[test]
    fn an_id_says_where_the_passage_stands_and_what_it_said() {
        let text = passage("a-b-0", "the passage").prompt_id();
        let id = PromptId::parse(&text).unwrap();
        assert_eq!((id.span.clone(), &*id.id), (3..9, "a-b-0"));
        assert!(id.fits("the passage") && !id.fits("the Passage"));
        assert_ne!(passage("b", "the passage").prompt_id().split('-').nth(2), text.split('-').nth(2));
        let whole = "3-9-0123456789abcdef-";
        for foreign in ["", "1", "9-3-0123456789abcdef-a", "3-9-012-a", whole, "x-9-0123456789abcdef-a"] {
            assert_eq!(PromptId::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn prompts_differ_and_a_seed_repeats_them() {
        let made = |seed, style| -> Vec<(String, String)> {
            let ids: Vec<String> = (0..200).map(|n| format!("d{n}")).collect();
            ids.iter().map(|id| prompt(&passage(id, "Some text."), style, seed).unwrap()).collect()
        };
        assert_eq!(made(1, Style::Mixed), made(1, Style::Mixed));
        assert_ne!(made(1, Style::Mixed), made(2, Style::Mixed));
        let tasks: std::collections::HashSet<String> =
            made(1, Style::Mixed).into_iter().map(|m| m.0).collect();
        assert!(tasks.len() > 40, "{}", tasks.len());
        let share = |words: &str| made(1, Style::Mixed).iter().filter(|m| m.1.contains(words)).count();
        let counts = ["is a question;", "not a sentence;", "not a question;"].map(share);
        assert_eq!(counts.iter().sum::<usize>(), 200);
        assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
        assert!(made(1, Style::Claim).iter().all(|m| m.1.contains("is a statement, not a question;")));
        assert!(prompt(&passage("a", " "), Style::Claim, 0).is_err());
    }

    #[test]
    fn the_title_stands_above_the_passage() {
        let with = Passage { title: Some("Harbours"), ..passage("a", "Some text.") };
        let (_, text) = prompt(&with, Style::Question, 0).unwrap();
        assert!(text.contains("It stands in: Harbours\nThe passage:\n<<<\nSome text.\n>>>"));
    }
}

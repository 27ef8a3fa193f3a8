//! Pairs out of the documents alone, where nobody has clicked yet.
//!
//! Four kinds, each a thing that people might type and the document that they would want for it:
//!
//! | kind | query | what it should find |
//! |---|---|---|
//! | title | the title | the document's text |
//! | heading | the heading of a section, after the title if it is short | the section |
//! | sentence | a sentence | the title and its neighbours, without the sentence itself (inverse cloze task) |
//! | words | a few of its words, in their order | the document |
//!
//! Sentences follow Lee, Chang and Toutanova, *Latent Retrieval for Weakly Supervised Open Domain Question Answering*
//! (2019, arXiv:1906.00300); that a text is to be known again by a few of its words is the idea of Wang, Reimers and
//! Gurevych, *TSDAE* (2021, arXiv:2104.06979), with a ranking instead of a decoder. Both together help where one alone
//! harms: sentences teach what belongs together, words teach that names count.
//!
//! Invariants: the same documents in the same order and the same seed give the same pairs; what is drawn from a document
//! depends on the seed and its id, not on the others, unless they say the same; no more than
//! [`StructureOptions::most`] pairs, and no more of a document than [`StructureOptions::per_document`].

mod parse;
mod passage;

use std::collections::{BinaryHeap, HashMap, HashSet};

use self::parse::{Section, sections, sentences};
use self::passage::{around, beginning, contains_folded, scattered, tidy};
use super::rng::Rng;
use super::split::{query_key, target_key};

/// Texts that are remembered to find repetitions; beyond them nothing new is drawn. As many as a hash map holds in 2²⁴
/// places, of which it fills seven eighths: of 16 bytes for key and number and one of its own each, 285 MB, and half as much
/// again while it grows to them.
const KEYS_MOST: usize = (1 << 24) / 8 * 7;
/// Stands for several documents.
const SEVERAL: u32 = u32::MAX;

/// A document to draw pairs from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StructureSource {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: Option<String>,
    /// Its text.
    pub text: String,
}

/// Where the query of a pair comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StructureKind {
    /// The document's title.
    Title,
    /// The heading of a section.
    Heading,
    /// A sentence of the text.
    Sentence,
    /// A few words of the text, in their order.
    Words,
}

impl StructureKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Title, Self::Heading, Self::Sentence, Self::Words];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Title => "titles",
            Self::Heading => "headings",
            Self::Sentence => "sentences",
            Self::Words => "words",
        }
    }

    /// Whether people search by such: nobody types a sentence of the document that he looks for.
    pub fn is_asked(self) -> bool {
        self != Self::Sentence
    }
}

/// A query that was made of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructurePair {
    /// Where the query comes from.
    pub kind: StructureKind,
    /// The query.
    pub query: String,
    /// Id of the document that it should find.
    pub id: String,
    /// The part of the text that answers, without the query itself; `None`: the whole document.
    pub passage: Option<String>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct StructureOptions {
    /// Seed of the draws.
    pub seed: u64,
    /// The kinds.
    pub kinds: Vec<StructureKind>,
    /// Pairs of one document, at most.
    pub per_document: usize,
    /// Pairs in all, at most.
    pub most: usize,
    /// Words of a query, at least.
    pub words_least: usize,
    /// Words of a query, at most.
    pub words_most: usize,
    /// Words of a query of [`StructureKind::Words`], at most; nor are they more than half of the document's.
    pub scattered_most: usize,
    /// Words of what it should find, at least.
    pub passage_least: usize,
    /// Bytes of a passage, at most, the title before it aside; it is cut at a sentence.
    pub passage_bytes: usize,
    /// Share of letters among the characters of a query that are no white space, at least.
    pub letters: f64,
}

impl Default for StructureOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            kinds: vec![
                StructureKind::Title,
                StructureKind::Heading,
                StructureKind::Sentence,
                StructureKind::Words,
            ],
            per_document: 4,
            most: 20_000,
            words_least: 4,
            words_most: 32,
            scattered_most: 10,
            passage_least: 8,
            passage_bytes: 1_200,
            letters: 0.6,
        }
    }
}

/// How many pairs of each kind there are, and what became of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StructureReport {
    /// Documents read.
    pub documents: usize,
    /// Pairs whose query is a title.
    pub titles: usize,
    /// A heading.
    pub headings: usize,
    /// A sentence.
    pub sentences: usize,
    /// Some words.
    pub words: usize,
    /// Left out: too few or too many words, or next to nothing that it could find.
    pub unfit: usize,
    /// Left out: mostly digits or signs.
    pub no_words: usize,
    /// Left out: the same text stands in several documents, or several times in one.
    pub repeated: usize,
    /// Left out: the passage says nearly the same.
    pub alike: usize,
    /// Left out: more than were wanted.
    pub beyond: usize,
}

impl StructureReport {
    /// What was drawn and what was left out, for the user.
    pub fn notes(&self) -> Vec<String> {
        let drawn = format!(
            "pairs from the structure of {} documents: {} from titles, {} from headings, {} from sentences, {} from words",
            self.documents, self.titles, self.headings, self.sentences, self.words
        );
        let left_out = format!(
            "left out: {} too short or too long, {} without enough letters, {} that several documents say, {} that their \
             passage repeats, {} beyond the bounds",
            self.unfit, self.no_words, self.repeated, self.alike, self.beyond
        );
        vec![drawn, left_out]
    }

    fn count(&mut self, kind: StructureKind) {
        match kind {
            StructureKind::Title => self.titles += 1,
            StructureKind::Heading => self.headings += 1,
            StructureKind::Sentence => self.sentences += 1,
            StructureKind::Words => self.words += 1,
        }
    }
}

/// Draws pairs from documents. They come in an order that depends on the seed alone, so that a first part of them is a
/// fair sample.
pub fn structure_pairs(
    documents: impl IntoIterator<Item = StructureSource>,
    options: &StructureOptions,
) -> (Vec<StructurePair>, StructureReport) {
    let mut draw = Draw::new(options);
    for (number, document) in documents.into_iter().enumerate() {
        draw.take(&document, number.min(SEVERAL as usize - 1) as u32);
    }
    draw.finish()
}

/// A pair in waiting: the least orders stay.
struct Waiting {
    order: u64,
    key: u64,
    pair: StructurePair,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.order, self.key, &self.pair.id).cmp(&(other.order, other.key, &other.pair.id))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

struct Draw<'a> {
    options: &'a StructureOptions,
    report: StructureReport,
    /// The document in which a text stands, by the text's key.
    places: HashMap<u64, u32>,
    waiting: BinaryHeap<Waiting>,
}

impl<'a> Draw<'a> {
    fn new(options: &'a StructureOptions) -> Self {
        let report = StructureReport::default();
        Self { options, report, places: HashMap::new(), waiting: BinaryHeap::new() }
    }

    /// Draws from a document.
    fn take(&mut self, document: &StructureSource, number: u32) {
        self.report.documents += 1;
        let mut rng = Rng::new(self.options.seed ^ target_key(&document.id));
        let mut found = candidates(document, self.options, &mut rng);
        let mut own = HashSet::new();
        found.retain(|pair| {
            let fits = self.admit(pair, number, &mut own);
            fits && self.options.kinds.contains(&pair.kind)
        });
        // One of each kind first, then the next of each.
        let turns = turns(&found, &mut rng);
        for (turn, mut pair) in turns.into_iter().zip(found) {
            if turn >= self.options.per_document {
                self.report.beyond += 1;
                continue;
            }
            // As documents are encoded: the title before the text.
            if let (StructureKind::Sentence, Some(passage)) = (pair.kind, &mut pair.passage)
                && let Some(title) = document.title.as_deref().map(tidy).filter(|title| !title.is_empty())
            {
                passage.insert_str(0, &format!("{title}\n"));
            }
            let (order, key) = (rng.bits(), query_key(&pair.query));
            self.waiting.push(Waiting { order, key, pair });
            // Repetitions that come later take some away again.
            if self.waiting.len() > self.options.most.saturating_mul(2) {
                self.waiting.pop();
                self.report.beyond += 1;
            }
        }
    }

    /// Whether a query may be drawn, as far as is known now; all that is seen is remembered.
    fn admit(&mut self, pair: &StructurePair, number: u32, own: &mut HashSet<u64>) -> bool {
        let key = query_key(&pair.query);
        if !own.insert(key) {
            self.report.repeated += 1;
            return false;
        }
        let full = self.places.len() >= KEYS_MOST;
        match self.places.get_mut(&key) {
            Some(place) => {
                *place = SEVERAL;
                self.report.repeated += 1;
                return false;
            }
            None if full => {
                self.report.beyond += 1;
                return false;
            }
            None => {
                self.places.insert(key, number);
            }
        }
        let verdict = fit(pair, self.options);
        match verdict {
            Fit::Yes => {}
            Fit::Length => self.report.unfit += 1,
            Fit::Letters => self.report.no_words += 1,
            Fit::Alike => self.report.alike += 1,
        }
        verdict == Fit::Yes
    }

    fn finish(mut self) -> (Vec<StructurePair>, StructureReport) {
        let mut pairs = Vec::new();
        for waiting in self.waiting.into_sorted_vec() {
            if self.places.get(&waiting.key) == Some(&SEVERAL) {
                self.report.repeated += 1;
            } else if pairs.len() >= self.options.most {
                self.report.beyond += 1;
            } else {
                self.report.count(waiting.pair.kind);
                pairs.push(waiting.pair);
            }
        }
        (pairs, self.report)
    }
}

/// For each pair its turn among those of its document: kinds take turns, and chance orders both kinds and those of a kind.
fn turns(pairs: &[StructurePair], rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    rng.shuffle(&mut order);
    let mut of_kind: HashMap<StructureKind, usize> = HashMap::new();
    let mut kinds = StructureKind::ALL;
    rng.shuffle(&mut kinds);
    let mut keyed: Vec<(usize, usize, usize)> = Vec::with_capacity(pairs.len());
    for at in order {
        let Some(kind) = pairs.get(at).map(|pair| pair.kind) else { continue };
        let count = of_kind.entry(kind).or_default();
        let rank = kinds.iter().position(|&other| other == kind).unwrap_or_default();
        keyed.push((*count, rank, at));
        *count += 1;
    }
    keyed.sort_unstable();
    let mut turns = vec![0; pairs.len()];
    for (turn, (_, _, at)) in keyed.into_iter().enumerate() {
        if let Some(slot) = turns.get_mut(at) {
            *slot = turn;
        }
    }
    turns
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    Length,
    Letters,
    Alike,
}

/// Whether a query says something that its passage does not.
fn fit(pair: &StructurePair, options: &StructureOptions) -> Fit {
    let words = pair.query.split_whitespace().count();
    let passage = pair.passage.as_deref().unwrap_or_default();
    if words < options.words_least
        || words > options.words_most
        || pair.passage.is_some() && passage.split_whitespace().count() < options.passage_least
    {
        return Fit::Length;
    }
    let (mut letters, mut all) = (0usize, 0usize);
    for c in pair.query.chars().filter(|c| !c.is_whitespace()) {
        letters += usize::from(c.is_alphabetic());
        all += 1;
    }
    if (letters as f64) < all as f64 * options.letters {
        return Fit::Letters;
    }
    let repeats = passage.len() >= pair.query.len() && contains_folded(passage, &pair.query);
    if repeats { Fit::Alike } else { Fit::Yes }
}

/// All that a document offers, before anything is left out.
fn candidates(document: &StructureSource, options: &StructureOptions, rng: &mut Rng) -> Vec<StructurePair> {
    let pair = |kind, query: String, passage| StructurePair { kind, query, id: document.id.clone(), passage };
    let mut found = Vec::new();
    let title = document.title.as_deref().map(tidy).filter(|title| !title.is_empty());
    if let Some(title) = &title {
        let passage = beginning(&document.text, options.passage_bytes);
        found.push(pair(StructureKind::Title, title.clone(), Some(passage)));
    }
    for Section { heading, body } in sections(&document.text) {
        let mut query = tidy(heading);
        if let (Some(title), true) = (&title, query.split_whitespace().count() < options.words_least) {
            query = format!("{title}: {query}");
        }
        found.push(pair(StructureKind::Heading, query, Some(beginning(body, options.passage_bytes))));
    }
    let all = sentences(&document.text);
    if options.kinds.contains(&StructureKind::Sentence) && all.len() > 1 {
        for at in 0..all.len() {
            let passage = around(&document.text, &all, at, options.passage_bytes);
            let query = all.get(at).and_then(|range| document.text.get(range.clone())).unwrap_or_default();
            found.push(pair(StructureKind::Sentence, tidy(query), Some(passage)));
        }
    }
    if options.kinds.contains(&StructureKind::Words) {
        let words: Vec<&str> = document.text.split_whitespace().collect();
        let drawn = (0..options.per_document).filter_map(|_| scattered(&words, options, rng));
        found.extend(drawn.map(|words| pair(StructureKind::Words, words, None)));
    }
    found
}

#[cfg(test)]
mod tests;

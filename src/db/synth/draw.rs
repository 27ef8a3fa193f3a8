//! Which passages are asked about: documents in turn over the values of a metadata key that groups them, by chance within
//! each, and of every document chunks that say something.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::DrawReport;
use crate::db::encoders::{Encoder, chunk_document};
use crate::db::snapshot::{Place, Snapshot};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::trainer::synth::prompt::Passage;
use crate::trainer::synth::shuffled;
use crate::trainer::{query_key, target_key};

/// Documents whose metadata are looked at, at least; of more, so many are drawn by chance.
const LOOKED_AT: usize = 20_000;
/// Documents that a group has on average, at least, or it groups nothing.
const GROUP_LEAST: usize = 4;
/// Words of a passage, at least.
const WORDS_LEAST: usize = 8;
/// Bytes of a passage, at most: what models that read whole books call one chunk.
const BYTES_MOST: usize = 8 << 10;

/// Which passages are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawOptions {
    /// Passages.
    pub count: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Passages of one document, at most.
    pub per_document: usize,
}

impl Default for DrawOptions {
    fn default() -> Self {
        Self { count: 1_000, seed: 0, per_document: 1 }
    }
}

pub(super) struct Draw<'a> {
    pub snapshot: &'a Snapshot,
    pub encoder: &'a Encoder,
    pub options: &'a DrawOptions,
    pub task: &'a Task,
}

impl Draw<'_> {
    pub fn run(&self, stage: &str, mut take: impl FnMut(&Passage<'_>) -> Result<()>) -> Result<DrawReport> {
        let (order, by) = self.order()?;
        let mut report = DrawReport { by, ..DrawReport::default() };
        let mut seen = HashSet::new();
        for place in order {
            if report.prompts >= self.options.count {
                break;
            }
            let before = report.prompts;
            let document = self.snapshot.document(place)?;
            let chunks = chunk_document(self.encoder, &document)?;
            let mut left = self.options.per_document.min(self.options.count - report.prompts);
            for at in shuffled(chunks.len(), self.options.seed ^ target_key(&document.id)) {
                let Some([start, end]) = chunks.get(at).map(|chunk| chunk.span).filter(|_| left > 0) else {
                    break;
                };
                let text = document.text.get(start as usize..end as usize).unwrap_or_default();
                let cut = text.floor_char_boundary(BYTES_MOST);
                let (text, span) = (text.get(..cut).unwrap_or_default(), (start, start + cut as u32));
                if !says_something(text) || !seen.insert(query_key(text)) {
                    continue;
                }
                self.task.step(stage, report.prompts as u64, self.options.count as u64)?;
                take(&Passage { id: &document.id, title: document.title.as_deref(), span, text })?;
                report.prompts += 1;
                left -= 1;
            }
            report.documents += usize::from(report.prompts > before);
        }
        if report.prompts < self.options.count {
            report.notes.push(format!(
                "{} passages instead of {}: there are no more that are {WORDS_LEAST} words or longer and not said before",
                report.prompts, self.options.count
            ));
        }
        Ok(report)
    }

    /// Documents in the order in which they are asked about, and the key by which they take turns.
    fn order(&self) -> Result<(Vec<Place>, Option<String>)> {
        let mut places = Vec::with_capacity(self.snapshot.count() as usize);
        for (part, of) in self.snapshot.parts.iter().enumerate() {
            places.extend(of.live_documents().map(|document| Place { part: part as u32, document }));
        }
        if places.is_empty() {
            return Err(Error::input("the database is empty: there is nothing to ask about"));
        }
        let look = LOOKED_AT.max(self.options.count.saturating_mul(2));
        let order = shuffled(places.len(), self.options.seed);
        // The rest follows as it is: whoever wants nearly all wants no groups.
        let places: Vec<Place> = order.into_iter().filter_map(|at| places.get(at).copied()).collect();
        let (looked_at, rest) = places.split_at(look.min(places.len()));
        let mut values: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        for (number, &place) in looked_at.iter().enumerate() {
            self.task.step("read", number as u64, looked_at.len() as u64)?;
            for (key, value) in self.snapshot.document(place)?.meta {
                if let Value::String(value) = value {
                    let column = values.entry(key).or_default();
                    column.resize(number, None);
                    column.push(Some(value));
                }
            }
        }
        let Some((key, column)) = grouping(values, looked_at.len()) else { return Ok((places, None)) };
        let mut order = in_turn(looked_at, column);
        order.extend(rest);
        Ok((order, Some(key)))
    }
}

/// The key with the most values, of those that divide the documents into groups.
fn grouping(
    columns: BTreeMap<String, Vec<Option<String>>>,
    documents: usize,
) -> Option<(String, Vec<Option<String>>)> {
    let groups = |column: &[Option<String>]| -> usize {
        let present: Vec<&String> = column.iter().flatten().collect();
        let distinct: BTreeSet<&String> = present.iter().copied().collect();
        let most = documents / GROUP_LEAST;
        if present.len() * 2 >= documents && (2..=most).contains(&distinct.len()) {
            distinct.len()
        } else {
            0
        }
    };
    let counted = columns.into_iter().map(|(key, column)| (groups(&column), key, column));
    let best = counted.filter(|(count, _, _)| *count > 0).max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    best.map(|(_, key, column)| (key, column))
}

/// One document of each group, then the next of each; those without a value are a group of their own.
fn in_turn(places: &[Place], mut column: Vec<Option<String>>) -> Vec<Place> {
    column.resize(places.len(), None);
    let mut turns: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut keyed: Vec<(usize, usize)> = Vec::with_capacity(places.len());
    for (number, value) in column.into_iter().enumerate() {
        let turn = turns.entry(value).or_default();
        keyed.push((*turn, number));
        *turn += 1;
    }
    keyed.sort_unstable();
    keyed.into_iter().filter_map(|(_, number)| places.get(number).copied()).collect()
}

/// Whether there is something to ask about.
fn says_something(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let all = text.chars().filter(|c| !c.is_whitespace()).count();
    text.split_whitespace().count() >= WORDS_LEAST && letters * 2 > all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(of: &[(&str, &[&str])]) -> BTreeMap<String, Vec<Option<String>>> {
        let column = |values: &[&str]| {
            values.iter().map(|value| Some((*value).to_owned()).filter(|value| !value.is_empty())).collect()
        };
        of.iter().map(|(key, values)| ((*key).to_owned(), column(values))).collect()
    }

    #[test]
    fn the_finest_key_that_groups_is_taken() {
        let many = columns(&[
            ("author", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]),
            ("kind", &["x", "x", "y", "y", "z", "z", "x", "x", "y", "y", "z", "z"]),
            ("lang", &["en", "en", "en", "en", "en", "en", "en", "en", "de", "de", "de", "de"]),
            ("rare", &["q", "", "", "", "", "", "", "", "", "", "", "r"]),
            ("same", &["s"; 12]),
        ]);
        assert_eq!(grouping(many, 12).unwrap().0, "kind");
        assert!(grouping(columns(&[("same", &["s"; 12])]), 12).is_none());
        assert!(grouping(BTreeMap::new(), 12).is_none());
    }

    #[test]
    fn groups_take_turns_however_large_they_are() {
        let places: Vec<Place> = (0..7).map(|document| Place { part: 0, document }).collect();
        let column = ["a", "a", "a", "a", "b"].map(|value| Some(value.to_owned())).to_vec();
        let order: Vec<u32> = in_turn(&places, column).iter().map(|place| place.document).collect();
        assert_eq!(order, [0, 4, 5, 1, 6, 2, 3]);
    }

    #[test]
    fn tables_and_scraps_are_not_asked_about() {
        assert!(says_something("A passage with eight words in it, or more."));
        assert!(!says_something("A passage with few words"));
        assert!(!says_something("1 2 3 4 5 6 7 8 9 10 11 12 one"));
    }
}

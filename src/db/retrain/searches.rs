//! The searches of a log as judges: what their searchers may have wanted of what two generations find.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::corpus::best_cosine;
use super::exam::View;
use super::{FOLDS, Run, keyed};
use crate::encoder::Role;
use crate::error::Result;
use crate::trainer::choice::{Search, Seen, Text};
use crate::trainer::metrics::discount;
use crate::trainer::{
    self, ClickOptions, Judged, Keyed, LoggedQuery, Split, SplitOptions, TooLittle, crowd, query_key,
};

/// Searches for one text that judge: the latest.
const MOST_SEARCHES: usize = 20;
/// Documents at the top of each ranking that may have been wanted.
const DEEP: usize = 100;
/// Ranks that count.
const DEPTH: usize = 10;

/// A query text with the searches for it that count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Searched {
    #[serde(rename = "searched")]
    pub text: String,
    /// Its [`query_key`].
    pub key: [u64; 1],
    /// When it was first searched for, in microseconds since 1970.
    pub time: u64,
    /// The latest [`MOST_SEARCHES`].
    searches: Vec<Page>,
}

/// What one search showed, and what of it was clicked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Page {
    /// The bits of its weight.
    weight: u64,
    shown: Vec<String>,
    clicked: Vec<String>,
}

/// The texts of a log, in the order of their keys.
pub(super) fn searched(mut queries: Vec<LoggedQuery>, options: &ClickOptions) -> Vec<Searched> {
    queries.sort_by_key(|query| Reverse(query.time));
    let (weights, _) = crowd::weights(&queries, options.half_life);
    let mut texts: HashMap<u64, Searched> = HashMap::new();
    for (query, weight) in queries.into_iter().zip(weights) {
        let empty = query.shown.is_empty() && query.clicks.is_empty();
        if weight <= 0.0 || empty || query.text.trim().is_empty() {
            continue;
        }
        let key = query_key(&query.text);
        let (text, time) = (query.text.clone(), query.time);
        let new = || Searched { text, key: [key], time, searches: Vec::new() };
        let of_text = texts.entry(key).or_insert_with(new);
        of_text.time = of_text.time.min(time);
        if of_text.searches.len() < MOST_SEARCHES {
            let mut clicked: Vec<String> = query.clicks.iter().map(|click| click.id.clone()).collect();
            clicked.sort_unstable();
            clicked.dedup();
            clicked.retain(|id| query.clicked(id));
            of_text.searches.push(Page { weight: weight.to_bits(), shown: query.shown, clicked });
        }
    }
    let mut texts: Vec<Searched> = texts.into_values().collect();
    texts.sort_unstable_by_key(|text| text.key);
    texts
}

impl Page {
    /// What stood above the lowest click.
    fn above_click(&self) -> &[String] {
        let lowest = self.shown.iter().rposition(|id| self.clicked.contains(id)).unwrap_or(0);
        self.shown.get(..lowest).unwrap_or_default()
    }
}

impl Searched {
    /// Leaves out searches that led to documents of which none is stored any more; false if no search is left.
    pub fn keep_known(&mut self, known: &HashSet<&str>) -> bool {
        let led = |page: &Page| {
            page.clicked.is_empty() || page.clicked.iter().any(|id| known.contains(id.as_str()))
        };
        self.searches.retain(led);
        !self.searches.is_empty()
    }

    /// The text with what was clicked.
    pub fn judged(&self) -> Judged {
        let clicked = self.searches.iter().flat_map(|page| &page.clicked);
        let grades = clicked.map(|id| (id.clone(), 1.0)).collect();
        Judged { query: self.text.clone(), grades, weight: 1.0 }
    }

    /// What its searchers saw and passed over: it stood above a click and was not clicked in any search.
    pub fn passed_over(&self) -> HashSet<&str> {
        let clicked: HashSet<&str> =
            self.searches.iter().flat_map(|page| &page.clicked).map(String::as_str).collect();
        let seen = self.searches.iter().flat_map(Page::above_click).map(String::as_str);
        seen.filter(|id| !clicked.contains(id)).collect()
    }

    pub fn keyed(&self) -> Keyed<'_> {
        Keyed { keys: &self.key, class: 0, time: self.time }
    }
}

/// Documents of a text by the number that each has there.
#[derive(Default)]
struct Numbers {
    documents: Vec<u32>,
    known: HashMap<u32, usize>,
}

impl Numbers {
    fn of(&mut self, document: u32) -> usize {
        *self.known.entry(document).or_insert_with(|| {
            self.documents.push(document);
            self.documents.len() - 1
        })
    }
}

/// A generation's rankings of some texts.
struct Rankings<'a> {
    view: &'a View<'a>,
    /// Vectors of the texts.
    queries: Vec<f32>,
    /// The best [`DEEP`] documents of each.
    deep: Vec<Vec<u32>>,
    /// For each rung the best [`DEPTH`] of each.
    rungs: Vec<Vec<Vec<u32>>>,
}

impl Run<'_> {
    /// What is trained on, and what judges: examples, or of a log texts by their numbers.
    pub(super) fn split(&self) -> std::result::Result<Split, TooLittle> {
        let (shape, options) = (self.material.shape, SplitOptions::default());
        let examples = self.keyed();
        let split = trainer::split_shape(
            shape,
            examples.get(..self.material.examples.len()).unwrap_or_default(),
            &options,
        )?;
        if self.searched.is_empty() {
            return Ok(split);
        }
        Ok(self.by_searches(trainer::split_shape(shape, &examples, &options)?))
    }

    /// The same [`FOLDS`] times, such that everything judges once.
    pub(super) fn folds(&self) -> Vec<Split> {
        trainer::folds(&self.keyed(), FOLDS).into_iter().map(|split| self.by_searches(split)).collect()
    }

    /// Examples, and after them the texts of the log.
    fn keyed(&self) -> Vec<Keyed<'_>> {
        let example = |example| keyed(example);
        self.material.examples.iter().map(example).chain(self.searched.iter().map(Searched::keyed)).collect()
    }

    /// A division of both: examples are trained on, texts judge. Those of one text are on the same side.
    fn by_searches(&self, split: Split) -> Split {
        let examples = self.material.examples.len();
        if self.searched.is_empty() {
            return split;
        }
        let train = split.train.into_iter().filter(|&number| number < examples).collect();
        let texts = |numbers: Vec<usize>| {
            numbers.into_iter().filter_map(|number| number.checked_sub(examples)).collect()
        };
        let (held_out, older) = (texts(split.held_out), texts(split.older));
        Split { train, held_out, older, ..split }
    }

    /// Encodes texts that judge, by their numbers, if a log does.
    pub(super) fn read_searched(&mut self, numbers: &[usize]) -> Result<()> {
        let texts =
            numbers.iter().filter_map(|&number| self.searched.get(number)).map(|text| text.text.as_str());
        self.material.vectors.encode(&self.encoder, texts, Role::Query, &self.options.task)
    }

    /// What the searchers of these texts, by their numbers, may have wanted, ranked as by the generation that answers and
    /// by the candidate.
    pub(super) fn choices(
        &self,
        numbers: &[usize],
        candidate: &View<'_>,
        rungs: &[usize],
    ) -> Result<Vec<Text>> {
        let texts: Vec<&Searched> = numbers.iter().filter_map(|&number| self.searched.get(number)).collect();
        let current = View { candidate: None, rows: &self.corpus.rows, documents: &self.corpus.document_of };
        let both = [self.rankings(&texts, &current, rungs)?, self.rankings(&texts, candidate, rungs)?];
        let by_id: HashMap<&str, u32> = self.corpus.ids.iter().map(String::as_str).zip(0..).collect();
        Ok(texts.iter().enumerate().map(|(at, text)| self.choice((at, text), &both, &by_id)).collect())
    }

    fn rankings<'a>(&self, texts: &[&Searched], view: &'a View<'a>, rungs: &[usize]) -> Result<Rankings<'a>> {
        let dim = self.encoder.dim();
        let names: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        let queries = self.seen(view, &names, Role::Query)?;
        let ranked = |rung, k| {
            self.options.task.step("judge", rung as u64, dim as u64)?;
            trainer::rank_exact(&queries, view.rows, view.documents, dim, rung, k)
        };
        let deep = ranked(dim, DEEP)?;
        let rungs = rungs.iter().map(|&rung| ranked(rung, DEPTH)).collect::<Result<_>>()?;
        Ok(Rankings { view, queries, deep, rungs })
    }

    /// One text, by its number in both rankings.
    fn choice(
        &self,
        (at, text): (usize, &Searched),
        both: &[Rankings<'_>; 2],
        by_id: &HashMap<&str, u32>,
    ) -> Text {
        let mut numbers = Numbers::default();
        let share = 1.0 / text.searches.len().max(1) as f64;
        let search = |page: &Page| Search {
            weight: share * f64::from_bits(page.weight),
            seen: seen(page, by_id, &mut numbers),
        };
        let searches = text.searches.iter().map(search).collect();
        for document in both.iter().filter_map(|ranking| ranking.deep.get(at)).flatten() {
            numbers.of(*document);
        }
        let dim = self.encoder.dim();
        let scores =
            numbers.documents.iter().map(|&document| both.each_ref().map(|r| r.score(at, document, dim)));
        let scores = scores.collect();
        let rungs = both[0].rungs.iter().zip(&both[1].rungs);
        let discounts = rungs.map(|(before, after)| {
            let mut discounts = vec![[0.0; 2]; numbers.documents.len()];
            for (side, ranked) in [before, after].into_iter().enumerate() {
                for (rank, document) in ranked.get(at).into_iter().flatten().enumerate() {
                    if let Some(&number) = numbers.known.get(document) {
                        discounts[number][side] = discount(rank) as f32;
                    }
                }
            }
            discounts
        });
        Text { discounts: discounts.collect(), scores, searches }
    }
}

impl Rankings<'_> {
    /// Cosine of a text with a document: that of its nearest row.
    fn score(&self, at: usize, document: u32, dim: usize) -> f64 {
        let query = self.queries.get(at * dim..(at + 1) * dim).unwrap_or_default();
        // Rows stand in the order of their documents.
        let first = self.view.documents.partition_point(|&d| d < document);
        let count = self.view.documents.iter().skip(first).take_while(|&&d| d == document).count();
        let rows = self.view.rows.get(first * dim..(first + count) * dim).unwrap_or_default();
        best_cosine(query, rows)
    }
}

/// What a search showed and what was clicked, of documents that are still stored.
fn seen(page: &Page, by_id: &HashMap<&str, u32>, numbers: &mut Numbers) -> Vec<Seen> {
    let clicked: HashSet<&str> = page.clicked.iter().map(String::as_str).collect();
    let shown = page.shown.iter().enumerate().map(|(position, id)| (id.as_str(), Some(position)));
    let off_page = page.clicked.iter().map(|id| (id.as_str(), None));
    let mut known = HashSet::new();
    let stored = shown.chain(off_page).filter(|(id, _)| known.insert(*id)).filter_map(|(id, position)| {
        let document = numbers.of(*by_id.get(id)?);
        Some(Seen { document, position, clicked: clicked.contains(id) })
    });
    stored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_above_a_click_and_was_never_clicked_was_passed_over() {
        let page = |shown: &[&str], clicked: &[&str]| {
            let names = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
            Page { weight: 1.0f64.to_bits(), shown: names(shown), clicked: names(clicked) }
        };
        let searches = vec![
            page(&["a", "b", "c", "d"], &["c"]),
            page(&["e", "b"], &["b"]),
            page(&["f", "g"], &[]),
            page(&["h", "i"], &["elsewhere"]),
        ];
        let text = Searched { text: "q".into(), key: [1], time: 1, searches };
        assert_eq!(text.passed_over(), HashSet::from(["a", "e"]));
    }
}

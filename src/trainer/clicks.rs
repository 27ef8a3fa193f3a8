//! From logged searches and clicks to training pairs.
//!
//! - **Who counts.** Robots, floods and age: [`crowd`](mod@super::crowd) gives each search its weight.
//! - **Evidence.** All searches, also those without clicks, tell how probably each document was wanted: by the scores of
//!   the generation that answers, by where it stood, and by whether it was clicked ([`choice`]). A click
//!   where hardly anybody looks says more than one at the top, and one click in ten showings says little.
//! - **Weight.** The square of that probability, in the mean of a text's searches: a wrong pair harms more than a right one
//!   helps. In simulations (4,662 financial questions, `tools/click-sim`) .0342, .0246 and .0249 NDCG@10 were gained at η 0, 1
//!   and 2 where the probability itself, and half the least share below, gained .0255, .0208 and .0220. It is not divided by
//!   how probably the document was looked at (inverse propensity: Joachims, Swaminathan and Schnabel: Unbiased
//!   Learning-to-Rank with Biased Feedback, 2017), which made training worse: .029 against .034 on a financial corpus.
//!   Whoever uses weights divides by their sum.
//! - **Repetition.** Clicks on one document for the same query text make one pair.
//! - **Floods.** A query text keeps at most [`MAX_TARGETS`] documents, those most probably wanted.
//! - **Retraction.** The latest grade counts; one that is not above zero withdraws the click.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::bias::{PositionBias, estimate_weighted};
use super::choice::{self, Search, Seen};
use super::crowd::{self, Cut};
use super::data::{Pair, Target};
use super::split::query_key;

/// Documents kept for one query text.
pub const MAX_TARGETS: usize = 10;
/// Less probably wanted than this, a clicked document makes no pair …
pub const LEAST_PROBABLE: f64 = 0.03;
/// … nor with less than this share of what its text's most probable one has: it stays a negative.
pub const LEAST_SHARE: f64 = 0.4;

/// A click on a document of a logged search.
#[derive(Debug, Clone, PartialEq)]
pub struct Click {
    /// Id of the document.
    pub id: String,
    /// How good it was; 1 for a plain click, 0 or less withdraws an earlier one.
    pub grade: f32,
    /// When, in microseconds since 1970.
    pub time: u64,
}

/// A logged search with what was shown and clicked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoggedQuery {
    /// Identity of the search.
    pub query_id: String,
    /// What was searched for.
    pub text: String,
    /// When, in microseconds since 1970.
    pub time: u64,
    /// Generation that answered.
    pub generation: u32,
    /// Ids of the documents shown, by rank.
    pub shown: Vec<String>,
    /// For each of them how likely it was to stand at its rank; 1 where the ranking decided. Empty if it decided all.
    pub propensities: Vec<f32>,
    /// Who searched, where that is known.
    pub client: Option<String>,
    /// Clicks, in any order.
    pub clicks: Vec<Click>,
}

impl LoggedQuery {
    /// Whether a document was clicked: by its last grade, which must be above zero.
    pub fn clicked(&self, id: &str) -> bool {
        let grades = self.clicks.iter().filter(|click| click.id == id && click.grade.is_finite());
        grades.max_by_key(|click| click.time).is_some_and(|click| click.grade > 0.0)
    }
}

/// How a log is learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClickOptions {
    /// A search older than the newest by this counts half; without it, age does not matter.
    pub half_life: Option<Duration>,
}

/// What a log teaches.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FromLog {
    /// What queries should find, by the time of their first search.
    pub pairs: Vec<Pair>,
    /// Position bias.
    pub bias: PositionBias,
    /// Counts.
    pub report: ClickReport,
}

/// What [`pairs_from_log`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClickReport {
    /// Searches given.
    pub searches: usize,
    /// Clicks among them.
    pub clicks: usize,
    /// Clicks that repeat an earlier one of the same query text and document.
    pub repeated: usize,
    /// Query and document pairs withdrawn by their last grade.
    pub withdrawn: usize,
    /// Pairs dropped because the clicks look like accidents.
    pub improbable: usize,
    /// Pairs dropped because their query text had too many.
    pub flooded: usize,
    /// Searches and clients that count less.
    pub cut: Cut,
    /// Pairs made.
    pub pairs: usize,
}

/// The cosine of a query text with a document of this id, by the generation that answers; nothing if it is not known.
pub type Score<'a> = &'a dyn Fn(&str, &str) -> Option<f64>;

/// All that is known of one query text.
struct Text<'a> {
    text: &'a str,
    documents: Vec<(&'a str, Known)>,
    numbers: HashMap<&'a str, usize>,
    searches: Vec<Search>,
}

/// What is known of one document under one query text.
#[derive(Default)]
struct Known {
    clicks: usize,
    grade: f32,
    graded_at: u64,
    /// Time of the first search in which it was clicked.
    first: u64,
}

/// Makes pairs of clicks, ordered by the time of their first search. A document without a score was wanted as much, before
/// its clicks are seen, as the worst with one.
pub fn pairs_from_log(queries: &[LoggedQuery], options: &ClickOptions, score: Score<'_>) -> FromLog {
    let (weights, cut) = crowd::weights(queries, options.half_life);
    let bias = estimate_weighted(queries, &weights);
    let mut report = ClickReport { searches: queries.len(), cut, ..ClickReport::default() };
    let mut texts: HashMap<u64, Text<'_>> = HashMap::new();
    for (query, weight) in queries.iter().zip(weights).filter(|(query, _)| !query.text.trim().is_empty()) {
        report.clicks += query.clicks.iter().filter(|click| click.grade.is_finite()).count();
        if weight > 0.0 {
            texts.entry(query_key(&query.text)).or_insert_with(|| Text::new(&query.text)).note(query, weight);
        }
    }
    let mut texts: Vec<(u64, Text<'_>)> = texts.into_iter().collect();
    // Sums of floating-point numbers depend on their order.
    texts.sort_unstable_by_key(|(key, _)| *key);
    let texts: Vec<Text<'_>> = texts.into_iter().map(|(_, text)| text).collect();
    let probable = choice::wanted(&texts.iter().map(|text| text.choice(score)).collect::<Vec<_>>());
    let mut pairs = Vec::new();
    for (text, probable) in texts.into_iter().zip(probable) {
        pairs.append(&mut text.wanted(&probable, &mut report));
    }
    pairs.sort_unstable_by(|a, b| {
        (a.time, &a.query).cmp(&(b.time, &b.query)).then_with(|| target(a).cmp(target(b)))
    });
    report.pairs = pairs.len();
    FromLog { pairs, bias, report }
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, documents: Vec::new(), numbers: HashMap::new(), searches: Vec::new() }
    }

    /// The number of a document; a new one if it is new.
    fn number(&mut self, id: &'a str) -> usize {
        *self.numbers.entry(id).or_insert_with(|| {
            self.documents.push((id, Known::default()));
            self.documents.len() - 1
        })
    }

    /// Adds a search for the text.
    fn note(&mut self, query: &'a LoggedQuery, weight: f64) {
        let mut met = HashSet::new();
        let mut seen = Vec::new();
        for (position, id) in query.shown.iter().enumerate().filter(|(_, id)| met.insert(id.as_str())) {
            let (document, clicked) = (self.number(id), query.clicked(id));
            seen.push(Seen { document, position: Some(position), clicked });
        }
        for click in query.clicks.iter().filter(|click| click.grade.is_finite()) {
            let document = self.number(&click.id);
            if met.insert(&click.id) && query.clicked(&click.id) {
                seen.push(Seen { document, position: None, clicked: true });
            }
            let Some((_, known)) = self.documents.get_mut(document) else { continue };
            known.first = if known.clicks == 0 { query.time } else { known.first.min(query.time) };
            known.clicks += 1;
            if click.time >= known.graded_at {
                (known.grade, known.graded_at) = (click.grade, click.time);
            }
        }
        self.searches.push(Search { weight, seen });
    }

    /// What its searchers may have wanted: what they were shown or clicked. A text tells as much as a single search.
    fn choice(&self, score: Score<'_>) -> choice::Text {
        let known: Vec<Option<f64>> = self.documents.iter().map(|(id, _)| score(self.text, id)).collect();
        let worst = known.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let worst = if worst.is_finite() { worst } else { 0.0 };
        let share = 1.0 / self.searches.len().max(1) as f64;
        let search = |search: &Search| Search { weight: share * search.weight, seen: search.seen.clone() };
        choice::Text {
            scores: known.into_iter().map(|score| [score.unwrap_or(worst), 0.0]).collect(),
            discounts: Vec::new(),
            searches: self.searches.iter().map(search).collect(),
        }
    }

    /// The pairs, given how probably each document was wanted.
    fn wanted(self, probable: &[f64], report: &mut ClickReport) -> Vec<Pair> {
        let clicked = probable.iter().copied().zip(self.documents).filter(|(_, (_, known))| known.clicks > 0);
        let mut found: Vec<(f64, (&str, Known))> = clicked.collect();
        report.repeated += found.iter().map(|(_, (_, known))| known.clicks - 1).sum::<usize>();
        let before = found.len();
        found.retain(|(_, (_, known))| known.grade > 0.0);
        report.withdrawn += before - found.len();
        let before = found.len();
        let most = found.iter().map(|(probable, _)| *probable).fold(0.0, f64::max);
        found.retain(|(probable, _)| *probable >= LEAST_PROBABLE.max(LEAST_SHARE * most));
        report.improbable += before - found.len();
        found.sort_by(|(p, (_, a)), (q, (_, b))| q.total_cmp(p).then(a.first.cmp(&b.first)));
        report.flooded += found.len().saturating_sub(MAX_TARGETS);
        let pair = |(probable, (id, known)): (f64, (&str, Known))| Pair {
            query: self.text.to_owned(),
            positive: Target::Id(id.to_owned()),
            weight: (probable * probable) as f32 * known.grade.min(1.0),
            time: known.first,
        };
        found.into_iter().take(MAX_TARGETS).map(pair).collect()
    }
}

fn target(pair: &Pair) -> &str {
    match &pair.positive {
        Target::Text(text) | Target::Id(text) | Target::Passage { id: text, .. } => text,
    }
}

/// A query with the documents that it should find.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Text of the query.
    pub query: String,
    /// Grade of each relevant document, by id.
    pub grades: HashMap<String, f64>,
    /// How much the query judges: the mean weight of its pairs.
    pub weight: f64,
}

/// The judgements that pairs make, given as query, id of what it should find, and weight: one for each query text, in
/// their order. What was clicked is relevant with grade 1; how sure that is, is in the query's weight.
pub fn judgements<'p>(pairs: impl Iterator<Item = (&'p str, &'p str, f32)>) -> Vec<Judged> {
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    let mut judged: Vec<(Judged, f64)> = Vec::new();
    for (query, id, weight) in pairs {
        let number = *numbers.entry(query_key(query)).or_insert(judged.len());
        if number == judged.len() {
            judged.push((Judged { query: query.to_owned(), grades: HashMap::new(), weight: 0.0 }, 0.0));
        }
        if let Some((judged, seen)) = judged.get_mut(number) {
            judged.grades.insert(id.to_owned(), 1.0);
            *seen += 1.0;
            judged.weight += (f64::from(weight) - judged.weight) / *seen;
        }
    }
    judged.into_iter().map(|(judged, _)| judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str, time: u64, shown: &[&str], clicks: &[(&str, f32)]) -> LoggedQuery {
        let click = |(at, (id, grade)): (usize, &(&str, f32))| Click {
            id: (*id).into(),
            grade: *grade,
            time: time + 1 + at as u64,
        };
        LoggedQuery {
            text: text.into(),
            time,
            shown: shown.iter().map(|s| (*s).into()).collect(),
            clicks: clicks.iter().enumerate().map(click).collect(),
            ..LoggedQuery::default()
        }
    }

    fn brief(pairs: &[Pair]) -> Vec<(&str, &str, u64)> {
        pairs.iter().map(|p| (p.query.as_str(), target(p), p.time)).collect()
    }

    fn made(queries: &[LoggedQuery]) -> FromLog {
        pairs_from_log(queries, &ClickOptions::default(), &|_, _| None)
    }

    #[test]
    fn repeated_clicks_make_one_pair_and_the_last_grade_counts() {
        let log = [
            search("Reset  Password", 20, &["a", "b"], &[("b", 1.0), ("b", 1.0)]),
            search("reset password", 10, &["b", "a"], &[("a", 1.0)]),
            search("reset password", 30, &["a", "b"], &[("a", 0.0), ("b", 1.0)]),
        ];
        let found = made(&log);
        assert_eq!(brief(&found.pairs), [("Reset  Password", "b", 20)]);
        assert!(found.pairs[0].weight > 0.0);
        let report = found.report;
        assert_eq!((report.clicks, report.repeated, report.withdrawn, report.pairs), (5, 3, 1, 1));
    }

    #[test]
    fn a_flood_of_clicks_on_one_text_is_cut_to_the_most_probable() {
        let ids: Vec<String> = (0..100).map(|i| format!("d{i:02}")).collect();
        let all: Vec<(&str, f32)> = ids.iter().map(|id| (id.as_str(), 1.0)).collect();
        let log = [
            search("q", 1, &[], &all),
            search("q", 2, &[], &[("d77", 1.0)]),
            search("other", 3, &[], &[("x", 1.0)]),
        ];
        let found = made(&log);
        // Who clicks a hundred documents says little of each; twice, more.
        assert_eq!(brief(&found.pairs), [("q", "d77", 1), ("other", "x", 3)]);
        assert_eq!((found.report.improbable, found.report.repeated), (99, 1));
        let some: Vec<(&str, f32)> = all.iter().copied().take(MAX_TARGETS + 5).collect();
        let found = made(&[search("q", 1, &[], &some)]);
        assert_eq!((found.pairs.len(), found.report.flooded), (MAX_TARGETS, 5));
    }

    /// People look at rank r with probability 1/r and click what they want; of 300 texts, half want the first hit and half
    /// the third.
    fn biased() -> Vec<LoggedQuery> {
        let mut rng = super::super::rng::Rng::new(5);
        let mut chance = move |p: f64| (rng.bits() >> 11) as f64 / (1u64 << 53) as f64 >= 1.0 - p;
        let mut order = super::super::rng::Rng::new(6);
        let mut log = Vec::new();
        for number in 0..6000u64 {
            let text = number % 300;
            let mut shown: Vec<u64> = (0..5).collect();
            let shuffled = number % 5 == 0;
            if shuffled {
                order.shuffle(&mut shown);
            }
            let wanted = if text < 150 { 0 } else { 2 };
            let looked_at = |at: usize| 1.0 / (at + 1) as f64;
            let clicks: Vec<(String, f32)> = shown
                .iter()
                .enumerate()
                .filter(|(at, id)| chance(looked_at(*at) * if **id == wanted { 0.9 } else { 0.05 }))
                .map(|(_, id)| (format!("{text}-{id}"), 1.0))
                .collect();
            let clicks: Vec<(&str, f32)> = clicks.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
            let shown: Vec<String> = shown.iter().map(|id| format!("{text}-{id}")).collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            let mut query = search(&format!("text {text}"), 10 * number + 1, &shown, &clicks);
            query.propensities = if shuffled { vec![0.2; 5] } else { Vec::new() };
            log.push(query);
        }
        log
    }

    #[test]
    fn what_is_wanted_at_a_low_rank_weighs_as_much_and_accidents_little() {
        let log = biased();
        let found = made(&log);
        assert!((found.bias.examination(2) - 1.0 / 3.0).abs() < 0.08, "{:?}", found.bias.curve);
        let weight = |wanted: &dyn Fn(u64, &str) -> bool| -> f64 {
            let of_text =
                |pair: &Pair| pair.query.strip_prefix("text ").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mine =
                found.pairs.iter().filter(|p| wanted(of_text(p), target(p).split('-').nth(1).unwrap_or("")));
            mine.map(|pair| f64::from(pair.weight)).sum()
        };
        let first = weight(&|text, id| text < 150 && id == "0");
        let third = weight(&|text, id| text >= 150 && id == "2");
        let others = weight(&|_, _| true) - first - third;
        assert!(first > 60.0 && (0.6..1.2).contains(&(third / first)), "{first} {third}");
        assert!(others < 0.1 * (first + third), "{others}");
        let clicks_on_others = log.iter().flat_map(|q| &q.clicks).count();
        assert!(found.report.improbable > 100, "{:?} of {clicks_on_others}", found.report);
    }

    #[test]
    fn old_searches_fade_with_a_half_life() {
        let old = search("q", 1, &["a", "b"], &[("a", 1.0)]);
        let new = search("q", 3_600_000_001, &["a", "b"], &[("b", 1.0)]);
        let options = ClickOptions { half_life: Some(Duration::from_secs(600)) };
        let found = pairs_from_log(&[old, new], &options, &|_, _| None);
        let weight = |id: &str| found.pairs.iter().find(|p| target(p) == id).map_or(0.0, |p| p.weight);
        assert!(weight("b") > weight("a"), "{:?}", found.pairs);
    }

    #[test]
    fn judgements_join_the_clicks_of_a_text() {
        let pairs = [("q", "a", 1.0), ("other", "b", 3.0), (" Q ", "c", 2.0)];
        let judged = judgements(pairs.into_iter());
        assert_eq!(judged.len(), 2);
        let grades = [("a".into(), 1.0), ("c".into(), 1.0)].into();
        assert_eq!(judged[0], Judged { query: "q".into(), grades, weight: 1.5 });
        assert_eq!(judged[1].weight, 3.0);
    }
}

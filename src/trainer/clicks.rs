//! From logged searches and clicks to training pairs.
//!
//! - **Position bias.** People look less often at lower ranks, so a click there says more. If rank r is
//!   looked at with probability r^-½ (Joachims et al.: Unbiased Learning-to-Rank with Biased Feedback,
//!   2017, weigh by its inverse), a click weighs √r, at most [`MAX_WEIGHT`], for a rare click far down
//!   must not outweigh everything.
//! - **Repetition.** Clicks on one document for the same query text make one pair, however often and
//!   by whomever: the loudest user does not decide alone.
//! - **Floods.** A query text keeps at most [`MAX_TARGETS`] documents, those clicked in the most searches.
//! - **Retraction.** The latest grade counts; one that is not above zero withdraws the click.

use std::collections::HashMap;

use super::data::{Pair, Target};
use super::split::query_key;

/// Largest weight that a low rank gives.
pub const MAX_WEIGHT: f32 = 3.0;
/// Documents kept for one query text.
pub const MAX_TARGETS: usize = 10;

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
    /// Clicks, in any order.
    pub clicks: Vec<Click>,
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
    /// Pairs dropped because their query text had too many.
    pub flooded: usize,
    /// Pairs made.
    pub pairs: usize,
}

/// What is known of one document under one query text.
struct Seen<'a> {
    id: &'a str,
    searches: usize,
    grade: f32,
    graded_at: u64,
    weight: f32,
    first: u64,
}

/// Makes pairs of clicks, ordered by the time of their first search.
pub fn pairs_from_log(queries: &[LoggedQuery]) -> (Vec<Pair>, ClickReport) {
    let mut report = ClickReport { searches: queries.len(), ..ClickReport::default() };
    let mut texts: HashMap<u64, (&str, Vec<Seen<'_>>)> = HashMap::new();
    for query in queries.iter().filter(|q| !q.text.trim().is_empty()) {
        let mut in_this_search = Vec::new();
        for click in query.clicks.iter().filter(|c| c.grade.is_finite()) {
            report.clicks += 1;
            let (_, seen) = texts.entry(query_key(&query.text)).or_insert((&query.text, Vec::new()));
            let again = in_this_search.contains(&click.id.as_str());
            report.repeated += usize::from(!note(seen, query, click, again));
            in_this_search.push(&click.id);
        }
    }
    let mut pairs = Vec::new();
    for (text, mut seen) in texts.into_values() {
        let before = seen.len();
        seen.retain(|s| s.grade > 0.0);
        report.withdrawn += before - seen.len();
        seen.sort_unstable_by(|a, b| {
            b.searches.cmp(&a.searches).then(a.first.cmp(&b.first)).then(a.id.cmp(b.id))
        });
        report.flooded += seen.len().saturating_sub(MAX_TARGETS);
        pairs.extend(seen.iter().take(MAX_TARGETS).map(|s| Pair {
            query: text.to_string(),
            positive: Target::Id(s.id.to_string()),
            weight: s.weight * s.grade.min(1.0),
            time: s.first,
        }));
    }
    pairs.sort_unstable_by(|a, b| {
        (a.time, &a.query).cmp(&(b.time, &b.query)).then_with(|| target(a).cmp(target(b)))
    });
    report.pairs = pairs.len();
    (pairs, report)
}

/// Notes a click; false if the same text and document were clicked before.
fn note<'a>(seen: &mut Vec<Seen<'a>>, query: &LoggedQuery, click: &'a Click, again: bool) -> bool {
    if let Some(known) = seen.iter_mut().find(|s| s.id == click.id) {
        known.searches += usize::from(!again);
        known.first = known.first.min(query.time);
        if click.time >= known.graded_at {
            (known.grade, known.graded_at) = (click.grade, click.time);
        }
        return false;
    }
    seen.push(Seen {
        id: &click.id,
        searches: 1,
        grade: click.grade,
        graded_at: click.time,
        weight: rank_weight(query.shown.iter().position(|id| *id == click.id)),
        first: query.time,
    });
    true
}

/// √rank, at most [`MAX_WEIGHT`]; 1 where the document was not shown. `position` counts from 0.
fn rank_weight(position: Option<usize>) -> f32 {
    position.map_or(1.0, |at| ((at + 1) as f32).sqrt().min(MAX_WEIGHT))
}

fn target(pair: &Pair) -> &str {
    match &pair.positive {
        Target::Text(text) | Target::Id(text) => text,
    }
}

/// A query with the documents that it should find.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Text of the query.
    pub query: String,
    /// Grade of each relevant document, by id.
    pub grades: HashMap<String, f64>,
    /// How much the query judges: the mean weight of its pairs, for the gate's
    /// [`HeldOut`](super::gate::HeldOut).
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

    fn brief(pairs: &[Pair]) -> Vec<(&str, &str, f32, u64)> {
        pairs.iter().map(|p| (p.query.as_str(), target(p), p.weight, p.time)).collect()
    }

    #[test]
    fn lower_ranks_weigh_more_up_to_the_limit() {
        let shown: Vec<String> = (0..20).map(|i| format!("d{i}")).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        let log = [search("q", 5, &shown, &[("d0", 1.0), ("d3", 1.0), ("d19", 1.0), ("elsewhere", 0.5)])];
        let (pairs, report) = pairs_from_log(&log);
        assert_eq!(
            brief(&pairs),
            [("q", "d0", 1.0, 5), ("q", "d19", 3.0, 5), ("q", "d3", 2.0, 5), ("q", "elsewhere", 0.5, 5)]
        );
        assert_eq!((report.clicks, report.pairs), (4, 4));
    }

    #[test]
    fn repeated_clicks_make_one_pair_and_the_last_grade_counts() {
        let log = [
            search("Reset  Password", 20, &["a", "b"], &[("b", 1.0), ("b", 1.0)]),
            search("reset password", 10, &["b", "a"], &[("a", 1.0)]),
            search("reset password", 30, &["a", "b"], &[("a", 0.0)]),
        ];
        let (pairs, report) = pairs_from_log(&log);
        assert_eq!(brief(&pairs), [("Reset  Password", "b", 2f32.sqrt(), 20)]);
        assert_eq!((report.clicks, report.repeated, report.withdrawn), (4, 2, 1));
    }

    #[test]
    fn a_flood_of_clicks_on_one_text_is_cut_to_the_most_searched() {
        let ids: Vec<String> = (0..100).map(|i| format!("d{i:02}")).collect();
        let all: Vec<(&str, f32)> = ids.iter().map(|id| (id.as_str(), 1.0)).collect();
        let log = [
            search("q", 1, &[], &all),
            search("q", 2, &[], &[("d77", 1.0)]),
            search("other", 3, &[], &[("x", 1.0)]),
        ];
        let (pairs, report) = pairs_from_log(&log);
        assert_eq!((pairs.len(), report.flooded, report.repeated), (MAX_TARGETS + 1, 90, 1));
        assert!(pairs.iter().any(|p| target(p) == "d77"));
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

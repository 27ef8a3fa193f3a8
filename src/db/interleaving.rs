//! Which of two generations people's clicks prefer, by searches that interleaved their hits.
//!
//! Each such search is a contest: the generation that put more of the clicked documents on the page wins it.
//! Under the hypothesis that both are equally good each is as likely to win, so the sign test says how far that is from
//! what was seen.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::types::{Event, LoggedSearch};

/// The contests of two generations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interleaving {
    /// The generations; the first was active.
    pub generations: [u32; 2],
    /// Searches that interleaved them.
    pub searches: u64,
    /// Searches that each won.
    pub wins: [u64; 2],
    /// Searches with clicks that neither won.
    pub ties: u64,
    /// Of the two-sided sign test over the searches that were won.
    pub p_value: f64,
}

/// The contests in a log, by generations.
pub(crate) fn contests(events: &[Event]) -> Vec<Interleaving> {
    // The last grade of a document counts.
    let mut grades: HashMap<&str, BTreeMap<&str, f32>> = HashMap::new();
    for event in events {
        if let Event::Click(click) = event {
            grades.entry(&click.query_id).or_default().insert(&click.id, click.grade);
        }
    }
    let mut contests: BTreeMap<[u32; 2], Interleaving> = BTreeMap::new();
    for event in events {
        let Event::Search(search) = event else { continue };
        let Some(teams) = &search.teams else { continue };
        let generations = teams.generations;
        let new = Interleaving { generations, searches: 0, wins: [0; 2], ties: 0, p_value: 1.0 };
        let contest = contests.entry(generations).or_insert(new);
        contest.searches += 1;
        let Some(grades) = grades.get(search.query_id.as_str()) else { continue };
        match credit(search, &teams.of, grades) {
            [0, 0] => {}
            [a, b] if a > b => contest.wins[0] += 1,
            [a, b] if a < b => contest.wins[1] += 1,
            _ => contest.ties += 1,
        }
    }
    let mut contests: Vec<Interleaving> = contests.into_values().collect();
    for contest in &mut contests {
        contest.p_value = sign_test(contest.wins[0], contest.wins[1]);
    }
    contests
}

/// Clicked documents of each team.
fn credit(search: &LoggedSearch, teams: &[u8], grades: &BTreeMap<&str, f32>) -> [u64; 2] {
    let mut credit = [0; 2];
    for (id, team) in search.shown.iter().zip(teams) {
        let clicked = grades.get(id.as_str()).is_some_and(|grade| *grade > 0.0);
        if let Some(credit) = credit.get_mut(usize::from(*team)) {
            *credit += u64::from(clicked);
        }
    }
    credit
}

/// The two-sided sign test: how probable a division at least as uneven as `a` to `b` is if both are equally likely
/// (ties left out). Exact up to some thousands, then by the normal approximation.
fn sign_test(a: u64, b: u64) -> f64 {
    let n = a + b;
    let least = a.min(b);
    if n == 0 {
        return 1.0;
    }
    if n > EXACT_SIGNS {
        let z = ((n as f64 / 2.0 - least as f64) - 0.5).max(0.0) / (n as f64 / 4.0).sqrt();
        return (2.0 * upper_tail(z)).min(1.0);
    }
    // Terms of the binomial distribution by their logarithms, which do not underflow.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=least {
        tail += log_term.exp();
        log_term += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Up to so many signs the tail is summed.
const EXACT_SIGNS: u64 = 5_000;

/// P(Z > z) of a standard normal variable, z ≥ 0 (Abramowitz and Stegun: Handbook of Mathematical Functions, 1964,
/// 26.2.17; absolute error below 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let sum = series.iter().fold(0.0, |sum, c| sum * t + c) * t;
    sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LoggedClick, Teams};

    fn search(id: &str, teams: Option<([u32; 2], &[u8])>) -> Event {
        Event::Search(LoggedSearch {
            query_id: id.into(),
            shown: ["a", "b", "c", "d"].map(String::from).to_vec(),
            teams: teams.map(|(generations, of)| Teams { generations, of: of.to_vec() }),
            ..LoggedSearch::default()
        })
    }

    fn click(query: &str, id: &str, grade: f32) -> Event {
        Event::Click(LoggedClick {
            click_id: format!("{query}{id}{grade}"),
            query_id: query.into(),
            id: id.into(),
            grade,
            time_ms: 0,
        })
    }

    #[test]
    fn who_has_more_clicked_documents_wins_a_search() {
        let teams = Some(([1, 2], &[0u8, 1, 1, 0][..]));
        let events = [
            search("first", teams),
            click("first", "a", 1.0),
            click("first", "d", 1.0),
            click("first", "b", 1.0),
            search("second", teams),
            click("second", "c", 1.0),
            click("second", "a", 1.0),
            click("second", "a", 0.0),
            search("tie", teams),
            click("tie", "a", 1.0),
            click("tie", "b", 1.0),
            search("repeated", teams),
            click("repeated", "a", 1.0),
            click("repeated", "a", 0.5),
            click("repeated", "elsewhere", 1.0),
            search("none", teams),
            search("plain", None),
            click("plain", "a", 1.0),
            search("others", Some(([1, 3], &[1, 0]))),
            click("others", "a", 1.0),
        ];
        let found = contests(&events);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].generations, found[0].searches, found[0].wins, found[0].ties),
            ([1, 2], 5, [2, 1], 1)
        );
        assert_eq!((found[1].generations, found[1].wins, found[1].p_value), ([1, 3], [0, 1], 1.0));
        assert!(contests(&[]).is_empty());
    }

    /// 2 · (1 + 10) / 2^10 for 1 to 9; scipy.stats.binomtest(40, 100).pvalue is 0.0568879.
    #[test]
    fn the_sign_test_agrees_with_known_values() {
        for (a, b, p) in
            [(1, 9, 0.021_484_375), (9, 1, 0.021_484_375), (40, 60, 0.056_887_9), (5, 5, 1.0), (0, 0, 1.0)]
        {
            assert!((sign_test(a, b) - p).abs() < 1e-6, "{a} to {b}: {}", sign_test(a, b));
        }
        let (exact, approximate) = (sign_test(2400, 2600), sign_test(2401, 2601));
        assert!((exact - approximate).abs() < 1e-3, "{exact} {approximate}");
        assert!(sign_test(0, u64::from(u32::MAX)) < 1e-12);
    }
}

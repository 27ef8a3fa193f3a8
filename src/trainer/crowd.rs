//! How much each search of a log counts: robots nothing, the loudest client no more than others, old ones less.
//!
//! - **Robots.** A search whose hits were all clicked ([`ALL_CLICKED`] or more of them) teaches nothing: nobody chose. A
//!   client that searched more than [`MOST_A_MINUTE`] times within a minute is a program, and none of what it did
//!   in that minute counts.
//! - **Floods.** A client's searches together weigh no more than [`TIMES_MEDIAN`] times those of the client in the
//!   middle (but may always weigh [`ALWAYS`]). With a single client, as in a database of one's own, nothing is
//!   cut. A client that repeats a text counts [`REPEATS`] times at most, its latest searches first.
//! - **Recency.** With a half-life, a search that is so much older than the newest counts half.
//!
//! Searches without a client cannot be told apart, so only the first rule applies to them; what a single text can
//! do is bounded anyway, for it makes a bounded number of pairs of weights of 1 at most before position counts.

use std::collections::HashMap;
use std::time::Duration;

use super::clicks::LoggedQuery;
use super::split::query_key;

/// A page of so many hits or more that was clicked throughout is a robot's.
pub const ALL_CLICKED: usize = 5;
/// Searches within a minute that a person can make.
pub const MOST_A_MINUTE: usize = 30;
/// A client weighs at most so many times what the client in the middle weighs …
pub const TIMES_MEDIAN: f64 = 10.0;
/// … but always so many searches.
pub const ALWAYS: f64 = 20.0;
/// Searches for one text that count of one client.
pub const REPEATS: usize = 3;

const MINUTE: u64 = 60_000_000;

/// What was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Searches of robots.
    pub robots: usize,
    /// Searches that their client had repeated too often.
    pub repeats: usize,
    /// Clients that weigh less than all of their searches would.
    pub capped_clients: usize,
}

/// A weight of 0 to 1 for each search.
pub fn weights(queries: &[LoggedQuery], half_life: Option<Duration>) -> (Vec<f64>, Cut) {
    let mut weights = vec![1.0; queries.len()];
    let mut cut = Cut::default();
    for (query, weight) in queries.iter().zip(&mut weights) {
        if query.shown.len() >= ALL_CLICKED && query.shown.iter().all(|id| query.clicked(id)) {
            *weight = 0.0;
            cut.robots += 1;
        }
    }
    let mut clients: HashMap<&str, Vec<usize>> = HashMap::new();
    for (number, query) in queries.iter().enumerate() {
        if let Some(client) = &query.client {
            clients.entry(client).or_default().push(number);
        }
    }
    for searches in clients.values_mut() {
        searches.sort_by_key(|&number| queries.get(number).map(|query| query.time));
        drop_bursts(queries, searches, &mut weights, &mut cut);
        drop_repeats(queries, searches, &mut weights, &mut cut);
    }
    cap_clients(&clients, &mut weights, &mut cut);
    if let Some(half_life) = half_life {
        fade(queries, half_life, &mut weights);
    }
    (weights, cut)
}

fn time(queries: &[LoggedQuery], number: usize) -> u64 {
    queries.get(number).map_or(0, |query| query.time)
}

/// `searches`: those of a client, by time.
fn drop_bursts(queries: &[LoggedQuery], searches: &[usize], weights: &mut [f64], cut: &mut Cut) {
    let mut begin = 0;
    let mut dropped = 0;
    for (end, &last) in searches.iter().enumerate() {
        while searches.get(begin).is_some_and(|&first| time(queries, last) - time(queries, first) > MINUTE) {
            begin += 1;
        }
        if end + 1 - begin > MOST_A_MINUTE && time(queries, last) > 0 {
            for &number in searches.get(begin.max(dropped)..=end).unwrap_or_default() {
                cut.robots += usize::from(silence(weights, number));
            }
            dropped = end + 1;
        }
    }
}

fn drop_repeats(queries: &[LoggedQuery], searches: &[usize], weights: &mut [f64], cut: &mut Cut) {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for &number in searches.iter().rev() {
        let Some(query) = queries.get(number) else { continue };
        let count = counts.entry(query_key(&query.text)).or_default();
        *count += 1;
        if *count > REPEATS {
            cut.repeats += usize::from(silence(weights, number));
        }
    }
}

/// Whether it counted before.
fn silence(weights: &mut [f64], number: usize) -> bool {
    weights.get_mut(number).is_some_and(|weight| std::mem::replace(weight, 0.0) > 0.0)
}

fn cap_clients(clients: &HashMap<&str, Vec<usize>>, weights: &mut [f64], cut: &mut Cut) {
    let total = |searches: &[usize], weights: &[f64]| -> f64 {
        searches.iter().filter_map(|&number| weights.get(number)).sum()
    };
    let mut totals: Vec<f64> = clients.values().map(|searches| total(searches, weights)).collect();
    totals.retain(|&total| total > 0.0);
    totals.sort_unstable_by(f64::total_cmp);
    let Some(median) = totals.get(totals.len().saturating_sub(1) / 2) else { return };
    let most = (TIMES_MEDIAN * median).max(ALWAYS);
    for searches in clients.values() {
        let total = total(searches, weights);
        if total > most {
            cut.capped_clients += 1;
            for &number in searches {
                if let Some(weight) = weights.get_mut(number) {
                    *weight *= most / total;
                }
            }
        }
    }
}

fn fade(queries: &[LoggedQuery], half_life: Duration, weights: &mut [f64]) {
    let newest = queries.iter().map(|query| query.time).max().unwrap_or(0);
    let half_life = (half_life.as_micros() as f64).max(1.0);
    for (query, weight) in queries.iter().zip(weights) {
        *weight *= (-((newest - query.time) as f64) / half_life).exp2();
    }
}

#[cfg(test)]
mod tests {
    use super::super::clicks::Click;
    use super::*;

    fn search(client: Option<&str>, text: &str, time: u64) -> LoggedQuery {
        LoggedQuery {
            text: text.into(),
            time,
            client: client.map(str::to_owned),
            shown: (0..6).map(|n| n.to_string()).collect(),
            ..LoggedQuery::default()
        }
    }

    #[test]
    fn who_clicks_all_or_searches_without_pause_is_a_robot() {
        let mut all = search(None, "all", 1);
        all.clicks = all.shown.iter().map(|id| Click { id: id.clone(), grade: 1.0, time: 2 }).collect();
        let mut most = all.clone();
        most.clicks.pop();
        let mut queries = vec![all, most];
        // 40 searches within 40 seconds, then one after an hour.
        queries.extend((0..40).map(|n| search(Some("bot"), &format!("text {n}"), 1 + n * 1_000_000)));
        queries.push(search(Some("bot"), "later", 3_600_000_000));
        // 30 a minute are a person's.
        queries.extend((0..60).map(|n| search(Some("busy"), &format!("text {n}"), 1 + n * 2_100_000)));
        let (weights, cut) = weights(&queries, None);
        assert_eq!(weights[..2], [0.0, 1.0]);
        assert!(weights[2..42].iter().all(|w| *w == 0.0) && weights[42] == 1.0);
        assert!(weights[43..].iter().all(|w| *w > 0.0));
        assert_eq!(cut.robots, 41);
    }

    #[test]
    fn one_client_among_many_is_capped_and_a_single_one_is_not() {
        let day = 86_400_000_000;
        let flood = |n: u64| (0..n).map(move |i| search(Some("loud"), &format!("t{i}"), i * day));
        let mut queries: Vec<LoggedQuery> = flood(900).collect();
        assert_eq!(weights(&queries, None), (vec![1.0; 900], Cut::default()));
        queries.extend((0..50).map(|n| search(Some(&format!("c{n}")), "x", n * day)));
        let (weighed, cut) = weights(&queries, None);
        assert!((weighed[..900].iter().sum::<f64>() - ALWAYS).abs() < 1e-9 && weighed[900..] == [1.0; 50]);
        assert_eq!(cut.capped_clients, 1);
    }

    #[test]
    fn a_text_counts_three_times_a_client_the_latest_ones() {
        let queries: Vec<LoggedQuery> = (0..10)
            .map(|n| {
                search(Some("c"), if n % 2 == 0 { "Same  text" } else { "same text" }, 1 + n * 100_000_000)
            })
            .collect();
        let (weighed, cut) = weights(&queries, None);
        assert_eq!(
            (weighed[..7].iter().sum::<f64>(), weighed[7..].iter().sum::<f64>(), cut.repeats),
            (0.0, 3.0, 7)
        );
        let anonymous: Vec<LoggedQuery> = (0..10).map(|n| search(None, "same", n)).collect();
        assert_eq!(weights(&anonymous, None).0, [1.0; 10]);
    }

    #[test]
    fn what_is_a_half_life_older_counts_half() {
        let queries: Vec<LoggedQuery> = (0..3).map(|n| search(None, "x", n * 1_000_000)).collect();
        let (weighed, _) = weights(&queries, Some(Duration::from_secs(1)));
        assert_eq!(weighed, [0.25, 0.5, 1.0]);
        assert!(weights(&queries, Some(Duration::ZERO)).0.iter().all(|w| w.is_finite()));
    }
}

//! Position bias: how probably the result at a rank is looked at.
//!
//! The position-based model: a click needs that the rank is looked at (θ of the rank, the same for all
//! searches) and that the document, once seen, appeals (γ of query and document, the same at all ranks).
//! What is clicked at the top is not what is best but what is best and seen.
//!
//! **Estimate.** Only the same appeal at different ranks tells θ from γ. Two kinds of groups have it:
//! - the randomised ranks of a search, in which every document was equally likely to stand at each of
//!   them ([`LoggedQuery::propensities`]). No assumption but the model itself: alone for the ranks that have
//!   enough clicks of this kind;
//! - a document that searches for the same text showed at different ranks, as new documents, other generations
//!   and filters bring about (intervention harvesting: Agarwal et al., Estimating Position Bias without
//!   Intrusive Interventions, 2019).
//!
//! In a group g with n(g, r) showings at rank r, the γ that explains its C(g) clicks best is
//! C(g) / Σ n(g, r) θ(r). Put into the model, this leaves one equation for each rank,
//! clicks(r) = Σ C(g) n(g, r) θ(r) / Σ n(g, s) θ(s): in expectation the true θ solves it, whatever the appeals are
//! and however few the searches of a group. It is solved by iterations that never worsen the likelihood (Hunter: MM
//! Algorithms for Generalized Bradley-Terry Models, 2004). No regression of γ on features is needed, as in
//! Wang et al., Position Bias Estimation for Unbiased Learning to Rank in Personal Search, 2018.
//!
//! **Smoothing.** The curve is drawn to r^-η, whose only number is fitted by the same likelihood, with the
//! weight of `SMOOTHING` clicks a rank: with few clicks it is that power law, with many whatever they
//! say; it need not fall. With fewer than [`LEAST_CLICKS`] clicks in groups nothing is estimated: then
//! r^-½ is assumed, and [`PositionBias::note`] says so.

use std::collections::HashMap;

use serde::Serialize;

use super::clicks::LoggedQuery;
use super::golden::highest;
use super::split::query_key;

/// Ranks that the curve covers; below, it goes on as the power law.
pub const MAX_RANKS: usize = 100;
/// Clicks on documents that were seen at several ranks, without which nothing is estimated.
pub const LEAST_CLICKS: f64 = 30.0;
/// Randomised clicks at a rank, with which it is estimated from them alone.
const ENOUGH: f64 = 100.0;
/// Clicks at each rank that the power law weighs.
const SMOOTHING: f64 = 10.0;
/// η that is assumed, and how strongly the fitted one is drawn to it, as 1 / (2 σ²).
const PRIOR: (f64, f64) = (0.5, 2.0);
/// Range of η.
const ETAS: [f64; 2] = [-1.0, 4.0];
/// The least that a rank can be looked at, so that its inverse is finite.
const LEAST: f64 = 1e-4;

/// What an estimate rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// Randomised ranks, and where these do not reach, documents that were shown at several ranks.
    Randomised,
    /// Documents that were shown at several ranks.
    Moved,
    /// Nothing: assumed.
    Assumed,
}

/// A rank of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RankBias {
    /// From 1.
    pub rank: usize,
    /// How probably it is looked at, relative to rank 1.
    pub examination: f64,
    /// How often it was shown.
    pub shown: u64,
    /// How often it was clicked.
    pub clicks: u64,
}

/// Position bias of a log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PositionBias {
    /// What it rests on.
    pub evidence: Evidence,
    /// Clicks that it was estimated from.
    pub informative: u64,
    /// The power law r^-η that fits best.
    pub eta: f64,
    /// The curve, from rank 1.
    pub curve: Vec<RankBias>,
    /// For the user, where nothing could be estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Default for PositionBias {
    /// That of an empty log.
    fn default() -> Self {
        Self { evidence: Evidence::Assumed, informative: 0, eta: PRIOR.0, curve: Vec::new(), note: None }
    }
}

impl PositionBias {
    /// How probably the result at `position`, counted from 0, is looked at, relative to rank 1.
    pub fn examination(&self, position: usize) -> f64 {
        match (self.curve.get(position), self.curve.last()) {
            (Some(rank), _) => rank.examination,
            (None, Some(last)) => {
                let further = (position + 1) as f64 / last.rank as f64;
                (last.examination * further.powf(-self.eta.max(0.0))).max(LEAST)
            }
            (None, None) => power(position, self.eta),
        }
    }
}

/// Estimates the position bias of a log. A document counts as clicked in a search once, by a grade above zero at last.
pub fn estimate(queries: &[LoggedQuery]) -> PositionBias {
    let weights = vec![1.0; queries.len()];
    estimate_weighted(queries, &weights)
}

/// As [`estimate`], with a weight for each search; one of weight 0 does not count.
pub(super) fn estimate_weighted(queries: &[LoggedQuery], weights: &[f64]) -> PositionBias {
    let weighted: Vec<(&LoggedQuery, f64)> =
        queries.iter().zip(weights.iter().copied()).filter(|(_, weight)| *weight > 0.0).collect();
    let ranks = weighted.iter().map(|(q, _)| q.shown.len()).max().unwrap_or(0).min(MAX_RANKS);
    let randomised = randomised(&weighted, ranks);
    let mut groups = moved(&weighted, ranks);
    let covered = covered(&randomised, ranks);
    // Where chance alone moved documents, what moved them otherwise need not be trusted.
    groups.retain(|group| group.showings.iter().any(|(rank, _)| !covered.get(*rank).is_some_and(|c| *c)));
    let evidence = if randomised.is_empty() { Evidence::Moved } else { Evidence::Randomised };
    groups.extend(randomised);
    // The sum of nothing is -0.
    let informative = 0.0 + groups.iter().map(Group::clicks).sum::<f64>();
    let known = informative >= LEAST_CLICKS;
    let eta = if known { fitted_eta(&groups) } else { PRIOR.0 };
    let law: Vec<f64> = (0..ranks).map(|position| power(position, eta)).collect();
    let examination = if known { solve(&groups, &law) } else { law };
    let note = (!known && !weighted.is_empty()).then(|| {
        format!(
            "position bias was assumed, not estimated: {informative:.0} clicks fell on documents that were shown at \
             several ranks, {LEAST_CLICKS:.0} are needed; `search --log --randomize-below R` brings them about"
        )
    });
    PositionBias {
        evidence: if known { evidence } else { Evidence::Assumed },
        informative: informative.round() as u64,
        eta,
        curve: curve(&weighted, &examination),
        note,
    }
}

/// Showings of equal appeal.
#[derive(Debug, Default)]
struct Group {
    /// Position from 0, and how often.
    showings: Vec<(usize, f64)>,
    /// Position from 0, and clicks.
    clicked: Vec<(usize, f64)>,
}

impl Group {
    fn add(&mut self, position: usize, weight: f64, clicked: bool) {
        let put = |to: &mut Vec<(usize, f64)>| match to.iter_mut().find(|(at, _)| *at == position) {
            Some((_, sum)) => *sum += weight,
            None => to.push((position, weight)),
        };
        put(&mut self.showings);
        if clicked {
            put(&mut self.clicked);
        }
    }

    fn clicks(&self) -> f64 {
        self.clicked.iter().map(|(_, clicks)| clicks).sum()
    }

    /// Whether it says anything on how ranks compare.
    fn tells(&self) -> bool {
        self.showings.len() > 1 && !self.clicked.is_empty()
    }

    fn looked_at(&self, examination: impl Fn(usize) -> f64) -> f64 {
        self.showings.iter().map(|(at, showings)| showings * examination(*at)).sum()
    }
}

/// For each search the groups of ranks that were equally randomised.
fn randomised(queries: &[(&LoggedQuery, f64)], ranks: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for (query, weight) in queries {
        let mut of_search: Vec<(f32, Group)> = Vec::new();
        let slots = query.shown.iter().zip(&query.propensities).take(ranks).enumerate();
        for (position, (id, &propensity)) in slots.filter(|(_, (_, p))| **p > 0.0 && **p < 1.0) {
            let number = of_search.iter().position(|(of, _)| *of == propensity).unwrap_or(of_search.len());
            if number == of_search.len() {
                of_search.push((propensity, Group::default()));
            }
            if let Some((_, group)) = of_search.get_mut(number) {
                group.add(position, *weight, query.clicked(id));
            }
        }
        groups.extend(of_search.into_iter().map(|(_, group)| group).filter(Group::tells));
    }
    groups
}

/// The documents that searches for the same text showed at several ranks.
fn moved(queries: &[(&LoggedQuery, f64)], ranks: usize) -> Vec<Group> {
    let mut groups: HashMap<(u64, &str), Group> = HashMap::new();
    for (query, weight) in queries {
        let key = query_key(&query.text);
        for (position, id) in query.shown.iter().take(ranks).enumerate() {
            groups.entry((key, id)).or_default().add(position, *weight, query.clicked(id));
        }
    }
    let mut groups: Vec<((u64, &str), Group)> =
        groups.into_iter().filter(|(_, group)| group.tells()).collect();
    // Sums of floating-point numbers depend on their order.
    groups.sort_unstable_by_key(|(key, _)| *key);
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The ranks with enough randomised clicks.
fn covered(randomised: &[Group], ranks: usize) -> Vec<bool> {
    let mut clicks = vec![0.0; ranks];
    for (position, count) in randomised.iter().flat_map(|group| &group.clicked) {
        if let Some(sum) = clicks.get_mut(*position) {
            *sum += count;
        }
    }
    clicks.into_iter().map(|clicks| clicks >= ENOUGH).collect()
}

fn power(position: usize, eta: f64) -> f64 {
    ((position + 1) as f64).powf(-eta).max(LEAST)
}

/// The exponent under which the clicks of groups fall on their ranks most probably, by golden-section search.
fn fitted_eta(groups: &[Group]) -> f64 {
    let likelihood = |eta: f64| {
        let of_group = |group: &Group| {
            let clicks: f64 = group.clicked.iter().map(|(at, clicks)| clicks * power(*at, eta).ln()).sum();
            clicks - group.clicks() * group.looked_at(|at| power(at, eta)).ln()
        };
        groups.iter().map(of_group).sum::<f64>() - PRIOR.1 * (eta - PRIOR.0).powi(2)
    };
    highest(ETAS, likelihood)
}

/// The curve that the equations of all ranks ask for, drawn to `law`; 1 at rank 1.
fn solve(groups: &[Group], law: &[f64]) -> Vec<f64> {
    let mut examination = law.to_vec();
    let mut clicks = vec![0.0; law.len()];
    for (position, count) in groups.iter().flat_map(|group| &group.clicked) {
        if let Some(sum) = clicks.get_mut(*position) {
            *sum += count;
        }
    }
    for _ in 0..500 {
        let mut due = vec![0.0; law.len()];
        for group in groups {
            let looked_at = group.looked_at(|at| examination.get(at).copied().unwrap_or(0.0));
            let appeal = group.clicks() / looked_at.max(f64::MIN_POSITIVE);
            for (position, showings) in &group.showings {
                if let Some(sum) = due.get_mut(*position) {
                    *sum += appeal * showings;
                }
            }
        }
        let mut change: f64 = 0.0;
        for (((value, clicks), due), law) in examination.iter_mut().zip(&clicks).zip(&due).zip(law) {
            let next = (clicks + SMOOTHING) / (due + SMOOTHING / law);
            change = change.max((next / *value - 1.0).abs());
            *value = next;
        }
        if change < 1e-6 {
            break;
        }
    }
    let first = examination.first().copied().unwrap_or(1.0).max(f64::MIN_POSITIVE);
    examination.iter().map(|value| (value / first).max(LEAST)).collect()
}

/// The curve with what was shown and clicked at each rank.
fn curve(queries: &[(&LoggedQuery, f64)], examination: &[f64]) -> Vec<RankBias> {
    let rank = |(at, &examination)| RankBias { rank: at + 1, examination, shown: 0, clicks: 0 };
    let mut curve: Vec<RankBias> = examination.iter().enumerate().map(rank).collect();
    for (query, _) in queries {
        for (rank, id) in curve.iter_mut().zip(&query.shown) {
            rank.shown += 1;
            rank.clicks += u64::from(query.clicked(id));
        }
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::super::clicks::Click;
    use super::super::rng::Rng;
    use super::*;

    /// `searches` for `texts` texts of ten documents each; the appeal of document d is .9 for one of them, else .1. Who
    /// is shown comes in order of the number, from `fixed` on shuffled in the given share of searches.
    fn log(
        searches: usize,
        texts: usize,
        eta: f64,
        fixed: usize,
        share: f64,
        told: bool,
        seed: u64,
    ) -> Vec<LoggedQuery> {
        let mut rng = Rng::new(seed);
        let mut below = move |limit: f64| (rng.bits() >> 11) as f64 / (1u64 << 53) as f64 >= 1.0 - limit;
        let mut order = Rng::new(seed + 1);
        let search = |number: usize| {
            let text = number % texts;
            let mut shown: Vec<usize> = (0..10).collect();
            let shuffled = below(share);
            let mut propensities = Vec::new();
            if shuffled {
                order.shuffle(&mut shown[fixed..]);
                propensities =
                    (0..10).map(|at| if at < fixed { 1.0 } else { 1.0 / (10 - fixed) as f32 }).collect();
            }
            let mut clicks = Vec::new();
            for (at, &document) in shown.iter().enumerate() {
                let appeal = if document == text * 7 % 10 { 0.9 } else { 0.1 };
                if below(appeal * ((at + 1) as f64).powf(-eta)) {
                    clicks.push(Click { id: format!("{text}-{document}"), grade: 1.0, time: 1 });
                }
            }
            LoggedQuery {
                text: format!("text {text}"),
                shown: shown.iter().map(|d| format!("{text}-{d}")).collect(),
                propensities: if told { propensities } else { Vec::new() },
                clicks,
                ..LoggedQuery::default()
            }
        };
        (0..searches).map(search).collect()
    }

    fn assert_curve(bias: &PositionBias, eta: f64, tolerance: f64) {
        for rank in &bias.curve {
            let truth = (rank.rank as f64).powf(-eta);
            let off = (rank.examination / truth).ln().abs();
            assert!(off < tolerance, "rank {}: {} for {truth}, η {eta}", rank.rank, rank.examination);
        }
    }

    #[test]
    fn the_bias_that_made_the_clicks_is_found_again() {
        for eta in [0.0, 1.0, 2.0] {
            let randomised = estimate(&log(20_000, 500, eta, 0, 0.3, true, 1));
            assert_eq!(randomised.evidence, Evidence::Randomised);
            assert_curve(&randomised, eta, 0.35);
            // The first two ranks keep theirs; documents that moved link them with the rest.
            assert_curve(&estimate(&log(40_000, 500, eta, 2, 0.3, true, 2)), eta, 0.5);
            let moved = estimate(&log(20_000, 500, eta, 0, 0.3, false, 3));
            assert_eq!(moved.evidence, Evidence::Moved);
            assert_curve(&moved, eta, 0.35);
            assert!((moved.eta - eta).abs() < 0.15, "{}", moved.eta);
        }
    }

    #[test]
    fn ranks_need_not_fall() {
        let mut queries = log(20_000, 500, 0.0, 0, 0.5, true, 4);
        for query in &mut queries {
            let second = query.shown[1].clone();
            query.clicks.retain(|click| click.id != second || click.id.len() % 2 == 0);
        }
        let bias = estimate(&queries);
        assert!(bias.curve[1].examination < 0.8 && bias.curve[2].examination > 0.9, "{:?}", &bias.curve[..3]);
    }

    #[test]
    fn without_documents_that_move_it_is_assumed_and_says_so() {
        let bias = estimate(&log(5000, 500, 1.0, 0, 0.0, true, 5));
        assert_eq!((bias.evidence, bias.informative, bias.eta), (Evidence::Assumed, 0, 0.5));
        assert!(bias.note.as_deref().unwrap().contains("--randomize-below"));
        assert!((bias.examination(3) - 0.5).abs() < 1e-12 && (bias.examination(99) - 0.1).abs() < 1e-12);
        assert_eq!((bias.curve.len(), bias.curve[0].shown), (10, 5000));
        assert!(bias.curve[0].clicks > bias.curve[9].clicks);
        let none = estimate(&[]);
        assert_eq!((none.clone(), none.examination(3)), (PositionBias::default(), 0.5));
    }

    #[test]
    fn few_clicks_give_the_power_law_and_order_does_not_matter() {
        let mut queries = log(120, 10, 1.0, 0, 1.0, true, 6);
        let bias = estimate(&queries);
        assert!(bias.informative >= 30, "{}", bias.informative);
        assert!(bias.curve.iter().all(|rank| rank.examination.is_finite() && rank.examination > 0.0));
        queries.reverse();
        let again = estimate(&queries);
        for (a, b) in bias.curve.iter().zip(&again.curve) {
            assert!((a.examination - b.examination).abs() < 1e-6);
        }
    }
}

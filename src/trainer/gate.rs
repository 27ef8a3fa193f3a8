//! The gate: whether a candidate is published.
//!
//! Judged is the difference in NDCG@10 of each held-out query, candidate against current, so that
//! easy and hard queries cancel out. What searches of a log say is first made into such scores
//! ([`choice`]), for people click what they were shown. A paired bootstrap
//! ([`significance`](super::significance)) gives the 95 % interval of the mean difference. A candidate passes if
//! 1. the lower bound of its gain at the full dimension is above zero, and the gain itself not below
//!    [`GateOptions::least_gain`]: what clicks that are always wrong in the same way teach is certain, but little;
//! 2. at no dimension of the ladder the mean falls by more than [`GateOptions::tolerance`];
//! 3. the guard set does not object ([`guard`](super::guard)): documents are found by passages of their own as before, and
//!    older queries are not answered certainly worse;
//! 4. where queries are of several kinds, as those made of documents, no kind that people search by, with
//!    [`GateOptions::least_of_kind`] queries or more, falls by more than [`GateOptions::tolerance`] in the mean: what is made
//!    of documents is easy to learn, and what one kind gains must not hide what another loses.
//!
//! Refusing is a result, not an error.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::choice::{self, scored};
use super::guard::{Guard, GuardReport};
use super::judge::RankCorrelation;
use super::rng::Rng;
use super::significance::{interval, percentiles};
use super::structure::StructureKind;

/// Thresholds of the gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateOptions {
    /// Gain of the mean NDCG@10 below which nothing is published, however certain.
    pub least_gain: f64,
    /// Fall of the mean NDCG@10 that is allowed at a lower dimension.
    pub tolerance: f64,
    /// Fall of the mean NDCG@10 that is allowed for documents that are searched for by their own words.
    pub guard_tolerance: f64,
    /// Queries of a kind, from which on its mean tells anything.
    pub least_of_kind: usize,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Seed of the resampling.
    pub seed: u64,
}

impl Default for GateOptions {
    fn default() -> Self {
        let (least_gain, tolerance, guard_tolerance) = (0.005, 0.005, 0.005);
        Self { least_gain, tolerance, guard_tolerance, least_of_kind: 30, resamples: 10_000, seed: 0 }
    }
}

/// A score for each query, by the current generation and by the candidate, in the same order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Paired {
    /// Scores of the current generation.
    pub before: Vec<f64>,
    /// Scores of the candidate.
    pub after: Vec<f64>,
}

impl Paired {
    pub(super) fn means(&self, weights: &[f64]) -> [f64; 2] {
        [weighted_mean(&self.before, weights), weighted_mean(&self.after, weights)]
    }

    /// Weight and weighted difference of each query.
    fn differences(&self, weights: &[f64]) -> Vec<(f64, f64)> {
        let pairs = self.before.iter().zip(&self.after).zip(endless(weights));
        pairs.map(|((before, after), weight)| (weight, weight * (after - before))).collect()
    }
}

/// What judges, with its scores at each dimension.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeldOut {
    /// How much each query judges; one that is missing counts 1.
    pub weights: Vec<f64>,
    /// NDCG@10 of each query for each dimension of the ladder, ascending; the last is the full one.
    pub rungs: Vec<(usize, Paired)>,
    /// Of pairs of texts the scores that people gave: the rungs then hold cosines instead, and what counts is the rank
    /// correlation of both, of all pairs together.
    pub scores: Option<Vec<f64>>,
    /// Of a log the texts that were searched for, with their discounts at these rungs: the rungs' scores then follow from
    /// all of them together, and are empty until the verdict.
    pub searched: Vec<choice::Text>,
    /// Of queries made of documents the kind of each; else nothing.
    pub kinds: Vec<Option<StructureKind>>,
    /// Whether they tell the candidate's order from chance: [`Scored::evidence`](choice::Scored::evidence).
    pub evidence: Option<f64>,
}

/// Resamples of a rank correlation, each of which takes a thousand times as long as that of a mean.
const CORRELATION_RESAMPLES: usize = 1_000;

impl HeldOut {
    /// Adds queries that were judged at the same dimensions.
    pub fn append(&mut self, mut other: Self) {
        if self.rungs.is_empty() {
            *self = other;
            return;
        }
        self.weights.append(&mut other.weights);
        self.searched.append(&mut other.searched);
        self.kinds.append(&mut other.kinds);
        for ((_, all), (_, mut part)) in self.rungs.iter_mut().zip(other.rungs) {
            all.before.append(&mut part.before);
            all.after.append(&mut part.after);
        }
        if let (Some(all), Some(part)) = (&mut self.scores, &mut other.scores) {
            all.append(part);
        }
    }

    /// With what searches say made into scores.
    pub(super) fn settled(&self) -> Cow<'_, Self> {
        if self.searched.is_empty() {
            return Cow::Borrowed(self);
        }
        let (scored, _) = scored(&self.searched);
        let evidence = Some(scored.evidence);
        let dims = self.rungs.iter().map(|(dim, _)| *dim);
        let scores = scored.rungs.into_iter().zip(scored.influence).map(|([before, after], influence)| {
            let after = after.iter().zip(influence).map(|(after, influence)| after + influence).collect();
            Paired { before, after }
        });
        let rungs = dims.zip(scores);
        Cow::Owned(Self { weights: scored.weights, rungs: rungs.collect(), evidence, ..Self::default() })
    }

    /// The measure's name, and what it is taken of.
    fn metric(&self) -> (&'static str, &'static str) {
        if self.scores.is_some() { ("spearman", "pairs") } else { (METRIC, "queries") }
    }

    /// The measure before and after.
    pub(super) fn means(&self, paired: &Paired) -> [f64; 2] {
        match &self.scores {
            None => paired.means(&self.weights),
            Some(_) => self.correlations(paired).map(|c| c.map_or(f64::NAN, |c| c.whole())),
        }
    }

    fn correlations(&self, paired: &Paired) -> [Option<RankCorrelation>; 2] {
        let scores = self.scores.as_deref().unwrap_or_default();
        [&paired.before, &paired.after].map(|cosines| RankCorrelation::new(cosines, scores).ok())
    }

    /// The means of each kind of queries at the full dimension.
    fn by_kind(&self) -> Vec<(StructureKind, KindReport)> {
        let Some((_, full)) = self.rungs.last() else { return Vec::new() };
        let of = |kind: StructureKind| {
            let scores = full.before.iter().zip(&full.after).zip(&self.kinds);
            let (before, after): (Vec<f64>, Vec<f64>) = scores
                .filter(|(_, of)| **of == Some(kind))
                .map(|((before, after), _)| (before, after))
                .unzip();
            let queries = before.len();
            let [before, after] = Paired { before, after }.means(&[]);
            (queries > 0).then(|| (kind, KindReport { kind: kind.name(), queries, before, after }))
        };
        StructureKind::ALL.into_iter().filter_map(of).collect()
    }

    /// The 95 % interval of the gain, by bootstrap.
    pub(super) fn interval(&self, paired: &Paired, options: &GateOptions) -> [f64; 2] {
        if self.scores.is_none() {
            return interval(&paired.differences(&self.weights), options.resamples, options.seed);
        }
        let [Some(before), Some(after)] = self.correlations(paired) else { return [f64::NAN; 2] };
        let mut rng = Rng::new(options.seed);
        let n = paired.before.len();
        let mut resampled = || {
            let mut counts = vec![0; n];
            (0..n).for_each(|_| {
                if let Some(count) = counts.get_mut(rng.below(n)) {
                    *count += 1;
                }
            });
            after.of(&counts) - before.of(&counts)
        };
        let gains = (0..options.resamples.min(CORRELATION_RESAMPLES)).map(|_| resampled()).collect();
        percentiles(gains)
    }
}

/// What queries of one kind say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KindReport {
    /// Where the queries come from: "titles", "headings", "sentences", "words".
    pub kind: &'static str,
    /// Queries.
    pub queries: usize,
    /// Mean NDCG@10 of the current generation.
    pub before: f64,
    /// Mean NDCG@10 of the candidate.
    pub after: f64,
}

/// The verdict; serialises to the `gate` object of `retrain`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateReport {
    /// The measure: "ndcg@10".
    pub metric: &'static str,
    /// Mean of the current generation at the full dimension.
    pub before: f64,
    /// Mean of the candidate at the full dimension.
    pub after: f64,
    /// `after - before`.
    pub gain: f64,
    /// 95 % interval of the gain.
    pub ci95: [f64; 2],
    /// Means before and after for each dimension of the ladder.
    pub by_dim: BTreeMap<String, [f64; 2]>,
    /// 95 % interval of the gain for each of them.
    pub ci95_by_dim: BTreeMap<String, [f64; 2]>,
    /// Queries that judged.
    pub queries: usize,
    /// The same for each kind of queries, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_kind: Vec<KindReport>,
    /// The guard set, if there are documents for one.
    pub guard: Option<GuardReport>,
    /// Queries, about, that would make a gain of this size certain; none if it is, or if there is no gain.
    pub queries_wanted: Option<usize>,
    /// Why it was or was not published, for the user.
    pub reason: String,
    /// The verdict.
    #[serde(skip)]
    pub publish: bool,
}

impl GateReport {
    /// The refusal of a run that had nothing to judge, such as one with too little to learn from.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self {
            metric: METRIC,
            before: 0.0,
            after: 0.0,
            gain: 0.0,
            ci95: [0.0, 0.0],
            by_dim: BTreeMap::new(),
            ci95_by_dim: BTreeMap::new(),
            queries: 0,
            by_kind: Vec::new(),
            guard: None,
            queries_wanted: None,
            reason: reason.into(),
            publish: false,
        }
    }
}

const METRIC: &str = "ndcg@10";

/// Decides.
pub fn decide(held_out: &HeldOut, guard: &Guard, options: &GateOptions) -> GateReport {
    let held_out = &*held_out.settled();
    let Some((_, full)) = held_out.rungs.last().filter(|(_, full)| !full.before.is_empty()) else {
        return GateReport::refused("nothing to judge by: no held-out query has a stored document to find");
    };
    let [before, after] = held_out.means(full);
    let ci95 = held_out.interval(full, options);
    let (metric, judges) = held_out.metric();
    let guard = guard.report(options);
    let objection = objection(held_out, guard.as_ref(), after - before, ci95, options);
    let queries = full.before.len();
    let mut reason = format!(
        "{metric} on {queries} held-out {judges} goes from {before:.4} to {after:.4}, 95 % interval of the gain {:+.4} to {:+.4}",
        ci95[0], ci95[1]
    );
    let queries_wanted = wanted(queries, after - before, ci95);
    if let (Some(objection), Some(wanted)) = (&objection, queries_wanted) {
        reason =
            format!("{objection}; {reason}; about {wanted} {judges} would make a gain of this size certain");
    } else if let Some(objection) = &objection {
        reason = format!("{objection}; {reason}");
    }
    let by_kind: Vec<KindReport> = held_out.by_kind().into_iter().map(|(_, report)| report).collect();
    for KindReport { kind, queries, before, after } in &by_kind {
        reason += &format!("; {queries} {kind} {before:.4} to {after:.4}");
    }
    GateReport {
        metric,
        before,
        after,
        gain: after - before,
        ci95,
        by_dim: held_out
            .rungs
            .iter()
            .map(|(dim, paired)| (dim.to_string(), held_out.means(paired)))
            .collect(),
        ci95_by_dim: held_out
            .rungs
            .iter()
            .map(|(dim, paired)| match std::ptr::eq(paired, full) {
                true => (dim.to_string(), ci95),
                false => (dim.to_string(), held_out.interval(paired, options)),
            })
            .collect(),
        queries,
        by_kind,
        guard,
        queries_wanted,
        publish: objection.is_none(),
        reason,
    }
}

/// Queries at which the lower bound of a gain like this would be above zero: the bound's distance from the gain
/// shrinks with the root of their number.
fn wanted(judged: usize, gain: f64, ci95: [f64; 2]) -> Option<usize> {
    let distance = gain - ci95[0];
    let certain = ci95[0] > 0.0 || gain <= 0.0 || !distance.is_finite();
    (!certain).then(|| ((distance / gain).powi(2) * judged as f64 * 1.1).ceil() as usize)
}

/// The first rule that the candidate breaks.
fn objection(
    held_out: &HeldOut,
    guard: Option<&GuardReport>,
    gain: f64,
    ci95: [f64; 2],
    options: &GateOptions,
) -> Option<String> {
    if ci95.iter().any(|bound| !bound.is_finite()) {
        return Some("the scores are not finite".into());
    }
    let fallen = |[before, after]: [f64; 2], tolerance: f64| {
        (before - after > tolerance)
            .then(|| format!("from {before:.4} to {after:.4}, by more than {tolerance}"))
    };
    if let Some(objection) = guard.and_then(|guard| guard.objection(options)) {
        return Some(objection);
    }
    for (dim, scores) in &held_out.rungs {
        if let Some(fall) = fallen(held_out.means(scores), options.tolerance) {
            return Some(format!("at {dim} dimensions the mean falls {fall}"));
        }
    }
    for (kind, KindReport { kind: name, queries, before, after }) in held_out.by_kind() {
        let counts = kind.is_asked() && queries >= options.least_of_kind;
        if let Some(fall) = fallen([before, after], options.tolerance).filter(|_| counts) {
            return Some(format!(
                "documents are found less well by {name}: ndcg@10 on {queries} of them falls {fall}"
            ));
        }
    }
    if ci95[0] <= 0.0 {
        return Some("the gain is not certain: its lower bound is not above zero".into());
    }
    if held_out.evidence.is_some_and(|evidence| evidence < choice::CERTAIN) {
        return Some(
            "the gain is not certain: its order explains the clicks hardly better than chance would".into(),
        );
    }
    let least = options.least_gain;
    (gain < least)
        .then(|| format!("the gain is certain but small: below {least} it is not worth a new generation"))
}

/// The weights, followed by ones.
fn endless(weights: &[f64]) -> impl Iterator<Item = f64> {
    weights.iter().copied().chain(std::iter::repeat(1.0))
}

/// 0 if there are no values.
fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    let (mut total, mut sum) = (0.0, 0.0);
    for (value, weight) in values.iter().zip(endless(weights)) {
        total += weight;
        sum += weight * value;
    }
    if values.is_empty() { 0.0 } else { sum / total }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    /// Scores before in 0..1, and after moved by `shift` with noise of ±0.2.
    fn scores(n: usize, shift: f64) -> Paired {
        let mut rng = Rng::new(9);
        let mut unit = || rng.below(1 << 20) as f64 / f64::from(1 << 20);
        let before: Vec<f64> = (0..n).map(|_| unit()).collect();
        let after = before.iter().map(|b| b + shift + 0.4 * (unit() - 0.5)).collect();
        Paired { before, after }
    }

    fn documents(documents: Paired) -> Guard {
        Guard { documents, ..Guard::default() }
    }

    fn held_out(rungs: Vec<(usize, Paired)>) -> HeldOut {
        HeldOut { rungs, ..HeldOut::default() }
    }

    /// Words gain much, titles lose a little, sentences lose much; in the mean all gain.
    #[test]
    fn a_kind_that_people_search_by_must_not_lose() {
        let of = |titles: usize, fall: f64| {
            let kinds: Vec<StructureKind> = [(StructureKind::Words, 200), (StructureKind::Title, titles)]
                .into_iter()
                .chain([(StructureKind::Sentence, 40)])
                .flat_map(|(kind, count)| std::iter::repeat_n(kind, count))
                .collect();
            let gain = |kind: &StructureKind| match kind {
                StructureKind::Words => 0.2,
                StructureKind::Title => -fall,
                _ => -0.1,
            };
            let before: Vec<f64> =
                kinds.iter().enumerate().map(|(n, _)| 0.3 + 0.001 * (n % 7) as f64).collect();
            let after = before.iter().zip(&kinds).map(|(before, kind)| before + gain(kind)).collect();
            let rungs = vec![(64, Paired { before, after })];
            let kinds = kinds.into_iter().map(Some).collect();
            decide(
                &HeldOut { rungs, kinds, ..HeldOut::default() },
                &Guard::default(),
                &GateOptions::default(),
            )
        };
        let refused = of(40, 0.02);
        assert!(!refused.publish && refused.gain > 0.1, "{}", refused.reason);
        assert!(refused.reason.starts_with("documents are found less well by titles: ndcg@10 on 40"));
        let kinds: Vec<_> =
            refused.by_kind.iter().map(|of| (of.kind, of.queries, of.after < of.before)).collect();
        assert_eq!(kinds, [("titles", 40, true), ("sentences", 40, true), ("words", 200, false)]);
        assert!(of(40, 0.004).publish, "within the tolerance");
        assert!(of(29, 0.02).publish, "too few to tell");
        assert!(of(40, 0.004).reason.contains("; 40 sentences 0.30"), "{}", of(40, 0.004).reason);
    }

    #[test]
    fn weights_count_a_query_as_often_as_they_say() {
        let paired = Paired { before: vec![0.2, 0.6], after: vec![0.5, 0.5] };
        let [before, after] = paired.means(&[3.0, 1.0]);
        assert!((before - 0.3).abs() < 1e-12 && (after - 0.5).abs() < 1e-12);
        assert_eq!(paired.means(&[]), [0.4, 0.5]);
        // Every second query gains, the others lose as much: the weights decide.
        let before = vec![0.5; 200];
        let after: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 0.7 } else { 0.3 }).collect();
        let verdict = |heavy: usize| {
            let weights = (0..200).map(|i| if i % 2 == heavy { 3.0 } else { 1.0 }).collect();
            let rungs = vec![(8, Paired { before: before.clone(), after: after.clone() })];
            decide(
                &HeldOut { weights, rungs, ..HeldOut::default() },
                &Guard::default(),
                &GateOptions::default(),
            )
        };
        assert!(verdict(0).publish && !verdict(1).publish);
        assert!((verdict(0).gain - 0.1).abs() < 1e-9 && (verdict(1).gain + 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_certain_gain_is_published_and_serialises_with_the_agreed_keys() {
        let rungs = vec![(64, scores(200, 0.1)), (384, scores(200, 0.05))];
        let report = decide(&held_out(rungs), &documents(scores(50, 0.05)), &GateOptions::default());
        assert!(report.publish, "{}", report.reason);
        assert!((report.gain - (report.after - report.before)).abs() < 1e-12 && report.ci95[0] > 0.0);
        let json = serde_json::to_value(&report).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys[..6], ["metric", "before", "after", "gain", "ci95", "by_dim"]);
        assert_eq!(keys[6..], ["ci95_by_dim", "queries", "guard", "queries_wanted", "reason"]);
        assert_eq!(report.ci95_by_dim["384"], report.ci95);
        assert!(report.ci95_by_dim["64"][0] > 0.05 && report.ci95_by_dim["64"][1] < 0.15);
        assert_eq!(json["by_dim"].as_object().unwrap().len(), 2);
        assert_eq!(json["by_dim"]["384"][1], report.after);
    }

    #[test]
    fn what_would_do_is_told_and_enough_when_it_is_there() {
        let few = decide(&held_out(vec![(8, scores(20, 0.03))]), &Guard::default(), &GateOptions::default());
        let wanted = few.queries_wanted.unwrap();
        assert!(!few.publish && few.reason.contains(&format!("about {wanted} queries")), "{}", few.reason);
        assert!((25..400).contains(&wanted), "{wanted}");
        let paired = scores(20, 0.03);
        let many =
            |values: &[f64]| values.iter().cycle().take(wanted.next_multiple_of(20)).copied().collect();
        let paired = Paired { before: many(&paired.before), after: many(&paired.after) };
        assert!(decide(&held_out(vec![(8, paired)]), &Guard::default(), &GateOptions::default()).publish);
    }

    #[test]
    fn parts_of_a_cross_validation_add_up() {
        let mut all = HeldOut::default();
        for part in [scores(30, 0.1), scores(20, 0.0)] {
            let weights = vec![1.0; part.before.len()];
            let rungs = vec![(4, part.clone()), (8, part)];
            all.append(HeldOut { weights, rungs, ..HeldOut::default() });
        }
        assert_eq!((all.weights.len(), all.rungs.len(), all.rungs[1].1.after.len()), (50, 2, 50));
        assert_eq!(all.rungs[0].1.after[30..], scores(20, 0.0).after);
    }

    #[test]
    fn pairs_with_scores_are_judged_by_rank_correlation() {
        let mut rng = Rng::new(3);
        let mut unit = || rng.below(1 << 20) as f64 / f64::from(1 << 20);
        let scores: Vec<f64> = (0..300).map(|_| unit()).collect();
        let before: Vec<f64> = scores.iter().map(|score| score + 2.0 * unit()).collect();
        let after: Vec<f64> = scores.iter().map(|score| score + 0.5 * unit()).collect();
        let judged = |after: &[f64]| {
            let paired = Paired { before: before.clone(), after: after.to_vec() };
            let held_out =
                HeldOut { rungs: vec![(8, paired)], scores: Some(scores.clone()), ..HeldOut::default() };
            decide(&held_out, &Guard::default(), &GateOptions::default())
        };
        let report = judged(&after);
        assert!(report.publish && report.metric == "spearman", "{}", report.reason);
        assert!(report.ci95[0] < report.gain && report.gain < report.ci95[1] && report.after > 0.8);
        assert!(!judged(&before).publish);
    }

    #[test]
    fn each_rule_refuses_alone_and_says_so() {
        let good = scores(200, 0.05);
        let none = Guard::default();
        let unchanged = Paired { before: good.before.clone(), after: good.before.clone() };
        let small =
            Paired { before: good.before.clone(), after: good.before.iter().map(|b| b + 0.004).collect() };
        for (rungs, guard, needle) in [
            (vec![(384, scores(200, 0.0))], &none, "lower bound"),
            (vec![(384, unchanged)], &none, "lower bound"),
            (vec![(384, small)], &none, "certain but small"),
            (vec![(64, scores(200, -0.05)), (384, good.clone())], &none, "at 64 dimensions"),
            (vec![(384, good.clone())], &documents(scores(50, -0.05)), "by their own words"),
            (vec![(384, Paired::default())], &none, "nothing to judge by"),
            (vec![], &none, "nothing to judge by"),
            (vec![(384, Paired { before: vec![0.5; 9], after: vec![f64::NAN; 9] })], &none, "not finite"),
        ] {
            let report = decide(&held_out(rungs), guard, &GateOptions::default());
            assert!(!report.publish && report.reason.contains(needle), "{needle}: {}", report.reason);
        }
    }
}

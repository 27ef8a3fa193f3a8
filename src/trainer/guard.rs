//! The guard set: what must not get worse while something else gets better.
//!
//! - *Documents*, each to be found by a passage of its own. Nobody clicked there: what clicks at random teach is
//!   forgetting, and this is where it shows even if the held-out clicks are as random. The mean must not fall by more than
//!   a tolerance.
//! - *Older queries*, where the newest judge: a candidate that learnt what people ask lately and lost what they asked before
//!   is not better. They are a random few of those before the border, and are not trained on. As so few tell a mean within
//!   ±.02 at best, only a certain loss counts: that the whole 95 % interval of the difference lies below zero.

use serde::Serialize;

use super::gate::{GateOptions, HeldOut, Paired};

/// What guards, with its scores by both generations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Guard {
    /// NDCG@10 at the full dimension of each document that is to be found by a passage of its own; may be empty.
    pub documents: Paired,
    /// Older queries; may be empty.
    pub older: HeldOut,
}

/// What the guard set says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GuardReport {
    /// Documents searched for by words of their own.
    pub documents: usize,
    /// Mean NDCG@10 of the current generation.
    pub before: f64,
    /// Mean NDCG@10 of the candidate.
    pub after: f64,
    /// What older queries say, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<OlderReport>,
}

/// What older queries say, at the full dimension.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OlderReport {
    /// How many they are.
    pub queries: usize,
    /// Mean NDCG@10 of the current generation.
    pub before: f64,
    /// Mean NDCG@10 of the candidate.
    pub after: f64,
    /// 95 % interval of the gain.
    pub ci95: [f64; 2],
}

impl Guard {
    /// What it says; nothing if it is empty.
    pub fn report(&self, options: &GateOptions) -> Option<GuardReport> {
        let [before, after] = self.documents.means(&[]);
        let documents = self.documents.before.len();
        let older = self.older_report(options);
        (documents > 0 || older.is_some()).then_some(GuardReport { documents, before, after, older })
    }

    fn older_report(&self, options: &GateOptions) -> Option<OlderReport> {
        let older = self.older.settled();
        let (_, full) = older.rungs.last().filter(|(_, full)| !full.before.is_empty())?;
        let [before, after] = older.means(full);
        Some(OlderReport { queries: full.before.len(), before, after, ci95: older.interval(full, options) })
    }
}

impl GuardReport {
    /// What it has against a candidate.
    pub(super) fn objection(&self, options: &GateOptions) -> Option<String> {
        let Self { documents, before, after, older } = *self;
        if before - after > options.guard_tolerance {
            return Some(format!(
                "documents are found less well by their own words: ndcg@10 on {documents} of them falls from {before:.4} to \
                 {after:.4}, by more than {}",
                options.guard_tolerance
            ));
        }
        let older = older.filter(|older| older.ci95[1] < 0.0)?;
        Some(format!(
            "older queries are answered less well: on {} of them ndcg@10 falls from {:.4} to {:.4}, by {:.4} at least",
            older.queries, older.before, older.after, -older.ci95[1]
        ))
    }
}

/// Whether documents are still found by their own words, by the usual tolerance.
pub fn harmless(documents: &Paired) -> bool {
    let [before, after] = documents.means(&[]);
    before - after <= GateOptions::default().guard_tolerance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(after: f64, count: usize) -> Paired {
        // Every other query is a little off, so that there is an interval.
        let after = (0..count).map(|n| after + if n % 2 == 0 { 0.02 } else { -0.02 }).collect();
        Paired { before: vec![0.5; count], after }
    }

    fn guard(documents: f64, older: f64) -> Guard {
        let older = HeldOut { rungs: vec![(4, paired(older, 100))], ..HeldOut::default() };
        Guard { documents: paired(documents, 50), older }
    }

    #[test]
    fn only_what_got_worse_objects() {
        let options = GateOptions::default();
        let objection = |guard: Guard| guard.report(&options).unwrap().objection(&options);
        assert_eq!(objection(guard(0.5, 0.5)), None);
        assert_eq!(objection(guard(0.496, 0.4995)), None);
        assert!(objection(guard(0.49, 0.6)).unwrap().contains("own words"));
        assert!(objection(guard(0.6, 0.47)).unwrap().contains("older queries"));
        assert!(Guard::default().report(&options).is_none());
    }
}

//! A run of `retrain` as one page of HTML that needs nothing else: no network, no script, no other file.
//!
//! [`Page`] is all that is shown, [`Page::html`] the page. Queries, documents and reasons are shown as text whatever
//! they hold (`html`), and the page itself forbids the browser to load or run anything. It is the same for runs that
//! published and runs that did not; what there was nothing of is said rather than left out.
//!
//! | file | what it holds |
//! |---|---|
//! | `html` | escaping, and how figures are written |
//! | `chart` | curves, changes, intervals and bars as SVG |
//! | `sections` | the parts of the page |

mod chart;
mod html;
mod sections;
#[cfg(test)]
mod tests;

use html::Html;

use super::bias::PositionBias;
use super::fit::TrainReport;
use super::gate::GateReport;

/// Queries shown of those that gained, and of those that lost.
pub const MOST_ASKED: usize = 10;
/// Hits shown of each.
pub const HITS: usize = 10;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The gate passed it.
    Published,
    /// Published although the gate refused.
    Forced,
    /// Nothing was changed.
    Refused,
    /// Nothing was done: it was only to say what it would do.
    Planned,
}

/// A stage of a run with the time that it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// "encode", "train" …
    pub name: &'static str,
    /// Wall time.
    pub seconds: f64,
}

/// A hit of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Id of the document; nothing if it is not stored, but came with the data.
    pub id: Option<String>,
    /// How it begins.
    pub text: String,
    /// Whether it is what the query should find.
    pub wanted: bool,
}

/// A held-out query with what it finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its text.
    pub query: String,
    /// Score of the generation that answered before, at the full dimension.
    pub before: f64,
    /// Score of the candidate.
    pub after: f64,
    /// The nearest documents before and after, at most [`HITS`] each.
    pub hits: [Vec<Shown>; 2],
}

impl Asked {
    /// What the candidate gains.
    pub fn gain(&self) -> f64 {
        self.after - self.before
    }
}

/// Numbers of the queries that gained most and of those that lost most, at most [`MOST_ASKED`] each, by what each gained.
/// Those that stayed as they were are neither.
pub fn most_changed(gains: &[f64]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..gains.len()).collect();
    let gain = |number: usize| gains.get(number).copied().filter(|gain| gain.is_finite()).unwrap_or(0.0);
    numbers.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)));
    let gained = numbers.iter().copied().filter(|&n| gain(n) > 0.0).take(MOST_ASKED);
    let lost = numbers.iter().rev().copied().filter(|&n| gain(n) < 0.0).take(MOST_ASKED);
    gained.chain(lost).collect()
}

/// All that a report shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<'a> {
    /// What became of the run.
    pub outcome: Outcome,
    /// The database's path.
    pub database: String,
    /// When the run ended, in milliseconds since 1970.
    pub ended_ms: u64,
    /// The generation that answers now, and the one that answered before.
    pub generations: [u32; 2],
    /// Encoder of the generation that answers now.
    pub model_id: &'a str,
    /// Documents that were indexed anew.
    pub documents: u64,
    /// Training.
    pub train: &'a TrainReport,
    /// The verdict.
    pub gate: &'a GateReport,
    /// Queries that gained and lost most.
    pub asked: &'a [Asked],
    /// Position bias; none where no log was learnt from.
    pub bias: Option<&'a PositionBias>,
    /// The stages, in order.
    pub stages: &'a [Stage],
    /// The most memory that the process ever had, in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
    /// What else the user should know.
    pub notes: &'a [String],
}

impl Page<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let mut html = Html::default();
        html.raw(concat!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
            "<title>Retrain: ",
        ));
        html.text(self.outcome.name()).raw("</title>\n<style>\n");
        html.raw(include_str!("style.css")).raw("</style>\n</head>\n<body>\n<main>\n");
        html.add(self.head()).add(self.rungs()).add(self.training()).add(self.queries());
        html.add(self.position_bias()).add(self.spent()).add(self.remarks());
        html.raw("</main>\n</body>\n</html>\n");
        html.finish()
    }
}
